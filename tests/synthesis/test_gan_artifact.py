"""What an artifact of GAN codes holds, what it costs, and how an interrupted run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ddkit import Distiller, synthesis
from ddkit.data import Preprocessing
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import ArtifactError
from ddkit.testing import toy_data
from tests.engine.runs import Kill

from .gan_runs import TINY, Linear, artifact, fit, started


@pytest.mark.parametrize(("labels", "numbers", "size"), [("hard", 1, 8), ("learned", 3, 12)])
def test_budget_counts_codes_generator_and_labels(labels: str, numbers: int, size: int) -> None:
    result = started("prior", labels=labels)
    weights = sum(p.numel() for p in result.generator.parameters())
    weights += sum(b.numel() for b in result.generator.buffers())
    floats = 6 * 3 + weights
    assert result.budget().as_dict() == {
        "images": 6,
        "decoded_images": 6,
        "floats": floats + 6 * numbers,
        "bytes": 4 * floats + 6 * size,
    }
    stored = artifact(result).stored
    assert sum(t.numel() for t in stored.values()) == floats + 6 * numbers
    assert artifact(result).metadata["gan"] == {"codes_floats": 18, "generator_floats": weights}


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 12), (1, 9, 7)])
def test_file_decodes_to_the_images_that_were_materialised(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    data = toy_data(shape=shape)
    made = artifact(started(data=data), data)
    loaded = DistilledDataset.load(made.save(tmp_path / "codes.safetensors"))
    assert made.synthesis == loaded.synthesis == "gan"
    assert torch.equal(made.images, loaded.images) and torch.equal(made.labels, loaded.labels)
    assert loaded.metadata == made.metadata and set(loaded.stored) >= {"codes", "labels", "generator.linear.weight"}


def test_module_of_ones_own_is_copied_and_stored_as_plain_pixels(tmp_path: Path) -> None:
    own = Linear()
    result = started(generator=own)
    with torch.no_grad():
        own.linear.weight.zero_()
    assert float(result.generator.linear.weight.abs().sum()) > 0
    made = artifact(result)
    assert made.synthesis == "pixels" and torch.equal(made.images, result()[0].detach())
    assert made.budget == result.budget()
    assert made.budget.floats == 6 * 64 + 6 and made.budget.bytes == 4 * 6 * 64 + 8 * 6
    loaded = DistilledDataset.load(made.save(tmp_path / "pixels.safetensors"))
    assert torch.equal(loaded.images, made.images)


def test_whitened_data_are_drawn_whitened_and_stored_as_plain_pixels(tmp_path: Path) -> None:
    plain = toy_data()
    data = plain.with_preprocessing(Preprocessing.fit(plain.images, zca=True))
    result = started(data=data)
    drawn = result.generator(result.codes, result.classes)
    torch.testing.assert_close(result()[0], data.preprocessing.apply(drawn * 0.5 + 0.5))
    made = artifact(result, data)
    loaded = DistilledDataset.load(made.save(tmp_path / "zca.safetensors"))
    assert made.synthesis == "pixels" and torch.equal(loaded.images, made.images)
    assert made.budget.floats == 6 * 64 + 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": None}, "codes are not"),
        ({"codes": torch.zeros(6, 2)}, "codes are not"),
        ({"codes": torch.zeros(5, 3)}, "as many for each"),
        ({"labels": None}, "as many for each"),
        ({"generator.linear.weight": None}, "do not fit its options"),
        ({"scale": [1.0, 1.0]}, "scale and shift"),
        ({"shift": []}, "scale and shift"),
        ({"width": "wide"}, "options of a generator are wrong"),
    ],
)
def test_stored_parts_that_contradict_each_other_are_refused(change: dict[str, Any], message: str) -> None:
    result = started("prior")
    stored, options = dict(result.stored()), dict(result.options())
    for name, value in change.items():
        part = options if name in options else stored
        part.pop(name)
        if value is not None:
            part[name] = value
    with pytest.raises(ArtifactError, match=message):
        synthesis.decode("gan", stored, options)


@pytest.mark.parametrize("killed_at", [1, 3])
@pytest.mark.parametrize("options", [{}, {"batch_codes": 1, "labels": "soft"}])
def test_resumed_run_equals_uninterrupted_run(tmp_path: Path, killed_at: int, options: dict[str, Any]) -> None:
    data, settings = toy_data(), {"steps": 4, "synthesis": {**TINY, **options}, "checkpoint_every": 2}
    whole = fit(data, **settings)
    with pytest.raises(KeyboardInterrupt):
        fit(data, out=tmp_path / "run", callbacks=[Kill(killed_at)], **settings)
    resumed = fit(data, out=tmp_path / "run", resume=True, **settings)
    assert resumed.to_bytes() == whole.to_bytes()
    assert "inversion" in resumed.metadata["gan"]


def test_resumed_run_on_whitened_data_equals_uninterrupted_run(tmp_path: Path) -> None:
    plain = toy_data()
    data = plain.with_preprocessing(Preprocessing.fit(plain.images, zca=True))
    settings = {"steps": 3, "checkpoint_every": 1}
    with pytest.raises(KeyboardInterrupt):
        fit(data, out=tmp_path / "run", callbacks=[Kill(2)], **settings)
    resumed = fit(data, out=tmp_path / "run", resume=True, **settings)
    assert resumed.to_bytes() == fit(data, **settings).to_bytes()


@pytest.mark.parametrize("method", ["dc", "dm"])
def test_codes_work_with_methods_of_other_syntheses(method: str) -> None:
    options = {"steps": 2, "model": "convnet:width=4,depth=2", "synthesis": {"name": "gan", **TINY}}
    made = Distiller(method, 2, augmentation="none", objective={"real_batch": 5}, **options).fit(toy_data())
    start = Distiller(method, 2, **{**options, "steps": 0}).fit(toy_data())
    assert made.metadata["config"]["init"] == "inverted" and made.metadata["config"]["optimiser"]["name"] == "adam"
    assert not torch.equal(made.stored["codes"], start.stored["codes"])
