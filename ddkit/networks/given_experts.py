"""Do given experts suit what a run asks for?"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from ddkit.errors import ConfigError
from ddkit.training.experts.settings import ExpertSettings

#: Settings of the training that make experts flat.
FLATNESS = ("rho", "alpha", "adaptive")
#: Settings of the training for which the learning rates of a method are tuned.
TUNED_FOR = ("lr", "batch_size")


def require_flatness(settings: ExpertSettings, wanted: Mapping[str, Any], where: str) -> None:
    """Refuse experts that are flat in another way than wanted.

    Args:
        settings: of the experts.
        wanted: options of the network source; those that are missing do not matter.
        where: the buffer, for the message.

    Raises:
        ConfigError: naming the setting, both values and the remedies.
    """
    other = [name for name in FLATNESS if wanted.get(name) not in (None, getattr(settings, name))]
    if not other:
        return
    here, theirs = (
        ", ".join(f"networks.{name}={value[name]}" for name in other) for value in (wanted, settings.model_dump())
    )
    make = " ".join(f"--{key} {wanted[key]}" for key in ("rho", "alpha") if wanted.get(key))
    raise ConfigError(
        f"{here}, but the experts in {where} were trained with {theirs.replace('networks.', '')}: "
        + (f"make some with `ddkit experts {make}`, " if make else "")
        + f"or set {theirs}"
    )


def warn_of_other_rates(settings: ExpertSettings, wanted: Mapping[str, Any], where: str) -> None:
    """Warn of experts that took other steps than those for which the learning rates of a run are meant.

    Args:
        settings: of the experts.
        wanted: options of the network source.
        where: the buffer, for the message.
    """
    other = [
        f"{name}={getattr(settings, name)} instead of {wanted[name]}"
        for name in TUNED_FOR
        if wanted.get(name) not in (None, getattr(settings, name))
    ]
    if other:
        warnings.warn(
            f"the experts in {where} were trained with {', '.join(other)}: the learning rates of this run are meant "
            f"for the latter, so adapt objective.lr and optimiser if the loss stays near 1 or above",
            stacklevel=2,
        )
