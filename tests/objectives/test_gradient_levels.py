"""Gradients of the whole batch: what they see, both exact forms, warm-up, and the combination with class gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ddkit import augment, models
from ddkit.base.streams import Streams
from ddkit.errors import ConfigError, UnknownNameError
from ddkit.models import ModelSpec
from ddkit.networks import FreshNetworks, Network, Signal, SyntheticTrainedNetworks
from ddkit.networks.class_gradients import class_gradients
from ddkit.objectives import Context, GradientMatching, batch_gradients, gradient_distance
from ddkit.objectives.batch_gradients import summed_gradient
from ddkit.synthesis import Pixels
from ddkit.testing import toy_data

from .conftest import central_difference, gradient_of

STRATEGY = "color_crop_cutout_flip_scale_rotate"
EPSILON = 1e-6


class Linear(torch.nn.Module):
    """A linear classifier of the pixels, at zero weights."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.classifier = torch.nn.Linear(shape[0] * shape[1] * shape[2], num_classes)
        torch.nn.init.zeros_(self.classifier.weight)

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


class GivenNetwork(FreshNetworks):
    """Hands out the network as it was built."""

    def current(self) -> Network:
        self.drawn += 1
        return self.network


class GivenImages(Signal):
    """Class gradients of one fixed image per class."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def feature_means(self, network, classes, draws):
        return network.features(self.images[classes])

    def gradients(self, network, classes, draws, names, class_chunk):
        return class_gradients(network, self.images[classes].split(1), classes.split(1), names, differentiable=False)

    def refresh_statistics(self, network):
        pass


def linear_loss(monkeypatch, objective: GradientMatching, synthetic: list, real: list) -> float:
    """Loss of one image of two pixels per class on the linear classifier."""
    monkeypatch.setitem(models.registry._items, "test-linear", Linear)
    shape, streams, augmentation = (1, 1, 2), Streams(0), augment.create("none")
    network = Network(ModelSpec.parse("test-linear"), shape, 2)
    network.module.double()
    torch.nn.init.zeros_(network.module.classifier.weight)
    torch.nn.init.zeros_(network.module.classifier.bias)
    pixels = Pixels(2, 1, shape).double()
    with torch.no_grad():
        pixels.images.copy_(torch.tensor(synthetic).view(2, 1, 1, 2))
    signal, source = GivenImages(torch.tensor(real, dtype=torch.float64).view(2, 1, 1, 2)), GivenNetwork()
    context = Context(2, signal, network, augmentation, streams, networks=source)
    source.setup(context)
    objective.setup(context, pixels)
    return objective.backward(pixels)["loss"]


def angle(a: Tensor, b: Tensor) -> float:
    return (1 - (a * b).sum() / (a.norm() * b.norm() + EPSILON)).item()


@pytest.mark.parametrize(
    ("synthetic", "by_class", "by_batch"),
    [
        ([[100.0, 0.0], [100.0, 0.0]], 2.0e-4, 2.0),
        ([[100.0, 0.1], [100.0, -0.1]], 1.62e-4, 8.0e-5),
        ([[100.0, -1.0], [100.0, 1.0]], 8.0e-4, 4.0),
    ],
)
@pytest.mark.parametrize("chunk", [None, 1])
def test_images_without_class_information_cost_the_batch_level_its_maximum(
    monkeypatch, synthetic, by_class, by_batch, chunk
) -> None:
    real = [[100.0, 1.0], [100.0, -1.0]]
    s, r = torch.tensor(synthetic, dtype=torch.float64), torch.tensor(real, dtype=torch.float64)
    # At zero weights the row of a class is the image times plus or minus one half.
    exact_class = sum(2 * angle(s[c] / 2, r[c] / 2) for c in range(2))
    exact_batch = 2 * angle((s[0] - s[1]) / 4, (r[0] - r[1]) / 4)
    found = linear_loss(monkeypatch, GradientMatching(class_chunk=chunk), synthetic, real)
    assert found == pytest.approx(exact_class, abs=1e-9)
    assert found == pytest.approx(by_class, rel=0.01)
    found = linear_loss(monkeypatch, GradientMatching(level="batch", class_chunk=chunk), synthetic, real)
    assert found == pytest.approx(exact_batch, abs=1e-9)
    assert found == pytest.approx(by_batch, rel=0.01)


def test_sum_of_classes_of_unequal_size_is_the_sum_of_their_mean_gradients(bench) -> None:
    objective, _, data = bench(GradientMatching())
    network = objective.context.networks.current()
    images = [data.batch(index).double() for index in data.class_index]
    targets = [data.labels[index] for index in data.class_index]
    assert len({len(x) for x in images}) == 3
    rows = class_gradients(network, images, targets, objective.names, differentiable=False)
    sums = summed_gradient(network, images, targets, objective.names, differentiable=False)
    for row, total in zip(rows, sums, strict=True):
        torch.testing.assert_close(row.sum(0, keepdim=True), total, rtol=1e-12, atol=1e-12)
        assert not total.requires_grad


def test_real_mean_gradient_is_the_mean_of_the_class_gradients(bench) -> None:
    objective, _, _ = bench(GradientMatching(real_batch=6), strategy=STRATEGY)
    context = objective.context
    network = context.networks.current()
    draws = context.augmentation.draw(3, context.streams("augmentation"))
    results = []
    for query in ("gradients", "mean_gradient"):
        context.streams("real").manual_seed(5)
        extra = (2,) if query == "gradients" else ()
        results.append(getattr(context.signal, query)(network, torch.arange(3), draws, objective.names, *extra))
    for rows, mean in zip(*results, strict=True):
        torch.testing.assert_close(rows.mean(0), mean, rtol=1e-12, atol=1e-12)


def test_of_a_single_class_both_levels_see_the_same(bench) -> None:
    objective, synthesizer, _ = bench(GradientMatching())
    network = objective.context.networks.current()
    images, targets = synthesizer(torch.arange(2))
    rows = class_gradients(network, [images], [targets], objective.names, differentiable=True)
    total = summed_gradient(network, [images], [targets], objective.names, differentiable=True)
    other = [torch.ones_like(row) for row in rows]
    torch.testing.assert_close(gradient_distance(rows, other), gradient_distance(total, other), rtol=1e-13, atol=0)


def looped(objective: GradientMatching, synthesizer: Pixels, data) -> tuple[float, Tensor]:
    """Loss and gradient of the level of ``objective``, with plain autograd and one pass per class."""
    context = objective.context
    context.streams.load_state_dict({})
    network = context.networks.current()
    draws = context.augmentation.draw(data.num_classes, context.streams("augmentation"))
    images, labels = data.sample(range(data.num_classes), objective.real_batch, context.streams("real"))
    images = context.augmentation.apply(images, draws, labels).double()  # in float32 as the signal does it
    pixels = synthesizer.images.detach().clone().requires_grad_()
    augmented = context.augmentation.apply(pixels, draws, synthesizer.classes)
    weights = [w for n, w in network.module.named_parameters() if n in objective.names]

    def rows(x: Tensor, y: Tensor, **options) -> list[Tensor]:
        losses = [torch.nn.functional.cross_entropy(network.module(x[y == c]), y[y == c]) for c in range(3)]
        gradients = [torch.autograd.grad(loss, weights, **options) for loss in losses]
        return [torch.stack(tensors) for tensors in zip(*gradients, strict=True)]

    real, own = rows(images, labels), rows(augmented, synthesizer.classes, create_graph=True)
    means = [g.mean(0, keepdim=True) for g in own], [g.mean(0, keepdim=True) for g in real]
    loss = gradient_distance(*means, objective.metric).sum()
    if objective.level == "both":
        loss = loss + gradient_distance(own, real, objective.metric).sum()
    return loss.item(), torch.autograd.grad(loss, pixels)[0]


@pytest.mark.parametrize("level", ["batch", "both"])
@pytest.mark.parametrize("metric", ["ours", "angle+magnitude", "mse", "l1", "l1_mean"])
def test_loss_and_gradient_equal_the_plain_loop(bench, level, metric) -> None:
    objective, synthesizer, data = bench(GradientMatching(metric, real_batch=6, level=level), strategy=STRATEGY)
    loss, gradient = gradient_of(objective, synthesizer)
    expected_loss, expected_gradient = looped(objective, synthesizer, data)
    assert loss == pytest.approx(expected_loss, rel=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("level", ["batch", "both"])
@pytest.mark.parametrize("metric", ["ours", "angle+magnitude", "mse", "cos", "l1"])
def test_two_passes_in_chunks_equal_one_pass(bench, level, metric) -> None:
    results = []
    for chunk in (None, 1, 2, 3):
        objective, synthesizer, _ = bench(
            GradientMatching(metric, real_batch=6, level=level, class_chunk=chunk), strategy=STRATEGY, labels="learned"
        )
        loss, gradient = gradient_of(objective, synthesizer)
        results.append((torch.tensor(loss), gradient, synthesizer.labels.logits.grad))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert float((a - b).norm()) <= 1e-10 * float(a.norm())
            assert float(a.norm()) > 0


@pytest.mark.parametrize("level", ["batch", "both"])
def test_small_memory_gives_two_passes_with_the_same_result(bench, monkeypatch, level) -> None:
    results = []
    for expected in (3, 1):
        objective, synthesizer, _ = bench(GradientMatching(real_batch=6, level=level))
        assert objective.batch_chunk == expected
        results.append(gradient_of(objective, synthesizer))
        monkeypatch.setattr(batch_gradients, "_CPU_BYTES", 1)
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-9, atol=1e-12)


class Sampled(Pixels):
    """Looks at one random image of each class in every step."""

    def batch_index(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        offsets = torch.randint(0, self.decoded_per_class, (len(classes),), generator=generator)
        return classes * self.decoded_per_class + offsets


@pytest.mark.parametrize("level", ["class", "batch", "both"])
def test_a_synthesizer_that_draws_images_is_seen_alike_in_all_chunks_and_passes(bench, level) -> None:
    results = []
    for chunk in (1, 3):
        objective, pixels, data = bench(GradientMatching(real_batch=6, level=level, class_chunk=chunk), ipc=3)
        synthesizer = Sampled(3, 3, data.shape).double()
        synthesizer.load_state_dict(pixels.state_dict())
        results.append(gradient_of(objective, synthesizer))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-9, atol=1e-12)
    seen = results[0][1].flatten(1).abs().sum(1) > 0
    assert seen.view(3, 3).sum(1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("activation", ["swish", "relu"])
@pytest.mark.parametrize(
    ("level", "metric", "chunk"),
    [
        ("batch", "ours", None),
        ("batch", "ours", 1),
        ("both", "angle+magnitude", None),
        ("both", "angle+magnitude", 2),
        ("class", "l1", None),
        ("class", "l1_mean", None),
        ("both", "l1", 1),
    ],
)
def test_meta_gradient_equals_central_differences(bench, activation, level, metric, chunk) -> None:
    objective, synthesizer, _ = bench(
        GradientMatching(metric, real_batch=6, level=level, class_chunk=chunk),
        model=f"convnet:width=4,depth=2,activation={activation}",
    )
    _, gradient = gradient_of(objective, synthesizer)
    indices = [(0, 0, 3, 2), (3, 0, 4, 4), (5, 0, 2, 5)]
    exact = torch.tensor([gradient[index].item() for index in indices], dtype=torch.float64)
    numeric = torch.tensor([central_difference(objective, synthesizer, i, 1e-5) for i in indices], dtype=torch.float64)
    assert float((exact - numeric).abs().max()) < 1e-6 * float(gradient.abs().max())


def change_of_other_classes(objective: GradientMatching, synthesizer: Pixels) -> tuple[float, float]:
    """How the gradients of class 0 and of the other classes answer to new images of class 0."""
    _, before = gradient_of(objective, synthesizer)
    with torch.no_grad():
        synthesizer.images[:2] += 0.5
    _, after = gradient_of(objective, synthesizer)
    change = (after - before).abs()
    return float(change[:2].max()), float(change[2:].max())


@pytest.mark.parametrize("level", ["batch", "both"])
def test_classes_are_coupled_except_during_the_warm_up(bench, level) -> None:
    own, others = change_of_other_classes(*bench(GradientMatching(real_batch=6, level=level, class_chunk=1))[:2])
    assert own > 0 and others > 1e-3
    warm = GradientMatching(real_batch=6, level=level, class_chunk=1, warmup_networks=100, warmup_steps=1)
    own, others = change_of_other_classes(*bench(warm)[:2])
    assert own > 0 and others == 0


def test_both_levels_are_the_sum_of_the_class_level_and_the_batch_level(bench) -> None:
    results = {}
    for level in ("class", "batch", "both"):
        objective = GradientMatching("angle+magnitude", real_batch=6, level=level)
        results[level] = gradient_of(*bench(objective, strategy=STRATEGY)[:2])
    assert results["both"][0] == pytest.approx(results["class"][0] + results["batch"][0], rel=1e-12)
    expected = results["class"][1] + results["batch"][1]
    torch.testing.assert_close(results["both"][1], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("level", "queries"), [("class", ["gradients"]), ("batch", ["mean_gradient"]), ("both", ["gradients"])]
)
def test_real_data_are_asked_once_per_step(bench, monkeypatch, level, queries) -> None:
    objective, synthesizer, _ = bench(GradientMatching(real_batch=6, level=level))
    signal, asked = objective.context.signal, []
    for name in ("gradients", "mean_gradient"):
        original = getattr(signal, name)
        monkeypatch.setattr(signal, name, lambda *a, n=name, f=original: asked.append(n) or f(*a))
    gradient_of(objective, synthesizer)
    assert asked == queries


def test_warm_up_covers_the_first_steps_of_the_first_networks(bench) -> None:
    source = SyntheticTrainedNetworks(outer_loop=5, inner_epochs=1)
    objective = GradientMatching(real_batch=4, level="batch", warmup_networks=2, warmup_steps=3)
    objective, synthesizer, _ = bench(objective, source=source, ipc=1)
    used = []
    for step in range(20):
        used.append(objective.backward(synthesizer)["batch"])
        source.after_step(synthesizer, last=step == 19)
    assert used == [float(step // 5 >= 2 or step % 5 >= 3) for step in range(20)]
    assert sum(used) == 14


@pytest.mark.parametrize("level", ["batch", "both"])
def test_without_a_warm_up_only_the_loss_is_logged(bench, level) -> None:
    objective, synthesizer, _ = bench(GradientMatching(real_batch=6, level=level))
    assert list(objective.backward(synthesizer)) == ["loss"]
    assert objective.level_of_step() == level


def test_frozen_batch_norm_makes_chunks_exact(bench) -> None:
    results = []
    for chunk in (1, 3):
        objective, synthesizer, _ = bench(
            GradientMatching(real_batch=6, level="batch", class_chunk=chunk), model="convnet:width=4,depth=2,norm=batch"
        )
        results.append(gradient_of(objective, synthesizer))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("level", ["batch", "both"])
def test_network_keeps_no_gradient(bench, level) -> None:
    for chunk in (1, 3):
        objective, synthesizer, _ = bench(GradientMatching(real_batch=6, level=level, class_chunk=chunk))
        gradient_of(objective, synthesizer)
        assert all(p.grad is None for p in objective.context.network.module.parameters())


def test_only_convolutions_are_matched_when_asked(bench) -> None:
    losses = {}
    for weights in ("matrices", "convolutions"):
        objective, synthesizer, _ = bench(GradientMatching("mse", real_batch=6, weights=weights))
        losses[weights], _ = gradient_of(objective, synthesizer)
    assert 0 < losses["convolutions"] < losses["matrices"]


def test_network_without_convolutions_is_refused(bench) -> None:
    with pytest.raises(ConfigError, match="weights=convolutions finds nothing to match"):
        bench(GradientMatching("mse", weights="convolutions"), model="mlp")


def test_cost_counts_the_additional_pass_of_chunks(bench) -> None:
    _, synthesizer, _ = bench(GradientMatching())
    cost = {
        (level, chunk): GradientMatching(real_batch=2, level=level, class_chunk=chunk).passes_per_step(synthesizer)
        for level in ("class", "batch", "both")
        for chunk in (None, 1, 3)
    }
    extra = {key for key, value in cost.items() if value == 3.0 * 2 * 3 + 10.5 * 6}
    assert extra == {("batch", 1), ("both", 1)}
    assert {value for key, value in cost.items() if key not in extra} == {3.0 * 2 * 3 + 7.5 * 6}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "class", "warmup_networks": 2}, "with objective.level=class"),
        ({"level": "batch", "warmup_networks": 2}, "give objective.warmup_steps"),
        ({"level": "batch", "warmup_networks": 2.5, "warmup_steps": 2}, "a share below 1"),
        ({"level": "both", "warmup_steps": -1, "warmup_networks": 1}, "objective.warmup_steps=-1 must be at least 0"),
        ({"magnitude_weight": -1.0}, "magnitude_weight=-1.0"),
        ({"weights": "all"}, "compares output rows"),
        ({"real_batch": 0}, "real_batch=0"),
        ({"class_chunk": 0}, "class_chunk=0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        GradientMatching(**options)


def test_unknown_level_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'batch'"):
        GradientMatching(level="batches")


def test_two_classes_are_enough(bench) -> None:
    objective, synthesizer, _ = bench(GradientMatching(real_batch=4, level="batch"), data=toy_data(counts=(5, 3)))
    loss, gradient = gradient_of(objective, synthesizer)
    assert loss > 0 and bool((gradient.flatten(1).norm(dim=1) > 0).all())
