"""Recipe ``federated``: ten clients, every way of learning from them, accuracy against bytes."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ddkit.base.executor import executor
from ddkit.base.files import write_text
from ddkit.data.loading import load_pair
from ddkit.recipes.federated_report import draw, rows, write_report
from ddkit.recipes.federated_settings import Settings
from ddkit.recipes.settings import Say


def run(values: Mapping[str, Any], out: Path, say: Say, command: str) -> dict[str, Any]:
    """Run every way on every partition; write ``table.json``, ``ways.json``, a figure and ``report.html`` into ``out``.

    Args:
        values: the settings.
        out: folder for sets, table, figure and report.
        say: called with a line of text at every stage.
        command: what the user typed.

    Raises:
        MissingExtraError: Flower is not installed.
        ConfigError: a setting of the wrong type, or an unknown method, model or option; nothing was written.
    """
    from ddkit.recipes.federated_ways import run_partition

    settings = Settings.checked(values)
    started = time.monotonic()
    load_pair(settings.data, root=settings.data_root)
    items = [(alpha, number) for alpha in settings.alpha for number in range(settings.seeds)]
    with executor(settings.executor) as workers:
        told = say if settings.executor == "local" else _silent
        results = workers.map(functools.partial(run_partition, settings, out, told), items)
    ways = {alpha: [way for (a, _), way in zip(items, results, strict=True) if a == alpha] for alpha in settings.alpha}
    table = rows(ways)
    seconds = round(time.monotonic() - started, 1)
    figure = draw(ways, out / "figure.png", settings)
    report = write_report(ways, table, figure, out / "report.html", settings, command, seconds)
    outcome = {"table": table, "report": str(report), "seconds": seconds}
    write_text(out / "table.json", json.dumps(outcome, indent=2) + "\n")
    kept = {str(alpha): [[asdict(way) for way in one] for one in runs] for alpha, runs in ways.items()}
    write_text(out / "ways.json", json.dumps(kept) + "\n")
    return outcome


def _silent(line: str) -> None:
    """Say nothing: workers in other processes have no terminal."""
