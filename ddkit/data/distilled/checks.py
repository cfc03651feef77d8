"""Which distilled datasets are consistent? The schema of their metadata and the rules between their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from torch import Tensor

from ddkit.base.registry import describe_validation_error
from ddkit.data.distilled.budget import Budget
from ddkit.data.distilled.card import Card
from ddkit.data.preprocessing import Preprocessing
from ddkit.errors import ArtifactError

LabelKind = Literal["hard", "soft", "regression"]
Model = TypeVar("Model", bound=BaseModel)

SUM_TOLERANCE = 1e-3  # of a row of probabilities: room for labels that were computed in bfloat16


class BudgetContent(BaseModel):
    """The stored form of :class:`ddkit.data.distilled.budget.Budget`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    images: NonNegativeInt
    decoded_images: NonNegativeInt
    floats: NonNegativeInt
    bytes: NonNegativeInt


class PreprocessingContent(BaseModel):
    """The stored form of :meth:`ddkit.data.preprocessing.Preprocessing.metadata`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mean: list[float]
    std: list[float]
    zca: bool


class CodecContent(BaseModel):
    """The stored form of :class:`ddkit.data.distilled.coding.Coding`: its codec, and an entry a tensor."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    tensors: dict[str, dict[str, Any]]


class Content(BaseModel):
    """The JSON part of an artifact; a new field here needs a new format version."""

    model_config = ConfigDict(extra="forbid", strict=True)

    codec: CodecContent | None = None

    label_kind: LabelKind
    class_names: list[str]
    budget: BudgetContent
    preprocessing: PreprocessingContent
    synthesis: str
    synthesis_options: dict[str, Any]
    metadata: dict[str, Any]


def checked(model: type[Model], value: Any) -> Model:
    """Validate ``value`` against a schema, in one line when it fails."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ArtifactError(f"metadata do not follow the schema: {describe_validation_error(error)}") from None


def check(
    images: Tensor,
    labels: Tensor,
    label_kind: str,
    class_names: Sequence[str],
    preprocessing: Preprocessing,
    budget: Budget,
    synthesis: str,
    metadata: Mapping[str, Any],
) -> None:
    """Check every part of a distilled dataset against the others.

    Args:
        images: decoded or at rest (N, C, H, W).
        labels: (N,) or (N, K).
        label_kind: of them.
        class_names: K texts.
        preprocessing: of the real data.
        budget: of the set.
        synthesis: its name.
        metadata: where the set came from.

    Raises:
        ArtifactError: the first rule that is broken.
    """
    _check_images(images)
    _check_preprocessing(preprocessing, images)
    _check_label_layout(labels, label_kind, class_names, len(images))
    _check_label_values(labels, label_kind, len(class_names))
    order, count = checked(Card, metadata).order, len(images)
    if order is not None:
        counts = order.counts()
        same = len(counts) == len(order.classes) and sum(counts) == count
        if not same or max(order.classes) >= len(class_names):
            raise ArtifactError(
                f"metadata.order names {len(order.classes)} classes with {order.per_class} images each, the set has "
                f"{count} images of {len(class_names)} classes: leave it out, or give the order of this set"
            )
    if budget.decoded_images != count or (synthesis == "pixels" and budget.images != count):
        raise ArtifactError(
            f"budget counts {budget.images} images ({budget.decoded_images} decoded), the set has {count}: "
            "pass the budget of this set"
        )


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or images.numel() == 0 or images.dtype not in (torch.float32, torch.uint8):
        raise ArtifactError(
            f"images have shape {tuple(images.shape)} and dtype {images.dtype}: "
            "give a non-empty (N, C, H, W) tensor of float32 (preprocessed) or uint8"
        )
    if images.is_floating_point() and not bool(torch.isfinite(images).all()):
        raise ArtifactError("images contain NaN or infinity: the run diverged, lower its learning rate")


def _check_preprocessing(preprocessing: Preprocessing, images: Tensor) -> None:
    whitened = None if preprocessing.zca_mean is None else preprocessing.zca_mean.numel()
    if len(preprocessing.mean) != images.shape[1] or whitened not in (None, images[0].numel()):
        raise ArtifactError(
            f"preprocessing of {len(preprocessing.mean)} channels (ZCA of {whitened} values) does not fit "
            f"images {tuple(images.shape[1:])}: use the preprocessing of the data that was distilled"
        )


def _check_label_layout(labels: Tensor, kind: str, names: Sequence[str], count: int) -> None:
    if kind not in get_args(LabelKind):
        raise ArtifactError(f"unknown label kind '{kind}': use one of {', '.join(get_args(LabelKind))}")
    if not names or not all(isinstance(name, str) for name in names):
        raise ArtifactError("class names are missing or not text: give one name a class")
    wanted = (count,) if kind == "hard" else (count, len(names))
    dtype = torch.int64 if kind == "hard" else torch.float32
    if tuple(labels.shape) != wanted or labels.dtype != dtype:
        raise ArtifactError(
            f"{kind} labels have shape {tuple(labels.shape)} and dtype {labels.dtype}: "
            f"{count} images of {len(names)} classes need {wanted} {dtype}"
        )


def _check_label_values(labels: Tensor, kind: str, count: int) -> None:
    low, high = labels.min().item(), labels.max().item()
    if kind == "hard":
        if not 0 <= low <= high < count:
            raise ArtifactError(
                f"labels from {low} to {high} are out of range: {count} classes are numbered 0 to {count - 1}"
            )
    elif not bool(torch.isfinite(labels).all()):
        raise ArtifactError("labels contain NaN or infinity: the run diverged, lower its label learning rate")
    elif kind == "soft":
        error = float((labels.double().sum(dim=1) - 1).abs().max())
        if error > SUM_TOLERANCE or low < 0:
            raise ArtifactError(
                f"soft labels are not probabilities (a row misses the sum of 1 by {error:.3g}, the smallest "
                f"entry is {low:.3g}): apply a softmax, or declare them regression labels"
            )
