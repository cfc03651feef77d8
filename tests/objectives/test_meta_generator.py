"""Meta-learning through a teaching generator: all gradients of GTN against central differences, in float64."""

from __future__ import annotations

import torch

from ddkit import augment
from ddkit.base.streams import Streams
from ddkit.models import ModelSpec
from ddkit.networks import FreshNetworks, Network, RealSignal
from ddkit.objectives import Context
from ddkit.objectives.meta import MetaLearning
from ddkit.synthesis import TeachingGenerator
from ddkit.testing import toy_data


def curriculum() -> tuple[MetaLearning, TeachingGenerator]:
    """Five inner steps on five generator batches, each judged on real images, with learned rates and momenta."""
    data, streams, augmentation = toy_data(), Streams(0), augment.create("none")
    network = Network(ModelSpec.parse("convnet:width=3,depth=1,activation=swish"), data.shape, data.num_classes)
    network.module.double()
    objective = MetaLearning(
        inner_steps=5,
        batch_per_class=2,
        rate_form="exp",
        momentum=0.5,
        learn_momentum=True,
        momentum_form="exp",
        real_images=12,
        intermediate_every=1,
    )
    signal = RealSignal()
    signal.setup(data, streams, augmentation, objective.real_batch)
    generator = TeachingGenerator(3, 10, data.shape, per_batch=2, noise=3, hidden=6, channels=4).double()
    generator.initialise(data, "noise", torch.Generator().manual_seed(0))
    networks = FreshNetworks()
    context = Context(data.num_classes, signal, network, augmentation, streams, networks=networks)
    networks.setup(context)
    objective.setup(context, generator)
    return objective, generator


def loss(objective: MetaLearning, generator: TeachingGenerator) -> float:
    objective.context.streams.load_state_dict({})
    return objective.backward(generator)["loss"]


def test_gradients_of_generator_noise_rates_and_momenta_equal_central_differences() -> None:
    objective, generator = curriculum()
    loss(objective, generator)
    learnt = dict(generator.named_parameters()) | objective.sizes.raw
    gradients = {name: parameter.grad.clone().flatten() for name, parameter in learnt.items()}
    for name, parameter in learnt.items():
        flat = parameter.data.view(-1)
        for position in {0, len(flat) // 2}:
            found = []
            for sign in (1, -1):
                flat[position] += sign * 1e-5
                found.append(loss(objective, generator))
                flat[position] -= sign * 1e-5
            difference = (found[0] - found[1]) / 2e-5
            assert abs(float(gradients[name][position]) - difference) < 1e-6, (name, position)


def test_first_momentum_has_no_gradient() -> None:
    objective, generator = curriculum()
    loss(objective, generator)
    gradient = objective.sizes.raw["momenta"].grad
    assert float(gradient[0]) == 0 and bool((gradient[1:] != 0).all())
