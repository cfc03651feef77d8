"""What a trained network says of images: how many it classifies correctly, at what loss, with what probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.base.device import layout
from ddkit.base.precision import Precision
from ddkit.data.real import RealData
from ddkit.training.train import TrainingPrecision

#: Takes logits (n, K) and labels (n,).
Measure = Callable[[Tensor, Tensor], Tensor]


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many rows of ``logits`` are largest at their label, on the device."""
    return (logits.argmax(dim=1) == labels).sum()


def right_and_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many rows are right and the sum of their cross-entropies: (2,) float64, on the device."""
    return torch.stack([right(logits, labels).double(), F.cross_entropy(logits, labels, reduction="sum").double()])


@torch.inference_mode()
def _measured(
    models: Sequence[nn.Module], data: RealData, measure: Measure, batch: int, precision: TrainingPrecision = "float32"
) -> list[Tensor]:
    """Return what ``measure`` gives for every batch, a row per model: one pass, in which nothing waits for the device.

    Models run in evaluation mode; their own mode is restored. Images are converted to their device and number format.
    """
    modes = [model.training for model in models]
    parameter = next(models[0].parameters())
    device, labels = parameter.device, data.labels.to(parameter.device)
    measured = []
    try:
        for model in models:
            model.eval()
        with Precision(getattr(torch, precision)).autocast(device):
            for start in range(0, len(data), batch):
                index = torch.arange(start, min(start + batch, len(data)))
                images = data.batch(index).to(device, parameter.dtype, memory_format=layout(data.shape))
                truth = labels[start : start + batch]
                measured.append(torch.stack([measure(model(images), truth) for model in models]))
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)
    return measured


def accuracies(
    models: Sequence[nn.Module], test: RealData, batch: int = 512, precision: TrainingPrecision = "float32"
) -> list[float]:
    """Return the test accuracy of every model, as fractions, from one pass over the test set.

    Args:
        models: networks on one device.
        test: real images, with the preprocessing that the networks were trained with.
        batch: images per forward pass.
        precision: ``"float32"`` (the models' own format) or ``"bfloat16"`` autocast.
    """
    counts = torch.stack(_measured(models, test, right, batch, precision)).sum(0)
    return [count / len(test) for count in counts.tolist()]


def accuracy(model: nn.Module, test: RealData, batch: int = 512, precision: TrainingPrecision = "float32") -> float:
    """Return the test accuracy of one model as a fraction; see :func:`accuracies`."""
    return accuracies([model], test, batch, precision)[0]


def accuracy_and_loss(model: nn.Module, test: RealData, batch: int = 512) -> tuple[float, float]:
    """Return the accuracy of one model, as a fraction, and its mean cross-entropy in float64."""
    parts = _measured([model], test, lambda logits, labels: right_and_loss(logits.double(), labels), batch)
    count, loss = torch.cat(parts).sum(0).tolist()
    return count / len(test), loss / len(test)


def probabilities(model: nn.Module, test: RealData, batch: int = 512) -> Tensor:
    """Return the softmax of what a model says of every image, (N, K) on its device."""
    return torch.cat([part[0] for part in _measured([model], test, lambda logits, _: logits.softmax(dim=1), batch)])
