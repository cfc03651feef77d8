"""Meta-learning on digits: few images, learned steps and labels, and what breaks without the gradient."""

from __future__ import annotations

import os
from dataclasses import replace
from statistics import mean
from typing import Any

import pytest
import torch
from torch import Tensor

from ddkit import data, methods
from ddkit.base.progress import silent
from ddkit.data import RealData
from ddkit.engine.session import Session
from ddkit.models import ModelSpec
from ddkit.networks import FixedNetworks, Network
from ddkit.networks.flat import FlatNetwork
from ddkit.objectives import MetaLearning
from ddkit.objectives.unrolling import Adjoint, Batch, InnerProblem, Unrolled
from ddkit.objectives.unrolling.base import walk

MODEL = "mlp:width=64,init=xavier"
ADAM = {
    "name": "adam",
    "lr": 0.01,
    "betas": (0.5, 0.999),
    "schedule": "milestones",
    "milestones": [0.2, 0.4, 0.6, 0.8],
    "gamma": 0.5,
}


class Detached(Adjoint):
    """Cuts the images off, so that only the rates learn."""

    def backward(self, problem: InnerProblem) -> Unrolled:
        def cut(batch: Batch) -> Batch:
            return lambda: tuple(tensor.detach() for tensor in batch())  # type: ignore[return-value]

        return super().backward(replace(problem, batches=[cut(batch) for batch in problem.batches]))


@pytest.fixture(scope="module")
def digits() -> tuple[RealData, RealData]:
    return data.load_pair("digits")


def distil(method: str, train: RealData, ipc: int, steps: int, *, seed: int = 0, **overrides: Any) -> Session:
    """Distil ``steps`` outer steps in memory through the preset of ``method``."""
    settings: dict[str, Any] = {"steps": steps, "optimiser": ADAM, "objective": {"real_images": 256}, "model": MODEL}
    objects = {key: value for key, value in overrides.items() if not isinstance(value, dict | str)}
    settings |= {key: value for key, value in overrides.items() if key not in objects}
    config = methods.get(method).configure(
        train, ipc, seed, {**settings, "precision": "float32", "compile": False, "device": "cpu"}
    )
    session = Session(config, train, objects)
    session.prepare(silent)
    session.start()
    for number in range(1, steps + 1):
        session.step(number)
    return session


def trained(
    seeds: list[int], batches: list[tuple[Tensor, Tensor]], rates: Tensor, test: RealData, model: str = MODEL
) -> float:
    """Return the mean test accuracy (percent) of networks from ``seeds`` after the given steps."""
    network = Network(ModelSpec.parse(model), test.shape, test.num_classes)
    flat, seen = FlatNetwork(network), test.batch(torch.arange(len(test)))
    accuracies = []
    for seed in seeds:
        network.reset(seed)
        start = torch.cat([weight.detach().flatten() for weight in network.module.parameters()])
        callables = [lambda batch=batch: batch for batch in batches]
        problem = InnerProblem(flat.loss, start, callables, rates, lambda theta: (theta.sum(), theta))  # type: ignore[arg-type]
        logits = flat.logits(walk(problem)[0].theta, seen)
        accuracies.append(100 * float((logits.argmax(1) == test.labels).float().mean()))
    return mean(accuracies)


def accuracy(session: Session, test: RealData) -> float:
    """Train as it was learned: on the fixed weights, or on 20 fresh networks."""
    objective, source = session.objective, session.networks
    assert isinstance(objective, MetaLearning)
    images, targets = (part.detach() for part in session.synthesizer())
    index = objective.order.batches(session.synthesizer, torch.Generator())
    seeds = source.seeds if isinstance(source, FixedNetworks) else list(range(1000, 1020))
    batches = [(images[rows], targets[rows]) for rows in index]
    return trained(seeds, batches, torch.tensor(objective.sizes.listed()[0]), test, session.config.model)


def random_real(train: RealData, test: RealData, ipc: int, steps: int, seeds: list[int], model: str = MODEL) -> float:
    """Return what random real images reach in as many steps, at the best of eight rates as seen on the test set."""
    reached = []
    for draw in range(5):
        index = train.sample_indices(range(10), ipc, torch.Generator().manual_seed(draw))
        images, labels = train.batch(index).view(10, ipc, *train.shape), train.labels[index].view(10, ipc)
        batches = [(images[:, step % ipc], labels[:, step % ipc]) for step in range(steps)]
        rates = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2)
        reached.append(max(trained(seeds, batches, torch.tensor(rate), test, model) for rate in rates))
    return mean(reached)


