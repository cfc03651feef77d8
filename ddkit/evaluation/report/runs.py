"""What does a run folder hold: its configuration, artifact, training log and evaluation, read tolerantly.

A folder may be incomplete (interrupted, not evaluated yet, a bare artifact): absent files give empty values.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddkit.base.documents import read_json_object, read_metrics
from ddkit.data.distilled.dataset import FILE_NAME, DistilledDataset
from ddkit.data.distilled.privacy import Statement, figures_folder, statement_of
from ddkit.errors import DataError, shortened
from ddkit.evaluation.rate import Curve
from ddkit.evaluation.rate_kept import read_kept
from ddkit.evaluation.report.formats import known


@dataclass(frozen=True)
class RunContent:
    """The content of one run folder.

    Args:
        path: the folder.
        config: ``config.json`` (``config`` and ``data``), or an empty dictionary.
        info: ``run.json`` (seconds, steps, versions, hardware, command, state), or an empty dictionary.
        metrics: the lines of ``metrics.jsonl``, one dictionary a logged step, ascending by step.
        evaluation: ``evaluation.json`` (beside the folder where it is a private release), or None when the run was
            not evaluated.
        distilled: the artifact, or None when the run did not get that far.
        rate: the curve in ``curve.json`` (beside the folder where it is a private release), or None without one.
        checksum: SHA-256 of the artifact file as hexadecimal digits, or None.
    """

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    evaluation: dict[str, Any] | None = None
    distilled: DistilledDataset | None = None
    rate: Curve | None = None
    checksum: str | None = None

    def find(self, *keys: str, default: Any = None) -> Any:
        """Return the first of ``keys`` found in the artifact's metadata, ``run.json`` or ``config.json``."""
        metadata = self.distilled.metadata if self.distilled is not None else {}
        nested = self.config.get("config")
        settings = nested if isinstance(nested, dict) else self.config
        for key in keys:
            for place in (metadata, self.info, settings, self.config):
                if place.get(key) is not None:
                    return place[key]
        return default

    @property
    def method(self) -> str:
        """Name of the method, or ``unknown method``."""
        name = self.find("method", default="unknown method")
        return str(name.get("name", "unknown method") if isinstance(name, dict) else name)

    @property
    def source(self) -> dict[str, Any]:
        """Name, split, count and fingerprint of the real data, as far as they are known."""
        source = self.find("source", "data", default={})
        return dict(source) if isinstance(source, dict) else {"name": str(source)}

    @property
    def data(self) -> str:
        """Name of the real data; the last part of it when it is a path."""
        return Path(str(self.source.get("name", "unknown data"))).name

    @property
    def real_count(self) -> int | None:
        """Number of real images; None when it is not recorded."""
        value = self.source.get("count")
        return int(value) if known(value) and value > 0 else None

    @property
    def real_bytes(self) -> int | None:
        """What the real images cost at rest: one byte a pixel value, and the whitening; None when unknown."""
        if self.real_count is None or self.distilled is None:
            return None
        whitening = self.distilled.preprocessing.nbytes
        return self.real_count * math.prod(self.distilled.shape) + whitening

    @property
    def ipc(self) -> int | None:
        """Images per class that the budget counts, whatever they decode to; None when the classes differ."""
        if self.distilled is not None:
            budget = self.distilled.budget
            if budget.decoded_images != budget.images:
                return budget.images // self.distilled.num_classes
            return self.distilled.ipc
        value = self.find("ipc")
        return int(value) if known(value) else None

    @property
    def steps(self) -> int | None:
        """Outer steps taken."""
        value = self.find("steps")
        if not known(value):
            value = self.metrics[-1]["step"] if self.metrics else None
        return int(value) if known(value) else None

    @property
    def seconds(self) -> float | None:
        """Seconds of distillation, resumed parts included."""
        value = self.info.get("seconds")
        if not known(value):
            value = self.metrics[-1].get("seconds") if self.metrics else None
        return float(value) if known(value) else None

    @property
    def privacy(self) -> Statement | None:
        """What the set claims about the privacy of its records; None without a claim."""
        return statement_of(self.distilled.metadata) if self.distilled is not None else None

    @property
    def results(self) -> list[tuple[str, dict[str, Any]]]:
        """Label and result of every evaluated training set."""
        entries = (self.evaluation or {}).get("results")
        return [
            (str(entry.get("label", "")), entry["result"])
            for entry in (entries if isinstance(entries, list) else [])
            if isinstance(entry, dict) and isinstance(entry.get("result"), dict)
        ]


def read_run(path: Path | str) -> RunContent:
    """Read a run folder, or a lone ``.safetensors`` artifact.

    Args:
        path: run folder or artifact file.

    Raises:
        DataError: ``path`` is no run, or one of its files is not readable.
        ArtifactError: the artifact is truncated, tampered with or inconsistent.
    """
    path = Path(path)
    if path.is_file() and path.suffix == ".safetensors":
        return RunContent(path.parent, distilled=DistilledDataset.load(path), checksum=_checksum(path))
    artifact = path / FILE_NAME
    if not artifact.is_file() and not (path / "config.json").is_file():
        raise DataError(
            f"'{path}' is not a run: it holds neither config.json nor {FILE_NAME}; "
            "give the folder that `ddkit distill --out` wrote"
        )
    evaluation = figures_folder(path) / "evaluation.json"
    if not evaluation.is_file():
        evaluation = path / "evaluation.json"
    return RunContent(
        path,
        config=_read_object(path / "config.json"),
        info=_read_object(path / "run.json"),
        metrics=_read_metrics(path / "metrics.jsonl"),
        evaluation=_read_object(evaluation) if evaluation.is_file() else None,
        distilled=DistilledDataset.load(artifact) if artifact.is_file() else None,
        rate=read_kept(path).curve,
        checksum=_checksum(artifact) if artifact.is_file() else None,
    )


def _checksum(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; an empty one when there is no file."""
    if not path.is_file():
        return {}
    try:
        return read_json_object(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read '{path}' ({shortened(str(error))}); restore it from a copy, or delete it and repeat the "
            f"command that wrote it"
        ) from None


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the logged steps, ascending; of a step logged twice, as after a resume, the later line counts.

    A last line that a killed process left unfinished is ignored.
    """
    try:
        lines, damaged = read_metrics(path)
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror or error}; restore it or delete it") from None
    inside = [number for number in damaged if number < max(lines, default=0)]
    if inside:
        raise DataError(f"line {inside[0]} of '{path}' is not a JSON object with a number 'step'; delete that line")
    steps: dict[float, dict[str, Any]] = {}
    for entry in lines.values():
        steps[entry["step"]] = {**steps.get(entry["step"], {}), **entry}
    return [steps[step] for step in sorted(steps)]
