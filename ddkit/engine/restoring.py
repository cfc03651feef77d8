"""Does the state in a checkpoint fit the run that is to go on from it?

A checkpoint may come from another run, another version of ddkit, or a stranger. Whatever does not fit is said before
the first step: what was taken must say the same as the file does, weights must be those of the run's network, and
moments those of the tensors that are learned.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ddkit.engine.session import Session
from ddkit.errors import CheckpointError, DDKitError, shortened

#: Under these names a source of networks keeps weights, of one network or as a list.
_WEIGHTS = ("weights", "snapshots")
#: Settings of an optimiser, which the configuration decides, and which PyTorch may add to.
_SETTINGS = "param_groups"


class _Misfit(Exception):
    """What does not fit."""


@contextmanager
def fitting() -> Iterator[None]:
    """Say in one line that a checkpoint does not fit, whatever a piece says of a state that is not its own.

    Raises:
        CheckpointError: with the reason.
    """
    try:
        yield
    except DDKitError:
        raise
    except (_Misfit, RuntimeError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        reason = str(error) if isinstance(error, _Misfit) else f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"the checkpoint does not fit this run ({shortened(reason)}): it is damaged or another run's; start again "
            f"with another --out, or restore the file"
        ) from error


def take(session: Session, state: Any) -> None:
    """Let ``session`` go on from ``state``; call it inside :func:`fitting`."""
    for weights in _weights_in(state["networks"]):
        _require_weights(weights, session.network.module.state_dict())
    session.load_state_dict(state)
    for optimiser in _optimisers(session):
        _require_settings(optimiser)
        _require_moments(optimiser)
    _require_same(session.state_dict(), state, "session")


#: Steps that an optimiser may have taken.
_MOST_STEPS = 2**40


def whole(state: Mapping[str, Any], name: str, most: int) -> int:
    """Return the counter called ``name``, a whole number from 0 to ``most``."""
    value = state[name]
    if type(value) is not int or not 0 <= value <= most:
        raise _Misfit(f"{name}={value!r} is no whole number from 0 to {most}")
    return value


def seconds(state: Mapping[str, Any], name: str) -> float:
    """Return the time called ``name``, at least 0."""
    value = state[name]
    if type(value) not in (int, float) or not 0 <= value < float("inf"):
        raise _Misfit(f"{name}={value!r} is no number of seconds")
    return float(value)


def text(state: Mapping[str, Any], name: str) -> str:
    """Return the text called ``name``."""
    value = state[name]
    if not isinstance(value, str):
        raise _Misfit(f"{name}={value!r} is no text")
    return value


def _weights_in(state: Any) -> Iterator[Mapping[str, Any]]:
    """Find the weights of whole networks in the state of their source."""
    items = state.items() if isinstance(state, Mapping) else enumerate(state) if isinstance(state, list) else ()
    for key, value in items:
        if key in _WEIGHTS:
            yield from value if isinstance(value, list) else [value]
        else:
            yield from _weights_in(value)


def _require_weights(found: Any, own: Mapping[str, Tensor]) -> None:
    if not found and isinstance(found, Mapping):  # of a network that has not served yet
        return
    if not isinstance(found, Mapping) or list(found) != list(own):
        raise _Misfit("weights of another network")
    for name, tensor in own.items():
        _require_tensor(found[name], tensor, f"the weight '{name}'")


def _require_tensor(found: Any, own: Tensor, what: str) -> None:
    if not isinstance(found, Tensor) or found.shape != own.shape or found.dtype != own.dtype:
        there = f"{tuple(found.shape)} {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise _Misfit(f"{what} is {there}, not {tuple(own.shape)} {own.dtype}")


def _optimisers(session: Session) -> list[torch.optim.Optimizer]:
    """Return the optimisers of the synthetic data and of every piece."""
    found = list(session.optimisers.values())
    for piece in (session.objective, session.networks, session.signal, session.constraint):
        for value in vars(piece).values() if piece is not None else ():
            found += [item for item in (value if isinstance(value, list) else [value]) if _steps(item)]
    return found


def _steps(value: Any) -> bool:
    return isinstance(value, torch.optim.Optimizer)


def _require_settings(optimiser: torch.optim.Optimizer) -> None:
    """Compare settings with those it was made with, but the rate, which a schedule changes."""
    for group in optimiser.param_groups:
        for key, value in optimiser.defaults.items():
            if key != "lr" and key in group and _plain(group[key]) != _plain(value):
                raise _Misfit(f"{key}={group[key]!r} of an optimiser is not {value!r}")
        if type(group["lr"]) is not float or not group["lr"] >= 0:
            raise _Misfit(f"the rate {group['lr']!r} of an optimiser is none")


def _plain(value: Any) -> Any:
    return (type(value).__name__, value) if not isinstance(value, list | tuple) else list(value)


def _require_moments(optimiser: torch.optim.Optimizer) -> None:
    """Compare what an optimiser remembers of each tensor with what it remembers after a step."""
    expected = _memory_of_a_step(optimiser)
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            memory = optimiser.state.get(parameter)
            if not memory:
                continue
            if set(memory) != set(expected):
                raise _Misfit(f"an optimiser remembers {sorted(map(str, memory))}, not {sorted(expected)}")
            for name, own in expected.items():
                if isinstance(own, Tensor):
                    shape = parameter.shape if own.dim() else own.shape
                    _require_tensor(memory[name], own.new_empty(shape), f"'{name}' of an optimiser")
                    if name == "step" and not 0 <= float(memory[name]) <= _MOST_STEPS:
                        raise _Misfit(f"an optimiser cannot have taken {float(memory[name]):g} steps")
                elif type(memory[name]) is not type(own):
                    raise _Misfit(f"'{name}' of an optimiser is a {type(memory[name]).__name__}")


def _memory_of_a_step(optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Return what an optimiser remembers of a tensor of one number after a step; nothing of it is kept."""
    first = optimiser.param_groups[0]["params"][0]
    probe = nn.Parameter(first.new_zeros(1))
    probe.grad = torch.zeros_like(probe)
    twin = copy.copy(optimiser)
    twin.state, twin.param_groups = type(optimiser.state)(dict), [{**optimiser.param_groups[0], "params": [probe]}]
    twin.step()
    return dict(twin.state[probe])


def _require_same(taken: Any, given: Any, where: str) -> None:
    """Compare the state that a session has taken with the one that it was given, number by number."""
    if isinstance(taken, Tensor):
        _require_tensor(given, taken.cpu(), where)
        if not torch.equal(taken.detach().cpu(), given):
            raise _Misfit(f"{where} was not taken as it is")
    elif isinstance(taken, Mapping):
        if not isinstance(given, Mapping) or list(taken) != list(given):
            raise _Misfit(f"{where} does not hold {', '.join(map(str, taken)) or 'nothing'}")
        for key, value in taken.items():
            if key != _SETTINGS:
                _require_same(value, given[key], f"{where}.{key}")
    elif isinstance(taken, list | tuple):
        if not isinstance(given, list) or len(taken) != len(given):
            raise _Misfit(f"{where} is no list of {len(taken)}")
        for number, value in enumerate(taken):
            _require_same(value, given[number], f"{where}.{number}")
    elif type(taken) is not type(given) or taken != given:
        raise _Misfit(f"{where}={given!r} was taken as {taken!r}")
