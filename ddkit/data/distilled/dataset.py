"""What is a distilled dataset, in memory and on disk?

On disk it is one ``.safetensors`` file that holds everything needed to reproduce its accuracy: no pickle, no
clock, and the same content always gives the same bytes. :mod:`ddkit.base.container` describes the envelope and the
checksum; this is what lies inside.

Tensors:

- ``coded.<name>.<part>``: in place of ``stored.<name>`` where a codec keeps it in fewer bytes
  (:mod:`ddkit.data.distilled.coding`).
- ``stored.<name>``: the compact form. For synthesis ``pixels`` exactly ``stored.images``, ``(N, C, H, W)``,
  float32 in the preprocessed space or uint8 at rest, and ``stored.labels``, ``(N,)`` int64 or ``(N, K)``
  float32. For any other synthesis whatever :mod:`ddkit.data.distilled.syntheses` turns into these two.
- ``preprocessing.<name>``: the ZCA tensors of :class:`~ddkit.data.preprocessing.Preprocessing`, if any.

Metadata: ``format`` is ``ddkit.distilled-dataset``, ``format_version`` is 1, or 2 for a coded set, and ``content`` has
the fields

- ``label_kind``: ``hard`` (class numbers), ``soft`` (rows of probabilities) or ``regression`` (any rows);
- ``class_names``: K texts;
- ``budget``: ``images``, ``decoded_images``, ``floats``, ``bytes``, see :class:`~ddkit.data.distilled.budget.Budget`;
- ``preprocessing``: ``mean`` and ``std`` per channel on the [0, 1] scale, ``zca`` true or false;
- ``synthesis``, ``synthesis_options``: the decoder of ``stored.*``;
- ``codec`` (format 2 only): ``name``, and ``tensors``: what each needs to be decoded;
- ``metadata``: where the set came from, see :class:`~ddkit.data.distilled.card.Card`.

A reader accepts every format version up to its own and refuses a newer one with the advice to upgrade ddkit.
A change of these fields raises the version; a new key inside ``metadata`` does not: readers keep what they do
not know.
"""

from __future__ import annotations

import io
import stat
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from json import loads
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ddkit.base.container import canonical_json, pack, unpack, written_checksum
from ddkit.base.files import write_atomically
from ddkit.base.version import __version__
from ddkit.codecs.base import Grid
from ddkit.data.distilled import syntheses
from ddkit.data.distilled.budget import Budget, payload
from ddkit.data.distilled.card import Card
from ddkit.data.distilled.checks import Content, LabelKind, check, checked
from ddkit.data.distilled.coding import Coding, code
from ddkit.data.distilled.export import Exported, ExportReport, export
from ddkit.data.distilled.label_loss import label_loss
from ddkit.data.preprocessing import Preprocessing
from ddkit.errors import DAMAGED, ArtifactError, shortened

FORMAT = "ddkit.distilled-dataset"
#: Of a set that is stored as it is, and of a coded one.
PLAIN_VERSION, FORMAT_VERSION = 1, 2
FILE_NAME = "distilled.safetensors"


