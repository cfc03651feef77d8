"""Can a candidate be trained at all, and what tells it from every other network?"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from ddkit.errors import ConfigError
from ddkit.integrations.nas.proxy import Proxy, one_line
from ddkit.integrations.nas.space import BuiltSpec
from ddkit.integrations.nas.training import threads
from ddkit.models.base import uses_batch_norm
from ddkit.models.spec import ModelSpec, seeded

#: Batches of at most so many images give batch norm unreliable statistics.
TINY_BATCH = 10
#: Images of the dry run.
_SHOWN = 2


@dataclass(frozen=True)
class Inspection:
    """What a look at an untrained candidate tells.

    Args:
        parameters: number of trained weights.
        digest: hash of its structure and of what it computes, so that results of another network are not taken for its
            own.
        flags: known causes of misranking.
        failure: why it cannot be trained; None when it can.
    """

    parameters: int
    digest: str
    flags: tuple[str, ...]
    failure: str | None


def inspect_candidate(name: str, spec: ModelSpec, proxy: Proxy) -> Inspection:
    """Build a candidate and show it two images, forward and backward: a dry run before anything is trained.

    Raises:
        ConfigError: it takes images of other channels, returns scores for another number of classes, or its builder
            returns one and the same network, whose training would go on from seed to seed.
    """
    shape, num_classes = proxy.shape, proxy.num_classes
    parameters = 0
    try:
        model = spec.build(shape, num_classes, 0)
        again = spec.build(shape, num_classes, 0) if isinstance(spec, BuiltSpec) else None
        _require_sizes(model)
        parameters = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    except Exception as error:  # a candidate's own code may raise anything
        return Inspection(parameters, "", (), one_line(error))
    if again is model:
        raise ConfigError(
            f"candidate '{name}' returns one network at every call, trained by the seed before: build a new one "
            "each time"
        )
    index = torch.arange(_SHOWN) % len(proxy.validation)
    images, labels = proxy.validation.batch(index).cpu(), proxy.validation.labels[index].cpu()
    try:
        with torch.inference_mode(), threads(1):
            output = model.eval()(images)
    except Exception as error:
        _require_channels(name, model, shape[0])
        return Inspection(parameters, "", (), one_line(error))
    _require_classes(name, output, num_classes)
    if not bool(output.isfinite().all()):
        return Inspection(parameters, "", (), "its outputs are not finite before any training")
    try:
        digest = _digest(model, output, images, labels)
    except Exception as error:
        return Inspection(parameters, "", (), one_line(error))
    tiny = uses_batch_norm(model) and (proxy.batch <= TINY_BATCH or proxy.ipc == 1)
    return Inspection(parameters, digest, ("batch norm on tiny batches",) if tiny else (), None)


def _require_sizes(model: nn.Module) -> None:
    """Refuse layers that learn the size of their weights from the first images.

    Raises:
        ConfigError: naming the weight.
    """
    for name, weight in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(weight, UninitializedBuffer | UninitializedParameter):
            raise ConfigError(
                f"'{name}' belongs to a lazy layer, which has no weights that a seed could draw: give the layer the "
                "size of its input"
            )


def _require_channels(name: str, model: nn.Module, channels: int) -> None:
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is not None and first.in_channels != channels:
        raise ConfigError(
            f"candidate '{name}' takes images of {first.in_channels} channels and the set has {channels}: "
            "build networks for the images of the set"
        )


def _require_classes(name: str, output: object, num_classes: int) -> None:
    if not isinstance(output, Tensor) or output.shape != (_SHOWN, num_classes):
        got = tuple(output.shape[1:]) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(
            f"candidate '{name}' returns {got} for an image and the set has {num_classes} classes: "
            f"build networks with {num_classes} outputs"
        )


def _digest(model: nn.Module, output: Tensor, images: Tensor, labels: Tensor) -> str:
    """Return a hash of a network by what it is made of and by what it does with the weights of seed 0.

    Structure: the text of its modules, names, shapes and number formats of its state, and which weights are trained.
    Behaviour: outputs in evaluation and in training, and the norm of each weight's gradient, on the first validation
    images. Numbers count to four digits, so that one machine's rounding is not another network. Two networks that
    differ on other images only, or only later in training, have the same hash.
    """
    with seeded(0), threads(1):  # seeded for dropout and the like
        trained = model.train()(images)
        F.cross_entropy(trained, labels).backward()
    parts = [str(model), *(f"{key}{tuple(value.shape)}{value.dtype}" for key, value in model.state_dict().items())]
    for name, weight in model.named_parameters():
        norm = "none" if weight.grad is None else f"{float(weight.grad.norm()):.3e}"
        parts.append(f"{name} {weight.requires_grad} {norm}")
    parts += [f"{value:.3e}" for part in (output, trained) for value in part.detach().flatten().tolist()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
