"""How large are the inner steps of meta-learning: rates and momenta, fixed or learned, in range by construction."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.base.ranges import Momentum, Rate, in_range
from ddkit.errors import ConfigError, DivergedError, unknown_name

LearnedRates = Literal["none", "shared", "per_step"]
RateForm = Literal["softplus", "exp"]
MomentumForm = Literal["sigmoid", "exp"]
LEARNED_RATES: tuple[str, ...] = ("none", "shared", "per_step")

#: Learned rates above this stop a run, as those of trajectory matching do.
MOST_RATE = 100.0
#: Added before a logarithm by GTN, whose learned values start that much higher.
SMALLEST = 1e-6


@dataclass(frozen=True)
class Form:
    """A map from a free number to one in range.

    Args:
        value: the map.
        free: its inverse, for the start.
    """

    value: Callable[[Tensor], Tensor]
    free: Callable[[float], float]


_EXPONENTIAL = Form(torch.exp, lambda value: math.log(value + SMALLEST))
#: DD learns softplus^-1 of its rates, GTN logarithms of rates and momenta.
RATE_FORMS: dict[str, Form] = {
    "softplus": Form(F.softplus, lambda value: value + math.log(-math.expm1(-value))),
    "exp": _EXPONENTIAL,
}
MOMENTUM_FORMS: dict[str, Form] = {
    "sigmoid": Form(torch.sigmoid, lambda value: math.log(value / (1 - value))),
    "exp": _EXPONENTIAL,
}


class StepSizes:
    r"""Rates :math:`\eta_t` and momenta :math:`\beta_t` of T inner steps.

    What is learned is a free number per step, or one for all steps. ``softplus`` keeps rates positive and ``sigmoid``
    momenta in (0, 1); ``exp`` is GTN's form of both, under which a momentum may pass 1: that is warned of once.

    Args:
        steps: T.
        lr: initial :math:`\eta`.
        learn_lr: ``none``, ``shared`` or ``per_step``.
        rate_form: ``softplus`` or ``exp``.
        momentum: initial :math:`\beta`; 0 for plain gradient descent.
        learn_momentum: whether :math:`\beta` is learned, per step where rates are.
        momentum_form: ``sigmoid`` or ``exp``.
    """

    @in_range("objective")
    def __init__(
        self,
        steps: int,
        lr: Rate,
        learn_lr: LearnedRates,
        rate_form: RateForm,
        momentum: Momentum,
        learn_momentum: bool,
        momentum_form: MomentumForm,
    ) -> None:
        if learn_momentum and not momentum:
            raise ConfigError(
                "objective.momentum=0 with objective.learn_momentum=true: a learned momentum starts above 0, such as "
                "0.5"
            )
        if learn_lr not in LEARNED_RATES:
            raise unknown_name("choice of objective.learn_lr", learn_lr, LEARNED_RATES)
        if rate_form not in RATE_FORMS:
            raise unknown_name("form of rates", rate_form, RATE_FORMS)
        if momentum_form not in MOMENTUM_FORMS:
            raise unknown_name("form of momenta", momentum_form, MOMENTUM_FORMS)
        self.steps, self.lr, self.momentum = steps, lr, momentum
        self.learn_lr, self.learn_momentum, self.per_step = learn_lr != "none", learn_momentum, learn_lr == "per_step"
        self._rate_form, self._momentum_form = RATE_FORMS[rate_form], MOMENTUM_FORMS[momentum_form]
        self.warned = False

    def create(self, device: torch.device, dtype: torch.dtype) -> None:
        """Create the numbers that are learned, at their start."""
        shape = (self.steps,) if self.per_step else ()

        def full(value: float) -> Tensor:
            return torch.full(shape, value, device=device, dtype=dtype)

        self.warned = False
        self.raw: dict[str, nn.Parameter] = {}
        self._constants = {"rates": full(self.lr), "momenta": full(self.momentum)}
        if self.learn_lr:
            self.raw["rates"] = nn.Parameter(full(self._rate_form.free(self.lr)))
        if self.learn_momentum:
            self.raw["momenta"] = nn.Parameter(full(self._momentum_form.free(self.momentum)))

    def rates(self) -> Tensor:
        """Return the rates (T,), or () where they are not learned per step, with a new graph to what is learned."""
        raw = self.raw.get("rates")
        return self._constants["rates"] if raw is None else self._rate_form.value(raw)

    def momenta(self) -> Tensor | None:
        """Return the momenta like :meth:`rates`; None for plain gradient descent."""
        if not self.momentum:
            return None
        raw = self.raw.get("momenta")
        return self._constants["momenta"] if raw is None else self._momentum_form.value(raw)

    def listed(self) -> tuple[list[float], list[float]]:
        """Return rates and momenta of all T steps; no momenta for plain gradient descent."""
        momenta = self.momenta()
        return self._of_all_steps(self.rates()), [] if momenta is None else self._of_all_steps(momenta)

    def _of_all_steps(self, values: Tensor) -> list[float]:
        numbers: list[float] = values.detach().expand(self.steps).tolist()
        return numbers

    def check(self) -> None:
        """Warn once of a momentum of 1 or more, under which what was learned is never forgotten.

        Raises:
            DivergedError: a rate that no network is trained with.
        """
        rates, momenta = self.listed()
        if max(rates) > MOST_RATE:
            raise DivergedError(
                f"the learned rate of inner step {rates.index(max(rates))} became {max(rates):.3g}, the most is "
                f"{MOST_RATE:g}: lower optimiser.groups.inner.lr, or set objective.learn_lr=none"
            )
        if not self.warned and momenta and max(momenta) >= 1:
            self.warned = True
            warnings.warn(
                f"the learned momentum of inner step {momenta.index(max(momenta))} is {max(momenta):.3g}, and steps "
                f"with 1 or more grow without bound where they are repeated: use objective.momentum_form=sigmoid",
                stacklevel=3,
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what was learned."""
        raw = {name: parameter.detach().clone() for name, parameter in self.raw.items()}
        return {"raw": raw, "warned": self.warned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with saved values."""
        with torch.no_grad():
            for name, parameter in self.raw.items():
                parameter.copy_(state["raw"][name])
        self.warned = bool(state["warned"])
