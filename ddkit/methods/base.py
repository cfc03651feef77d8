"""A named method: a preset over the pieces, with its paper and its defaults per dataset and IPC."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ddkit.base.config import DistillConfig, merge
from ddkit.base.registry import Registry
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, unknown_name
from ddkit.networks.sources import registry as sources
from ddkit.objectives.base import registry as objectives
from ddkit.synthesis.base import registry as syntheses

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
            :class:`~ddkit.base.config.DistillConfig`.
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
        if "composition" in overrides:  # follows from the pieces
            raise unknown_name("option", "composition", set(DistillConfig.model_fields) - {"composition"})
        base = {"method": self.name, "ipc": ipc, "seed": seed, **self.defaults(data, max(1, ipc))}
        if self.is_coreset:
            self._refuse_pieces(overrides)
        else:
            base |= self._composed(base, merge(base, overrides), data)
        return DistillConfig.create(merge(base, overrides))

    def _composed(self, preset: Mapping[str, Any], wanted: Mapping[str, Any], data: RealData) -> dict[str, Any]:
        """Return what follows from pieces that have left the preset's: nothing where none has.

        Another network source only changes what the composition is called. A synthesis or objective of one's own that
        is not registered says nothing about rates, so the preset's stay.
        """
        now = {piece: _registered_name(piece, wanted) for piece in _PIECES}
        changed = [piece for piece in _PIECES if now[piece] != _registered_name(piece, preset)]
        if not changed:
            return {}
        settings: dict[str, Any] = {}
        if "objective" in changed and "networks" not in changed and now["objective"] in objectives:
            networks = objectives.get(now["objective"]).needs_networks
            settings = {"networks": {"name": networks}} if networks else {}
        known = now["synthesis"] in syntheses and ("synthesis" in changed or now["objective"] in objectives)
        if known and changed != ["networks"]:
            settings |= self._for_synthesis(now, preset)
        if "objective" in changed and "optimiser" not in settings and "optimiser" in preset:
            settings["optimiser"] = _without_groups(preset["optimiser"], _registered_name("objective", preset))
        if "synthesis" in changed:
            settings |= {"constraint": None, "recipe": _without(preset.get("recipe", {}), "views")}
            if known and now["synthesis"] == _name(wanted["synthesis"]):  # not an object
                options = syntheses.get(now["synthesis"]).options_for(data, max(1, wanted["ipc"]))
                settings = {**settings, "synthesis": {"name": now["synthesis"], **options}}
        return {"composition": " x ".join([self.name, *(now[piece] for piece in changed)]), **settings}

    @staticmethod
    def _for_synthesis(now: Mapping[str, str], preset: Mapping[str, Any]) -> dict[str, Any]:
        """Return starting point and optimiser for the synthesis, and for what the objective learns beside it."""
        settings = syntheses.get(now["synthesis"]).defaults(now["objective"])
        if now["objective"] not in objectives:
            return settings
        own = objectives.get(now["objective"]).group_defaults
        kept = preset.get("optimiser", {}).get("groups", {})
        groups = {name: kept.get(name, default) for name, default in own.items()}
        if groups:
            optimiser = dict(settings.get("optimiser", {}))
            optimiser["groups"] = {**optimiser.get("groups", {}), **groups}
            settings = {**settings, "optimiser": optimiser}
        return settings

    def _refuse_pieces(self, overrides: Mapping[str, Any]) -> None:
        for piece in ("synthesis", "objective", "networks", "signal", "constraint"):
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


def _without(settings: Any, key: str) -> Any:
    """Return ``settings`` without an option; a piece given by its name alone has none."""
    return {k: v for k, v in settings.items() if k != key} if isinstance(settings, Mapping) else settings


def _without_groups(optimiser: Mapping[str, Any], objective: str) -> dict[str, Any]:
    """Return the settings of an optimiser without the groups of what ``objective`` learns."""
    own = objectives.get(objective).group_defaults if objective in objectives else {}
    groups = {name: group for name, group in optimiser.get("groups", {}).items() if name not in own}
    return {**optimiser, "groups": groups}


_PIECES: dict[str, Registry[Any]] = {"synthesis": syntheses, "objective": objectives, "networks": sources}


def _registered_name(piece: str, settings: Mapping[str, Any]) -> str:
    """Return the name of a piece; an object stands in a configuration by its class, and has a registered name too."""
    registry = _PIECES[piece]
    default = DistillConfig.model_fields[piece].get_default(call_default_factory=True)
    name = _name(settings.get(piece) or (default.name if default else ""))
    for registered in registry:
        if registry.get(registered).__name__.lower() == name:
            return registered
    return name


def _name(piece: Any) -> str:
    """Return the name of a piece as it may be given: a name, or a mapping with options."""
    name = piece.get("name", "pixels") if isinstance(piece, Mapping) else piece
    return str(name).partition(":")[0].lower()


def register(method: Method) -> Method:
    """Add a method to the registry under its name."""
    registry.register(method.name, method)
    return method
