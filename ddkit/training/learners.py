"""How the gradients of one SGD step are computed: one network, one compiled network, or many stacked
networks."""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.base.device import layout
from ddkit.base.precision import Precision
from ddkit.base.streams import derive_seed
from ddkit.models.spec import ModelSpec

LossKind = Literal["ce", "mse"]
NetworkLoss = Callable[[Tensor, Tensor, Tensor], Tensor]

#: Compiled networks kept for later calls; the least recently used one is dropped first.
_COMPILED_KEPT = 4


def weighted_loss(logits: Tensor, targets: Tensor, weights: Tensor, kind: LossKind) -> Tensor:
    """Return sum_i w_i l(logits_i, targets_i).

    With weights 1/n on n rows and 0 on padding rows this is the mean loss of the n rows, and its gradient
    too, for every network that treats the rows of a batch independently.

    Args:
        logits: network outputs, (B, K).
        targets: class indices (B,), or probabilities (cross-entropy) or regression targets (mean squared
            error) (B, K).
        weights: weight of each row, (B,).
        kind: ``"ce"`` or ``"mse"`` (mean over the K outputs).
    """
    if kind == "mse":
        losses = (logits - targets).square().mean(dim=1)
    else:
        losses = F.cross_entropy(logits, targets, reduction="none")
    return (losses * weights).sum()


@dataclass(frozen=True)
class Workload:
    """Everything that fixes the kernels of a training step.

    Args:
        spec: the architecture.
        shape: channels, height and width of an image.
        num_classes: number of classes K.
        batch: images per step.
        soft: whether targets are rows (N, K) rather than class indices.
        kind: the loss.
        precision: number format of the forward pass, and whether it is compiled.
        device: where to train.
        dtype: number format of weights and images.
        start: seed of the initial weights of all networks; None for one per network.
        centred: train f - f_0, see :class:`Centred`.
        scale: s of the squared error ((f - s y) / s)^2.
    """

    spec: ModelSpec
    shape: tuple[int, int, int]
    num_classes: int
    batch: int
    soft: bool
    kind: LossKind
    precision: Precision
    device: torch.device
    dtype: torch.dtype
    start: int | None = None
    centred: bool = False
    scale: float = 1.0

    @functools.cached_property
    def random(self) -> bool:
        """Whether training passes draw random numbers, see :meth:`ModelSpec.draws_in_forward`."""
        return self.spec.draws_in_forward(self.shape, self.num_classes)

    def _initial(self, seed: int) -> int:
        return derive_seed(seed, "initialisation") if self.start is None else self.start

    def build(self, seed: int) -> nn.Module:
        """Return a network in training mode, initialised from ``start`` or the "initialisation" stream of ``seed``."""
        model = self.spec.build(self.shape, self.num_classes, self._initial(seed))
        model = model.to(device=self.device, dtype=self.dtype).train()
        return Centred(model) if self.centred else model

    def reset_(self, model: nn.Module, seed: int) -> None:
        """Give a network that :meth:`build` returned the weights of another ``seed``, in place."""
        for part in (model.model, model.initial) if isinstance(model, Centred) else (model,):
            self.spec.reset_(part, self._initial(seed))


class Centred(nn.Module):
    """What a network has learned: f(x) - f_0(x), its output minus that at initialisation.

    Args:
        model: f, in its initial state.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.initial = copy.deepcopy(model).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, K) for images (N, C, H, W); differentiable in the weights of f."""
        with torch.no_grad():
            start = self.initial(x)
        difference: Tensor = self.model(x) - start
        return difference


