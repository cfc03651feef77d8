"""How well does each candidate do when trained on a small set: all to the end, or the best ones further?"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ddkit.base.executor import Executor
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.errors import ConfigError
from ddkit.integrations.nas.entries import Entry
from ddkit.integrations.nas.inspection import Inspection, inspect_candidate
from ddkit.integrations.nas.proxy import other_families
from ddkit.integrations.nas.ranking import Ranking
from ddkit.integrations.nas.settings import RankerSettings
from ddkit.integrations.nas.space import Builder, SearchSpace
from ddkit.integrations.nas.trainer import Preparation, Trainer, best_names, finished
from ddkit.models.spec import ModelSpec


@dataclass(frozen=True)
class ProxyRanker(RankerSettings):
    """Ranks candidates by training each on a small set and scoring it on held-out real images.

    `"Dataset Condensation with Gradient Matching" <https://arxiv.org/abs/2006.05929>`_ (Zhao et al., 2021), section
    4.3: the ranking on the set stands in for the one that training every candidate on all data would give.

    Args and errors are those of :class:`~ddkit.integrations.nas.settings.RankerSettings`.
    """

    def rank(
        self,
        space: SearchSpace | Mapping[str, Builder | ModelSpec | str],
        data: DistilledDataset | RealData,
        validation: RealData,
        *,
        preparation: Preparation | None = None,
        executor: Executor | None = None,
        cache: Path | str | None = None,
    ) -> Ranking:
        """Rank the candidates of ``space``.

        Args:
            space: the candidates; a mapping is what :class:`SearchSpace` takes.
            data: what they are trained on: distilled, selected or real.
            validation: real images that score them, held out of the training data
                (:meth:`ddkit.data.RealData.split_off`) before these were distilled.
            preparation: what making ``data`` cost.
            executor: where candidates are trained, one task per candidate and seed; None trains here.
            cache: folder of finished trainings: a killed ranking called again goes on where it was, and rankings of
                other sets may share it. A candidate counts as the same by its name, its modules and shapes of weights,
                and what it computes: outputs and gradients on two validation images with the weights of seed 0. Use
                another folder where a change shows on other images or after some steps only. Failed trainings are
                tried again.

        Raises:
            ConfigError: validation images of the test split, or a candidate for other images or classes.
            DataError: a set that does not fit the validation images.
            RunError: no candidate could be trained.
        """
        self.check_validation(validation)
        return self._rank(SearchSpace.of(space), data, validation, preparation or Preparation(), executor, cache)

    @staticmethod
    def check_validation(validation: RealData) -> None:
        """Refuse to select on the test split.

        Raises:
            ConfigError: the images are of the test split.
        """
        if validation.split.startswith("test"):
            raise ConfigError(
                "candidates would be selected on the test split: hold out part of the training data with "
                "train.split_off(0.1, generator)"
            )

    def truth(
        self,
        space: SearchSpace | Mapping[str, Builder | ModelSpec | str],
        train: RealData,
        test: RealData,
        *,
        executor: Executor | None = None,
        cache: Path | str | None = None,
    ) -> Ranking:
        """Return the ground truth of a search: candidates trained on ``train`` and scored on test images.

        It serves :meth:`~ddkit.integrations.nas.Ranking.compare` only. Two seeds or more tell how well two
        runs of the truth agree. Arguments and errors are those of :meth:`rank`.
        """
        return self._rank(SearchSpace.of(space), train, test, Preparation(), executor, cache)

    def _rank(
        self,
        space: SearchSpace,
        data: DistilledDataset | RealData,
        scored_on: RealData,
        preparation: Preparation,
        executor: Executor | None,
        cache: Path | str | None,
    ) -> Ranking:
        run = Trainer.of(self, data, scored_on, executor, cache)
        families = other_families(run.proxy, space)
        for note in families:
            warnings.warn(note, stacklevel=3)
        inspections = {name: inspect_candidate(name, spec, run.proxy) for name, spec in space.items()}
        alive = [name for name, seen in inspections.items() if seen.failure is None]
        entries = {name: _failed(name, seen) for name, seen in inspections.items() if seen.failure is not None}
        rates = run.tuned_rates(space, inspections, alive)
        for rung, recipe in enumerate(run.ladder):
            last = rung == len(run.ladder) - 1
            reached = run.train(space, inspections, alive, rung, recipe, rates)
            for name, entry in reached.items():
                entries[name] = entry.after(entries.get(name))
            alive = [name for name in alive if entries[name].usable]
            if not last and alive:
                kept = best_names([entries[name] for name in alive], math.ceil(len(alive) / self.eta))
                for name in set(alive) - set(kept):
                    if entries[name].status == "ok":
                        entries[name] = dataclasses.replace(entries[name], status=f"stopped at rung {rung}")
                alive = kept
        entries = {name: run.with_tuning_cost(entry) for name, entry in entries.items()}
        ranking = finished(self, run.proxy, [entries[name] for name in space], preparation, families)
        for note in ranking.notes[len(families) :]:
            warnings.warn(note, stacklevel=3)
        return ranking


def _failed(name: str, seen: Inspection) -> Entry:
    return Entry(name=name, status="failed", parameters=seen.parameters, message=seen.failure or "")
