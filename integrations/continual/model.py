"""How does the strategy's current model serve as a feature extractor and as a matching network?"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ddkit.errors import ConfigError
from ddkit.models import ModelSpec
from ddkit.networks import Network, NetworkSource
from ddkit.synthesis import Synthesizer

if TYPE_CHECKING:
    from ddkit.objectives import Context


class CurrentModel(nn.Module):
    """A copy of a model that gives its logits of some classes, and what its last linear layer is fed.

    Args:
        model: the strategy's; copied, so that neither its weights nor its mode change.
        classes: columns of the logits to keep; None for all.

    Raises:
        ConfigError: the model has no linear layer, or gives no logits of these classes.
    """

    def __init__(self, model: nn.Module, classes: Sequence[int] | None = None) -> None:
        super().__init__()
        module = model.module if isinstance(model, DistributedDataParallel) else model
        self.model: nn.Module = copy.deepcopy(module).eval()
        self.model.requires_grad_(True)
        self.classes = None if classes is None else list(classes)
        layers = [layer for layer in self.model.modules() if isinstance(layer, nn.Linear)]
        if not layers:
            raise ConfigError(
                f"the model {type(model).__name__} has no linear layer whose input could be its features: "
                f"use fresh networks instead of the model"
            )
        self.classifier = [layers[-1]]  # in a list: it is no module of its own
        if self.classes is not None and max(self.classes) >= layers[-1].out_features:
            raise ConfigError(
                f"the model gives {layers[-1].out_features} logits, class {max(self.classes)} has none: "
                f"use fresh networks instead of the model"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(N, G)`` of images ``(N, C, H, W)``."""
        logits: Tensor = self.model(images)
        return logits if self.classes is None else logits[:, self.classes]

    def features(self, images: Tensor) -> Tensor:
        """Return what the last linear layer is fed, ``(N, D)``."""
        fed: list[Tensor] = []
        handle = self.classifier[0].register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0]))
        try:
            self.model(images)
        finally:
            handle.remove()
        return fed[-1].flatten(1)


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
    """

    def __init__(self, model: nn.Module, classes: Sequence[int]) -> None:
        self.current_model = CurrentModel(model, classes)

    def setup(self, context: Context) -> None:
        """Put the model in the place of the network that the configuration names."""
        super().setup(context)
        given = context.network
        self.network = Network(
            _GivenSpec(self.current_model), given.shape, given.num_classes, device=given.device, precision=None
        )
        context.network = self.network  # objectives name the weights that they compare
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
