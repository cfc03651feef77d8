"""Which constants standardise and whiten images: exact sums over uint8 pixels, then float64 algebra."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ddkit.errors import DataError

# The largest flattened image that is whitened, 3 x 64 x 64: beyond it a D x D matrix passes a gigabyte.
MAXIMUM_ZCA_SIZE = 12288
# Products of centred bytes are at most 2^14 in magnitude, so sums over 2^10 of them are exact in float32.
_EXACT_ROWS = 1024
_CHUNK_BYTES = 64 * 1024**2


def _chunks(images: Tensor, rows: int) -> Iterator[Tensor]:
    for start in range(0, len(images), rows):
        yield images[start : start + rows]


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the exact mean and population standard deviation of every channel, on the [0, 1] scale.

    A histogram of the 256 byte values per channel makes the sums integers, so the result does not depend on
    how the images are chunked.

    Args:
        images: uint8 ``(N, C, H, W)``, N >= 1.

    Returns:
        mean ``(C,)`` and std ``(C,)``, float64, on the CPU.
    """
    channels = images.shape[1]
    counts = torch.zeros(channels, 256, dtype=torch.int64)
    for chunk in _chunks(images, max(1, _CHUNK_BYTES // max(1, images[0].numel()))):
        for channel in range(channels):
            counts[channel] += torch.bincount(chunk[:, channel].reshape(-1), minlength=256).cpu()
    values = torch.arange(256, dtype=torch.float64) / 255
    weights = counts.to(torch.float64) / counts.sum(1, keepdim=True)
    mean = weights @ values
    variance = (weights * (values - mean[:, None]) ** 2).sum(1)
    return mean, variance.sqrt()


def covariance(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and population covariance of flattened byte values, both exact up to the final rounding.

    Bytes are shifted by 128 and multiplied in float32 in chunks small enough for every partial sum to be an
    integer that float32 holds exactly; the chunks are added in float64. This costs half of a float64 product
    and equals it.

    Args:
        images: uint8 ``(N, C, H, W)``, N >= 1.

    Returns:
        mean ``(D,)`` and covariance ``(D, D)`` on the 0-255 scale, float64, on the images' device.
    """
    size = images[0].numel()
    gram = torch.zeros(size, size, dtype=torch.float64, device=images.device)
    total = torch.zeros(size, dtype=torch.float64, device=images.device)
    for chunk in _chunks(images, _EXACT_ROWS):
        centred = chunk.reshape(len(chunk), size).to(torch.float32) - 128
        gram += centred.T @ centred
        total += centred.sum(0)
    mean = total / len(images)
    return mean + 128, gram / len(images) - torch.outer(mean, mean)


def whitening(
    images: Tensor, mean: Tensor, std: Tensor, regularisation: float, relative: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Fit ZCA to the standardised pixels of ``images``; the equation is that of ``Preprocessing.fit``.

    Args:
        images: uint8 ``(N, C, H, W)``.
        mean: per channel, [0, 1] scale, float64 ``(C,)``.
        std: per channel, [0, 1] scale, positive, float64 ``(C,)``.
        regularisation: added to every eigenvalue, as a share of their mean where ``relative``.
        relative: see ``regularisation``.

    Returns:
        zca mean ``(D,)``, matrix ``(D, D)`` and its inverse ``(D, D)``; float32, on the CPU.

    Raises:
        DataError: images too large, a regularisation that is not positive, or images that are all the same.
    """
    size = images[0].numel()
    if size > MAXIMUM_ZCA_SIZE:
        raise DataError(
            f"ZCA needs a {size} x {size} matrix for images of shape {tuple(images.shape[1:])}: at most "
            f"{MAXIMUM_ZCA_SIZE} values per image are whitened; use smaller images or leave zca off"
        )
    if not 0 < regularisation < float("inf"):
        raise DataError(f"ZCA regularisation is {regularisation}: give a positive finite number, such as 0.1")
    pixels = images[0, 0].numel()
    byte_mean, byte_covariance = covariance(images)
    offset, scale = (v.repeat_interleave(pixels).to(byte_mean) for v in (mean, 1 / std))
    zca_mean = (byte_mean / 255 - offset) * scale
    cov = byte_covariance * torch.outer(scale, scale) / 255**2
    trace = float(cov.trace())
    if trace <= 0:
        raise DataError("ZCA cannot be fitted: all images are the same; leave zca off")
    eigenvalues, vectors = torch.linalg.eigh(cov)
    added = regularisation * trace / size if relative else regularisation
    roots = (eigenvalues.clamp_min(0) + added).sqrt()
    matrix = (vectors / roots) @ vectors.T
    inverse = (vectors * roots) @ vectors.T
    return zca_mean.float().cpu(), matrix.float().cpu(), inverse.float().cpu()
