"""Gradient matching against a plain loop over classes and finite differences, in float64."""

import sys
from pathlib import Path

import pytest
import torch

from ddkit.networks.class_gradients import class_gradients
from ddkit.objectives import GradientMatching

from .conftest import central_difference, gradient_of

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from reference import looped_gradient_loss

STRATEGY = "color_crop_cutout_flip_scale_rotate"


def looped(objective, synthesizer, data):
    """The same step, class by class, with plain autograd, from the same random streams."""
    context = objective.context
    context.streams.load_state_dict({})
    network = context.networks.current()
    draws = context.augmentation.draw(data.num_classes, context.streams("augmentation"))
    images, labels = data.sample(range(data.num_classes), objective.real_batch, context.streams("real"))
    images = context.augmentation.apply(images, draws, labels).double()  # in float32 as the signal does it
    pixels = synthesizer.images.detach().clone().requires_grad_()
    augmented = context.augmentation.apply(pixels, draws, synthesizer.classes)
    real = [images[labels == c] for c in range(data.num_classes)]
    synthetic = [augmented[synthesizer.classes == c] for c in range(data.num_classes)]
    loss = looped_gradient_loss(network.module, real, synthetic, metric=objective.metric)
    return loss.item(), torch.autograd.grad(loss, pixels)[0]


@pytest.mark.parametrize("chunk", [1, 2, 3])
@pytest.mark.parametrize("metric", ["ours", "cos", "mse", "angle+magnitude"])
def test_batched_loss_and_gradient_equal_the_loop_over_classes(bench, chunk, metric) -> None:
    objective, synthesizer, data = bench(GradientMatching(metric, real_batch=6, class_chunk=chunk), strategy=STRATEGY)
    loss, gradient = gradient_of(objective, synthesizer)
    expected_loss, expected_gradient = looped(objective, synthesizer, data)
    assert loss == pytest.approx(expected_loss, rel=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("activation", ["swish", "relu"])
@pytest.mark.parametrize("strategy", ["none", "color", "crop", "cutout", "flip", "scale", "rotate"])
def test_meta_gradient_equals_central_differences(bench, activation, strategy) -> None:
    objective, synthesizer, _ = bench(
        GradientMatching(real_batch=6),
        model=f"convnet:width=4,depth=2,activation={activation}",
        strategy=strategy,
    )
    _, gradient = gradient_of(objective, synthesizer)
    indices = [(0, 0, 3, 2), (3, 0, 4, 4), (5, 0, 2, 5)]
    exact = torch.tensor([gradient[index].item() for index in indices], dtype=torch.float64)
    numeric = torch.tensor([central_difference(objective, synthesizer, i, 1e-5) for i in indices], dtype=torch.float64)
    torch.testing.assert_close(exact, numeric, rtol=1e-5, atol=1e-6 * gradient.abs().max().item())


def test_classes_do_not_influence_each_other(bench) -> None:
    objective, synthesizer, _ = bench(GradientMatching(real_batch=6, class_chunk=1))
    _, before = gradient_of(objective, synthesizer)
    with torch.no_grad():
        synthesizer.images[:2] += 0.5
    _, after = gradient_of(objective, synthesizer)
    assert not torch.equal(before[:2], after[:2])
    assert torch.equal(before[2:], after[2:])


def test_real_gradients_carry_no_graph_and_weights_no_gradient(bench) -> None:
    objective, synthesizer, _ = bench(GradientMatching(real_batch=6))
    context = objective.context
    draws = context.augmentation.draw(3, context.streams("augmentation"))
    for chunk in (1, 3):
        gradients = context.signal.gradients(context.networks.current(), torch.arange(3), draws, objective.names, chunk)
        assert not any(g.requires_grad for g in gradients)
    gradient_of(objective, synthesizer)
    assert all(p.grad is None for p in context.network.module.parameters())


def test_padded_classes_of_unequal_size_have_their_own_mean_gradient(bench) -> None:
    objective, _, data = bench(GradientMatching(real_batch=100))
    network = objective.context.networks.current()
    images = [data.batch(index).double() for index in data.class_index]
    targets = [data.labels[index] for index in data.class_index]
    assert len({len(x) for x in images}) == 3
    stacked = class_gradients(network, images, targets, objective.names, differentiable=False)
    for c in range(3):
        single = class_gradients(network, images[c : c + 1], targets[c : c + 1], objective.names, differentiable=False)
        for a, b in zip(stacked, single, strict=True):
            torch.testing.assert_close(a[c], b[0], rtol=1e-9, atol=1e-12)


def test_frozen_batch_norm_gives_both_sides_the_same_statistics(bench) -> None:
    objective, synthesizer, _ = bench(
        GradientMatching(real_batch=6, class_chunk=1), model="convnet:width=4,depth=2,norm=batch"
    )
    gradient_of(objective, synthesizer)
    layers = [m for m in objective.context.network.module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert layers and not any(layer.training for layer in layers)
    assert all(float(layer.running_mean.abs().sum()) > 0 for layer in layers)


def test_learned_labels_receive_a_gradient(bench) -> None:
    objective, synthesizer, _ = bench(GradientMatching(real_batch=6), labels="learned")
    gradient_of(objective, synthesizer)
    assert synthesizer.labels.logits.grad is not None and float(synthesizer.labels.logits.grad.abs().sum()) > 0
