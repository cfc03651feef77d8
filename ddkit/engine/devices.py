"""On which device a run takes place."""

from __future__ import annotations

import torch

from ddkit.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` takes an accelerator where there is one.

    Raises:
        ConfigError: there is no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device '{name}': choose auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(f"device '{name}' is not on this machine: choose cpu or auto")
    return device
