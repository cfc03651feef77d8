"""Does every damaged or made-up data file end in a set or in one line, within bounds of time and memory?

``DDKIT_FUZZ`` gives the number of inputs of each of 14 kinds, 25 when it is not set.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from random import Random

import pytest

from ddkit.data import load_pair
from ddkit.errors import DDKitError
from tests.data.fuzz_inputs import CASES

COUNT = int(os.environ.get("DDKIT_FUZZ", "25"))
SECONDS, GROWTH = 10, 2**30


def outcomes(kind: str, root: Path, count: int) -> dict[str, list[str]]:
    """Load ``count`` inputs of one kind; return what each came to, by "read", "refused" or "finding"."""
    found: dict[str, list[str]] = {"read": [], "refused": [], "finding": []}
    for seed in range(count):
        source = CASES[kind](root, Random(f"{kind} {seed}"))
        start = time.process_time()
        try:
            named = ("mnist", {"root": source, "download": False}) if kind == "idx" else (source, {})
            load_pair(named[0], **named[1])  # type: ignore[arg-type]
            result, text = "read", ""
        except DDKitError as error:
            text = str(error)
            result = "finding" if "\n" in text or len(text) > 2000 or not text else "refused"
        except BaseException as error:
            result, text = "finding", f"{type(error).__name__}: {error}"
        if time.process_time() - start > SECONDS:
            result, text = "finding", f"{time.process_time() - start:.0f} s: {text}"
        found[result].append(f"seed {seed}: {text}")
    return found


def main(root: Path, count: int) -> None:
    """Run every kind with bounded memory; write the outcomes, and the kind at work, below ``root``."""
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libjpeg and libtiff speak there
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 4 * GROWTH
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for kind in CASES:
        (root / "now").write_text(kind)
        (root / kind).mkdir()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = outcomes(kind, root / kind, count)
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        if grown > GROWTH:
            found["finding"].append(f"memory grew by {grown / 1e6:.0f} MB")
        (root / f"{kind}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[str]]]:
    root = tmp_path_factory.mktemp("fuzz")
    program = f"from tests.data.test_data_fuzz import main, Path; main(Path({str(root)!r}), {COUNT})"
    environment = {**os.environ, "DDKIT_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1"}
    where = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", program], env=environment, cwd=where, timeout=120 + 10 * COUNT)
    assert ended.returncode == 0, f"the process ended with {ended.returncode} in {(root / 'now').read_text()}"
    return {kind: json.loads((root / f"{kind}.json").read_text()) for kind in CASES}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="bounds the memory of a process as Linux does")
@pytest.mark.parametrize("kind", CASES)
def test_every_input_is_read_or_refused_in_one_line(reports: dict[str, dict[str, list[str]]], kind: str) -> None:
    found = reports[kind]
    print(f"{kind}: { ({key: len(items) for key, items in found.items()}) }")
    assert found["finding"] == []
    assert len(found["read"]) + len(found["refused"]) == COUNT and found["refused"]
