"""How does a kernel classify with a distilled set: ridge regression on its images and labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.base.ranges import Weight, in_range
from ddkit.errors import ConfigError
from ddkit.models.kernels.base import Kernel


def regression_rows(targets: Tensor, num_classes: int, kind: str) -> Tensor:
    """Return targets as rows for a regression, differentiable where they are learned.

    Args:
        targets: (N,) int64 or (N, K).
        num_classes: K.
        kind: ``hard`` (one-hot - 1/K), ``soft`` (probabilities - 1/K) or ``regression`` (as they are).

    Returns:
        (N, K), float64 where labels are hard; hard and soft rows have sum 0.
    """
    if not targets.is_floating_point():
        targets = F.one_hot(targets, num_classes).double()
    return targets if kind == "regression" else targets - 1 / num_classes


def with_mirrored(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return images (n, C, H, W) and rows (n, K) followed by their horizontal mirror images with the same rows."""
    return torch.cat([images, images.flip(3)]), torch.cat([rows, rows])


class KernelClassifier:
    r"""Kernel ridge regression on a distilled set (survey Eq. 14).

    .. math::
        \hat y(x) = K(x, S) \big(K_{ss} + \lambda \tfrac{\mathrm{tr} K_{ss}}{n} I\big)^{-1} y_s

    Args:
        kernel: similarity of images.
        images: (n, C, H, W) support S.
        labels: (n, K) rows, see :func:`regression_rows`.
        regulariser: :math:`\lambda`, relative to the mean diagonal.

    Raises:
        ConfigError: images and labels that do not belong together, values that are not finite, or a regulariser that is
            negative.
        RunError: the system is not positive definite.
    """

    @in_range("")
    def __init__(self, kernel: Kernel, images: Tensor, labels: Tensor, regulariser: Weight = 1e-6) -> None:
        if images.dim() != 4 or labels.dim() != 2 or len(images) != len(labels) or not len(images):
            raise ConfigError(
                f"a kernel classifier needs (n, C, H, W) images and (n, K) rows, not {tuple(images.shape)} and "
                f"{tuple(labels.shape)}"
            )
        if not (images.is_floating_point() and bool(images.isfinite().all() and labels.isfinite().all())):
            raise ConfigError("images and labels of a kernel classifier must be finite floating-point numbers")
        self.kernel, self.regulariser = kernel, regulariser
        with torch.no_grad():
            self.support = kernel.represent(images)
            self.coefficients = kernel.fit(self.support, labels.to(self.support.device), regulariser)

    def predict(self, images: Tensor, chunk: int = 512) -> Tensor:
        """Return the regression (B, K) in float64 for preprocessed images (B, C, H, W), at most ``chunk`` at a time."""
        size = self.kernel.targets_at_once(self.support, max(1, chunk))
        with torch.no_grad():
            parts = [self.kernel.predict(part, self.support, self.coefficients) for part in images.split(size)]
        return torch.cat(parts)

    def accuracy(self, images: Tensor, labels: Tensor, chunk: int = 512) -> float:
        """Return the share of images (B, C, H, W) whose largest entry is that of their class (B,)."""
        return float((self.predict(images, chunk).argmax(1).cpu() == labels.cpu()).double().mean())
