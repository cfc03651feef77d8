"""One outer step of distribution matching, written plainly: a loop over classes, eager, float32.

The yardstick of ``bench_dm_step.py`` and an oracle of the tests. It follows the shape of the usual research code:
one class at a time, a sampled real batch, one Siamese augmentation per class, two forward passes, one backward pass
over the sum of all classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ddkit.augment import Augmentation, Draws


def looped_distribution_loss(
    model: object,
    real: Sequence[Tensor],
    synthetic: Sequence[Tensor],
    augmentation: Augmentation | None = None,
    draws: Draws | None = None,
) -> Tensor:
    """Return the distribution matching loss, class by class.

    Args:
        model: a network with ``features``; its weights require no gradient.
        real: K tensors (n_c, C, H, W).
        synthetic: K tensors (ipc, C, H, W).
        augmentation: shared by both sides of a class; None for none.
        draws: its parameters, one row per class.
    """
    total: Tensor | None = None
    for label, (real_images, synthetic_images) in enumerate(zip(real, synthetic, strict=True)):
        if augmentation is not None and draws is not None:
            row = draws.select([label])
            real_images = _apply(augmentation, real_images, row)
            synthetic_images = _apply(augmentation, synthetic_images, row)
        real_features = model.features(real_images).detach()  # type: ignore[attr-defined]
        synthetic_features = model.features(synthetic_images)  # type: ignore[attr-defined]
        distance = (real_features.mean(0) - synthetic_features.mean(0)).square().sum()
        total = distance if total is None else total + distance
    assert total is not None
    return total


def _apply(augmentation: Augmentation, images: Tensor, row: Draws) -> Tensor:
    import torch

    return augmentation.apply(images, row, torch.zeros(len(images), dtype=torch.int64))
