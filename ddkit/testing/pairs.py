"""What must every objective do with every synthesis?"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ddkit import objectives
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.engine.callbacks import Callback
from ddkit.engine.distiller import Distiller
from ddkit.engine.run import Run
from ddkit.evaluation.evaluate import evaluate
from ddkit.testing.small import artifact_bytes, require, small_options, toy_data
from ddkit.testing.watch import Kill, global_states
from ddkit.training.recipe import TrainingRecipe


def _fit_pair(objective: str, how: str, seed: int = 0, data: RealData | None = None, **fit: Any) -> DistilledDataset:
    """Distil with one objective and one synthesis, small, through the preset that a user would start from."""
    callbacks, every = fit.pop("callbacks", ()), fit.pop("checkpoint_every", None)
    needed = objectives.registry.get(objective).needs_networks
    networks_too: dict[str, Any] = {"networks": {"name": needed, **small_options("networks", needed)}} if needed else {}
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
        **networks_too,
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
    moved, before = _Moved(), global_states()
    distilled = _fit_pair(objective, how, callbacks=[moved])
    require(global_states() == before, f"{pair} advanced or seeded a global generator")
    still = [name for name, changed in moved.changed.items() if not changed]
    require(bool(moved.changed) and not still, f"{pair} leaves {still or 'everything'} as it was")
    whole = artifact_bytes(distilled)
    require(artifact_bytes(_fit_pair(objective, how)) == whole, f"{pair}: one seed gave two results")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        with suppress(KeyboardInterrupt):
            _fit_pair(objective, how, out=out, callbacks=[Kill(2)], checkpoint_every=1)
        resumed = _fit_pair(objective, how, out=out, resume=True, checkpoint_every=1)
        require(artifact_bytes(resumed) == whole, f"{pair}: killed and resumed, the result differs")
        loaded = DistilledDataset.load(distilled.save(Path(folder) / "a.safetensors"))
        require(
            torch.equal(loaded.tensors()[0], distilled.tensors()[0]), f"{pair}: a loaded artifact decodes otherwise"
        )
    floats = sum(t.numel() for t in distilled.stored.values())
    require(distilled.budget.floats == floats, f"{pair}: budget says {distilled.budget.floats} numbers, not {floats}")
    require(bool(distilled.tensors()[0].isfinite().all()), f"{pair}: images are not finite")
    recipe = TrainingRecipe(name="contract", epochs=1)
    evaluate(distilled, toy_data(seed=5, split="test"), ("convnet:width=4,depth=2",), repeats=1, recipe=recipe)
