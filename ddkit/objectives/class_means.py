"""How the class means of the synthetic side are taken: which classes go through a network together, and the mean."""

from __future__ import annotations

import torch
from torch import Tensor

from ddkit.errors import ConfigError
from ddkit.networks.setting import Setting
from ddkit.synthesis.base import Synthesizer

#: Decoded synthetic images differentiated together (whole classes, at least one).
_SYNTHETIC_IMAGES = {"cpu": 512, "cuda": 8192}


def class_chunk(setting: Setting, synthesizer: Synthesizer, wanted: int | None) -> int:
    """Return how many classes go through the network together: ``wanted``, or as many as the image count allows.

    Raises:
        ConfigError: fewer than all classes with batch norm, whose statistics mix classes.
    """
    classes = setting.num_classes
    if setting.network.has_batch_norm:
        if wanted not in (None, classes):
            raise ConfigError(
                f"objective.class_chunk={wanted} with batch norm changes the objective (statistics mix classes): "
                f"leave it out or use a network with norm=instance"
            )
        return classes
    limit = _SYNTHETIC_IMAGES.get(setting.network.device.type, 512)
    return min(classes, wanted or max(1, limit // synthesizer.batch_per_class))


def class_means(layer: Tensor, group: Tensor, classes: Tensor) -> Tensor:
    r"""Return the mean of a layer's output over the images of every class, differentiable.

    Args:
        layer: (N, \*map shape).
        group: (N,) int64, the class of every image.
        classes: (G,) int64; every class has an image.

    Returns:
        (G, \*map shape).
    """
    own = (group[None] == classes[:, None]).to(layer)
    shares = own / own.sum(1, keepdim=True)
    # A matrix product, as index_add_ on a GPU sums in another order every time.
    return torch.matmul(shares, layer.flatten(1)).unflatten(1, layer.shape[1:])