def _network_loss(model: Callable[[Tensor], Tensor], setting: Workload) -> NetworkLoss:
    def loss(images: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        with setting.precision.autocast(setting.device):
            logits = model(images)
        logits = logits.to(weights.dtype)
        return weighted_loss(logits / setting.scale if setting.scale != 1 else logits, targets, weights, setting.kind)

    return loss


class Learner(ABC):
    """Networks being trained side by side, each on its own batch.

    ``parameters`` are the leaf tensors that the optimiser updates.
    """

    parameters: list[Tensor]

    @abstractmethod
    def compute_gradients(self, images: Tensor, targets: Tensor, weights: Tensor) -> None:
        """Put the gradients of the weighted loss into ``parameters``.

        Args:
            images: one batch per network, (R, B, C, H, W).
            targets: (R, B) class indices or (R, B, K) rows.
            weights: weight of each row, (B,), the same for all networks.
        """

    @abstractmethod
    def trained(self) -> list[nn.Module]:
        """Return the R networks with their present weights."""


class SerialLearner(Learner):
    """One network, differentiated by autograd."""

    def __init__(self, model: nn.Module, loss: NetworkLoss) -> None:
        self.model = model
        self.loss = loss
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def compute_gradients(self, images: Tensor, targets: Tensor, weights: Tensor) -> None:
        for parameter in self.parameters:
            parameter.grad = None
        self.loss(images[0].contiguous(memory_format=layout(images.shape)), targets[0], weights).backward()

    def trained(self) -> list[nn.Module]:
        for parameter in self.parameters:
            parameter.grad = None
        return [copy.deepcopy(self.model)]


class StackedLearner(Learner):
    """R networks of one architecture as stacked weights (R, ...), differentiated by ``vmap`` of ``grad``."""

    def __init__(self, models: Sequence[nn.Module], setting: Workload) -> None:
        self.models = list(models)
        stacked, self.buffers = torch.func.stack_module_state(self.models)
        self.names = list(stacked)
        self.parameters = [stacked[name].detach() for name in self.names]
        skeleton = self.models[0]

        def loss(
            parameters: dict[str, Tensor],
            buffers: dict[str, Tensor],
            images: Tensor,
            targets: Tensor,
            weights: Tensor,
        ) -> Tensor:
            def model(x: Tensor) -> Tensor:
                return torch.func.functional_call(skeleton, (parameters, buffers), (x,))

            return _network_loss(model, setting)(images, targets, weights)

        self.gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(0, 0, 0, 0, None))

    def compute_gradients(self, images: Tensor, targets: Tensor, weights: Tensor) -> None:
        parameters = dict(zip(self.names, self.parameters, strict=True))
        gradients = self.gradients(parameters, self.buffers, images, targets, weights)
        for name, parameter in parameters.items():
            parameter.grad = gradients[name]

    def trained(self) -> list[nn.Module]:
        for position, model in enumerate(self.models):
            own = dict(model.named_parameters())
            with torch.no_grad():
                for name, value in zip(self.names, self.parameters, strict=True):
                    own[name].copy_(value[position])
        return self.models


_compiled: OrderedDict[Workload, tuple[nn.Module, NetworkLoss]] = OrderedDict()


def _compiled_learner(setting: Workload, seed: int) -> SerialLearner:
    """Return a learner whose forward pass and loss are compiled, its weights freshly drawn from ``seed``.

    One persistent network per setting is kept across calls and re-initialised in place, so that nothing is
    compiled twice. Only one learner of a setting may be in use at a time.
    """
    if setting not in _compiled:
        model = setting.build(seed)
        model.to(memory_format=layout(setting.shape))  # type: ignore[call-overload]
        _compiled[setting] = model, setting.precision.compiled(_network_loss(model, setting))
        if len(_compiled) > _COMPILED_KEPT:
            _compiled.popitem(last=False)
    _compiled.move_to_end(setting)
    model, loss = _compiled[setting]
    setting.reset_(model, seed)
    model.train()
    return SerialLearner(model, loss)


def create_learner(setting: Workload, seeds: Sequence[int], stacked: bool) -> Learner:
    """Return a learner of freshly initialised networks, one per seed; only a stacked one takes several."""
    if stacked:
        return StackedLearner([setting.build(seed) for seed in seeds], setting)
    (seed,) = seeds
    if setting.precision.compile:
        return _compiled_learner(setting, seed)
    model = setting.build(seed)
    model.to(memory_format=layout(setting.shape))  # type: ignore[call-overload]
    return SerialLearner(model, _network_loss(model, setting))
