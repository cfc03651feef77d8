"""The extra terms of distribution matching, and what it does to codes, against closed forms in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit import Distiller, models
from ddkit.data import Preprocessing, RealData
from ddkit.errors import ConfigError
from ddkit.networks import RealTrainedNetworks, Signal, TrainedPool
from ddkit.objectives import DistributionMatching
from ddkit.synthesis import GANCodes, Pixels, Synthesizer
from ddkit.testing import toy_data

from .conftest import gradient_of
from .test_distribution import Flatten

STRATEGY = "color_crop_cutout_flip_scale_rotate"


class Given(nn.Module):
    """Images that are linear in the code; the identity without a matrix."""

    def __init__(self, matrix: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.eye(64) if matrix is None else matrix)
        self.eval()

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return (z @ self.matrix.to(z).T).view(-1, 1, 8, 8)


def unit_data(counts: tuple[int, ...] = (5, 5, 5)) -> RealData:
    """Toy data for which the generator's range is the preprocessed space: mean 1/2, deviation 1/2."""
    return toy_data(counts=counts).with_preprocessing(Preprocessing((0.5,), (0.5,)))


def codes_of(objective: Any, data: RealData, ipc: int = 2, **options: Any) -> GANCodes:
    """Set ``objective`` up for codes in float64."""
    codes = GANCodes(data.num_classes, ipc, data.shape, **options)
    codes.initialise(data, "prior", torch.Generator().manual_seed(3))
    codes.double()
    objective.setup(objective.context, codes)
    return codes


def step(objective: Any, synthesizer: Synthesizer, parameter: Tensor) -> tuple[float, Tensor]:
    """Run one backward pass from fresh streams: (loss, gradient of ``parameter``)."""
    objective.context.streams.load_state_dict({})
    synthesizer.zero_grad()
    loss = objective.backward(synthesizer)["loss"]
    assert parameter.grad is not None
    return loss, parameter.grad.clone()


def paired(bench: Any, weight: float, **options: Any) -> tuple[Any, Pixels, RealData]:
    """An objective with pixels that are paired with real images, but have left them."""
    objective, pixels, data = bench(DistributionMatching(real_batch=5, pair_weight=weight), ipc=3, **options)
    pixels.initialise(data, "real", torch.Generator().manual_seed(1))
    with torch.no_grad():
        pixels.images += torch.randn(pixels.images.shape, generator=torch.Generator().manual_seed(2))
    return objective, pixels, data


@pytest.mark.parametrize("strategy", ["none", STRATEGY])
def test_pair_term_is_the_mean_distance_to_the_partners_under_the_same_augmentation(bench, strategy: str) -> None:
    objective, pixels, data = paired(bench, 1.0, strategy=strategy)
    loss, gradient = gradient_of(objective, pixels)
    context = objective.context
    context.streams.load_state_dict({})
    network = context.networks.current()
    draws = context.augmentation.draw(3, context.streams("augmentation"))
    images = pixels.images.detach().clone().requires_grad_()
    expected = torch.zeros((), dtype=torch.float64)
    for row in range(9):
        c = int(pixels.classes[row])
        both = torch.stack([images[row], data.batch(pixels.pairs[row : row + 1])[0].double()])
        seen = context.augmentation.apply(both, draws.select([c]), torch.zeros(2, dtype=torch.int64))
        features = network.module.features(seen)
        expected = expected + (features[0] - features[1].detach()).square().sum() / 3
    torch.testing.assert_close(loss, expected.item(), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, images)[0], rtol=1e-5, atol=1e-8)


def test_images_that_equal_their_partners_have_neither_pair_loss_nor_gradient(bench) -> None:
    objective, pixels, data = paired(bench, 1.0, strategy=STRATEGY)
    with torch.no_grad():
        pixels.images.copy_(data.batch(pixels.pairs))
    loss, gradient = gradient_of(objective, pixels)
    assert loss < 1e-10 and float(gradient.abs().max()) < 1e-6  # partners are augmented in float32


def test_codes_that_generate_their_partners_have_neither_pair_loss_nor_gradient(bench) -> None:
    data = unit_data()
    objective, _, _ = bench(DistributionMatching(real_batch=5, pair_weight=1.0), data=data)
    codes = codes_of(objective, data, code_size=64, generator=Given())
    index = torch.cat([own[:2] for own in data.class_index])
    with torch.no_grad():
        codes.codes.copy_(data.batch(index).flatten(1))
    codes.pairs.copy_(index)
    loss, gradient = step(objective, codes, codes.codes)
    assert loss < 1e-28 and float(gradient.abs().max()) < 1e-14


