"""The contract suite catches methods that break their promises, and names the promise."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch

from ddkit import methods, objectives, synthesis
from ddkit.data.distilled.budget import Budget
from ddkit.errors import UnknownNameError
from ddkit.methods import Method
from ddkit.objectives import DistributionMatching
from ddkit.synthesis import Pixels, Synthesizer
from ddkit.testing import CHECKS, check_method, check_pair, parametrize_checks, parametrize_pairs, toy_data


class Good(DistributionMatching):
    """Keeps every promise."""


class AdvancesTorch(Good):
    def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
        torch.rand(1)
        return super().backward(synthesizer)


class AdvancesNumpy(Good):
    def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
        np.random.rand()  # noqa: NPY002
        return super().backward(synthesizer)


class AdvancesPython(Good):
    def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
        random.random()
        return super().backward(synthesizer)


class SeedsTorch(Good):
    def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
        torch.manual_seed(0)
        return super().backward(synthesizer)


class _AddsNoise(Good):
    """Adds a number to every gradient."""

    def noise(self) -> float:
        raise NotImplementedError

    def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
        scalars = super().backward(synthesizer)
        for parameter in synthesizer.parameters():
            if parameter.grad is not None:
                parameter.grad += self.noise()
        return scalars


class ReadsTheGlobalState(_AddsNoise):
    """Draws from torch's global generator and puts it back."""

    def noise(self) -> float:
        state = torch.get_rng_state()
        value = float(torch.rand(1))
        torch.set_rng_state(state)
        return value


class DrawsFromTheGlobalState(_AddsNoise):
    def noise(self) -> float:
        return float(torch.rand(1))


class ForgetsItsState(_AddsNoise):
    """Counts steps, but not in its state_dict."""

    steps = 0

    def noise(self) -> float:
        self.steps += 1
        return float(self.steps)


class KeepsItsState(ForgetsItsState):
    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = int(state["steps"])


class IgnoresTheSeed(Good):
    def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
        for parameter in synthesizer.parameters():
            parameter.grad = parameter.detach().clone()
        return {"loss": 0.0}


class ChangesTheData(Good):
    def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
        images = self.context.signal.real.images
        images[0] = 0
        return super().backward(synthesizer)


class CallsHome(Good):
    def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
        with suppress(Exception), socket.socket() as connection:  # hides the failure, which must be seen anyway
            connection.connect(("127.0.0.1", 9))
        return super().backward(synthesizer)


class LooksUpAName(Good):
    def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
        socket.getaddrinfo("localhost", 80)
        return super().backward(synthesizer)


class WrongFloats(Pixels):
    name = "test-wrong-floats"

    def budget(self) -> Budget:
        return Budget(**{**super().budget().as_dict(), "floats": 1})


class WrongBytes(Pixels):
    name = "test-wrong-bytes"

    def budget(self) -> Budget:
        return Budget(**{**super().budget().as_dict(), "bytes": 1})


class WrongImages(Pixels):
    name = "test-wrong-images"

    def budget(self) -> Budget:
        return Budget(**{**super().budget().as_dict(), "images": 1})


class Greyscale(Pixels):
    """Believes that every image is 8 by 8."""

    name = "test-greyscale"

    def __init__(self, num_classes: int, ipc: int, shape: tuple[int, int, int]) -> None:
        super().__init__(num_classes, ipc, shape)
        self.images = torch.nn.Parameter(torch.zeros(num_classes * ipc, 1, 8, 8))


class AcceptsEverything(Pixels):
    """Fills a class that is too small with repeated images instead of refusing."""

    name = "test-accepts-everything"

    def check(self, real: Any, how: str) -> None:
        """Accept."""

    def initialise(self, real: Any, how: str, generator: torch.Generator) -> None:
        with torch.no_grad():
            for row, number in enumerate(self.classes.tolist()):
                self.images[row] = real.batch(real.class_index[number])[row % 5]


class DecodesAnew(Pixels):
    """Decodes other images from the file than it had in memory."""

    name = "test-decodes-anew"

    @staticmethod
    def from_stored(stored: Mapping[str, torch.Tensor], options: Mapping[str, Any]) -> Any:
        return stored["images"] + 1, stored["labels"]


def preset(**values: Any) -> Callable[[Any, int], dict[str, Any]]:
    base: dict[str, Any] = {
        "steps": 10,
        "objective": {"name": "test-objective", "real_batch": 5},
        "optimiser": {"lr": 0.1},
        "recipe": {"name": "quick"},
    }
    return lambda data, ipc: {**base, **values}


@pytest.fixture
def method() -> Iterator[Callable[..., str]]:
    """Return a function that registers a method made of given pieces and returns its name; all is undone."""
    tables = (methods.registry, objectives.registry, synthesis.registry)
    before = [dict(table._items) for table in tables]

    def register(
        objective: type[Good] = Good, synthesizer: type[Pixels] | None = None, paper: str = "a paper", **values: Any
    ) -> str:
        objectives.registry.register("test-objective", objective)
        if synthesizer is not None:
            synthesis.registry.register(synthesizer.name, synthesizer)
            values["synthesis"] = {"name": synthesizer.name}
        methods.register(
            Method(
                name="test-method",
                title="A test",
                family="test",
                learns="pixels",
                paper=paper,
                url="https://example.org",
                cost="seconds",
                defaults=preset(**values),
            )
        )
        return "test-method"

    yield register
    for table, items in zip(tables, before, strict=True):
        table._items = items


