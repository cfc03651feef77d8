"""The exact meta-gradient takes the graph of all steps where it is small, and that of one step elsewhere."""

from __future__ import annotations

import torch

from ddkit.base.precision import Precision
from ddkit.models import ModelSpec
from ddkit.networks.network import Network
from ddkit.objectives.unrolling import Adjoint, Automatic, FullUnroll, Tesla, automatic


def test_it_goes_by_the_size_of_the_graph() -> None:
    spec = ModelSpec.parse("convnet:width=4,depth=2")
    network, compiled = (
        Network(spec, (1, 8, 8), 3, precision=Precision(torch.float32, compile)) for compile in (False, True)
    )
    fits = automatic.MOST_BYTES // (2 * 4 * network.cost.activations)
    for images, kind in ((1, FullUnroll), (fits, FullUnroll), (fits + 1, Adjoint)):
        assert type(Automatic().suited(network, images)) is kind
    assert type(Automatic().suited(compiled, 1)) is Adjoint
    for other in (Tesla(), Adjoint()):
        assert other.suited(network, 1) is other
