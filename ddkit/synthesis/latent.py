"""How latent codes become images through tiny decoders, and how many codes fit a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.data.distilled.limits import MOST_AT_ONCE, check_learned
from ddkit.errors import ConfigError

#: Code pixels become squares of this side: two layers of stride 2.
UPSAMPLING = 4
#: Negative slope of the leaky ReLU between the two layers.
SLOPE = 0.1
#: Decoded images per call of the decoders.
CHUNK = 1024
#: (decoders, hidden channels), the largest first.
LADDER = ((8, 16), (8, 8), (4, 8), (2, 8), (2, 4), (1, 4))
#: Hidden channels of the one decoder that is tried where none of these leaves room for a code.
SMALLEST_HIDDEN = 2
#: Largest share of the budget that decoders may take.
DECODER_SHARE = 0.25
#: Most images per class, as the cost of a step and of evaluation grows with them.
MOST_IMAGES = 200
#: Most channels of a code.
MOST_CHANNELS = 12


def code_sides(shape: Sequence[int]) -> tuple[int, int]:
    """Return height and width of a code for images of ``shape`` (C, H, W): a quarter, rounded up."""
    return math.ceil(shape[1] / UPSAMPLING), math.ceil(shape[2] / UPSAMPLING)


def decoder_numbers(channels: int, code_channels: int, hidden: int) -> int:
    """Return the parameters of one decoder: 16 c_z h + h + 16 h C + C."""
    return 16 * code_channels * hidden + hidden + 16 * hidden * channels + channels


def codes_that_fit(
    num_classes: int, ipc: int, shape: Sequence[int], decoders: int, code_channels: int, hidden: int
) -> int:
    """Return how many codes per class the budget of ``ipc`` images per class holds beside the decoders, 0 for none."""
    left = ipc * num_classes * math.prod(shape) - decoders * decoder_numbers(shape[0], code_channels, hidden)
    return max(0, left // (num_classes * code_channels * math.prod(code_sides(shape))))


def decode_pairs(codes: Tensor, decoders: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Decode every code by every decoder.

    All decoders run in two calls: the first layers see the same codes, so they are one transposed convolution with
    m * h output channels; the second layers are one of m groups. A loop over decoders and ``torch.func.vmap`` give the
    same images.

    Args:
        codes: (N, c_z, H', W').
        decoders: weights (m, c_z, h, 4, 4), biases (m, h), weights (m, h, C, 4, 4), biases (m, C).
        shape: (C, H, W) of the images; sides that are no multiples of 4 are cropped centrally.

    Returns:
        (N, m, C, H, W), differentiable with respect to codes and decoders.
    """
    first_weight, first_bias, second_weight, second_bias = decoders
    count = len(first_weight)
    spread = first_weight.transpose(0, 1).flatten(1, 2)
    images = []
    inner = count * first_weight.shape[2] * 4 * math.prod(codes.shape[2:])
    for part in codes.split(max(1, min(CHUNK // count, MOST_AT_ONCE // inner))):
        hidden = F.conv_transpose2d(part, spread, first_bias.flatten(), stride=2, padding=1)
        hidden = F.leaky_relu(hidden, SLOPE)
        bias = second_bias.flatten()
        images.append(F.conv_transpose2d(hidden, second_weight.flatten(0, 1), bias, stride=2, padding=1, groups=count))
    decoded = torch.cat(images).unflatten(1, (count, -1))
    top, left = (decoded.shape[-2] - shape[1]) // 2, (decoded.shape[-1] - shape[2]) // 2
    return decoded[..., top : top + shape[1], left : left + shape[2]]


def checked_codes(num_classes: int, ipc: int, shape: Sequence[int], codes: int | None, sizes: Mapping[str, int]) -> int:
    """Return the codes per class: ``codes``, or as many as fit.

    Raises:
        ConfigError: the budget does not hold them, or all decoded images together are too large.
    """
    most = codes_that_fit(num_classes, ipc, shape, **sizes)
    budget, decoders = ipc * num_classes * math.prod(shape), sizes["decoders"]
    weights = decoders * decoder_numbers(shape[0], sizes["code_channels"], sizes["hidden"])
    per_code = num_classes * sizes["code_channels"] * math.prod(code_sides(shape))
    if most < 1:
        least = math.ceil((weights + per_code) / (num_classes * math.prod(shape)))
        shrinkable = [f"synthesis.{name}={value}" for name, value in sizes.items() if value > 1]
        smaller = f", or lower {' or '.join(shrinkable)}" if shrinkable else ""
        raise ConfigError(
            f"ipc={ipc} is a budget of {budget:,} numbers; the decoders take {weights:,} of them and one code per "
            f"class {per_code:,}: choose ipc >= {least}{smaller}"
        )
    if codes is not None and codes > most:
        raise ConfigError(
            f"synthesis.codes={codes} and {decoders} decoders take {weights + codes * per_code:,} numbers, ipc={ipc} "
            f"is a budget of {budget:,}: choose codes <= {most}, a larger ipc or smaller decoders"
        )
    count = most if codes is None else codes
    numbers, what = num_classes * count * decoders * math.prod(shape), f"{count} codes x {decoders} decoders per class"
    remedy = "lower synthesis.codes or synthesis.decoders, or raise synthesis.code_channels"
    check_learned(what, numbers, weights + count * per_code, remedy)
    return count


def sizes(shape: tuple[int, int, int], num_classes: int, ipc: int, smallest: int) -> dict[str, int | None]:
    """Choose the sizes of codes and decoders for a budget of ``ipc`` images per class.

    1. Codes have 2 channels for grey images and 3 for others.
    2. Decoders are the largest of ``LADDER`` that take at most a quarter of the budget (the smallest if none does).
    3. As many codes as fit. Where that makes more than 200 images per class, or more than there are real ones to start
       from, codes get more channels, up to 12, and after that decoders are halved, down to two.

    Args:
        shape: (C, H, W).
        num_classes: K.
        ipc: budget, in images per class.
        smallest: images in the smallest class.

    Returns:
        ``code_channels``, ``hidden``, ``decoders`` and ``codes`` of :class:`~ddkit.synthesis.SharedDecoders`; ``codes``
        is None, all that fit, unless real images are too few.
    """
    budget, least = ipc * num_classes * math.prod(shape), 2 if shape[0] == 1 else 3
    affordable = (
        pair for pair in LADDER if pair[0] * decoder_numbers(shape[0], least, pair[1]) <= DECODER_SHARE * budget
    )
    decoders, hidden = next(affordable, LADDER[-1])
    limit = min(MOST_IMAGES, smallest)
    fitting: tuple[int, int, int] | None = None  # the last choice that fits the budget
    for count in (decoders, *(m for m in (4, 2) if m < decoders)):
        for channels in range(least, MOST_CHANNELS + 1):
            codes = codes_that_fit(num_classes, ipc, shape, count, channels, hidden)
            if codes < 1:
                break
            fitting = (count, channels, codes)
            if codes * count <= limit:
                return {"code_channels": channels, "hidden": hidden, "decoders": count, "codes": None}
    if fitting is None:  # the least that the synthesizer refuses with the numbers, unless a smaller decoder fits
        return {"code_channels": least, "hidden": SMALLEST_HIDDEN, "decoders": 1, "codes": None}
    count, channels, codes = fitting
    few = codes * count > smallest
    return {
        "code_channels": channels,
        "hidden": hidden,
        "decoders": count,
        "codes": max(1, smallest // count) if few else None,
    }
