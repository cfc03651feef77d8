"""The seams that later methods and adapters build on: signals, learned extras of an objective, decoded subsets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddkit import Distiller
from ddkit.base.config import DistillConfig
from ddkit.data import RealData
from ddkit.engine import Session
from ddkit.errors import ConfigError, UnknownNameError
from ddkit.networks import FreshNetworks, RealSignal
from ddkit.objectives import DistributionMatching
from ddkit.synthesis import Pixels
from ddkit.testing import toy_data

SMALL: dict[str, Any] = {"steps": 3, "model": "convnet:width=4,depth=1", "augmentation": "none"}


class Guarded(RealSignal):
    """Refuses to start from real images and signs the artifact."""

    def check(self, config: DistillConfig, real: RealData) -> None:
        if config.init == "real":
            raise ConfigError("init=real would leak real images: use init=noise")

    def metadata(self) -> dict[str, Any]:
        return {"mechanism": "guarded"}


class Scaled(DistributionMatching):
    """Learns one more number beside the pixels and hands it to the training recipe."""

    def __init__(self) -> None:
        super().__init__(real_batch=5)
        self.rate = nn.Parameter(torch.tensor(0.5))
        self.steps_seen = 0

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"rate": [self.rate]}

    def backward(self, synthesizer: Any) -> dict[str, float]:
        self.rate.grad = torch.ones(())
        return super().backward(synthesizer)

    def after_step(self, synthesizer: Any) -> None:
        self.steps_seen += 1
        with torch.no_grad():
            self.rate.clamp_(min=0.2)

    def recipe_changes(self) -> dict[str, Any]:
        return {"lr": round(float(self.rate.detach()), 4)}

    def metadata(self) -> dict[str, Any]:
        return {"learned": {"lr": float(self.rate.detach())}}


class OneOfMany(Pixels):
    """Shows the objective one image per class and step."""

    def batch_index(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        return classes * self.ipc + torch.randint(self.ipc, (len(classes),), generator=generator)


def test_signal_refuses_settings_before_it_reads_data() -> None:
    with pytest.raises(ConfigError, match="init=noise"):
        Distiller("dm", 2, signal=Guarded(), **SMALL).fit(toy_data())


def test_signal_is_named_in_the_configuration_and_signs_the_artifact() -> None:
    distilled = Distiller("dm", 2, signal=Guarded(), init="noise", **SMALL).fit(toy_data())
    assert distilled.metadata["signal"] == {"mechanism": "guarded"}
    assert distilled.metadata["config"]["signal"] == {"name": "Guarded"}


def test_run_with_a_signal_of_ones_own_is_not_resumed_with_the_real_one(tmp_path: Any) -> None:
    data, out = toy_data(), tmp_path / "run"
    Distiller("dm", 2, signal=Guarded(), init="noise", **SMALL).fit(data, out=out)
    with pytest.raises(ConfigError, match="signal"):
        Distiller("dm", 2, init="noise", **SMALL).fit(data, out=out, resume=True)


def test_coreset_refuses_pieces_that_it_would_ignore() -> None:
    with pytest.raises(ConfigError, match="would ignore signal"):
        Distiller("random", 2, signal=Guarded()).fit(toy_data())


def test_unknown_signal_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'real'"):
        Distiller("dm", 2, signal="rea", **SMALL).fit(toy_data())


def test_what_an_objective_learns_is_updated_and_travels_with_the_artifact() -> None:
    objective = Scaled()
    groups = {"rate": {"lr": 0.25, "momentum": 0.0}}
    distilled = Distiller("dm", 2, objective=objective, optimiser={"groups": groups}, **SMALL).fit(toy_data())
    assert objective.steps_seen == 3
    assert distilled.metadata["learned"]["lr"] == pytest.approx(0.2)
    assert distilled.metadata["recipe"]["lr"] == 0.2


@pytest.mark.parametrize("method", ["dm", "dc"])
def test_objectives_look_only_at_the_images_that_the_synthesizer_shows(method: str) -> None:
    synthesizer = OneOfMany(3, 4, (1, 8, 8))
    data = toy_data(counts=(8, 8, 8))
    options = {**SMALL, "steps": 1, "init": "noise", "objective": {"real_batch": 4}}
    Distiller(method, 4, synthesizer=synthesizer, **options).fit(data)
    touched = synthesizer.images.grad.flatten(1).abs().sum(1).view(3, 4) > 0
    assert touched.sum(1).tolist() == [1, 1, 1]


def test_augmentation_constants_reach_matching_and_evaluation() -> None:
    recipe = {"name": "dc", "augmentation": "rotate", "augmentation_options": {"rotate_degrees": 30.0}}
    options = {**SMALL, "augmentation": "crop", "augmentation_options": {"crop_ratio": 0.25}}
    distilled = Distiller("dm", 2, recipe=recipe, **options).fit(toy_data())
    assert distilled.metadata["recipe"]["augmentation_options"] == {"rotate_degrees": 30.0}
    with pytest.raises(ConfigError, match="crop_ratio"):
        Distiller("dm", 2, **{**options, "augmentation_options": {"crop_rati": 0.25}}).fit(toy_data())


@pytest.mark.parametrize(
    ("objective", "loss"),
    [
        ({"name": "meta", "order": "random", "inner_steps": 2}, "ce"),
        ({"name": "gradient"}, "ce"),
        ({"name": "kernel"}, "mse"),
    ],
    ids=["meta", "gradient", "kernel"],
)
def test_free_rows_are_trained_on_in_the_loss_in_which_they_were_learned(objective: dict[str, Any], loss: str) -> None:
    options = {**SMALL, "objective": objective, "synthesis": {"name": "pixels", "labels": "free"}}
    card = Distiller("dm", 1, **options).fit(toy_data()).metadata
    assert card["recipe"]["loss"] == loss and "loss" not in card.get("learned", {})
    stated = Distiller("dm", 1, **options, recipe={"loss": "mse"}).fit(toy_data()).metadata
    assert stated["recipe"]["loss"] == "mse"
    assert Distiller("dm", 1, **SMALL).fit(toy_data()).metadata["recipe"]["loss"] == "auto"


def test_the_engine_loads_no_evaluation_and_no_library_that_only_some_runs_need() -> None:
    code = "import sys, torch; before = set(sys.modules); import ddkit.engine; print(*set(sys.modules) - before)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    later = ("ddkit.evaluation", "ddkit.testing", "scipy", "sklearn", "matplotlib", "pyarrow", "torchvision")
    assert "ddkit.training.train" in loaded and [name for name in loaded if name.startswith(later)] == []


class Silent(DistributionMatching):
    """Leaves gradients and does not say its loss."""

    def backward(self, synthesizer: Any) -> dict[str, float]:
        return {"distance": super().backward(synthesizer)["loss"]}


class Idle(DistributionMatching):
    """Says a loss and leaves no gradient."""

    def backward(self, synthesizer: Any) -> dict[str, float]:
        return {"loss": 1.0}


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        (Silent(real_batch=5), r"objective Silent returned no 'loss' but \['distance'\]"),
        (Idle(real_batch=5), r"objective Idle left no gradient on what is learned \(images\)"),
    ],
)
def test_objective_without_a_loss_or_a_gradient_is_refused_at_its_first_step(
    objective: DistributionMatching, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=reason):
        Distiller("dm", 2, objective=objective, **SMALL).fit(toy_data(), out=tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_pieces_are_introduced_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def noted(owner: type, name: str, label: str) -> None:
        original = getattr(owner, name)

        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            order.append(label)
            return original(self, *arguments, **options)

        monkeypatch.setattr(owner, name, call)

    noted(RealSignal, "check", "signal.check")
    noted(Pixels, "check", "synthesis.check")
    noted(RealSignal, "setup", "signal.setup")
    noted(FreshNetworks, "setup", "networks.setup")
    noted(RealSignal, "connect", "signal.connect")
    noted(DistributionMatching, "setup", "objective.setup")
    config = Distiller("dm", 2, **SMALL).configure(toy_data())
    Session(config, toy_data())
    assert order == [
        "signal.check",
        "synthesis.check",
        "signal.setup",
        "networks.setup",
        "signal.connect",
        "objective.setup",
    ]
