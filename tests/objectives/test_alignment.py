"""Feature alignment against a plain loop over classes, finite differences and closed forms, in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddkit import models
from ddkit.base.precision import Precision
from ddkit.errors import ConfigError
from ddkit.models import ModelSpec
from ddkit.networks import Network
from ddkit.objectives import DistributionMatching, FeatureAlignment, registry
from ddkit.objectives.alignment import default_layer_weights, discrimination_loss
from ddkit.testing import toy_data

from .conftest import central_difference, gradient_of

STRATEGY = "color_crop_cutout_flip_scale_rotate"
SMOOTH = "convnet:width=4,depth=2,activation=swish"


def looped(objective, synthesizer, data, real_cross_entropy: bool = False):
    """The same step, class by class, with a graph on both sides, from the same random streams."""
    context = objective.context
    context.streams.load_state_dict({})
    network = context.networks.current()
    network.module.requires_grad_(real_cross_entropy)
    draws = context.augmentation.draw(data.num_classes, context.streams("augmentation"))
    images, labels = data.sample(range(data.num_classes), objective.real_batch, context.streams("real"))
    images = context.augmentation.apply(images, draws, labels).double()  # in float32 as the signal does it
    pixels = synthesizer.images.detach().clone().requires_grad_()
    features, centres = torch.zeros(()), []
    for c in range(data.num_classes):
        own = context.augmentation.apply(
            pixels[synthesizer.classes == c], draws.select([c]), torch.zeros(synthesizer.ipc, dtype=torch.int64)
        )
        real_maps = network.module.feature_maps(images[labels == c])
        maps = network.module.feature_maps(own)
        for weight, a, b in zip(objective.layer_weights, maps, real_maps, strict=True):
            features = features + weight * (a.mean(0) - b.mean(0)).square().sum()
        centres.append(maps[-1].mean(0).flatten())
    logits = network.module.features(images) @ torch.stack(centres).T
    loss = features + objective.beta * F.cross_entropy(logits, labels)
    if real_cross_entropy:
        loss = loss + F.cross_entropy(network.module(images), labels)
    return loss.item(), torch.autograd.grad(loss, pixels)[0]


class BareNetwork(nn.Module):
    """A model without feature maps."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(math.prod(shape), num_classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images))


def test_discrimination_loss_has_its_closed_form_and_sign() -> None:
    features, centres = torch.eye(2, dtype=torch.float64), 2 * torch.eye(2, dtype=torch.float64)
    right = discrimination_loss(features, centres, torch.tensor([0, 1])).item()
    wrong = discrimination_loss(features, centres, torch.tensor([1, 0])).item()
    assert right == pytest.approx(math.log1p(math.exp(-2)), abs=1e-12) == pytest.approx(0.1269280, abs=1e-7)
    assert wrong == pytest.approx(math.log1p(math.exp(2)), abs=1e-12) == pytest.approx(2.1269280, abs=1e-7)


@pytest.mark.parametrize("chunk", [None, 1, 2, 3])
@pytest.mark.parametrize("strategy", ["none", STRATEGY])
def test_batched_loss_and_gradient_equal_the_loop_over_classes(bench, chunk, strategy) -> None:
    objective, synthesizer, data = bench(FeatureAlignment(real_batch=6, class_chunk=chunk), strategy=strategy)
    loss, gradient = gradient_of(objective, synthesizer)
    expected_loss, expected_gradient = looped(objective, synthesizer, data)
    assert loss == pytest.approx(expected_loss, rel=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 2])
def test_chunks_of_classes_change_nothing(bench, chunk) -> None:
    whole = gradient_of(*bench(FeatureAlignment(real_batch=6), strategy=STRATEGY)[:2])
    parts = gradient_of(*bench(FeatureAlignment(real_batch=6, class_chunk=chunk), strategy=STRATEGY)[:2])
    assert parts[0] == pytest.approx(whole[0], rel=1e-12)
    assert (parts[1] - whole[1]).abs().max() <= 1e-10 * whole[1].abs().max()


