"""The discrepancy under Gaussian kernels against double loops and closed forms, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit import Distiller
from ddkit.errors import ConfigError
from ddkit.networks import FixedNetworks, Signal
from ddkit.objectives import DiscrepancyMatching
from ddkit.objectives.discrepancy import discrepancy
from ddkit.testing import toy_data
from tests.engine.runs import SMALL

from .conftest import gradient_of

STRATEGY = "color_crop_cutout_flip_scale_rotate"


def points(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)).double()


def written_out(real: Tensor, synthetic: Tensor) -> Tensor:
    """Every pair on its own."""
    both = torch.cat([real, synthetic])
    count = len(both)
    width = sum((a - b).square().sum() for a in both for b in both).detach() / (count**2 - count)

    def mean(first: Tensor, second: Tensor) -> Tensor:
        values = [
            sum(torch.exp(-(a - b).square().sum() / (2.0**q * width)) for q in (-2, -1, 0, 1, 2))
            for a in first
            for b in second
        ]
        return torch.stack(values).mean()

    return mean(real, real) - 2 * mean(real, synthetic) + mean(synthetic, synthetic)


def test_value_and_gradient_equal_the_double_loop() -> None:
    real, synthetic = points(6), points(4, seed=1).requires_grad_()
    value, expected = discrepancy(real, synthetic), written_out(real, synthetic)
    assert value.item() == pytest.approx(expected.item(), rel=1e-13)
    (gradient,), (wanted,) = (torch.autograd.grad(one, synthetic) for one in (value, expected))
    torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("distance", [0.01, 1.0, 300.0])
def test_one_point_each_is_as_far_whatever_the_distance(distance: float) -> None:
    synthetic = torch.full((1, 1), distance, dtype=torch.float64, requires_grad=True)
    value = discrepancy(torch.zeros(1, 1).double(), synthetic)
    expected = 10 - 2 * sum(math.exp(-(2.0**-q)) for q in range(-2, 3))
    assert value.item() == pytest.approx(expected, rel=1e-12) and round(expected, 4) == 6.1863
    slope = 4 * sum(2.0**-q * math.exp(-(2.0**-q)) for q in range(-2, 3)) / distance
    assert torch.autograd.grad(value, synthetic)[0].item() == pytest.approx(slope, rel=1e-10)
    assert round(slope * distance, 4) == 4.8391


def test_equal_sets_have_no_discrepancy_however_often_they_repeat() -> None:
    assert abs(discrepancy(points(5), points(5)).item()) < 1e-14
    assert abs(discrepancy(points(5), points(5).repeat(3, 1)).item()) < 1e-14


def test_scale_and_place_of_the_features_say_nothing() -> None:
    real, synthetic = points(6), points(4, seed=1)
    value = discrepancy(real, synthetic).item()
    assert discrepancy(9 * real, 9 * synthetic).item() == pytest.approx(value, rel=1e-13)
    assert discrepancy(real + 40, synthetic + 40).item() == pytest.approx(value, rel=1e-12)


def test_sets_of_equal_means_differ() -> None:
    real = points(6)
    assert discrepancy(real, real.mean(0, keepdim=True)).item() > 0.5


def test_features_that_are_all_equal_have_neither_loss_nor_gradient() -> None:
    synthetic = torch.ones(2, 3).double().requires_grad_()
    value = discrepancy(torch.ones(4, 3).double(), synthetic)
    assert abs(value.item()) < 1e-15 and not torch.autograd.grad(value, synthetic)[0].any()


def looped(objective: Any, synthesizer: Any, data: Any) -> tuple[float, Tensor]:
    context = objective.context
    context.streams.load_state_dict({})
    module = context.networks.current().module
    draws = context.augmentation.draw(data.num_classes, context.streams("augmentation"))
    images, labels = data.sample(range(data.num_classes), objective.real_batch, context.streams("real"))
    images = context.augmentation.apply(images, draws, labels).double()
    pixels = synthesizer.images.detach().clone().requires_grad_()
    total = torch.zeros(())
    for c in range(data.num_classes):
        own = pixels[synthesizer.classes == c]
        own = context.augmentation.apply(own, draws.select([c]), torch.zeros(len(own), dtype=torch.int64))
        total = total + written_out(module.features(images[labels == c]).detach(), module.features(own))
    return total.item(), torch.autograd.grad(total, pixels)[0]


@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_loss_and_gradient_equal_the_loop_over_classes(bench, chunk, monkeypatch) -> None:
    import ddkit.networks.real_signal as signal

    monkeypatch.setattr(signal, "REAL_CHUNK", 4)
    objective, pixels, data = bench(DiscrepancyMatching(real_batch=6, class_chunk=chunk), ipc=3, strategy=STRATEGY)
    loss, gradient = gradient_of(objective, pixels)
    expected_loss, expected = looped(objective, pixels, data)
    assert loss == pytest.approx(expected_loss, rel=1e-10)
    torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-11)


def test_cross_entropy_and_pairs_are_those_of_distribution_matching(bench) -> None:
    results = []
    for options in ({}, {"pair_weight": 1.0}, {"pair_weight": 0.3, "ce_weight": 0.7}):
        objective, pixels, data = bench(DiscrepancyMatching(real_batch=5, **options))
        pixels.initialise(data, "real", torch.Generator().manual_seed(1))
        with torch.no_grad():
            pixels.images.mul_(0.5)
        results.append(gradient_of(objective, pixels)[0])
    entropy = 0.7 * F.cross_entropy(objective.context.network.module(pixels.images), pixels.classes)
    assert results[2] == pytest.approx(0.7 * results[0] + 0.3 * results[1] + entropy.item(), rel=1e-9)


def test_signals_that_do_not_show_every_image_are_refused(bench) -> None:
    objective, pixels, _ = bench(DiscrepancyMatching(real_batch=5), source=FixedNetworks())
    withheld = type("Withheld", (type(objective.context.signal),), {"features": Signal.features})
    objective.context.signal = withheld()
    with pytest.raises(ConfigError, match="signal Withheld does not tell 'features'"):
        objective.setup(objective.context, pixels)
    cached = {"signal": "cached", "networks": "fixed", "objective": "discrepancy"}
    with pytest.raises(ConfigError, match=r"signal CachedSignal does not tell 'features'.*signal=real"):
        Distiller("dm", 1, **{**SMALL, **cached}).fit(toy_data())
    with pytest.raises(ConfigError, match=r"objective\.real_batch=0"):
        DiscrepancyMatching(real_batch=0)
