"""What must every method do?"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddkit import methods
from ddkit.base.config import DistillConfig, merge
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import DDKitError
from ddkit.evaluation.evaluate import evaluate
from ddkit.testing.small import artifact_bytes, fit_small, require, toy_data
from ddkit.testing.watch import Kill, Seen, global_states, refused_connections
from ddkit.training.recipe import TrainingRecipe

Check = Callable[[str, Mapping[str, Any]], None]

#: Checks by name, in the order in which they run.
CHECKS: dict[str, Check] = {}


def _check(function: Check) -> Check:
    CHECKS[function.__name__.removeprefix("check_")] = function
    return function


@_check
def check_configuration_round_trip(method: str, overrides: Mapping[str, Any]) -> None:
    """A configuration survives JSON, and the method describes itself."""
    described = methods.get(method).describe()
    empty = [key for key, value in described.items() if not value]
    require(not empty, f"{method} leaves {empty} empty in its description")
    config = methods.get(method).configure(toy_data(), 2)
    require(DistillConfig.create(config.as_dict()) == config, "configuration changes when written and read back")


@_check
def check_same_seed_same_bytes(method: str, overrides: Mapping[str, Any]) -> None:
    """Two runs of one seed give the same file."""
    require(
        artifact_bytes(fit_small(method, overrides)) == artifact_bytes(fit_small(method, overrides)),
        "one seed gave two results",
    )


@_check
def check_other_seed_other_images(method: str, overrides: Mapping[str, Any]) -> None:
    """The seed matters, except where the method is deterministic by definition (other coresets than random)."""
    if methods.get(method).is_coreset and method != "random":
        return
    first, second = (fit_small(method, merge(overrides, {"seed": seed})) for seed in (0, 1))
    require(not torch.equal(first.images, second.images), "seeds 0 and 1 gave the same images")


@_check
def check_resumed_run_equals_uninterrupted_run(method: str, overrides: Mapping[str, Any]) -> None:
    """Killed after any step and resumed from the last checkpoint, the file is the same to the byte."""
    whole = artifact_bytes(fit_small(method, overrides))
    if methods.get(method).is_coreset:
        return
    # (step of the kill, steps between checkpoints): before the first checkpoint, in the middle of an outer loop of two
    # steps, at its end, and behind the last checkpoint, where steps must be redone.
    for killed_at, every in ((1, 2), (2, 1), (3, 2), (4, 1)):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            # The kill comes before the checkpoint of its own step.
            with suppress(KeyboardInterrupt):
                fit_small(method, overrides, out=out, callbacks=[Kill(killed_at)], checkpoint_every=every)
            resumed = fit_small(method, overrides, out=out, resume=True, checkpoint_every=every)
            require(artifact_bytes(resumed) == whole, f"killed after step {killed_at} and resumed, the result differs")


@_check
def check_budget_counts_what_is_stored(method: str, overrides: Mapping[str, Any]) -> None:
    """Numbers and bytes of the budget are those of the stored tensors."""
    distilled = fit_small(method, overrides)
    stored = distilled.stored.values()
    floats = sum(t.numel() for t in stored)
    size = sum(t.numel() * t.element_size() for t in stored)
    require(
        distilled.budget.floats == floats,
        f"budget says {distilled.budget.floats} numbers, {floats} are stored",
    )
    require(distilled.budget.bytes == size, f"budget says {distilled.budget.bytes} bytes, {size} are stored")
    require(
        distilled.budget.decoded_images == len(distilled),
        f"budget says {distilled.budget.decoded_images} decoded images, there are {len(distilled)}",
    )
    images = distilled.num_classes * (distilled.card.config.ipc or 0)
    require(
        distilled.budget.images == images,
        f"budget says {distilled.budget.images} stored images, classes times IPC are {images}",
    )


@_check
def check_labels_and_values(method: str, overrides: Mapping[str, Any]) -> None:
    """Images are finite, labels lie in range, every class is there."""
    data = toy_data()
    distilled = fit_small(method, overrides, data)
    images, labels = distilled.tensors()
    require(images.dtype == torch.float32 and bool(images.isfinite().all()), "images are not finite float32")
    require(
        tuple(images.shape[1:]) == data.shape,
        f"images have shape {tuple(images.shape[1:])}, not {data.shape}",
    )
    hard = distilled.hard_labels()
    require(set(hard.tolist()) == set(range(data.num_classes)), "a class is missing, or a label is out of range")
    if distilled.label_kind == "soft":
        require(torch.allclose(labels.sum(1), torch.ones(len(labels)), atol=1e-3), "soft labels do not sum to 1")


@_check
def check_any_shape_and_unbalanced_classes(method: str, overrides: Mapping[str, Any]) -> None:
    """Colour, non-square images and classes of unequal size work."""
    data = toy_data(shape=(3, 8, 12), counts=(8, 13))
    distilled = fit_small(method, overrides, data)
    require(tuple(distilled.images.shape[1:]) == (3, 8, 12), "wrong image shape on colour non-square data")


@_check
def check_save_load_export(method: str, overrides: Mapping[str, Any]) -> None:
    """The artifact decodes to what was distilled, the file reloads to the same tensors and exports to every format."""
    seen = Seen()
    distilled = fit_small(method, overrides, callbacks=[seen])
    if seen.images is not None and distilled.card.config.ema is None:
        same = seen.images.shape == distilled.images.shape and torch.allclose(seen.images, distilled.images, atol=1e-4)
        require(same, "the artifact decodes to other images than were distilled")
    with tempfile.TemporaryDirectory() as folder:
        loaded = DistilledDataset.load(distilled.save(Path(folder) / "a.safetensors"))
        for mine, other in zip(distilled.tensors(), loaded.tensors(), strict=True):
            require(torch.equal(mine, other), "a loaded artifact differs from the saved one")
        require(loaded.metadata == distilled.metadata, "metadata change on the way through the file")
        for format in ("parquet", "imagefolder", "npz"):
            loaded.export(Path(folder) / format / ("data.npz" if format == "npz" else ""), format)


@_check
def check_trains_a_network(method: str, overrides: Mapping[str, Any]) -> None:
    """A network trains on the result; evaluation leaves it as it was and repeats itself."""
    distilled = fit_small(method, overrides)
    before = artifact_bytes(distilled)
    recipe = TrainingRecipe(name="contract", epochs=2)
    test = toy_data(seed=5, split="test")
    accuracies = [
        evaluate(distilled, test, ("convnet:width=4,depth=2",), repeats=1, recipe=recipe).rows[0].accuracies
        for _ in range(2)
    ]
    require(list(accuracies[0]) == list(accuracies[1]), "one seed gave two accuracies")
    require(artifact_bytes(distilled) == before, "evaluation changed the distilled set")


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
    if methods.get(method).configure(toy_data(), 2).init in ("real", "inverted", "kmeans"):
        bad.append({"ipc": 10})
    for wrong in bad:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            try:
                fit_small(method, merge(overrides, wrong), out=out)
            except DDKitError as error:
                require("\n" not in str(error), f"the error for {wrong} has several lines")
                require(not out.exists(), f"{wrong} was refused only after files had been written")
            else:
                raise AssertionError(f"{wrong} was accepted")


@_check
def check_global_random_state_untouched(method: str, overrides: Mapping[str, Any]) -> None:
    """No global generator (torch, NumPy, Python) is read or left changed."""
    before = global_states()
    try:
        # From states that no method would seed to, lest an earlier run has seeded already.
        torch.manual_seed(314159), np.random.seed(314159), random.seed(314159)  # noqa: NPY002
        unusual = global_states()
        first = artifact_bytes(fit_small(method, overrides))
        for name, state in global_states().items():
            require(state == unusual[name], f"the global generator of {name} was advanced or seeded")
        torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
        require(artifact_bytes(fit_small(method, overrides)) == first, "the result depends on a global generator")
    finally:
        torch.set_rng_state(torch.frombuffer(bytearray(before["torch"]), dtype=torch.uint8))
        np.random.set_state(before["NumPy"])  # noqa: NPY002
        random.setstate(before["Python"])


@_check
def check_real_data_untouched(method: str, overrides: Mapping[str, Any]) -> None:
    """The real images and labels are the same afterwards."""
    data = toy_data()
    images, labels = data.images.clone(), data.labels.clone()
    fit_small(method, overrides, data)
    require(torch.equal(images, data.images) and torch.equal(labels, data.labels), "the real data were changed")


@_check
def check_no_network_access(method: str, overrides: Mapping[str, Any]) -> None:
    """Nothing is sent or fetched."""
    with refused_connections() as attempts:
        try:
            fit_small(method, overrides)
        except Exception:
            if not attempts:
                raise
    require(not attempts, f"the method opened a network connection ({', '.join(attempts)})")
