"""What do server and clients of one federation agree on before anything is sent?"""

from __future__ import annotations

from dataclasses import dataclass

from ddkit.data.preprocessing import Preprocessing
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, DataError


@dataclass(frozen=True)
class Task:
    """The classification problem of a federation; it says nothing about anybody's images.

    Args:
        shape: (C, H, W) of one image.
        class_names: K names, the same in the same order for everybody.
        preprocessing: what every network's images get: constants that were agreed on, not statistics of a client.

    Raises:
        ConfigError: fewer than two classes, or a preprocessing for other images.
    """

    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    preprocessing: Preprocessing

    def __post_init__(self) -> None:
        if len(self.class_names) < 2:
            raise ConfigError(f"a federation of {len(self.class_names)} classes has nothing to learn: give at least 2")
        if not self.preprocessing.fits(self.shape):
            raise ConfigError(
                f"preprocessing for {self.preprocessing.describe()} does not fit images of shape {self.shape}: use "
                f"one for images of this shape"
            )

    @classmethod
    def of(cls, real: RealData) -> Task:
        """Return the task of a data set that everybody may know the constants of (a public test set, for instance)."""
        return cls(real.shape, tuple(real.class_names), real.preprocessing)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def require(self, real: RealData) -> RealData:
        """Return a client's data with the preprocessing of the task.

        Raises:
            DataError: other classes or images than the federation's.
        """
        if tuple(real.class_names) != self.class_names or real.shape != self.shape:
            raise DataError(
                f"this client has {real.num_classes} classes of images {real.shape}, the federation "
                f"{self.num_classes} of {self.shape}: load the partition with num_classes={self.num_classes}, "
                f"allow_missing=True and the same class_names"
            )
        return real.with_preprocessing(self.preprocessing)