FRESH = list(range(2000, 2005))


def test_one_image_per_class_for_known_weights(digits: tuple[RealData, RealData]) -> None:
    train, test = digits
    reached = accuracy(distil("dd", train, 1, 1000, networks="fixed"), test)
    real = random_real(train, test, 1, 3, FRESH)
    print(f"DD, fixed initialisation, IPC 1: {reached:.1f} %, random real {real:.1f} %")
    assert reached >= real + 35


@pytest.mark.slow
def test_ten_images_per_class_need_the_gradient_through_all_steps(digits: tuple[RealData, RealData]) -> None:
    train, test = digits
    real = random_real(train, test, 10, 30, FRESH)
    whole = accuracy(distil("dd", train, 10, 600), test)
    soft = accuracy(distil("sldd", train, 10, 600), test)
    last = accuracy(distil("dd", train, 10, 600, objective={"real_images": 256, "window": 1}), test)
    objective = MetaLearning(batch_per_class=1, real_images=256)
    objective.meta_gradient = Detached()
    detached = accuracy(distil("dd", train, 10, 100, objective=objective), test)
    print(f"IPC 10: DD {whole:.1f}, SLDD {soft:.1f}, real {real:.1f}, last step {last:.1f}, detached {detached:.1f} %")
    assert whole >= real + 3 and soft >= real + 3
    assert last < real + 3 and detached < real + 3


@pytest.mark.slow
def test_one_image_per_class_for_fresh_networks(digits: tuple[RealData, RealData]) -> None:
    train, test = digits
    reached, real = accuracy(distil("dd", train, 1, 2000), test), random_real(train, test, 1, 3, FRESH)
    print(f"DD, fresh networks, IPC 1: {reached:.1f} %, random real {real:.1f} %")
    assert reached >= real + 20


@pytest.mark.slow
def test_learned_labels_beat_hard_ones(digits: tuple[RealData, RealData]) -> None:
    train, test = digits
    reached: dict[str, list[float]] = {"dd": [], "sldd": []}
    for seed in range(3):
        for method, found in reached.items():
            found.append(accuracy(distil(method, train, 1, 1000, seed=seed, networks="fixed"), test))
    real = random_real(train, test, 1, 3, FRESH)
    print(f"fixed initialisation, IPC 1: {reached}, random real {real:.1f} %")
    assert min(reached["sldd"]) >= real + 40
    assert mean(reached["sldd"]) >= mean(reached["dd"]) + 2


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "least"), [([0, 1, 2, 3, 4], 70), ([0, 3, 7], 55)], ids=["five", "three"])
def test_fewer_images_than_classes_teach_all_classes(
    digits: tuple[RealData, RealData], classes: list[int], least: float
) -> None:
    train, test = digits
    synthesis = {"name": "pixels", "labels": "free", "classes": classes}
    reached = accuracy(distil("sldd", train, 1, 1000, networks="fixed", synthesis=synthesis), test)
    print(f"{len(classes)} images: {reached:.1f} %, hard labels could reach {10 * len(classes)} %")
    assert reached >= least > 10 * len(classes)


@pytest.mark.slow
@pytest.mark.skipif("DDKIT_DATA" not in os.environ, reason="set DDKIT_DATA to a folder with MNIST")
@pytest.mark.parametrize(("method", "margin"), [("dd", 40), ("sldd", 35)])
def test_ten_mnist_images_teach_a_known_lenet(method: str, margin: float) -> None:
    train, test = data.load_pair("mnist", root=os.environ["DDKIT_DATA"])
    model = "lenet:init=xavier"
    session = distil(method, train, 1, 1000, networks="fixed", model=model, objective={"real_images": 1024})
    reached, real = accuracy(session, test), random_real(train, test, 1, 3, FRESH[:2], model)
    print(f"MNIST, {method}, fixed LeNet: {reached:.1f} %, random real {real:.1f} %")
    assert reached >= real + margin
