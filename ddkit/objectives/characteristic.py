"""Characteristic functions: the whole distribution of features of every class, looked at along random frequencies."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ddkit.augment.base import Draws
from ddkit.base.ranges import Count, Inner, Share, Weight
from ddkit.errors import ConfigError
from ddkit.networks.fourier import unit
from ddkit.networks.network import Network
from ddkit.objectives.base import Context, registry
from ddkit.objectives.class_means import class_means
from ddkit.objectives.distances import norm
from ddkit.objectives.distribution import Distance, DistributionMatching
from ddkit.synthesis.base import Synthesizer

#: The phase term is no smaller than this: the square root has no slope at 0.
FLOOR = 1e-12


@registry.register("characteristic")
class CharacteristicMatching(DistributionMatching):
    r"""Match the characteristic function of every class (NCFM: Wang et al. 2025, CVPR, arXiv 2502.20653).

    .. math::
        \phi_c(t) = \tfrac{1}{|B_c|} \sum_{x \in B_c} e^{i \langle t, u(x) \rangle}, \qquad
        u(x) = \frac{\psi_\theta(A_{\omega_c}(x))}{\|\psi_\theta(A_{\omega_c}(x))\|}

    .. math::
        L(S) = \sum_c \tfrac{1}{m} \sum_{j \le m} \sqrt{\alpha\,(|\phi_R| - |\phi_S|)^2
               + 2 (1 - \alpha)\,\big(|\phi_R||\phi_S| - \mathrm{Re}\,\phi_R \bar\phi_S\big)}, \quad t_j \sim N(0, I)

    for real images R and synthetic ones S of a class. At :math:`\alpha = 1/2` a summand is
    :math:`|\phi_R - \phi_S| / \sqrt 2`, whose gradient, unlike that of a square, does not fade near the optimum. The
    mean of :math:`|\phi_R - \phi_S|^2` over frequencies is the squared maximum mean discrepancy under the kernel
    :math:`\exp(-\|u - u'\|^2 / 2)`, so that all moments count, in 2m numbers a class that ``signal=cached`` can keep.

    The frequencies are drawn anew at every step, as the authors' program draws them in every configuration that it
    ships; here all classes of a step share them. The network that draws them adversarially in the paper is left out:
    no released version of the program trains it. The published weight of 300 is left out as well: divide ``ce_weight``
    by it. ``pair_weight`` and the cross-entropy are those of ``distribution``; pairs are compared at length 1, too.

    Args:
        frequencies: m, drawn at every step.
        alpha: share of the amplitudes, in (0, 1); the phases have the rest.
        real_batch: real images per class and step (all of a smaller class).
        class_chunk: classes of the synthetic side differentiated together; None chooses by image count.
        pair_weight: weight of the distance to the paired real images, in [0, 1].
        ce_weight: weight of the cross-entropy of the synthetic images, at least 0.
        ce_network: the ``same`` network as that of the features, or the ``last`` one of its training run.
        ce_by_accuracy: whether the accuracy of that network in percent multiplies ``ce_weight``.

    Raises:
        ConfigError: an option out of range, batch norm, or a signal that does not tell characteristic functions.
    """

    gradient_scale = "kernel"

    def __init__(
        self,
        frequencies: Count = 1024,
        alpha: Inner = 0.5,
        real_batch: Count = 256,
        class_chunk: Count | None = None,
        pair_weight: Share = 0.0,
        ce_weight: Weight = 0.0,
        ce_network: Literal["same", "last"] = "same",
        ce_by_accuracy: bool = False,
    ) -> None:
        super().__init__(real_batch, class_chunk, pair_weight, ce_weight, ce_network, ce_by_accuracy)
        self.frequencies, self.alpha = frequencies, alpha

    def setup(self, context: Context, synthesizer: Synthesizer) -> None:
        """Refuse networks and signals whose answers say nothing along frequencies."""
        network = context.network
        context.signal.require("characteristic")
        if network.has_batch_norm:
            raise ConfigError(
                f"objective=characteristic with '{network.spec.canonical()}': batch norm makes the features of an "
                f"image depend on the others: use a network with norm=instance"
            )
        if network.dtype not in (torch.float32, torch.float64):
            raise ConfigError(
                f"objective=characteristic in {network.dtype}: differences of waves are below its rounding: use float32"
            )
        super().setup(context, synthesizer)

    def _distance(self, network: Network, classes: Tensor, draws: Draws) -> Distance:
        frequencies, real = self.context.signal.characteristic(network, classes, draws, self.frequencies)

        def distance(features: Tensor, group: Tensor, chosen: Tensor) -> Tensor:
            waves = class_means(frequencies(features), group, chosen)
            return characteristic_distance(real[chosen.to(real.device)], waves, self.alpha).sum()

        return distance

    def _view(self, features: Tensor) -> Tensor:
        return unit(features)


def characteristic_terms(real: Tensor, synthetic: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return how two characteristic functions differ in amplitude and in phase; the sum is their squared distance.

    .. math:: (|\phi_R| - |\phi_S|)^2, \qquad 2 \big(|\phi_R||\phi_S| - \mathrm{Re}\,\phi_R \bar\phi_S\big)

    Args:
        real: (G, 2m), real parts first.
        synthetic: the same, differentiable.

    Returns:
        two tensors (G, m).
    """
    r, s = (part.unflatten(1, (2, -1)).transpose(1, 2) for part in (real, synthetic))
    lengths = norm(r), norm(s)
    return (lengths[0] - lengths[1]).square(), 2 * (lengths[0] * lengths[1] - (r * s).sum(-1))


def characteristic_distance(real: Tensor, synthetic: Tensor, alpha: float) -> Tensor:
    """Return the mean over frequencies of the weighted distance of two characteristic functions: (G,).

    Args:
        real: (G, 2m), real parts first.
        synthetic: the same, differentiable.
        alpha: weight of the amplitude; the phase has the rest.
    """
    amplitude, phase = characteristic_terms(real, synthetic)
    return (alpha * amplitude + (1 - alpha) * phase.clamp(min=FLOOR)).sqrt().mean(1)