def test_pair_weight_moves_linearly_from_one_term_to_the_other(bench) -> None:
    results = [gradient_of(*paired(bench, weight)[:2]) for weight in (0.0, 0.3, 1.0)]
    (first, a), (mixed, b), (second, c) = results
    assert mixed == pytest.approx(0.7 * first + 0.3 * second, rel=1e-12)
    torch.testing.assert_close(b, 0.7 * a + 0.3 * c, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 2])
def test_class_chunks_add_up_with_both_extra_terms(bench, chunk: int) -> None:
    results = []
    for size in (None, chunk):
        extra = DistributionMatching(real_batch=5, class_chunk=size, pair_weight=0.4, ce_weight=0.7)
        objective, pixels, data = bench(extra, ipc=3)
        pixels.initialise(data, "real", torch.Generator().manual_seed(1))
        with torch.no_grad():
            pixels.images.mul_(0.5)
        results.append(gradient_of(objective, pixels))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_cross_entropy_term_is_the_mean_over_all_synthetic_images(bench, labels: str) -> None:
    plain, pixels, _ = bench(DistributionMatching(real_batch=5), ipc=3, labels=labels)
    without, gradient_without = gradient_of(plain, pixels)
    objective, pixels, _ = bench(DistributionMatching(real_batch=5, ce_weight=0.5, class_chunk=1), ipc=3, labels=labels)
    loss, gradient = gradient_of(objective, pixels)
    images, targets = pixels()
    entropy = F.cross_entropy(objective.context.network.module(images), targets)
    assert loss - without == pytest.approx(0.5 * entropy.item(), rel=1e-9)
    own = torch.autograd.grad(0.5 * entropy, pixels.images)[0]
    torch.testing.assert_close(gradient - gradient_without, own, rtol=1e-7, atol=1e-12)


def test_learned_labels_learn_from_the_cross_entropy_alone(bench) -> None:
    objective, pixels, _ = bench(DistributionMatching(real_batch=5, ce_weight=1.0), labels="learned")
    gradient_of(objective, pixels)
    (logits,) = pixels.parameter_groups()["labels"]
    assert float(logits.grad.abs().sum()) > 0
    with pytest.raises(ConfigError, match=r"objective\.ce_weight above 0"):
        bench(DistributionMatching(real_batch=5), labels="learned")


def test_pairs_that_do_not_exist_are_refused_with_the_remedy(bench) -> None:
    objective, pixels, _ = bench(DistributionMatching(real_batch=5, pair_weight=0.1))
    with pytest.raises(ConfigError, match="use init=real, or set it to 0"):
        objective.backward(pixels)


