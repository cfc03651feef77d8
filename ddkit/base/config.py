"""The frozen, typed configuration of a distillation: what a method's preset fills in and ``--set`` overrides."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import PurePath
from typing import Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from ddkit.base.documents import MAX_DEPTH
from ddkit.base.precision import PrecisionName
from ddkit.base.registry import describe_validation_error
from ddkit.errors import ConfigError, shortened, unknown_name


def piece_from_text(text: str) -> dict[str, Any]:
    """Read ``name`` or ``name:option=value,option=value`` as the mapping of a :class:`Piece`.

    Raises:
        ConfigError: options that are not ``option=value`` pairs.
    """
    name, colon, rest = text.partition(":")
    if colon and not rest:
        raise ConfigError(
            f"'{shortened(text)}' ends in a colon: write {shortened(name)}, or {shortened(name)}:option=value"
        )
    return {"name": name, **(parse_assignments(rest.split(",")) if rest else {})}


class Piece(BaseModel):
    """A registered piece by name, with its options.

    ``{"name": "gradient", "metric": "cos"}``, the text ``gradient:metric=cos``, or just its name.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: str(item) if isinstance(item, PurePath) else item for key, item in value.items()}
        return piece_from_text(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_json(self) -> Piece:
        for key, value in self.options.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{key}={value} must be a finite number")
        try:
            json.dumps(self.options, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"options must be what JSON can hold ({error}): pass the piece as an object") from None
        return self

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})

    @property
    def text(self) -> str:
        """How users write it: ``name`` or ``name:option=value,option=value``."""
        options = ",".join(f"{key}={json.dumps(value).strip(chr(34))}" for key, value in self.options.items())
        return f"{self.name}:{options}" if options else self.name


