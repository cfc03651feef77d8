"""How are the gradients of single records taken: through Opacus, on a copy of the matching network."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.data.real import RealData
from ddkit.errors import ConfigError
from ddkit.integrations.private.host import GradSampleModule, ModuleValidator
from ddkit.integrations.private.separable import require_separate, rounding_of
from ddkit.networks.network import Network


class RecordGradients:
    """Per-sample gradients of the cross-entropy, by Opacus's hooks.

    The wrapped module is a copy: a second derivative through hooks fails, and the synthetic side needs one. Its weights
    are those of the network at every call, and nothing is ever stepped on it.

    Args:
        module: architecture.
        names: weights whose gradients are wanted.

    Raises:
        ConfigError: layers that mix the records of a batch (batch norm), or that Opacus does not know.
    """

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        require_separable(module)
        self.names = list(names)
        # Opacus cuts patches out of activations by strides that only this layout has: in channels-last it gives wrong
        # gradients, right ones for a single record, so that a row depended on how many records were beside it.
        plain = copy.deepcopy(module).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        for name, parameter in plain.named_parameters():
            parameter.requires_grad_(name in set(names))
        self._wrapped = GradSampleModule(plain, loss_reduction="sum")
        self._weights = dict(plain.named_parameters())

    def __call__(self, network: Network, images: Tensor, labels: Tensor) -> Tensor:
        """Return (n, P): the gradients of every record in the order of ``names``.

        Args:
            network: whose weights are used.
            images: (n, C, H, W), n at least 1.
            labels: (n,) int64.
        """
        self._wrapped._module.load_state_dict(network.module.state_dict())
        self._wrapped.zero_grad(set_to_none=True)
        with torch.enable_grad():
            # Opacus hooks warn about inputs that need no gradient.
            shown = images.detach().to(network.device, network.dtype, memory_format=torch.contiguous_format)
            logits = self._wrapped(shown.requires_grad_())
            F.cross_entropy(logits, labels.to(network.device), reduction="sum").backward()
        rows = torch.cat([self._weights[name].grad_sample.flatten(1) for name in self.names], dim=1)  # type: ignore[attr-defined]
        self._wrapped.zero_grad(set_to_none=True)
        return rows


def require_separable(module: nn.Module) -> None:
    """Refuse layers through which one record changes what another one adds."""
    errors = ModuleValidator.validate(module, strict=False)
    if errors:
        reason = " ".join(str(errors[0]).split())
        raise ConfigError(f"a private query needs every record on its own: {reason}; use a model with norm=instance")


def require_separate_gradients(network: Network, public: RealData, number: int = 0) -> None:
    """Refuse a network whose gradients of single records depend on other records.

    Args:
        network: with the weights in question.
        public: stand-in, for shape, classes and preprocessing.
        number: of the trial; others show other images.

    Raises:
        ConfigError: saying what changes a gradient.
    """
    gradients = RecordGradients(network.module, [name for name, _ in network.module.named_parameters()])

    def rows(images: Tensor, labels: Tensor) -> Tensor:
        return gradients(network, images, labels).cpu().double()

    require_separate(rows, public, 1.0, number, 64, rounding_of(network))


def unflattened(row: Tensor, module: nn.Module, names: Sequence[str]) -> list[Tensor]:
    """Cut a row (P,) into tensors of the shapes of the weights called ``names``."""
    weights = dict(module.named_parameters())
    like = [weights[name] for name in names]
    parts = row.split([weight.numel() for weight in like])
    return [part.view(weight.shape).to(weight) for part, weight in zip(parts, like, strict=True)]
