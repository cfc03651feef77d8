"""What an augmentation is: explicit random draws, and a transform that shares one draw within a group."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddkit.errors import ConfigError, DataError


@dataclass(frozen=True, eq=False)
class Draws:
    """Everything random about one application of an augmentation: one row per group (usually a class).

    The number of random numbers behind a row never depends on the values drawn, so applying the rows in
    chunks, or resuming a run in between, changes nothing.

    Args:
        family: (G,) int64 on the CPU, which of the families that exclude each other is applied.
        uniform: (G, U) float32 on the CPU in [0, 1), from which the parameters of all families derive; the
            augmentation sets U.
    """

    family: Tensor
    uniform: Tensor

    def __len__(self) -> int:
        return len(self.family)

    def select(self, index: Tensor | Sequence[int]) -> Draws:
        """Return the rows at ``index`` (M,) as new draws of M groups."""
        index = torch.as_tensor(index, dtype=torch.int64)
        return Draws(self.family[index], self.uniform[index])

    @staticmethod
    def concatenate(draws: Sequence[Draws]) -> Draws:
        """Stack the rows of several draws, in order."""
        return Draws(torch.cat([d.family for d in draws]), torch.cat([d.uniform for d in draws]))


class Augmentation(ABC):
    """A random, differentiable image transform whose randomness is drawn separately from its application."""

    strategy: str
    """The name under which :func:`ddkit.augment.create` builds it."""

    @abstractmethod
    def draw(self, groups: int, generator: torch.Generator) -> Draws:
        """Draw one row for each of ``groups`` groups from a CPU ``generator``."""

    @abstractmethod
    def draw_train(self, images: int, generator: torch.Generator) -> Draws:
        """Draw for a training mini-batch: one row per image, as :meth:`train` uses them."""

    @abstractmethod
    def apply(self, images: Tensor, draws: Draws, group: Tensor) -> Tensor:
        """Transform each image with the row of ``draws`` of its group.

        Differentiable with respect to ``images``.

        Args:
            images: (N, C, H, W) floating, preprocessed (unit variance), on any device.
            draws: G rows.
            group: (N,) int64, the row of each image; on the CPU it costs no device synchronisation. Images of
                a group need not be neighbours, but are processed fastest when they are.

        Returns:
            (N, C, H, W), of the dtype and on the device of ``images``.
        """

    def train(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment a training mini-batch (N, C, H, W) without sharing; returns the same shape."""
        count = len(images)
        return self.apply(images, self.draw_train(count, generator), torch.arange(count))

    def check(
        self,
        images: Tensor,
        other: Tensor | None = None,
        class_names: Sequence[str] = (),
        whitened: bool = False,
    ) -> None:
        """Refuse data on which this augmentation would be wrong, warn where it is doubtful; once per run.

        Args:
            images: (N, C, H, W) preprocessed real images, a batch is enough.
            other: the images (M, C, H, W) that will share draws with them, usually the synthetic ones.
            class_names: names of the classes, to recognise digits.
            whitened: whether the images are whitened, which explains a standard deviation far from 1.

        Raises:
            DataError: images that are not preprocessed floating images, or shapes that differ between both
                sides.
        """
        if other is not None and images.shape[1:] != other.shape[1:]:
            raise DataError(
                f"real images have shape {tuple(images.shape[1:])} and synthetic ones "
                f"{tuple(other.shape[1:])}: both share one augmentation and must agree in "
                "(C, H, W); preprocess both sides alike"
            )


class NoAugmentation(Augmentation):
    """The identity; draws nothing from the generator."""

    strategy = "none"

    def draw(self, groups: int, generator: torch.Generator) -> Draws:
        """Return ``groups`` rows without uniforms; the generator is not advanced."""
        return Draws(torch.zeros(groups, dtype=torch.int64), torch.zeros(groups, 0))

    def draw_train(self, images: int, generator: torch.Generator) -> Draws:
        """Return ``images`` rows without uniforms; the generator is not advanced."""
        return self.draw(images, generator)

    def apply(self, images: Tensor, draws: Draws, group: Tensor) -> Tensor:
        """Return ``images`` themselves."""
        return images


def checked_group(group: Tensor, images: int, rows: int) -> Tensor:
    """Return ``group`` on the CPU after checking that it names one of ``rows`` rows for every image.

    Raises:
        ConfigError: wrong length or dtype, or a row that does not exist.
    """
    group = group.cpu()
    if group.shape != (images,) or group.dtype != torch.int64:
        raise ConfigError(
            f"group has shape {tuple(group.shape)} and dtype {group.dtype}: it must be ({images},) int64, "
            "one row of the draws for each image"
        )
    if images and not 0 <= int(group.min()) <= int(group.max()) < rows:
        raise ConfigError(
            f"group holds rows {int(group.min())} to {int(group.max())} but the draws have {rows} rows: "
            "draw one row per group"
        )
    return group
