"""Objectives work with pieces that later methods bring: frozen decoders, fixed images, networks of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddkit import Distiller
from ddkit.data import RealData
from ddkit.networks import FreshNetworks, Network
from ddkit.objectives import Context
from ddkit.synthesis import Pixels


def toy() -> RealData:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (30, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return RealData.from_tensors(images, torch.arange(30) % 3)


class FrozenDecoder(Pixels):
    def __init__(self) -> None:
        super().__init__(3, 2, (1, 8, 8))
        self.decoder = nn.Conv2d(1, 1, 1)
        self.decoder.requires_grad_(False)

    def decode(self, index: Tensor) -> Tensor:
        return self.decoder(self.images[index])


class Identical(Pixels):
    """All real images, in class order: nothing is left to match."""

    def initialise(self, real: RealData, how: str, generator: torch.Generator) -> None:
        with torch.no_grad():
            self.images.copy_(torch.cat([real.batch(index) for index in real.class_index]))


class OwnNetworks(FreshNetworks):
    """Hands out a network that is not the module it was given."""

    def setup(self, context: Context) -> None:
        super().setup(context)
        network = context.network
        self.own = Network(network.spec, network.shape, network.num_classes)
        self.own.reset(7)

    def current(self) -> Network:
        return self.own


def distil(method: str, **options: Any) -> None:
    ipc = options["synthesizer"].ipc
    settings = {"steps": 1, "model": "convnet:width=4", "augmentation": "none", "objective": {"real_batch": 10}}
    Distiller(method, ipc=ipc, **{**settings, **options}).fit(toy())


@pytest.mark.parametrize("method", ["dm", "dc"])
def test_frozen_decoder_is_neither_trained_nor_in_the_way(method: str) -> None:
    synthesizer = FrozenDecoder()
    before = synthesizer.decoder.weight.clone()
    distil(method, synthesizer=synthesizer, objective={"real_batch": 10, "class_chunk": 1})
    assert torch.equal(synthesizer.decoder.weight, before)
    assert len(synthesizer.parameter_groups()["images"]) == 1


def test_labels_alone_can_be_learned() -> None:
    synthesizer = Pixels(3, 2, (1, 8, 8), labels="learned")
    synthesizer.images.requires_grad_(False)
    assert list(synthesizer.parameter_groups()) == ["labels"]
    start = next(iter(synthesizer.labels.parameters())).detach().clone()
    distil("dc", synthesizer=synthesizer)
    assert not torch.equal(next(iter(synthesizer.labels.parameters())), start)


@pytest.mark.parametrize("method", ["dm", "dc"])
def test_both_sides_are_seen_on_the_network_of_the_step(method: str) -> None:
    synthesizer = Identical(3, 10, (1, 8, 8))
    distil(method, synthesizer=synthesizer, init="real", networks=OwnNetworks())
    assert synthesizer.images.grad is not None
    moved = Pixels(3, 10, (1, 8, 8))
    distil(method, synthesizer=moved, init="noise", networks=OwnNetworks())
    assert moved.images.grad is not None
    assert float(synthesizer.images.grad.norm()) < 1e-2 * float(moved.images.grad.norm())