class DistilledDataset(Dataset[tuple[Tensor, Tensor]]):
    """A distilled dataset: a ``torch.utils.data.Dataset`` that saves to and loads from one verified file.

    Its items are what a training loop takes: preprocessed float32 images with their labels. Tensors are
    copied to the CPU; treat them as constants.

    Args:
        images: ``(N, C, H, W)`` float32 in the preprocessed space, or uint8 (real images of a coreset), which
            are preprocessed on access.
        labels: ``(N,)`` int64 for hard labels, else ``(N, K)`` float32.
        label_kind: ``hard``, ``soft`` (rows are probabilities) or ``regression`` (any finite rows).
        class_names: K names; class k is ``class_names[k]``.
        preprocessing: of the real data; evaluation applies the same to test images.
        budget: what storing the set costs; may be left out for synthesis ``pixels``.
        metadata: JSON-able, see :class:`~ddkit.data.distilled.card.Card`; ``ddkit_version`` is added.
        synthesis: how ``images`` and ``labels`` follow from ``stored``; ``pixels`` stores them as they are.
        synthesis_options: JSON-able options of the decoding.
        stored: the compact form by name; needless for ``pixels``, whose compact form are images and labels.
        coding: the coded form of ``stored``, which decodes to exactly these tensors; None to store them as they are.

    Raises:
        ArtifactError: parts that contradict each other, that are not finite or that no file can hold.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        class_names: Sequence[str],
        preprocessing: Preprocessing,
        label_kind: LabelKind = "hard",
        budget: Budget | None = None,
        metadata: Mapping[str, Any] | None = None,
        synthesis: str = "pixels",
        synthesis_options: Mapping[str, Any] | None = None,
        stored: Mapping[str, Tensor] | None = None,
        coding: Coding | None = None,
    ) -> None:
        self.images = _own(images)
        self.labels = _own(labels)
        self.label_kind = label_kind
        self.class_names = tuple(class_names)
        self.preprocessing = preprocessing
        self.synthesis = synthesis
        self.synthesis_options: dict[str, Any] = _json_copy(synthesis_options or {})
        self.metadata: dict[str, Any] = _json_copy({"ddkit_version": __version__, **(metadata or {})})
        self._stored = {name: _own(tensor) for name, tensor in (stored or {}).items()}
        self.coding = coding
        self._said = False
        if budget is None:
            if synthesis != "pixels":
                raise ArtifactError(f"no budget for synthesis '{synthesis}': pass the one of its synthesizer")
            numbers = (self.images, self.labels)
            budget = Budget(
                images=len(self.images),
                decoded_images=len(self.images),
                floats=sum(tensor.numel() for tensor in numbers),
                bytes=sum(tensor.nbytes for tensor in numbers),
            )
        self.budget = budget
        self._check()
        self._check_stored()
        self.budget = replace(budget, payload=self._payload(), file=None)

    def _payload(self) -> int:
        held = self.stored if self.coding is None else self.coding.parts()
        return payload(held, self.num_classes, self.preprocessing.to_tensors().values())

    def _check(self) -> None:
        check(
            self.images,
            self.labels,
            self.label_kind,
            self.class_names,
            self.preprocessing,
            self.budget,
            self.synthesis,
            self.metadata,
        )

    def _check_stored(self) -> None:
        if self.synthesis != "pixels":
            if not self._stored:
                raise ArtifactError(f"no stored tensors for synthesis '{self.synthesis}': pass its compact form")
            return
        if self._stored:
            same = set(self._stored) == set(self.stored)
            if not same or any(not torch.equal(self._stored[k], v) for k, v in self.stored.items()):
                raise ArtifactError("stored tensors are not the images and labels that 'pixels' stores: leave them out")
        self._stored = {}

    @property
    def stored(self) -> dict[str, Tensor]:
        """The tensors that are saved: ``images`` and ``labels`` for ``pixels``, else the compact form."""
        return {"images": self.images, "labels": self.labels} if self.synthesis == "pixels" else dict(self._stored)

    @property
    def card(self) -> Card:
        """The metadata as a typed model, read anew every time; the set itself does not follow changes of it."""
        return checked(Card, self.metadata)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def ipc(self) -> int | None:
        """Images per class, or None when the classes differ.

        A soft label counts for its largest entry, unless the set was distilled: its images are class by class then,
        whatever experts say of them.
        """
        if self.label_kind != "hard" and self.metadata.get("config") and len(self) % self.num_classes == 0:
            return len(self) // self.num_classes
        counts = torch.bincount(self.hard_labels(), minlength=self.num_classes)
        return int(counts[0]) if bool((counts == counts[0]).all()) else None

    def __len__(self) -> int:
        return len(self.images)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss by which networks are meant to be trained on this set, a scalar.

        Cross-entropy for class numbers and probabilities, the squared error for regression rows, on which
        cross-entropy has no lower bound and diverges; see :func:`~ddkit.data.distilled.label_loss.label_loss`.

        Args:
            outputs: of a network, (N, K).
            labels: as the items of this set give them, (N,) or (N, K).
        """
        return label_loss(outputs, labels, self.label_kind, self.metadata.get("recipe") or {})

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self._say_how_to_train()
        return self._preprocessed(self.images[index].unsqueeze(0))[0], self.labels[index]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Return a batch for a ``DataLoader``: images at rest are preprocessed all at once."""
        self._say_how_to_train()
        rows = torch.as_tensor(indices, dtype=torch.int64)
        return list(zip(self._preprocessed(self.images[rows]), self.labels[rows], strict=True))

    def __repr__(self) -> str:
        method = self.card.method or "unknown method"
        size = "x".join(map(str, self.shape))
        return (
            f"DistilledDataset({method}: {len(self)} images {size}, {self.num_classes} classes, "
            f"{self.label_kind} labels, {self.budget.bytes} bytes)"
        )

    def _say_how_to_train(self) -> None:
        """Warn once that the labels are no classes or probabilities: a loop with cross-entropy would diverge."""
        if self.label_kind == "regression" and not self._said:
            self._said = True
            warnings.warn(
                f"the labels of this set are regression rows, from {float(self.labels.min()):.3g} to "
                f"{float(self.labels.max()):.3g}: train on them by the set's own loss(outputs, labels), a squared "
                f"error unless its recipe says otherwise; plain cross-entropy diverges",
                stacklevel=3,
            )

    def _preprocessed(self, images: Tensor) -> Tensor:
        return self.preprocessing.apply(images) if images.dtype == torch.uint8 else images

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return all preprocessed images ``(N, C, H, W)`` float32 and their labels."""
        return self._preprocessed(self.images), self.labels

    def hard_labels(self) -> Tensor:
        """Return class numbers ``(N,)`` int64: the labels, or the largest entry of each row."""
        return self.labels if self.label_kind == "hard" else self.labels.argmax(dim=1)

    def started_as(self) -> Tensor:
        """Return of which class each image was meant to be ``(N,)`` int64, whatever its label has become since.

        Learned labels may end far from where they started: those of real images need not show their classes.
        """
        order = self.card.order
        if order is None:
            return self.hard_labels()
        return torch.tensor(order.classes).repeat_interleave(torch.tensor(order.counts()))

    def viewable(self) -> Tensor:
        """Return the images without preprocessing, clipped to [0, 1]: ``(N, C, H, W)`` float32."""
        return self.unclipped().clamp(0.0, 1.0)

    def unclipped(self) -> Tensor:
        """Return the images without preprocessing, values beyond [0, 1] kept: ``(N, C, H, W)`` float32."""
        if self.images.dtype == torch.uint8:
            return self.images.float() / 255.0
        return self.preprocessing.invert(self.images)

    def coded(self, codec: str, grids: Mapping[str, Grid] | None = None) -> DistilledDataset:
        """Return this set in fewer bytes: what a codec keeps of its stored tensors, decoded.

        Hard labels in the order of the classes cost nothing, rows one byte a class; tensors that do not look like
        images (decoders) are kept in float16.

        >>> small = distilled.coded("uniform:bits=3")
        >>> small.budget.bytes < distilled.budget.bytes / 10
        True

        Args:
            codec: a name of :data:`ddkit.codecs.registry` with its options, such as ``uniform:bits=3``.
            grids: ranges by the name of a stored tensor, fitted before; None to fit them to this set.

        Raises:
            UnknownNameError: no such codec.
            ConfigError: an option out of range, or tensors that the codec cannot hold.
        """
        stored = {"images": self.tensors()[0], "labels": self.labels} if self.synthesis == "pixels" else self.stored
        images = syntheses.decoder(self.synthesis, self.card.synthesis_package).image_like
        coding = code(stored, codec, images, self.num_classes, probabilities=self.label_kind == "soft", grids=grids)
        return self._from_stored(
            coding.decoded(self.num_classes),
            coding,
            label_kind=self.label_kind,
            class_names=self.class_names,
            preprocessing=self.preprocessing,
            budget=replace(self.budget, bytes=coding.nbytes),
            metadata=self.metadata,
            synthesis=self.synthesis,
            synthesis_options=self.synthesis_options,
        )

    @classmethod
    def _from_stored(cls, stored: Mapping[str, Tensor], coding: Coding | None, **fields: Any) -> DistilledDataset:
        """Return the set whose stored tensors these are."""
        if fields["synthesis"] == "pixels":
            if set(stored) != {"images", "labels"}:
                raise ArtifactError("tensors are not exactly images and labels: write the file anew")
            return cls(stored["images"], stored["labels"], coding=coding, **fields)
        package = checked(Card, fields["metadata"]).synthesis_package
        images, labels = syntheses.decode(
            fields["synthesis"], stored, fields["synthesis_options"], fields["budget"].decoded_images, package
        )
        return cls(images, labels, stored=stored, coding=coding, **fields)

    def checksum(self) -> str:
        """Return the SHA-256 that :meth:`save` writes into the file (:mod:`ddkit.base.container`)."""
        return written_checksum(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the bytes of the file, for a network or a database; equal content gives equal bytes.

        Raises:
            ArtifactError: a part was changed after construction and no longer fits the others.
        """
        self._check()
        kind, held = ("stored", self.stored) if self.coding is None else ("coded", self.coding.parts())
        tensors = {f"{kind}.{name}": tensor for name, tensor in held.items()}
        for name, tensor in self.preprocessing.to_tensors().items():
            tensors[f"preprocessing.{name}"] = tensor
        content: dict[str, Any] = {
            "label_kind": self.label_kind,
            "class_names": list(self.class_names),
            "budget": self.budget.kept(),
            "preprocessing": self.preprocessing.metadata(),
            "synthesis": self.synthesis,
            "synthesis_options": self.synthesis_options,
            "metadata": self.metadata,
        }
        if self.coding is None:
            return pack(tensors, content, kind=FORMAT, version=PLAIN_VERSION)
        if any(
            not torch.equal(self.stored[name], made) for name, made in self.coding.decoded(self.num_classes).items()
        ):
            raise ArtifactError("images or labels were changed after they were coded: code the changed set")
        return pack(tensors, {**content, "codec": self.coding.content()}, kind=FORMAT, version=FORMAT_VERSION)

    def save(self, path: Path | str) -> Path:
        """Write the dataset to one file, atomically: a file already there stays whole until the new one is.

        Args:
            path: a file that ends in ``.safetensors``, or a folder for ``distilled.safetensors``.

        Returns:
            The path of the file.

        Raises:
            ArtifactError: the content is inconsistent.
            CheckpointError: the disk is full or the folder cannot be written.
        """
        path = Path(path)
        if path.is_dir() or path.suffix != ".safetensors":
            path = path / FILE_NAME
        content = self.to_bytes()

        def write(temporary: Path) -> None:
            temporary.write_bytes(content)

        written = write_atomically(path, write)
        self.budget = replace(self.budget, file=len(content))
        return written

    @classmethod
    def from_bytes(cls, content: bytes) -> DistilledDataset:
        """Verify and read what :meth:`to_bytes` returned.

        Raises:
            ArtifactError: as :meth:`load`.
        """
        with _only_artifact_errors("distilled dataset"):
            return cls._read(io.BytesIO(content), len(content))

    @classmethod
    def load(cls, path: Path | str) -> DistilledDataset:
        """Read and verify a distilled dataset; safe on files from strangers.

        Verified: the file is complete and unchanged since it was written (SHA-256), its version is known,
        metadata follow the schema, shapes and dtypes fit each other, numbers are finite, labels are in range.

        Args:
            path: the file, or the folder that contains ``distilled.safetensors``.

        Raises:
            ArtifactError: anything else, in one line that says what to do.
        """
        path = Path(path)
        with _only_artifact_errors(f"'{path}'"):
            path = path / FILE_NAME if path.is_dir() else path
            if not path.exists():
                raise ArtifactError(f"there is no file '{path.name}': check the path or run `ddkit distill` first")
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise ArtifactError("this is not a regular file: give the path of a saved distilled dataset")
            with path.open("rb") as stream:
                return cls._read(stream, status.st_size)

    @classmethod
    def _read(cls, stream: BinaryIO, size: int) -> DistilledDataset:
        raw_content, tensors = unpack(stream, size, kind=FORMAT, version=FORMAT_VERSION)
        content = checked(Content, raw_content)
        stored, coded = _take(tensors, "stored."), _take(tensors, "coded.")
        zca = _take(tensors, "preprocessing.")
        preprocessing = Preprocessing.from_tensors(zca, content.preprocessing.model_dump())
        tensors.update({name: zca[name] for name in set(zca) - set(preprocessing.to_tensors())})
        if tensors:
            raise ArtifactError(f"unknown tensor {min(tensors)[:80]!r}: write the file anew with this version of ddkit")
        coding = None
        if content.codec is not None:
            if stored:
                raise ArtifactError("a set is coded or stored as it is, not both: write the file anew")
            coding = Coding.of(content.codec.name, content.codec.tensors, coded)
            stored = coding.decoded(len(content.class_names))
        elif coded:
            raise ArtifactError("coded tensors have no codec: write the file anew")
        dataset = cls._from_stored(
            stored,
            coding,
            label_kind=content.label_kind,
            class_names=content.class_names,
            preprocessing=preprocessing,
            budget=Budget(**content.budget.model_dump()),
            metadata=content.metadata,
            synthesis=content.synthesis,
            synthesis_options=content.synthesis_options,
        )
        dataset.budget = replace(dataset.budget, file=size)
        dataset.metadata = content.metadata  # as written, also when it does not name a ddkit version
        return dataset

    def export(self, path: Path | str, format: str) -> ExportReport:
        """Write the images for other tools: see :func:`ddkit.data.distilled.export.export`."""
        content = Exported(
            images=self.tensors()[0],
            shown=self.unclipped(),
            at_rest=self.images.dtype == torch.uint8,
            labels=self.labels,
            classes=self.hard_labels(),
            label_kind=self.label_kind,
            class_names=self.class_names,
            preprocessing=self.preprocessing,
            compact=None if self.synthesis == "pixels" else f"{self.synthesis}, {self.budget.bytes:,} bytes",
            metadata=self.metadata,
        )
        return export(content, path, format)


def _own(tensor: Tensor) -> Tensor:
    """Copy to contiguous CPU memory, detached."""
    return torch.clone(tensor.detach().cpu(), memory_format=torch.contiguous_format)


def _json_copy(value: Mapping[str, Any]) -> dict[str, Any]:
    """Copy as it will be read back from a file: tuples become lists, keys text."""
    copy: dict[str, Any] = loads(canonical_json(dict(value)))
    return copy


def _take(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Move the tensors whose names start with ``prefix`` to a dictionary of their own, without the prefix."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in sorted(names)}


@contextmanager
def _only_artifact_errors(where: str) -> Iterator[None]:
    """Turn whatever hostile bytes provoke, in whichever library, into one line."""
    try:
        yield
    except ArtifactError as error:
        raise ArtifactError(shortened(f"cannot load {where}: {error}", 600)) from None
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ArtifactError(shortened(f"cannot load {where}: {reason}: {DAMAGED}", 600)) from error
