"""Which labels of given images make kernel ridge regression fit the real data best?"""

from __future__ import annotations

import torch
from torch import Tensor

from ddkit.base.ranges import Weight, in_range
from ddkit.errors import ConfigError
from ddkit.models.kernels.base import Kernel
from ddkit.models.kernels.ridge import regularised


@in_range("")
def solve_labels(kernel: Kernel, images: Tensor, targets: Tensor, rows: Tensor, regulariser: Weight = 1e-6) -> Tensor:
    r"""Return the labels that minimise the squared error on real data with the images fixed (KIP's label solve).

    .. math::
        y_s^* = A \, K_{ts}^+ \, y_t, \qquad A = K_{ss} + \lambda \tfrac{\mathrm{tr} K_{ss}}{n} I

    (Nguyen et al. 2021, ICLR, arXiv 2011.00050). The authors' program solves regularised normal equations; a
    pseudo-inverse by singular values in float64 is used here, as normal equations square the condition number.

    Args:
        kernel: similarity of images.
        images: (n, C, H, W) synthetic images.
        targets: (B, C, H, W) real images, at least n of them.
        rows: (B, K) their labels, see :func:`~ddkit.models.kernels.classifier.regression_rows`.
        regulariser: :math:`\lambda`.

    Returns:
        (n, K) float64 on the device of ``rows``.

    Raises:
        ConfigError: fewer targets than images, or a regulariser out of range.
    """
    if len(images) > len(targets):
        raise ConfigError(
            f"the labels of {len(images)} images are not determined by {len(targets)} real images: use at least as many"
        )
    with torch.no_grad():
        support = kernel.represent(images)
        gram = kernel.gram(support)
        chunk = kernel.targets_at_once(support, 512)
        cross = torch.cat([kernel.cross(part, support) for part in targets.split(chunk)])
        # The driver that copes with rank deficiency exists on the CPU only.
        coefficients = torch.linalg.lstsq(cross.cpu(), rows.double().cpu(), driver="gelsd").solution.to(gram)
        return (regularised(gram, regulariser, gram.diagonal().mean()) @ coefficients).to(rows.device)
