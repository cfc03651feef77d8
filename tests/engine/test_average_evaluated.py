"""Are the moving average and the data of the last step judged on networks of their own?"""

from __future__ import annotations

from pathlib import Path

from ddkit import Distiller
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.engine import RunFolder
from ddkit.evaluation import evaluate
from ddkit.testing import toy_data
from ddkit.training import TrainingRecipe

SMALL = {"model": "convnet:width=4,depth=2", "precision": "float32", "compile": False, "device": "cpu"}


def test_order_in_which_average_and_last_step_are_evaluated_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    Distiller("dm", 2, steps=6, ema=0.5, objective={"real_batch": 5}, optimiser={"lr": 50.0}, **SMALL).fit(
        toy_data(), out=out
    )
    sets = {name: DistilledDataset.load(getattr(RunFolder(out), name)) for name in ("artifact", "last")}
    assert not sets["artifact"].images.equal(sets["last"].images)
    test, how = toy_data(seed=5, split="test"), TrainingRecipe(epochs=3, schedule="constant")

    def accuracies(order: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
        return {
            name: evaluate(sets[name], test, ("mlp:width=8",), repeats=3, recipe=how).rows[0].accuracies
            for name in order
        }

    assert accuracies(("artifact", "last")) == accuracies(("last", "artifact"))
