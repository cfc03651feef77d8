"""No network at all: the kernel of an infinitely wide one, for kernel regression."""

from __future__ import annotations

from typing import Any

from ddkit.base.ranges import Rate, Weight
from ddkit.models.kernels.architectures import infinite_kernel
from ddkit.models.kernels.infinite import InfiniteKernel, InfiniteKind, require_kind
from ddkit.networks.network import Network
from ddkit.networks.setting import Setting
from ddkit.networks.sources import NetworkSource, registry
from ddkit.synthesis.base import Synthesizer


@registry.register("infinite")
class InfiniteNetworks(NetworkSource):
    """The tangent or Gaussian-process kernel of an infinitely wide network (KIP), which nothing draws or trains.

    Fully connected kernels cost next to nothing. Convolutional ones with pooling follow (2R+1)² H W covariances of
    every pair of images: 176,400 at 28x28 for ``convnet``, a matter of hours on an accelerator and of days on a CPU.

    Args:
        kernel: ``ntk`` or ``nngp``.
        architecture: ``fcN``, ``convN``, ``convnet``, ``convnet3``, ``myrtle5``, or layers such as ``cpcpf``, see
            :func:`ddkit.models.kernels.infinite_kernel`.
        sigma_w2: variance of the weights, times fan-in.
        sigma_b2: variance of the biases; at 0 an image without any ink has no direction.
    """

    def __init__(
        self,
        kernel: InfiniteKind = "ntk",
        architecture: str = "fc1",
        sigma_w2: Rate = 2.0,
        sigma_b2: Weight = 0.01,
    ) -> None:
        require_kind(kernel)
        self.architecture = architecture
        self.options: dict[str, Any] = {"kernel": kernel, "sigma_w2": sigma_w2, "sigma_b2": sigma_b2}

    def setup(self, setting: Setting) -> None:
        """Build the kernel for the shape of the images."""
        super().setup(setting)
        self._kernel = infinite_kernel(self.architecture, setting.network.shape, **self.options)

    def kernel(self) -> InfiniteKernel:
        """Return the kernel."""
        return self._kernel

    def current(self) -> Network:
        """Return the finite network of this run as it is; it only says on what results are evaluated."""
        return self.network

    @property
    def at_once(self) -> int:
        """None: the kernel needs no network."""
        return 0

    def age(self) -> tuple[int, int]:
        """There is one kernel, and it does not age."""
        return 0, 0

    def after_step(self, synthesizer: Synthesizer, *, last: bool) -> None:
        """Keep nothing between steps."""
