"""How is a network trained from where it is: near the round's start, or pulled towards it?"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from ddkit.base.streams import Streams, default_draws, derive_seed
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, DivergedError
from ddkit.training.batches import Batches, TrainingSet
from ddkit.training.learners import SerialLearner, weighted_loss
from ddkit.training.recipe import TrainingRecipe
from ddkit.training.train import run_epochs


def check_recipe(recipe: TrainingRecipe) -> None:
    """Refuse what training from given weights does not do.

    Raises:
        ConfigError: naming the field.
    """
    unsupported = {
        f"schedule='{recipe.schedule}'": recipe.schedule in ("warmup", "given"),
        f"loss='{recipe.loss}'": recipe.loss == "mse",
        f"head='{recipe.head}'": recipe.head != "linear",
        f"cutmix={recipe.cutmix}": recipe.cutmix > 0,
        f"views={recipe.views}": recipe.views > 1,
        "centred=True": recipe.centred,
        f"start={recipe.start}": recipe.start is not None,
    }
    for setting, wrong in unsupported.items():
        if wrong:
            raise ConfigError(f"federated training does not know {setting}: use the recipe 'dc' or 'dsa'")


def training_data(data: RealData | DistilledDataset) -> TrainingSet:
    """Return real images, preprocessed batch by batch, or a distilled set as something to train on."""
    if isinstance(data, RealData):
        return TrainingSet(data, data.labels, data.num_classes)
    images, labels = data.tensors()
    return TrainingSet(images, labels, data.num_classes)


def train(
    module: nn.Module,
    data: TrainingSet,
    recipe: TrainingRecipe,
    streams: Streams,
    *,
    weights: Tensor | None = None,
    proximal: float = 0.0,
    radius: float | None = None,
) -> float:
    r"""Train ``module`` in place from its present weights :math:`w^0`.

    .. math::
        \min_w \; \frac{1}{N} \sum_i a_i \, \mathrm{CE}(f_w(x_i), y_i) + \frac{\mu}{2} \| w - w^0 \|^2
        \quad \text{such that} \quad \| w - w^0 \| \le \rho

    The proximal term is that of FedProx (Li et al. 2020), the ball that of FedDM (Xiong et al. 2023): after each step
    weights outside it are moved back to its surface.

    Args:
        module: the network.
        data: images and targets.
        recipe: epochs, rate, batches, augmentation.
        streams: for batch order (``order``) and augmentation (``augmentation``).
        weights: (N,) importance :math:`a_i` of each image; None for 1.
        proximal: :math:`\mu`.
        radius: :math:`\rho`; None for no bound.

    Returns:
        the mean loss of the last epoch.

    Raises:
        ConfigError: a recipe that this training does not know.
        DivergedError: weights that are no longer finite.
    """
    check_recipe(recipe)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    module.train()
    losses: list[Tensor] = []  # of the batches of the present epoch, each a sum over its images

    def loss(images: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
        mean = weighted_loss(module(images), targets, shares, "ce")
        losses.append(mean.detach() * len(images))
        return mean + 0.5 * proximal * _squared_distance(learner.parameters, origin) if proximal else mean

    def project() -> None:
        if radius is not None:
            _project(learner.parameters, origin, radius)

    def after_epoch(epoch: int) -> None:
        if epoch < recipe.total_epochs:
            losses.clear()

    learner = SerialLearner(module, loss)
    origin = [parameter.detach().clone() for parameter in learner.parameters]
    batches = Batches(dataclasses.replace(data, importance=weights), recipe, [streams], pad=False)
    with default_draws(derive_seed(streams.seed, "passes"), origin[0].device):  # of dropout and the like
        run_epochs(learner, batches, after_epoch, project)
    if not all(bool(parameter.isfinite().all()) for parameter in learner.parameters):
        raise DivergedError(f"training diverged (learning rate {recipe.lr}): lower the recipe's lr")
    return sum(torch.stack(losses).tolist()) / len(data)


def _squared_distance(parameters: list[Tensor], origin: list[Tensor]) -> Tensor:
    return torch.stack([(a - b).square().sum() for a, b in zip(parameters, origin, strict=True)]).sum()


@torch.no_grad()
def _project(parameters: list[Tensor], origin: list[Tensor], radius: float) -> None:
    """Move weights further than ``radius`` from ``origin`` back to the sphere around it."""
    distance = float(_squared_distance(parameters, origin).sqrt())
    if distance > radius:
        for parameter, start in zip(parameters, origin, strict=True):
            parameter.copy_(start + (parameter - start) * (radius / distance))
