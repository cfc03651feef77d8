"""The maximum mean discrepancy under Gaussian kernels: all moments of the features of every class."""

from __future__ import annotations

import torch
from torch import Tensor

from ddkit.augment.base import Draws
from ddkit.networks.network import Network
from ddkit.objectives.base import Context, registry
from ddkit.objectives.distribution import Distance, DistributionMatching
from ddkit.synthesis.base import Synthesizer


@registry.register("discrepancy")
class DiscrepancyMatching(DistributionMatching):
    r"""Match the distribution of every class under Gaussian kernels (M3D: Zhang et al. 2024, AAAI, arXiv 2312.15927).

    .. math:: L(S) = \sum_c \overline{k(R_c, R_c)} - 2\,\overline{k(R_c, S_c)} + \overline{k(S_c, S_c)}, \qquad
        k(z, z') = \sum_{q=-2}^{2} e^{-\|z - z'\|^2 / (2^q b_c)}

    means over all pairs, an image with itself among them, of the features of the network of a step; :math:`b_c` is the
    mean squared distance of two of the class's images, real and synthetic together, without a gradient. The loss does
    not depend on the scale of the features and is at most 10 a class; it is 0 where all of them are equal. Under a
    linear kernel it would be ``distribution``, whose options and further terms it shares, but not its learning rates.
    """

    gradient_scale = "kernel"

    def setup(self, context: Context, synthesizer: Synthesizer) -> None:
        """Refuse signals that do not show every image."""
        context.signal.require("features")
        super().setup(context, synthesizer)

    def _distance(self, network: Network, classes: Tensor, draws: Draws) -> Distance:
        features, rows = self.context.signal.features(network, classes, draws)
        real = [features[(rows == row).to(features.device)] for row in range(len(classes))]

        def distance(features: Tensor, group: Tensor, chosen: Tensor) -> Tensor:
            parts = [features[(group == c).to(features.device)] for c in chosen.tolist()]
            return torch.stack(
                [discrepancy(real[c], part) for c, part in zip(chosen.tolist(), parts, strict=True)]
            ).sum()

        return distance


def discrepancy(real: Tensor, synthetic: Tensor) -> Tensor:
    """Return the squared discrepancy of features (n, D) and (s, D) under five kernels: a differentiable scalar."""
    both = torch.cat([real, synthetic])
    both = both - both.detach().mean(0)  # distances stay, and lose less to rounding
    squares = both.square().sum(1)
    distances = (squares[:, None] + squares - 2 * both @ both.T).clamp(min=0)
    width = distances.detach().sum() / (len(both) * (len(both) - 1))
    shrunk = distances / torch.where(width > 0, width, torch.ones_like(width))
    kernel = torch.stack([(-shrunk / 2**q).exp() for q in range(-2, 3)]).sum(0)
    signs = torch.cat(
        [both.new_full((len(real),), 1 / len(real)), both.new_full((len(synthetic),), -1 / len(synthetic))]
    )
    return signs @ kernel @ signs
