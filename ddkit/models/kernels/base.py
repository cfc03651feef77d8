"""What is a kernel to ddkit: Gram matrices with a graph to the support, and ridge regression on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from ddkit.base.registry import Registry
from ddkit.errors import ConfigError
from ddkit.models.kernels.ridge import solve_ridge

#: ``build(options, shape, num_classes, device)``: makes a kernel from the options of its description.
Builder: TypeAlias = Callable[[Mapping[str, Any], tuple[int, int, int], int, torch.device], "Kernel"]

registry: Registry[Builder] = Registry("kernel", "ddkit.kernels")


class Kernel(ABC):
    """A similarity of images, differentiable with respect to the images of one side, the support.

    Gradients take the support alone: the other side (real targets, test images) is constant. The support is brought
    into a form of its own once (:meth:`represent`), from which every further matrix follows, so that a caller can cut
    the graph there and go over the targets chunk by chunk.
    """

    #: Under which a builder of such kernels is registered.
    name: ClassVar[str]

    @abstractmethod
    def represent(self, images: Tensor) -> Tensor:
        """Return what the kernel needs of the support (n, C, H, W), with its graph: features or the images, (n, F)."""

    @abstractmethod
    def gram(self, support: Tensor) -> Tensor:
        """Return K_ss (n, n) in float64, differentiable, from a :meth:`represent`-ed support."""

    @abstractmethod
    def cross(self, images: Tensor, support: Tensor) -> Tensor:
        """Return K_ts.

        Args:
            images: (B, C, H, W) targets; nothing is differentiated with respect to them.
            support: from :meth:`represent`, n images.

        Returns:
            (B, n) float64 with a graph to ``support``.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return a JSON-able mapping, ``name`` first, from which :func:`create` builds the kernel again.

        A kernel that is drawn anew all the time names fixed draws here, with which a result can be judged.
        """

    def targets_at_once(self, support: Tensor, limit: int) -> int:
        """Return how many targets :meth:`cross` should get at once for its memory's sake: at most ``limit``."""
        return limit

    def fit(self, support: Tensor, labels: Tensor, regulariser: float) -> Tensor:
        r"""Return the coefficients of kernel ridge regression.

        .. math:: B = \big(K_{ss} + \lambda \tfrac{\mathrm{tr} K_{ss}}{n} I\big)^{-1} y_s

        The survey (Lei and Tao, Eq. 14) writes :math:`\lambda I`; the programs of KIP, FRePo and RFAD multiply by the
        mean diagonal, which makes :math:`\lambda` dimensionless.

        Args:
            support: from :meth:`represent`, n images.
            labels: (n, K) target rows.
            regulariser: :math:`\lambda`.

        Returns:
            (n, K) float64, differentiable with respect to both; what :meth:`predict` takes. A kernel of few features
            may return another number of rows.

        Raises:
            RunError: the matrix is not positive definite.
        """
        gram = self.gram(support)
        return solve_ridge(gram, labels.to(gram), regulariser, gram.diagonal().mean())

    def predict(self, images: Tensor, support: Tensor, coefficients: Tensor) -> Tensor:
        """Return K_ts B (B, K) in float64 for images (B, C, H, W), with a graph to the other two arguments."""
        return self.cross(images, support) @ coefficients


def create(
    description: Mapping[str, Any],
    shape: tuple[int, int, int],
    num_classes: int,
    device: torch.device | str = "cpu",
) -> Kernel:
    """Build the kernel that :meth:`Kernel.describe` describes.

    Args:
        description: ``name`` and options.
        shape: (C, H, W) of the images.
        num_classes: K.
        device: where its networks live, if it has any.

    Raises:
        ConfigError: no such kernel, or an option that does not exist or is out of range.
    """
    options = dict(description)
    if "name" not in options:
        raise ConfigError("the description of a kernel lacks its name: choose one of " + ", ".join(registry))
    name = str(options.pop("name"))
    build = registry.get(name)
    try:
        return build(options, shape, num_classes, torch.device(device))
    except (TypeError, KeyError) as error:
        raise ConfigError(f"bad options of kernel '{name}': {error}") from None
