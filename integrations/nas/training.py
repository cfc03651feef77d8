"""How is one candidate trained with one seed and scored on held-out real images, in this process or another?"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ddkit.base.documents import read_json_object
from ddkit.base.executor import Executor, InProcess
from ddkit.base.files import write_text
from ddkit.base.streams import Streams, default_draws, derive_seed
from ddkit.data.real import RealData
from ddkit.errors import DivergedError
from ddkit.integrations.nas.proxy import Proxy, one_line
from ddkit.models.spec import ModelSpec
from ddkit.training.accuracy import accuracy_and_loss
from ddkit.training.recipe import TrainingRecipe
from ddkit.training.train import train_networks

#: Changes with what a stored outcome means; outcomes of another version are computed again.
_VERSION = 2


@dataclass(frozen=True)
class Task:
    """One candidate, one seed, one length of training: a unit of work for an executor.

    Args:
        name: of the candidate.
        spec: builds it.
        digest: of its structure and of what it computes.
        seed: of its weights, batch order and augmentation.
        recipe: how it is trained.
        images: how many of the images it sees, drawn with its seed; None for all.
    """

    name: str
    spec: ModelSpec
    digest: str
    seed: int
    recipe: TrainingRecipe
    images: int | None


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Args:
        status: ``ok``, ``diverged`` or ``failed``.
        accuracy: share of the held-out images classified correctly; chance level when it diverged.
        loss: mean cross-entropy on the held-out images; log K when it diverged.
        seconds: wall-clock, training and scoring.
        cpu_seconds: of the processor, all threads.
        image_passes: training images seen, each forward and backward.
        message: why it failed.
    """

    status: str
    accuracy: float
    loss: float
    seconds: float
    cpu_seconds: float
    image_passes: int
    message: str = ""


@dataclass(frozen=True)
class Work:
    """What all tasks of one ranking have in common.

    Args:
        proxy: the set, and the images that score.
        device: where to train.
        threads: intra-op threads of a task on the CPU.
        cache: folder of finished outcomes; None to keep none.
    """

    proxy: Proxy
    device: str
    threads: int
    cache: Path | None

    def key(self, task: Task) -> str:
        """Return the name of the file of a task's outcome: a hash of everything that the outcome depends on."""
        parts = {
            "version": _VERSION,
            "torch": torch.__version__,
            "data": self.proxy.fingerprint,
            "preprocessing": self.proxy.validation.preprocessing.metadata(),
            "recipe": task.recipe.model_dump(mode="json"),
            "candidate": [task.spec.canonical(), task.digest],
            "seed": task.seed,
            "images": task.images,
            "device": self.device,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]

    def stored(self, task: Task) -> Outcome | None:
        """Return the outcome that the cache holds; None when there is none, it failed, or its file is damaged."""
        if self.cache is None:
            return None
        try:
            return _outcome(read_json_object(self.cache / f"{self.key(task)}.json"))
        except (OSError, ValueError, TypeError):
            return None

    def store(self, task: Task, outcome: Outcome) -> None:
        """Keep an outcome in the cache, atomically; not a failure, whose cause may be gone the next time."""
        if self.cache is not None and outcome.status != "failed":
            content = {"candidate": task.name, "seed": task.seed, **dataclasses.asdict(outcome)}
            write_text(self.cache / f"{self.key(task)}.json", json.dumps(content, indent=2) + "\n")


def _outcome(content: Mapping[str, Any]) -> Outcome:
    fields = {field.name: content[field.name] for field in dataclasses.fields(Outcome) if field.name in content}
    outcome = Outcome(**fields)
    numbers = (outcome.accuracy, outcome.loss, outcome.seconds, outcome.cpu_seconds, outcome.image_passes)
    if outcome.status not in ("ok", "diverged") or not all(
        isinstance(number, int | float) and abs(number) <= sys.float_info.max for number in numbers
    ):
        raise ValueError("not an outcome")
    return outcome


def run_tasks(work: Work, tasks: Sequence[Task], executor: Executor | None = None) -> list[Outcome]:
    """Return the outcomes of ``tasks`` in their order, those of the cache without training again.

    Every task stores its outcome as soon as it has one, so that a killed run loses the unfinished ones only. Where the
    executor's machines do not share the folder, outcomes are stored when all have come back.
    """
    outcomes = {number: stored for number, task in enumerate(tasks) if (stored := work.stored(task)) is not None}
    missing = [number for number in range(len(tasks)) if number not in outcomes]
    fresh = (executor or InProcess()).map(functools.partial(_run_and_store, work), [tasks[n] for n in missing])
    for number, outcome in zip(missing, fresh, strict=True):
        outcomes[number] = outcome
        if work.stored(tasks[number]) is None:
            work.store(tasks[number], outcome)
    return [outcomes[number] for number in range(len(tasks))]


def _run_and_store(work: Work, task: Task) -> Outcome:
    outcome = run_task(work, task)
    work.store(task, outcome)
    return outcome


def run_task(work: Work, task: Task) -> Outcome:
    """Train one candidate and score it; whatever its own code raises becomes the status ``failed``.

    The score is taken on held-out real images: the accuracy on the synthetic set itself saturates at 1. Training and
    scoring run on ``work.threads`` threads, which makes results the same on machines with other numbers of cores and is
    the fast choice for small networks.
    """
    proxy = work.proxy
    images, labels = _shown(proxy, task)
    passes = task.recipe.total_epochs * task.recipe.shown(len(images))
    status, message = "ok", ""
    accuracy, loss = 1 / proxy.num_classes, math.log(proxy.num_classes)
    started, cpu_started = time.perf_counter(), time.process_time()
    with threads(work.threads), default_draws(derive_seed(task.seed, "candidate")):  # what a builder draws by itself
        try:
            (network,) = train_networks(
                images,
                labels,
                task.spec,
                task.recipe,
                [task.seed],
                num_classes=proxy.num_classes,
                device=work.device,
                stacked=False,
            )
            reached = accuracy_and_loss(network, proxy.validation)
            if math.isfinite(reached[1]):
                accuracy, loss = reached
            else:
                status, message = "diverged", "its outputs are no longer finite"
        except DivergedError as error:
            status, message = "diverged", one_line(error)
        except Exception as error:  # a candidate's own code may raise anything
            status, message = "failed", one_line(error)
    return Outcome(
        status=status,
        accuracy=accuracy,
        loss=loss,
        seconds=time.perf_counter() - started,
        cpu_seconds=time.process_time() - cpu_started,
        image_passes=0 if status == "failed" else passes,
        message=message,
    )


def _shown(proxy: Proxy, task: Task) -> tuple[torch.Tensor | RealData, torch.Tensor]:
    """Return the images that a task trains on: all, or as many as it takes in less than an epoch."""
    if task.images is None:
        return proxy.images, proxy.labels
    chosen = torch.randperm(len(proxy.images), generator=Streams(task.seed)("part"))[: task.images]
    labels = proxy.labels[chosen.to(proxy.labels.device)]
    if isinstance(proxy.images, RealData):
        return proxy.images.subset(chosen), labels
    return proxy.images[chosen], labels


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run the block with so many intra-op threads, which makes its numbers those of any other machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
