"""A named method: a preset over the pieces, with its paper and its defaults per dataset and IPC."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ddkit.config import DistillConfig, merge
from ddkit.data import RealData
from ddkit.registry import Registry

Cost = Literal["seconds", "minutes", "hours", "days"]

registry: Registry[Method] = Registry("method", "ddkit.methods")


@dataclass(frozen=True)
class Method:
    """A preset.

    Args:
        name: as on the command line.
        title: full name.
        family: of the survey (``coreset``, ``gradient matching``, ``distribution matching``, ...).
        learns: what is learned, in a few words.
        paper: citation.
        url: where the paper is.
        cost: class of the published schedule on one GPU at IPC 10 on CIFAR-10.
        defaults: maps (data, ipc) to the official settings, as keyword arguments of
            :class:`~ddkit.config.DistillConfig`.
    """

    name: str
    title: str
    family: str
    learns: str
    paper: str
    url: str
    cost: Cost
    defaults: Callable[[RealData, int], Mapping[str, Any]]

    @property
    def is_coreset(self) -> bool:
        """Whether the method picks real images instead of learning synthetic ones."""
        return self.family == "coreset"

    def configure(
        self, data: RealData, ipc: int, seed: int = 0, overrides: Mapping[str, Any] | None = None
    ) -> DistillConfig:
        """Return the configuration for ``data`` at ``ipc``: the official settings under the user's ``overrides``.

        Raises:
            ConfigError: an override that does not exist or has a value out of range.
        """
        base = {"method": self.name, "ipc": ipc, "seed": seed, **self.defaults(data, max(1, ipc))}
        return DistillConfig.create(merge(base, overrides or {}))

    def describe(self) -> dict[str, str]:
        """Return the descriptive fields, for tables and ``--json``."""
        return {
            "name": self.name,
            "title": self.title,
            "family": self.family,
            "learns": self.learns,
            "paper": self.paper,
            "url": self.url,
            "cost": self.cost,
        }


def register(method: Method) -> Method:
    """Add a method to the registry under its name."""
    registry.register(method.name, method)
    return method
