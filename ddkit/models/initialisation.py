"""From which distribution do the weights of a new network come, where not from PyTorch's own?"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch.nn as nn

from ddkit.errors import ConfigError

Initialisation: TypeAlias = Literal["default", "xavier", "lecun", "ntk"]

#: Standard deviation of N(0, 1) truncated at two standard deviations.
_TRUNCATED = 0.87962566103423978


def initialise_(model: nn.Module, how: Initialisation) -> None:
    """Draw the weights of all linear and convolutional layers of ``model`` again, in place.

    Scales and shifts of normalisation layers keep their 1 and 0, any other parameter stays as it is. With n the inputs
    and m the outputs of one unit (of a convolution: channels per group times pixels of the kernel):

    - ``xavier``: weights N(0, 2 / (n + m)), biases 0 (Glorot and Bengio 2010);
    - ``lecun``: weights of variance 1 / n from a normal distribution truncated at two of its standard deviations,
      widened so that the variance is 1 / n after the truncation; biases 0 (the default of Flax);
    - ``ntk``: weights N(0, 2 / n), biases N(0, 0.01) (Loo et al. 2022, arXiv 2210.12067): the prior of the ReLU NNGP
      kernel with sigma_w^2 = 2 and sigma_b^2 = 0.01;
    - ``default``: nothing.

    Numbers are drawn from PyTorch's default generator, layer by layer in the order of ``model.modules()``; call it
    through :class:`~ddkit.models.ModelSpec`, which seeds that generator and puts it back.

    Args:
        model: the network.
        how: the distribution.

    Raises:
        ConfigError: there is no linear or convolutional layer.
    """
    if how == "default":
        return
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    layers = [layer for layer in model.modules() if isinstance(layer, kinds)]
    if not layers:
        raise ConfigError(f"init={how} finds no linear or convolutional layer in {type(model).__name__}: leave it out")
    for layer in layers:
        inputs = layer.weight[0].numel()
        if how == "xavier":
            nn.init.xavier_normal_(layer.weight)
        elif how == "lecun":
            deviation = math.sqrt(1 / inputs) / _TRUNCATED
            nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        else:
            nn.init.normal_(layer.weight, std=math.sqrt(2 / inputs))
        if layer.bias is not None and how == "ntk":
            nn.init.normal_(layer.bias, std=0.1)
        elif layer.bias is not None:
            nn.init.zeros_(layer.bias)
