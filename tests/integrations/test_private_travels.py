"""Does the guarantee of a private set go where the set goes, and stay apart from exact figures?"""

from __future__ import annotations

import json
import os
import stat
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ddkit import data, recipes
from ddkit.cli import main
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.distilled.privacy import figures_folder, release_of
from ddkit.errors import ConfigError
from ddkit.evaluation import EvaluationResult, evaluate, write_evaluation
from ddkit.evaluation.report import comparison_table, write_report
from ddkit.integrations.private import PrivateDistiller
from ddkit.training import TrainingRecipe
from tests.integrations.private_small import TINY, records

TERMS = ("1.9", "1e-05", "adding or removing one record")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "private"
    made = PrivateDistiller(2, method="dp-dm", ipc=2, accountant="rdp", **TINY["dp-dm"])
    made.fit(records(), out=folder)
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    status = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = int(stop.code or 0)
    shown = capsys.readouterr()
    return status, shown.out + shown.err


def result(release: Path) -> EvaluationResult:
    recipe = TrainingRecipe(name="quick", epochs=1)
    return evaluate(DistilledDataset.load(release), records(seed=1), ["mlp:width=4"], 1, recipe)


@pytest.mark.parametrize("format", ["parquet", "imagefolder", "npz"])
def test_every_export_holds_the_statement_and_says_so(
    format: str, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quote = DistilledDataset.load(release).metadata["privacy"]["quote"]
    out = tmp_path / "out"
    status, text = run(capsys, "export", release, "--format", format, "--out", out)
    assert status == 0 and quote in text
    assert quote in (out / "privacy.txt").read_text()
    assert json.loads((out / "privacy.json").read_text()) == json.loads((release / "privacy.json").read_text())
    assert str(len([path for path in out.rglob("*") if path.is_file()])) == text.split()[0]
    if format != "npz":
        assert len(data.load(str(out), split="train")) > 0  # the statement does not get in the way of a reader


def test_a_named_file_has_the_statement_beside_and_inside(release: Path, tmp_path: Path) -> None:
    distilled = DistilledDataset.load(release)
    quote = distilled.metadata["privacy"]["quote"]
    for format in ("npz", "parquet"):
        report = distilled.export(tmp_path / f"set.{format}", format)
        assert report.privacy == quote and report.files == 3
        assert quote in (tmp_path / "set.privacy.txt").read_text()
        (tmp_path / "set.privacy.txt").unlink()
    with np.load(tmp_path / "set.npz", allow_pickle=False) as archive:
        assert json.loads(str(archive["privacy"]))["quote"] == quote
    metadata = pq.read_schema(tmp_path / "set.parquet").metadata
    assert json.loads(metadata[b"privacy"])["quote"] == quote
    assert json.loads(metadata[b"huggingface"])["info"]["description"] == quote


def test_the_dataset_card_shows_the_terms(release: Path, tmp_path: Path) -> None:
    DistilledDataset.load(release).export(tmp_path / "hub", "parquet")
    card = (tmp_path / "hub" / "README.md").read_text()
    for term in (
        "| Epsilon | 1.9",
        "| Delta | 1e-05 |",
        "| Adjacency | add or remove one record |",
        "one record (image",
    ):
        assert term in card


def test_an_export_that_fails_leaves_no_statement_behind(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ConfigError("no")

    monkeypatch.setitem(__import__("ddkit.data.distilled.export", fromlist=["_WRITERS"])._WRITERS, "npz", broken)
    with pytest.raises(ConfigError):
        DistilledDataset.load(release).export(tmp_path / "set.npz", "npz")
    assert [path.name for path in tmp_path.iterdir()] == ["private"]


def test_report_and_comparison_show_the_terms(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_report(release)
    assert path == release / "report.html"
    page = path.read_text()
    for term in ("Epsilon", "1e-05", "add or remove one record", "one record (image and label)"):
        assert term in page
    (row,) = comparison_table([release])
    assert 1.9 < row["epsilon"] <= 2 and row["delta"] == 1e-5
    assert row["adjacency"] == "add or remove one record" and "record" in row["unit"]
    status, text = run(capsys, "compare", release)
    assert status == 0 and "delta 1e-05" in text
    assert "delta 1e-05" in write_report([release, release], tmp_path / "both.html").read_text()


def test_a_debug_seed_is_said_to_be_not_private_everywhere(tmp_path: Path) -> None:
    made = PrivateDistiller(2, method="dp-dm", accountant="rdp", debug_seed=1, **{**TINY["dp-dm"], "ipc": 1})
    distilled = made.fit(records(), out=tmp_path / "debug")
    report = distilled.export(tmp_path / "images", "imagefolder")
    assert report.privacy is not None and "NOT private" in report.privacy
    assert "NOT private" in (tmp_path / "images" / "privacy.txt").read_text()
    assert "NOT private" in write_report(tmp_path / "debug").read_text()


def test_evaluation_writes_nothing_into_the_release(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in release.rglob("*") if path.is_file()}
    beside = release.with_name("private-evaluation")
    real = records(seed=1)
    np.savez(release.parent / "records.npz", images=real.images.numpy(), labels=real.labels.numpy())
    options = ("--data", release.parent / "records.npz", "--repeats", "1", "--set", "epochs=1", "--arch", "mlp:width=4")
    status, text = run(capsys, "evaluate", release, *options, "--baseline", "random")
    assert status == 0, text
    assert (
        "not covered by the epsilon" in text
        and len([line for line in text.splitlines() if "warning: exact" in line]) == 1
    )
    assert (beside / "evaluation.json").is_file()
    status, text = run(capsys, "show", release)
    assert status == 0 and "not covered by the epsilon" in text
    page = (beside / "report.html").read_text()
    assert "keep this page apart" in page and "mlp" in page.lower()
    assert {path: path.read_bytes() for path in release.rglob("*") if path.is_file()} == before


def test_the_python_api_writes_figures_beside_a_release(release: Path) -> None:
    with pytest.warns(UserWarning, match="kept outside of it"):
        path = write_evaluation(release, [("dp-dm", result(release))])
    assert path == release.with_name("private-evaluation") / "evaluation.json"
    assert not (release / "evaluation.json").exists()
    (row,) = comparison_table([release])
    assert row["mean"] is not None
    with pytest.raises(ConfigError, match="lies in the private release"):
        write_report(release, release / "page.html")
    with pytest.raises(ConfigError, match="lies in the private release"):
        write_report(release, release)


def test_an_evaluation_that_lies_in_the_release_already_is_not_printed_into_it(release: Path, tmp_path: Path) -> None:
    write_evaluation(tmp_path / "elsewhere", [("dp-dm", result(release))])
    (tmp_path / "elsewhere" / "evaluation.json").rename(release / "evaluation.json")
    with pytest.warns(UserWarning, match="not covered by the epsilon"):
        path = write_report(release)
    assert not path.is_relative_to(release)


def test_a_release_is_known_by_its_artifact_and_so_are_folders_inside(release: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    DistilledDataset.load(release).save(bare)
    assert release_of(bare / "deep" / "er") == bare.resolve()
    assert figures_folder(bare / "deep") == bare.resolve().with_name("bare-evaluation") / "deep"
    assert release_of(tmp_path) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert figures_folder(tmp_path) == tmp_path


def test_a_recipe_does_not_write_its_figures_into_a_release(release: Path) -> None:
    with pytest.raises(ConfigError, match="lies in the private release"):
        recipes.load("quickstart").run({}, release / "quickstart", print)


def test_an_exported_folder_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        made = PrivateDistiller(2, method="dp-dm", accountant="rdp", **{**TINY["dp-dm"], "ipc": 1})
        made.fit(records(), out=tmp_path / "release").export(tmp_path / "images", "imagefolder")
    finally:
        os.umask(before)
    for path in (tmp_path / "images").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_a_release_is_coded_afterwards_with_its_statement_and_its_folder_s_rules(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in release.rglob("*") if path.is_file()}
    status, text = run(capsys, "encode", release, "--codec", "uniform:bits=3")
    assert status == 0, text
    plain, coded = DistilledDataset.load(release), DistilledDataset.load(release / "coded.safetensors")
    assert coded.metadata == plain.metadata and coded.metadata["privacy"]["quote"]
    assert (coded.budget.payload or 0) < (plain.budget.payload or 0) / 4
    assert release_of(release / "coded.safetensors") == release.resolve()
    report = coded.export(tmp_path / "set.npz", "npz")
    assert report.privacy == plain.metadata["privacy"]["quote"]
    real = records(seed=1)
    np.savez(tmp_path / "records.npz", images=real.images.numpy(), labels=real.labels.numpy())
    options = ("--data", tmp_path / "records.npz", "--repeats", "1", "--set", "epochs=1", "--arch", "mlp:width=4")
    status, text = run(capsys, "evaluate", release / "coded.safetensors", *options)
    assert status == 0, text
    after = {path: path.read_bytes() for path in release.rglob("*") if path.is_file()}
    assert after.pop(release / "coded.safetensors") and after == before


def test_a_release_that_is_coded_elsewhere_is_a_release_there(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, text = run(capsys, "encode", release, "--codec", "float16", "--out", tmp_path / "coded")
    assert status == 0, text
    assert release_of(tmp_path / "coded") == (tmp_path / "coded").resolve()
    assert DistilledDataset.load(tmp_path / "coded").metadata["privacy"]["quote"]


def test_a_codec_before_the_release_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"codec=uniform:bits=3 comes after the release, .* costs no privacy: leave it"
    ):
        PrivateDistiller(2, method="dp-dm", ipc=2, codec="uniform:bits=3", **TINY["dp-dm"])
    with pytest.raises(ConfigError, match="bytes=900 comes after the release"):
        PrivateDistiller(2, method="dp-dm", ipc=2, bytes=900, **TINY["dp-dm"])
