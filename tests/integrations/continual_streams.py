"""Small streams and strategies that the tests of the continual adapter share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ddkit.data import Preprocessing
from ddkit.integrations.continual import DistilledReplayBuffer
from ddkit.integrations.continual.host import EvaluationPlugin, Naive, class_incremental_benchmark
from ddkit.models import ModelSpec

#: A normalisation as torchvision's transforms apply it.
NORMALISED = Preprocessing((0.3,), (0.4,))
TINY: dict[str, Any] = {
    "method": "dm",
    "steps": 2,
    "objective": {"real_batch": 5},
    "model": "mlp:width=8",
    "augmentation": "none",
    "recipe": {"name": "dsa", "augmentation": "none"},
}


class Stream(Dataset[tuple[Tensor, Any]]):
    """A torchvision-like dataset: preprocessed images with a ``targets`` field."""

    def __init__(self, images: Tensor, targets: Sequence[Any], as_tensors: bool = False) -> None:
        self.images, self.targets, self.as_tensors = images, list(targets), as_tensors

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        label = self.targets[index]
        return self.images[index], torch.tensor(label) if self.as_tensors else label


def pixels(classes: int = 4, per_class: int = 12, seed: int = 0, side: int = 4) -> tuple[Tensor, list[int]]:
    """Return 8-bit images that use the whole range, each class with a pattern of its own, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(classes, 1, side, side, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(classes).repeat_interleave(per_class)
    images = (
        255 * (0.8 * patterns[labels] + 0.2 * torch.rand(len(labels), 1, side, side, generator=generator))
    ).round()
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 0, 255
    return images.to(torch.uint8), labels.tolist()


def toy_stream(classes: int = 4, per_class: int = 12, as_tensors: bool = False, side: int = 4) -> Stream:
    images, labels = pixels(classes, per_class, side=side)
    return Stream(NORMALISED.apply(images), labels, as_tensors)


def benchmark(stream: Any = None, per_experience: Sequence[int] = (2, 2), order: Sequence[int] | None = None) -> Any:
    stream = toy_stream() if stream is None else stream
    order = range(sum(per_experience)) if order is None else order
    return class_incremental_benchmark(
        {"train": stream, "test": stream}, num_classes_per_exp=list(per_experience), class_order=list(order)
    )


class Experience:
    """The part of an experience that a storage policy looks at."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset


def model(classes: int = 4) -> torch.nn.Module:
    return ModelSpec.parse("mlp:width=8").build((1, 4, 4), classes, 0)


def strategy(plugins: Sequence[Any], classes: int = 4, **options: Any) -> Any:
    network = model(classes)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    common = {"train_mb_size": 8, "train_epochs": 1, "eval_mb_size": 32, "evaluator": EvaluationPlugin(loggers=[])}
    return Naive(model=network, optimizer=optimiser, plugins=list(plugins), **{**common, **options})


def tiny(max_size: int | None = 8, **options: Any) -> DistilledReplayBuffer:
    return DistilledReplayBuffer(max_size, **{**TINY, "num_classes": 4, **options})


def fed(buffer: Any, stream: Any = None, **layout: Any) -> Any:
    """Give all experiences of a stream to a buffer, with a strategy that does not train."""
    agent = strategy([])
    for experience in benchmark(stream, **layout).train_stream:
        buffer.post_adapt(agent, experience)
    return buffer
