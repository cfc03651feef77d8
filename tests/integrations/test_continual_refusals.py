"""Is bad input refused in one line, before anything is computed?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("avalanche")

from ddkit.base.sizes import parse_bytes
from ddkit.data import Preprocessing
from ddkit.errors import ConfigError, DataError, UnknownNameError
from ddkit.integrations.continual import CoresetReplayBuffer, StreamAccuracies
from ddkit.integrations.continual.size import Size
from tests.integrations.continual_streams import Experience, fed, strategy, tiny, toy_stream

ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "no size": ({"max_size": None}, "max_size images or max_bytes"),
    "two sizes": ({"max_bytes": 100}, "max_size images or max_bytes"),
    "too small": ({"max_size": 3}, "max_size=3 does not hold one image for each of 4 classes: .*max_size=4"),
    "no classes": ({"num_classes": 0}, "num_classes=0"),
    "bytes": ({"max_size": None, "max_bytes": "64 parsecs"}, "'64 parsecs' is no number of bytes"),
    "no bytes": ({"max_size": None, "max_bytes": 0}, "less than one byte"),
    "soft labels": ({"num_classes": None, "soft_labels": True}, "needs num_classes"),
    "free rows": ({"soft_labels": True, "synthesis": {"labels": "free"}}, "no probabilities"),
    "method": ({"method": "dmm"}, "did you mean 'dm'"),
    "option": ({"stepz": 3}, "did you mean 'steps'"),
    "value": ({"steps": -1}, "steps"),
    "network source": ({"networks": "frech"}, "did you mean 'fresh'"),
    "objective": ({"objective": "distributions"}, "did you mean 'distribution'"),
    "shrink": ({"shrink": "cut"}, "herding, redistil"),
    "time": ({"time_limit": 0}, "seconds above 0"),
    "window": ({"window": 0}, "window=0"),
    "seed": ({"ipc": 3}, "unknown option 'ipc'"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_are_checked_at_once(case: str) -> None:
    options, words = ARGUMENTS[case]
    with pytest.raises(ConfigError, match=words) as caught:
        tiny(**{"max_size": 8, **options})
    assert "\n" not in str(caught.value)


def test_an_argument_of_avalanche_s_plugins_is_named() -> None:
    for make in (tiny, CoresetReplayBuffer):
        with pytest.raises(UnknownNameError, match="unknown option 'mem_size': did you mean 'max_size'"):
            make(mem_size=8)


def test_an_unknown_selection_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'herding'"):
        CoresetReplayBuffer(8, num_classes=4, selection="herdin")  # type: ignore[arg-type]


def of(items: list[Any]) -> Experience:
    class Items:
        def eval(self) -> Any:
            return items

    return Experience(Items())


IMAGE = torch.rand(1, 4, 4)
ITEMS: dict[str, tuple[list[Any], str]] = {
    "no pair": ([3], "item 0 is a int"),
    "bytes": ([(torch.zeros(1, 4, 4, dtype=torch.uint8), 1)], "torch.uint8 .*ToTensor"),
    "no tensor": ([("picture", 1)], "item 0 has a str image"),
    "no channel": ([(torch.zeros(4, 4), 1)], r"\(4, 4\) image.* or vectors \(D,\)"),
    "nothing": ([(torch.zeros(0), 1)], r"\(0,\) image"),
    "image after vector": ([(torch.rand(16), 1), (IMAGE, 1)], r"shape \(1, 4, 4\), the memory holds \(16,\)"),
    "multi-label": ([(IMAGE, torch.tensor([0, 1, 1]))], "no multi-label"),
    "regression": ([(IMAGE, 0.5)], "target 0.5"),
    "detection": ([(IMAGE, {"boxes": []})], "no multi-label, regression or detection"),
    "truth value": ([(IMAGE, True)], "one class number"),
    "not finite": ([(IMAGE * torch.nan, 1)], "not finite"),
    "shapes": ([(IMAGE, 1), (torch.rand(1, 5, 5), 1)], r"shape \(1, 5, 5\), the memory holds \(1, 4, 4\)"),
    "class": ([(IMAGE, 1), (IMAGE, 4)], "class 4 is out of range: .*num_classes=4"),
    "negative": ([(IMAGE, -1)], "class -1 is out of range"),
}


@pytest.mark.parametrize("case", ITEMS)
def test_items_that_cannot_be_kept_are_refused(case: str) -> None:
    items, words = ITEMS[case]
    buffer = tiny()
    with pytest.raises(DataError, match=words) as caught:
        buffer.post_adapt(strategy([]), of(items))
    assert "\n" not in str(caught.value) and buffer.facts() == {}
    fed(buffer, toy_stream(side=6))  # nor do they decide about the shape of what comes later


def test_another_shape_in_a_later_experience_names_both_and_keeps_the_memory() -> None:
    buffer = fed(tiny())
    with pytest.raises(DataError, match=r"shape \(3, 4, 4\), the memory holds \(1, 4, 4\)"):
        buffer.post_adapt(strategy([]), of([(torch.rand(3, 4, 4), 0)]))
    assert len(buffer.buffer) == 8


def test_preprocessing_of_other_images_is_refused() -> None:
    with pytest.raises(DataError, match="does not fit images of shape"):
        fed(tiny(pixels=Preprocessing.identity(3)))


def test_an_empty_memory_is_no_dataset() -> None:
    with pytest.raises(ConfigError, match="the memory is empty"):
        tiny().distilled()
    assert len(tiny().buffer) == 0 and tiny().budget().bytes == 0


def test_bytes_that_hold_no_image_of_each_class_name_what_does() -> None:
    with pytest.raises(ConfigError, match="4 classes, of 16 bytes each: give at least 64 bytes"):
        fed(tiny(None, max_bytes=63))
    assert len(fed(tiny(None, max_bytes=64)).buffer) == 4


def test_bytes_are_filled_but_not_exceeded() -> None:
    for size in (64, 127, 128, "0.2KiB"):
        buffer = fed(CoresetReplayBuffer(max_bytes=size, num_classes=4))
        each = parse_bytes(size) // 4 // 16
        assert buffer.budget().images == 4 * each == buffer.max_size
        assert buffer.budget().bytes <= parse_bytes(size)


def test_of_more_classes_than_places_some_are_left_out_and_stay_out() -> None:
    kept = set()
    for seed in range(6):
        buffer = tiny(3, num_classes=None, seed=seed)
        with pytest.warns(UserWarning, match="has places for 3 of 4 classes, class . is left out: give it the size"):
            fed(buffer)
        assert len(buffer.buffer) == 3 and len(buffer.facts()) == 3
        kept.add(tuple(buffer.facts()))
        fed(buffer)
        assert tuple(buffer.facts()) in kept and len(buffer.buffer) == 3
    assert len(kept) > 1


def test_bytes_for_fewer_classes_than_come_leave_some_out() -> None:
    with pytest.warns(UserWarning, match="has places for 2 of 4 classes"):
        buffer = fed(CoresetReplayBuffer(max_bytes=2 * 16 + 15))
    assert buffer.budget().bytes == 2 * 16
    with pytest.raises(ConfigError, match="does not hold one image"):
        fed(CoresetReplayBuffer(max_bytes=15))


def test_a_size_can_be_checked_before_there_are_images() -> None:
    with pytest.raises(ConfigError, match="4 classes, of 16 bytes each: give at least 64 bytes"):
        tiny(None, max_bytes=63).check((1, 4, 4))
    tiny(None, max_bytes=64).check((1, 4, 4))
    with pytest.raises(ConfigError, match="of 256 bytes each: give at least 1024 bytes"):
        tiny(None, max_bytes=1023, synthesis="multi-formation").check((1, 8, 8), 2)


def test_sizes_are_read() -> None:
    assert [parse_bytes(text) for text in (5, "5", "2kB", "2KiB", "1.5 MiB")] == [5, 5, 2000, 2048, 1572864]
    assert Size(None, 1000, 2).quota(1, 2, lambda images: 100 + 30 * images) == 30
    assert Size(10, None, None).quota(4, 2, lambda images: images) == 2


def test_metrics_follow_their_definitions() -> None:
    one = StreamAccuracies([[0.9, 0.0, 0.0], [0.5, 0.8, 0.0], [0.4, 0.9, 1.0]], [10, 10, 20])
    assert one.after_each == pytest.approx([0.9, 0.65, 0.825])
    assert one.final == pytest.approx(0.825) and one.incremental == pytest.approx(0.791666667)
    assert one.forgetting == pytest.approx((0.5 - 0.1) / 2)  # the second rose by 0.1 at the end
    assert one.backward_transfer == pytest.approx((-0.5 + 0.1) / 2)
    assert StreamAccuracies([[0.7]], [3]).forgetting == 0
    with pytest.raises(ConfigError, match="3 rows of 3"):
        StreamAccuracies([[1.0, 1.0]] * 3, [1, 1, 1])


def test_processes_without_a_group_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="no process group is initialised"):
        fed(tiny())


def test_without_avalanche_the_missing_extra_is_named_in_one_line() -> None:
    code = (
        "import sys; sys.modules['avalanche'] = None\n"
        "from ddkit.errors import MissingExtraError\n"
        "try:\n import ddkit.integrations.continual\n"
        "except MissingExtraError as error:\n print(error)\n"
        "from ddkit.cli import main; main(['recipe', 'run', 'continual', '--out', 'never-made'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    line = "continual learning with Avalanche needs an optional dependency: run `pip install 'ddkit[continual]'`"
    assert done.stdout.strip() == line and " ".join(done.stderr.split()).endswith(line)
    assert done.returncode == 2


def test_the_core_does_not_import_avalanche_whose_import_reports_and_writes_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, os; os.environ.pop('WANDB_MODE', None); import ddkit, ddkit.recipes, ddkit.cli\n"
        "assert 'avalanche' not in sys.modules\n"
        "import ddkit.integrations.continual; print(os.environ['WANDB_MODE'])\n"
        "from avalanche.benchmarks.datasets import dataset_utils, downloadable_dataset\n"
        "print(dataset_utils.AVALANCHE_CONFIG_FILENAME, downloadable_dataset.default_dataset_location('mnist'))"
    )
    home = {**os.environ, "HOME": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=home)
    avalanche = tmp_path / ".avalanche"
    assert done.stdout.split() == ["disabled", str(avalanche / "config.json"), str(avalanche / "data" / "mnist")]
    assert not avalanche.exists()
