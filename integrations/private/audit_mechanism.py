"""Does the program add the noise it claims? Canaries: one crafted record, in or out, over many releases."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ddkit import augment
from ddkit.base.streams import Streams, derive_seed
from ddkit.data.real import RealData
from ddkit.integrations.private.audit_bounds import canary_bound
from ddkit.integrations.private.budget import PrivacyBudget
from ddkit.integrations.private.data import PrivateData, public_preprocessing
from ddkit.integrations.private.independent import Queries
from ddkit.integrations.private.mutants import WALLS, FreshNoise, Mutant, Silence
from ddkit.integrations.private.noise import NoiseSource, SeededNoise
from ddkit.integrations.private.signals import OneShotMeans
from ddkit.models.spec import ModelSpec
from ddkit.networks.fixed import FixedNetworks
from ddkit.networks.network import Network

#: Ordinary records beside the canary, in two classes.
_RECORDS = 12
#: Constants under which the canary is far brighter than public images, so that only the clip bounds it.
_NORMALISATION = (0.5, 0.1)
#: How often the attacker looks at the answers of one release.
_READS = 16
_UNLIMITED = 1e9

Look = Callable[[bool, NoiseSource], Tensor]


def audit_release(sigma: float, delta: float, trials: int, seed: int = 0, mutant: Mutant = "none") -> float:
    """Return a lower bound on epsilon of the one-shot release, from the very signal that ``dp-dm`` uses.

    Args:
        sigma: noise over sensitivity.
        delta: of the claim.
        trials: releases with, and as many without, the canary.
        seed: of the noise; audits are repeatable, as what they release is nobody's data.
        mutant: a mistake to make.

    Raises:
        ConfigError: fewer than 20 trials.
    """
    kind = FreshNoise if mutant == "fresh-noise" else OneShotMeans
    reads = _READS if mutant == "fresh-noise" else 1  # of a stored answer, one look is as good as many
    pool, augmentation, streams, classes = _pool(), augment.create("none"), Streams(0), torch.arange(2)
    draws = augmentation.draw(2, streams("augmentation"))
    canary = _brightest(pool)
    signals = {}
    for present in (True, False):
        signal = kind(_wall(canary if present else None, Queries(sigma, 1.0, 1), delta, mutant), sigma)
        signal.setup(signal.private.public, streams, augmentation, 1)
        signal.connect(pool)
        centres = signal._centres()
        signal._centres = lambda centres=centres: centres  # type: ignore[method-assign,misc]
        signals[present] = signal

    def look(present: bool, noise: NoiseSource) -> Tensor:
        signal = signals[present]
        signal._means = None
        _renew(signal.private, noise)
        answers = [signal.feature_means(pool.network, classes, draws).double() for _ in range(reads)]
        return torch.stack(answers).mean(0)

    return _bound(look, trials, delta, seed, gaussian=True)


def audit_queries(
    sigma: float, rate: float, steps: int, delta: float, trials: int, seed: int = 0, mutant: Mutant = "none"
) -> float:
    """Return a lower bound on epsilon of sampled queries: the sum of their answers, projected on the canary's row.

    Args:
        sigma: noise over sensitivity.
        rate: of the Poisson samples.
        steps: queries per run.
        delta: of the claim; the bound sees no event that is rarer than one in ``trials``, so choose a large one.
        trials: runs with, and as many without, the canary.
        seed: of noise and samples.
        mutant: a mistake to make.

    Raises:
        ConfigError: fewer than 20 trials.
    """
    canary = torch.tensor([[[255, 0], [255, 0]]], dtype=torch.uint8)
    walls = {
        present: _wall(canary if present else None, Queries(sigma, rate, steps), delta, mutant)
        for present in (True, False)
    }

    def look(present: bool, noise: NoiseSource) -> Tensor:
        wall = walls[present]
        _renew(wall, noise)
        answers = [
            wall.noisy_sum(lambda images, _: images.flatten(1), clip=1.0, sigma=sigma, rate=rate) for _ in range(steps)
        ]
        return torch.stack(answers).sum(0)

    return _bound(look, trials, delta, seed, gaussian=False)


def _bound(look: Look, trials: int, delta: float, seed: int, *, gaussian: bool) -> float:
    """Score noisy looks by the direction in which the canary moves a noiseless one."""
    silent = look(False, Silence())
    direction = look(True, Silence()) - silent
    scores = {
        present: [
            float(((look(present, SeededNoise(derive_seed(seed, str(present), trial))) - silent) * direction).sum())
            for trial in range(trials)
        ]
        for present in (True, False)
    }
    return canary_bound(scores[True], scores[False], delta, gaussian=gaussian)


def _pool() -> FixedNetworks:
    """Return one small random network."""
    pool = FixedNetworks(1)
    pool.network, pool.streams = Network(ModelSpec.parse("mlp:width=8"), (1, 2, 2), 2), Streams(0)
    pool.seeds, pool._held = [0], None
    pool.select(0)
    return pool


def _brightest(pool: FixedNetworks) -> Tensor:
    """Return the black-and-white image (1, 2, 2) whose features are farthest from grey."""
    bits = torch.arange(16)[:, None] // 2 ** torch.arange(4) % 2
    images = (255 * bits).to(torch.uint8).view(16, 1, 2, 2)
    prepared = public_preprocessing(1, _NORMALISATION).apply(images)
    with torch.no_grad():
        return images[int(pool.network.features(prepared).norm(dim=1).argmax())]


def _wall(canary: Tensor | None, queries: Queries, delta: float, mutant: Mutant) -> PrivateData:
    """Put grey records in two classes, and the canary, behind a wall."""
    images = torch.full((_RECORDS, 1, 2, 2), 128, dtype=torch.uint8)
    if canary is not None:
        images = torch.cat([images, canary[None]])
    constants = public_preprocessing(1, _NORMALISATION)
    real = RealData.from_tensors(images, torch.arange(len(images)) % 2, num_classes=2, preprocessing=constants)
    wall = WALLS.get(mutant, PrivateData)
    plan = PrivacyBudget(_UNLIMITED, delta, "rdp").plan(queries)
    return wall(real, plan, normalisation=_NORMALISATION, records=_RECORDS)


def _renew(private: PrivateData, noise: NoiseSource) -> None:
    """Let an audited wall answer once more, with other noise; its records are nobody's."""
    private._noise = noise
    private.plan._made = 0
