"""Is a folder of experts continued, extended, refused and verified as it should be?"""

from __future__ import annotations

import io
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ddkit.base import container
from ddkit.base.executor import Executor, InProcess, RayExecutor
from ddkit.data import RealData
from ddkit.data.preprocessing import Preprocessing
from ddkit.errors import ArtifactError, ConfigError, DivergedError, RunError
from ddkit.testing import toy_data
from ddkit.training.batches import training_set
from ddkit.training.experts import ExpertBuffer, ExpertSettings, buffer_bytes, build, build_buffer
from ddkit.training.experts.training import train_experts

MODEL = "convnet:width=4,depth=1"


def settings(**changes: Any) -> ExpertSettings:
    return ExpertSettings(**{"model": MODEL, "epochs": 3, "lr": 0.1, "batch_size": 8, **changes})


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts") / "buffer"
    build_buffer(toy_data(), folder, settings(), 3)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of a buffer, to be damaged at will."""
    return Path(shutil.copytree(made, tmp_path / "buffer"))


def expert(folder: Path, number: int) -> Path:
    return folder / f"expert-{number:04d}.safetensors"


def rewrite(path: Path, change: Any) -> None:
    """Write an expert's file anew with changed tensors or document, its checksum in order."""
    with path.open("rb") as stream:
        content, tensors = container.unpack(stream, path.stat().st_size, kind="ddkit.expert", version=1)
    change(content, tensors)
    path.write_bytes(container.pack(tensors, content, kind="ddkit.expert", version=1))


def test_stored_weights_are_those_of_the_training(made: Path) -> None:
    buffer, data = ExpertBuffer(made), toy_data()
    given = training_set(data, None, settings().recipe(), data.num_classes, torch.device("cpu"))
    for number in range(3):
        (way,) = train_experts(given, settings(), [number])
        for epoch, expected in enumerate(way.weights):
            row = buffer.weights(number, epoch)
            assert row.dtype == torch.float32
            torch.testing.assert_close(row, expected, rtol=0, atol=1e-6)
        assert torch.equal(buffer.weights(number, 0), way.weights[0])
        assert list(buffer.records[number].loss) == way.loss
        assert buffer.records[number].flatness == way.flatness


def test_rows_are_copies_that_may_be_written_to(made: Path) -> None:
    buffer = ExpertBuffer(made)
    for epoch in (0, 1):
        before = buffer.weights(0, epoch)
        buffer.weights(0, epoch).zero_()
        assert torch.equal(buffer.weights(0, epoch), before)


def test_half_precision_halves_the_size_and_errs_by_less_than_a_percent_of_a_segment(tmp_path: Path) -> None:
    full = build_buffer(toy_data(), tmp_path / "full", settings(epochs=8), 1)
    half = build_buffer(toy_data(), tmp_path / "half", settings(epochs=8, dtype="float16"), 1)
    assert torch.equal(half.weights(0, 0), full.weights(0, 0))
    for epoch in range(1, 9):
        error = (half.weights(0, epoch) - full.weights(0, epoch)).norm()
        segment = (full.weights(0, epoch) - full.weights(0, max(0, epoch - 2))).norm()
        assert 0 < float(error) < 0.01 * float(segment)
    assert half.bytes < 0.65 * full.bytes


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_size_is_known_in_advance(tmp_path: Path, dtype: str) -> None:
    how = settings(epochs=20, model="convnet:width=32,depth=1", dtype=dtype)
    expected = buffer_bytes(how, (1, 8, 8), 3, 2)
    assert build_buffer(toy_data(), tmp_path, how, 2).bytes == pytest.approx(expected, rel=0.1)


def test_difference_too_large_for_half_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"float16 can hold.*store float32"):
        build_buffer(toy_data(), tmp_path, settings(lr=1e9, epochs=1, batch_size=64, dtype="float16"), 1)


def test_extended_buffer_equals_one_trained_at_once(made: Path, tmp_path: Path) -> None:
    small = build_buffer(toy_data(), tmp_path, settings(), 1)
    assert small.count == 1
    assert small.digest() == ExpertBuffer(made).digest(1) != ExpertBuffer(made).digest()
    kept = expert(tmp_path, 0).stat().st_mtime_ns
    assert build_buffer(toy_data(), tmp_path, settings(), 3).digest() == ExpertBuffer(made).digest()
    assert expert(tmp_path, 0).stat().st_mtime_ns == kept


