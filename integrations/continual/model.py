"""How does the strategy's current model serve as a feature extractor and as a matching network?"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ddkit.errors import ConfigError
from ddkit.integrations.continual.host import MultiTaskModule, avalanche_forward, is_multi_task_module
from ddkit.models.spec import ModelSpec
from ddkit.networks.network import Network
from ddkit.networks.setting import Setting
from ddkit.networks.sources import NetworkSource
from ddkit.synthesis.base import Synthesizer


def model_of(agent: Any) -> nn.Module:
    """Return a strategy's model.

    Raises:
        ConfigError: there is no strategy.
    """
    if agent is None:
        raise ConfigError("the memory looks at the strategy's model, but got no strategy: give it")
    model: nn.Module = agent.model
    return model


class CurrentModel(nn.Module):
    """A copy of a model that gives its logits of some classes, and what its last linear layer is fed.

    A model with a head for each task (Avalanche's ``MultiTaskModule``) is asked for the head of one task.

    Args:
        model: the strategy's; copied, so that neither its weights nor its mode change.
        classes: columns of the logits to keep; None for all.
        task: label of the task whose head answers.
        vectors: whether the model takes vectors ``(N, D)``, which come as images ``(N, 1, 1, D)``.

    Raises:
        ConfigError: the model has no linear layer, or gives no logits of these classes.
    """

    def __init__(
        self, model: nn.Module, classes: Sequence[int] | None = None, *, task: int = 0, vectors: bool = False
    ) -> None:
        super().__init__()
        module = model.module if isinstance(model, DistributedDataParallel) else model
        self.model: nn.Module = copy.deepcopy(module).eval()
        self.model.requires_grad_(True)
        for part in self.model.modules():
            if isinstance(part, nn.modules.dropout._DropoutNd):
                part.p = 0.0  # matching is a function of the images: one seed gives one memory
        self.classes = None if classes is None else list(classes)
        self.task, self.vectors = task, vectors
        heads = is_multi_task_module(self.model)
        for part in self.model.modules():
            if type(part).forward is MultiTaskModule.forward:
                part.forward = partial(_of_one_task, part, task)  # type: ignore[method-assign]
        layers = [layer for layer in self.model.modules() if isinstance(layer, nn.Linear)]
        if not layers:
            raise ConfigError(
                f"the model {type(model).__name__} has no linear layer whose input could be its features: "
                f"use fresh networks instead of the model"
            )
        self.classifiers = layers if heads else layers[-1:]  # in a list: they are no modules of its own
        if not heads:
            self._check_width(layers[-1].out_features)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(N, G)`` of images ``(N, C, H, W)``."""
        logits = self._answer(images)
        self._check_width(logits.shape[1])
        return logits if self.classes is None else logits[:, self.classes]

    def features(self, images: Tensor) -> Tensor:
        """Return what the last linear layer is fed, ``(N, D)``; with several heads, the one that answers."""
        fed: list[Tensor] = []
        handles = [
            layer.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0])) for layer in self.classifiers
        ]
        try:
            self._answer(images)
        finally:
            for handle in handles:
                handle.remove()
        return fed[-1].flatten(1)

    def _answer(self, images: Tensor) -> Tensor:
        items = images.flatten(1) if self.vectors else images
        tasks = torch.full((len(items),), self.task, device=items.device)
        logits: Tensor = avalanche_forward(self.model, items, tasks)
        return logits

    def _check_width(self, width: int) -> None:
        if self.classes is not None and max(self.classes) >= width:
            raise ConfigError(
                f"the model gives {width} logits, class {max(self.classes)} has none: "
                f"use fresh networks instead of the model"
            )


def _of_one_task(heads: Any, task: int, items: Tensor, task_labels: Tensor) -> Tensor:
    """Answer as ``MultiTaskModule.forward`` does to items of one task, without writing in place, which vmap refuses."""
    logits: Tensor = heads.forward_single_task(items, task)
    return F.pad(logits, (0, heads.max_class_label - logits.shape[1]))


class _GivenSpec(ModelSpec):
    """Stands for an architecture that no registry knows: builds the given module."""

    def __init__(self, module: nn.Module) -> None:
        object.__setattr__(self, "name", f"the strategy's {type(module).__name__}")
        object.__setattr__(self, "options", {})
        object.__setattr__(self, "module", module)

    def build(self, shape: Any, num_classes: int, seed: int) -> nn.Module:
        module: nn.Module = self.module  # type: ignore[attr-defined]
        return module


class ModelNetworks(NetworkSource):
    """The strategy's current model as the only matching network.

    Args:
        model: copied.
        classes: G class numbers that are distilled, in the order of their labels.
        task: whose classes these are.
        vectors: see :class:`CurrentModel`.
    """

    def __init__(self, model: nn.Module, classes: Sequence[int], task: int, vectors: bool) -> None:
        self.current_model = CurrentModel(model, classes, task=task, vectors=vectors)

    def setup(self, setting: Setting) -> None:
        """Put the model in the place of the network that the configuration names."""
        super().setup(setting)
        given = setting.network
        self.network = Network(
            _GivenSpec(self.current_model), given.shape, given.num_classes, device=given.device, precision=None
        )
        setting.network = self.network  # objectives name the weights that they compare
        self.network.module.eval()  # statistics of batch norm and dropout stay what they are in the stream

    def current(self) -> Network:
        """Return the model."""
        self.drawn = 1
        return self.network

    def after_step(self, synthesizer: Synthesizer, *, last: bool) -> None:
        """Count the step; the model stays as it is."""
        self.served += 1

    def metadata(self) -> dict[str, Any]:
        """Return which model it was."""
        return {"model": type(self.current_model.model).__name__}


def untouched_random_state() -> Any:
    """Return a context that puts PyTorch's global generator of the CPU back as it was."""
    return torch.random.fork_rng(devices=[])
