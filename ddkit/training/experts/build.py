"""How is a buffer of experts trained, continued and extended?"""

from __future__ import annotations

import shutil
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from ddkit.base.executor import Executor
from ddkit.base.files import temporary_pattern
from ddkit.base.lock import locked
from ddkit.base.precision import Precision, PrecisionName, pass_cost, resolve_precision
from ddkit.base.progress import Report, silent
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, RunError
from ddkit.models.base import uses_batch_norm
from ddkit.training.batches import training_set
from ddkit.training.experts.buffer import ExpertBuffer, expert_path, read_record, write_expert
from ddkit.training.experts.identity import FILE_NAME, Identity
from ddkit.training.experts.settings import ExpertSettings
from ddkit.training.experts.training import train_experts

#: Experts trained side by side where stacked weights are asked for.
STACK = 4
_HEADER_BYTES = 4096
_TRAINING = "training experts"


@dataclass(frozen=True)
class _Job:
    """What training needs beside the numbers of the experts; sent once to every worker."""

    real: RealData
    identity: Identity
    folder: Path
    device: torch.device
    precision: Precision


def buffer_bytes(settings: ExpertSettings, shape: tuple[int, int, int], num_classes: int, count: int) -> int:
    """Return about how many bytes ``count`` experts take on disk: P * (4 + E * bytes of a stored number) each.

    Args:
        settings: of the experts.
        shape: (C, H, W) of one image.
        num_classes: K.
        count: experts.
    """
    module = settings.spec.build(shape, num_classes, seed=0)
    size = sum(weights.numel() for weights in module.parameters())
    return count * (size * (4 + settings.epochs * settings.torch_dtype.itemsize) + _HEADER_BYTES)


def build_buffer(
    real: RealData,
    path: str | Path,
    settings: ExpertSettings,
    count: int,
    *,
    executor: Executor | None = None,
    device: torch.device | str = "cpu",
    precision: PrecisionName = "auto",
    compile: bool | Literal["auto"] = "auto",
    progress: Report = silent,
    stacked: bool = False,
) -> ExpertBuffer:
    """Train the experts 0 to ``count - 1`` that the folder does not hold yet, each written when it is finished.

    Expert k depends on the data, the settings and k alone, so a buffer that was continued or extended equals one that
    was trained at once: to the bit on one machine, to rounding where stacked, compiled or on other hardware.

    Args:
        real: the training data.
        path: folder of the buffer; made, continued or extended.
        settings: how experts are trained.
        count: experts wanted; a folder that has more keeps them.
        executor: where experts run, one per item; None for this process. Workers write into the folder, so those on
            other machines must share it.
        device: where they are trained.
        precision: number format of the passes; ``auto`` as for a distillation, decided for one expert.
        compile: whether the passes are compiled; ``auto`` likewise.
        progress: called after every epoch, or, with an executor, every second, with the numbers of epochs (experts)
            done and in total.
        stacked: train ``STACK`` experts at a time as stacked weights. Off, as it took more CPU time than one after the
            other wherever it was measured (4 experts, one CPU thread, best of 3 or 4): 1.12 and 1.22 times as much on
            digits with a ConvNet of depth 2 and width 32 in batches of 64 and 256, 1.18 times on 3x32x32 images with
            one of depth 3 and width 32 in batches of 32. It was not measured on an accelerator.

    Raises:
        ConfigError: a folder of other settings, data or architecture; batch norm; too little room on the disk; a
            combination that makes no sense. Nothing was written.
        LockedError: another process trains experts in the folder.
        ArtifactError: a damaged buffer, or weights that ``settings.dtype`` cannot hold.
        DivergedError: a weight is not finite any more; finished experts are kept.
    """
    folder, device = Path(path).absolute(), torch.device(device)  # workers may start elsewhere
    if count < 1:
        raise ConfigError(f"{count} experts: at least 1 expert is needed")
    how = resolved_precision(real, settings, device, precision, compile)
    if stacked and how.compile:
        raise ConfigError("stacked=True and compile=True exclude each other: leave one of them out")
    require_room(real, folder, settings, count)
    if folder.exists() and not missing_experts(real, folder, settings, count)[1]:
        return ExpertBuffer(folder)  # which may be read-only, or read by others
    with locked(folder):
        identity, missing = missing_experts(real, folder, settings, count)
        for name in ("expert-*.safetensors", FILE_NAME):
            for leftover in folder.glob(temporary_pattern(folder / name)):  # of a killed process
                leftover.unlink(missing_ok=True)
        if len(missing) == count:
            identity.write(folder)
        job = _Job(real, identity, folder, device, how)
        width = STACK if stacked else 1
        groups = [missing[start : start + width] for start in range(0, len(missing), width)]
        if executor is None:
            _train_here(job, groups, len(missing), progress)
        else:
            _train_elsewhere(job, groups, missing, executor, progress)
    return ExpertBuffer(folder)


