"""What does a private classifier reach without any distilled set? DP-SGD on random features, DP-SGD through Opacus.

They answer for themselves: each is an (epsilon, delta) mechanism of its own, and its classifier is what it releases.
Nothing is released here, so noise comes from a seed and results can be repeated.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ddkit.base.streams import Streams
from ddkit.data.real import RealData
from ddkit.errors import ConfigError
from ddkit.integrations.private.accounting import Accountant, calibrate, plan_epsilon
from ddkit.integrations.private.data import public_preprocessing, stand_in
from ddkit.integrations.private.gradients import require_separate_gradients
from ddkit.integrations.private.host import PrivacyEngine
from ddkit.integrations.private.independent import Queries
from ddkit.models.spec import ModelSpec
from ddkit.networks.network import Network
from ddkit.training.accuracy import accuracy


@dataclass(frozen=True)
class PrivateClassifier:
    """A classifier that was trained privately.

    Args:
        accuracy: on the test set, in [0, 1].
        epsilon: spent.
        delta: of the guarantee.
        sigma: noise multiplier.
        steps: of DP-SGD.
    """

    accuracy: float
    epsilon: float
    delta: float
    sigma: float
    steps: int


class RandomConvolution(nn.Module):
    """One layer of public random filters: convolution, absolute value, average pooling, unit norm.

    Args:
        shape: (C, H, W) of the images.
        filters: number of filters.
        side: of the filters, odd.
        cells: pooled cells per side; 7 of 28 pixels and 32 filters give 1568 features.
        seed: of the filters, public.
    """

    weight: Tensor

    def __init__(self, shape: tuple[int, int, int], filters: int, side: int, cells: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(filters, shape[0], side, side, generator=generator)
        self.register_buffer("weight", weight - weight.mean((1, 2, 3), keepdim=True))
        self.cells = cells

    def forward(self, images: Tensor) -> Tensor:
        """Return (n, filters * cells^2 + 1), of norm 1 and with a constant."""
        maps = F.conv2d(images, self.weight, padding=self.weight.shape[-1] // 2).abs()
        rows = F.adaptive_avg_pool2d(maps, self.cells).flatten(1)
        rows = rows - rows.mean(1, keepdim=True)
        rows = F.normalize(rows)
        return torch.cat([rows, torch.full((len(rows), 1), 0.1)], dim=1)


def dp_sgd_linear(
    train: RealData,
    test: RealData,
    epsilon: float,
    delta: float,
    *,
    filters: int = 32,
    side: int = 5,
    cells: int | None = None,
    steps: int = 600,
    batch: int = 1024,
    lr: float = 4.0,
    accountant: Accountant = "prv",
    seed: int = 0,
) -> PrivateClassifier:
    r"""Train a softmax layer on public random features by DP-SGD (after Tramer and Boneh 2021, arXiv 2011.11660).

    The gradient of a record is :math:`(p - y) \phi^\top`, of norm :math:`\|p - y\| \|\phi\|`, so clipping needs no
    per-sample gradients. Features have norm about 1, so the bound is 1. The result is the average of the last half of
    the iterates, which is post-processing.

    Args:
        train: private records.
        test: for the accuracy alone.
        epsilon: of the whole training.
        delta: likewise.
        filters: random filters.
        side: of a filter.
        cells: pooled cells per side; None for a quarter of the image side, at least 4.
        steps: of DP-SGD.
        batch: expected size of a Poisson sample, at most half of the records.
        lr: learning rate.
        accountant: ``prv`` or ``rdp``.
        seed: of filters, samples and noise.
    """
    normalised = public_preprocessing(train.shape[0], (0.5, 0.5))
    cells = max(4, min(train.shape[1:]) // 4) if cells is None else cells
    streams = Streams(seed)
    layer = RandomConvolution(train.shape, filters, side, cells, streams.integer("filters"))
    seen, judged = (_all(layer, part.with_preprocessing(normalised)) for part in (train, test))
    rate = min(batch, len(train) // 2) / len(train)
    sigma = calibrate(epsilon, delta, rate, steps, accountant)
    weight = torch.zeros(train.num_classes, seen.shape[1])
    average, velocity = torch.zeros_like(weight), torch.zeros_like(weight)
    targets = F.one_hot(train.labels, train.num_classes).float()
    for step in range(steps):
        index = (torch.rand(len(train), generator=streams("samples")) < rate).nonzero().flatten()
        features = seen[index]
        errors = F.softmax(features @ weight.T, dim=1) - targets[index]
        norms = errors.norm(dim=1, keepdim=True) * features.norm(dim=1, keepdim=True)
        total = (errors / norms.clamp(min=1.0)).T @ features
        total = total + sigma * torch.randn(total.shape, generator=streams("noise"))
        velocity = 0.9 * velocity + total / (rate * len(train))
        weight = weight - 0.1 * lr * velocity
        if step >= steps // 2:
            average += weight / (steps - steps // 2)
    right = (judged @ average.T).argmax(1) == test.labels
    spent = plan_epsilon([Queries(sigma, rate, steps)], delta, accountant)
    return PrivateClassifier(float(right.float().mean()), spent, delta, sigma, steps)


def dp_sgd_network(
    train: RealData,
    test: RealData,
    epsilon: float,
    delta: float,
    *,
    model: str = "convnet:width=16",
    epochs: int = 10,
    batch: int = 512,
    lr: float = 0.5,
    max_grad_norm: float = 1.0,
    accountant: Accountant = "prv",
    seed: int = 0,
) -> PrivateClassifier:
    """Train a network by DP-SGD with Opacus's ``PrivacyEngine`` (Abadi et al. 2016).

    Args:
        train: private records.
        test: for the accuracy alone.
        epsilon: of the whole training.
        delta: likewise.
        model: architecture without batch norm.
        epochs: expected passes over the records.
        batch: expected size of a Poisson sample, at most a quarter of the records.
        lr: learning rate of SGD with momentum 0.9.
        max_grad_norm: bound of the gradient of a record.
        accountant: ``prv`` or ``rdp``.
        seed: of weights, samples and noise.

    Raises:
        ConfigError: a model that mixes records.
    """
    normalised = public_preprocessing(train.shape[0], (0.5, 0.5))
    records, judged = train.with_preprocessing(normalised), test.with_preprocessing(normalised)
    streams = Streams(seed)
    spec, public = ModelSpec.parse(model), stand_in(train, normalised)
    module = spec.build(train.shape, train.num_classes, streams.integer("weights"))
    tried = Network(spec, train.shape, train.num_classes)
    tried.module.load_state_dict(module.state_dict())
    require_separate_gradients(tried, public)
    size = min(batch, math.ceil(len(train) / 4))
    data = TensorDataset(records.batch(torch.arange(len(records))), records.labels)
    loader = DataLoader(data, batch_size=size, generator=streams("samples"))
    rate, steps = 1 / len(loader), epochs * len(loader)
    sigma = calibrate(epsilon, delta, rate, steps, accountant)
    optimiser = torch.optim.SGD(module.parameters(), lr=lr, momentum=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the noise is not cryptographic: nothing is released
        engine = PrivacyEngine(accountant=accountant)
        wrapped, optimiser, loader = engine.make_private(
            module=module,
            optimizer=optimiser,
            data_loader=loader,
            noise_multiplier=sigma,
            max_grad_norm=max_grad_norm,
            noise_generator=streams("noise"),
        )
        for _ in range(epochs):
            for images, labels in loader:
                optimiser.zero_grad()
                F.cross_entropy(wrapped(images), labels).backward()  # of an empty sample: noise alone, and counted
                optimiser.step()
    counted = [Queries(*entry) for entry in engine.accountant.history]
    spent = plan_epsilon(counted, delta, accountant)
    if not spent <= epsilon * 1.01:
        raise ConfigError(f"DP-SGD spent epsilon={spent:.3f} where {epsilon:g} was planned")
    tried.module.load_state_dict(module.state_dict())
    require_separate_gradients(tried, public, number=1)
    module.eval()
    return PrivateClassifier(accuracy(module, judged), spent, delta, sigma, steps)


def _all(layer: nn.Module, data: RealData) -> Tensor:
    with torch.no_grad():
        return torch.cat([layer(data.batch(part)) for part in torch.arange(len(data)).split(1024)])
