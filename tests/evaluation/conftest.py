"""Small real and distilled sets that the evaluation tests share."""

from __future__ import annotations

import pytest
import torch

from ddkit.data import RealData, load_pair
from ddkit.data.coresets import random_indices
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.models import ModelSpec

SMALL = ModelSpec("convnet", {"depth": 2, "width": 32})
TINY = ModelSpec("convnet", {"depth": 1, "width": 8})


@pytest.fixture(scope="session")
def digits() -> tuple[RealData, RealData]:
    return load_pair("digits")


def random_set(train: RealData, ipc: int, draw: int = 0, **metadata: object) -> DistilledDataset:
    """Random real images as preprocessed float32, as a distilled set."""
    index = random_indices(train.class_index, ipc, torch.Generator().manual_seed(draw))
    return DistilledDataset(
        images=train.batch(index),
        labels=train.labels[index],
        class_names=train.class_names,
        preprocessing=train.preprocessing,
        metadata={
            "method": "random",
            "source": {"name": train.name, "split": train.split, "fingerprint": train.fingerprint},
            **metadata,
        },
    )


def with_labels(like: DistilledDataset, labels: torch.Tensor, label_kind: str) -> DistilledDataset:
    """The same images with other labels."""
    return DistilledDataset(
        images=like.images,
        labels=labels,
        label_kind=label_kind,  # type: ignore[arg-type]
        class_names=like.class_names,
        preprocessing=like.preprocessing,
        metadata=like.metadata,
    )
