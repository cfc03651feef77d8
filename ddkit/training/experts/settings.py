"""How is an expert trained?"""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ddkit import augment
from ddkit.augment.base import Augmentation
from ddkit.base.registry import describe_validation_error
from ddkit.base.streams import derive_seed
from ddkit.errors import ConfigError
from ddkit.models.spec import ModelSpec
from ddkit.training.recipe import TrainingRecipe

DType = Literal["float32", "float16"]


class ExpertSettings(BaseModel):
    """Everything besides the data that decides how experts are trained; immutable and JSON-able.

    The defaults of ``lr``, ``batch_size``, ``momentum`` and ``weight_decay`` are those of Cazenavette et al. (2022,
    "Dataset Distillation by Matching Training Trajectories"): trajectories of plain SGD are smooth and so easier to
    imitate. ``rho`` and ``alpha`` above zero give the flat experts of Du et al. (2023, "Minimizing the Accumulated
    Trajectory Error to Improve Dataset Distillation"), see :mod:`ddkit.training.experts.flat`. There ``rho = 0.01`` and
    ``adaptive`` are published, which is nearly plain SGD; ``rho = 0.5`` makes a difference.

    Args:
        model: architecture, ``name`` or ``name:option=value,...``; kept in canonical form.
        epochs: E, passes over the real data; weights are kept at initialisation and after each.
        lr: learning rate, constant.
        batch_size: real images per SGD step, the last partial batch kept.
        momentum: of SGD.
        weight_decay: L2 penalty.
        augmentation: strategy, drawn once per batch with parameters per image; ``none`` for none.
        augmentation_options: constants of its families.
        rho: radius of the ascent of flat experts; 0 for plain SGD.
        alpha: weight of the part of the gradient that is orthogonal to the perturbed one, subtracted by flat experts;
            without effect where ``rho`` is 0.
        adaptive: whether the radius is measured in units of the weights' magnitudes.
        dtype: number format in which the way from the initial weights is stored. ``float16`` halves the size; the
            error, measured on digits, is below 1 % of the length of a segment of two epochs.
        seed: the only seed: expert k depends on it and on k alone.

    Raises:
        ConfigError: an unknown field or a value out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str = "convnet"
    epochs: int = Field(default=50, ge=1, le=100_000)
    lr: float = Field(default=0.01, gt=0, allow_inf_nan=False)
    batch_size: int = Field(default=256, ge=1)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    augmentation: str = "none"
    augmentation_options: dict[str, float] = Field(default_factory=dict)
    rho: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    alpha: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    adaptive: bool = True
    dtype: DType = "float32"
    seed: int = Field(default=0, ge=0)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise ConfigError(f"bad settings of experts: {describe_validation_error(error)}") from None
        augment.create(self.augmentation, **self.augmentation_options)

    @field_validator("model")
    @classmethod
    def _canonical(cls, text: str) -> str:
        return ModelSpec.parse(text).canonical()

    @property
    def spec(self) -> ModelSpec:
        """The architecture."""
        return ModelSpec.parse(self.model)

    @property
    def torch_dtype(self) -> torch.dtype:
        """Number format of stored differences."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def recipe(self) -> TrainingRecipe:
        """Return the training recipe that these settings amount to."""
        return TrainingRecipe(
            name="expert",
            epochs=self.epochs,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            augmentation=self.augmentation,
            augmentation_options=self.augmentation_options,
            schedule="constant",
        )

    def seed_of(self, expert: int) -> int:
        """Return the seed of expert ``expert``, from 0."""
        return derive_seed(self.seed, "expert", expert)

    def passes(self, images: int) -> float:
        """Return the forward passes of single images that one expert takes, a backward pass counted as two."""
        return 3.0 * self.epochs * images * (2 if self.rho else 1)


def augmentation_constants(augmentation: Augmentation) -> dict[str, float]:
    """Return the constants of ``augmentation`` that differ from the papers', as :func:`ddkit.augment.create` takes
    them."""
    parameters = inspect.signature(type(augmentation)).parameters.values()
    constants = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    return {p.name: getattr(augmentation, p.name) for p in constants if getattr(augmentation, p.name) != p.default}
