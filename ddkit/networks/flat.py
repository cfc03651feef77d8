"""A network as a function of one flat weight vector, and the derivatives that unrolling asks of its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad_and_value
from torch.func import grad as functional_grad

from ddkit.base.precision import Precision
from ddkit.errors import ConfigError
from ddkit.models.base import weights_by_name
from ddkit.networks.network import Network


@dataclass(frozen=True)
class Product:
    r"""The gradient g of a loss :math:`\ell(\theta, X, Y)` along a direction v, and the derivatives of <v, g>.

    Args:
        gradient: :math:`g = \nabla_\theta \ell` (P,).
        value: :math:`\langle v, g\rangle` ().
        curvature: :math:`\nabla_\theta \langle v, g\rangle = Hv` (P,); None where it was not asked for.
        images: :math:`\nabla_X \langle v, g\rangle`, like X; None for images without a gradient.
        targets: :math:`\nabla_Y \langle v, g\rangle`, like Y; None for targets without a gradient.
    """

    gradient: Tensor
    value: Tensor
    curvature: Tensor | None
    images: Tensor | None
    targets: Tensor | None


class FlatLoss:
    r"""A loss :math:`\ell(\theta, X, Y)` of a flat weight vector with the derivatives of an unrolled student.

    <v, g> is differentiated by reverse over reverse. Forward over reverse gives the same numbers from one ``jvp`` by
    the symmetry of second derivatives, but was not faster: 166 against 147 ms eager and 120 against 98 ms compiled
    (ConvNet-D3 of width 128, 10 images of 3x32x32), 7.7 against 4.0 ms eager and 2.4 ms each compiled (D2, width 32,
    1x8x8; PyTorch 2.15, one CPU thread, float32).

    Eager derivatives use plain autograd, which ``torch.func`` trails by up to 1.6x. What ``torch.compile`` returns
    cannot be differentiated twice, so compiled ones are nested ``torch.func`` transforms inside the compiled function:
    one compilation per shape of the batch.

    Args:
        function: takes weights (P,), images and targets, returns the mean loss of the batch ().
        precision: whether the derivatives are compiled; None for eager ones.
    """

    def __init__(
        self, function: Callable[[Tensor, Tensor, Tensor], Tensor], precision: Precision | None = None
    ) -> None:
        self.function = function
        self.precision = precision or Precision()
        self._gradient = self.precision.compiled(functional_grad(function))
        self._products: dict[tuple[int, ...], Callable[..., Any]] = {}

    def __call__(self, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        """Return the loss () with a graph, eager."""
        return self.function(theta, images, targets)

    def gradient(self, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        """Return the gradient (P,) at weights ``theta`` (P,) without a graph."""
        theta, images, targets = theta.detach(), images.detach(), targets.detach()
        if self.precision.compile:
            return self._gradient(theta, images, targets).detach()
        theta.requires_grad_()
        return torch.autograd.grad(self.function(theta, images, targets), theta)[0]

    def product(
        self, theta: Tensor, images: Tensor, targets: Tensor, direction: Tensor, *, curvature: bool = True
    ) -> Product:
        """Differentiate the gradient along ``direction``, keeping the graph of this one batch only.

        Args:
            theta: weights (P,).
            images: (n, C, H, W); differentiated if they require a gradient.
            targets: (n,) or (n, K); differentiated if they require a gradient.
            direction: v (P,), a constant.
            curvature: whether Hv is wanted.

        Returns:
            tensors without a graph.
        """
        wanted = tuple(
            position for position, asked in enumerate((curvature, images.requires_grad, targets.requires_grad)) if asked
        )
        inputs = [tensor.detach() for tensor in (theta, images, targets)]
        compute = self._compiled_product if self.precision.compile else self._eager_product
        gradient, value, derivatives = compute(inputs, direction.detach(), wanted)
        by_position: dict[int, Tensor] = dict(zip(wanted, derivatives, strict=True))
        return Product(gradient, value, by_position.get(0), by_position.get(1), by_position.get(2))

    def _eager_product(
        self, inputs: list[Tensor], direction: Tensor, wanted: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        for position in {0, *wanted}:
            inputs[position].requires_grad_()
        gradient = torch.autograd.grad(self.function(*inputs), inputs[0], create_graph=bool(wanted))[0]
        value = gradient @ direction
        if not wanted:
            return gradient, value, ()
        leaves = [inputs[position] for position in wanted]
        derivatives = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
        return gradient.detach(), value.detach(), derivatives

    def _compiled_product(
        self, inputs: list[Tensor], direction: Tensor, wanted: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        argnums = wanted or (0,)  # torch.func differentiates with respect to something
        if argnums not in self._products:

            def along(
                theta: Tensor, images: Tensor, targets: Tensor, direction: Tensor
            ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
                gradient = functional_grad(self.function)(theta, images, targets)
                value = gradient @ direction
                return value, (gradient, value)

            self._products[argnums] = self.precision.compiled(grad_and_value(along, argnums, has_aux=True))
        derivatives, (_, (gradient, value)) = self._products[argnums](*inputs, direction)
        tensors = tuple(tensor.detach() for tensor in derivatives)
        return gradient.detach(), value.detach(), tensors if wanted else ()


@dataclass(frozen=True)
class Judgement:
    """What a network makes of labelled images; tensors without a graph.

    Args:
        loss: cross-entropy of the images, weighted and summed ().
        gradient: of the loss with respect to the weights (P,).
        correct: (N,) bool, the images that are classified correctly.
    """

    loss: Tensor
    gradient: Tensor
    correct: Tensor


class FlatNetwork:
    """A network whose weights are a vector: its parameters in order, each flattened row-major.

    The module is a template: ``functional_call`` runs it on views of the vector, so nothing is copied and its own
    weights stay untouched.

    Passes run in float32 whatever the run's precision. Under bfloat16 autocast a compiled product takes 58 instead of
    98 ms (ConvNet-D3 of width 128, 10 images of 3x32x32, one CPU thread with AMX) and an eager meta-gradient 1.1 to 2
    times as long. Over 20 to 50 steps its direction is mostly kept (cosine 0.9992 to 0.9999), but on a segment from the
    initialisation on MNIST the cosine was 0.978, and from there the gradient of the rate was 9 to 27 % off.

    Args:
        network: architecture, shapes and precision.

    Raises:
        ConfigError: batch norm or other buffers, which the vector does not hold and which would couple steps.
    """

    def __init__(self, network: Network) -> None:
        buffers = [name for name, _ in network.module.named_buffers()]
        if network.has_batch_norm or buffers:
            what = "batch norm" if network.has_batch_norm else f"the buffer '{buffers[0]}'"
            raise ConfigError(
                f"model '{network.spec.canonical()}' has {what}, whose state is no part of the weight vector that is "
                f"unrolled: use norm=instance"
            )
        self.module = network.module
        self.prepare = network.prepare
        self.loss = FlatLoss(self._mean_cross_entropy, network.precision)
        self._logits = network.precision.compiled(self._all_logits)
        self._judged = network.precision.compiled(grad_and_value(self._weighted_cross_entropy, has_aux=True))
        self._compiled = network.precision.compile

    def __len__(self) -> int:
        """Number P of weights."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @torch.no_grad()
    def logits(self, theta: Tensor, images: Tensor) -> Tensor:
        """Return the logits (N, K) of prepared images (N, C, H, W) under weights ``theta`` (P,), without a graph."""
        logits: Tensor = self._logits(theta, images)
        return logits

    def judge(self, theta: Tensor, images: Tensor, labels: Tensor, weights: Tensor) -> Judgement:
        """Judge the network under weights ``theta`` (P,) by labelled images, in one forward and backward pass.

        Args:
            theta: weights (P,).
            images: (N, C, H, W), prepared.
            labels: (N,) int64, on the device of the network.
            weights: (N,) share of each image in the loss; 0 for rows that pad a batch to a static shape.
        """
        theta = theta.detach()
        if self._compiled:
            gradient, (loss, logits) = self._judged(theta, images, labels, weights)
        else:
            theta.requires_grad_()
            with torch.enable_grad():
                loss, logits = self._weighted_cross_entropy(theta, images, labels, weights)
            (gradient,) = torch.autograd.grad(loss, theta)
        return Judgement(loss.detach(), gradient.detach(), logits.detach().argmax(1) == labels)

    def _all_logits(self, theta: Tensor, images: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.module, weights_by_name(self.module, theta), (images,))
        return logits

    def _mean_cross_entropy(self, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self._all_logits(theta, images), targets)

    def _weighted_cross_entropy(
        self, theta: Tensor, images: Tensor, labels: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = self._all_logits(theta, images)
        return (F.cross_entropy(logits, labels, reduction="none") * weights).sum(), logits
