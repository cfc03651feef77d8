"""Recipe ``nas``: rank a grid of ConvNets on tiny sets and by cheaper means, compare with the ground truth."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ddkit import methods
from ddkit.base.executor import Executor, executor
from ddkit.base.files import write_text
from ddkit.base.streams import Streams
from ddkit.data.names import known_as
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, unknown_name
from ddkit.integrations.nas.measures import MEASURES, zero_cost
from ddkit.integrations.nas.ranker import ProxyRanker
from ddkit.integrations.nas.ranking import Ranking
from ddkit.integrations.nas.space import SearchSpace
from ddkit.recipes.nas_data import Parts, TinySet, load_parts, tiny_sets
from ddkit.recipes.nas_proxies import Proxy
from ddkit.recipes.nas_report import write_page
from ddkit.recipes.settings import Frozen, Say, checked, laid_over
from ddkit.training.recipe import TrainingRecipe

#: Proxies that are neither a method of ddkit nor a zero-cost measure.
_REAL = ("early-stop", "quarter")


class TruthSettings(Frozen):
    """Length and repeats of the ground truth."""

    steps: int = Field(ge=4)
    seeds: int = Field(ge=1)


class Settings(Frozen):
    """The settings of the recipe's file, checked."""

    data: str
    data_root: str | None
    seed: int = Field(ge=0)
    side: int = Field(ge=4)
    train_images: int = Field(ge=10)
    validation_images: int = Field(ge=10)
    test_images: int = Field(ge=10)
    space: Literal["small", "literature"] | dict[str, list[Any]]
    truth: TruthSettings
    training: dict[str, Any]
    proxies: list[str] = Field(min_length=1)
    ipcs: list[int] = Field(min_length=1)
    steps: int = Field(ge=1)
    early_steps: list[int]
    seeds: int = Field(ge=1)
    draws: int = Field(ge=1)
    executor: Literal["local", "ray"]
    budgets: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class _Plan:
    """Everything of a run that was checked before it starts."""

    settings: Settings
    parts: Parts
    space: SearchSpace
    training: TrainingRecipe
    sets: list[TinySet]
    out: Path

    def ranker(self, steps: int, seeds: int, seed: int = 0) -> ProxyRanker:
        """Return the ranker of every proxy: the same training, only its length differs."""
        own = self.settings.seed + seed
        return ProxyRanker(steps=steps, seeds=seeds, recipe=self.training, seed=own)

    @property
    def cache(self) -> Path:
        """Folder of finished trainings."""
        return self.out / "trainings"


def run(values: Mapping[str, Any], out: Path, say: Say, command: str) -> dict[str, Any]:
    """Rank by every proxy, compare with the truth, and write ``table.json``, ``nas.png`` and ``report.html``.

    Args:
        values: the settings.
        out: folder for sets, rankings, table and report.
        say: called with a line of text at every stage.
        command: what the user typed.

    Raises:
        ConfigError: a setting of the wrong type, or an unknown proxy, option or candidate; nothing was written.
    """
    settings = checked(Settings, of_data_set(values))
    started = time.monotonic()
    plan = _plan(settings, out)
    parts = plan.parts
    with executor(settings.executor) as pool:
        say(
            f"{parts.train.name}: {len(plan.space)} candidates, {len(parts.train)} training images "
            f"of {'x'.join(map(str, parts.train.shape))}; ground truth of {settings.truth.steps} steps first"
        )
        ranker = plan.ranker(settings.truth.steps, settings.truth.seeds)
        truth = ranker.truth(plan.space, parts.train, parts.test, executor=pool, cache=plan.cache)
        truth.save(out / "rankings", "truth")
        proxies = [*_tiny(plan, pool, say), *_real(plan, pool, say), *_untrained(plan, say)]
    for proxy in proxies:
        for draw, ranking in enumerate(proxy.rankings):
            ranking.save(out / "rankings", f"{proxy.file_name}-{draw}")
    seconds = round(time.monotonic() - started, 1)
    table, report = write_page(out, truth, proxies, settings.model_dump(mode="json"), command, seconds)
    outcome = {"table": table, "report": str(report), "seconds": seconds}
    write_text(out / "table.json", json.dumps(outcome, indent=2) + "\n")
    return outcome


def of_data_set(values: Mapping[str, Any]) -> dict[str, Any]:
    """Lay settings over those of their data."""
    rest = dict(values)
    blocks = rest.pop("data_sets", {})
    name = known_as(str(rest.get("data")))
    block = blocks.get(name, blocks.get("other", {})) if isinstance(blocks, Mapping) else None
    if not isinstance(block, Mapping):
        raise ConfigError(
            f"data_sets={blocks!r} must map names of data to settings, for instance {{mnist: {{steps: 100}}}}"
        )
    return laid_over(block, rest, f"data set '{rest.get('data')}'")


