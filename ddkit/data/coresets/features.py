"""Which features coresets are selected on: pixels, or what a trained network feeds its classifier."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ddkit.data.real import RealData
from ddkit.errors import ConfigError, DataError


def pixel_features(real: RealData, *, batch: int = 512) -> Tensor:
    """Return the preprocessed pixels of every image, (N, C·H·W) float32 on the CPU.

    Args:
        real: N training images.
        batch: images preprocessed at a time.

    Raises:
        DataError: ``real`` is a test split; selecting on it would leak test images.
    """
    return _collect(real, batch, lambda images: images)


def network_features(real: RealData, model: nn.Module, *, batch: int = 512) -> Tensor:
    """Return the penultimate features of every image, (N, D) float32 on the CPU.

    The model runs in evaluation mode on images that are not augmented, otherwise the selection would be
    random; the mode of each of its modules is put back afterwards.

    Args:
        real: N training images.
        model: a network with ``features(images) -> (N, D)``, trained on training images only.
        batch: images per forward pass.

    Raises:
        ConfigError: the model has no ``features`` method.
        DataError: ``real`` is a test split; selecting on it would leak test images.
    """
    compute = getattr(model, "features", None)
    if not callable(compute):
        raise ConfigError(
            f"model {type(model).__name__} has no features(images) method: use a ddkit model or add one that "
            "returns the input of the last layer"
        )
    parameter = next(model.parameters(), None)
    device = parameter.device if parameter is not None else None
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        return _collect(real, batch, lambda images: compute(images.to(device) if device is not None else images))
    finally:
        for module, mode in modes:
            module.training = mode


def _collect(real: RealData, batch: int, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """Fill one (N, D) float32 tensor, batch by batch."""
    if real.split == "test":
        raise DataError("coreset features of the test split leak test images: pass the training split")
    count = len(real)
    features = torch.empty(0)
    for start in range(0, count, batch):
        index = torch.arange(start, min(start + batch, count))
        with torch.inference_mode():
            rows = compute(real.batch(index)).flatten(1)
        if start == 0:
            features = torch.empty(count, rows.shape[1])
        features[index] = rows.to("cpu", torch.float32)
    return features
