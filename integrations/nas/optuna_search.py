"""How is a space searched that is too large to enumerate: Optuna proposes, a distilled set judges?"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ddkit.base.executor import Executor
from ddkit.base.streams import derive_seed
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, MissingExtraError
from ddkit.integrations.nas.entries import Entry
from ddkit.integrations.nas.inspection import Inspection, inspect_candidate
from ddkit.integrations.nas.proxy import other_families
from ddkit.integrations.nas.ranker import ProxyRanker
from ddkit.integrations.nas.ranking import Ranking
from ddkit.integrations.nas.space import Builder, SearchSpace
from ddkit.integrations.nas.trainer import Preparation, Trainer, finished
from ddkit.models.spec import ModelSpec

try:
    import optuna
except ImportError:  # said when a search starts: ranking needs no library
    optuna = None  # type: ignore[assignment]

Choice = None | bool | int | float | str
Build = Callable[..., "Builder | ModelSpec | str"]


def convnet(**options: Any) -> ModelSpec:
    """Return the ConvNet with ``options``, for :func:`search` over ConvNets."""
    return ModelSpec("convnet", options)


def search(
    build: Build,
    choices: Mapping[str, Sequence[Choice]],
    data: DistilledDataset | RealData,
    validation: RealData,
    ranker: ProxyRanker | None = None,
    *,
    trials: int = 50,
    sampler: Literal["tpe", "random"] = "tpe",
    batch: int = 1,
    preparation: Preparation | None = None,
    executor: Executor | None = None,
    cache: Path | str | None = None,
) -> Ranking:
    """Search a space by Optuna's samplers, each proposal trained on a small set and scored on held-out real images.

    With ``budget="halving"`` Optuna's ``SuccessiveHalvingPruner`` stops proposals that fall behind. It is asynchronous:
    the first ones of a rung are never stopped, so the order matters, and a stopped one keeps the score of its rung,
    which :class:`Ranking` never compares with those of another. Where all candidates can be enumerated,
    :meth:`ProxyRanker.rank` gives every one a score at a known rung.

    The study lies in memory. The sampler is seeded, so a killed search called again with the same arguments and
    ``cache`` proposes the same candidates and takes what was trained from there.

    Args:
        build: called with one value of every choice; returns what a :class:`SearchSpace` takes: a function that
            builds a network, a :class:`ModelSpec` (:func:`convnet`), or its text.
        choices: values by name.
        data: what candidates are trained on.
        validation: real images that score them, held out of the training data.
        ranker: lengths, seeds and score.
        trials: proposals; one that was made before is not trained again.
        sampler: ``tpe`` (Bergstra et al., 2011) or ``random``.
        batch: proposals at a time, trained in parallel by the executor; the sampler learns from finished batches.
        preparation: what making ``data`` cost.
        executor: where candidates are trained.
        cache: folder of finished trainings, see :meth:`ProxyRanker.rank`.

    Returns:
        The ranking of the distinct candidates that were proposed.

    Raises:
        MissingExtraError: Optuna is not installed.
        ConfigError: ``build`` and ``choices`` in the wrong order, no choices or values, a number out of range, or
            validation images of the test split.
    """
    if optuna is None:
        raise MissingExtraError("searching a space that is too large to enumerate", "nas")
    ranker = ranker or ProxyRanker()
    _check(build, choices, trials, batch, sampler, validation, ranker)
    run = Trainer.of(ranker, data, validation, executor, cache)
    state = _State(run, build, {name: list(values) for name, values in choices.items()}, {}, {})
    with _quiet():
        seed = derive_seed(ranker.seed, "search") % 2**32
        kinds = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        study = optuna.create_study(direction="maximize", sampler=kinds[sampler](seed=seed), pruner=_pruner(run))
        for start in range(0, trials, batch):
            asked = [study.ask(state.distributions()) for _ in range(min(batch, trials - start))]
            _judge(study, state, asked)
    families = other_families(run.proxy, state.specs)
    ranking = finished(ranker, run.proxy, list(state.entries.values()), preparation or Preparation(), families)
    for note in ranking.notes:
        warnings.warn(note, stacklevel=2)
    return ranking


@dataclass
class _State:
    """What a search knows so far: specs, what they look like, and their entries, by candidate."""

    run: Trainer
    build: Build
    choices: dict[str, list[Choice]]
    entries: dict[str, Entry]
    specs: dict[str, ModelSpec]

    def distributions(self) -> dict[str, Any]:
        """Return one categorical distribution per choice, over positions: any value may be a choice."""
        return {
            name: optuna.distributions.CategoricalDistribution(range(len(values)))
            for name, values in self.choices.items()
        }

    def name_and_spec(self, positions: Mapping[str, int]) -> tuple[str, ModelSpec]:
        """Return the candidate of one value of every choice."""
        values = {name: self.choices[name][index] for name, index in positions.items()}
        name = ",".join(f"{key}={value}" for key, value in values.items())
        try:
            candidate = self.build(**values)
        except Exception as error:  # of values that do not go together: this proposal fails, the others go on
            candidate = functools.partial(_raise, error)
        return name, SearchSpace({name: candidate})[name]


def _raise(error: Exception) -> nn.Module:
    raise error


def _judge(study: Any, state: _State, asked: Sequence[Any]) -> None:
    """Train a batch of proposals rung by rung, and tell the study what became of them."""
    proposals = {}
    for trial in asked:
        name, spec = state.name_and_spec(trial.params)
        state.specs[name] = spec
        proposals[trial] = name
    fresh = list(dict.fromkeys(name for name in proposals.values() if name not in state.entries))
    seen = {name: inspect_candidate(name, state.specs[name], state.run.proxy) for name in fresh}
    for name in fresh:
        if seen[name].failure is not None:
            state.entries[name] = Entry(name=name, status="failed", message=seen[name].failure or "")
    alive = [name for name in fresh if seen[name].failure is None]
    first = {name: trial for trial, name in reversed(proposals.items())}
    _climb(state, alive, seen, first)
    for trial, name in proposals.items():
        entry = state.entries[name]
        pruned = entry.status.startswith("stopped")
        outcome = optuna.trial.TrialState
        if not entry.usable:
            study.tell(trial, state=outcome.FAIL)
        elif pruned:
            if name not in fresh or first[name] is not trial:  # proposed before: as far as it came then
                trial.report(entry.score, _resource(state.run, entry.rung))
            study.tell(trial, state=outcome.PRUNED)
        else:
            study.tell(trial, entry.score)


def _climb(state: _State, alive: list[str], seen: Mapping[str, Inspection], trials: Mapping[str, Any]) -> None:
    rates = state.run.tuned_rates(state.specs, seen, alive)
    for rung, length in enumerate(state.run.ladder):
        for name, entry in state.run.train(state.specs, seen, alive, rung, length, rates).items():
            state.entries[name] = entry.after(state.entries.get(name))
        alive = [name for name in alive if state.entries[name].usable]
        if rung == len(state.run.ladder) - 1:
            break
        for name in alive:
            trials[name].report(state.entries[name].score, _resource(state.run, rung))
        stopped = [name for name in alive if trials[name].should_prune()]
        for name in stopped:
            state.entries[name] = dataclasses.replace(state.entries[name], status=f"stopped at rung {rung}")
        alive = [name for name in alive if name not in stopped]
    for name in seen:
        state.entries[name] = state.run.with_tuning_cost(state.entries[name])


def _pruner(run: Trainer) -> Any:
    """Return the pruner of the ranker's budget."""
    if len(run.ladder) == 1:
        return optuna.pruners.NopPruner()
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=run.ranker.eta)


def _resource(run: Trainer, rung: int) -> int:
    """Return the training of a rung in units of the first one, in which the pruner counts."""
    return run.ranker.eta**rung


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's line per trial off the terminal, and its level as it was."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _check(
    build: Build,
    choices: Mapping[str, Sequence[Choice]],
    trials: int,
    batch: int,
    sampler: str,
    validation: RealData,
    ranker: ProxyRanker,
) -> None:
    if not callable(build) or not isinstance(choices, Mapping):
        raise ConfigError(
            f"search takes what builds a network first and the choices second, and was given a {type(build).__name__} "
            f"and a {type(choices).__name__}: call search(build, {{name: [value, ...]}}, data, validation)"
        )
    listed = all(isinstance(values, Sequence) and not isinstance(values, str) for values in choices.values())
    if not choices or not listed or not all(len(values) for values in choices.values()):
        raise ConfigError(f"choices={dict(choices)!r}: give at least one choice, each a list with at least one value")
    if trials < 1 or batch < 1:
        raise ConfigError(f"trials={trials}, batch={batch}: give integers of at least 1")
    if sampler not in ("tpe", "random"):
        raise ConfigError(f"sampler='{sampler}': choose tpe or random")
    ranker.check_validation(validation)
