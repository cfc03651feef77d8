"""A small learner with the normalisation that GTN has in its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.models import FeatureModel


class MeanOnly(nn.Module):
    """Weight normalisation, subtraction of the batch mean, a bias and a leaky ReLU: a layer of GTN's learners.

    The mean is always that of the present batch; GTN's program tests with that of the last synthetic batch.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.randn(outputs, inputs) * (2 / inputs) ** 0.5)
        self.length = nn.Parameter(self.direction.detach().norm())
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.direction * (self.length / self.direction.norm()))
        return F.leaky_relu(x - x.mean(0, keepdim=True) + self.bias, 0.1)


class MeanOnlyMLP(FeatureModel):
    """Two mean-only layers and a classifier."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int, *, width: int = 64) -> None:
        first = nn.Sequential(nn.Flatten(), MeanOnly(shape[0] * shape[1] * shape[2], width))
        super().__init__([first, MeanOnly(width, width)], nn.Linear(width, num_classes))
