"""What an evaluation found: accuracies per architecture, with everything needed to compare them fairly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ddkit.base.registry import describe_validation_error
from ddkit.errors import ConfigError
from ddkit.evaluation.statistics import Summary, summary
from ddkit.training.recipe import TrainingRecipe

#: Derived figures that :meth:`EvaluationResult.as_dict` adds to every row.
_DERIVED = ("mean", "std", "interval95")


class KernelRecipe(BaseModel):
    """How a kernel classifies with a set: ridge regression, nothing is trained.

    Args:
        name: ``kernel``.
        kernel: its description, see :func:`ddkit.models.kernels.create`.
        regulariser: relative to the mean diagonal of the kernel matrix.
        flip: whether mirror images of the set count as well.
        networks: how networks were trained whose features are compared; None for other kernels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["kernel"] = "kernel"
    kernel: dict[str, Any]
    regulariser: float = Field(ge=0, allow_inf_nan=False)
    flip: bool = False
    networks: TrainingRecipe | None = None


def _read_recipe(value: Any) -> Any:
    """Tell the two kinds of recipes apart by their names."""
    if isinstance(value, Mapping):
        return KernelRecipe(**value) if value.get("name") == "kernel" else TrainingRecipe(**value)
    return value


class ArchitectureResult(BaseModel):
    """Test accuracies of several networks of one architecture trained on one set.

    Args:
        architecture: canonical text of the model spec, such as ``"convnet(depth=3)"``.
        accuracies: one fraction per network, that of the last epoch.
        seeds: the seed of each network; equal seeds mean equal initialisations.
        seconds: wall time of training and testing all of them; with an executor, the sum over its tasks.
        steps: SGD steps per network.
        precision: number format of training; the test pass is float32.
        compiled: whether training was compiled.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    accuracies: tuple[float, ...]
    seeds: tuple[int, ...]
    seconds: float
    steps: int
    precision: str = "float32"
    compiled: bool = False

    @property
    def summary(self) -> Summary:
        """The statistics of the accuracies."""
        return summary(self.accuracies)

    @property
    def mean(self) -> float:
        """Mean accuracy, a fraction."""
        return self.summary.mean

    @property
    def std(self) -> float:
        """Population standard deviation (ddof 0) over the networks, as published tables print it."""
        return self.summary.std

    @property
    def interval95(self) -> tuple[float, float] | None:
        """95 % t-interval of the mean over the networks, within [0, 1], None for one; leaves out the spread of sets."""
        interval = self.summary.interval95
        return None if interval is None else (max(0.0, interval[0]), min(1.0, interval[1]))


class EvaluationResult(BaseModel):
    """Result of :func:`ddkit.evaluation.evaluate`, with :meth:`as_dict` and :meth:`from_dict` for JSON.

    Args:
        rows: one result per architecture.
        recipe: how the networks were trained, or which kernel classified.
        data: name of the test set.
        split: its split.
        test_size: number of test images.
        label_kind: ``"hard"``, ``"soft"`` or ``"regression"``.
        train_images: training images after decoding.
        budget: of the set, :meth:`ddkit.data.distilled.budget.Budget.as_dict`, by whose ``payload`` sets are compared;
            empty for a whole real set.
        note: what a reader has to know beside the figures.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: tuple[ArchitectureResult, ...]
    recipe: Annotated[TrainingRecipe | KernelRecipe, BeforeValidator(_read_recipe)]
    data: str
    split: str
    test_size: int
    label_kind: str
    train_images: int
    budget: dict[str, int]
    note: str = ""

    def row(self, architecture: str) -> ArchitectureResult:
        """Return the row of an architecture by its canonical text.

        Raises:
            ConfigError: it was not evaluated.
        """
        for row in self.rows:
            if row.architecture == architecture:
                return row
        known = ", ".join(row.architecture for row in self.rows)
        raise ConfigError(f"architecture '{architecture}' was not evaluated; evaluated: {known}")

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-able content; every row also holds its mean, std and interval95."""
        content = self.model_dump(mode="json")
        for entry, row in zip(content["rows"], self.rows, strict=True):
            interval = row.interval95
            entry.update(mean=row.mean, std=row.std, interval95=list(interval) if interval else None)
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> EvaluationResult:
        """Read what :meth:`as_dict` wrote; derived figures are computed anew.

        Raises:
            ConfigError: the content is not that of an evaluation result.
        """
        try:
            rows = [{key: value for key, value in row.items() if key not in _DERIVED} for row in content["rows"]]
            return cls.model_validate({**content, "rows": rows})
        except ValidationError as error:
            raise ConfigError(f"not an evaluation result: {describe_validation_error(error)}") from None
        except (AttributeError, KeyError, TypeError) as error:
            raise ConfigError(f"not an evaluation result: 'rows' is missing or malformed ({error})") from None