def resolved_precision(
    real: RealData,
    settings: ExpertSettings,
    device: torch.device,
    precision: PrecisionName = "auto",
    compile: bool | Literal["auto"] = "auto",
) -> Precision:
    """Decide how one expert is trained; the number of experts does not matter, or an extended buffer would differ.

    Raises:
        ConfigError: a network with batch norm, whose statistics are not among its weights, or with dropout.
    """
    module = settings.spec.build(real.shape, real.num_classes, seed=0)
    if uses_batch_norm(module):
        raise ConfigError(
            f"model '{settings.model}' uses batch norm: its running statistics are no part of a trajectory of weights; "
            f"choose instance or group norm, such as convnet"
        )
    if settings.spec.draws_in_forward(real.shape, real.num_classes):
        raise ConfigError(
            f"model '{settings.model}' draws random numbers in its training passes (dropout or the like), and no "
            f"student could follow them: train experts without (probability 0)"
        )
    cost = pass_cost(module, real.shape)
    return resolve_precision(precision, compile, passes=settings.passes(len(real)), cost=cost, device=device)


def _claimed(folder: Path, identity: Identity, real: RealData) -> Identity:
    """Return what the folder's experts have in common, which must be what the new ones have.

    Raises:
        ConfigError: they differ, or the folder cannot hold a buffer.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"'{folder}' is a file: choose another folder")
    if not any(folder.glob("expert-*.safetensors")):
        return identity  # also where experts of other settings were begun and none was finished
    if not (folder / FILE_NAME).is_file():
        raise ConfigError(f"'{folder}' has experts but no {FILE_NAME}: choose another folder")
    stored = Identity.read(folder)
    if stored.data["name"] != real.name:
        stored.require_data(real)  # before what differs because of the data, such as the augmentation
    stored.require_settings(identity.settings, f"'{folder}'")
    module = identity.settings.spec.build(real.shape, real.num_classes, seed=0)
    stored.require_network(identity.settings.model, identity.shape, identity.num_classes, module)
    stored.require_data(real)
    return stored


def missing_experts(real: RealData, folder: Path, settings: ExpertSettings, count: int) -> tuple[Identity, list[int]]:
    """Return what a folder's experts have in common and which of the first ``count`` are not finished.

    Raises:
        ConfigError: a folder of other settings, data or architecture.
        ArtifactError: a damaged expert.
    """
    identity = _claimed(folder, Identity.of(real, settings), real)
    there = {path.name for path in folder.glob("expert-*.safetensors")}
    missing = []
    for expert in range(count):
        if expert_path(folder, expert).name in there:
            read_record(folder, identity, expert)
        else:
            missing.append(expert)
    return identity, missing


def free_bytes(folder: Path) -> int:
    """Return the free space on the disk that ``folder`` is or would be on."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def require_room(real: RealData, folder: Path, settings: ExpertSettings, count: int) -> None:
    """Refuse more experts than the disk holds, from sizes alone: before files are listed or opened.

    Raises:
        ConfigError: so it is.
    """
    there = sum(1 for _ in folder.glob("expert-*.safetensors"))
    needed = buffer_bytes(settings, real.shape, real.num_classes, max(0, count - there))
    free = free_bytes(folder)
    if needed > free:
        raise ConfigError(
            f"the experts take {needed / 1e6:,.0f} MB, '{folder}' has {free / 1e6:,.0f} MB left: lower count or epochs "
            f"(only the epochs up to the last one that is read are needed), store float16, or choose another disk"
        )


def _train(job: _Job, on_epoch: Callable[[int], None], experts: Sequence[int]) -> None:
    settings = job.identity.settings
    real = job.real.to(job.device) if job.device.type != "cpu" else job.real
    data = training_set(real, None, settings.recipe(), real.num_classes, job.device)
    ways = train_experts(data, settings, experts, precision=job.precision, on_epoch=on_epoch)
    for expert, way in zip(experts, ways, strict=True):
        if not way.loss[-1] < way.loss[0]:
            warnings.warn(
                f"expert {expert} ends with a training loss of {way.loss[-1]:.3g}, no better than {way.loss[0]:.3g} at "
                f"its start: lower lr (now {settings.lr:g})",
                stacklevel=2,
            )
        write_expert(job.folder, job.identity, expert, way, job.precision.name)


def _train_silently(job: _Job, experts: Sequence[int]) -> None:
    _train(job, lambda epoch: None, experts)


def _train_here(job: _Job, groups: list[list[int]], experts: int, progress: Report) -> None:
    epochs, done = job.identity.settings.epochs, 0
    progress(_TRAINING, 0, experts * epochs)
    for group in groups:

        def report(epoch: int, before: int = done, width: int = len(group)) -> None:
            progress(_TRAINING, before + epoch * width, experts * epochs)

        _train(job, report, group)
        done += epochs * len(group)


def _train_elsewhere(
    job: _Job, groups: list[list[int]], experts: list[int], executor: Executor, progress: Report
) -> None:
    """Let workers train and write; how far they are shows in the folder."""
    with _watching(job.folder, experts, progress):
        executor.map(partial(_train_silently, job), groups)
    for expert in experts:
        if not expert_path(job.folder, expert).is_file():
            raise RunError(
                f"expert {expert} was trained but is not in '{job.folder}': workers on other machines wrote elsewhere; "
                f"choose a folder that all machines share"
            )


@contextmanager
def _watching(folder: Path, experts: list[int], progress: Report) -> Iterator[None]:
    """Report every second how many of ``experts`` are finished."""
    over = threading.Event()

    def finished() -> int:
        return sum(expert_path(folder, expert).is_file() for expert in experts)

    def watch() -> None:
        while not over.wait(1.0):
            progress(_TRAINING, finished(), len(experts))

    progress(_TRAINING, 0, len(experts))
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    progress(_TRAINING, len(experts), len(experts))
