"""The layers of a teaching generator: weight normalisation, and batch normalisation per inner batch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Added to the variance of a batch, as in PyTorch.
EPSILON = 1e-5
#: Largest value of a pixel, in standard deviations of the data.
AMPLITUDE = 2.0


class WeightNormed(nn.Module):
    r"""A linear layer (or a 3x3 convolution of reflected borders) with :math:`W = g\, V / \|V\|` for every output.

    Deviation: the norm is taken per output and leaves the bias alone; in GTN's program it is that of the whole tensor
    and scales the bias as well. Where batch normalisation follows, neither makes a difference.

    Args:
        inputs: features or channels that enter.
        outputs: features or channels that leave.
        side: of the kernel, in pixels; 0 for a linear layer.
    """

    def __init__(self, inputs: int, outputs: int, side: int = 0) -> None:
        super().__init__()
        kernel = (side, side) if side else ()
        self.direction = nn.Parameter(torch.zeros(outputs, inputs, *kernel))
        self.length = nn.Parameter(torch.ones(outputs, 1, *(1 for _ in kernel)))
        self.bias = nn.Parameter(torch.zeros(outputs))

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Draw Kaiming-normal weights; their norms are the first lengths, biases are zero."""
        scale = math.sqrt(2 / self.direction[0].numel())
        self.direction.copy_(scale * torch.randn(self.direction.shape, generator=generator))
        self.length.copy_(self._norm())
        self.bias.zero_()

    def _norm(self) -> Tensor:
        return self.direction.flatten(1).norm(dim=1).view_as(self.length)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, outputs, ...) for ``x`` (N, inputs, ...)."""
        weight = self.direction * (self.length / self._norm())
        if weight.dim() == 2:
            return F.linear(x, weight, self.bias)
        pad = weight.shape[-1] // 2
        return F.conv2d(F.pad(x, (pad, pad, pad, pad), mode="reflect"), weight, self.bias)


class BatchNormOfBatches(nn.Module):
    """Training-mode batch normalisation of several equally long batches at once, each with its own statistics.

    Args:
        features: features or channels.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    @torch.no_grad()
    def reset(self) -> None:
        """Start with scale 1 and shift 0."""
        self.weight.fill_(1)
        self.bias.zero_()

    def forward(self, x: Tensor, batches: int) -> Tensor:
        """Normalise ``x`` (batches * n, features, ...), batch after batch."""
        parts = x.unflatten(0, (batches, -1))
        over = [dim for dim in range(1, parts.dim()) if dim != 2]
        variance, mean = torch.var_mean(parts, over, correction=0, keepdim=True)
        affine = (-1, *(1 for _ in x.shape[2:]))
        normed = ((parts - mean) * torch.rsqrt(variance + EPSILON)).flatten(0, 1)
        return normed * self.weight.view(affine) + self.bias.view(affine)


class ConditionalGenerator(nn.Module):
    """Noise and one-hot labels become images through two linear layers and two convolutions (GTN, arXiv 1912.07768).

    Linear to ``hidden``; linear to ``channels`` maps of a quarter of the size; twice nearest up-sampling and a 3x3
    convolution, to half the channels and to those of the image. Batch normalisation and a leaky ReLU of slope 0.1
    follow all but the last layer, ``2 tanh`` follows that.

    Args:
        inputs: numbers that enter per image, noise and label.
        shape: (C, H, W) of an image; sides that are no multiples of 4 are rounded up on the way.
        hidden: features of the first layer.
        channels: channels of the first maps.
    """

    def __init__(self, inputs: int, shape: tuple[int, int, int], hidden: int, channels: int) -> None:
        super().__init__()
        self.sides = [(math.ceil(shape[1] / part), math.ceil(shape[2] / part)) for part in (4, 2, 1)]
        height, width = self.sides[0]
        half = max(1, channels // 2)
        self.layers = nn.ModuleList(
            [
                WeightNormed(inputs, hidden),
                WeightNormed(hidden, channels * height * width),
                WeightNormed(channels, half, side=3),
                WeightNormed(half, shape[0], side=3),
            ]
        )
        self.norms = nn.ModuleList(BatchNormOfBatches(n) for n in (hidden, channels * height * width, half))

    def draw(self, generator: torch.Generator) -> None:
        """Draw all weights."""
        for layer in self.layers:
            layer.draw(generator)  # type: ignore[operator]
        for norm in self.norms:
            norm.reset()  # type: ignore[operator]

    def forward(self, codes: Tensor, batches: int) -> Tensor:
        """Return images (batches * n, C, H, W) of codes (batches * n, inputs), batch after batch."""
        x = codes
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=False)):
            if number == 2:
                x = F.interpolate(x.unflatten(1, (-1, *self.sides[0])), size=self.sides[1])
            x = F.leaky_relu(norm(layer(x), batches), 0.1)
        return AMPLITUDE * torch.tanh(self.layers[3](F.interpolate(x, size=self.sides[2])))