@pytest.mark.parametrize("check", ["global_random_state_untouched"])
@pytest.mark.parametrize("objective", [Good, AdvancesTorch, SeedsTorch])
def test_check_leaves_the_global_generators_as_they_were(method, objective, check: str) -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]  # noqa: NPY002
    with suppress(AssertionError):
        CHECKS[check](method(objective), {})
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index]  # noqa: NPY002
    assert random.getstate() == states[2]


@pytest.mark.parametrize("objective", [Good, KeepsItsState])
def test_method_that_keeps_the_contract_passes(method, objective) -> None:
    assert check_method(method(objective)) is None


@pytest.mark.parametrize(
    ("objective", "check", "reason"),
    [
        (AdvancesTorch, "global_random_state_untouched", "global generator of torch was advanced or seeded"),
        (AdvancesNumpy, "global_random_state_untouched", "global generator of NumPy was advanced or seeded"),
        (AdvancesPython, "global_random_state_untouched", "global generator of Python was advanced or seeded"),
        (SeedsTorch, "global_random_state_untouched", "global generator of torch was advanced or seeded"),
        (ReadsTheGlobalState, "global_random_state_untouched", "the result depends on a global generator"),
        (DrawsFromTheGlobalState, "same_seed_same_bytes", "one seed gave two results"),
        (ForgetsItsState, "resumed_run_equals_uninterrupted_run", "and resumed, the result differs"),
        (ChangesTheData, "real_data_untouched", "the real data were changed"),
        (CallsHome, "no_network_access", "opened a network connection"),
        (LooksUpAName, "no_network_access", "opened a network connection"),
    ],
)
def test_broken_objective_is_caught_by_name(method, objective, check: str, reason: str) -> None:
    with pytest.raises(AssertionError, match=f"test-method breaks '{check}': .*{reason}"):
        check_method(method(objective))


@pytest.mark.parametrize(
    ("synthesizer", "check", "reason"),
    [
        (WrongFloats, "budget_counts_what_is_stored", "budget says 1 numbers, 390 are stored"),
        (WrongBytes, "budget_counts_what_is_stored", "budget says 1 bytes, 1584 are stored"),
        (WrongImages, "budget_counts_what_is_stored", "budget says 1 stored images, classes times IPC are 6"),
        (AcceptsEverything, "bad_input_is_refused", "{'ipc': 10} was accepted"),
        (DecodesAnew, "save_load_export", "the artifact decodes to other images than were distilled"),
    ],
)
def test_broken_synthesizer_is_caught_by_name(method, synthesizer, check: str, reason: str) -> None:
    with pytest.raises(AssertionError, match=f"test-method breaks '{check}': {reason}"):
        check_method(method(Good, synthesizer))


def test_method_that_does_not_depend_on_its_seed_is_caught(method) -> None:
    with pytest.raises(AssertionError, match="breaks 'other_seed_other_images'"):
        check_method(method(IgnoresTheSeed, init="mean"), {"ipc": 1})


def test_method_that_cannot_do_colour_is_caught(method) -> None:
    with pytest.raises(Exception, match="size of tensor"):
        check_method(method(Good, Greyscale))


def test_method_without_a_paper_is_caught(method) -> None:
    with pytest.raises(AssertionError, match=r"breaks 'configuration_round_trip'.*leaves \['paper'\] empty"):
        check_method(method(paper=""))


def test_unknown_method_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'dm'"):
        check_method("dmm")


def test_decorator_makes_one_test_per_method_and_check() -> None:
    mark = parametrize_checks(["dm", "dc"]).mark
    identifiers = [case.id for case in mark.args[1]]
    assert identifiers == [f"{name}-{check}" for name in ("dm", "dc") for check in CHECKS]


def test_toy_data_are_small_unbalanced_and_repeatable() -> None:
    data = toy_data()
    assert data.class_counts.tolist() == [9, 14, 11] and data.shape == (1, 8, 8)
    assert torch.equal(data.images, toy_data().images)
    assert not torch.equal(data.images, toy_data(seed=1).images)


def test_pair_whose_synthesis_never_moves_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Frozen(Pixels):
        def decode(self, index: torch.Tensor) -> torch.Tensor:
            return super().decode(index).detach() + 0 * self.images[index]

    monkeypatch.setitem(synthesis.registry._items, "frozen", Frozen)
    with pytest.raises(AssertionError, match=r"distribution x frozen leaves \['images'\] as it was"):
        check_pair("distribution", "frozen")


def test_every_pair_gets_a_test_of_its_own() -> None:
    names = {case.id for case in parametrize_pairs(refused=[("gradient", "pixels")]).mark.args[1]}
    assert "distribution-pixels" in names and "gradient-pixels" not in names
    assert len(names) == len(list(objectives.registry)) * len(list(synthesis.registry)) - 1
