"""Which network to build: its name, its options and the seed of its weights, as one small value."""

from __future__ import annotations

import functools
import inspect
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeAlias, get_type_hints

import torch
import torch.nn as nn

from ddkit.base.memory import require_memory
from ddkit.base.precision import PassCost, pass_cost
from ddkit.base.registry import Registry, checked_options
from ddkit.base.streams import default_draws
from ddkit.errors import ConfigError, shortened
from ddkit.models.base import Shape
from ddkit.models.contract import check_contract, draws_in_forward
from ddkit.models.initialisation import Initialisation, initialise_

Factory: TypeAlias = Callable[..., nn.Module]
"""``factory(shape, num_classes, **options)``, a class or function: builds a network with ``features``."""

registry: Registry[Factory] = Registry("model", "ddkit.models")

_RECORD = "_ddkit_built_as"
_INIT = "init"
"""The option that every model has beside its own, unless its factory has one of that name."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_TEXT = re.compile(r"\s*([^:(\s]+)\s*(?::(?P<colon>.*)|\((?P<paren>.*)\))?\s*", re.DOTALL)
_checked_builds: dict[tuple[str, Shape, int], Factory] = {}
"""Networks whose contract was checked: text form, image shape and classes, with the factory that built them."""
_LARGE_OPTION = 4096
"""Options above this may stand for more weights than a machine holds."""


@dataclass(frozen=True)
class ModelSpec:
    """The recipe of a network, without its weights: hashable by content, picklable, and printable as text.

    Args:
        name: a registered model, see :func:`available`; case does not matter.
        options: the model's own options, for example ``{"depth": 3, "width": 128}``; checked at once. Every model
            takes ``init`` beside them: how its linear and convolutional layers start, see
            :func:`~ddkit.models.initialisation.initialise_`; ``default`` for what the model does by itself.

    Raises:
        UnknownNameError: no such model or option; the nearest one is suggested.
        ConfigError: an option of the wrong type or value.
    """

    name: str = "convnet"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        factory = registry.get(self.name)
        object.__setattr__(self, "name", str(self.name).lower())
        object.__setattr__(self, "options", _checked(self.name, factory, self.options))

    def __hash__(self) -> int:
        return hash(self.canonical())

    @classmethod
    def parse(cls, text: str | ModelSpec) -> ModelSpec:
        """Read ``convnet``, ``convnet:depth=2,width=32`` or the canonical ``convnet(depth=2,width=32)``.

        Raises:
            ConfigError: the text has another form, or names a model or an option that does not exist.
        """
        if isinstance(text, ModelSpec):
            return text
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ConfigError(
                f"cannot read the model '{shortened(text)}': write it as name or name:option=value,option=value"
            )
        options: dict[str, Any] = {}
        for part in filter(None, (match["colon"] or match["paren"] or "").split(",")):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not (key and equals and value):
                raise ConfigError(
                    f"cannot read '{shortened(part)}' in the model '{shortened(text)}': "
                    "write options as name:option=value,option=value"
                )
            options[key] = None if value == "None" else value
        return cls(match[1], options)

    def canonical(self) -> str:
        """Return the one text form of this spec, such as ``convnet(depth=3,width=128)``: options sorted."""
        if not self.options:
            return self.name
        return f"{self.name}({','.join(f'{key}={self.options[key]}' for key in sorted(self.options))})"

    def build(self, shape: Shape, num_classes: int, seed: int) -> nn.Module:
        """Build the network on the CPU with the initialisation of ``seed``.

        Unless ``init`` says otherwise, the weights equal those of the same layers constructed in plain PyTorch after
        ``torch.manual_seed(seed)``; the global random state is exactly what it was before.

        Args:
            shape: channels, height, width of the images.
            num_classes: number K of logits.
            seed: integer in [0, 2^63).

        Raises:
            ConfigError: a shape or number out of range, images that the network does not support, an ``init`` that
                finds no layer, or a network that breaks the contract
                (:func:`~ddkit.models.contract.check_contract`).
        """
        shape, num_classes = _checked_shape(shape), _checked_integer("num_classes", num_classes, 1)
        factory, options = registry.get(self.name), dict(self.options)
        how: Initialisation = "default"
        if not _has_own_init(self.name, factory):
            how = options.pop(_INIT, how)

        def once() -> nn.Module:
            with seeded(seed):
                model = factory(shape, num_classes, **options)
                if how != "default" and isinstance(model, nn.Module):
                    initialise_(model, how)
            return model

        self._require_memory(factory, shape, num_classes, options)
        model = once()
        known = (self.canonical(), shape, num_classes)
        if _checked_builds.get(known) is not factory:
            check_contract(self.name, model, shape, num_classes, once)
            _checked_builds[known] = factory
        setattr(model, _RECORD, (self, shape, num_classes))
        return model

    def draws_in_forward(self, shape: Shape, num_classes: int) -> bool:
        """Say whether this network draws random numbers in a training pass (dropout, stochastic depth, noise).

        Args:
            shape: channels, height, width of the images.
            num_classes: number K of logits.
        """
        model = self.build(shape, num_classes, 0)
        with seeded(0):
            return draws_in_forward(self.name, model, shape)

    def cost(self, shape: Shape, num_classes: int) -> PassCost:
        """Count the work of one image of ``shape`` (C, H, W); arguments and errors as :meth:`build`."""
        return pass_cost(self.build(shape, num_classes, seed=0), shape)

    def _require_memory(self, factory: Factory, shape: Shape, num_classes: int, options: dict[str, Any]) -> None:
        """Refuse a network of many more weights than this machine could hold, before any of them is allocated.

        Networks without large options are not looked at: they would be built twice.

        Raises:
            ConfigError: too many weights, or numbers that PyTorch does not take.
        """
        if not any(type(value) is int and abs(value) > _LARGE_OPTION for value in options.values()):
            return
        try:
            with torch.device("meta"):
                weights = sum(tensor.numel() for tensor in factory(shape, num_classes, **options).parameters())
        except NotImplementedError:  # a factory that needs real tensors
            return
        except (RuntimeError, TypeError, OverflowError, ValueError) as error:
            raise ConfigError(
                f"the model '{shortened(self.canonical())}' cannot be built ({shortened(str(error))}): choose smaller "
                f"options"
            ) from None
        require_memory(f"the model '{self.canonical()}'", weights, "choose smaller options")

    def reset_(self, model: nn.Module, seed: int) -> None:
        """Give ``model`` the weights and buffers of a fresh build with ``seed``, in place.

        Every tensor keeps its identity, device, dtype and ``requires_grad``, so compiled graphs and
        optimisers stay valid. Gradients and the training mode are left alone.

        Args:
            model: a network that an equal spec built; copies, moves and ``torch.compile`` do not matter.
            seed: integer in [0, 2^63).

        Raises:
            ConfigError: another spec built ``model``, or its tensors were changed in number or shape.
        """
        record: tuple[ModelSpec, Shape, int] | None = getattr(model, _RECORD, None)
        if record is None or record[0] != self:
            origin = f"was built as {record[0].canonical()}" if record else "was not built by ddkit.models"
            raise ConfigError(f"cannot reset a model as {self.canonical()}: it {origin}; build it with the same spec")
        fresh = self.build(*record[1:], seed)
        target = list(chain(model.parameters(), model.buffers()))
        source = list(chain(fresh.parameters(), fresh.buffers()))
        if [tensor.shape for tensor in target] != [tensor.shape for tensor in source]:
            raise ConfigError(
                f"cannot reset a model as {self.canonical()}: its parameters or buffers differ from "
                "a fresh build; build a new one instead"
            )
        with torch.no_grad():
            for old, new in zip(target, source, strict=True):
                old.copy_(new)


def build(name: str, shape: Shape, num_classes: int, seed: int = 0, **options: Any) -> nn.Module:
    """Build the model called ``name``; short for ``ModelSpec(name, options).build(...)``."""
    return ModelSpec(name, options).build(shape, num_classes, seed)


def available() -> list[str]:
    """Return the names of all models, sorted, those of installed plug-ins included."""
    return registry.available()


def register(name: str, factory: Factory) -> None:
    """Add a model of one's own.

    Args:
        name: lower-case letters, digits, dots, dashes and underscores; upper case is lowered.
        factory: ``factory(shape, num_classes, **options)``, a class or function whose network has
            ``features(images)``. Annotated options are checked; random weights must come from PyTorch's
            default generator.

    Raises:
        ConfigError: the name is taken or not a name, or the factory does not take ``(shape, num_classes)``.
    """
    key = str(name).lower()
    if not _NAME.fullmatch(key):
        raise ConfigError(f"'{name}' cannot name a model: use letters, digits, '.', '-' and '_' only")
    _option_parameters(key, factory)
    registry.register(key, factory)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run the block, which builds a network, with the default CPU generator seeded; then put its state back exactly.

    The block's tensors are made on the CPU whatever the default device, so a seed means the same weights everywhere.
    """
    value = _checked_integer("seed", seed, 0)
    if value >= 2**63:
        raise ConfigError(f"seed={value} is out of range: use an integer below 2^63")
    with default_draws(value), torch.device("cpu"):
        yield


