"""The contrastive constraint: images of one basis differ in what they show, yet a network still knows their class."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.base.ranges import Count, Momentum, Rate, Weight
from ddkit.errors import ConfigError, DivergedError
from ddkit.networks.network import Network
from ddkit.objectives.constraints.base import Constraint, registry
from ddkit.synthesis.base import Synthesizer

if TYPE_CHECKING:
    from ddkit.objectives.base import Context

#: Least norm that a feature vector is divided by.
_EPSILON = 1e-8
#: Name of the random stream of pairs, augmentations and the auxiliary network's initial weights.
_STREAM = "constraint"


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine of the features (n, D) of two images each: (n,) in [-1, 1]."""
    return (F.normalize(first, dim=1, eps=_EPSILON) * F.normalize(second, dim=1, eps=_EPSILON)).sum(1)


def supervised_contrastive(features: Tensor, classes: Tensor, temperature: float) -> Tensor:
    r"""Return the supervised contrastive loss (Khosla et al. 2020, NeurIPS, arXiv 2004.11362, Eq. 2).

    .. math::
        L = -\frac{1}{N} \sum_a \frac{1}{|P(a)|} \sum_{p \in P(a)}
            \log \frac{\exp(z_a \cdot z_p / \tau)}{\sum_{i \ne a} \exp(z_a \cdot z_i / \tau)}

    with normalised features z and :math:`P(a)` the other images of the class of a. Unlike in the paper the loss is not
    multiplied by the ratio of the temperature to a base temperature.

    Args:
        features: (N, D), not normalised.
        classes: (N,) int64; every class occurs at least twice.
        temperature: tau.
    """
    normalised = F.normalize(features, dim=1, eps=_EPSILON)
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    scores = (normalised @ normalised.T / temperature).masked_fill(itself, -math.inf)
    positives = (classes[:, None] == classes[None]) & ~itself
    logarithms = F.log_softmax(scores, dim=1).masked_fill(~positives, 0.0)
    return -(logarithms.sum(1) / positives.sum(1)).mean()


