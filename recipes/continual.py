"""Recipe ``continual``: learn classes one after the other from replay memories of equal bytes, compare, report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ddkit.base.executor import executor
from ddkit.base.files import write_text
from ddkit.base.streams import Streams
from ddkit.data.loading import load_pair
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, unknown_name
from ddkit.models.spec import ModelSpec
from ddkit.recipes.continual_report import write
from ddkit.recipes.continual_runs import (
    WITHOUT_MEMORY,
    Outcome,
    Run,
    Settings,
    execute,
    memory,
    retrain_recipe,
)
from ddkit.recipes.continual_table import table_of
from ddkit.recipes.settings import Say, checked, require_known

_DATA = {"split-digits": "digits", "split-mnist": "mnist", "split-fashionmnist": "fashionmnist",
         "split-cifar10": "cifar10"}  # fmt: skip


def run(values: Mapping[str, Any], out: Path, say: Say, command: str) -> dict[str, Any]:
    """Run every policy, budget and seed; write ``table.json``, ``continual.png`` and ``report.html`` into ``out``.

    Args:
        values: the settings.
        out: folder for distilled sets, table, figure and report.
        say: called with a line of text at every stage.
        command: what the user typed.

    Raises:
        ConfigError: a setting of the wrong type, or an unknown policy, method, model or option; nothing was written.
        MissingExtraError: Avalanche is not installed.
    """
    settings = _settings(values)
    started = time.monotonic()
    train, test = _data(settings)
    cache = out / "distilled"
    runs = _runs(settings, train, cache)
    say(f"{train.name}: {len(train)} training and {len(test)} test images, {len(runs)} runs")
    outcomes: list[Outcome] = []
    with executor(settings.executor) as pool:
        for seed in range(settings.seeds):
            mine = [one for one in runs if one.seed == seed]
            outcomes += pool.map(partial(execute, settings, train, test, cache), mine)
            say(f"seed {seed + 1} of {settings.seeds} done after {time.monotonic() - started:.0f} s")
    table = table_of(settings, outcomes)
    seconds = round(time.monotonic() - started, 1)
    report = write(settings, outcomes, table, out, command, seconds, (len(train), len(test)))
    outcome = {"table": table, "report": str(report), "seconds": seconds}
    write_text(out / "table.json", json.dumps({**outcome, "runs": [_raw(one) for one in outcomes]}, indent=2) + "\n")
    return outcome


def _settings(values: Mapping[str, Any]) -> Settings:
    """Fill what is null from the block of the benchmark."""
    rest = dict(values)
    blocks = rest.pop("benchmarks")
    name = str(rest["benchmark"])
    known = sorted(set(_DATA) & set(blocks)) if isinstance(blocks, Mapping) else []
    if name not in known:
        raise unknown_name("benchmark", name, known)
    block = blocks[name]
    require_known(block, rest, f"benchmark '{name}'")
    return checked(Settings, {key: block.get(key) if value is None else value for key, value in rest.items()})


def _data(settings: Settings) -> tuple[RealData, RealData]:
    """Return class-balanced parts of the data, the same for all seeds."""
    train, test = load_pair(_DATA[settings.benchmark], root=settings.data_root)
    streams = Streams(0)
    everything = range(train.num_classes)
    if settings.images_per_class is not None:
        train = train.subset(train.sample_indices(everything, settings.images_per_class, streams("train")))
    if settings.test_images is not None:
        each = max(1, settings.test_images // test.num_classes)
        test = test.subset(test.sample_indices(everything, each, streams("test")))
    return train, test.with_preprocessing(train.preprocessing)


def _runs(settings: Settings, train: RealData, cache: Path) -> list[Run]:
    """Return all runs; each memory is made once, so that a bad setting is refused before the first run."""
    ModelSpec.parse(settings.model).build(train.shape, train.num_classes, 0)
    retrain_recipe(settings.retrain, train.name)
    executor(settings.executor).close()
    runs = []
    for seed in range(settings.seeds):
        for policy in dict.fromkeys(settings.policies):
            budgets = [0] if policy in WITHOUT_MEMORY else list(dict.fromkeys(settings.budgets))
            for budget in budgets:
                if budget < train.num_classes and policy not in WITHOUT_MEMORY:
                    raise ConfigError(
                        f"budget {budget} does not hold one image for each of {train.num_classes} classes: "
                        f"give at least {train.num_classes}"
                    )
                runs.append(Run(policy, budget, seed))
                if seed == 0:
                    memory(settings, runs[-1], train, cache)
    return runs


def _raw(one: Outcome) -> dict[str, Any]:
    """Return what a run measured, for ``table.json``."""
    return {
        "policy": one.run.policy,
        "budget": one.run.budget,
        "seed": one.run.seed,
        "accuracy after each experience": one.interleave.after_each if one.interleave else None,
        "matrix": [list(row) for row in one.interleave.matrix] if one.interleave else None,
        "retrain": one.retrain,
        "images": one.images,
        "bytes": one.bytes,
        "seconds": round(one.seconds, 2),
    }
