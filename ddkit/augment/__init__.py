"""Which augmentations exist, and which one a dataset gets by default."""

from __future__ import annotations

from ddkit.augment.base import Augmentation, Draws, NoAugmentation
from ddkit.augment.cutmix import cutmix
from ddkit.augment.families import FAMILIES, FamilyAugmentation
from ddkit.augment.sequential import SequentialAugmentation
from ddkit.augment.siamese import SiameseAugmentation
from ddkit.base.registry import checked_options
from ddkit.data.names import known_as
from ddkit.errors import ConfigError

__all__ = [
    "FAMILIES",
    "Augmentation",
    "Draws",
    "NoAugmentation",
    "SequentialAugmentation",
    "SiameseAugmentation",
    "create",
    "cutmix",
    "default_strategy",
]

_NOT_MIRRORED = frozenset({"digits", "emnist", "kmnist", "mnist", "qmnist", "svhn", "usps"})


def create(strategy: str, **constants: float) -> Augmentation:
    """Build the augmentation called ``strategy``.

    Args:
        strategy: ``none``; families joined by underscores, such as ``color_crop_cutout_flip_scale_rotate``, of
            which one at a time is applied (:class:`SiameseAugmentation`, a single family too); or families joined
            by plus signs, such as ``color+crop+cutout``, applied one after the other
            (:class:`SequentialAugmentation`).
        constants: constants of :class:`~ddkit.augment.families.FamilyAugmentation` that differ from the papers'.

    Raises:
        UnknownNameError: a family or constant that does not exist; the nearest one is suggested.
        ConfigError: no family, a repeated one, both signs in one strategy, or a constant that is not allowed.
    """
    if not isinstance(strategy, str):
        raise ConfigError(f"augmentation {strategy!r} is not a name: use 'none' or families joined by '_' or '+'")
    if strategy.lower() == "none":
        if constants:
            raise ConfigError(
                f"augmentation 'none' takes no constants, got {', '.join(sorted(constants))}: remove them"
            )
        return NoAugmentation()
    if "+" in strategy and "_" in strategy:
        raise ConfigError(
            f"augmentation '{strategy}' joins families by both '+' and '_': '+' applies them one after the other, "
            "'_' one at a time; use one of the two signs"
        )
    build: type[FamilyAugmentation] = SequentialAugmentation if "+" in strategy else SiameseAugmentation
    options = {"strategy": strategy, **constants}
    return build(**checked_options(f"the {build.kind} augmentation", build, options))


def default_strategy(data_name: str) -> str:
    """Return the paper's strategy for a dataset: mirroring is left out for digits and other characters.

    Args:
        data_name: name or path of the dataset, such as ``mnist`` or ``sets/cifar10.npz``.
    """
    mirrored = known_as(data_name) not in _NOT_MIRRORED
    return "_".join(family for family in FAMILIES if mirrored or family != "flip")
