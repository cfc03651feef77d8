"""Which networks are ranked: a grid of ConvNets, or anything that a name can build."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from ddkit.errors import ConfigError, unknown_name
from ddkit.models.base import Shape
from ddkit.models.spec import ModelSpec, seeded

Builder: TypeAlias = Callable[[], nn.Module]
"""Builds a network with fresh weights, drawn from PyTorch's default generator."""

#: The 720 ConvNets of `"Dataset Condensation with Gradient Matching" <https://arxiv.org/abs/2006.05929>`_ (Zhao et al.,
#: 2021), section 4.3.
LITERATURE: dict[str, tuple[Any, ...]] = {
    "depth": (1, 2, 3, 4),
    "width": (32, 64, 128, 256),
    "activation": ("sigmoid", "relu", "leaky"),
    "norm": ("none", "batch", "layer", "instance", "group"),
    "pooling": ("none", "max", "avg"),
}

#: 72 ConvNets of 2,000 to 21,000 weights for a CPU.
SMALL: dict[str, tuple[Any, ...]] = {
    "depth": (1, 2, 3),
    "width": (8, 16, 32),
    "activation": ("relu", "sigmoid"),
    "norm": ("none", "instance"),
    "pooling": ("avg", "max"),
}


@dataclass(frozen=True)
class BuiltSpec(ModelSpec):
    """A network that a function of the user's builds, in the form in which ddkit's training takes networks.

    Args:
        name: of the candidate.
        options: unused.
        builder: returns the network; its weights follow from the seed given to :meth:`build`.
    """

    builder: Builder | None = None

    def __post_init__(self) -> None:
        """Take any name: it stands in no registry."""

    def __hash__(self) -> int:
        return hash(self.name)

    def canonical(self) -> str:
        """Return the candidate's name."""
        return self.name

    def build(self, shape: Shape, num_classes: int, seed: int) -> nn.Module:
        """Return the network with the weights of ``seed``; shape and classes are the builder's own affair.

        Raises:
            ConfigError: the builder returns something else than a module with parameters.
        """
        assert self.builder is not None
        with seeded(seed):
            model = self.builder()
        if not isinstance(model, nn.Module) or next(model.parameters(), None) is None:
            raise ConfigError(
                f"candidate '{self.name}' built a {type(model).__name__}: return a module with parameters"
            )
        return model


class SearchSpace(Mapping[str, ModelSpec]):
    """Candidates by name, in a fixed order.

    >>> space = SearchSpace({"mlp": lambda: MLP(), "wide": "convnet:width=64"})

    Args:
        builders: for every name a function that builds a network with fresh weights, a :class:`ModelSpec`, or its text.

    Raises:
        ConfigError: no candidates, or a value of another kind.
    """

    def __init__(self, builders: Mapping[str, Builder | ModelSpec | str]) -> None:
        if not isinstance(builders, Mapping):
            raise ConfigError(
                f"a search space is a mapping of names to builders, and was given a {type(builders).__name__}: give "
                "for instance {'mlp': lambda: MLP()}"
            )
        if not builders:
            raise ConfigError("a search space needs at least one candidate: give a mapping of names to builders")
        self._specs = {str(name): _spec(str(name), builder) for name, builder in builders.items()}

    @classmethod
    def of(cls, builders: Mapping[str, Builder | ModelSpec | str]) -> SearchSpace:
        """Return ``builders`` as a space; one that is a space already as it is."""
        return builders if isinstance(builders, SearchSpace) else cls(builders)

    @classmethod
    def convnet(cls, **choices: Sequence[Any]) -> SearchSpace:
        """Return the grid of ConvNets over all combinations of ``choices``.

        Args:
            choices: values by option of the ConvNet: ``depth``, ``width``, ``norm``, ``activation``, ``pooling``, ...

        Raises:
            ConfigError: an unknown option or value, no values, or one value twice.
        """
        for option, values in choices.items():
            if isinstance(values, str) or not isinstance(values, Sequence) or not len(values):
                raise ConfigError(f"{option}={values!r}: give a list with at least one value, such as [{values!r}]")
            if len(set(values)) != len(values):
                raise ConfigError(f"{option}={list(values)} names a value twice: give distinct values")
        grid = itertools.product(*choices.values())
        specs = [ModelSpec("convnet", dict(zip(choices, values, strict=True))) for values in grid]
        return cls({spec.canonical(): spec for spec in specs})

    @classmethod
    def literature(cls) -> SearchSpace:
        """Return the 720 ConvNets of the DC paper, a grid for a GPU (:data:`LITERATURE`)."""
        return cls.convnet(**LITERATURE)

    @classmethod
    def small(cls) -> SearchSpace:
        """Return 72 small ConvNets, a grid for a CPU (:data:`SMALL`)."""
        return cls.convnet(**SMALL)

    def __getitem__(self, name: str) -> ModelSpec:
        if name not in self._specs:
            raise KeyError(name)
        return self._specs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def __repr__(self) -> str:
        return f"SearchSpace({len(self)} candidates: {next(iter(self))}, ...)"

    def subset(self, names: Sequence[str]) -> SearchSpace:
        """Return the candidates of ``names``, in their order.

        Raises:
            UnknownNameError: there is no such candidate.
        """
        for name in names:
            if name not in self._specs:
                raise unknown_name("candidate", name, self._specs)
        return SearchSpace({name: self._specs[name] for name in names})

    def sample(self, count: int, generator: torch.Generator) -> SearchSpace:
        """Return ``count`` candidates drawn without replacement, in the order of the space.

        Raises:
            ConfigError: a count below 1 or above the size of the space.
        """
        if not 1 <= count <= len(self):
            raise ConfigError(f"cannot draw {count} of {len(self)} candidates: give 1 to {len(self)}")
        chosen = torch.randperm(len(self), generator=generator)[:count].sort().values.tolist()
        names = list(self)
        return self.subset([names[index] for index in chosen])


def _spec(name: str, builder: Builder | ModelSpec | str) -> ModelSpec:
    if isinstance(builder, ModelSpec | str):
        return ModelSpec.parse(builder)
    if isinstance(builder, nn.Module):
        raise ConfigError(
            f"candidate '{name}' is a network, and every seed needs fresh weights: give a function that builds one, "
            f"such as lambda: {type(builder).__name__}(...)"
        )
    if not callable(builder):
        raise ConfigError(
            f"candidate '{name}' is a {type(builder).__name__}: give a function without arguments that builds a "
            "network, a ModelSpec or its text"
        )
    return BuiltSpec(name=name, builder=builder)
