"""Which pixel covariances of two images does a convolutional kernel have to follow, and how do layers act on them?"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor


class Layout(ABC):
    """A tensor (A, B, ...) of covariances K(p, p') between pixels of A images and pixels of B images.

    A layout is immutable; pooling leads to another one.

    Args:
        height: of the maps.
        width: of the maps.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width

    @property
    @abstractmethod
    def numbers(self) -> int:
        """Entries of one pair of images."""

    @abstractmethod
    def inputs(self, x: Tensor, y: Tensor) -> Tensor:
        """Return (1/C) sum_c x_c(p) y_c(p') for x (A, C, H, W) and y (B, C, H, W)."""

    @abstractmethod
    def own_inputs(self, x: Tensor) -> Tensor:
        """Return the same of every image with itself: (A, 1, ...)."""

    @abstractmethod
    def convolved(self, k: Tensor) -> Tensor:
        """Return (1/9) sum_delta k(p + delta, p' + delta), what lies outside the images being 0."""

    @abstractmethod
    def shifted(self, k: Tensor, constant: float) -> Tensor:
        """Return k plus a constant at every pair of pixels inside the images."""

    @abstractmethod
    def pooled(self, k: Tensor) -> Tensor:
        """Return the mean over 2x2 windows of both p and p', in the next layout."""

    @abstractmethod
    def after_pooling(self) -> Layout:
        """Return the layout that :meth:`pooled` leads to; an odd border is dropped."""

    @abstractmethod
    def variances(self, own: Tensor) -> Tensor:
        """Return K(p, p) (A, H, W) from covariances (A, 1, ...) of images with themselves."""

    @abstractmethod
    def first(self, q: Tensor) -> Tensor:
        """Spread variances (A, H, W) of the first image over a tensor of covariances."""

    @abstractmethod
    def second(self, q: Tensor) -> Tensor:
        """Spread variances (B, H, W) of the second image over a tensor of covariances."""

    @abstractmethod
    def same_pixel(self, device: torch.device) -> Tensor:
        """Return a boolean tensor, broadcastable to a pair, that is true where p = p'."""

    @abstractmethod
    def head(self, k: Tensor) -> Tensor:
        """Return the mean (A, B) that the last dense layer sees."""


class Band(Layout):
    r"""Covariances K(p, p + d) with offsets up to a radius: (A, B, 2R+1, 2R+1, H, W), 0 where p + d is outside.

    A convolution keeps the offset, a pooling maps offsets up to R on one level to 2R + 1 on the level below. A head
    that flattens needs R = 0 only, so a network with three poolings needs 1, 3 and 7: 4.5 times fewer entries than all
    pairs of pixels at 32x32, and without pooling just H * W.

    Args:
        height: of the maps.
        width: of the maps.
        radius: R.
    """

    def __init__(self, height: int, width: int, radius: int) -> None:
        super().__init__(height, width)
        self.radius = radius

    @property
    def numbers(self) -> int:
        """(2R+1)² H W."""
        return (2 * self.radius + 1) ** 2 * self.height * self.width

    def _windows(self, y: Tensor) -> Tensor:
        """Return y(p + d): (B, C, 2R+1, 2R+1, H, W) for y (B, C, H, W)."""
        size, radius = 2 * self.radius + 1, self.radius
        if not radius:
            return y[:, :, None, None]
        unfolded = F.unfold(y, size, padding=radius)
        return unfolded.view(len(y), -1, size, size, self.height, self.width)

    def inputs(self, x: Tensor, y: Tensor) -> Tensor:
        """Sum over channels one after the other, so that no copy per channel is held."""
        return self._products(x[:, None], self._windows(y)[None])

    def own_inputs(self, x: Tensor) -> Tensor:
        """Multiply each image by its own windows."""
        return self._products(x[:, None], self._windows(x)[:, None])

    @staticmethod
    def _products(x: Tensor, windows: Tensor) -> Tensor:
        """Return the mean over channels of x (A, 1, C, H, W) times windows (A or 1, B or 1, C, 2R+1, 2R+1, H, W)."""
        total = torch.zeros((), device=x.device, dtype=x.dtype)
        for channel in range(x.shape[2]):
            total = torch.addcmul(total, x[:, :, channel, None, None], windows[:, :, channel])
        return total / x.shape[2]

    def convolved(self, k: Tensor) -> Tensor:
        """Run a 3x3 mean filter over p for every offset, then drop what has left the second image."""
        filtered = F.avg_pool2d(k.reshape(-1, 1, self.height, self.width), 3, 1, 1, count_include_pad=True)
        return filtered.view(k.shape) * self._inside(k)

    def shifted(self, k: Tensor, constant: float) -> Tensor:
        """Add the constant where p + d is inside."""
        return torch.add(k, self._inside(k), alpha=constant) if constant else k

    def pooled(self, k: Tensor) -> Tensor:
        """Average over windows, first along the height and then along the width."""
        for pixels in (4, 5):
            k = self._pooled_along(k, pixels - 2, pixels)
        return k * self.after_pooling()._inside(k)

    def _pooled_along(self, k: Tensor, offsets: int, pixels: int) -> Tensor:
        """Average k(2P + a, 2P + 2D + b) over a and b in {0, 1} along one axis: its offset there is 2D + b - a."""
        half = k.shape[pixels] // 2
        total = torch.zeros((), device=k.device, dtype=k.dtype)
        for a in (0, 1):
            rows = _every_other(k, pixels, a, half)
            for b in (0, 1):
                total = total + _every_other(rows, offsets, 1 + b - a, self.radius)
        return total / 4

    def after_pooling(self) -> Band:
        """Return the layout of the level above: half the size (an odd border is dropped), radius (R - 1) / 2."""
        return Band(self.height // 2, self.width // 2, (self.radius - 1) // 2)

    def variances(self, own: Tensor) -> Tensor:
        """Return offset 0."""
        return own[:, 0, self.radius, self.radius]

    def first(self, q: Tensor) -> Tensor:
        """Return (A, 1, 1, 1, H, W)."""
        return q[:, None, None, None]

    def second(self, q: Tensor) -> Tensor:
        """Return (1, B, 2R+1, 2R+1, H, W)."""
        return self._windows(q[:, None])[None, :, 0]

    def same_pixel(self, device: torch.device) -> Tensor:
        """Return (2R+1, 2R+1, 1, 1), true at offset 0."""
        size = 2 * self.radius + 1
        mask = torch.zeros(size, size, 1, 1, dtype=torch.bool, device=device)
        mask[self.radius, self.radius] = True
        return mask

    def head(self, k: Tensor) -> Tensor:
        """Return the mean of K(p, p)."""
        return k[:, :, self.radius, self.radius].mean((2, 3))

    def _inside(self, like: Tensor) -> Tensor:
        """Return (2R+1, 2R+1, H, W), 1 where p + d is inside the image."""
        ones = torch.ones(1, 1, self.height, self.width, device=like.device, dtype=like.dtype)
        return self._windows(ones)[0, 0]


class AllPairs(Layout):
    """All covariances K(p, p'): (A, B, H, W, H, W). Global average pooling needs every one of them."""

    @property
    def numbers(self) -> int:
        """(H W)²."""
        return (self.height * self.width) ** 2

    def inputs(self, x: Tensor, y: Tensor) -> Tensor:
        """Multiply pixels by pixels."""
        return torch.einsum("achw,bcij->abhwij", x, y) / x.shape[1]

    def own_inputs(self, x: Tensor) -> Tensor:
        """Multiply the pixels of each image by each other."""
        return torch.einsum("achw,acij->ahwij", x, x)[:, None] / x.shape[1]

    def convolved(self, k: Tensor) -> Tensor:
        """Sum along the diagonals of heights, then of widths."""
        for first, second in ((2, 4), (3, 5)):
            k = _diagonal_sum(k, first, second)
        return k / 9

    def shifted(self, k: Tensor, constant: float) -> Tensor:
        """Add the constant everywhere."""
        return k + constant

    def pooled(self, k: Tensor) -> Tensor:
        """Average every axis over neighbours, dropping an odd last one."""
        for axis in (2, 3, 4, 5):
            half = k.shape[axis] // 2
            k = k.narrow(axis, 0, 2 * half).unflatten(axis, (half, 2)).mean(axis + 1)
        return k

    def after_pooling(self) -> AllPairs:
        """Return the layout of half the size."""
        return AllPairs(self.height // 2, self.width // 2)

    def variances(self, own: Tensor) -> Tensor:
        """Return the diagonal."""
        flat = own[:, 0].flatten(1, 2).flatten(2, 3)
        return flat.diagonal(dim1=1, dim2=2).unflatten(1, (self.height, self.width))

    def first(self, q: Tensor) -> Tensor:
        """Return (A, 1, H, W, 1, 1)."""
        return q[:, None, :, :, None, None]

    def second(self, q: Tensor) -> Tensor:
        """Return (1, B, 1, 1, H, W)."""
        return q[None, :, None, None]

    def same_pixel(self, device: torch.device) -> Tensor:
        """Return (H, W, H, W)."""
        count = self.height * self.width
        mask = torch.eye(count, dtype=torch.bool, device=device)
        return mask.view(self.height, self.width, self.height, self.width)

    def head(self, k: Tensor) -> Tensor:
        """Return the mean over all pairs of pixels."""
        return k.mean((2, 3, 4, 5))


def _every_other(k: Tensor, axis: int, start: int, count: int) -> Tensor:
    """Return ``count`` entries along ``axis``: start, start + 2, and so on."""
    return k[(slice(None),) * axis + (slice(start, start + 2 * count - 1, 2),)]


def _diagonal_sum(k: Tensor, first: int, second: int) -> Tensor:
    """Return sum over delta in {-1, 0, 1} of k shifted by delta along both axes, 0 outside."""
    size = k.shape[first]
    total = k.clone()
    for low in (0, 1):
        source = k.narrow(first, 1 - low, size - 1).narrow(second, 1 - low, size - 1)
        total.narrow(first, low, size - 1).narrow(second, low, size - 1).add_(source)
    return total
