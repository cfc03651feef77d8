"""How is a network trained whose last layer is the solution of a ridge regression?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.base.streams import Streams
from ddkit.models.kernels.last_layer import ridge_weights, with_constant
from ddkit.training.batches import Batches, TrainingSet
from ddkit.training.learners import Workload, weighted_loss
from ddkit.training.recipe import TrainingRecipe

#: Constants of the procedure (Bohdal et al. 2020): share of the new solution, regulariser, Adam's rate for the scale.
MIXING, REGULARISER, SCALE_RATE = 0.01, 1.0, 0.01


class RidgeHead(nn.Module):
    """A network that classifies with given weights of its features.

    Args:
        model: has ``features(images) -> (N, F)``.
        weights: (F + 1, K), those of the constant last.
    """

    weights: Tensor

    def __init__(self, model: nn.Module, weights: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("weights", weights)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, K) for images (N, C, H, W)."""
        return with_constant(features_of(self.model, x)) @ self.weights


def features_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return the features (N, F) of images (N, C, H, W)."""
    return cast(Tensor, model.features(images))  # type: ignore[operator]


def train_by_ridge(
    setting: Workload, data: TrainingSet, recipe: TrainingRecipe, streams: Streams, report: Callable[[int], None]
) -> RidgeHead:
    r"""Train one network by the procedure with which LD-RR learns labels (Bohdal et al. 2020, arXiv 2006.08572).

    In every step the ridge solution of the batch is mixed into the running last layer, and Adam moves features and a
    temperature s by the cross-entropy of the result:

    .. math::
        w \leftarrow (1 - a) w + a \Phi^\top (\Phi \Phi^\top + \lambda I)^{-1} Y, \qquad
        \ell = \mathrm{CE}(s\, \Phi w, Y)

    Args:
        setting: architecture and shapes; eager, in the number format of the images.
        data: what to train on.
        recipe: batches, epochs and Adam's rate for the features.
        streams: of the initial weights and the batch order.
        report: called with the number of epochs done, from 1.

    Returns:
        the network with its last w, in training mode; logits without s, which changes no class.
    """
    if not data.targets.is_floating_point():
        data = dataclasses.replace(data, targets=F.one_hot(data.targets, data.num_classes).to(data.dtype))
    model = setting.build(streams.seed)
    scale = torch.ones((), device=setting.device, dtype=setting.dtype, requires_grad=True)
    groups: list[dict[str, Any]] = [{"params": list(model.parameters())}, {"params": [scale], "lr": SCALE_RATE}]
    adam = torch.optim.Adam(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)
    batches = Batches(data, recipe, [streams], pad=False)
    weights: Tensor | None = None
    for epoch in range(recipe.epochs):
        for images, targets, shares in batches.epoch():
            rows = targets[0]
            features = with_constant(features_of(model, images[0]))
            solved = ridge_weights(features, rows, REGULARISER)
            before = torch.zeros_like(solved) if weights is None else weights
            mixed = (1 - MIXING) * before + MIXING * solved
            adam.zero_grad()
            weighted_loss(scale * (features @ mixed), rows, shares, "ce").backward()
            adam.step()
            weights = mixed.detach()
        report(epoch + 1)
    assert weights is not None
    return RidgeHead(model, weights)
