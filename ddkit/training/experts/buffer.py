"""What do stored experts say: their weights at every epoch, read row by row from the disk?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from ddkit.base.container import canonical_json, pack, read_content, unpack
from ddkit.base.files import write_atomically
from ddkit.base.progress import Report, silent
from ddkit.errors import ArtifactError, ConfigError
from ddkit.training.experts.identity import Identity
from ddkit.training.experts.settings import ExpertSettings
from ddkit.training.experts.training import Trajectory

KIND, VERSION = "ddkit.expert", 1


def expert_path(folder: Path, expert: int) -> Path:
    """Return the file of expert ``expert``."""
    return folder / f"expert-{expert:04d}.safetensors"


@dataclass(frozen=True)
class ExpertRecord:
    """What the file of an expert says beside its weights.

    Args:
        expert: its number.
        loss: E + 1 training losses, at initialisation first.
        accuracy: E + 1 training accuracies.
        flatness: mean increase of the last loss under random perturbations of 5 % of the weights' length.
        seconds: of its training.
        tensors: SHA-256 of its weights.
    """

    expert: int
    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    flatness: float
    seconds: float
    tensors: str


def write_expert(folder: Path, identity: Identity, expert: int, way: Trajectory, precision: str) -> None:
    """Write the file of one expert atomically.

    Raises:
        ArtifactError: a difference that the stored number format cannot hold.
        CheckpointError: the file cannot be written.
    """
    start = way.weights[0]
    deltas = torch.stack([weights - start for weights in way.weights[1:]]).to(identity.settings.torch_dtype)
    if not bool(deltas.isfinite().all()):
        raise ArtifactError(
            f"expert {expert} moved further than {identity.settings.dtype} can hold (65504): store float32 "
            f"(without --half)"
        )
    content = {
        "buffer": identity.digest,
        "expert": expert,
        "seed": str(identity.settings.seed_of(expert)),
        "loss": way.loss,
        "accuracy": way.accuracy,
        "flatness": way.flatness,
        "seconds": round(way.seconds, 3),
        "precision": precision,
        "tensors": _sha256(start, deltas),
    }
    raw = pack({"start": start, "deltas": deltas}, content, kind=KIND, version=VERSION)
    write_atomically(expert_path(folder, expert), lambda temporary: temporary.write_bytes(raw))


@contextmanager
def _readable(path: Path) -> Iterator[BinaryIO]:
    """Open the file of an expert; what is wrong with it is said with its name and a remedy."""
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise ArtifactError(f"cannot read '{path}': {error.strerror or error}") from None
    except ArtifactError as error:
        raise ArtifactError(f"'{path}': {error}; or remove it and run `ddkit experts` again") from None


def read_record(folder: Path, identity: Identity, expert: int) -> ExpertRecord:
    """Read the header of an expert's file and check that it belongs to the buffer.

    Raises:
        ArtifactError: the file is damaged, of another buffer, or of other shapes.
    """
    path, epochs = expert_path(folder, expert), identity.settings.epochs
    with _readable(path) as stream:
        content, tensors = read_content(stream, path.stat().st_size, kind=KIND, version=VERSION)
    if content.get("buffer") != identity.digest or content.get("expert") != expert:
        raise ArtifactError(
            f"'{path}' belongs to another buffer or is another expert: experts of different settings or data do not "
            f"mix; remove the file and run `ddkit experts` again"
        )
    expected = {
        "start": (torch.float32, (identity.size,)),
        "deltas": (identity.settings.torch_dtype, (epochs, identity.size)),
    }
    if tensors != expected:
        raise ArtifactError(f"'{path}' holds {tensors}, not {expected}: remove it and run `ddkit experts` again")
    try:
        loss, accuracy = (tuple(float(value) for value in content[key]) for key in ("loss", "accuracy"))
        if len(loss) != epochs + 1 or len(accuracy) != epochs + 1:
            raise ValueError("other epochs")
        flatness, seconds = float(content["flatness"]), float(content["seconds"])
        record = ExpertRecord(expert, loss, accuracy, flatness, seconds, str(content["tensors"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ArtifactError(
            f"'{path}' lacks measures of its training: remove it and run `ddkit experts` again"
        ) from None
    return record


class ExpertBuffer:
    """Trajectories of experts in a folder: ``buffer.json`` and one safetensors file per expert.

    Opening reads headers only, whatever the size. An expert's checksum is compared when its weights are first asked
    for; after that they are memory-mapped and read one row at a time.

    Args:
        path: the folder.

    Raises:
        ArtifactError: there is no buffer, it is damaged, or an expert between others is missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.identity = Identity.read(self.path)
        count = 0
        while expert_path(self.path, count).is_file():
            count += 1
        present = len(list(self.path.glob("expert-*.safetensors")))
        if not present:
            raise ArtifactError(f"'{self.path}' has no finished expert yet: run `ddkit experts` with its settings")
        if present != count:
            raise ArtifactError(
                f"'{self.path}' has {present} experts but expert {count} is missing: run `ddkit experts` again with "
                f"the same settings, which trains what is missing"
            )
        self.records = [read_record(self.path, self.identity, expert) for expert in range(count)]
        self._handles: dict[int, Any] = {}

    @property
    def settings(self) -> ExpertSettings:
        """How the experts were trained."""
        return self.identity.settings

    @property
    def count(self) -> int:
        """Number of experts."""
        return len(self.records)

    @property
    def epochs(self) -> int:
        """E: weights are stored at epochs 0 (initialisation) to E."""
        return self.settings.epochs

    @property
    def bytes(self) -> int:
        """Size of the experts' files."""
        return sum(expert_path(self.path, expert).stat().st_size for expert in range(self.count))

    def digest(self, count: int | None = None) -> str:
        """Return the SHA-256 of settings, data and weights of the first ``count`` experts (None for all)."""
        parts = [self.identity.digest, *(record.tensors for record in self.records[:count])]
        return hashlib.sha256(canonical_json(parts).encode()).hexdigest()

    def weights(self, expert: int, epoch: int) -> Tensor:
        """Return the weights (P,) float32 of an expert after ``epoch`` epochs, 0 for its initialisation.

        Raises:
            ConfigError: there is no such expert or epoch.
            ArtifactError: the file was changed after it was written.
        """
        return self.rows(expert, [epoch])[0]

    def rows(self, expert: int, epochs: list[int]) -> list[Tensor]:
        """Return the weights of an expert after each of ``epochs``; see :meth:`weights`."""
        if not 0 <= expert < self.count:
            raise ConfigError(f"expert {expert} does not exist: '{self.path}' has experts 0 to {self.count - 1}")
        for epoch in epochs:
            if not 0 <= epoch <= self.epochs:
                raise ConfigError(f"epoch {epoch} does not exist: the experts have epochs 0 to {self.epochs}")
        handle = self._handle(expert)
        start = handle.get_slice("start")[:]
        deltas = handle.get_slice("deltas")
        return [start + deltas[epoch - 1 : epoch][0].float() if epoch else start.clone() for epoch in epochs]

    def _handle(self, expert: int) -> Any:
        """Return the open file of an expert, whose checksum is compared when it is first needed."""
        if expert not in self._handles:
            self._verify(expert)
            self._handles[expert] = safe_open(expert_path(self.path, expert), framework="pt", device="cpu")
        return self._handles[expert]

    def _verify(self, expert: int) -> None:
        path = expert_path(self.path, expert)
        with _readable(path) as stream:
            _, tensors = unpack(stream, path.stat().st_size, kind=KIND, version=VERSION)
        if _sha256(tensors["start"], tensors["deltas"]) != self.records[expert].tensors:
            raise ArtifactError(f"'{path}' names another digest of its weights: remove it and train it again")

    def verify(self, report: Report = silent) -> None:
        """Read everything and compare the checksums.

        Raises:
            ArtifactError: naming every file that was changed after it was written.
        """
        bad = []
        for expert in range(self.count):
            report("verifying experts", expert, self.count)
            try:
                self._verify(expert)
            except ArtifactError as error:
                bad.append(str(error))
        report("verifying experts", self.count, self.count)
        if bad:
            more = "".join(f"; also expert {text.partition('expert-')[2][:4]}" for text in bad[1:])
            raise ArtifactError(bad[0] + more)

    def table(self) -> list[dict[str, Any]]:
        """Return one row per expert: loss and accuracy at its end, flatness, seconds."""
        return [
            {
                "expert": record.expert,
                "loss": round(record.loss[-1], 4),
                "accuracy": round(record.accuracy[-1], 4),
                "flatness": round(record.flatness, 5),
                "seconds": record.seconds,
            }
            for record in self.records
        ]

    def __repr__(self) -> str:
        return f"ExpertBuffer('{self.path}': {self.count} experts of {self.settings.model}, {self.epochs} epochs)"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}


def _sha256(*tensors: Tensor) -> str:
    state = hashlib.sha256()
    for tensor in tensors:
        state.update(tensor.contiguous().numpy().data)
    return state.hexdigest()
