"""Is a checkpoint refused whose counters point at networks or steps that are not there?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from ddkit.base.checkpoint import load_checkpoint, save_checkpoint
from ddkit.engine import Callback, Distiller, Run
from ddkit.errors import CheckpointError
from ddkit.testing.small import small_overrides, toy_data

DATA = toy_data()


class Stop(Callback):
    def on_step(self, run: Run) -> None:
        if run.step == 2:
            raise KeyboardInterrupt


def _no_members(networks: dict[str, Any]) -> None:
    networks["members"] = []


def _another_turn(networks: dict[str, Any]) -> None:
    networks["turn"] = 10**6


def _steps_before_the_first(networks: dict[str, Any]) -> None:
    for moments in networks["moments"]:
        for memory in moments.values():
            memory["step"] = torch.tensor(-1e30)


def _no_ages(networks: dict[str, Any]) -> None:
    networks["counters"] = []


@pytest.mark.parametrize(
    ("method", "change"),
    [("idc", _no_members), ("idc", _another_turn), ("frepo", _steps_before_the_first), ("frepo", _no_ages)],
)
def test_counters_that_point_nowhere_are_refused(
    method: str, change: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    options = small_overrides(method, DATA)
    with suppress(KeyboardInterrupt):
        Distiller(method, 1, callbacks=[Stop()], checkpoint_every=1, **options).fit(DATA, out=tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    state = load_checkpoint(path)
    change(state["session"]["networks"])
    save_checkpoint(path, state)
    with pytest.raises(CheckpointError) as error:
        Distiller(method, 1, **options).fit(DATA, out=tmp_path, resume=True)
    assert "\n" not in str(error.value)
