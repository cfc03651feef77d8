"""Which options of a network source are in their range?"""

from __future__ import annotations

import math

from ddkit.errors import ConfigError


def require_at_least(minimum: int, **options: int) -> None:
    """Refuse a count below ``minimum``.

    Raises:
        ConfigError: naming the first option out of range.
    """
    for name, value in options.items():
        if value < minimum:
            raise ConfigError(f"networks.{name}={value} must be at least {minimum}")


def require_rate(lr: float) -> None:
    """Refuse a learning rate that is not a positive number.

    Raises:
        ConfigError: naming the value.
    """
    if not 0 < lr < math.inf:
        raise ConfigError(f"networks.lr={lr} must be positive and finite, such as 0.01")


def require_training(batch_size: int, lr: float, momentum: float, weight_decay: float, cutmix: float = 0.0) -> None:
    """Refuse settings of SGD that make no sense.

    Raises:
        ConfigError: naming the first option out of range.
    """
    require_at_least(1, batch_size=batch_size)
    require_rate(lr)
    if not 0 <= momentum < 1:
        raise ConfigError(f"networks.momentum={momentum} must be at least 0 and below 1, such as 0.9")
    if not 0 <= weight_decay < math.inf:
        raise ConfigError(f"networks.weight_decay={weight_decay} must be a finite number of at least 0, such as 5e-4")
    if not 0 <= cutmix <= 1:
        raise ConfigError(f"networks.cutmix={cutmix} is a probability: choose a value from 0 to 1")


def require_threshold(**options: float) -> None:
    """Refuse a change of accuracy that is not strictly between 0 and 1.

    Raises:
        ConfigError: naming the first option out of range.
    """
    for name, value in options.items():
        if not 0 < value < 1:
            raise ConfigError(f"networks.{name}={value} is a change of accuracy: choose a share between 0 and 1")
