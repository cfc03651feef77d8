"""The state of one running distillation, and the folder that keeps it."""

from __future__ import annotations

import copy
import json
import platform
import resource
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ddkit.base.checkpoint import load_checkpoint, save_checkpoint
from ddkit.base.config import DistillConfig
from ddkit.base.documents import read_json_object
from ddkit.base.files import temporary_pattern, write_text
from ddkit.base.lock import FILE_NAME as LOCK_NAME
from ddkit.base.lock import locked
from ddkit.base.streams import Streams
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.loading import available
from ddkit.data.real import RealData
from ddkit.errors import CheckpointError, ConfigError, LockedError, shortened
from ddkit.synthesis.base import Synthesizer


@dataclass
class Run:
    """What a callback may look at, and ask to stop.

    Args:
        config: full configuration.
        real: the real training data.
        synthesizer: what is being learned.
        streams: random streams.
        folder: where the run is kept; None for a run in memory.
        materialise: takes metadata and returns what the result would be if the run ended now.
        step: outer steps done.
        seconds: time spent so far, earlier parts of a resumed run included.
        prepare_seconds: those of them before the first step.
        scalars: of the last step, those that callbacks added included.
        matched: names of those that the objective returned.
        stop: reason to stop after this step; empty to go on.
    """

    config: DistillConfig
    real: RealData
    synthesizer: Synthesizer
    streams: Streams
    folder: RunFolder | None
    materialise: Callable[[dict[str, Any]], DistilledDataset]
    step: int = 0
    seconds: float = 0.0
    prepare_seconds: float = 0.0
    scalars: dict[str, float] = field(default_factory=dict)
    matched: frozenset[str] = frozenset()
    stop: str = ""


