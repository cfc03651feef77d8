"""Which augmentations exist, and which one a dataset gets by default."""

from __future__ import annotations

from pathlib import PurePath

from ddkit.augment.base import Augmentation, Draws, NoAugmentation
from ddkit.augment.siamese import FAMILIES, SiameseAugmentation
from ddkit.errors import ConfigError
from ddkit.registry import checked_options

__all__ = [
    "FAMILIES",
    "Augmentation",
    "Draws",
    "NoAugmentation",
    "SiameseAugmentation",
    "create",
    "default_strategy",
]

_NOT_MIRRORED = frozenset({"digits", "emnist", "kmnist", "mnist", "qmnist", "svhn", "usps"})


def create(strategy: str, **constants: float) -> Augmentation:
    """Build the augmentation called ``strategy``.

    Args:
        strategy: ``none``, or families joined by underscores such as ``color_crop_cutout_flip_scale_rotate``.
        constants: constants of :class:`SiameseAugmentation` that differ from the paper's.

    Raises:
        UnknownNameError: a family or constant that does not exist; the nearest one is suggested.
        ConfigError: no family, a repeated one, or a constant that is not allowed.
    """
    if not isinstance(strategy, str):
        raise ConfigError(f"augmentation {strategy!r} is not a name: use 'none' or families joined by underscores")
    if strategy.lower() == "none":
        if constants:
            raise ConfigError(
                f"augmentation 'none' takes no constants, got {', '.join(sorted(constants))}: remove them"
            )
        return NoAugmentation()
    options = {"strategy": strategy, **constants}
    return SiameseAugmentation(**checked_options("the Siamese augmentation", SiameseAugmentation, options))


def default_strategy(data_name: str) -> str:
    """Return the paper's strategy for a dataset: mirroring is left out for digits and other characters.

    Args:
        data_name: name or path of the dataset, such as ``mnist`` or ``sets/cifar10.npz``.
    """
    mirrored = PurePath(data_name).stem.lower() not in _NOT_MIRRORED
    return "_".join(family for family in FAMILIES if mirrored or family != "flip")