def test_a_chunk_sees_the_same_synthetic_images_in_both_passes(bench, monkeypatch) -> None:
    """A synthesizer that draws its images per step is asked once per chunk."""
    objective, synthesizer, _ = bench(FeatureAlignment(real_batch=6, class_chunk=1), ipc=4)

    def half(classes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        rows = [torch.randperm(4, generator=generator)[:2] + 4 * int(c) for c in classes]
        return torch.cat(rows)

    monkeypatch.setattr(synthesizer, "batch_index", half)
    _, gradient = gradient_of(objective, synthesizer)
    touched = gradient.flatten(1).abs().sum(1).view(3, 4) > 0
    assert touched.sum(1).tolist() == [2, 2, 2]
    objective.chunk = 3
    whole = gradient_of(objective, synthesizer)[1]
    torch.testing.assert_close(gradient, whole, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("weights", [None, [0.0, 0.0, 0.0]])
def test_gradient_equals_central_differences(bench, chunk, weights) -> None:
    objective, synthesizer, _ = bench(
        FeatureAlignment(weights=weights, real_batch=5, class_chunk=chunk), model=SMOOTH, strategy="color_crop_cutout"
    )
    _, gradient = gradient_of(objective, synthesizer)
    indices = [(0, 0, 1, 2), (2, 0, 4, 4), (5, 0, 6, 1)]
    exact = torch.tensor([gradient[index].item() for index in indices], dtype=torch.float64)
    numeric = torch.tensor([central_difference(objective, synthesizer, i, 1e-5) for i in indices], dtype=torch.float64)
    assert float(exact.abs().min()) > 0
    assert (exact - numeric).norm() < 1e-6 * exact.norm()


def test_a_step_on_the_discrimination_alone_raises_the_true_logit_of_misclassified_images(bench) -> None:
    objective, synthesizer, data = bench(FeatureAlignment(weights=[0.0, 0.0, 0.0], beta=1.0, real_batch=7))
    context = objective.context

    def logits() -> torch.Tensor:
        maps = context.network.module.feature_maps(synthesizer.images)[-1].flatten(1)
        return real @ maps.view(3, 2, -1).mean(1).T

    loss, gradient = gradient_of(objective, synthesizer)
    images = torch.cat([data.batch(index) for index in data.class_index]).double()
    labels = torch.arange(3).repeat_interleave(torch.tensor([5, 7, 4]))
    with torch.no_grad():
        real = context.network.module.features(images)
        before = logits()
        synthesizer.images -= 1e-3 * gradient / gradient.norm()
        after = logits()
    missed = before.argmax(1) != labels
    assert missed.any()
    rise = (after - before).gather(1, labels[:, None])[missed, 0]
    assert float(rise.mean()) > 0
    assert gradient_of(objective, synthesizer)[0] < loss


def test_identical_batches_have_no_feature_loss_and_no_gradient(bench) -> None:
    data = toy_data(counts=(4, 4, 4))
    objective, synthesizer, _ = bench(FeatureAlignment(beta=0.0, real_batch=4), data=data, ipc=4)
    with torch.no_grad():
        synthesizer.images.copy_(torch.cat([data.batch(index) for index in data.class_index]))
    loss, gradient = gradient_of(objective, synthesizer)
    assert loss < 1e-24
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("strategy", ["none", STRATEGY])
def test_the_last_layer_alone_is_distribution_matching(bench, strategy) -> None:
    alignment = bench(FeatureAlignment(weights=[0.0, 0.0, 1.0], beta=0.0, real_batch=6), strategy=strategy)[:2]
    distribution = bench(DistributionMatching(real_batch=6), strategy=strategy)[:2]
    loss, gradient = gradient_of(*alignment)
    expected_loss, expected_gradient = gradient_of(*distribution)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


def test_cross_entropy_and_graph_of_the_real_batch_contribute_nothing(bench) -> None:
    """The authors' program has both; they reach only the network's gradients, which are discarded."""
    objective, synthesizer, data = bench(FeatureAlignment(real_batch=6))
    _, gradient = gradient_of(objective, synthesizer)
    _, without = looped(objective, synthesizer, data)
    _, with_both = looped(objective, synthesizer, data, real_cross_entropy=True)
    assert torch.equal(without, with_both)
    torch.testing.assert_close(gradient, with_both, rtol=1e-9, atol=1e-10)


def test_real_side_leaves_no_gradient_on_the_network(bench) -> None:
    objective, synthesizer, _ = bench(FeatureAlignment(real_batch=5))
    gradient_of(objective, synthesizer)
    assert all(p.grad is None for p in objective.context.network.module.parameters())


def test_streamed_real_features_equal_one_pass(bench, monkeypatch) -> None:
    import ddkit.networks.real_signal as signal

    objective, synthesizer, _ = bench(FeatureAlignment(real_batch=6))
    whole = gradient_of(objective, synthesizer)
    monkeypatch.setattr(signal, "REAL_CHUNK", 4)
    streamed = gradient_of(objective, synthesizer)
    assert streamed[0] == pytest.approx(whole[0], rel=1e-12)
    torch.testing.assert_close(streamed[1], whole[1], rtol=1e-9, atol=1e-10)


def test_logged_parts_add_up_to_the_loss(bench) -> None:
    objective, synthesizer, _ = bench(FeatureAlignment(beta=3.0, real_batch=6))
    scalars = objective.backward(synthesizer)
    layers = [scalars[f"features_{number}"] for number in (1, 2, 3)]
    assert min(layers) > 0 and scalars["discrimination"] > 0
    assert sum(layers) == pytest.approx(scalars["features"], rel=1e-12)
    assert scalars["features"] + 3 * scalars["discrimination"] == pytest.approx(scalars["loss"], rel=1e-12)


def test_the_strength_of_the_discrimination_does_not_depend_on_the_batch_size() -> None:
    generator = torch.Generator().manual_seed(0)
    real, centres = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (6, 3))
    rows = torch.tensor([0, 1, 2, 0, 1, 2])
    once = discrimination_loss(real, centres, rows)
    twice = discrimination_loss(torch.cat([real, real]), centres, torch.cat([rows, rows]))
    torch.testing.assert_close(once, twice, rtol=1e-12, atol=0)


def test_default_weights_follow_the_published_ones_at_every_depth(bench) -> None:
    assert default_layer_weights(4) == [0.1, 0.1, 1.0, 2.0]
    assert default_layer_weights(3) == [0.1, 1.0, 2.0]
    assert default_layer_weights(1) == [2.0]
    assert bench(FeatureAlignment(real_batch=5))[0].layer_weights == [0.1, 1.0, 2.0]
    assert bench(FeatureAlignment(real_batch=5), model="mlp:width=8")[0].layer_weights == [1.0, 2.0]


def test_compiled_feature_maps_are_differentiable_with_respect_to_the_images() -> None:
    torch._dynamo.reset()
    spec = ModelSpec.parse("convnet:width=4,depth=1")
    start = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    gradients = []
    for precision in (Precision(), Precision(torch.bfloat16, compile=True)):
        network = Network(spec, (1, 8, 8), 3, precision=precision)
        network.module.requires_grad_(False)
        images = start.clone().requires_grad_()
        maps = network.feature_maps(images)
        assert [layer.dtype for layer in maps] == [torch.float32] * 2
        gradients += torch.autograd.grad(sum((layer**2).sum() for layer in maps), images)
    assert (gradients[1] - gradients[0]).norm() <= 0.02 * gradients[0].norm()


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_compiled_chunked_step_equals_the_eager_one(bench, dtype, tolerance) -> None:
    torch._dynamo.reset()
    gradients = []
    for precision in (Precision(), Precision(dtype, compile=True)):
        objective, synthesizer, data = bench(
            FeatureAlignment(real_batch=5, class_chunk=2), model="convnet:width=4,depth=1", dtype=torch.float32
        )
        spec = objective.context.network.spec
        objective.context.networks.network = Network(spec, data.shape, data.num_classes, precision=precision)
        loss, gradient = gradient_of(objective, synthesizer)
        gradients.append(gradient)
        assert gradient.dtype == torch.float32 and math.isfinite(loss)
    assert (gradients[1] - gradients[0]).norm() <= tolerance * gradients[0].norm()


def test_batch_norm_passes_all_classes_at_once_and_keeps_its_statistics(bench) -> None:
    model = "convnet:width=4,depth=2,norm=batch"
    objective, synthesizer, data = bench(FeatureAlignment(real_batch=5), model=model)
    counters = [m.num_batches_tracked for m in objective.context.network.module.modules() if hasattr(m, "momentum")]
    assert counters and not any(int(count) for count in counters)  # setup looked at the layers without counting
    loss, _ = gradient_of(objective, synthesizer)
    separate, _ = looped(objective, synthesizer, data)
    assert loss > 0 and abs(loss - separate) > 1e-3 * loss
    with pytest.raises(ConfigError, match="batch norm"):
        bench(FeatureAlignment(class_chunk=1), model=model)


def test_weights_for_another_number_of_layers_are_refused(bench) -> None:
    with pytest.raises(ConfigError, match=r"has 2 values, but the network 'convnet.*' has 3 layers"):
        bench(FeatureAlignment(weights=[1.0, 1.0]))


def test_learned_labels_are_refused_with_the_reason(bench) -> None:
    with pytest.raises(ConfigError, match="does not look at labels"):
        bench(FeatureAlignment(), labels="learned")


def test_a_model_without_feature_maps_is_refused(bench, monkeypatch) -> None:
    monkeypatch.setitem(models.registry._items, "test-bare", BareNetwork)
    with pytest.raises(ConfigError, match="has no feature_maps"):
        bench(FeatureAlignment(), model="test-bare")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, "beta=-1.0"),
        ({"beta": math.nan}, "beta=nan"),
        ({"weights": []}, r"weights=\[\] names no layer"),
        ({"weights": [1.0, -0.5]}, "must be at least 0"),
        ({"weights": [1.0, math.inf]}, "must be at least 0"),
        ({"weights": [0.0, 0.0], "beta": 0.0}, "nothing is matched"),
        ({"weights": 0.5}, "weights=0.5"),
        ({"real_batch": 0}, "real_batch=0"),
        ({"class_chunk": 0}, "class_chunk=0"),
    ],
)
def test_bad_options_are_refused(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.create("alignment", options)
