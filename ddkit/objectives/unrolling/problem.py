"""What an inner problem is: a student, the batches it is trained on, its learning rates and how its end is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ddkit.errors import ConfigError, DataError
from ddkit.networks.flat import FlatLoss

#: Returns images (n, C, H, W) and targets (n,) or (n, K) of one step with a graph to the leaves; every call replays the
#: same augmentation and gives the same values.
Batch = Callable[[], tuple[Tensor, Tensor]]
#: Takes the last weights (P,) and returns the loss () and its gradient (P,), both without a graph.
Terminal = Callable[[Tensor], tuple[Tensor, Tensor]]

#: A segment whose squared length is below this cannot be matched.
SMALLEST_SQUARED_DISTANCE = 1e-12


@dataclass(frozen=True)
class InnerProblem:
    r"""N steps of gradient descent on synthetic batches, and a loss of where they lead.

    .. math::
        m_{i+1} = \beta_i m_i + \nabla_\theta \ell(\theta_i, X_i, Y_i), \quad
        \theta_{i+1} = \theta_i - \eta_i m_{i+1}, \quad m_0 = 0, \qquad
        L = J(\theta_N) + \sum_t J_t(\theta_t)

    Without momentum the first equation is :math:`m_{i+1} = g_i`, plain gradient descent. The survey prints the risk of
    the real set in its Eq. 13; the gradient of a step is on the synthetic set, as here.

    Terminals are called once each, the last one first and the intermediate ones from the latest to the earliest,
    whatever the meta-gradient, so that a terminal may draw random numbers.

    Args:
        loss: :math:`\ell`, of a flat weight vector and a batch.
        start: :math:`\theta_0` (P,).
        batches: one callable per step, N of them; none is a student that stays where it is.
        rate: :math:`\eta`, of shape () for all steps or (N,) for one each; it may require a gradient.
        terminal: :math:`J`. Where it depends on :math:`\theta_0` as well (the denominator of trajectory matching), that
            part is taken as constant.
        momentum: :math:`\beta`, of shape () or (N,) like ``rate``; None for plain gradient descent.
        intermediate: :math:`J_t` by t in 1 to N - 1, in number of steps taken (GTN); empty for none.
        window: W, how many of the last steps are differentiated (truncated back-propagation through time); weights and
            momentum before them are constants, and intermediate losses there are left out. None for all.

    Raises:
        ConfigError: a start that is no vector, learning rates or momenta of another number than steps, an
            intermediate loss outside 1 to N - 1, or a window below 1.
    """

    loss: FlatLoss
    start: Tensor
    batches: Sequence[Batch]
    rate: Tensor
    terminal: Terminal
    momentum: Tensor | None = None
    intermediate: Mapping[int, Terminal] = field(default_factory=dict)
    window: int | None = None

    def __post_init__(self) -> None:
        steps = len(self.batches)
        if self.start.dim() != 1:
            raise ConfigError(f"start has shape {tuple(self.start.shape)}: give the weights as one vector (P,)")
        if self.rate.dim() and self.rate.shape != (steps,):
            raise ConfigError(
                f"rate has shape {tuple(self.rate.shape)} for {steps} steps: give one learning rate, or one per step"
            )
        if self.momentum is not None and self.momentum.dim() and self.momentum.shape != (steps,):
            raise ConfigError(
                f"momentum has shape {tuple(self.momentum.shape)} for {steps} steps: give one momentum, or one per step"
            )
        for number in self.intermediate:
            if not 0 < number < steps:
                raise ConfigError(
                    f"an intermediate loss after {number} of {steps} steps: choose numbers from 1 to {steps - 1}, the "
                    f"terminal loss is that after the last step"
                )
        if self.window is not None and self.window < 1:
            raise ConfigError(f"objective.window={self.window} must be at least 1, or null to differentiate every step")

    @property
    def first(self) -> int:
        """The first step that is differentiated: 0, or N - W with a window."""
        return 0 if self.window is None else max(0, len(self.batches) - self.window)

    def rates(self) -> list[Tensor]:
        """Return the learning rate of every step, N tensors of shape () with a graph to ``rate``."""
        return self._by_step(self.rate)

    def momenta(self) -> list[Tensor | None]:
        """Return the momentum of every step, N tensors of shape () with a graph to ``momentum``, or N times None."""
        if self.momentum is None:
            return [None] * len(self.batches)
        return [*self._by_step(self.momentum)]

    def constants(self, number: int) -> tuple[Tensor, Tensor | None]:
        """Return learning rate and momentum of step ``number`` without a graph."""
        rate, momentum = (
            None if values is None else values.detach()[number] if values.dim() else values.detach()
            for values in (self.rate, self.momentum)
        )
        assert rate is not None
        return rate, momentum

    def _by_step(self, values: Tensor) -> list[Tensor]:
        return list(values.unbind()) if values.dim() else [values] * len(self.batches)


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
