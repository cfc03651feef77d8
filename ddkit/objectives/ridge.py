"""Ridge regression on features that are trained on the way (the first-order variant of label distillation)."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.base.ranges import Count, Rate
from ddkit.models.kernels.last_layer import ridge_weights, with_constant
from ddkit.networks.flat import FlatNetwork
from ddkit.networks.network import Network
from ddkit.objectives.base import Context, Objective, registry
from ddkit.objectives.student_batches import StudentBatches
from ddkit.synthesis.base import Synthesizer

#: Published: a, how much of a new last layer is mixed in, and the learning rate of Adam for s.
_MIXING = 0.01
_SCALE_LR = 0.01


@registry.register("ridge")
class RidgeRegression(Objective):
    r"""Label distillation by ridge regression, LD-RR (Bohdal et al. 2020, arXiv 2006.08572).

    The last layer of an online network is the solution of a ridge regression on a batch B of synthetic images, mixed
    into the one before, and is judged on real images:

    .. math::
        w_l = \Phi_B^\top (\Phi_B \Phi_B^\top + \lambda I)^{-1} \tilde Y_B, \qquad
        w = (1 - a)\,\mathrm{stop}(w_{old}) + a\, w_l, \qquad
        L = \mathrm{CE}(s\, \phi(x_t)^\top w,\; y_t)

    with :math:`\Phi` the features under a constant column and s a learned temperature. For labels the gradient is
    closed form, :math:`a (\Phi\Phi^\top + \lambda I)^{-1} \Phi\, G` with :math:`G = dL/dw`, from one Cholesky
    factorisation; learned images get theirs through :math:`\Phi_B` (an addition of ddkit). Real features need no graph.

    After the update of the synthetic data, features and s take one step each on the cross-entropy of :math:`s w` on B
    with the new labels. w keeps its graph to the features there, as published. A new network starts with w = 0 and
    s = 1.

    LD augments nothing; an augmentation applies to synthetic images only, with its own draw for each.

    Args:
        batch_syn: synthetic images per step, b; None for all, at most as many as an outer step of other objectives
            looks at.
        real_images: real images per step, drawn from the whole set.
        regulariser: :math:`\lambda`.
    """

    gradient_scale = "regression"
    needs_networks: ClassVar[str | None] = "online"
    every_class: ClassVar[bool] = False

    def __init__(
        self,
        batch_syn: Count | None = None,
        real_images: Count = 1024,
        regulariser: Rate = 1.0,
    ) -> None:
        self.batch_syn, self.real_images, self.regulariser = batch_syn, real_images, regulariser

    def setup(self, context: Context, synthesizer: Synthesizer) -> None:
        """Start without a last layer."""
        super().setup(context, synthesizer)
        context.signal.require("labelled")
        FlatNetwork(context.network)  # refuses running statistics, which couple the batches
        self._batch_size(synthesizer)
        self.life = -1
        self.w: Tensor | None = None
        self._restart()

    def _restart(self) -> None:
        network = self.context.network
        self.w = None
        self.scale = torch.ones((), device=network.device, dtype=network.dtype, requires_grad=True)
        self.scale_optimiser = torch.optim.Adam([self.scale], lr=_SCALE_LR)

    def _batch_size(self, synthesizer: Synthesizer) -> int:
        return len(synthesizer.inner_batches(1, self.batch_syn, torch.Generator())[0])

    def passes_per_step(self, synthesizer: Synthesizer) -> float:
        """One forward pass per real image; two forward and two backward ones per synthetic one."""
        return self.real_images + 6.0 * self._batch_size(synthesizer)

    def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
        """Solve for the last layer, judge it on real images and accumulate the gradient of the synthetic data.

        Returns:
            ``loss``, ``error`` (share of the real images) and ``scale`` (s).
        """
        context, streams = self.context, self.context.streams
        network = context.networks.current()
        life, _ = context.networks.age()
        if life != self.life:
            self.life = life
            self._restart()
        chunk = synthesizer.inner_batches(1, self.batch_syn, streams("student-batches"))[0]
        draws = context.augmentation.draw_train(len(chunk), streams("augmentation"))
        self.student = StudentBatches(synthesizer, context.augmentation, network, [chunk], [draws])
        network.module.requires_grad_(False)
        self.images, targets = self.student.batches[0]()
        self.rows = self._rows(targets)
        solved = ridge_weights(with_constant(network.features(self.images)), self.rows, self.regulariser)
        if self.w is None:
            self.w = torch.zeros_like(solved, requires_grad=False)
        loss, gradient, self.error = self._judge(network, self._mixed(solved.detach()))
        if solved.requires_grad:
            torch.autograd.backward(solved, _MIXING * gradient)
            self.student.finish(synthesizer)
        return {"loss": loss, "error": self.error, "scale": float(self.scale.detach())}

    def _rows(self, targets: Tensor) -> Tensor:
        """Return targets as rows (b, K); hard ones become one-hot."""
        if targets.is_floating_point():
            return targets
        return F.one_hot(targets, self.context.num_classes).to(self.context.network.dtype)

    def _mixed(self, solved: Tensor) -> Tensor:
        assert self.w is not None
        return (1 - _MIXING) * self.w + _MIXING * solved

    def _judge(self, network: Network, weights: Tensor) -> tuple[float, Tensor, float]:
        """Return the loss on real images, its gradient in ``weights`` (F + 1, K), and the share of errors."""
        images, labels = self.context.signal.labelled(self.real_images, "target")
        labels = labels.to(network.device)
        with torch.no_grad():
            features = with_constant(network.features(images))
            logits = self.scale * (features @ weights)
            difference = logits.softmax(1) - F.one_hot(labels, logits.shape[1])
            gradient = self.scale * (features.T @ difference) / len(labels)
            loss = F.cross_entropy(logits, labels)
            error = (logits.argmax(1) != labels).float().mean()
        return float(loss), gradient, float(error)

    def after_step(self, synthesizer: Synthesizer) -> None:
        """Update the scale, and hand the network its gradient on the updated labels."""
        network = self.context.network
        with torch.no_grad():
            updated = synthesizer.labels(self.student.index)
        self.student.targets = updated
        new_rows = self._rows(self.student.batches[0]()[1])
        network.module.requires_grad_(True)
        features = with_constant(network.features(self.images.detach()))
        mixed = self._mixed(ridge_weights(features, self.rows.detach(), self.regulariser))
        loss = F.cross_entropy(self.scale * (features @ mixed), new_rows)
        weights = list(network.module.parameters())
        self.scale.grad, *gradients = torch.autograd.grad(loss, [self.scale, *weights], materialize_grads=True)
        self.scale_optimiser.step()
        self.w = mixed.detach()
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        self.context.networks.observe(flat, images=len(new_rows), error=self.error)

    def recipe_changes(self) -> dict[str, Any]:
        """Return that the last layer is a ridge regression in training, too."""
        return {"head": "ridge"}

    def state_dict(self) -> dict[str, Any]:
        """Return last layer, scale with its Adam, and the network to which they belong."""
        return {
            "life": self.life,
            "w": [] if self.w is None else [self.w.clone()],
            "scale": self.scale.detach().clone(),
            "scale_optimiser": copy.deepcopy(self.scale_optimiser.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the same last layer."""
        self._restart()
        network = self.context.network
        self.life = int(state["life"])
        self.w = state["w"][0].to(network.device, network.dtype) if state["w"] else None
        with torch.no_grad():
            self.scale.copy_(state["scale"])
        self.scale_optimiser.load_state_dict(state["scale_optimiser"])