def test_training_goes_on_after_a_kill_and_finished_experts_are_kept(made: Path, tmp_path: Path) -> None:
    def kill(what: str, done: int, total: int) -> None:
        if done == 4:  # the first epoch of the second expert
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_buffer(toy_data(), tmp_path, settings(), 3, progress=kill)
    assert expert(tmp_path, 0).exists() and not expert(tmp_path, 1).exists()
    (tmp_path / ".expert-0001.safetensors.abc.tmp").write_bytes(b"half a file")
    assert build_buffer(toy_data(), tmp_path, settings(), 3).digest() == ExpertBuffer(made).digest()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in made.iterdir())


def test_progress_counts_the_epochs_of_missing_experts(made: Path, folder: Path) -> None:
    expert(folder, 1).unlink()
    seen: list[tuple[str, int, int]] = []
    build_buffer(toy_data(), folder, settings(), 3, progress=lambda *step: seen.append(step))
    assert seen == [("training experts", done, 3) for done in range(4)]
    seen.clear()
    build_buffer(toy_data(), folder, settings(), 2, progress=lambda *step: seen.append(step))
    assert seen == []
    assert ExpertBuffer(folder).count == 3


def test_executor_trains_the_same_experts(made: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    buffer = build_buffer(
        toy_data(),
        tmp_path,
        settings(),
        3,
        executor=InProcess(),
        progress=lambda what, done, total: seen.append(done),
    )
    assert buffer.digest() == ExpertBuffer(made).digest()
    assert (seen[0], seen[-1]) == (0, 3)


def test_ray_trains_the_same_experts(made: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with RayExecutor() as workers:
        buffer = build_buffer(toy_data(), tmp_path, settings(), 2, executor=workers)
        for number in range(2):
            torch.testing.assert_close(buffer.weights(number, 3), ExpertBuffer(made).weights(number, 3))
        with pytest.raises(DivergedError, match="lower lr"):
            build_buffer(toy_data(), tmp_path / "other", settings(lr=1e30), 1, executor=workers)


def test_workers_that_write_elsewhere_are_found_out(tmp_path: Path) -> None:
    class Elsewhere(Executor):
        def map(self, fn: Any, items: Any) -> list[Any]:
            return [None for _ in items]

    with pytest.raises(RunError, match="a folder that all machines share"):
        build_buffer(toy_data(), tmp_path, settings(), 1, executor=Elsewhere())


def test_stacked_experts_agree_to_rounding(made: Path, tmp_path: Path) -> None:
    buffer = build_buffer(toy_data(), tmp_path, settings(), 3, stacked=True)
    for number in range(3):
        torch.testing.assert_close(buffer.weights(number, 3), ExpertBuffer(made).weights(number, 3), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rho": 0.5}, r"made with rho=0\.0, not 0\.5"),
        ({"alpha": 0.3}, r"alpha=0\.0, not 0\.3"),
        ({"adaptive": False}, "adaptive=True, not False"),
        ({"lr": 0.2}, r"lr=0\.1, not 0\.2"),
        ({"epochs": 4, "seed": 1}, "epochs=3, not 4; seed=0, not 1"),
        ({"dtype": "float16"}, "dtype=float32, not float16"),
        ({"model": "mlp"}, r"model=convnet\(depth=1,width=4\), not mlp"),
    ],
)
def test_folder_of_other_settings_is_refused_and_stays_as_it_was(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match=message):
        build_buffer(toy_data(), folder, settings(**changes), 4)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def other_preprocessing() -> RealData:
    return toy_data().with_preprocessing(Preprocessing((0.1,), (0.9,)))


def whitened() -> RealData:
    data = toy_data()
    return data.with_preprocessing(Preprocessing.fit(data.images, zca=True))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (toy_data(seed=5), "34 images of 'toy'.*images or labels differ"),
        (toy_data(shape=(3, 8, 8)), r"image shape \(1, 8, 8\), this run has \(3, 8, 8\)"),
        (toy_data(counts=(9, 14)), "number of classes 3, this run has 2"),
        (other_preprocessing(), r"mean .*no zca, this run has mean 0\.1000, std 0\.9000, no zca"),
        (whitened(), "no zca, this run has .* zca"),
    ],
)
def test_folder_of_other_data_is_refused(folder: Path, data: RealData, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_buffer(data, folder, settings(), 4)
    assert not expert(folder, 3).exists()


def test_rounding_of_the_whitening_does_not_matter_but_its_strength_does(tmp_path: Path) -> None:
    data = whitened()
    build_buffer(data, tmp_path, settings(epochs=1), 1)
    fitted = data.preprocessing
    noise = 1 + 1e-6 * torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    matrix, inverse = fitted.zca_matrix, fitted.zca_inverse
    assert matrix is not None
    near = Preprocessing(fitted.mean, fitted.std, fitted.zca_mean, matrix * noise, inverse)
    ExpertBuffer(tmp_path).identity.require_data(data.with_preprocessing(near))
    weaker = Preprocessing.fit(data.images, zca=True, regularisation=0.5)
    with pytest.raises(ConfigError, match="set zca to that of the experts"):
        ExpertBuffer(tmp_path).identity.require_data(data.with_preprocessing(weaker))


def test_too_little_room_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "free_bytes", lambda folder: 10_000)
    with pytest.raises(ConfigError, match=r"take .* MB, .* has 0 MB left"):
        build_buffer(toy_data(), tmp_path / "new", settings(), 3)
    assert not (tmp_path / "new").exists()


