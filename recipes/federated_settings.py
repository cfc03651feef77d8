"""What may be set in recipe ``federated``, and what is refused before anything starts?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from ddkit import methods
from ddkit.errors import ConfigError
from ddkit.models.spec import ModelSpec
from ddkit.recipes.settings import Frozen, checked, of_data_set
from ddkit.training.recipe import TrainingRecipe

Options = dict[str, Any]


class FedDM(Frozen):
    """Iterative distribution matching.

    Args:
        rounds: how many.
        ipc: images per class and client.
        radius: how far matching networks and the server's training may go.
        options: of the distillation, over those of one-shot mode.
    """

    rounds: int = Field(ge=1)
    ipc: int = Field(ge=1)
    radius: float = Field(gt=0)
    options: Options


class DynaFed(Frozen):
    """Refinement on the server.

    Args:
        warmup_rounds: rounds of the trajectory.
        ipc: images per class.
        options: of the distillation.
        refine: training of each aggregate.
    """

    warmup_rounds: int = Field(ge=1)
    ipc: int = Field(ge=1)
    options: Options
    refine: Options


class Settings(Frozen):
    """The settings of the recipe's file, checked."""

    data: str
    data_root: str | None
    measure: Literal["test", "validation"]
    train_images: int = Field(ge=1)
    test_images: int = Field(ge=1)
    clients: int = Field(ge=2)
    alpha: list[float] = Field(min_length=1)
    seed: int = Field(ge=0)
    seeds: int = Field(ge=1)
    model: str
    local: Options
    rounds: int = Field(ge=1)
    mu: list[float]
    one_shot_epochs: int = Field(ge=1)
    server: Options
    central: Options
    ipc: list[int] = Field(min_length=1)
    wire: Literal["uint8", "float16", "float32"]
    real: list[str]
    method: str
    options: Options
    feddm: FedDM
    dynafed: DynaFed
    executor: str

    @property
    def min_clients(self) -> int:
        """Clients that a round needs: half of them."""
        return max(1, self.clients // 2)

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Settings:
        """Read settings; what is not set is that of the data set.

        Raises:
            ConfigError: a value of the wrong type or out of range, an unknown method, model or training option.
            UnknownNameError: a data set without settings.
        """
        settings = checked(cls, of_data_set(values))
        settings._check()
        return settings

    def _check(self) -> None:
        ModelSpec.parse(self.model)
        for name in self.real:
            if not methods.get(name).is_coreset:
                raise ConfigError(f"real={name} learns images: list methods that pick real ones (random, herding)")
        if methods.get(self.method).is_coreset:
            raise ConfigError(f"method={self.method} picks real images: choose one that distils, such as dm")
        for value in self.alpha:
            if not value > 0:
                raise ConfigError(f"alpha={value:g} must be positive")
        if self.rounds < self.dynafed.warmup_rounds:
            raise ConfigError(
                f"dynafed.warmup_rounds={self.dynafed.warmup_rounds} is more than rounds={self.rounds}: nothing would "
                f"be refined"
            )
        for options in (self.local, self.central, self.dynafed.refine):
            TrainingRecipe(**{"schedule": "constant", **options})