class RunFolder:
    """The folder of one run.

    ``config.json`` (configuration and data), ``preparation.safetensors`` (until the first step),
    ``checkpoint.safetensors`` (while it runs), ``distilled.safetensors`` (the result), ``last.safetensors`` (that of
    the last step, where the result is a moving average), ``metrics.jsonl``, ``run.json`` (cost, versions, hardware),
    ``images/``, later ``evaluation.json`` and ``report.html``.

    Args:
        path: the folder; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.artifact = self.path / "distilled.safetensors"
        self.last = self.path / "last.safetensors"
        self.metrics = self.path / "metrics.jsonl"
        self.summary = self.path / "run.json"
        self.images = self.path / "images"
        self.preparation = self.path / "preparation.safetensors"

    @property
    def command(self) -> str | None:
        """What the user typed to start the run, if it was kept."""
        return self.read().get("command")

    @property
    def finished(self) -> bool:
        """Whether the result and, written after it, the summary are there."""
        return self.artifact.is_file() and self.summary.is_file()

    def claim(
        self,
        config: DistillConfig,
        real: RealData,
        *,
        resume: bool,
        data_spec: str | None,
        data_options: Mapping[str, Any] | None = None,
        callback_options: Mapping[str, Any] | None = None,
        command: str | None = None,
        request: dict[str, Any] | None = None,
    ) -> None:
        """Take the folder for a run, or make sure that it holds this very run when resuming.

        The folder is locked by whoever calls this, unless the run in it is finished.

        Args:
            config: full configuration.
            real: the training data, as the run sees them.
            resume: whether the folder may hold this run already.
            data_spec: how the data were named; None for their own name.
            data_options: JSON-able options with which they were loaded (``root``, ``zca``, ``holdout``).
            callback_options: JSON-able options of the callbacks (``eval_every``, ``patience``, ...).
            command: what the user typed; that of a resumed run stays the first.
            request: for what the configuration was found, see :meth:`planned`.

        Raises:
            ConfigError: the folder is a file, holds something else, or holds another configuration.
        """
        spec = data_spec or real.name
        content: dict[str, Any] = {
            "config": config.as_dict(),
            "data": {
                "spec": spec,
                "path": None if data_spec is None else absolute_path(spec),
                "name": real.name,
                "fingerprint": real.fingerprint,
                "options": dict(data_options or {}),
            },
            "callbacks": dict(callback_options or {}),
            "command": command,
            **({} if request is None else {"request": request}),
        }
        self.require_a_folder()
        if self.config.is_file():
            if not resume:
                raise ConfigError(
                    f"'{self.path}' holds another run: add --resume to continue it, or choose another --out"
                )
            self._check_same(content)
            if not self.finished:
                self._remove(self._leftovers())
                self._point_to(content["data"]["path"])
            return
        self.require_empty()
        self._remove(self._leftovers())
        write_text(self.config, json.dumps(content, indent=2) + "\n")

    def planned(self, request: dict[str, Any] | None) -> DistillConfig | None:
        """Return the configuration that was found for the same request, so that none has to be found again.

        Args:
            request: JSON-able; None for none.
        """
        if request is None or not self.config.is_file():
            return None
        content = self.read()
        return DistillConfig.create(content["config"]) if content.get("request") == request else None

    @property
    def minutes(self) -> float | None:
        """For how many minutes the run was configured, if for any."""
        found: float | None = self.read().get("request", {}).get("minutes")
        return found

    def as_named(self, real: RealData) -> RealData:
        """Return the data of this run under the name that they had when it started, wherever they are now."""
        stored = self.read()["data"] if self.config.is_file() else {}
        if stored.get("name") in (None, real.name) or stored.get("fingerprint") != real.fingerprint:
            return real
        renamed = copy.copy(real)
        renamed.name = str(stored["name"])
        return renamed

    def require_a_folder(self) -> None:
        """Refuse a path that is no folder.

        Raises:
            ConfigError: so it is.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"'{self.path}' is a file: choose another output folder")

    def require_empty(self) -> None:
        """Refuse a folder that holds what no run has left behind before it began.

        Raises:
            ConfigError: so it does.
        """
        if self.path.is_dir() and set(self.path.iterdir()) - {*self._leftovers(), self.path / LOCK_NAME}:
            raise ConfigError(f"'{self.path}' is not empty and holds no run: choose another output folder")

    def tidy(self) -> None:
        """Remove from a finished run what killed processes left in it, unless one is at work or it is read-only."""
        with suppress(LockedError, CheckpointError, OSError):
            leftovers = [*self._leftovers(), *(file for file in (self.checkpoint, self.preparation) if file.exists())]
            if leftovers:
                with locked(self.path):
                    self._remove(leftovers)

    def _leftovers(self) -> list[Path]:
        """Return the temporary files that a killed process left behind."""
        files = (self.config, self.preparation, self.checkpoint, self.artifact, self.last, self.metrics, self.summary)
        found = [leftover for file in files for leftover in self.path.glob(temporary_pattern(file))]
        return found + list(self.images.glob(temporary_pattern(self.images / "*.png")))

    @staticmethod
    def _remove(leftovers: list[Path]) -> None:
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)

    def _point_to(self, path: str | None) -> None:
        """Keep where the data of a continued run are now."""
        content = self.read()
        if path is not None and content["data"].get("path") != path:
            content["data"]["path"] = path
            write_text(self.config, json.dumps(content, indent=2) + "\n")

    def read(self) -> dict[str, Any]:
        """Return the content of ``config.json``.

        Raises:
            ConfigError: there is none, or it is damaged.
        """
        try:
            content = read_json_object(self.config)
            DistillConfig.create(content["config"])
            data = content["data"]
            if not all(isinstance(data[key], str) for key in ("spec", "fingerprint")):
                raise ValueError("data.spec and data.fingerprint are no text")
            dict(data.get("options", {})), dict(content.get("callbacks", {}))
            if not isinstance(content.get("command"), str | None):
                raise ValueError("command is no text")
            return content
        except FileNotFoundError:
            raise ConfigError(f"'{self.path}' holds no run (no config.json): check the path") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"'{self.config}' is damaged: {shortened(str(error), 400)}; restore it or start again elsewhere"
            ) from None

    def _check_same(self, content: dict[str, Any]) -> None:
        old = self.read()
        if old["data"]["fingerprint"] != content["data"]["fingerprint"]:
            raise ConfigError(
                f"'{self.path}' was started on other data ('{shortened(old['data']['spec'])}'): resume with the same "
                f"data, whose images and labels are equal"
            )
        for key, value in content["config"].items():
            if without_paths(key, old["config"].get(key)) != without_paths(key, value):
                raise ConfigError(
                    f"'{self.path}' was started with {key}={shortened(repr(old['config'].get(key)), 400)}, not "
                    f"{shortened(repr(value), 400)}: "
                    f"resume with the same settings or choose another --out"
                )

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint."""
        save_checkpoint(self.checkpoint, state)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Return the last checkpoint, or None when the run was stopped before its first."""
        return load_checkpoint(self.checkpoint) if self.checkpoint.is_file() else None

    def finish(self, summary: dict[str, Any]) -> None:
        """Write ``run.json`` and drop the checkpoint, which the result replaces.

        Raises:
            CheckpointError: it cannot be written, or somebody has taken ``config.json`` away meanwhile.
        """
        if not self.config.is_file():
            raise CheckpointError(
                f"'{self.config}' was removed while the run was at work: the result is complete in '{self.artifact}', "
                f"but the folder is no run any more"
            )
        write_text(self.summary, json.dumps(summary, indent=2) + "\n")
        try:
            self.checkpoint.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"cannot remove '{self.checkpoint}': {error}") from None


#: Options of pieces that name files; they may move while a run is stopped.
PATHS = {"networks": "buffer", "synthesis": "generator"}


def without_paths(key: str, value: Any) -> Any:
    """Return a setting without the place of the files that it names.

    Args:
        key: field of :class:`~ddkit.base.config.DistillConfig`.
        value: as its ``as_dict`` gives it.
    """
    if not isinstance(value, Mapping) or not value.get(PATHS.get(key, "")):
        return value
    return {**value, PATHS[key]: "given"}


def absolute_path(spec: str) -> str | None:
    """Return where data are that were named by a path; None for data known by name."""
    path = Path(spec).expanduser()
    return None if spec.lower() in available() or not path.exists() else str(path.absolute())


def environment(device: str) -> dict[str, Any]:
    """Return versions and hardware, for results that can be compared later."""
    versions = {"python": platform.python_version()}
    for package in ("ddkit", "torch", "torchvision", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    accelerator = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {
        "versions": versions,
        "hardware": {"cpu": cpu_name(), "threads": torch.get_num_threads(), "device": accelerator or device},
    }


def peak_memory_bytes(device: str) -> int:
    """Return the peak memory of this process: of the accelerator where one is used, else resident memory."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def cpu_name() -> str:
    """Return the processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
