"""What does a generator reach that is fitted to noisy means of random Fourier features (DP-MERF)?"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.base.streams import Streams
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.integrations.private.accounting import Accountant
from ddkit.integrations.private.arguments import require_whole
from ddkit.integrations.private.budget import PrivacyBudget
from ddkit.integrations.private.data import PrivateData
from ddkit.integrations.private.independent import Queries
from ddkit.integrations.private.noise import SystemNoise
from ddkit.integrations.private.report import make_report
from ddkit.models.spec import seeded


class _Generator(nn.Module):
    """Makes an image of a class from a code."""

    def __init__(self, codes: int, classes: int, shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.shape, self.classes, self.codes = shape, classes, codes
        self.layers = nn.Sequential(
            nn.Linear(codes + classes, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, math.prod(shape)),
            nn.Tanh(),
        )

    def forward(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return images (n, C, H, W) in [-1, 1] for labels (n,)."""
        codes = torch.randn(len(labels), self.codes, generator=generator)
        one_hot = F.one_hot(labels, self.classes).to(codes)
        images: Tensor = self.layers(torch.cat([codes, one_hot], dim=1)).view(-1, *self.shape)
        return images


def dp_merf(
    real: RealData,
    epsilon: float,
    delta: float,
    *,
    per_class: int = 100,
    features: int = 2000,
    length_scale: float | None = None,
    steps: int = 600,
    batch: int = 200,
    accountant: Accountant = "prv",
    seed: int = 0,
) -> DistilledDataset:
    r"""Fit a generator to noisy class means of random Fourier features and sample from it (Harder et al. 2021).

    .. math:: \phi(x) = \sqrt{2/D}\, [\cos(\omega_j^\top x), \sin(\omega_j^\top x)]_{j \le D/2}

    has norm 1, so one release of all class sums has sensitivity 1 under adding or removing a record.

    Args:
        real: private records.
        epsilon: of the release.
        delta: likewise.
        per_class: samples of the generator per class.
        features: D.
        length_scale: of the Gaussian kernel; None for the square root of the number of pixels over two.
        steps: of Adam on the generator.
        batch: generated images per step, at least one of every class.
        accountant: ``prv`` or ``rdp``.
        seed: of features and generator; the privacy noise is the operating system's.

    Returns:
        ``per_class`` generated images of every class.

    Raises:
        ConfigError: numbers out of their range, or an epsilon that no noise reaches; nothing was asked.
    """
    require_whole(per_class=per_class, steps=steps)
    require_whole(2, features=features)
    require_whole(real.num_classes, batch=batch)
    budget = PrivacyBudget(epsilon, delta, accountant)
    sigma = budget.calibrate(1.0, 1, epsilon)
    private = PrivateData(real, budget.plan(Queries(sigma, 1.0, 1)), noise=SystemNoise())
    streams, classes = Streams(seed), real.num_classes
    pixels = math.prod(real.shape)
    scale = math.sqrt(pixels) / 2 if length_scale is None else length_scale
    directions = torch.randn(pixels, features // 2, generator=streams("features")) / scale

    def embed(images: Tensor) -> Tensor:
        angles = images.flatten(1) @ directions
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1) * (2 / features) ** 0.5

    sums, _ = private.noisy_class_sums(lambda images, _: embed(images), clip=1.0, sigma=sigma)
    wanted = (sums / private.class_counts[:, None]).float()
    with seeded(streams.integer("weights")):
        maker = _Generator(10, classes, real.shape, 256)
    optimiser = torch.optim.Adam(maker.parameters(), lr=2e-3)
    labels = torch.arange(batch) % classes
    share = F.one_hot(labels, classes).float()
    share = share / share.sum(0)
    for _ in range(steps):
        means = share.T @ embed(maker(labels, streams("codes")))
        loss = (means - wanted).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    shown = torch.arange(classes).repeat_interleave(per_class)
    with torch.no_grad():
        images = maker(shown, streams("samples"))
    private.plan.close()
    report = make_report(
        spent=budget.ledger,
        ledger=budget.ledger,
        delta=delta,
        budget_epsilon=epsilon,
        accountant=budget.accountant,
        private=private.noise.secret,
        method="dp-merf",
        mechanism="one-shot noisy class means of random Fourier features",
        max_norm=1.0,
        public=(f"N = {private.records}", "class sizes, assumed equal", "image shape, classes and all settings"),
        post_processing=("training and sampling of the generator",),
        rng=private.noise.describe(),
    )
    metadata: dict[str, Any] = {"method": "dp-merf", "privacy": report.as_dict()}
    return DistilledDataset(
        images, shown, class_names=real.class_names, preprocessing=private.public.preprocessing, metadata=metadata
    )
