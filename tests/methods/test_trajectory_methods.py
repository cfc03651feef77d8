"""MTT, TESLA, FTD and HaBa: their settings, how they compose, what they refuse, and digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ddkit import Distiller, methods
from ddkit.base.checkpoint import load_checkpoint
from ddkit.base.config import DistillConfig
from ddkit.data import RealData, load_pair
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.engine import read_lines
from ddkit.errors import ConfigError, DivergedError
from ddkit.evaluation import baseline_sets, evaluate
from ddkit.objectives import Objective, TrajectoryMatching
from ddkit.synthesis import Synthesizer
from ddkit.testing import small_overrides, toy_data
from ddkit.training import recipe
from ddkit.training.experts import ExpertSettings, build_buffer

METHODS = ("mtt", "tesla", "ftd", "haba")


def images_like(name: str, shape: tuple[int, int, int], classes: int, count: int = 6000) -> RealData:
    """Blank images under the name of a dataset: presets look at names, shapes and counts only."""
    images = torch.zeros(count, *shape, dtype=torch.uint8)
    return RealData.from_tensors(images, torch.arange(count) % classes, name=name)


CIFAR = images_like("cifar10", (3, 32, 32), 10)


def configure(method: str, data: RealData = CIFAR, ipc: int = 1, **overrides: Any) -> DistillConfig:
    return methods.get(method).configure(data, ipc, overrides=overrides)


def student(config: DistillConfig) -> dict[str, Any]:
    return dict(config.optimiser.groups["student_lr"])


@pytest.mark.parametrize(
    ("ipc", "steps", "start", "rate", "rate_of_lr", "lr", "zca"),
    [
        (1, 50, 2, 100, 1e-7, 0.01, "pixels"),
        (10, 30, 20, 100, 1e-5, 0.001, "pixels"),
        (50, 30, 40, 1000, 1e-5, 0.001, None),
    ],
)
def test_mtt_has_the_published_settings(
    ipc: int, steps: int, start: int, rate: float, rate_of_lr: float, lr: float, zca: str | None
) -> None:
    config = configure("mtt", ipc=ipc)
    assert config.objective is not None
    options = config.objective.options
    assert (options["student_steps"], options["expert_epochs"], options["max_start_epoch"]) == (steps, 2, start)
    assert (config.optimiser.lr, config.optimiser.momentum, options["lr"], config.zca) == (rate, 0.5, lr, zca)
    assert student(config)["lr"] == rate_of_lr and config.steps == 5000
    assert config.networks.options["count"] == 100


def test_mtt_batches_only_where_the_set_is_larger() -> None:
    data = images_like("cifar100", (3, 32, 32), 100)
    for ipc, batch in ((1, None), (50, 125)):
        config = configure("mtt", data, ipc)
        assert config.objective is not None and config.objective.options["batch_syn"] == batch


def test_tesla_halves_the_published_rate_and_labels_softly_from_a_thousand_classes_on() -> None:
    config = configure("tesla")
    assert config.objective is not None and config.objective.options["meta_gradient"] == "tesla"
    assert config.optimiser.lr == 500 and config.objective.options["max_start_epoch"] == 5 and config.steps == 10_000
    assert config.synthesis.options == {} and config.objective.options["soft_labels"] == "none"
    many = configure("tesla", images_like("imagenet", (3, 64, 64), 1000, 2000))
    assert many.objective is not None and many.objective.options["soft_labels"] == "per_segment"
    assert many.synthesis.options["labels"] == "assigned"


def test_ftd_trains_flat_experts_and_averages() -> None:
    config = configure("ftd")
    assert config.ema == 0.9999
    assert {key: config.networks.options[key] for key in ("rho", "alpha", "adaptive")} == {
        "rho": 0.01,
        "alpha": 0.3,
        "adaptive": True,
    }


def test_haba_counts_its_hallucinators_and_shows_one_of_each_base() -> None:
    config = configure("haba")
    assert config.constraint is not None and config.constraint.name == "contrast"
    assert config.recipe.options["views"] == "own" and config.synthesis.options["hallucinators"] == 5
    assert (config.optimiser.lr, config.optimiser.momentum, student(config)["momentum"]) == (100, 0.95, 0.9)
    result = Distiller("haba", 1, **small_overrides("haba", CIFAR, 1) | {"steps": 0, "zca": None}).fit(CIFAR)
    assert result.budget.floats == 10 * 3 * 32**2 + 2 * 5568


def test_epochs_show_one_of_as_many_hallucinations_as_there_are() -> None:
    options = small_overrides("haba", toy_data()) | {"steps": 0, "synthesis": {"hallucinators": 3}}
    distilled = Distiller("haba", 2, **options).fit(toy_data())
    assert distilled.metadata["recipe"]["views"] == 3
    random = baseline_sets(toy_data(), distilled, ("random",))["random"]
    assert random[0].metadata["recipe"]["views"] == 1


@pytest.mark.parametrize("synthesis", ["hallucinators", "multi-formation"])
def test_views_that_a_result_does_not_have_are_refused(synthesis: str, tmp_path: Path) -> None:
    options = small_overrides("dm", toy_data()) | {"synthesis": synthesis, "recipe": {"views": 4}}
    with pytest.raises(ConfigError, match=r"recipe\.views=4"):
        Distiller("dm", 2, **options).fit(toy_data(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", METHODS)
def test_small_sets_get_settings_of_their_own(method: str) -> None:
    config = configure(method, toy_data(), 2)
    assert config.optimiser.lr == 10 and student(config)["lr"] == 1e-3
    assert config.networks.options["lr"] == 0.05 and config.zca is None


def test_another_synthesis_keeps_the_settings_of_the_students_rate() -> None:
    config = configure("mtt", synthesis="multi-formation")
    assert config.composition == "mtt x multi-formation"
    assert student(config) == student(configure("mtt")) and config.optimiser.lr == 10


def test_objective_brings_the_networks_that_it_needs() -> None:
    config = configure("dm", objective="trajectory")
    assert config.networks.name == "experts" and student(config)["lr"] == 1e-5
    given = configure("dm", objective="trajectory", networks={"name": "experts", "count": 3})
    assert given.networks.options == {"count": 3}


def test_another_objective_drops_the_students_rate() -> None:
    config = configure("mtt", objective="distribution")
    assert config.optimiser.groups == {} and config.optimiser.lr == 1


def test_objective_of_ones_own_takes_the_place_of_the_presets() -> None:
    class Still(Objective):
        gradient_scale = "trajectory"

        def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
            loss = sum(parameter.square().sum() for parameter in synthesizer.learnable())
            loss.backward()
            return {"loss": float(loss)}

    options = small_overrides("mtt", toy_data()) | {"objective": Still(), "networks": "fresh", "steps": 1}
    assert Distiller("mtt", 2, **options).fit(toy_data()).metadata["steps"] == 1


def test_objective_object_fits_twice() -> None:
    data, options = toy_data(), small_overrides("mtt", toy_data())
    options |= {"synthesis": {"name": "pixels", "labels": "assigned"}}
    options["objective"] = TrajectoryMatching(2, 1, 2, lr=0.02, soft_labels="fixed")
    distiller = Distiller("mtt", 2, **options)
    assert torch.equal(distiller.fit(data).images, distiller.fit(data).images)


def test_what_belongs_to_hallucinators_leaves_with_them() -> None:
    config = configure("haba", synthesis="pixels")
    assert config.constraint is None and "views" not in config.recipe.options


def test_experts_of_another_flatness_are_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    data = toy_data()
    options = small_overrides("ftd", data)
    settings = ExpertSettings(model=options["model"], epochs=2, lr=0.05, batch_size=4)
    build_buffer(data, tmp_path / "plain", settings, 2)
    options["networks"] = {"buffer": str(tmp_path / "plain")}
    with pytest.raises(ConfigError, match="rho"):
        Distiller("ftd", 2, **options).fit(data, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    options["networks"] |= {"rho": 0.0, "alpha": 0.0}
    assert Distiller("ftd", 2, **options).fit(data).metadata["steps"] == options["steps"]


@pytest.mark.filterwarnings("ignore:the loss of trajectory matching")
def test_diverging_rate_of_the_student_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    data = toy_data()
    options = small_overrides("mtt", data) | {"steps": 50}
    options["optimiser"] = {"groups": {"student_lr": {"lr": 1e-4, "momentum": 0.5}}}
    options["objective"] |= {"lr_range": [1e-6, 0.03]}
    with pytest.raises(DivergedError, match="student"):
        Distiller("mtt", 2, checkpoint_every=1, **options).fit(data, out=tmp_path / "run")
    saved = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert saved["step"] == len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) > 0
    assert saved["session"]["objective"]["rate"].isfinite()
    assert not (tmp_path / "run" / "distilled.safetensors").exists()


def test_rate_that_stays_at_the_lower_end_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddkit.objectives.trajectory.HIGH_STEPS", 10)
    data = toy_data()
    options = small_overrides("mtt", data) | {"steps": 15}
    options["optimiser"] = {"lr": 1e-6, "groups": {"student_lr": {"lr": 10.0, "momentum": 0.5}}}
    with pytest.warns(UserWarning, match="lower end of its range, 1e-06, for 10 steps"):
        Distiller("mtt", 2, **options).fit(data)


def test_experts_of_a_run_are_kept_in_its_folder_and_serve_another(tmp_path: Path) -> None:
    data = toy_data()
    options = small_overrides("mtt", data)
    first = Distiller("mtt", 2, **options).fit(data, out=tmp_path / "first")
    options["networks"] = {"buffer": str(tmp_path / "first" / "experts")}
    second = Distiller("mtt", 2, **options).fit(data)
    assert first.metadata["networks"] == second.metadata["networks"]
    torch.testing.assert_close(first.images, second.images, rtol=0, atol=0)


def test_result_is_trained_on_with_the_learned_rate() -> None:
    data = toy_data()
    result = Distiller("mtt", 2, **small_overrides("mtt", data)).fit(data)
    assert result.metadata["recipe"]["lr"] == result.metadata["learned"]["lr"] != 0.02


PROTOCOL: dict[str, Any] = {
    "model": "convnet:width=32,depth=2",
    "augmentation": "none",
    "steps": 300,
    "objective": {"student_steps": 20, "expert_epochs": 2, "max_start_epoch": 5, "lr": 0.02},
    "networks": {"count": 5, "lr": 0.05, "batch_size": 64},
    "recipe": {"name": "dc", "epochs": 300},
}


def accuracy(distilled: DistilledDataset, test: RealData, **options: Any) -> float:
    return 100 * evaluate(distilled, test, (PROTOCOL["model"],), 3, **options).rows[0].mean


@pytest.fixture(scope="module")
def digits() -> tuple[RealData, RealData]:
    return load_pair("digits")


@pytest.fixture(scope="module")
def random_accuracy(digits: tuple[RealData, RealData]) -> dict[int, float]:
    """Accuracy of random images by IPC, each of six draws at the better of two rates."""
    train, test = digits
    rates, found = (0.02, 0.07), {}
    for ipc in (1, 2):
        sets = baseline_sets(train, Distiller("random", ipc).fit(train), ("random",), draws=6)["random"]
        best = [max(accuracy(s, test, recipe=recipe("dc", "digits", epochs=300, lr=r)) for r in rates) for s in sets]
        found[ipc] = sum(best) / len(best)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options", "least", "equal", "margin"),
    [
        ("mtt", {}, 83, 1, 12),
        ("tesla", {}, 83, 1, 12),
        ("ftd", {"ema": 0.98, "networks": {**PROTOCOL["networks"], "rho": 0.5, "alpha": 0.3}}, 83, 1, 12),
        ("haba", {"recipe": {"name": "dc", "epochs": 300, "views": "own"}}, 86, 2, 9),
    ],
)
def test_digits_beat_random_images_by_the_published_margin(
    method: str,
    options: dict[str, Any],
    least: float,
    equal: int,
    margin: float,
    digits: tuple[RealData, RealData],
    random_accuracy: dict[int, float],
    tmp_path: Path,
) -> None:
    train, test = digits
    distilled = Distiller(method, 1, **{**PROTOCOL, **options}).fit(train, out=tmp_path / "run")
    reached = accuracy(distilled, test)
    assert reached >= least and reached >= random_accuracy[equal] + margin
    losses = [line["loss"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")]
    assert sum(losses[-50:]) / 50 <= 0.40
    if method == "ftd":
        assert reached >= accuracy(DistilledDataset.load(tmp_path / "run" / "last.safetensors"), test) - 2
