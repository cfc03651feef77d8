"""How long, how fast and with what augmentation a network is trained before its accuracy counts."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from ddkit.augment import create, default_strategy
from ddkit.base.registry import describe_validation_error
from ddkit.data.distilled.label_loss import loss_kind
from ddkit.errors import ConfigError


class TrainingRecipe(BaseModel):
    """Everything that decides how a network is trained on a distilled (or real) set; immutable and JSON-able.

    The field's protocol (Zhao et al. 2021, "Dataset Condensation with Gradient Matching") is SGD with
    momentum on all parameters, batches reshuffled every epoch, the last partial batch kept, and the accuracy
    of the last epoch. Its schedule, called ``"halve"`` here, runs ``epochs + 1`` epochs; after the epoch with
    0-based index ``epochs // 2 + 1`` the learning rate is divided by ten and the optimiser is rebuilt, which
    loses its momentum: 152 + 149 epochs for ``epochs=300``, 502 + 499 for ``epochs=1000``.

    Args:
        name: what the recipe is called in results.
        epochs: E, the nominal number of epochs; ``"halve"`` runs one more.
        optimiser: ``"sgd"``, or ``"adam"`` with PyTorch's defaults, which knows no ``momentum``.
        lr: learning rate.
        momentum: momentum of SGD, in [0, 1).
        weight_decay: L2 penalty on all parameters, norms and biases included.
        batch_size: images per step; a smaller set is one full batch.
        augmentation: strategy string of :func:`ddkit.augment.create`, ``"none"`` for no augmentation.
        augmentation_options: constants of its families, for instance ``{"rotate_degrees": 45}``.
        schedule: ``"halve"`` (above); ``"constant"`` (E epochs); ``"cosine"`` (E epochs, annealed to zero by
            epoch); ``"steps"`` (E epochs, the rate is multiplied by ``gamma`` at each milestone, the optimiser
            keeps its momentum); ``"warmup"`` (E epochs, the rate rises linearly over a share ``warmup`` of the
            steps and falls to ``floor`` times ``lr`` along a cosine); ``"given"`` (the steps of ``rates``, below).
        milestones: shares of the epochs in (0, 1), ascending, for ``"steps"`` only: the rate drops from the
            epoch with 0-based index floor(share · E) on.
        gamma: factor of ``"steps"``.
        loss: ``"ce"`` cross-entropy, ``"mse"`` mean squared error against the label rows (one-hot minus 1/K
            for hard labels), ``"auto"`` = ``"mse"`` for regression labels and ``"ce"`` otherwise. Rows that are
            no probabilities are made some for cross-entropy, but for schedule ``"given"``: negative entries become 0
            and rows sum to 1, as that loss has no lower bound otherwise.
        cutmix: probability in [0, 1] that a batch is mixed by :func:`ddkit.augment.cutmix`, after the
            augmentation; cross-entropy only.
        views: V, how many consecutive training images show one stored code (HaBa: hallucinators per basis). An
            epoch shows each code once, through a view drawn at random, so it is V times shorter; batches and
            steps count codes. 1 shows every image in every epoch.
        warmup: share of the steps in [0, 1), for ``"warmup"``.
        floor: last rate as a share of ``lr``, for ``"warmup"``.
        rates: learning rate of each of T steps, for ``"given"``. That schedule is the one with which sets of
            meta-learning (Wang et al. 2018, "Dataset Distillation") were learned: T steps of gradient descent on
            batches in a fixed order, neither shuffled nor augmented nor decayed. Epochs, batch size, rate and
            optimiser say nothing then.
        momenta: of each of T steps; empty for none.
        runs: S, into how many batches the set is cut, for ``"given"``: every class into S runs of consecutive
            images; step t trains on run t mod S of each class.
        classes: how many classes have images, for ``"given"``; None for all.
        start: seed of the initial weights for which the set was learned (DD's fixed initialisation); None for
            fresh ones. All networks are the same then.
        head: last layer; ``"linear"`` is the network's own, ``"ridge"`` a running ridge regression on its features, as
            in :func:`ddkit.training.ridge.train_by_ridge`, which trains with Adam on cross-entropy, in float32 and
            one network after the other.
        centred: subtract what the network said at initialisation (Nguyen et al. 2021): f - f_0 is trained and
            tested, whose infinitely wide limit is regression with the tangent kernel.
        label_scale: s of the ``"mse"`` loss mean((f - s y)^2) / s^2; large ones keep training near the kernel's.

    Raises:
        ConfigError: an unknown field or a value out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "dsa"
    epochs: int = Field(default=1000, ge=1)
    optimiser: Literal["sgd", "adam"] = "sgd"
    lr: float = Field(default=0.01, gt=0, allow_inf_nan=False)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0, allow_inf_nan=False)
    batch_size: int = Field(default=256, ge=1)
    augmentation: str = "none"
    augmentation_options: dict[str, float] = Field(default_factory=dict)
    schedule: Literal["halve", "constant", "cosine", "steps", "warmup", "given"] = "halve"
    milestones: tuple[float, ...] = Field(default=(), validate_default=True)
    gamma: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    loss: Literal["auto", "ce", "mse"] = "auto"
    cutmix: float = Field(default=0.0, ge=0, le=1)
    views: int = Field(default=1, ge=1)
    warmup: float = Field(default=0.0, ge=0, lt=1)
    floor: float = Field(default=0.0, ge=0, le=1)
    rates: tuple[float, ...] = Field(default=(), validate_default=True)
    momenta: tuple[float, ...] = ()
    runs: int = Field(default=1, ge=1)
    classes: int | None = Field(default=None, ge=1)
    start: int | None = Field(default=None, ge=0)
    head: Literal["linear", "ridge"] = "linear"
    centred: bool = False
    label_scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise ConfigError(f"bad training recipe: {describe_validation_error(error)}") from None

    @field_validator("augmentation")
    @classmethod
    def _known_augmentation(cls, strategy: str) -> str:
        create(strategy)
        return strategy

    @field_validator("milestones")
    @classmethod
    def _milestones_of_the_steps(cls, milestones: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        if list(milestones) != sorted(set(milestones)) or not all(0 < share < 1 for share in milestones):
            raise ValueError("milestones are ascending shares of the epochs between 0 and 1, such as [0.5, 0.75]")
        if "schedule" in info.data and bool(milestones) != (info.data["schedule"] == "steps"):
            remedy = "set milestones=[]" if milestones else "give some, such as [0.5, 0.75]"
            raise ValueError(f"schedule 'steps' has milestones, no other one does: {remedy}")
        return milestones

    @field_validator("rates")
    @classmethod
    def _rates_of_given_steps(cls, rates: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        if not all(0 < rate < math.inf for rate in rates):
            raise ValueError("rates are positive finite numbers, one per step")
        if "schedule" in info.data and bool(rates) != (info.data["schedule"] == "given"):
            raise ValueError(
                "schedule 'given' has rates, no other one does: give both, or another schedule and no rates"
            )
        return rates

    @field_validator("momenta")
    @classmethod
    def _one_momentum_per_step(cls, momenta: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        if momenta and len(momenta) != len(info.data.get("rates", momenta)):
            raise ValueError(f"{len(momenta)} momenta for {len(info.data['rates'])} rates: give one per step, or none")
        if not all(0 <= momentum < math.inf for momentum in momenta):
            raise ValueError("momenta are finite numbers of at least 0, one per step")
        return momenta

    @field_validator("cutmix")
    @classmethod
    def _mixes_cross_entropies(cls, cutmix: float, info: ValidationInfo) -> float:
        if cutmix and info.data.get("loss") == "mse":
            raise ValueError(
                "mixed targets are exact for cross-entropy only, not for loss 'mse' (that of regression labels): "
                "set cutmix to 0"
            )
        return cutmix

    @classmethod
    def standard(cls, data_name: str, augmented: bool = True) -> TrainingRecipe:
        """Return the protocol of published tables for the dataset called ``data_name``.

        Plain training ("dc") takes 300 epochs; augmented training ("dsa") 1000 epochs with the dataset's DSA
        strategy (without mirroring for digits).
        """
        if not augmented:
            return cls(name="dc", epochs=300)
        return cls(name="dsa", epochs=1000, augmentation=default_strategy(data_name))

    @classmethod
    def quick(cls, data_name: str) -> TrainingRecipe:
        """Return "dsa" shortened to 200 epochs, for development; its accuracies do not compare with
        tables."""
        return cls.standard(data_name).replace(name="quick", epochs=200)

    @classmethod
    def idc(cls, data_name: str) -> TrainingRecipe:
        """Return the recipe of IDC (Kim et al. 2022, "Dataset Condensation via Efficient Synthetic-Data
        Parameterization").

        1000 epochs of batches of 64, the rate times 0.2 after 2/3 and 5/6 of them, CutMix on every second
        batch, and the sequential augmentation without cutout (and without mirroring for digits).
        """
        families = [family for family in default_strategy(data_name).split("_") if family != "cutout"]
        return cls(
            name="idc",
            epochs=1000,
            batch_size=64,
            augmentation="+".join(families),
            schedule="steps",
            milestones=(2 / 3, 5 / 6),
            gamma=0.2,
            cutmix=0.5,
        )

    def replace(self, **changes: Any) -> TrainingRecipe:
        """Return a copy with some fields changed, checked like a new recipe."""
        return TrainingRecipe(**{**self.model_dump(), **changes})

    @property
    def augments(self) -> bool:
        """Whether training images are changed at random, by an augmentation or by CutMix."""
        return self.augmentation != "none" or self.cutmix > 0

    @property
    def total_epochs(self) -> int:
        """Number of epochs that really run."""
        if self.schedule == "given":
            return 1
        return self.epochs + 1 if self.schedule == "halve" else self.epochs

    def rate(self, epoch: int) -> float:
        """Return the learning rate during the epoch with 0-based index ``epoch``."""
        if self.schedule == "halve":
            return self.lr if epoch <= self.epochs // 2 + 1 else self.lr * 0.1
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        if self.schedule == "warmup":
            raise ValueError("schedule 'warmup' has a rate per step: ask rate_at(step, steps)")
        # The small term undoes rounding: 0.29 of 100 epochs is 28.999999999999996.
        drops = sum(epoch >= math.floor(share * self.epochs + 1e-6) for share in self.milestones)
        return self.lr * self.gamma**drops

    def rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of the step with 0-based index ``step`` of ``steps`` of schedule ``"warmup"``."""
        rise = self.warmup * steps
        if step < rise:
            return self.lr * (step + 1) / (rise + 1)
        done = (step - rise) / max(1.0, steps - rise)
        return self.lr * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done)))

    def rebuilds_optimiser(self, epoch: int) -> bool:
        """Say whether a fresh optimiser (no momentum) starts at the beginning of this 0-based epoch."""
        return epoch == 0 or (self.schedule == "halve" and epoch == self.epochs // 2 + 2)

    def shown(self, images: int) -> int:
        """Return how many of this many training images an epoch shows: one of every ``views``."""
        return images // self.views

    def steps(self, images: int) -> int:
        """Return how many steps training on this many images takes."""
        if self.schedule == "given":
            return len(self.rates)
        return self.total_epochs * math.ceil(self.shown(images) / self.batch_size)

    def loss_for(self, label_kind: str) -> Literal["ce", "mse"]:
        """Resolve ``loss="auto"`` for labels of kind ``"hard"``, ``"soft"`` or ``"regression"``."""
        return loss_kind(self.loss, label_kind)