def test_impossible_requests_are_refused(tmp_path: Path) -> None:
    new = tmp_path / "new"
    with pytest.raises(ConfigError, match="0 experts"):
        build_buffer(toy_data(), new, settings(), 0)
    with pytest.raises(ConfigError, match="uses batch norm"):
        build_buffer(toy_data(), new, settings(model="convnet:width=4,depth=1,norm=batch"), 1)
    with pytest.raises(ConfigError, match="exclude each other"):
        build_buffer(toy_data(), new, settings(), 2, stacked=True, compile=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        build_buffer(toy_data(), tmp_path / "file", settings(), 1)
    assert not new.exists()


def test_opening_reads_no_weights_and_verifying_finds_a_changed_one(folder: Path) -> None:
    raw = bytearray(expert(folder, 1).read_bytes())
    raw[-5] ^= 1
    expert(folder, 1).write_bytes(raw)
    buffer = ExpertBuffer(folder)
    with pytest.raises(ArtifactError, match=r"expert-0001.*checksum does not match"):
        buffer.verify()


def test_intact_buffer_is_verified(made: Path) -> None:
    seen: list[int] = []
    ExpertBuffer(made).verify(lambda what, done, total: seen.append(done))
    assert seen == [0, 1, 2, 3]


def test_truncated_expert_is_refused_when_opened(folder: Path) -> None:
    expert(folder, 2).write_bytes(expert(folder, 2).read_bytes()[:-8])
    with pytest.raises(ArtifactError, match="expert-0002"):
        ExpertBuffer(folder)


def test_missing_expert_is_named_and_trained_again(made: Path, folder: Path) -> None:
    expert(folder, 1).unlink()
    with pytest.raises(ArtifactError, match=r"2 experts but expert 1 is missing"):
        ExpertBuffer(folder)
    assert build_buffer(toy_data(), folder, settings(), 3).digest() == ExpertBuffer(made).digest()


def test_expert_of_another_buffer_or_number_is_refused(folder: Path, tmp_path: Path) -> None:
    build_buffer(toy_data(), tmp_path / "flat", settings(rho=0.5), 1)
    original = expert(folder, 0).read_bytes()
    for source in (expert(tmp_path / "flat", 0), expert(folder, 1)):
        expert(folder, 0).write_bytes(source.read_bytes())
        with pytest.raises(ArtifactError, match="belongs to another buffer or is another expert"):
            ExpertBuffer(folder)
        expert(folder, 0).write_bytes(original)
    assert ExpertBuffer(folder).count == 3


def test_wrong_shapes_are_refused(folder: Path) -> None:
    rewrite(expert(folder, 0), lambda content, tensors: tensors.update(deltas=tensors["deltas"][:2].clone()))
    with pytest.raises(ArtifactError, match="remove it and run"):
        ExpertBuffer(folder)


def test_changed_weights_are_refused_when_they_are_first_read_and_other_experts_are_not(folder: Path) -> None:
    raw = bytearray(expert(folder, 1).read_bytes())
    raw[-5] ^= 1
    expert(folder, 1).write_bytes(raw)
    buffer = ExpertBuffer(folder)
    assert bool(buffer.weights(0, 2).isfinite().all())
    with pytest.raises(ArtifactError, match=r"expert-0001.*checksum does not match"):
        buffer.weights(1, 0)


def test_folder_in_which_no_expert_was_finished_takes_other_settings(tmp_path: Path) -> None:
    with pytest.raises(DivergedError):
        build_buffer(toy_data(), tmp_path, settings(lr=1e30), 1)
    assert build_buffer(toy_data(), tmp_path, settings(), 1).settings.lr == 0.1


def test_rows_that_do_not_exist_are_refused(made: Path) -> None:
    buffer = ExpertBuffer(made)
    with pytest.raises(ConfigError, match="has experts 0 to 2"):
        buffer.weights(3, 0)
    for epoch in (-1, 4):
        with pytest.raises(ConfigError, match=f"epoch {epoch} does not exist.*epochs 0 to 3"):
            buffer.weights(0, epoch)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "[]",
            "{",
            '{"format": "other", "format_version": 1}',
            '{"format": "ddkit.experts", "format_version": 1}',
        ),
        *("[" * 10**5, '{"format": ' + "[" * 90 + "]" * 90 + "}", "9" * 5000, "\xff"),
    ],
)
def test_damaged_description_is_refused(folder: Path, text: str) -> None:
    (folder / "buffer.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError, match=r"buffer\.json' cannot be read"):
        ExpertBuffer(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shape", [1, 8]),
        ("shape", [1, 8, 2**31]),
        ("shape", ["1", "8", "8"]),
        ("num_classes", 3.0),
        ("parameters", []),
        ("parameters", [["a", [10**30]]]),
        ("data", {"name": "toy", "fingerprint": 5}),
        ("preprocessing", {"mean": 0.5, "std": [1.0], "zca": False, "probe": []}),
        ("preprocessing", {"mean": ["x"], "std": [1.0], "zca": False, "probe": []}),
        ("settings", {"epochs": "many"}),
        ("settings", []),
    ],
)
def test_description_of_wrong_types_is_refused_in_one_line(folder: Path, key: str, value: Any) -> None:
    content = json.loads((folder / "buffer.json").read_text())
    content["experts"][key] = value
    (folder / "buffer.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"buffer\.json' cannot be read") as error:
        ExpertBuffer(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("losses", [[], [1.0], ["x"] * 4, None])
def test_expert_without_a_loss_for_every_epoch_is_refused(folder: Path, losses: Any) -> None:
    rewrite(expert(folder, 1), lambda content, _: content.update(loss=losses))
    with pytest.raises(ArtifactError, match="lacks measures of its training"):
        ExpertBuffer(folder)


def test_newer_or_absent_description_is_named(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "buffer.json").read_text())
    (folder / "buffer.json").write_text(json.dumps({**content, "format_version": 2}))
    with pytest.raises(ArtifactError, match="upgrade with"):
        ExpertBuffer(folder)
    with pytest.raises(ArtifactError, match="holds no experts"):
        ExpertBuffer(tmp_path / "nothing")
    (folder / "buffer.json").unlink()
    with pytest.raises(ConfigError, match=r"has experts but no buffer\.json"):
        build_buffer(toy_data(), folder, settings(), 3)


def test_changed_description_no_longer_fits_the_experts(folder: Path) -> None:
    content = json.loads((folder / "buffer.json").read_text())
    content["experts"]["settings"]["rho"] = 0.5
    (folder / "buffer.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="belongs to another buffer"):
        ExpertBuffer(folder)


def test_opened_buffer_survives_pickling(made: Path) -> None:
    buffer = ExpertBuffer(made)
    row = buffer.weights(2, 3)
    assert torch.equal(pickle.loads(pickle.dumps(buffer)).weights(2, 3), row)


def test_header_says_what_the_file_holds_without_reading_it() -> None:
    tensors = {"a": torch.zeros(3, 2), "b": torch.zeros(5, dtype=torch.float16)}
    raw = container.pack(tensors, {"x": 1}, kind="k", version=1)
    header = 8 + int.from_bytes(raw[:8], "little")
    content, shapes = container.read_content(io.BytesIO(raw[:header]), len(raw), kind="k", version=1)
    assert content == {"x": 1}
    assert shapes == {"a": (torch.float32, (3, 2)), "b": (torch.float16, (5,))}
    for size in (len(raw) - 1, len(raw) + 1):
        with pytest.raises(ArtifactError):
            container.read_content(io.BytesIO(raw), size, kind="k", version=1)
