"""What a distilled dataset costs to store and to use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

from torch import Tensor

LABELS = "labels"
#: What a file says of the budget; the rest follows from what it holds.
KEPT = ("images", "decoded_images", "floats", "bytes")


@dataclass(frozen=True)
class Budget:
    """Size of a distilled dataset.

    Comparisons at equal images per class but unequal bytes mislead, so everything that has to be stored counts:
    soft labels, decoders and learned rates included.

    Args:
        images: stored images (or codes), all classes together.
        decoded_images: training images after decoding; equals ``images`` without a decoder.
        floats: stored numbers, labels and decoders included (a hard label counts as one number).
        bytes: stored bytes at the precision in which they are stored, every label as a number of its own.
        payload: bytes by which sets are compared, real ones included, see :func:`payload`; a set counts them itself.
        file: bytes of the file, header and all; None for a set that is no file yet.
    """

    images: int
    decoded_images: int
    floats: int
    bytes: int
    payload: int | None = field(default=None, compare=False)
    file: int | None = field(default=None, compare=False)

    def as_dict(self) -> dict[str, int]:
        """Return the numbers by name, without those that are not known."""
        return {name: number for name, number in asdict(self).items() if number is not None}

    def kept(self) -> dict[str, int]:
        """Return the numbers that a file keeps."""
        return {name: getattr(self, name) for name in KEPT}


def payload(stored: Mapping[str, Tensor], classes: int, beside: Iterable[Tensor] = ()) -> int:
    """Return what stored tensors cost: the one price by which distilled and real sets are compared.

    Every tensor counts with its bytes but hard labels, which cost what :func:`label_bytes` says.

    Args:
        stored: by name, labels under ``labels``.
        classes: K.
        beside: further tensors without which the set cannot be used (whitening).
    """
    total = sum(tensor.nbytes for tensor in beside)
    for name, tensor in stored.items():
        hard = name == LABELS and tensor.ndim == 1
        total += label_bytes(tensor, classes) if hard else tensor.nbytes
    return total


def label_bytes(labels: Tensor, classes: int) -> int:
    """Return what hard labels (N,) cost: nothing in the order of the classes, else the fewest bits that tell K apart.

    >>> from torch import tensor
    >>> label_bytes(tensor([0, 0, 1, 1]), 2), label_bytes(tensor([0, 1, 0, 1]), 2)
    (0, 1)
    """
    if bool((labels[1:] >= labels[:-1]).all()):
        return 0
    return -(-len(labels) * max(1, (classes - 1).bit_length()) // 8)
