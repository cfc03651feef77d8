"""What a distilled dataset costs to store and to use."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Budget:
    """Size of a distilled dataset.

    Comparisons at equal images per class but unequal bytes mislead, so everything that has to be stored counts:
    soft labels, decoders and learned rates included.

    Args:
        images: stored images (or codes), all classes together.
        decoded_images: training images after decoding; equals ``images`` without a decoder.
        floats: stored numbers, labels and decoders included (a hard label counts as one number).
        bytes: stored bytes at the precision in which they are stored.
    """

    images: int
    decoded_images: int
    floats: int
    bytes: int

    def as_dict(self) -> dict[str, int]:
        """Return the four numbers by name."""
        return asdict(self)
