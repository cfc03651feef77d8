"""Which generator is used: one still to be trained, one from a file, or a module of the user's own."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from ddkit.errors import ConfigError
from ddkit.models.spec import seeded
from ddkit.synthesis.gan.generator import Generator, Shape, load_generator


def frozen_generator(
    given: str | Path | nn.Module | None,
    num_classes: int,
    shape: tuple[int, int, int],
    code_size: int,
    width: int | None,
) -> nn.Module:
    """Return the generator to use, frozen: still untrained, read from a file, or a copy of a module.

    Raises:
        ConfigError: it does not fit the classes or images.
        ArtifactError: a file that cannot be read.
    """
    if given is None:
        with seeded(0):
            generator = Generator(shape, num_classes, code_size, width)
        return generator.eval().requires_grad_(False)
    if isinstance(given, nn.Module):
        return _own_generator(given, num_classes, shape, code_size)
    loaded = load_generator(given)
    if (loaded.shape, loaded.num_classes) != (shape, num_classes):
        raise ConfigError(
            f"synthesis.generator='{given}' draws {loaded.num_classes} classes of {loaded.shape} images, the data have "
            f"{num_classes} classes of {shape} images: train one on these data"
        )
    return loaded


def _own_generator(module: nn.Module, num_classes: int, shape: Shape, code_size: int) -> nn.Module:
    """Return a copy of a user's module after trying it on two codes."""
    name = type(module).__name__
    if module.training or any(parameter.requires_grad for parameter in module.parameters()):
        raise ConfigError(
            f"generator {name} is in train mode or has trainable parameters: "
            f"call generator.eval().requires_grad_(False) once it is trained"
        )
    module = copy.deepcopy(module)
    probe = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
    codes = torch.randn(2, code_size, generator=torch.Generator().manual_seed(0)).to(probe)
    try:
        with torch.no_grad():
            images = module(codes, torch.tensor([0, num_classes - 1], device=probe.device))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"generator {name} fails on codes of {code_size} numbers with labels 0 and {num_classes - 1} ({reason}): "
            f"set synthesis.code_size, or use one that was trained on these classes"
        ) from error
    if not isinstance(images, Tensor) or images.shape != (2, *shape):
        size = tuple(images.shape[1:]) if isinstance(images, Tensor) else type(images).__name__
        raise ConfigError(f"generator {name} draws images of shape {size}, the data have {shape}: both must agree")
    if not bool(images.isfinite().all()):
        raise ConfigError(f"generator {name} draws images that are not finite: give one that was trained to the end")
    return module