def test_pairs_that_no_starting_point_makes_are_refused_before_it_is_computed(tmp_path) -> None:
    distiller = Distiller("itgan", 1, init="prior", objective={"pair_weight": 0.1})
    with pytest.raises(ConfigError, match="use init=inverted, or set it to 0"):
        distiller.fit(toy_data(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_signal_without_real_images_cannot_pair(bench) -> None:
    objective, pixels, _ = bench(DistributionMatching(real_batch=5))
    withheld = type("Withheld", (type(objective.context.signal),), {"images_at": Signal.images_at})
    objective.context.signal = withheld()
    objective.setup(objective.context, pixels)
    with pytest.raises(ConfigError, match="signal Withheld does not tell 'images_at'"):
        DistributionMatching(pair_weight=0.5).setup(objective.context, pixels)


@pytest.mark.parametrize("options", [{"pair_weight": -0.1}, {"pair_weight": 1.1}, {"ce_weight": -1.0}])
def test_weights_out_of_range_are_refused(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=f"objective.{name}="):
        DistributionMatching(**options)


def test_linear_generator_and_raw_pixels_have_the_closed_form_gradient(bench, monkeypatch) -> None:
    monkeypatch.setitem(models.registry._items, "test-flatten", Flatten)
    data = unit_data()
    objective, _, _ = bench(DistributionMatching(real_batch=5), data=data, model="test-flatten")
    matrix = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    codes = codes_of(objective, data, code_size=4, generator=Given(matrix))
    _, gradient = step(objective, codes, codes.codes)
    matrix = codes.generator.matrix
    means = torch.stack([data.batch(index).double().mean(0).flatten() for index in data.class_index])
    own = codes.codes.detach().view(3, 2, 4).mean(1)
    expected = (2 / 2) * (own @ matrix.T - means) @ matrix
    torch.testing.assert_close(gradient, expected.repeat_interleave(2, dim=0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("strategy", ["none", STRATEGY])
def test_identity_generator_gives_the_loss_and_gradient_of_pixels(bench, strategy: str) -> None:
    data = unit_data()
    objective, pixels, _ = bench(DistributionMatching(real_batch=5), data=data, strategy=strategy)
    loss, gradient = gradient_of(objective, pixels)
    codes = codes_of(objective, data, code_size=64, generator=Given())
    with torch.no_grad():
        codes.codes.copy_(pixels.images.flatten(1))
    own_loss, own_gradient = step(objective, codes, codes.codes)
    assert own_loss == pytest.approx(loss, rel=1e-12)
    torch.testing.assert_close(own_gradient.view_as(gradient), gradient, rtol=1e-9, atol=1e-12)


def test_codes_that_generate_the_real_batch_have_no_loss(bench) -> None:
    data = unit_data()
    objective, _, _ = bench(DistributionMatching(real_batch=5), data=data)
    codes = codes_of(objective, data, ipc=5, code_size=64, generator=Given())
    with torch.no_grad():
        codes.codes.copy_(data.batch(torch.cat(list(data.class_index))).flatten(1))
    assert step(objective, codes, codes.codes)[0] < 1e-24


def test_codes_of_all_classes_at_once_equal_the_loop_over_classes(bench) -> None:
    data = toy_data(counts=(5, 7, 4))
    results = []
    for chunk in (None, 1):
        objective, _, _ = bench(DistributionMatching(real_batch=6, class_chunk=chunk), data=data, strategy=STRATEGY)
        codes = codes_of(objective, data, ipc=3, code_size=3, width=4, generator_steps=2, generator_batch=4)
        results.append(step(objective, codes, codes.codes))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-9)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-6, atol=1e-9)


def test_the_cross_entropy_of_the_last_network_is_added_to_the_means_of_an_early_one(bench) -> None:
    """In chunks as at once; against the two terms written out."""
    losses, gradients = [], []
    for chunk in (None, 1):
        source = TrainedPool(runs=2, stages=3, steps=4, batch_size=4, augmentation="none")
        objective, pixels, data = bench(
            DistributionMatching(real_batch=99, ce_weight=0.7, ce_network="last", class_chunk=chunk), source=source
        )
        context = objective.context
        source.training.setup(context)
        loss, gradient = gradient_of(objective, pixels)
        losses.append(loss), gradients.append(gradient)
    assert losses[0] == pytest.approx(losses[1], rel=1e-12) and torch.allclose(*gradients, rtol=1e-10, atol=1e-12)

    context.streams.load_state_dict({})
    images = pixels.images.detach().clone().requires_grad_()
    network = source.current()
    early = source.number
    real = network.features(data.batch(torch.arange(len(data))).double())
    made = network.features(images)
    means = [(real[data.labels == c].mean(0) - made[pixels.classes == c].mean(0)).square().sum() for c in range(3)]
    wanted = torch.stack(means).sum()
    wanted_gradient = torch.autograd.grad(wanted, images)[0]
    last = source.select(early - early % 3 + 2)
    entropy = 0.7 * F.cross_entropy(last.logits(images), pixels.classes)
    wanted_gradient = wanted_gradient + torch.autograd.grad(entropy, images)[0]
    assert losses[0] == pytest.approx((wanted + entropy).item(), rel=1e-10)
    assert torch.allclose(gradients[0], wanted_gradient, rtol=1e-9, atol=1e-12)


def test_a_last_network_is_needed_to_ask_for_its_cross_entropy(bench) -> None:
    with pytest.raises(ConfigError, match=r"networks=pool, or objective\.ce_network=same"):
        bench(DistributionMatching(ce_weight=1.0, ce_network="last"))
    with pytest.raises(ConfigError, match="cross-entropy"):
        DistributionMatching(ce_network="first")


def in_training(bench: Any, **options: Any) -> tuple[Any, Pixels, RealData]:
    """Set up networks in training, as IDM has them, on whole classes."""
    source = RealTrainedNetworks(life=4, images=20, batch_size=5, lr=0.1, cutmix=0.0, augmentation="none", pool=2)
    objective, pixels, data = bench(DistributionMatching(real_batch=99, **options), source=source)
    source.training.setup(objective.context)
    return objective, pixels, data


def test_accuracy_in_percent_weighs_the_cross_entropy_as_idm_does(bench, monkeypatch) -> None:
    """Sum over classes of squared distance of means + w * percent * mean cross-entropy of the class, w = 0.5."""
    objective, pixels, data = in_training(bench, ce_weight=3 * 0.5, ce_by_accuracy=True, class_chunk=2)
    asked: list[float] = []
    accuracy = objective.context.signal.accuracy
    monkeypatch.setattr(objective.context.signal, "accuracy", lambda *args: asked.append(accuracy(*args)) or asked[-1])
    for _ in range(3):
        objective.backward(pixels)
        objective.context.networks.after_step(pixels, last=False)
    asked.clear()
    pixels.zero_grad()
    loss = objective.backward(pixels)["loss"]
    assert pixels.images.grad is not None
    (share,) = asked
    assert 0 < share <= 1
    without = DistributionMatching(real_batch=99)
    assert objective.passes_per_step(pixels) == without.passes_per_step(pixels) + 3 * 10
    images, network = pixels.images.detach().clone().requires_grad_(), objective.context.network
    expected = torch.zeros(())
    for c in range(3):
        own, real = images[pixels.classes == c], data.batch(data.class_index[c]).double()
        means = [network.features(side).mean(0) for side in (real, own)]
        entropy = F.cross_entropy(network.logits(own), torch.full((len(own),), c))
        expected = expected + (means[0] - means[1]).square().sum() + 0.5 * 100 * share * entropy
    assert loss == pytest.approx(expected.item(), rel=1e-10)
    torch.testing.assert_close(pixels.images.grad, torch.autograd.grad(expected, images)[0], rtol=1e-8, atol=1e-11)


def test_accuracy_is_that_of_the_network_of_the_cross_entropy(bench, monkeypatch) -> None:
    source = TrainedPool(runs=1, stages=2, steps=30, batch_size=8, lr=0.1, augmentation="none", blend=True)
    objective, pixels, _ = bench(
        DistributionMatching(real_batch=5, ce_weight=1.0, ce_network="last", ce_by_accuracy=True), source=source
    )
    source.training.setup(objective.context)
    asked: list[dict[str, Tensor]] = []
    monkeypatch.setattr(objective.context.signal, "accuracy", lambda network, *_: asked.append(network.snapshot()) or 1)
    objective.backward(pixels)
    (seen,) = asked
    assert all(torch.equal(value, source.snapshots[1][name]) for name, value in seen.items())


def test_networks_that_know_nothing_leave_the_means_alone(bench, monkeypatch) -> None:
    plain = gradient_of(*in_training(bench)[:2])
    objective, pixels, _ = in_training(bench, ce_weight=2.0, ce_by_accuracy=True)
    monkeypatch.setattr(objective.context.signal, "accuracy", lambda *_: 0.0)
    weighed = gradient_of(objective, pixels)
    assert weighed[0] == plain[0] and torch.equal(weighed[1], plain[1])


def test_fresh_networks_of_a_queue_without_the_cross_entropy_are_dm(bench) -> None:
    """A life of one step: nothing is ever trained."""
    source = RealTrainedNetworks(life=1, images=20, batch_size=5, augmentation="none")
    idm, pixels, _ = bench(DistributionMatching(real_batch=5, ce_by_accuracy=True), source=source, strategy=STRATEGY)
    dm, other, _ = bench(DistributionMatching(real_batch=5), strategy=STRATEGY)
    source.training.setup(idm.context)
    for _ in range(3):
        pixels.zero_grad(), other.zero_grad()
        assert idm.backward(pixels) == dm.backward(other)
        assert pixels.images.grad is not None and other.images.grad is not None
        assert torch.equal(pixels.images.grad, other.images.grad)
        source.after_step(pixels, last=False)


def test_training_of_the_networks_does_not_look_at_the_synthetic_images(bench) -> None:
    trained = []
    for factor in (1.0, -3.0):
        objective, pixels, _ = in_training(bench, ce_weight=1.0, ce_by_accuracy=True)
        with torch.no_grad():
            pixels.images.mul_(factor)
        for _ in range(4):
            objective.backward(pixels)
            before = objective.context.network.snapshot()
            objective.context.networks.after_step(pixels, last=False)
        trained.append((before, objective.context.network.snapshot()))
    for one, other in zip(*trained, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_signal_that_tells_no_accuracy_cannot_weigh(bench) -> None:
    objective, pixels, _ = bench(DistributionMatching(real_batch=5))
    withheld = type("Withheld", (type(objective.context.signal),), {"accuracy": Signal.accuracy})
    objective.context.signal = withheld()
    with pytest.raises(ConfigError, match="signal Withheld does not tell 'accuracy'"):
        DistributionMatching(ce_weight=1.0, ce_by_accuracy=True).setup(objective.context, pixels)