def _checked_integer(name: str, value: Any, minimum: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = minimum - 1
    if number < minimum:
        raise ConfigError(f"{name}={value!r} is out of range: use an integer of at least {minimum}")
    return number


def _checked_shape(shape: Sequence[int]) -> Shape:
    if not isinstance(shape, Sequence) or len(shape) != 3:
        raise ConfigError(f"image shape {shape!r} is not (channels, height, width): give three integers")
    channels, height, width = (_checked_integer("image shape: every length", length, 1) for length in shape)
    return channels, height, width


def _option_parameters(name: str, factory: Factory) -> list[inspect.Parameter]:
    """Return what ``factory`` takes beyond the image shape and the number of classes."""
    parameters = list(inspect.signature(factory).parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) < 2 or any(parameter.kind not in positional for parameter in parameters[:2]):
        raise ConfigError(
            f"the factory of model '{name}' does not take an image shape and a number of classes: "
            "define it as factory(shape, num_classes, **options)"
        )
    return parameters[2:]


def _has_own_init(name: str, factory: Factory) -> bool:
    """Say whether ``init`` means something else to ``factory``: it names a parameter so."""
    return any(item.name == _INIT for item in _option_parameters(name, factory))


def _checked(name: str, factory: Factory, options: dict[str, Any]) -> dict[str, Any]:
    """Validate ``options`` against the annotations of ``factory``; its ``**options`` lets any through.

    ``init=default`` is left out: a network has one text form.
    """
    parameters = _option_parameters(name, factory)
    own_init = _has_own_init(name, factory)
    target: Any = factory.func if isinstance(factory, functools.partial) else factory
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)

    def schema() -> None:
        """Stand for the factory with its options only: shape and classes are not the user's to set here."""

    open_ended = any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters)
    if not own_init:
        ours = inspect.Parameter(_INIT, inspect.Parameter.KEYWORD_ONLY, default="default")
        parameters, hints = [*(item for item in parameters if item.kind is not item.VAR_KEYWORD), ours], dict(hints)
        hints[_INIT] = Initialisation
    schema.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    schema.__annotations__ = {item.name: hints.get(item.name, Any) for item in parameters}
    named = {item.name for item in parameters}
    free = {key: value for key, value in options.items() if open_ended and key not in named}
    rest = {key: value for key, value in options.items() if key not in free}
    checked = {**checked_options(f"model '{name}'", schema, rest), **free}
    if not own_init and checked.get(_INIT) == "default":
        del checked[_INIT]
    return checked
