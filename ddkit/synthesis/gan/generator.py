"""Which network draws images from codes, which one judges them, and how is a trained generator kept in a file?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ddkit.base.container import pack, unpack
from ddkit.base.files import write_atomically
from ddkit.base.ranges import Count, in_range
from ddkit.base.registry import describe_validation_error
from ddkit.errors import ArtifactError, ConfigError

FORMAT = "ddkit.generator"
FORMAT_VERSION = 1
#: Images grow by this factor from the first feature maps on: two blocks that double height and width.
GROWTH = 4
SMALLEST_SIDE = 4

Shape = tuple[int, int, int]


def default_width(shape: Shape) -> int:
    """Return the feature maps of a generator of ``shape`` (C, H, W) images: 32 up to 16 pixels, else 64."""
    return 32 if max(shape[1:]) <= 16 else 64


def doubled(x: Tensor, convolution: nn.Conv2d) -> Tensor:
    """Return ``convolution`` (3x3, padding 1) of ``x`` (N, C, H, W) upsampled by 2 to its nearest neighbours.

    Computed as one transposed 4x4 convolution of stride 2, whose kernel sums the taps that fall on the same pixel: 4
    multiply-adds per output instead of 9. Forward and backward of 64 maps of 14x14 took 67 instead of 132 ms
    (channels_last, one CPU thread).
    """
    kernel = F.pad(convolution.weight.flip(2, 3).transpose(0, 1), (1, 1, 1, 1))
    rows = kernel[:, :, 1:] + kernel[:, :, :-1]
    return F.conv_transpose2d(x, rows[:, :, :, 1:] + rows[:, :, :, :-1], convolution.bias, stride=2, padding=1)


class ConditionalBatchNorm(nn.Module):
    r"""Batch norm whose gain and bias depend on the class: :math:`(1 + g_y)\,\hat{x} + b_y`.

    Args:
        channels: C.
        num_classes: K.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.momentum = 0.1
        self.gain = nn.Embedding(num_classes, channels)
        self.bias = nn.Embedding(num_classes, channels)
        nn.init.normal_(self.gain.weight, std=0.02)
        nn.init.zeros_(self.bias.weight)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Normalise maps ``x`` (N, C, H, W) of images of classes ``labels`` (N,)."""
        x = F.batch_norm(x, self.running_mean, self.running_var, training=self.training, momentum=self.momentum)
        return torch.addcmul(self.bias(labels)[:, :, None, None], x, 1 + self.gain(labels)[:, :, None, None])


class Generator(nn.Module):
    """Images from codes and class numbers: the residual-free, small form of BigGAN's 32x32 generator.

    A linear layer to ``width`` maps at a quarter of the image's size, two blocks (conditional batch norm, ReLU, nearest
    upsampling by 2, 3x3 convolution), then conditional batch norm, ReLU, 3x3 convolution and tanh. Sides that 4 does
    not divide are generated at the next multiple and cropped in the centre.

    Deviates from the generator of IT-GAN (https://arxiv.org/abs/2204.07513: BigGAN, 4.3 million numbers at 32x32): no
    skip connections and no spectral norm here, and 19,841 numbers for ten classes of 1x8x8.

    Args:
        shape: (C, H, W) of an image.
        num_classes: K.
        code_size: numbers in a code.
        width: feature maps, even.

    Shapes:
        - input: codes (N, code_size), labels (N,) int64.
        - output: (N, C, H, W) in (-1, 1).

    Raises:
        ConfigError: sides below 4 pixels, or a size out of range.
    """

    @in_range("synthesis")
    def __init__(self, shape: Shape, num_classes: int, code_size: Count = 32, width: int | None = None) -> None:
        super().__init__()
        width = default_width(shape) if width is None else width
        if min(shape[1:]) < SMALLEST_SIDE:
            raise ConfigError(
                f"a generator cannot draw {'x'.join(map(str, shape))} images: height and width must be at least "
                f"{SMALLEST_SIDE} px; enlarge the images or use synthesis=pixels"
            )
        if width < 2 or width % 2:
            raise ConfigError(f"synthesis.width={width} must be an even number of at least 2")
        self.shape, self.num_classes, self.code_size, self.width = shape, num_classes, code_size, width
        self.rows, self.columns = (math.ceil(side / GROWTH) for side in shape[1:])
        self.linear = nn.Linear(code_size, width * self.rows * self.columns)
        channels = (width, width, width // 2, shape[0])
        self.norms = nn.ModuleList(ConditionalBatchNorm(count, num_classes) for count in channels[:3])
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(channels))

    def forward(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Return the images (N, C, H, W) in (-1, 1) of ``codes`` (N, code_size) and ``labels`` (N,)."""
        x = self.linear(codes).view(len(codes), self.width, self.rows, self.columns)
        x = x.contiguous(memory_format=torch.channels_last)
        for number, (norm, convolution) in enumerate(zip(self.norms, self.convolutions, strict=True)):
            x = F.relu(norm(x, labels))
            x = doubled(x, cast("nn.Conv2d", convolution)) if number < 2 else convolution(x)
        top, left = ((have - want) // 2 for have, want in zip(x.shape[2:], self.shape[1:], strict=True))
        return torch.tanh(x[:, :, top : top + self.shape[1], left : left + self.shape[2]])

    @property
    def at_once(self) -> int:
        """Numbers of the largest maps of one image: half of ``width`` maps of 4 x 4 times the first size."""
        return self.width * self.rows * self.columns * GROWTH**2 // 2

    @property
    def work(self) -> int:
        """Multiply-adds of one image; those of upsampling convolutions take 4 taps per output."""
        pixels = self.rows * self.columns
        blocks = 4 * pixels * 4 * self.width**2 + 16 * pixels * 4 * self.width**2 // 2
        return self.code_size * self.width * pixels + blocks + 16 * pixels * 9 * self.shape[0] * self.width // 2

    def options(self) -> dict[str, Any]:
        """Return what :func:`rebuild` needs beside the weights, JSON-able."""
        return {
            "shape": list(self.shape),
            "num_classes": self.num_classes,
            "code_size": self.code_size,
            "width": self.width,
        }


class Discriminator(nn.Module):
    """Scores of images and their classes: a projection discriminator (Miyato and Koyama 2018), spectrally normalised.

    Two 4x4 convolutions of stride 2, one 3x3 convolution, leaky ReLU of slope 0.1, sum pooling, then a linear score
    plus the inner product with the class's embedding.

    Args:
        shape: (C, H, W) of an image.
        num_classes: K.
        width: feature maps of the first convolution; the others have twice as many.
    """

    def __init__(self, shape: Shape, num_classes: int, width: int) -> None:
        super().__init__()
        sizes = ((shape[0], width, 4, 2), (width, 2 * width, 4, 2), (2 * width, 2 * width, 3, 1))
        layers = (nn.Conv2d(a, b, kernel, stride, padding=1) for a, b, kernel, stride in sizes)
        self.convolutions = nn.ModuleList(spectral_norm(layer) for layer in layers)
        self.score = spectral_norm(nn.Linear(2 * width, 1))
        self.projection = spectral_norm(nn.Embedding(num_classes, 2 * width))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the scores (N,) of ``images`` (N, C, H, W) in (-1, 1) of classes ``labels`` (N,)."""
        x = images
        for convolution in self.convolutions:
            x = F.leaky_relu(convolution(x), 0.1)
        pooled = x.sum((2, 3))
        return self.score(pooled).squeeze(1) + (self.projection(labels) * pooled).sum(1)


#: A length that fits PyTorch's integers.
_Size = Annotated[int, Field(ge=1, lt=2**31)]


class _Options(BaseModel):
    """The stored form of :meth:`Generator.options`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    shape: list[_Size]
    num_classes: _Size
    code_size: _Size
    width: _Size


def rebuild(options: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Generator:
    """Return the frozen generator of stored options and weights; no random number is drawn.

    Args:
        options: from :meth:`Generator.options`.
        weights: the generator's ``state_dict``; shared, not copied.

    Raises:
        ArtifactError: options or weights that are no generator's.
    """
    try:
        known = _Options(**options)
    except ValidationError as error:
        raise ArtifactError(f"options of a generator are wrong: {describe_validation_error(error)}") from None
    if len(known.shape) != 3:
        raise ArtifactError(f"a generator's image shape is {known.shape}: it must be (channels, height, width)")
    channels, height, width = known.shape
    try:
        with torch.device("meta"):  # nothing is allocated before the weights are known to fit
            generator = Generator((channels, height, width), known.num_classes, known.code_size, known.width)
    except (ConfigError, RuntimeError, TypeError, OverflowError) as error:
        raise ArtifactError(f"options of a generator are wrong: {' '.join(str(error).split())}") from None
    expected = {name: tensor.shape for name, tensor in generator.state_dict().items()}
    if {name: tensor.shape for name, tensor in weights.items()} != expected:
        raise ArtifactError("a generator's weights do not fit its options: write the file anew with ddkit")
    if any(tensor.dtype != torch.float32 for tensor in weights.values()):
        raise ArtifactError("a generator's weights are not all float32: write the file anew with ddkit")
    generator.load_state_dict(dict(weights), assign=True)
    return generator.eval().requires_grad_(False)


def save_generator(generator: Generator, path: Path | str) -> Path:
    """Write a trained generator to one verified ``.safetensors`` file, atomically; returns its path.

    Raises:
        ArtifactError: weights that are not finite.
        CheckpointError: the file cannot be written.
    """
    content = pack(generator.state_dict(), generator.options(), kind=FORMAT, version=FORMAT_VERSION)

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    return write_atomically(path, write)


def load_generator(path: Path | str) -> Generator:
    """Read and verify what :func:`save_generator` wrote; the generator is frozen and in eval mode.

    Raises:
        ArtifactError: no such file, or not a generator's; in one line.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            options, weights = unpack(stream, path.stat().st_size, kind=FORMAT, version=FORMAT_VERSION)
        return rebuild(options, weights)
    except OSError as error:
        raise ArtifactError(f"cannot read the generator '{path}': {error.strerror}: check the path") from None
    except ArtifactError as error:
        raise ArtifactError(f"cannot read the generator '{path}': {error}") from None
