"""Characteristic functions against complex arithmetic, closed forms and finite differences, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit import Distiller
from ddkit.errors import ConfigError
from ddkit.networks import Signal, TrainedPool
from ddkit.networks.fourier import Frequencies, unit
from ddkit.objectives import CharacteristicMatching, DistributionMatching
from ddkit.objectives.characteristic import FLOOR, characteristic_distance, characteristic_terms
from ddkit.testing import toy_data
from tests.engine.runs import SMALL

from .conftest import central_difference, gradient_of

STRATEGY = "color_crop_cutout_flip_scale_rotate"
SMOOTH = "convnet:width=4,depth=2,activation=swish"


def points(count: int, size: int = 6, seed: int = 0) -> Tensor:
    return unit(torch.randn(count, size, generator=torch.Generator().manual_seed(seed)).double())


def mean_waves(features: Tensor, frequencies: Frequencies) -> Tensor:
    return frequencies(features).mean(0, keepdim=True)


def as_complex(waves: Tensor) -> Tensor:
    return torch.complex(*waves.unflatten(-1, (2, -1)).unbind(-2))


def at(frequencies: Tensor) -> Frequencies:
    """Frequencies (D, m) that were not drawn."""
    made = Frequencies(frequencies.shape[1], 0)
    made._drawn = frequencies
    return made


def test_amplitude_and_phase_add_up_to_the_squared_distance() -> None:
    frequencies = Frequencies(500, 1)
    real, synthetic = mean_waves(points(9), frequencies), mean_waves(points(4, seed=1), frequencies)
    amplitude, phase = characteristic_terms(real, synthetic)
    a, b = as_complex(real), as_complex(synthetic)
    assert (amplitude + phase - (a - b).abs().square()).abs().max() < 1e-15
    assert (amplitude - (a.abs() - b.abs()).square()).abs().max() < 1e-15
    half = characteristic_distance(real, synthetic, 0.5)
    assert abs(half.item() - (a - b).abs().mean().item() / math.sqrt(2)) < 1e-15


def test_hand_case() -> None:
    """D = 1, t = 1, real points 0 and pi, a synthetic one at pi / 2: 0 and i."""
    one = at(torch.ones(1, 1).double())
    real = mean_waves(torch.tensor([[0.0], [math.pi]], dtype=torch.float64), one)
    synthetic = mean_waves(torch.tensor([[math.pi / 2]], dtype=torch.float64), one)
    amplitude, phase = characteristic_terms(real, synthetic)
    assert amplitude.item() == pytest.approx(1, abs=1e-15) and phase.item() == pytest.approx(0, abs=1e-15)
    assert characteristic_distance(real, synthetic, 0.3).item() == pytest.approx(math.sqrt(0.3), abs=1e-11)


def test_opposite_frequencies_agree_to_the_bit() -> None:
    drawn = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)).double()
    values = [
        characteristic_distance(mean_waves(points(9), at(t)), mean_waves(points(4, seed=1), at(t)), 0.3)
        for t in (drawn, -drawn)
    ]
    assert torch.equal(*values)


def test_identical_sets_are_at_the_floor_with_a_finite_gradient() -> None:
    frequencies, own = Frequencies(64, 0), points(5).requires_grad_()
    value = characteristic_distance(mean_waves(points(5), frequencies), mean_waves(own, frequencies), 0.5)
    assert value.item() == pytest.approx(math.sqrt(0.5 * FLOOR), rel=1e-6)
    assert torch.autograd.grad(value.sum(), own)[0].abs().max() < 1e-8


def test_squared_distance_over_frequencies_is_the_discrepancy_under_a_gaussian_kernel() -> None:
    a, b, frequencies = points(1), points(1, seed=3), Frequencies(100_000, 5)
    terms = characteristic_terms(mean_waves(a, frequencies), mean_waves(b, frequencies))
    squared = (terms[0] + terms[1])[0]
    expected = 2 - 2 * math.exp(-(a - b).square().sum().item() / 2)
    assert abs(squared.mean().item() - expected) < 4 * squared.std().item() / math.sqrt(len(squared))


def test_more_frequencies_say_more() -> None:
    real, synthetic = points(30, 64), points(10, 64, seed=1)
    errors = []
    for count in (64, 1024):
        values = []
        for seed in range(100):
            frequencies = Frequencies(count, seed)
            values.append(sum(characteristic_terms(*(mean_waves(p, frequencies) for p in (real, synthetic)))).mean())
        errors.append((torch.stack(values).std() / torch.stack(values).mean()).item())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.4)


def looped(objective: Any, synthesizer: Any, data: Any) -> tuple[float, Tensor]:
    """The same step, class by class in complex numbers, from the same random streams."""
    context = objective.context
    context.streams.load_state_dict({})
    module = context.networks.current().module
    draws = context.augmentation.draw(data.num_classes, context.streams("augmentation"))
    images, labels = data.sample(range(data.num_classes), objective.real_batch, context.streams("real"))
    images = context.augmentation.apply(images, draws, labels).double()
    generator = torch.Generator().manual_seed(context.streams.integer("frequencies"))
    pixels = synthesizer.images.detach().clone().requires_grad_()
    total, t = torch.zeros(()), None
    for c in range(data.num_classes):
        own = pixels[synthesizer.classes == c]
        own = context.augmentation.apply(own, draws.select([c]), torch.zeros(len(own), dtype=torch.int64))
        phis = []
        for side in (images[labels == c], own):
            features = module.features(side)
            if t is None:
                t = torch.randn(features.shape[1], objective.frequencies, generator=generator).double()
            phis.append(torch.exp(1j * (features / features.norm(dim=1, keepdim=True) @ t)).mean(0))
        real, synthetic = phis[0].detach(), phis[1]
        amplitude = (real.abs() - synthetic.abs()).square()
        phase = 2 * (real.abs() * synthetic.abs() - (real * synthetic.conj()).real)
        total = total + (objective.alpha * amplitude + (1 - objective.alpha) * phase).sqrt().mean()
    return total.item(), torch.autograd.grad(total, pixels)[0]


@pytest.mark.parametrize("chunk", [None, 1, 2])
@pytest.mark.parametrize("strategy", ["none", STRATEGY])
def test_loss_and_gradient_equal_the_loop_over_classes(bench, chunk, strategy: str) -> None:
    objective, pixels, data = bench(
        CharacteristicMatching(20, alpha=0.3, real_batch=6, class_chunk=chunk), ipc=3, strategy=strategy
    )
    loss, gradient = gradient_of(objective, pixels)
    expected_loss, expected = looped(objective, pixels, data)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-12)


def test_gradient_equals_central_differences(bench) -> None:
    objective, pixels, _ = bench(CharacteristicMatching(16, real_batch=5), model=SMOOTH)
    _, gradient = gradient_of(objective, pixels)
    for index in [(0, 0, 1, 2), (2, 0, 4, 4), (5, 0, 7, 0)]:
        assert gradient[index].item() == pytest.approx(central_difference(objective, pixels, index, 1e-5), rel=1e-6)


def test_streamed_waves_equal_one_pass(bench, monkeypatch) -> None:
    import ddkit.networks.real_signal as signal

    objective, pixels, _ = bench(CharacteristicMatching(16, real_batch=6))
    whole = gradient_of(objective, pixels)
    monkeypatch.setattr(signal, "REAL_CHUNK", 4)
    streamed = gradient_of(objective, pixels)
    assert streamed[0] == pytest.approx(whole[0], rel=1e-12)
    torch.testing.assert_close(streamed[1], whole[1], rtol=1e-9, atol=1e-12)


def test_order_of_images_says_nothing_and_their_class_does(bench) -> None:
    objective, pixels, _ = bench(CharacteristicMatching(16, real_batch=99))
    loss, gradient = gradient_of(objective, pixels)
    order = torch.tensor([1, 0, 3, 2, 5, 4])
    with torch.no_grad():
        pixels.images.copy_(pixels.images[order].clone())
    again, permuted = gradient_of(objective, pixels)
    assert again == pytest.approx(loss, rel=1e-13)
    torch.testing.assert_close(permuted, gradient[order], rtol=1e-9, atol=1e-13)
    with torch.no_grad():
        pixels.images.copy_(pixels.images.roll(2, 0).clone())
    assert abs(gradient_of(objective, pixels)[0] - loss) > 1e-4


def test_the_whole_class_as_synthetic_images_has_no_loss(bench) -> None:
    data = toy_data(counts=(4, 4, 4))
    objective, pixels, _ = bench(CharacteristicMatching(16, real_batch=4), data=data, ipc=4)
    with torch.no_grad():
        pixels.images.copy_(torch.cat([data.batch(index) for index in data.class_index]))
    loss, gradient = gradient_of(objective, pixels)
    assert loss == pytest.approx(3 * math.sqrt(0.5 * FLOOR), rel=1e-6) and gradient.abs().max() < 1e-6


def test_every_step_has_frequencies_of_its_own(bench) -> None:
    objective, pixels, _ = bench(CharacteristicMatching(4, real_batch=99), source=TrainedPool(1, 2, 1, 4))
    objective.context.networks.training.setup(objective.context)
    losses = {objective.backward(pixels)["loss"] for _ in range(6)}
    assert len(losses) == 6


def test_pair_weight_and_cross_entropy_compose(bench) -> None:
    """Pairs at length 1 under the same network; the cross-entropy is that of distribution matching."""

    def made(**options: Any) -> tuple[Any, Any]:
        objective, pixels, data = bench(CharacteristicMatching(8, real_batch=5, **options), strategy=STRATEGY)
        pixels.initialise(data, "real", torch.Generator().manual_seed(1))
        with torch.no_grad():
            pixels.images.mul_(0.5)
        return objective, pixels

    plain, paired, both = (
        gradient_of(*made(**options)) for options in ({}, {"pair_weight": 1.0}, {"pair_weight": 0.3, "ce_weight": 0.7})
    )
    objective, pixels = made(pair_weight=1.0)
    context = objective.context
    context.streams.load_state_dict({})
    network = context.networks.current()
    draws = context.augmentation.draw(3, context.streams("augmentation"))
    images = pixels.images.detach().clone().requires_grad_()
    seen = context.augmentation.apply(images, draws, pixels.classes)
    partners = context.augmentation.apply(context.signal.images_at(pixels.pairs), draws, pixels.classes)
    features = network.features(seen)
    distances = (unit(features) - unit(network.features(partners)).detach()).square().sum(1)
    assert paired[0] == pytest.approx((distances.sum() / 2).item(), rel=1e-6)
    entropy = 0.7 * F.cross_entropy(network.logits(seen), pixels.classes)
    assert both[0] == pytest.approx(0.7 * plain[0] + 0.3 * paired[0] + entropy.item(), rel=1e-9)
    expected = 0.7 * plain[1] + 0.3 * paired[1] + torch.autograd.grad(entropy, images)[0]
    torch.testing.assert_close(both[1], expected, rtol=1e-7, atol=1e-10)


def test_cross_entropy_under_the_last_network_of_a_blended_pool(bench) -> None:
    source = TrainedPool(runs=2, stages=2, steps=4, batch_size=4, augmentation="none", blend=True)
    results = []
    for weight in (0.0, 0.7):
        objective, pixels, _ = bench(
            CharacteristicMatching(8, real_batch=99, ce_weight=weight, ce_network="last"), source=source
        )
        source.training.setup(objective.context)
        results.append(gradient_of(objective, pixels))
    images = pixels.images.detach().clone().requires_grad_()
    entropy = 0.7 * F.cross_entropy(source.last().logits(images), pixels.classes)
    assert results[1][0] - results[0][0] == pytest.approx(entropy.item(), rel=1e-9)
    own = torch.autograd.grad(entropy, images)[0]
    torch.testing.assert_close(results[1][1] - results[0][1], own, rtol=1e-6, atol=1e-10)


def test_features_that_are_all_zero_have_a_finite_gradient() -> None:
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    seen = unit(features)
    assert torch.equal(seen.detach(), torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    seen.sum().backward()
    assert features.grad is not None and bool(features.grad.isfinite().all())


def test_it_has_the_rate_of_its_scale() -> None:
    config = Distiller("dm", 1, objective="characteristic").configure(toy_data())
    assert (config.optimiser.name, config.optimiser.lr) == ("adam", 0.02)
    assert CharacteristicMatching.gradient_scale != DistributionMatching.gradient_scale


def test_what_says_nothing_along_frequencies_is_refused(bench) -> None:
    with pytest.raises(ConfigError, match="batch norm"):
        bench(CharacteristicMatching(), model="convnet:width=4,depth=2,norm=batch")
    with pytest.raises(ConfigError, match="use float32"):
        bench(CharacteristicMatching(), dtype=torch.float16)
    with pytest.raises(ConfigError, match="precision"):
        Distiller("dm", 1, **{**SMALL, "objective": "characteristic", "precision": "float16"}).fit(toy_data())
    objective, pixels, _ = bench(CharacteristicMatching())
    withheld = type("Withheld", (type(objective.context.signal),), {"characteristic": Signal.characteristic})
    objective.context.signal = withheld()
    with pytest.raises(ConfigError, match="signal Withheld does not tell 'characteristic'"):
        objective.setup(objective.context, pixels)


@pytest.mark.parametrize("options", [{"frequencies": 0}, {"alpha": 0.0}, {"alpha": 1.0}, {"real_batch": 0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=rf"objective\.{name}="):
        CharacteristicMatching(**options)
