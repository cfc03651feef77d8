"""A named method: a preset over the pieces, with its paper and its defaults per dataset and IPC."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ddkit.base.config import DistillConfig, merge
from ddkit.base.registry import Registry
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, unknown_name
from ddkit.networks.sources import registry as sources
from ddkit.objectives.base import Objective
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
        short: maps likewise to what replaces some of them in runs of minutes; None for nothing.
    """

    name: str
    title: str
    family: str
    learns: str
    paper: str
    url: str
    cost: Cost
    defaults: Callable[[RealData, int], Mapping[str, Any]]
    short: Callable[[RealData, int], Mapping[str, Any]] | None = None

    def in_minutes(self) -> Method:
        """Return this method with its settings for runs of minutes in the place of the official ones."""
        if self.short is None:
            return self
        defaults, short = self.defaults, self.short
        return replace(self, defaults=lambda data, ipc: merge(defaults(data, ipc), short(data, ipc)))

    @property
    def is_coreset(self) -> bool:
        """Whether the method picks real images instead of learning synthetic ones."""
        return self.family == "coreset"

    def configure(
        self,
        data: RealData,
        ipc: int,
        seed: int = 0,
        overrides: Mapping[str, Any] | None = None,
        objects: Mapping[str, Any] | None = None,
    ) -> DistillConfig:
        """Return the configuration for ``data`` at ``ipc``: the official settings under the user's ``overrides``.

        Where another synthesis or objective takes the place of the preset's, starting point and optimiser are those
        that the synthesis knows for the scale of the objective's gradients, as a learning rate means nothing on other
        parameters.

        Args:
            data: the training data.
            ipc: images per class.
            seed: of the run.
            overrides: laid over the official settings.
            objects: pieces given as objects, which stand in ``overrides`` by the names of their classes.

        Raises:
            ConfigError: an override that does not exist or has a value out of range, a piece of a distillation for
                a method that picks real images, or pieces for which no learning rate is known or given.
        """
        overrides = overrides or {}
        if "composition" in overrides:  # follows from the pieces
            raise unknown_name("option", "composition", set(DistillConfig.model_fields) - {"composition"})
        base = {"method": self.name, "ipc": ipc, "seed": seed, **self.defaults(data, max(1, ipc))}
        if self.is_coreset:
            self._refuse_pieces(overrides)
        else:
            base |= self._composed(base, overrides, data, objects or {})
        return DistillConfig.create(merge(base, overrides))

    def _composed(
        self, preset: Mapping[str, Any], overrides: Mapping[str, Any], data: RealData, objects: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return what follows from pieces that have left the preset's: nothing where none has.

        Another network source only changes what the composition is called.
        """
        wanted = merge(preset, overrides)
        called = {piece: _called(piece, wanted, objects) for piece in _PIECES}
        now = {piece: _class(piece, wanted, objects) for piece in _PIECES}
        old = {piece: _class(piece, preset, {}) for piece in _PIECES}
        names = [called[piece] for piece in _PIECES if called[piece] != _called(piece, preset, {})]
        changed = {piece for piece in _PIECES if not _stands_for(piece, now[piece], old[piece])}
        settings: dict[str, Any] = {"composition": " x ".join([self.name, *names])} if names else {}
        synthesis, objective = now["synthesis"], now["objective"]
        if changed & {"synthesis", "objective"} and synthesis is not None and objective is not None:
            if "objective" in changed and "networks" not in changed and objective.needs_networks:
                settings["networks"] = {"name": objective.needs_networks}
            settings |= synthesis.defaults(objective.gradient_scale)
            optimiser = settings.get("optimiser")
            if optimiser is None:
                _require_rate(overrides, called["synthesis"], called["objective"], objective.gradient_scale)
                optimiser = _without_groups(preset.get("optimiser", {}), old["objective"])
            kept = preset.get("optimiser", {}).get("groups", {})
            groups = {name: kept.get(name, default) for name, default in objective.group_defaults.items()}
            settings["optimiser"] = {**optimiser, "groups": {**optimiser.get("groups", {}), **groups}}
        if "synthesis" in changed:
            settings |= {"constraint": None, "recipe": _without(preset.get("recipe", {}), "views")}
            if synthesis is not None and "synthesis" not in objects:
                name = _name(wanted["synthesis"])
                settings["synthesis"] = {"name": name, **synthesis.options_for(data, max(1, wanted["ipc"]))}
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


def _without_groups(optimiser: Mapping[str, Any], objective: type[Objective] | None) -> dict[str, Any]:
    """Return the settings of an optimiser without the groups of what ``objective`` learns."""
    own = objective.group_defaults if objective is not None else {}
    groups = {name: group for name, group in optimiser.get("groups", {}).items() if name not in own}
    return {**optimiser, "groups": groups}


def _require_rate(overrides: Mapping[str, Any], synthesis: str, objective: str, scale: str | None) -> None:
    """Refuse to guess a learning rate.

    Raises:
        ConfigError: the user gives none either.
    """
    given = overrides.get("optimiser")
    if isinstance(given, Mapping) and "lr" in given:
        return
    if scale is None:
        why = f"objective '{objective}' does not declare the scale of its gradients"
    else:
        why = f"synthesis '{synthesis}' knows no learning rate for '{objective}', whose gradients have scale '{scale}'"
    raise ConfigError(f"{why}: give optimiser.lr")


_PIECES: dict[str, Registry[Any]] = {"synthesis": syntheses, "objective": objectives, "networks": sources}


def _class(piece: str, settings: Mapping[str, Any], objects: Mapping[str, Any]) -> Any:
    """Return the class of a piece; None for an unknown name, which is refused where the piece is built."""
    if piece in objects:
        return type(objects[piece])
    name = _called(piece, settings, objects)
    return _PIECES[piece].get(name) if name in _PIECES[piece] else None


def _stands_for(piece: str, now: Any, old: Any) -> bool:
    """Whether a piece takes the same settings as the preset's: it is the same, or an object derived from it."""
    if now is old or None in (now, old):
        return now is old
    derived = issubclass(now, old) and _registered(piece, now) is None
    return derived and getattr(now, "gradient_scale", None) == getattr(old, "gradient_scale", None)


def _registered(piece: str, own: type) -> str | None:
    """Return the name under which a class is registered."""
    return next((name for name in _PIECES[piece] if _PIECES[piece].get(name) is own), None)


def _called(piece: str, settings: Mapping[str, Any], objects: Mapping[str, Any]) -> str:
    """Return the name of a piece; an object is called as its class is registered, else as the class itself."""
    if piece in objects:
        own = type(objects[piece])
        return _registered(piece, own) or own.__name__.lower()
    default = DistillConfig.model_fields[piece].get_default(call_default_factory=True)
    return _name(settings.get(piece) or (default.name if default else ""))


def _name(piece: Any) -> str:
    """Return the name of a piece as it may be given: a name, or a mapping with options."""
    name = piece.get("name", "pixels") if isinstance(piece, Mapping) else piece
    return str(name).partition(":")[0].lower()


def register(method: Method) -> Method:
    """Add a method to the registry under its name."""
    registry.register(method.name, method)
    return method
