"""What does a distilled dataset say of itself? The metadata of an artifact as one typed model."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationInfo, field_validator


class _Part(BaseModel):
    """A part of the card; keys that this version does not know are kept."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, protected_namespaces=())


class Source(_Part):
    """The real data that was distilled."""

    name: str
    split: str | None = None
    fingerprint: str | None = None
    count: NonNegativeInt | None = None


class Settings(_Part):
    """Of the configuration of the run, what readers look at; see :class:`ddkit.base.config.DistillConfig` for all."""

    ipc: PositiveInt | None = None
    model: str | None = None
    zca: str | None = None
    ema: float | None = None
    selection: str | dict[str, Any] | None = None
    recipe: str | dict[str, Any] | None = None


class Order(BaseModel):
    """How images whose labels need not tell it are numbered: class after class.

    Args:
        classes: the class of each run of images.
        per_class: the length of every run, or a list of one length per run.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    classes: list[NonNegativeInt]
    per_class: PositiveInt | list[PositiveInt]

    def counts(self) -> list[int]:
        """Return the length of each run."""
        return self.per_class if isinstance(self.per_class, list) else [self.per_class] * len(self.classes)


class Promise(_Part):
    """How a set of few bytes compared with the coded real images at which it started.

    Args:
        returned: ``distilled`` or ``start``.
        held_out: training images on which networks were tested.
        accuracies: of every network, by what it was trained on.
    """

    returned: str
    held_out: PositiveInt
    accuracies: dict[str, list[float]]


class Card(_Part):
    """The keys of an artifact's ``metadata`` whose meaning is fixed; all are optional and others may stand beside them.

    Args:
        method: name of the method.
        config: configuration of the run.
        seed: of the run.
        steps: outer steps done.
        source: the real data.
        recipe: how to train on the set, fields of :class:`ddkit.training.TrainingRecipe`.
        selection: which step the set was taken from, and on which data that was decided.
        promise: why this set was returned and not its coded start, or the other way round.
        order: of which class each image was meant to be, for soft labels.
        learned: learned numbers that are not images or labels, such as a learning rate.
        networks: what the network source says of the networks; ``evaluation_model`` is the architecture with which the
            set wants to be judged.
        kernel: the kernel classifier for which a set was learned.
        privacy: the privacy statement, see :mod:`ddkit.data.distilled.privacy`.
        indices: for coresets, the positions of the images in the real data.
        clipped: share of the pixel values that lay outside of [0, 1] before they were rounded.
        seconds: of the run that made the set.
        synthesis_package: that registers the synthesis, where it is not ddkit's own.
        ddkit_version: that wrote the set.
        notes: for people.
    """

    method: str | None = None
    config: Settings = Field(default_factory=Settings)
    seed: int | None = None
    steps: NonNegativeInt | None = None
    source: Source = Field(default_factory=lambda: Source(name=""))
    recipe: dict[str, Any] = Field(default_factory=dict)
    selection: str | None = None
    promise: Promise | None = None
    order: Order | None = None
    learned: dict[str, float | list[float]] = Field(default_factory=dict)
    networks: dict[str, Any] = Field(default_factory=dict)
    kernel: Any = None
    privacy: Any = None
    indices: list[NonNegativeInt] | None = None
    clipped: float = 0.0
    seconds: float | None = None
    synthesis_package: str | None = None
    ddkit_version: str | None = None
    notes: str | list[str] | None = None

    @field_validator("config", "source", "recipe", "learned", "networks", mode="before")
    @classmethod
    def _nothing_is_the_default(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None:
            return value
        return cls.model_fields[str(info.field_name)].get_default(call_default_factory=True)
