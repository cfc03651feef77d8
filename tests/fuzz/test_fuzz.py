"""Does every hostile file end in one line or in success, in bounded memory and time?

``DDKIT_FUZZ`` is the number of changed inputs of each format. What is found is written, input by input, into the folder
that ``DDKIT_FUZZ_OUT`` names.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

import pytest

from . import formats, harness

COUNT = os.environ.get("DDKIT_FUZZ")
#: Inputs of a format that is read in milliseconds, and of one that takes a run.
QUICK, DEAR = 40, 6

pytestmark = [
    pytest.mark.forks,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and reads memory from /proc"),
]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in formats.SLOW else ()) for name in formats.NAMES]
)
def test_hostile_input_ends_in_one_line_or_in_success(name: str, tmp_path: Path) -> None:
    made = formats.make(name, tmp_path / "seed")
    rng = random.Random(f"{name}/0")
    count = int(COUNT) if COUNT else DEAR if made.dear else QUICK
    inputs = [*made.seeds, *made.bombs, *(made.change(rng, rng.choice(made.seeds)) for _ in range(count))]
    found = harness.outcomes(made.read, inputs, tmp_path)
    counts = {kind: sum(one.kind == kind for one in found) for kind in sorted({one.kind for one in found})}
    print(f"{name}: {len(inputs)} inputs, {counts}")
    assert [one.kind for one in found[: len(made.seeds)]] == ["read"] * len(made.seeds), found[: len(made.seeds)]
    findings = [one for one in found if one.finding]
    if folder := os.environ.get("DDKIT_FUZZ_OUT"):
        for one in findings:
            (Path(folder) / f"{name}-{one.number}").write_bytes(inputs[one.number])
    assert not findings, [f"{one.number}: {one.kind}: {one.text[:300]}" for one in findings[:20]]


def test_the_harness_finds_what_it_is_to_find(tmp_path: Path) -> None:
    def read(raw: bytes, folder: Path) -> None:
        if raw == b"exception":
            raise KeyError("x")
        if raw == b"memory":
            bytearray(b"x" * (3 * 2**29))
        if raw == b"dies":
            os.kill(os.getpid(), signal.SIGKILL)

    found = harness.outcomes(read, [b"fine", b"exception", b"memory", b"dies", b"fine"], tmp_path)
    assert [one.kind for one in found] == ["read", "exception", "memory", "died", "read"]
