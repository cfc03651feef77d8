"""Optimising through a codec, within a number of bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ddkit import Distiller
from ddkit.base.config import DistillConfig, merge
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.engine import RunFolder, coding
from ddkit.engine.session import Session
from ddkit.errors import ConfigError
from ddkit.methods import get
from ddkit.testing import toy_data
from ddkit.testing.small import fit_small
from tests.engine.runs import SMALL, Kill

UNIFORM: dict[str, Any] = {**SMALL, "codec": "uniform:bits=2"}


def session(**overrides: Any) -> Session:
    config = get("dm").configure(toy_data(), 2, 0, merge(UNIFORM, overrides))
    made = Session(config, toy_data())
    made.start()
    return made


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coding, "REFIT", 3)
    monkeypatch.setattr(coding, "FROZEN", 3)


def test_the_objective_sees_what_the_file_decodes_to_and_its_gradient_moves_the_values_before_coding() -> None:
    made = session()
    assert made.coding is not None
    before = made.synthesizer.images.detach().clone()
    seen: list[Tensor] = []
    backward = made.objective.backward

    def looking(synthesizer: Any) -> dict[str, float]:
        seen.append(synthesizer.images.detach().clone())
        return backward(synthesizer)

    made.objective.backward = looking  # type: ignore[method-assign]
    made.step(1)
    (decoded,) = seen
    assert torch.equal(decoded, made.coding.grids["images"].rounded(before))
    assert not torch.equal(decoded, before)
    gradient = made.synthesizer.images.grad

    reference = session(codec=None)
    with torch.no_grad():
        reference.synthesizer.images.copy_(decoded)
    reference.step(1)
    assert torch.equal(gradient, reference.synthesizer.images.grad)
    expected = made.coding.grids["images"].clipped(before - 0.5 * gradient)
    assert torch.allclose(made.synthesizer.images.detach(), expected, atol=1e-6)


def test_values_return_when_the_objective_fails() -> None:
    made = session()
    before = made.synthesizer.images.detach().clone()

    def failing(synthesizer: Any) -> dict[str, float]:
        raise RuntimeError("on purpose")

    made.objective.backward = failing  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="on purpose"):
        made.step(1)
    assert torch.equal(made.synthesizer.images.detach(), before)


@pytest.mark.parametrize("codec", ["uniform:bits=1", "uniform:bits=3,resolution=2", "dct:step=1.0", "float16"])
@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_coded_run_returns_what_its_file_decodes_to(codec: str, ema: float | None, tmp_path: Path) -> None:
    made = Distiller("dm", 2, **{**UNIFORM, "codec": codec, "ema": ema}).fit(toy_data(), out=tmp_path / "run")
    assert made.coding is not None and made.coding.codec.partition(":")[0] == codec.partition(":")[0]
    loaded = DistilledDataset.load(tmp_path / "run")
    assert torch.equal(loaded.images, made.images) and loaded.coding is not None
    assert loaded.budget.payload == made.budget.payload < 4 * made.images.numel()


@pytest.mark.parametrize("method", ["dc", "idc", "kfs", "rtp", "kip"])
def test_every_synthesis_can_be_coded(method: str) -> None:
    distilled = fit_small(method, {"codec": "uniform:bits=4"})
    assert distilled.coding is not None and distilled.budget.payload == distilled.coding.nbytes


def test_a_killed_coded_run_goes_on_to_the_same_bytes(often: None, tmp_path: Path) -> None:
    options: dict[str, Any] = {**UNIFORM, "steps": 12, "ema": 0.8, "bytes": 140, "optimiser": {"lr": 20.0}}
    whole = Distiller(DistillConfig.create(get("dm").configure(toy_data(), 2, 0, options).as_dict())).fit(toy_data())
    for step in (4, 7, 11):
        out = tmp_path / str(step)
        config = get("dm").configure(toy_data(), 2, 0, options)
        with pytest.raises(KeyboardInterrupt):
            Distiller(config, callbacks=[Kill(step)], checkpoint_every=1).fit(toy_data(), out=out)
        assert RunFolder(out).checkpoint.is_file()
        resumed = Distiller(config, checkpoint_every=1).fit(toy_data(), out=out, resume=True)
        assert resumed.to_bytes() == whole.to_bytes()


def test_ranges_are_fitted_anew_and_stay_at_the_end(often: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made = session(steps=9)
    assert made.coding is not None
    fitted: list[int] = []
    fit = made.coding.fit
    monkeypatch.setattr(made.coding, "fit", lambda values: (fitted.append(1), fit(values))[1])
    counts = []
    for number in range(1, 10):
        made.step(number)
        counts.append(len(fitted))
    assert counts == [0, 0, 1, 1, 1, 2, 2, 2, 2]


def test_a_result_fits_the_bytes_that_matching_would_exceed(often: None) -> None:
    options: dict[str, Any] = {"codec": "dct:step=0.3", "optimiser": {"lr": 5.0}, "steps": 9}
    free = session(**options)
    assert free.coding is not None
    start = free.coding.payload() + 6
    limited = session(**options, bytes=start)
    for number in range(1, 10):
        free.step(number)
        limited.step(number)
    assert free.materialise({}).budget.payload > start
    held = limited.synthesizer.images.detach().clone()
    fitting = limited.materialise({})
    assert fitting.budget.payload <= start
    assert torch.equal(limited.synthesizer.images.detach(), held)
    assert not torch.equal(fitting.images, session(**options, bytes=start).materialise({}).images)


def test_without_steps_the_result_is_the_coded_start() -> None:
    made = session(steps=0).materialise({})
    plain = session(steps=0, codec=None).materialise({})
    assert torch.equal(made.images, plain.coded("uniform:bits=2").images)


def test_codec_float32_changes_no_number_of_a_run() -> None:
    coded = Distiller("dm", 2, **{**SMALL, "codec": "float32"}).fit(toy_data())
    assert torch.equal(coded.images, Distiller("dm", 2, **SMALL).fit(toy_data()).images)


def test_configurations_without_a_codec_are_written_as_before() -> None:
    plain = get("dm").configure(toy_data(), 2, 0, SMALL).as_dict()
    assert "codec" not in plain and "bytes" not in plain
    coded = get("dm").configure(toy_data(), 2, 0, {**UNIFORM, "bytes": 500}).as_dict()
    assert coded["codec"] == {"name": "uniform", "bits": 2} and coded["bytes"] == 500
    assert DistillConfig.create(coded).as_dict() == coded


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"codec": "uniform:bits=9"}, "bits"),
        ({"codec": "unifrom"}, "uniform"),
        ({"bytes": 10}, "the start takes"),
        ({"bytes": 0}, "bytes"),
        ({"codec": None, "bytes": 100}, "codec"),
    ],
)
def test_mistakes_are_refused_before_the_first_step(overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        session(**overrides)
