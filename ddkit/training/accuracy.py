"""How many test images a trained network classifies correctly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ddkit.base.precision import Precision
from ddkit.data.real import RealData
from ddkit.training.train import TrainingPrecision


def accuracies(
    models: Sequence[nn.Module], test: RealData, batch: int = 512, precision: TrainingPrecision = "float32"
) -> list[float]:
    """Return the test accuracy of every model, as fractions, from one pass over the test set.

    Models run in evaluation mode under inference mode; their own mode is restored. Images are converted to
    the models' device and number format.

    Args:
        models: networks on one device.
        test: real images, with the preprocessing that the networks were trained with.
        batch: images per forward pass.
        precision: ``"float32"`` (the models' own format) or ``"bfloat16"`` autocast.
    """
    modes = [model.training for model in models]
    parameter = next(models[0].parameters())
    device, how = parameter.device, Precision(getattr(torch, precision))
    labels = test.labels.to(device)
    correct = torch.zeros(len(models), dtype=torch.int64, device=device)
    try:
        for model in models:
            model.eval()
        with torch.inference_mode(), how.autocast(device):
            for start in range(0, len(test), batch):
                index = torch.arange(start, min(start + batch, len(test)))
                images = test.batch(index).to(device, parameter.dtype, memory_format=torch.channels_last)
                truth = labels[start : start + batch]
                correct += torch.stack([(model(images).argmax(dim=1) == truth).sum() for model in models])
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)
    return [count / len(test) for count in correct.tolist()]


def accuracy(model: nn.Module, test: RealData, batch: int = 512, precision: TrainingPrecision = "float32") -> float:
    """Return the test accuracy of one model as a fraction; see :func:`accuracies`."""
    return accuracies([model], test, batch, precision)[0]
