"""How does an Optuna study of the user's judge one candidate by a distilled set, and stop it early?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ddkit.base.executor import Executor
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, MissingExtraError
from ddkit.integrations.nas.entries import Entry
from ddkit.integrations.nas.inspection import inspect_candidate
from ddkit.integrations.nas.ranker import ProxyRanker
from ddkit.integrations.nas.space import Builder, SearchSpace
from ddkit.integrations.nas.trainer import Trainer
from ddkit.models.spec import ModelSpec

try:
    import optuna
except ImportError:  # said when a judge is made: ranking needs no library
    optuna = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from optuna.trial import Trial


class TrialJudge:
    """Scores the candidates of an existing study one by one, with intermediate scores for the study's own pruner.

    >>> judge = TrialJudge(distilled, validation, ProxyRanker(steps=300, budget="halving"))
    >>> def objective(trial):
    ...     width = trial.suggest_int("width", 4, 64)
    ...     return judge(trial, lambda: MyNet(width))
    >>> optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner()).optimize(objective, n_trials=50)

    A candidate is trained for the length of each rung of ``budget="halving"`` in turn, always from its first weights.
    After each one but the last its score is reported at the step :math:`eta^r`, the length in units of the first rung,
    and the study's pruner is asked. A pruner that counts resources, such as ``SuccessiveHalvingPruner`` with the same
    ``reduction_factor``, therefore needs ``min_resource=1``.

    Args:
        data: what candidates are trained on.
        validation: real images that score them, held out of the training data.
        ranker: lengths, seeds and score.
        executor: where the seeds of a candidate are trained.
        cache: folder of finished trainings, see :meth:`ProxyRanker.rank`.

    Raises:
        MissingExtraError: Optuna is not installed.
        ConfigError: a ranker without rungs, which leaves nothing to prune by, or validation images of the test split.
        DataError: a set that does not fit the validation images.
    """

    def __init__(
        self,
        data: DistilledDataset | RealData,
        validation: RealData,
        ranker: ProxyRanker | None = None,
        *,
        executor: Executor | None = None,
        cache: Path | str | None = None,
    ) -> None:
        if optuna is None:
            raise MissingExtraError("judging the trials of a study", "nas")
        ranker = ranker or ProxyRanker(budget="halving")
        ranker.check_validation(validation)
        self._run = Trainer.of(ranker, data, validation, executor, cache)
        if len(self._run.ladder) < 2:
            raise ConfigError(
                f"budget='{ranker.budget}' trains a candidate in {len(self._run.ladder)} piece: use budget='halving' "
                "with several rungs, which can be stopped between them"
            )

    def __call__(self, trial: Trial, candidate: Builder | ModelSpec | str) -> float:
        """Return the score of ``candidate``, larger is better; NaN, with which Optuna fails a trial, without one.

        Status, parameters, epochs, CPU seconds and the reason of a failure are kept as attributes of the trial.

        Args:
            trial: of the study; its parameters name the candidate.
            candidate: what a :class:`SearchSpace` takes: a function that builds a network, a spec or its text.

        Raises:
            optuna.TrialPruned: the study's pruner stops it.
            ConfigError: a study of several objectives, or one that minimises; a candidate for other images or classes.
        """
        if trial.study.directions != [optuna.study.StudyDirection.MAXIMIZE]:
            raise ConfigError("scores are larger for better networks: create the study with direction='maximize' alone")
        name = ",".join(f"{key}={value}" for key, value in trial.params.items()) or f"trial {trial.number}"
        specs = SearchSpace({name: candidate})
        seen = inspect_candidate(name, specs[name], self._run.proxy)
        if seen.failure is not None:
            return _told(trial, Entry(name=name, status="failed", parameters=seen.parameters, message=seen.failure))
        inspections, rates = {name: seen}, self._run.tuned_rates(specs, {name: seen}, [name])
        before = None
        for rung, length in enumerate(self._run.ladder):
            entry = self._run.train(specs, inspections, [name], rung, length, rates)[name].after(before)
            score = _told(trial, entry)
            if not entry.usable or rung == len(self._run.ladder) - 1:
                break
            trial.report(score, self._run.ranker.eta**rung)
            if trial.should_prune():
                raise optuna.TrialPruned(f"stopped at rung {rung}")
            before = entry
        return score


def _told(trial: Trial, entry: Entry) -> float:
    """Keep what became of a candidate with its trial; return its score."""
    kept = ("status", "parameters", "epochs", "cpu_seconds", "message")
    for key in kept:
        trial.set_user_attr(key, getattr(entry, key))
    return float("nan") if entry.score is None else entry.score
