"""Trajectory matching on scikit-learn's digits: it distils, and does so with every meta-gradient."""

from __future__ import annotations

from statistics import mean

import pytest
import torch
from torch import Tensor

from ddkit import augment, data
from ddkit.base.streams import Streams
from ddkit.data import RealData
from ddkit.models import ModelSpec
from ddkit.networks import Network, RealSignal
from ddkit.objectives import Context
from ddkit.objectives.trajectory import TrajectoryMatching
from ddkit.synthesis import Pixels
from ddkit.training import recipe
from ddkit.training.train import train_networks
from tests.objectives.expert_stub import StubExperts, train_experts

SPEC = ModelSpec.parse("convnet:width=32,depth=2")


def distil(
    train: RealData, experts: Tensor, objective: TrajectoryMatching, steps: int, lr_images: float, seed: int = 0
) -> tuple[Pixels, list[float]]:
    """Distil one image per class by SGD with momentum 0.5: (images, losses)."""
    streams, network = Streams(seed), Network(SPEC, train.shape, train.num_classes)
    source, signal = StubExperts(experts), RealSignal()
    pixels = Pixels(train.num_classes, 1, train.shape)
    pixels.initialise(train, "real", streams("initialisation"))
    context = Context(train.num_classes, signal, network, augment.create("none"), streams, networks=source)
    source.setup(context)
    objective.setup(context, pixels)
    groups = [
        {"params": [pixels.images], "lr": lr_images},
        {"params": objective.parameter_groups()["student_lr"], "lr": 1e-3},
    ]
    optimiser, losses = torch.optim.SGD(groups, lr=0.0, momentum=0.5), []
    for _ in range(steps):
        optimiser.zero_grad()
        losses.append(objective.backward(pixels)["loss"])
        optimiser.step()
        objective.after_step(pixels)
    return pixels, losses


def accuracy(images: Tensor, labels: Tensor, test: RealData, rate: float) -> float:
    """Train three networks for 300 full-batch epochs and return their mean test accuracy in percent."""
    settings = recipe("dsa", "digits", epochs=300, lr=rate, augmentation="none", batch_size=len(images))
    networks = train_networks(images, labels, SPEC, settings, [1, 2, 3], num_classes=test.num_classes)
    seen = test.batch(torch.arange(len(test)))
    with torch.no_grad():
        hits = [(network(seen).argmax(1) == test.labels).float().mean() for network in networks]
    return 100 * float(torch.stack(hits).mean())


@pytest.fixture(scope="module")
def short_experts() -> tuple[RealData, Tensor]:
    train, _ = data.load_pair("digits")
    network = Network(SPEC, train.shape, train.num_classes)
    return train, train_experts(network, train, count=2, epochs=3, lr=0.05, batch=64)


@pytest.mark.parametrize("method", ["adjoint", "tesla"])
def test_the_student_comes_closer_to_the_expert(method: str, short_experts: tuple[RealData, Tensor]) -> None:
    objective = TrajectoryMatching(student_steps=10, max_start_epoch=2, lr=0.03, meta_gradient=method)
    _, losses = distil(*short_experts, objective, 25, 10.0)
    assert mean(losses[-5:]) < 0.6 * mean(losses[:5])


@pytest.mark.slow
def test_one_distilled_image_per_class_beats_random_real_ones_by_far() -> None:
    train, test = data.load_pair("digits")
    network = Network(SPEC, train.shape, train.num_classes)
    experts = train_experts(network, train, count=5, epochs=7, lr=0.05, batch=64)
    random_accuracies = []
    for seed in range(4):
        index = train.sample_indices(range(10), 1, torch.Generator().manual_seed(seed))
        chosen = train.batch(index), train.labels[index]
        random_accuracies.append(max(accuracy(*chosen, test, rate) for rate in (0.02, 0.07)))
    for method in ("adjoint", "tesla"):
        objective = TrajectoryMatching(student_steps=20, max_start_epoch=5, lr=0.02, meta_gradient=method)
        pixels, losses = distil(train, experts, objective, 300, 10.0)
        reached = accuracy(pixels.images.detach(), pixels.classes, test, float(objective.recipe_changes()["lr"]))
        print(f"{method}: {reached:.1f} %, random real {mean(random_accuracies):.1f} %, loss {mean(losses[-50:]):.3f}")
        assert mean(losses[-50:]) <= 0.4
        assert reached >= 83
        assert reached >= mean(random_accuracies) + 12
