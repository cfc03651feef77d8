"""What an inner problem is: a student, the batches it is trained on, its learning rates and how its end is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ddkit.errors import ConfigError, DataError
from ddkit.objectives.unrolling.flat import FlatLoss

#: Returns images (n, C, H, W) and targets (n,) or (n, K) of one step with a graph to the leaves; every call replays the
#: same augmentation and gives the same values.
Batch = Callable[[], tuple[Tensor, Tensor]]
#: Takes the last weights (P,) and returns the loss () and its gradient (P,), both without a graph.
Terminal = Callable[[Tensor], tuple[Tensor, Tensor]]

#: A segment whose squared length is below this cannot be matched.
SMALLEST_SQUARED_DISTANCE = 1e-12


@dataclass(frozen=True)
class InnerProblem:
    r"""N steps of plain gradient descent on synthetic batches, and a loss of where they end.

    .. math::
        \theta_{i+1} = \theta_i - \eta_i \nabla_\theta \ell(\theta_i, X_i, Y_i), \qquad L = J(\theta_N)

    Args:
        loss: :math:`\ell`, of a flat weight vector and a batch.
        start: :math:`\theta_0` (P,).
        batches: one callable per step, N of them; none is a student that stays where it is.
        rate: :math:`\eta`, of shape () for all steps or (N,) for one each; it may require a gradient.
        terminal: :math:`J`. Where it depends on :math:`\theta_0` as well (the denominator of trajectory matching), that
            part is taken as constant.

    Raises:
        ConfigError: a start that is no vector, or learning rates of another number than steps.
    """

    loss: FlatLoss
    start: Tensor
    batches: Sequence[Batch]
    rate: Tensor
    terminal: Terminal

    def __post_init__(self) -> None:
        if self.start.dim() != 1:
            raise ConfigError(f"start has shape {tuple(self.start.shape)}: give the weights as one vector (P,)")
        if self.rate.dim() and self.rate.shape != (len(self.batches),):
            raise ConfigError(
                f"rate has shape {tuple(self.rate.shape)} for {len(self.batches)} steps: give one learning rate, or "
                f"one per step"
            )

    def rates(self) -> list[Tensor]:
        """Return the learning rate of every step, N tensors of shape () with a graph to ``rate``."""
        return list(self.rate.unbind()) if self.rate.dim() else [self.rate] * len(self.batches)


def distance_to(target: Tensor, start: Tensor) -> Terminal:
    r"""Return the loss of trajectory matching (survey Eq. 30) as a function of the last weights.

    .. math:: J(\theta_N) = \|\theta_N - \theta^*_{t+M}\|^2 \,/\, \|\theta^*_t - \theta^*_{t+M}\|^2

    Args:
        target: :math:`\theta^*_{t+M}` (P,).
        start: :math:`\theta^*_t` (P,), where the expert was; 1 is the loss of staying there.

    Raises:
        DataError: both are the same.
    """
    scale = (start - target).square().sum()
    if not float(scale) >= SMALLEST_SQUARED_DISTANCE:
        raise DataError(
            f"start and target of the segment are {float(scale):.3g} apart (squared), at least "
            f"{SMALLEST_SQUARED_DISTANCE:g} is needed: train the experts longer or with a larger learning rate"
        )

    def terminal(end: Tensor) -> tuple[Tensor, Tensor]:
        difference = end - target
        return difference.square().sum() / scale, difference * (2 / scale)

    return terminal
