"""Are coreset features those of the right tensor, without randomness, leakage or side effects?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddkit.data.coresets import network_features, pixel_features
from ddkit.errors import ConfigError, DataError


class FakeReal:
    """Twenty preprocessed images with the part of RealData's interface that features need."""

    def __init__(self, split: str = "train") -> None:
        self.split = split
        self.images = torch.randn(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: Tensor) -> Tensor:
        return self.images[index]


class TinyNetwork(nn.Module):
    """Batch norm and dropout make training mode visible."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout, self.classifier = nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Linear(16, 2)

    def features(self, images: Tensor) -> Tensor:
        return self.dropout(self.norm(images)).flatten(1)


def real(split: str = "train") -> Any:
    return FakeReal(split)


@pytest.mark.parametrize("batch", [1, 7, 20, 512])
def test_pixel_features_are_the_flattened_images(batch: int) -> None:
    data = real()
    features = pixel_features(data, batch=batch)
    assert features.dtype == torch.float32 and torch.equal(features, data.images.flatten(1))


def test_network_features_are_taken_in_evaluation_mode() -> None:
    data, model = real(), TinyNetwork()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    features = network_features(data, model, batch=6)
    assert torch.allclose(features, data.images.flatten(1) / (1 + model.norm.eps) ** 0.5, atol=1e-6)
    assert torch.equal(features, network_features(data, model, batch=6))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_network_features_are_ordinary_tensors_without_graph() -> None:
    features = network_features(real(), TinyNetwork())
    assert not features.requires_grad and not features.is_inference()


def test_mode_of_each_module_is_put_back_even_after_an_error() -> None:
    model = TinyNetwork().train()
    model.norm.eval()
    network_features(real(), model)
    assert model.training and model.dropout.training and not model.norm.training
    model.features = lambda images: 1 / 0  # type: ignore
    with pytest.raises(ZeroDivisionError):
        network_features(real(), model)
    assert model.training and model.dropout.training and not model.norm.training


def test_test_split_and_models_without_features_are_refused() -> None:
    for call in (lambda: pixel_features(real("test")), lambda: network_features(real("test"), TinyNetwork())):
        with pytest.raises(DataError, match="leak"):
            call()
    with pytest.raises(ConfigError, match="Linear has no features"):
        network_features(real(), nn.Linear(16, 2))
