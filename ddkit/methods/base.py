"""A named method: a preset over the pieces, with its paper and its defaults per dataset and IPC."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ddkit.config import DistillConfig, merge
from ddkit.data import RealData
from ddkit.errors import ConfigError
from ddkit.registry import Registry
from ddkit.synthesis import registry as syntheses

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

        Where another synthesis or objective takes the place of the preset's, starting point and optimiser are those
        that the synthesis recommends for the objective, as a learning rate means nothing on other parameters.

        Raises:
            ConfigError: an override that does not exist or has a value out of range, or a piece of a distillation for
                a method that picks real images.
        """
        overrides = overrides or {}
        base = {"method": self.name, "ipc": ipc, "seed": seed, **self.defaults(data, max(1, ipc))}
        if self.is_coreset:
            self._refuse_pieces(overrides)
        else:
            base |= self._composed(base, merge(base, overrides))
        return DistillConfig.create(merge(base, overrides))

    def _composed(self, preset: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Return what follows from pieces that have left the preset's: nothing where none has."""
        own, now = _pair(preset), _pair(wanted)
        changed = [new for new, old in zip(now, own, strict=True) if new != old]
        if not changed:
            return {}
        synthesis, objective = now
        settings = syntheses.get(synthesis).defaults(objective) if synthesis in syntheses else {}
        return {"composition": " x ".join([self.name, *changed]), **settings}

    def _refuse_pieces(self, overrides: Mapping[str, Any]) -> None:
        for piece in ("synthesis", "objective", "networks", "signal"):
            if piece in overrides:
                raise ConfigError(
                    f"'{self.name}' picks real images and would ignore {piece}={_name(overrides[piece])}: "
                    f"leave that out or choose a method that distils"
                )

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


def _pair(values: Mapping[str, Any]) -> tuple[str, str]:
    """Return the names of synthesis and objective."""
    return _name(values.get("synthesis", "pixels")), _name(values.get("objective"))


def _name(piece: Any) -> str:
    """Return the name of a piece as it may be given: a name, or a mapping with options."""
    name = piece.get("name", "pixels") if isinstance(piece, Mapping) else piece
    return str(name).partition(":")[0].lower()


def register(method: Method) -> Method:
    """Add a method to the registry under its name."""
    registry.register(method.name, method)
    return method