@registry.register("contrast")
class ContrastiveConstraint(Constraint):
    r"""Images of one basis are driven apart, against an auxiliary network F that pulls them together.

    The adversarial contrastive constraint of HaBa (Liu et al. 2022, NeurIPS, "Dataset Distillation via Factorization").
    In every outer step a chunk of stored images (bases) b and two different views j and j' are drawn, and

    .. math::
        \lambda_{adv} \frac{1}{n} \sum_b \tfrac12 \big(1 + \cos(F(s_{b,j}), F(s_{b,j'}))\big)

    is added to what the objective minimises over the synthetic data. Then, with another chunk and pair of the updated
    images held fixed, F takes one SGD step on

    .. math::
        \lambda_{task} \mathrm{CE}
        + \lambda_{cos} \frac{1}{n} \sum_b \tfrac12 \big(1 - \cos(F(s_{b,j}), F(s_{b,j'}))\big)
        + \lambda_{con} \mathrm{SupCon}

    where CE and SupCon see the 2n images of both views. All images pass through the augmentation of the run, each with
    draws of its own. F has the architecture of the matching networks, one set of weights of its own that is never
    reset, and is thrown away. Neither step leaves gradients on the other player.

    It works with every synthesizer that decodes a stored image into several (hallucinators, shared decoders,
    multi-formation). With ``weight=0`` it is off: nothing is drawn or trained. A large weight drives the images apart
    at the cost of what they teach.

    Args:
        weight: lambda_adv, at least 0.
        task: lambda_task of F.
        cosine: lambda_cos of F.
        contrast: lambda_con of F.
        temperature: tau of SupCon.
        lr: learning rate of F.
        momentum: of F's SGD.
        batch: stored images per chunk; None, or more than there are, for all.
    """

    def __init__(
        self,
        weight: Weight = 0.1,
        task: Weight = 1.0,
        cosine: Weight = 0.1,
        contrast: Weight = 0.1,
        temperature: Rate = 0.07,
        lr: Rate = 0.001,
        momentum: Momentum = 0.9,
        batch: Count | None = None,
    ) -> None:
        self.weight, self.task, self.cosine, self.contrast = weight, task, cosine, contrast
        self.temperature, self.lr, self.momentum, self.batch = temperature, lr, momentum, batch

    def setup(self, context: Context, synthesizer: Synthesizer) -> None:
        """Draw the auxiliary network."""
        super().setup(context, synthesizer)
        if not self.weight:
            return
        if synthesizer.views < 2:
            raise ConfigError(
                f"constraint contrast compares images of one stored image, of which synthesizer '{synthesizer.name}' "
                f"makes one: use synthesis=hallucinators with at least 2 of them, or constraint.weight=0"
            )
        own = context.network
        if own.has_batch_norm:
            raise ConfigError(
                f"constraint contrast with '{own.spec.canonical()}': batch norm would change the auxiliary network "
                f"where it must stay as it is; use a network with norm=instance"
            )
        if not isinstance(getattr(own.module, "classifier", None), nn.Module):
            raise ConfigError(
                f"model '{own.spec.canonical()}' has no module called classifier, with which constraint contrast turns "
                f"features into logits: name it so or use a model of ddkit"
            )
        self.network = Network(own.spec, own.shape, own.num_classes, device=own.device, precision=own.precision)
        self.network.module.to(own.dtype)
        self.network.reset(context.streams.integer(_STREAM))
        self.network.module.requires_grad_(False)
        parameters = self.network.module.parameters()
        self.optimiser = torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum)

    def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
        """Accumulate the gradient of the weighted mean similarity on the synthesizer.

        Returns:
            ``adversarial``, the mean of (1 + cos) / 2 without its weight, in [0, 1]; nothing where the weight is 0.
        """
        if not self.weight:
            return {}
        index = self._draw(synthesizer)
        first, second = self.network.features(self._augmented(synthesizer(index)[0])).chunk(2)
        loss = (1 + similarity(first, second)).mean() / 2
        torch.autograd.backward(self.weight * loss, inputs=synthesizer.learnable())
        return {"adversarial": float(loss.detach())}

    def after_step(self, synthesizer: Synthesizer) -> None:
        """Train the auxiliary network for one step on the updated images."""
        if not self.weight:
            return
        index = self._draw(synthesizer)
        with torch.no_grad():
            images, targets = synthesizer(index)
            images = self._augmented(images)
        module = self.network.module.requires_grad_(True)
        loss = self._auxiliary_loss(images, targets, synthesizer.classes[index])
        if not math.isfinite(float(loss.detach())):
            raise DivergedError(
                f"the loss of the auxiliary network of constraint contrast is {float(loss.detach())}: lower "
                f"constraint.lr (now {self.lr}) or optimiser.lr"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        module.requires_grad_(False)

    def _auxiliary_loss(self, images: Tensor, targets: Tensor, classes: Tensor) -> Tensor:
        """Return what F minimises on the images (2n, C, H, W) of two views, the first view's first."""
        features = self.network.features(images)
        logits = self.network.module.get_submodule("classifier")(features)
        apart = (1 - similarity(*features.chunk(2))).mean() / 2
        return (
            self.task * F.cross_entropy(logits, targets.to(self.network.device))
            + self.cosine * apart
            + self.contrast * supervised_contrastive(features, classes.to(features.device), self.temperature)
        )

    def _draw(self, synthesizer: Synthesizer) -> Tensor:
        """Draw a chunk of stored images and two of their views: decoded indices (2n,), the first view's first."""
        generator = self.context.streams(_STREAM)
        codes = torch.randperm(len(synthesizer) // synthesizer.views, generator=generator)[: self.batch]
        views = torch.randperm(synthesizer.views, generator=generator)[:2].tolist()
        index = torch.cat([synthesizer.view_index(codes, view) for view in views])
        return index.to(synthesizer.classes.device)

    def _augmented(self, images: Tensor) -> Tensor:
        return self.context.augmentation.train(images, self.context.streams(_STREAM))

    def passes_per_step(self, synthesizer: Synthesizer) -> float:
        """Two forward and backward passes of two views of every stored image in a chunk."""
        stored = len(synthesizer) // synthesizer.views
        return 2 * 3.0 * 2 * min(self.batch or stored, stored) if self.weight else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the weights and the momentum of the auxiliary network; nothing where the weight is 0."""
        if not self.weight:
            return {}
        return {"weights": self.network.snapshot(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the saved auxiliary network."""
        if self.weight:
            self.network.module.load_state_dict(state["weights"])
            self.optimiser.load_state_dict(state["optimiser"])