class _Later(BaseModel):
    """Settings of which some are written only where they are set, so that older runs and files stay the same."""

    #: Settings that configurations of the first release do not have.
    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _leave_out_later_defaults(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialise(self)
        fields = type(self).model_fields
        unset = [name for name in self.later if name in values and getattr(self, name) == fields[name].default]
        return {name: value for name, value in values.items() if name not in unset}


class OptimiserSettings(_Later):
    """One optimiser over one group of learnable tensors.

    Args:
        name: ``sgd``, ``adam``, ``lamb`` (steps relative to the norm of each tensor) or ``adabelief``.
        lr: learning rate; under ``lamb`` the relative movement of a tensor per step.
        momentum: of SGD alone; the others have ``betas``.
        weight_decay: L2 penalty; ``lamb`` adds its gradient to the update before that is scaled.
        schedule: ``constant``; ``milestones`` multiplies the rate by ``gamma`` at each of them; ``cosine`` anneals it
            to ``floor * lr``.
        milestones: shares of the run in (0, 1), ascending: 0.6 is reached after 60 % of the outer steps.
        gamma: factor at each milestone.
        betas: decay rates of the first and second moment of all optimisers but SGD, each in [0, 1).
        floor: share of the rate at which ``cosine`` ends, in [0, 1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    later = ("betas", "floor", "clip")

    name: Literal["sgd", "adam", "lamb", "adabelief"] = "sgd"
    lr: float = Field(default=1.0, gt=0, le=1e30)
    momentum: float = Field(default=0.5, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "milestones", "cosine"] = "constant"
    milestones: tuple[float, ...] = ()
    gamma: float = Field(default=0.1, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    floor: float = Field(default=0.0, ge=0, lt=1)

    @field_validator("betas")
    @classmethod
    def _check_betas(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError("betas are two decay rates of at least 0 and below 1, such as [0.9, 0.999]")
        return value

    @model_validator(mode="after")
    def _check_schedule(self) -> OptimiserSettings:
        if list(self.milestones) != sorted(self.milestones) or not all(0 < m < 1 for m in self.milestones):
            raise ValueError("milestones must be ascending shares of the run between 0 and 1, such as [0.5, 0.75]")
        if bool(self.milestones) != (self.schedule == "milestones"):
            raise ValueError(
                "schedule 'milestones' and a list of milestones belong together: give both, or another schedule and "
                "no milestones"
            )
        if self.floor and self.schedule != "cosine":
            raise ValueError(
                f"a floor of {self.floor:g} is where schedule 'cosine' ends: choose that schedule, or no floor"
            )
        return self

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of outer step ``step`` (from 1) of ``steps``: a function of the step alone."""
        done = (step - 1) / max(1, steps)
        if self.schedule == "milestones":
            return self.lr * self.gamma ** sum(done >= milestone for milestone in self.milestones)
        if self.schedule == "cosine":
            return self.floor * self.lr + (1 - self.floor) * (self.lr * 0.5 * (1 + math.cos(math.pi * done)))
        return self.lr


class OptimiserConfig(OptimiserSettings):
    """The optimiser of the synthetic data.

    Args:
        groups: settings that replace the common ones for a group of learnable tensors (``images``, ``labels``, ...).
        clip: largest joint norm of the gradients of all groups; longer ones are scaled down to it before the update.
            None for no limit.
    """

    groups: dict[str, dict[str, Any]] = Field(default_factory=dict)
    clip: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    def of(self, group: str) -> OptimiserSettings:
        """Return the settings of ``group``."""
        common = self.model_dump(exclude={"groups", "clip"})
        return OptimiserSettings(**{**common, **self.groups.get(group, {})})

    @field_validator("groups")
    @classmethod
    def _check_groups(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for settings in value.values():
            unknown = set(settings) - set(OptimiserSettings.model_fields)
            if unknown:
                raise ValueError(f"'{min(unknown)}' is no optimiser setting")
        return value

    @model_validator(mode="after")
    def _check_settings_of_groups(self) -> OptimiserConfig:
        for group in self.groups:
            try:
                self.of(group)
            except ValidationError as error:
                raise ValueError(f"group '{group}': {describe_validation_error(error)}") from None
        return self


class DistillConfig(_Later):
    """Everything that decides what a distillation computes.

    Args:
        method: name of the preset it came from, or ``custom``.
        composition: what it is called where another synthesis or objective has taken the place of the preset's, such as
            ``dm x multi-formation``; None for the method itself.
        ipc: stored images (or codes) per class.
        seed: the run's only seed.
        steps: outer steps (updates of the synthetic data); 0 for a coreset.
        selection: coreset method that picks real images; None for a distillation.
        synthesis: what is learned.
        init: where it starts.
        objective: what is matched; None for a coreset.
        networks: where the matching networks come from.
        constraint: a loss on the synthetic data beside the objective, such as HaBa's; None for none.
        signal: access to the real data.
        zca: whitening that replaces the preprocessing of the real data, see
            :meth:`~ddkit.data.Preprocessing.fit`; None for the data as they were loaded.
        model: architecture of the matching networks, ``name`` or ``name:option=value,...``.
        augmentation: Siamese strategy of the matching: ``none``, families joined by ``_`` (one of them at a time) or by
            ``+`` (one after the other).
        augmentation_options: constants of its families, for instance ``{"rotate_degrees": 45}``.
        optimiser: of the synthetic data.
        ema: decay of an exponential moving average of the synthetic data that becomes the result; None for none.
        codec: through which the synthetic data are optimised and in which they are stored; None to store them as they
            are.
        bytes: most bytes of the result's payload; needs a codec. None for no limit.
        fill: share of the bytes that the coded start was to take, in (0, 1], as matching adds detail that costs bytes;
            None where images per class were given.
        recipe: how networks are trained on the result, with its options.
        precision: number format of the heavy passes.
        compile: whether these passes are compiled.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    later = ("codec", "bytes", "fill")

    method: str = "custom"
    composition: str | None = None
    ipc: int = Field(ge=1)
    seed: int = Field(default=0, ge=0)
    steps: int = Field(default=1000, ge=0)
    selection: Piece | None = None
    synthesis: Piece = Field(default_factory=lambda: Piece(name="pixels"))
    init: str = "real"
    objective: Piece | None = None
    networks: Piece = Field(default_factory=lambda: Piece(name="fresh"))
    constraint: Piece | None = None
    signal: Piece = Field(default_factory=lambda: Piece(name="real"))
    zca: Literal["standardised", "pixels"] | None = None
    model: str = "convnet"
    augmentation: str = "none"
    augmentation_options: dict[str, float] = Field(default_factory=dict)
    optimiser: OptimiserConfig = Field(default_factory=OptimiserConfig)
    ema: float | None = Field(default=None, gt=0, lt=1)
    codec: Piece | None = None
    bytes: int | None = Field(default=None, ge=1)
    fill: float | None = Field(default=None, gt=0, le=1)
    recipe: Piece = Field(default_factory=lambda: Piece(name="dsa"))
    precision: PrecisionName = "auto"
    compile: bool | Literal["auto"] = "auto"
    device: str = "auto"

    @field_validator("synthesis", "networks", "recipe", mode="before")
    @classmethod
    def _options_of_the_default(cls, value: Any, info: ValidationInfo) -> Any:
        """Read options without a name as options of the default piece."""
        if isinstance(value, Mapping) and "name" not in value:
            default = cls.model_fields[str(info.field_name)].get_default(call_default_factory=True)
            return {"name": default.name, **value}
        return value

    @field_validator("constraint", "zca", "codec", mode="before")
    @classmethod
    def _none_in_words(cls, value: Any) -> Any:
        return None if isinstance(value, str) and value.lower() == "none" else value

    @property
    def title(self) -> str:
        """What results of this configuration are called: the method, or the composition."""
        return self.composition or self.method

    @classmethod
    def create(cls, values: Mapping[str, Any]) -> DistillConfig:
        """Validate ``values``.

        Raises:
            ConfigError: one line with every wrong key, its value and what was expected.
        """
        for key in values:
            if key not in cls.model_fields:
                raise unknown_name("option", key, cls.model_fields)
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigError(f"bad configuration: {describe_validation_error(error)}") from None

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values from which :meth:`create` builds the same configuration."""
        return self.model_dump(mode="json")


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Lay ``overrides`` over ``base``, descending into nested mappings.

    A piece given by another name than the base's starts from that piece's own defaults, so options of one piece never
    leak into another.
    """
    result = dict(base)
    for key, value in overrides.items():
        old = result.get(key)
        if isinstance(old, str) and isinstance(value, Mapping) and "name" not in value:
            old = {"name": old}
        if isinstance(value, str) and isinstance(old, Mapping) and "name" in old:
            value = piece_from_text(value)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            renamed = "name" in value and "name" in old and str(value["name"]).lower() != str(old["name"]).lower()
            result[key] = dict(value) if renamed else merge(old, value)
        else:
            result[key] = value
    return result


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Turn ``["steps=100", "optimiser.lr=0.5"]`` into nested values.

    Values are read as YAML scalars (numbers, true, false, null, lists) and as text otherwise.

    Raises:
        ConfigError: an assignment without ``=``, with an empty key, or with a value that is no setting.
    """
    from ddkit.base.yaml_text import NotYAMLError, parse_yaml

    result: dict[str, Any] = {}
    for text in assignments:
        key, equals, raw = text.partition("=")
        if not equals or not key.strip(". "):
            raise ConfigError(f"'{shortened(text)}' is not an assignment: write key=value, for instance steps=500")
        try:
            value = parse_yaml(raw) if raw else ""
        except NotYAMLError:
            value = raw
        except ConfigError as error:
            raise ConfigError(f"'{shortened(text)}' is no setting: {error}") from None
        if isinstance(value, str):
            with suppress(ValueError):  # YAML 1.1 reads 1e-3 as text
                value = float(value)
        parts = key.strip().split(".")
        if len(parts) > MAX_DEPTH:
            raise ConfigError(f"'{shortened(text)}' is no setting: its key has more than {MAX_DEPTH} parts")
        nested: Any = value
        for part in reversed(parts[1:]):
            nested = {part: nested}
        result = merge(result, {parts[0]: nested})
    return result