def _plan(settings: Settings, out: Path) -> _Plan:
    """Check every name and build every piece once, before anything is trained or written."""
    known = {**dict.fromkeys(methods.available()), **dict.fromkeys(_REAL), **dict.fromkeys(MEASURES)}
    for name in settings.proxies:
        if name not in known:
            raise unknown_name("proxy", name, known)
    grid = settings.space
    space = getattr(SearchSpace, grid)() if isinstance(grid, str) else SearchSpace.convnet(**grid)
    sizes = (settings.train_images, settings.validation_images, settings.test_images)
    parts = load_parts(settings.data, settings.data_root, settings.side, sizes, settings.seed)
    for spec in space.values():
        spec.build(parts.train.shape, parts.train.num_classes, 0)
    for name in settings.training:
        if name not in TrainingRecipe.model_fields:
            raise unknown_name("field of training", name, TrainingRecipe.model_fields)
    training = TrainingRecipe(**{"name": "nas", **settings.training})
    made = [name for name in dict.fromkeys(settings.proxies) if name not in (*_REAL, *MEASURES)]
    ipcs = list(dict.fromkeys(settings.ipcs))
    sets = tiny_sets(made, ipcs, settings.draws, settings.budgets, parts.train, out, settings.seed)
    return _Plan(settings, parts, space, training, sets, out)


def _tiny(plan: _Plan, pool: Executor, say: Say) -> Iterator[Proxy]:
    """Rank on every distilled and selected set, all at the same number of steps."""
    for name, ipc in dict.fromkeys((one.method, one.ipc) for one in plan.sets):
        draws = [one for one in plan.sets if (one.method, one.ipc) == (name, ipc)]
        say(f"{name}, {ipc} images per class: {len(draws)} sets")
        rankings = []
        for one in draws:
            data, preparation = one.make(plan.parts.train)
            ranker = plan.ranker(plan.settings.steps, plan.settings.seeds, one.draw)
            rankings.append(
                ranker.rank(
                    plan.space,
                    data,
                    plan.parts.validation,
                    preparation=preparation,
                    executor=pool,
                    cache=plan.cache,
                )
            )
        kind = "selected" if methods.get(name).is_coreset else "distilled"
        yield Proxy(name, kind, ipc, plan.settings.steps, rankings, counts_passes=draws[0].counts_passes)


def _real(plan: _Plan, pool: Executor, say: Say) -> Iterator[Proxy]:
    """Rank by short trainings on real images: all of them at few steps, and a quarter of them."""
    settings, train = plan.settings, plan.parts.train
    if "early-stop" in settings.proxies:
        for steps in _early_steps(plan):
            say(f"early stopping after {steps} steps")
            yield Proxy("early-stop", "real", None, steps, _on(plan, pool, [train] * settings.draws, steps))
    if "quarter" in settings.proxies:
        say("a quarter of the real images")
        streams = Streams(settings.seed)
        quarters = [train.split_off(0.25, streams(f"quarter/{draw}"))[1] for draw in range(settings.draws)]
        steps = max(1, settings.truth.steps // 4)
        yield Proxy("quarter", "real", None, steps, _on(plan, pool, quarters, steps))


def _early_steps(plan: _Plan) -> list[int]:
    """Return lengths of early stopping: those of as many image passes as the tiny sets take, and further ones."""
    batch, classes = plan.training.batch_size, plan.parts.train.num_classes
    passes = [plan.settings.steps * min(batch, ipc * classes) for ipc in plan.settings.ipcs]
    return sorted({*(max(1, round(one / batch)) for one in passes), *plan.settings.early_steps})


def _on(plan: _Plan, pool: Executor, sets: list[RealData], steps: int) -> list[Ranking]:
    return [
        plan.ranker(steps, plan.settings.seeds, draw).rank(
            plan.space, data, plan.parts.validation, executor=pool, cache=plan.cache
        )
        for draw, data in enumerate(sets)
    ]


def _untrained(plan: _Plan, say: Say) -> Iterator[Proxy]:
    """Rank by what one batch says of untrained networks."""
    names = [name for name in dict.fromkeys(plan.settings.proxies) if name in MEASURES]
    if names:
        say(f"without training: {', '.join(names)}")
    for name in names:
        rankings = [
            zero_cost(name, plan.space, plan.parts.train, seed=plan.settings.seed + draw)
            for draw in range(plan.settings.draws)
        ]
        yield Proxy(name, "zero-cost", None, 0, rankings)
