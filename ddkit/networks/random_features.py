"""Several random networks at once, whose features estimate the kernel of an infinitely wide one."""

from __future__ import annotations

import torch
from torch import Tensor

from ddkit.base.ranges import Count, Rate, Weight
from ddkit.base.streams import derive_seed
from ddkit.errors import ConfigError
from ddkit.models.kernels.features import RandomFeatures
from ddkit.networks.network import Network
from ddkit.networks.setting import Setting
from ddkit.networks.sources import FreshNetworks, registry


class Body:
    """One set of random weights of a network that several bodies share, so that its passes are compiled once.

    The weights are copied into the network whenever this body's features are asked for, which costs little beside a
    pass. Gradients with respect to the images are those of the moment: differentiate, or let a checkpoint repeat the
    pass, before another body is asked.

    Args:
        network: whose module takes the weights.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.weights = [parameter.detach().clone() for parameter in network.module.parameters()]

    def draw(self, seed: int) -> None:
        """Draw new weights."""
        self.network.reset(seed)
        with torch.no_grad():
            for mine, parameter in zip(self.weights, self.network.module.parameters(), strict=True):
                mine.copy_(parameter)

    def load(self) -> None:
        """Put the weights into the network."""
        with torch.no_grad():
            for mine, parameter in zip(self.weights, self.network.module.parameters(), strict=True):
                parameter.copy_(mine)

    def features(self, images: Tensor, /) -> Tensor:
        """Return (N, F) for images (N, C, H, W)."""
        self.load()
        return self.network.features(images)


@registry.register("random-features")
class RandomFeatureNetworks(FreshNetworks):
    r"""M random bodies for every outer step, drawn anew (RFAD, Loo et al. 2022, arXiv 2210.12067).

    .. math:: K(x, x') = \frac{s}{M F} \sum_m \phi_m(x)^\top \phi_m(x') + b

    With weights N(0, 2/fan-in), biases N(0, 0.01), s = 2 and b = 0.01 (``init=ntk``) it is an unbiased estimate of the
    NNGP kernel of the architecture with its last layer integrated out; new bodies at every step keep the images from
    fitting one draw. Bodies have the architecture of the run (``model``): ``convnet:norm=none,width=256,init=ntk`` is
    the published one. A model with norms, or another initialisation, is a kernel as well, but no such estimate.

    On a CPU a loop over the bodies in channels-last layout is what pays: 126 against 259 ms for a grouped convolution
    and 927 ms for ``vmap`` (8 bodies of width 32 on 256 images, one core).

    Args:
        bodies: M.
        scale: s.
        bias: b.
        evaluation_bodies: fixed bodies of the kernel with which the result is judged.
    """

    def __init__(
        self, bodies: Count = 8, scale: Rate = 2.0, bias: Weight = 0.01, evaluation_bodies: Count = 16
    ) -> None:
        self.bodies, self.scale, self.bias, self.evaluation_bodies = bodies, scale, bias, evaluation_bodies

    def setup(self, setting: Setting) -> None:
        """Make room for the weights of all bodies, which share the network of the run."""
        super().setup(setting)
        network = setting.network
        if network.has_batch_norm:
            raise ConfigError(
                f"model '{network.spec.canonical()}' has batch norm, whose random networks are no kernel: use "
                f"norm=none, or networks=online-pool"
            )
        network.module.to(network.dtype).requires_grad_(False)
        self.networks = [Body(network) for _ in range(self.bodies)]
        # A name of its own, so that judging a run changes nothing in it.
        seed = derive_seed(setting.streams.seed, "kernel-evaluation")
        self._kernel = RandomFeatures(
            self.networks,
            model=network.spec.canonical(),
            count=self.evaluation_bodies,
            seed=seed,
            scale=self.scale,
            bias=self.bias,
        )

    def kernel(self) -> RandomFeatures:
        """Return the kernel of the present bodies; its description is that of fixed ones."""
        return self._kernel

    def current(self) -> Network:
        """Draw new weights for every body, in place, and return the first."""
        for body in self.networks:
            body.draw(self.streams.integer("networks"))
        self.networks[0].load()
        self.drawn += 1
        return self.network

    @property
    def at_once(self) -> int:
        """M."""
        return self.bodies
