"""How are the synthetic data updated: one optimiser per group of learnable tensors, and those PyTorch lacks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ddkit.base.config import OptimiserConfig
from ddkit.base.ranges import Momentum, Rate, Weight, in_range
from ddkit.errors import unknown_name


def build_optimisers(
    groups: Mapping[str, list[nn.Parameter]], config: OptimiserConfig, optional: Collection[str] = ()
) -> dict[str, torch.optim.Optimizer]:
    """Return one optimiser per group of learnable tensors.

    Args:
        groups: learnable tensors by group.
        config: settings, also of single groups.
        optional: groups for which there may be settings where nothing is learned.

    Raises:
        ConfigError: settings for a group that does not exist.
    """
    for name in config.groups:
        if name not in groups and name not in optional:
            raise unknown_name("parameter group", name, groups)
    return {name: _optimiser(parameters, config, name) for name, parameters in groups.items()}


def _optimiser(parameters: list[nn.Parameter], config: OptimiserConfig, group: str) -> torch.optim.Optimizer:
    settings = config.of(group)
    if settings.name == "sgd":
        return torch.optim.SGD(
            parameters, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
    adaptive: dict[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "lamb": Lamb, "adabelief": AdaBelief}
    options: dict[str, Any] = {"lr": settings.lr, "betas": settings.betas, "weight_decay": settings.weight_decay}
    return adaptive[settings.name](parameters, **options)


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Scale all gradients by one factor so that their joint Euclidean norm is at most ``limit``.

    Args:
        parameters: of all groups; those without a gradient do not count.
        limit: largest norm; shorter gradients stay the same to the bit.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    norms = torch.stack([torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients])
    factor = (limit / torch.linalg.vector_norm(norms)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.to(gradient.dtype))


class _Moments(torch.optim.Optimizer, ABC):
    """An optimiser with two moments per tensor and a count of its steps.

    Args:
        parameters: what is updated.
        lr: learning rate.
        betas: decay rates of the first and the second moment.
        eps: keeps a division finite; None for the optimiser's own.
        weight_decay: L2 penalty.
    """

    default_eps: ClassVar[float]

    @in_range("optimiser")
    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: Rate = 1e-3,
        betas: tuple[Momentum, Momentum] = (0.9, 0.999),
        eps: Weight | None = None,
        weight_decay: Weight = 0.0,
    ) -> None:
        eps = self.default_eps if eps is None else eps
        super().__init__(parameters, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient.

        Args:
            closure: evaluates the loss anew, with gradients, before the update.

        Returns:
            the loss of ``closure``, if there is one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, self._moments(parameter), group)
        return loss

    def _moments(self, parameter: Tensor) -> dict[str, Any]:
        """Return the state of a parameter, one step further on."""
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state.update(step=0, first=torch.zeros_like(parameter), second=torch.zeros_like(parameter))
        state["step"] += 1
        return state

    @abstractmethod
    def _update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Move ``parameter`` in place; ``state`` holds its moments and the number of this step, from 1."""


class Lamb(_Moments):
    r"""Adam's direction, scaled to the norm of the tensor that it moves (You et al. 2020, arXiv 1904.00962).

    .. math::
        u = \frac{\hat m}{\sqrt{\hat v} + \varepsilon} + \lambda p, \qquad
        p \leftarrow p - \eta \frac{\|p\|}{\|u\|} u

    with Adam's bias-corrected moments. As in Optax, the norms are those of the whole tensor, they are not clipped, and
    their ratio is 1 where either is 0. Every step therefore moves a tensor by exactly the share ``lr`` of its norm.

    Args:
        parameters: what is updated.
        lr: eta, the relative movement per step.
        betas: decay rates of m and v.
        eps: epsilon; None for 1e-6.
        weight_decay: lambda.
    """

    default_eps = 1e-6

    def _update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        first, second, step = state["first"], state["second"], state["step"]
        first.mul_(beta1).add_(gradient, alpha=1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = (second / (1 - beta2**step)).sqrt_().add_(group["eps"])
        direction = (first / (1 - beta1**step)).div_(scale)
        if group["weight_decay"]:
            direction.add_(parameter, alpha=group["weight_decay"])
        ratio = torch.linalg.vector_norm(parameter) / torch.linalg.vector_norm(direction)
        ratio = torch.where(ratio.isfinite() & (ratio > 0), ratio, torch.ones_like(ratio))
        parameter.sub_(direction.mul_(ratio * group["lr"]))


class AdaBelief(_Moments):
    r"""Adam whose second moment is that of the gradient's surprise (Zhuang et al. 2020, arXiv 2010.07468).

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
        s \leftarrow \beta_2 s + (1 - \beta_2)(g - m)^2 + \varepsilon, \quad
        p \leftarrow p - \eta \frac{\hat m}{\sqrt{\hat s} + \varepsilon}

    bias-corrected, without the rectification of the authors' later releases.

    Args:
        parameters: what is updated.
        lr: eta.
        betas: decay rates of m and s.
        eps: epsilon, added twice as published; None for 1e-16.
        weight_decay: L2 penalty, added to the gradient as in ``torch.optim.Adam``.
    """

    default_eps = 1e-16

    def _update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        first, second, step = state["first"], state["second"], state["step"]
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        first.mul_(beta1).add_(gradient, alpha=1 - beta1)
        surprise = gradient - first
        second.mul_(beta2).addcmul_(surprise, surprise, value=1 - beta2).add_(group["eps"])
        scale = (second / (1 - beta2**step)).sqrt_().add_(group["eps"])
        parameter.addcdiv_(first / (1 - beta1**step), scale, value=-group["lr"])
