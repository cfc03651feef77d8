"""Is a network what ddkit takes it for? Checked once per network and image shape, by what it does on a blank image."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ddkit.errors import ConfigError
from ddkit.models.base import Shape

Again = Callable[[], nn.Module]
"""Builds the same network another time, from the same seed."""


def check_contract(name: str, model: Any, shape: Shape, num_classes: int, again: Again) -> None:
    """Refuse a network that would fail later, or train without its weights ever being drawn anew.

    A blank image goes through a second build, so that ``model`` itself stays untouched.

    Args:
        name: of the model, for the messages.
        model: what the factory returned.
        shape: (C, H, W) of an image.
        num_classes: K.
        again: builds it once more; draws from PyTorch's default generator are those of the first build.

    Raises:
        ConfigError: no module with ``features``, layers without shapes, trainable weights that two builds share or
            that do not follow the seed, logits that are not (N, K), features that are not (N, D), or an exception.
    """
    if not isinstance(model, nn.Module) or not callable(getattr(model, "features", None)):
        raise ConfigError(
            f"model '{name}' built a {type(model).__name__}: return a torch.nn.Module with "
            "a method features(images) -> (N, D); add it or derive from ddkit.models.FeatureModel"
        )
    if any(nn.parameter.is_lazy(tensor) for tensor in _tensors(model)):
        raise ConfigError(
            f"model '{name}' has lazy layers, whose weights are not there before the first image: give their sizes, or "
            "pass one image through the network inside its factory"
        )
    other: Any = again()
    _check_own_weights(name, model, other)
    blank = torch.zeros(1, *shape, dtype=next((x.dtype for x in _tensors(model) if x.is_floating_point()), None))
    other.eval()
    with torch.no_grad():
        _check_rows(name, "logits, forward(images),", _called(name, other, blank), num_classes)
        _check_rows(name, "features(images)", _called(name, other.features, blank), None)
        if callable(getattr(other, "feature_maps", None)):
            _check_maps(name, _called(name, other.feature_maps, blank))


def draws_in_forward(name: str, model: nn.Module, shape: Shape) -> bool:
    """Say whether a pass in training mode draws random numbers (dropout, stochastic depth, noise).

    Seen by the state of PyTorch's default generator, so that no layer type has to be known and no draw is missed that
    happens to change nothing. ``model`` may be changed: give a build of its own. Call it where the default generator
    is put back, see :func:`~ddkit.models.spec.seeded`.

    Args:
        name: of the model, for the message.
        model: on the CPU.
        shape: (C, H, W) of an image.

    Raises:
        ConfigError: the pass fails.
    """
    dtype = next((x.dtype for x in _tensors(model) if x.is_floating_point()), None)
    before = torch.default_generator.get_state()
    with torch.no_grad():
        _called(name, model.train(), torch.zeros(2, *shape, dtype=dtype))
    return not torch.equal(before, torch.default_generator.get_state())


def _tensors(model: nn.Module) -> Iterable[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _check_own_weights(name: str, model: nn.Module, other: nn.Module) -> None:
    trained = {id(weight) for weight in model.parameters() if weight.requires_grad}
    if trained & {id(weight) for weight in other.parameters()}:
        raise ConfigError(
            f"the factory of model '{name}' returns the same weights a second time, which training would change under "
            "every holder: build a new network in every call"
        )
    state, again = model.state_dict(), other.state_dict()
    if list(state) != list(again) or any(state[key].shape != again[key].shape for key in state):
        raise ConfigError(f"model '{name}' is another network every time it is built: build one architecture per name")
    if not all(torch.equal(state[key].nan_to_num(), again[key].nan_to_num()) for key in state):
        raise ConfigError(
            f"the weights of model '{name}' do not follow the seed: draw them from PyTorch's default generator, "
            "without a seed or generator of one's own"
        )


def _called(name: str, function: Callable[[Tensor], Any], blank: Tensor) -> Any:
    try:
        return function(blank)
    except ConfigError:
        raise
    except Exception as error:
        channels, height, width = blank.shape[1:]
        text = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"model '{name}' fails on blank {channels}x{height}x{width} images, {type(error).__name__}: {text}"
        ) from error


def _check_rows(name: str, what: str, made: Any, columns: int | None) -> None:
    wanted = f"(1, {columns})" if columns else "(1, D)"
    if not isinstance(made, Tensor):
        raise ConfigError(f"{what} of model '{name}' are a {type(made).__name__} for one image: return one {wanted}")
    if made.dim() != 2 or len(made) != 1 or (columns or made.shape[1]) != made.shape[1] or not made.is_floating_point():
        raise ConfigError(
            f"{what} of model '{name}' are {tuple(made.shape)} {str(made.dtype).removeprefix('torch.')} for one image: "
            f"return a float tensor {wanted}"
        )


def _check_maps(name: str, made: Any) -> None:
    if not isinstance(made, list | tuple) or not made or not all(isinstance(one, Tensor) for one in made):
        raise ConfigError(
            f"feature_maps(images) of model '{name}' is a {type(made).__name__}: return a list with the output of "
            "every stage, tensors of one row per image"
        )
