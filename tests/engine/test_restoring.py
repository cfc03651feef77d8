"""Is a checkpoint of another run, another version or another person refused in one line before the first step?"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from ddkit.base.checkpoint import load_checkpoint, save_checkpoint
from ddkit.errors import CheckpointError

from .runs import ADAM, LOOPS, Kill, small, toy_data

State = dict[str, Any]
METHODS: dict[str, State] = {"dm": {**ADAM, "ema": 0.5}, "dc": LOOPS}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that were stopped behind step 4, by method."""
    folders = {}
    for method, options in METHODS.items():
        folders[method] = tmp_path_factory.mktemp("runs") / method
        with suppress(KeyboardInterrupt):
            small(method, callbacks=[Kill(4)], checkpoint_every=1, **options).fit(toy_data(), out=folders[method])
    return folders


def changed(session: State, *path: Any, to: Any) -> None:
    for key in path[:-1]:
        session = session[key]
    session[path[-1]] = to(session[path[-1]]) if callable(to) else to


def moments(state: State) -> State:
    return state["session"]["optimisers"]["images"]["state"][0]


FORGED: dict[str, tuple[str, Callable[[State], None]]] = {
    "session is no mapping": ("dm", lambda s: s.update(session=torch.zeros(3))),
    "session is missing": ("dm", lambda s: s.pop("session")),
    "step is text": ("dm", lambda s: s.update(step="4")),
    "step is a fraction": ("dm", lambda s: s.update(step=4.5)),
    "step is negative": ("dm", lambda s: s.update(step=-1)),
    "step is beyond the end": ("dm", lambda s: s.update(step=10**30)),
    "seconds are text": ("dm", lambda s: s.update(seconds="1")),
    "seconds are negative": ("dm", lambda s: s.update(prepare_seconds=-1.0)),
    "stop is a number": ("dm", lambda s: s.update(stop=1)),
    "callbacks are a number": ("dm", lambda s: s.update(callbacks=5)),
    "callbacks are not pairs": ("dm", lambda s: s.update(callbacks=[["JsonlMetrics"]])),
    "other random state": ("dm", lambda s: s["session"].update(streams={"x": torch.ones(9, dtype=torch.uint8)})),
    "no optimisers": ("dm", lambda s: s["session"].update(optimisers=None)),
    "an optimiser is missing": ("dm", lambda s: s["session"].update(optimisers={})),
    "moments of another shape": ("dm", lambda s: moments(s).update(exp_avg=torch.zeros(2, 2))),
    "a moment is missing": ("dm", lambda s: moments(s).pop("exp_avg_sq")),
    "a moment is text": ("dm", lambda s: moments(s).update(exp_avg="0")),
    "another setting": ("dm", lambda s: s["session"]["optimisers"]["images"]["param_groups"][0].update(eps="1e-8")),
    "other betas": ("dm", lambda s: s["session"]["optimisers"]["images"]["param_groups"][0].update(betas=[0.9])),
    "a rate as text": ("dm", lambda s: s["session"]["optimisers"]["images"]["param_groups"][0].update(lr="1")),
    "images of another shape": ("dm", lambda s: changed(s["session"], "synthesizer", "images", to=lambda v: v[:-1])),
    "images of another type": ("dm", lambda s: changed(s["session"], "synthesizer", "images", to=lambda v: v.double())),
    "an average of one number": ("dm", lambda s: changed(s["session"], "average", "images", to=torch.zeros(1))),
    "something unknown": ("dm", lambda s: s["session"]["networks"].update(unknown=1)),
    "drawn is text": ("dm", lambda s: s["session"]["networks"].update(drawn="4")),
    "other weights": ("dc", lambda s: changed(s["session"], "networks", "weights", to={"a": torch.ones(1)})),
    "weights are missing": ("dc", lambda s: s["session"]["networks"].pop("weights")),
    "weights are a list": ("dc", lambda s: s["session"]["networks"].update(weights=[torch.ones(1)])),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_forged_checkpoint_is_refused_in_one_line(name: str, begun: dict[str, Path], tmp_path: Path) -> None:
    method, forge = FORGED[name]
    out = Path(shutil.copytree(begun[method], tmp_path / "run"))
    state = load_checkpoint(out / "checkpoint.safetensors")
    forge(state)
    save_checkpoint(out / "checkpoint.safetensors", state)
    with pytest.raises(CheckpointError, match=r"checkpoint.*start again with") as error:
        small(method, **METHODS[method]).fit(toy_data(), out=out, resume=True)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    assert not (out / "distilled.safetensors").exists()


@pytest.mark.parametrize("method", METHODS)
def test_untouched_checkpoint_is_taken(method: str, begun: dict[str, Path], tmp_path: Path) -> None:
    out = Path(shutil.copytree(begun[method], tmp_path / "run"))
    save_checkpoint(out / "checkpoint.safetensors", load_checkpoint(out / "checkpoint.safetensors"))
    resumed = small(method, **METHODS[method]).fit(toy_data(), out=out, resume=True)
    assert resumed.to_bytes() == small(method, **METHODS[method]).fit(toy_data()).to_bytes()


@pytest.mark.parametrize(
    "last", [b'{"step": 5, "lo', b"\xff\xfe\x00", b"[" * 5000, b"7", b'{"loss": 1}', b'{"step": "5"}']
)
def test_a_damaged_line_of_the_log_costs_a_word_and_not_the_run(
    last: bytes, begun: dict[str, Path], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(begun["dm"], tmp_path / "run"))
    lines = (out / "metrics.jsonl").read_bytes().splitlines()[:2]
    (out / "metrics.jsonl").write_bytes(b"\n".join([*lines, last]))
    with pytest.warns(UserWarning, match=r"has 1 damaged line \(the first is line 3\), left out"):
        small("dm", **METHODS["dm"]).fit(toy_data(), out=out, resume=True)
    steps = [line.split(b",")[0] for line in (out / "metrics.jsonl").read_bytes().splitlines()]
    assert steps == [b'{"step": %d' % step for step in (1, 2, 4, 5, 6, 7, 8, 9)]
