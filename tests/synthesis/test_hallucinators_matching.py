"""Hallucinators in a matching: gradients through an unrolled training, plain matching as a special case."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit import Distiller, augment, data
from ddkit.base.streams import Streams
from ddkit.data import RealData
from ddkit.evaluation import evaluate
from ddkit.models import ModelSpec
from ddkit.networks import FreshNetworks, Network, RealSignal
from ddkit.objectives import Context, DistributionMatching
from ddkit.synthesis import Pixels, Synthesizer
from ddkit.testing import toy_data
from ddkit.training import TrainingRecipe

from .test_hallucinators import make_identity, started, style_of

STEPS, HIDDEN = 5, 3


class Masked(Pixels):
    """Pixels with a border of zeros, which is what identity hallucinators make of bases."""

    def decode(self, index: Tensor) -> Tensor:
        return F.pad(self.images[index][..., 1:-1, 1:-1], (1, 1, 1, 1))


def toy(dtype: torch.dtype = torch.float64) -> tuple[RealData, Tensor, Tensor]:
    """Two classes of 1x5x4 images, and start and target of a network with one hidden layer."""
    generator = torch.Generator().manual_seed(1)
    real = toy_data(shape=(1, 5, 4), counts=(4, 4))
    start, target = (torch.randn(20 * HIDDEN + 2 * HIDDEN, generator=generator, dtype=dtype) * 0.5 for _ in range(2))
    return real, start, target


def cross_entropy(theta: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    first, second = theta[: 20 * HIDDEN].view(20, HIDDEN), theta[20 * HIDDEN :].view(HIDDEN, 2)
    return F.cross_entropy(torch.tanh(images.flatten(1) @ first) @ second, labels)


def unrolled(images_of: Callable[[Tensor], Tensor], labels: Tensor, batches: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Train on the batches with a graph: the matching loss (survey Eq. 30) and the last weights."""
    _, start, target = toy()
    theta = start.clone().requires_grad_()
    for batch in batches:
        loss = cross_entropy(theta, images_of(batch), labels[batch])
        theta = theta - 0.3 * torch.autograd.grad(loss, theta, create_graph=True)[0]
    return (theta - target).square().sum() / (start - target).square().sum(), theta


def through_leaves(synthesizer: Synthesizer, batches: list[Tensor]) -> Tensor:
    """Leave gradients on the synthesizer by way of images decoded once and detached."""
    images = synthesizer()[0]
    leaves = images.detach().requires_grad_()
    loss, _ = unrolled(lambda batch: leaves[batch], synthesizer.classes, batches)
    (gradient,) = torch.autograd.grad(loss, leaves)
    torch.autograd.backward(images, gradient)
    return loss.detach()


def test_gradient_by_way_of_decoded_leaves_equals_that_of_the_whole_unroll() -> None:
    synthesizer = started(data=toy()[0]).double()
    parameters = [synthesizer.bases, *style_of(synthesizer)]
    batches = synthesizer.inner_batches(STEPS, 2, torch.Generator().manual_seed(0))
    assert {int(batch[0] % 2) for batch in batches} == {0, 1}
    loss, _ = unrolled(synthesizer.decode, synthesizer.classes, batches)
    whole = torch.autograd.grad(loss, parameters)
    assert through_leaves(synthesizer, batches) == pytest.approx(float(loss.detach()), rel=1e-14)
    for parameter, expected in zip(parameters, whole, strict=True):
        assert expected.abs().max() > 1e-6
        torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=1e-12)
        flat = parameter.data.view(-1)
        for position in range(0, flat.numel(), max(1, flat.numel() // 3)):
            losses = []
            for step in (1e-5, -2e-5):
                flat[position] += step
                losses.append(float(unrolled(synthesizer.decode, synthesizer.classes, batches)[0].detach()))
            flat[position] += 1e-5
            numeric = (losses[0] - losses[1]) / 2e-5
            assert numeric == pytest.approx(float(expected.flatten()[position]), abs=1e-6)


def test_one_identity_hallucinator_makes_it_trajectory_matching_of_the_bases() -> None:
    real = toy()[0]
    synthesizer = started(data=real, hallucinators=1).double()
    make_identity(synthesizer)
    plain = Masked(2, 2, real.shape).double()
    plain.images.data.copy_(synthesizer.bases.data)
    batches = synthesizer.inner_batches(STEPS, 3, torch.Generator().manual_seed(0))
    mine, expected = (unrolled(s.decode, s.classes, batches) for s in (synthesizer, plain))
    assert torch.equal(mine[0], expected[0]) and torch.equal(mine[1], expected[1])
    through_leaves(synthesizer, batches)
    through_leaves(plain, batches)
    torch.testing.assert_close(synthesizer.bases.grad, plain.images.grad, rtol=0, atol=1e-15)
    assert plain.images.grad.abs().max() > 1e-4


def matched(synthesizer: Synthesizer, real: RealData, learnt: Tensor) -> tuple[list[float], Tensor]:
    """Distribution matching of one tensor in float64: the losses of four steps, the images after them."""
    streams, augmentation = Streams(0), augment.create("color_crop")
    network = Network(ModelSpec.parse("convnet:width=4,depth=2"), real.shape, real.num_classes)
    network.module.double()
    signal, networks, objective = RealSignal(), FreshNetworks(), DistributionMatching(real_batch=5)
    signal.setup(real, streams, augmentation, 5)
    context = Context(real.num_classes, signal, network, augmentation, streams, networks=networks)
    networks.setup(context)
    objective.setup(context, synthesizer)
    optimiser = torch.optim.SGD([learnt], lr=0.5, momentum=0.5)
    losses = []
    for _ in range(4):
        optimiser.zero_grad()
        losses.append(objective.backward(synthesizer)["loss"])
        optimiser.step()
    return losses, synthesizer()[0].detach()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 12)])
def test_one_identity_hallucinator_makes_it_plain_distribution_matching(shape) -> None:
    real = toy_data(shape=shape)
    synthesizer = started(data=real, hallucinators=1).double()
    make_identity(synthesizer)
    for parameter in style_of(synthesizer):
        parameter.requires_grad_(False)
    plain = Masked(3, 2, shape).double()
    plain.images.data.copy_(synthesizer.bases.data)
    start = plain()[0].detach()
    losses, images = matched(synthesizer, real, synthesizer.bases)
    expected_losses, expected = matched(plain, real, plain.images)
    assert losses == pytest.approx(expected_losses, rel=1e-10)
    torch.testing.assert_close(images, expected, rtol=1e-9, atol=1e-10)
    assert not torch.allclose(images, start)


@pytest.mark.slow
def test_distribution_matching_of_hallucinators_beats_random_images_and_its_start() -> None:
    train, test = data.load_pair("digits")
    model = "convnet:width=32,depth=2"

    def run(method: str, ipc: int, seed: int, **options) -> float:
        distilled = Distiller(method, ipc, seed=seed, model=model, **options).fit(train)
        recipe = TrainingRecipe(name="plain", epochs=150, lr=0.02)
        return 100 * evaluate(distilled, test, (model,), repeats=2, recipe=recipe).rows[0].mean

    options = {"augmentation": "none", "objective": {"real_batch": 64}, "synthesis": "hallucinators"}
    start, end = (sum(run("dm", 1, seed, steps=steps, **options) for seed in range(2)) / 2 for steps in (0, 200))
    random = sum(run("random", 2, seed) for seed in range(4)) / 4
    # 1,100 numbers against the 1,280 of two random images per class.
    assert end >= 86
    assert end >= random + 9
    assert end >= start + 20
