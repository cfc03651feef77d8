"""The contract suite: what every method must do, one's own and third parties' alike.

>>> from ddkit.testing import check_method
>>> check_method("dm")

In a test suite, :func:`parametrize_checks` gives one test per check:

>>> @parametrize_checks(["dm", "my-method"])
... def test_contract(check):
...     check()

What every objective does with every synthesis is checked by :func:`check_pair` and :func:`parametrize_pairs`.
"""

from __future__ import annotations

import functools
import inspect
import random
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from ddkit import methods, networks, objectives, synthesis
from ddkit.artifact import DistilledDataset
from ddkit.config import DistillConfig, merge
from ddkit.data import RealData
from ddkit.engine import Callback, Distiller, Run
from ddkit.errors import DDKitError
from ddkit.evaluation import TrainingRecipe, evaluate
from ddkit.registry import Registry

Check = Callable[[str, Mapping[str, Any]], None]

#: Checks by name, in the order in which they run.
CHECKS: dict[str, Check] = {}


def _check(function: Check) -> Check:
    CHECKS[function.__name__.removeprefix("check_")] = function
    return function


def toy_data(
    shape: tuple[int, int, int] = (1, 8, 8),
    counts: tuple[int, ...] = (9, 14, 11),
    seed: int = 0,
    split: str = "train",
) -> RealData:
    """Return a small, unbalanced, learnable dataset: each class has its own pattern under noise."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(len(counts), *shape, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    noise = torch.rand(len(labels), *shape, generator=generator)
    images = ((0.7 * patterns[labels] + 0.3 * noise) * 255).to(torch.uint8)
    names = [f"class-{number}" for number in range(len(counts))]
    return RealData.from_tensors(images, labels, class_names=names, name="toy", split=split)


#: Values that shrink the options of these names to what a run of a second can afford, by piece.
SMALL: dict[str, dict[str, Any]] = {
    "objective": {"real_batch": 5, "warmup_networks": 1, "warmup_steps": 1},
    "networks": {
        "outer_loop": 2,
        "inner_epochs": 2,
        "life": 2,
        "images": 6,
        "batch_size": 4,
        "pretrain_epochs": 0,
        "runs": 1,
        "stages": 2,
        "steps": 4,
        "query": 3,
        "window": 2,
        "max_inner_epochs": 2,
        "max_updates": 2,
    },
    "synthesis": {
        "generator_steps": 2,
        "generator_batch": 4,
        "inversion_steps": 2,
        "feature_steps": 2,
        "code_size": 4,
        "width": 4,
        "codes": 2,
        "decoders": 2,
        "hidden": 2,
        "code_channels": 1,
        "warm_steps": 2,
    },
    "selection": {"epochs": 1},
}


def small_options(kind: str, name: str) -> dict[str, Any]:
    """Return the values of ``SMALL`` for the options that the piece called ``name`` has."""
    registries: dict[str, Registry[Any]] = {
        "objective": objectives.registry,
        "networks": networks.registry,
        "synthesis": synthesis.registry,
    }
    if kind not in registries or name not in registries[kind]:
        return {}
    taken = inspect.signature(registries[kind].get(name)).parameters
    # A warm-up belongs to a level that a composition does not have by itself.
    return {key: value for key, value in SMALL[kind].items() if key in taken and not key.startswith("warmup")}


def small_overrides(method: str, data: RealData, ipc: int = 2) -> dict[str, Any]:
    """Return overrides that shrink a preset to a run of a second, touching only options that its pieces have."""
    preset = methods.get(method).configure(data, ipc).as_dict()
    small: dict[str, Any] = {
        "model": "convnet:width=4,depth=2",
        "precision": "float32",
        "compile": False,
        "device": "cpu",
    }
    if preset["steps"]:
        small["steps"] = 4
    for kind in SMALL:
        have = preset.get(kind) or {}
        present = {key: value for key, value in SMALL[kind].items() if key in have}
        present |= small_options(kind, have.get("name", "")) if preset["steps"] else {}
        if present:
            small[kind] = present
    return small


def _fit(method: str, overrides: Mapping[str, Any], data: RealData | None = None, **fit: Any) -> DistilledDataset:
    data = data or toy_data()
    options = merge(small_overrides(method, data), overrides)
    ipc, seed = options.pop("ipc", 2), options.pop("seed", 0)
    callbacks, every = fit.pop("callbacks", ()), fit.pop("checkpoint_every", None)
    distiller = Distiller(method, ipc, seed=seed, callbacks=callbacks, checkpoint_every=every, **options)
    return distiller.fit(data, **fit)


def _bytes(distilled: DistilledDataset) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return distilled.save(Path(folder) / "a.safetensors").read_bytes()


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


@_check
def check_configuration_round_trip(method: str, overrides: Mapping[str, Any]) -> None:
    """A configuration survives JSON, and the method describes itself."""
    described = methods.get(method).describe()
    empty = [key for key, value in described.items() if not value]
    _require(not empty, f"{method} leaves {empty} empty in its description")
    config = methods.get(method).configure(toy_data(), 2)
    _require(DistillConfig.create(config.as_dict()) == config, "configuration changes when written and read back")


@_check
def check_same_seed_same_bytes(method: str, overrides: Mapping[str, Any]) -> None:
    """Two runs of one seed give the same file."""
    _require(_bytes(_fit(method, overrides)) == _bytes(_fit(method, overrides)), "one seed gave two results")


@_check
def check_other_seed_other_images(method: str, overrides: Mapping[str, Any]) -> None:
    """The seed matters, except where the method is deterministic by definition (other coresets than random)."""
    if methods.get(method).is_coreset and method != "random":
        return
    first, second = (_fit(method, merge(overrides, {"seed": seed})) for seed in (0, 1))
    _require(not torch.equal(first.images, second.images), "seeds 0 and 1 gave the same images")


class _Kill(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, run: Run) -> None:
        if run.step == self.step:
            raise KeyboardInterrupt


class _Seen(Callback):
    """Remembers the decoded images at the end of a run; None for a coreset, which has none to decode."""

    images: torch.Tensor | None = None

    def on_end(self, run: Run) -> None:
        with torch.no_grad():
            self.images = run.synthesizer()[0].float().cpu()


@_check
def check_resumed_run_equals_uninterrupted_run(method: str, overrides: Mapping[str, Any]) -> None:
    """Killed after any step and resumed from the last checkpoint, the file is the same to the byte."""
    whole = _bytes(_fit(method, overrides))
    if methods.get(method).is_coreset:
        return
    # (step of the kill, steps between checkpoints): before the first checkpoint, in the middle of an outer loop of two
    # steps, at its end, and behind the last checkpoint, where steps must be redone.
    for killed_at, every in ((1, 2), (2, 1), (3, 2), (4, 1)):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            # The kill comes before the checkpoint of its own step.
            with suppress(KeyboardInterrupt):
                _fit(method, overrides, out=out, callbacks=[_Kill(killed_at)], checkpoint_every=every)
            resumed = _fit(method, overrides, out=out, resume=True, checkpoint_every=every)
            _require(_bytes(resumed) == whole, f"killed after step {killed_at} and resumed, the result differs")


@_check
def check_budget_counts_what_is_stored(method: str, overrides: Mapping[str, Any]) -> None:
    """Numbers and bytes of the budget are those of the stored tensors."""
    distilled = _fit(method, overrides)
    stored = distilled.stored.values()
    floats = sum(t.numel() for t in stored)
    size = sum(t.numel() * t.element_size() for t in stored)
    _require(
        distilled.budget.floats == floats,
        f"budget says {distilled.budget.floats} numbers, {floats} are stored",
    )
    _require(distilled.budget.bytes == size, f"budget says {distilled.budget.bytes} bytes, {size} are stored")
    _require(
        distilled.budget.decoded_images == len(distilled),
        f"budget says {distilled.budget.decoded_images} decoded images, there are {len(distilled)}",
    )
    images = distilled.num_classes * distilled.metadata["config"]["ipc"]
    _require(
        distilled.budget.images == images,
        f"budget says {distilled.budget.images} stored images, classes times IPC are {images}",
    )


@_check
def check_labels_and_values(method: str, overrides: Mapping[str, Any]) -> None:
    """Images are finite, labels lie in range, every class is there."""
    data = toy_data()
    distilled = _fit(method, overrides, data)
    images, labels = distilled.tensors()
    _require(images.dtype == torch.float32 and bool(images.isfinite().all()), "images are not finite float32")
    _require(
        tuple(images.shape[1:]) == data.shape,
        f"images have shape {tuple(images.shape[1:])}, not {data.shape}",
    )
    hard = distilled.hard_labels()
    _require(set(hard.tolist()) == set(range(data.num_classes)), "a class is missing, or a label is out of range")
    if distilled.label_kind == "soft":
        _require(torch.allclose(labels.sum(1), torch.ones(len(labels)), atol=1e-3), "soft labels do not sum to 1")


@_check
def check_any_shape_and_unbalanced_classes(method: str, overrides: Mapping[str, Any]) -> None:
    """Colour, non-square images and classes of unequal size work."""
    data = toy_data(shape=(3, 8, 12), counts=(8, 13))
    distilled = _fit(method, overrides, data)
    _require(tuple(distilled.images.shape[1:]) == (3, 8, 12), "wrong image shape on colour non-square data")


@_check
def check_save_load_export(method: str, overrides: Mapping[str, Any]) -> None:
    """The artifact decodes to what was distilled, the file reloads to the same tensors and exports to every format."""
    seen = _Seen()
    distilled = _fit(method, overrides, callbacks=[seen])
    if seen.images is not None and distilled.metadata["config"]["ema"] is None:
        same = seen.images.shape == distilled.images.shape and torch.allclose(seen.images, distilled.images, atol=1e-4)
        _require(same, "the artifact decodes to other images than were distilled")
    with tempfile.TemporaryDirectory() as folder:
        loaded = DistilledDataset.load(distilled.save(Path(folder) / "a.safetensors"))
        for mine, other in zip(distilled.tensors(), loaded.tensors(), strict=True):
            _require(torch.equal(mine, other), "a loaded artifact differs from the saved one")
        _require(loaded.metadata == distilled.metadata, "metadata change on the way through the file")
        for format in ("parquet", "imagefolder", "npz"):
            loaded.export(Path(folder) / format / ("data.npz" if format == "npz" else ""), format)


@_check
def check_trains_a_network(method: str, overrides: Mapping[str, Any]) -> None:
    """A network trains on the result; evaluation leaves it as it was and repeats itself."""
    distilled = _fit(method, overrides)
    before = _bytes(distilled)
    recipe = TrainingRecipe(name="contract", epochs=2)
    test = toy_data(seed=5, split="test")
    accuracies = [
        evaluate(distilled, test, ("convnet:width=4,depth=2",), repeats=1, recipe=recipe).rows[0].accuracies
        for _ in range(2)
    ]
    _require(list(accuracies[0]) == list(accuracies[1]), "one seed gave two accuracies")
    _require(_bytes(distilled) == before, "evaluation changed the distilled set")


@_check
def check_bad_input_is_refused(method: str, overrides: Mapping[str, Any]) -> None:
    """Bad settings raise an error of ddkit, on one line, before a file is written."""
    bad: list[dict[str, Any]] = [
        {"ipc": 0},
        {"no_such_option": 1},
        {"steps": -1},
        {"model": "no-such-model"},
        {"device": "no-such-device"},
        {"recipe": "no-such-recipe"},
    ]
    if methods.get(method).configure(toy_data(), 2).init in ("real", "inverted"):
        bad.append({"ipc": 10})
    for wrong in bad:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            try:
                _fit(method, merge(overrides, wrong), out=out)
            except DDKitError as error:
                _require("\n" not in str(error), f"the error for {wrong} has several lines")
                _require(not out.exists(), f"{wrong} was refused only after files had been written")
            else:
                raise AssertionError(f"{wrong} was accepted")


@_check
def check_global_random_state_untouched(method: str, overrides: Mapping[str, Any]) -> None:
    """No global generator (torch, NumPy, Python) is read or left changed."""
    before = _global_states()
    try:
        # From states that no method would seed to, lest an earlier run has seeded already.
        torch.manual_seed(314159), np.random.seed(314159), random.seed(314159)  # noqa: NPY002
        unusual = _global_states()
        first = _bytes(_fit(method, overrides))
        for name, state in _global_states().items():
            _require(state == unusual[name], f"the global generator of {name} was advanced or seeded")
        torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
        _require(_bytes(_fit(method, overrides)) == first, "the result depends on a global generator")
    finally:
        torch.set_rng_state(torch.frombuffer(bytearray(before["torch"]), dtype=torch.uint8))
        np.random.set_state(before["NumPy"])  # noqa: NPY002
        random.setstate(before["Python"])


def _global_states() -> dict[str, Any]:
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    kind, keys, *rest = numpy_state
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "NumPy": (kind, tuple(keys.tolist()), *rest),
        "Python": random.getstate(),
    }


@_check
def check_real_data_untouched(method: str, overrides: Mapping[str, Any]) -> None:
    """The real images and labels are the same afterwards."""
    data = toy_data()
    images, labels = data.images.clone(), data.labels.clone()
    _fit(method, overrides, data)
    _require(torch.equal(images, data.images) and torch.equal(labels, data.labels), "the real data were changed")


@_check
def check_no_network_access(method: str, overrides: Mapping[str, Any]) -> None:
    """Nothing is sent or fetched."""
    with _refused_connections() as attempts:
        try:
            _fit(method, overrides)
        except Exception:
            if not attempts:
                raise
    _require(not attempts, f"the method opened a network connection ({', '.join(attempts)})")


@contextmanager
def _refused_connections() -> Iterator[list[str]]:
    """Let every attempt to reach the network fail; collects the attempts, also those whose error is swallowed."""
    attempts: list[str] = []

    def refusing(name: str) -> Callable[..., Any]:
        def refuse(*_: Any, **__: Any) -> Any:
            attempts.append(name)
            raise OSError("the contract suite allows no network access")

        return refuse

    with ExitStack() as patches:
        for name in ("connect", "connect_ex", "sendto"):
            patches.enter_context(mock.patch.object(socket.socket, name, refusing(name)))
        patches.enter_context(mock.patch.object(socket, "getaddrinfo", refusing("getaddrinfo")))
        yield attempts


def check_method(name: str, overrides: Mapping[str, Any] | None = None) -> None:
    """Run the whole contract on a registered method.

    Args:
        name: registered name.
        overrides: options that make the method small and fast enough for the checks, where the automatic ones
            (four steps, a ConvNet of width 4) do not suffice.

    Raises:
        AssertionError: the first promise that is broken, with the name of the check.
        UnknownNameError: no such method.
    """
    methods.get(name)
    for check, function in CHECKS.items():
        try:
            function(name, dict(overrides or {}))
        except AssertionError as error:
            raise AssertionError(f"{name} breaks '{check}': {error}") from error


def parametrize_checks(names: Iterable[str], overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Any:
    """Return a pytest decorator that gives the test one argument ``check`` per method and check."""
    import pytest

    cases = [
        pytest.param(functools.partial(function, name, dict((overrides or {}).get(name, {}))), id=f"{name}-{check}")
        for name in names
        for check, function in CHECKS.items()
    ]
    return pytest.mark.parametrize("check", cases)


def _fit_pair(objective: str, how: str, seed: int = 0, data: RealData | None = None, **fit: Any) -> DistilledDataset:
    """Distil with one objective and one synthesis, small, through the preset that a user would start from."""
    callbacks, every = fit.pop("callbacks", ()), fit.pop("checkpoint_every", None)
    distiller = Distiller(
        "dm",
        2,
        seed=seed,
        callbacks=callbacks,
        checkpoint_every=every,
        steps=3,
        model="convnet:width=4,depth=2",
        augmentation="color_crop",
        objective={"name": objective, **small_options("objective", objective)},
        synthesis={"name": how, **small_options("synthesis", how)},
        precision="float32",
        compile=False,
        device="cpu",
    )
    return distiller.fit(data or toy_data(), **fit)


class _Moved(Callback):
    """Remembers the learnable tensors at the start of a run and says which groups have changed at its end."""

    def on_start(self, run: Run) -> None:
        groups = run.synthesizer.parameter_groups()
        self.before = {name: [p.detach().clone() for p in group] for name, group in groups.items()}

    def on_end(self, run: Run) -> None:
        groups = run.synthesizer.parameter_groups()
        self.changed = {
            name: all(not torch.equal(old, new) for old, new in zip(self.before[name], group, strict=True))
            for name, group in groups.items()
        }


def check_pair(objective: str, how: str) -> None:
    """Check that an objective works with a synthesis: every learnable tensor moves, one seed gives one file, a killed
    run goes on, the budget counts what is stored, the file reloads to the same images and trains a network.

    Args:
        objective: registered name.
        how: registered name of a synthesis.

    Raises:
        AssertionError: the promise that is broken.
    """
    pair = f"{objective} x {how}"
    moved, before = _Moved(), _global_states()
    distilled = _fit_pair(objective, how, callbacks=[moved])
    _require(_global_states() == before, f"{pair} advanced or seeded a global generator")
    still = [name for name, changed in moved.changed.items() if not changed]
    _require(bool(moved.changed) and not still, f"{pair} leaves {still or 'everything'} as it was")
    whole = _bytes(distilled)
    _require(_bytes(_fit_pair(objective, how)) == whole, f"{pair}: one seed gave two results")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        with suppress(KeyboardInterrupt):
            _fit_pair(objective, how, out=out, callbacks=[_Kill(2)], checkpoint_every=1)
        resumed = _fit_pair(objective, how, out=out, resume=True, checkpoint_every=1)
        _require(_bytes(resumed) == whole, f"{pair}: killed and resumed, the result differs")
        loaded = DistilledDataset.load(distilled.save(Path(folder) / "a.safetensors"))
        _require(
            torch.equal(loaded.tensors()[0], distilled.tensors()[0]), f"{pair}: a loaded artifact decodes otherwise"
        )
    floats = sum(t.numel() for t in distilled.stored.values())
    _require(distilled.budget.floats == floats, f"{pair}: budget says {distilled.budget.floats} numbers, not {floats}")
    _require(bool(distilled.tensors()[0].isfinite().all()), f"{pair}: images are not finite")
    recipe = TrainingRecipe(name="contract", epochs=1)
    evaluate(distilled, toy_data(seed=5, split="test"), ("convnet:width=4,depth=2",), repeats=1, recipe=recipe)


def parametrize_pairs(refused: Iterable[tuple[str, str]] = ()) -> Any:
    """Return a pytest decorator that gives the test one argument ``check`` per registered objective and synthesis.

    Args:
        refused: pairs (objective, synthesis) that make no sense and are left out; test their refusal yourself.
    """
    import pytest

    left_out = set(refused)
    cases = [
        pytest.param(functools.partial(check_pair, objective, how), id=f"{objective}-{how}")
        for objective in objectives.registry
        for how in synthesis.registry
        if (objective, how) not in left_out
    ]
    return pytest.mark.parametrize("check", cases)
