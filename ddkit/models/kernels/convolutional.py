"""Kernels of infinitely wide convolutional networks."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ddkit.errors import ConfigError
from ddkit.models.kernels.infinite import InfiniteKernel
from ddkit.models.kernels.layouts import AllPairs, Band, Layout
from ddkit.models.kernels.relu import relu_covariance

#: Pixel covariances in one tensor of a tile of pairs; some thirty of them are held while a tile is differentiated.
TILE_NUMBERS = {"cpu": 2**22}
#: The same on every other device, which needs more at once to be busy.
TILE_NUMBERS_ELSEWHERE = 2**26


class ConvolutionalKernel(InfiniteKernel):
    r"""NTK or NNGP of a ReLU network of 3x3 convolutions and 2x2 average poolings, in NTK parameterisation.

    With :math:`K(p, p') = \frac1C \sum_c x_c(p) x'_c(p')` at the input, every convolution with its ReLU does

    .. math::
        \Sigma(p, p') = \tfrac{\sigma_w^2}{9} \sum_\delta K(p + \delta, p' + \delta) + \sigma_b^2, \quad
        \Theta \leftarrow \Sigma + \tfrac{\sigma_w^2}{9} \sum_\delta \Theta(p + \delta, p' + \delta), \quad
        K \leftarrow T(\Sigma), \quad \Theta \leftarrow \phi \Theta

    a pooling averages over its windows in p and p', and the last dense layer takes the mean over p = p' (flattened) or
    over all p and p' (global average pooling). Only the covariances that reach the head are followed, see
    :class:`~ddkit.models.kernels.layouts.Band`; the results are those of the full recursion (Nguyen et al. 2021,
    NeurIPS, arXiv 2107.13034). Images are cut into tiles of pairs; where there are several, a tile's forward pass is
    repeated in the backward pass instead of kept. A support is represented by its images and what follows from each of
    them alone, which is found and differentiated once however many chunks of targets there are.

    Args:
        layers: ``c`` (convolution and ReLU) and ``p`` (pooling) in their order, then ``f`` (flatten) or ``g`` (global
            average pooling), such as ``cpcpcpf``.
        shape: (C, H, W) of the images.
        architecture: what it is called in descriptions; None for ``layers``.
        options: see :class:`~ddkit.models.kernels.infinite.InfiniteKernel`.

    Raises:
        ConfigError: layers of another form, more poolings than the images allow, or an option out of range.
    """

    def __init__(
        self, layers: str, shape: tuple[int, int, int], architecture: str | None = None, **options: Any
    ) -> None:
        super().__init__(architecture or layers, **options)
        body, head = layers[:-1], layers[-1:]
        if not body.startswith("c") or set(body) - {"c", "p"} or head not in ("f", "g"):
            raise ConfigError(
                f"layers '{layers}' of an infinitely wide network must start with c (convolution, ReLU), go on with c "
                f"and p (pooling) and end in f (flatten) or g (global average pooling), such as cpcpf"
            )
        height, width = shape[1:]
        poolings = body.count("p")
        if min(height, width) >> poolings < 1:
            raise ConfigError(
                f"architecture '{self.architecture}' pools {poolings} times, which {height}x{width} images cannot "
                f"take: choose one with at most {min(height, width).bit_length() - 1} poolings, such as conv2"
            )
        self.shape = shape
        # From the flattened head (offset 0) down, each pooling needs offsets up to 2R + 1.
        layout: Layout = AllPairs(height, width) if head == "g" else Band(height, width, 2**poolings - 1)
        self._plan: list[tuple[str, Layout]] = []
        for kind in body:
            self._plan.append((kind, layout))
            layout = layout.after_pooling() if kind == "p" else layout
        self._head = layout
        self.numbers = self._plan[0][1].numbers
        relus = [(level.height, level.width) for kind, level in self._plan if kind == "c"]
        self._parts = [shape, *relus, (1,)]

    def represent(self, images: Tensor) -> Tensor:
        """Return (n, C H W + V + 1): each image, its V variances at all ReLUs, and its kernel with itself."""
        variances, diagonal = self._own(images)
        return torch.cat([images.flatten(1), *(each.flatten(1) for each in variances), diagonal[:, None]], dim=1)

    def _represented(self, support: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """Return images (n, C, H, W), variances (n, H, W) at every ReLU and the diagonal (n,) of a support."""
        parts = support.split([math.prod(part) for part in self._parts], dim=1)
        images, *variances, diagonal = (x.unflatten(1, part) for x, part in zip(parts, self._parts, strict=True))
        return images, variances, diagonal[:, 0]

    def gram(self, support: Tensor) -> Tensor:
        """Return K_ss (n, n): tiles above the diagonal, and the diagonal from each image's own covariances."""
        images, variances, diagonal = self._represented(support)
        upper = self._matrix(images, images, variances, variances, symmetric=True).triu(1)
        return (upper + upper.T + torch.diag_embed(diagonal)).double()

    def cross(self, images: Tensor, support: Tensor) -> Tensor:
        """Return K_ts (B, n) in the format of the support, as float64."""
        mine, variances, _ = self._represented(support)
        targets = images.detach().to(support)
        with torch.no_grad():
            of_targets, _ = self._own(targets)
        return self._matrix(targets, mine, of_targets, variances).double()

    def targets_at_once(self, support: Tensor, limit: int) -> int:
        """Return how many targets make one tile with the whole support, at least 1."""
        return max(1, min(limit, self._pairs_at_once(support) // len(support)))

    def _pairs_at_once(self, like: Tensor) -> int:
        return max(1, TILE_NUMBERS.get(like.device.type, TILE_NUMBERS_ELSEWHERE) // self.numbers)

    def _matrix(self, x: Tensor, y: Tensor, q: list[Tensor], p: list[Tensor], *, symmetric: bool = False) -> Tensor:
        """Return the kernel (A, B) of x (A, C, H, W) and y (B, C, H, W) from their variances at every ReLU."""
        most = self._pairs_at_once(x)
        columns = min(len(y), most if len(y) <= most else max(1, int(most**0.5)))
        rows = min(len(x), max(1, most // columns))
        keep = rows >= len(x) and columns >= len(y)
        strips = []
        for top in range(0, len(x), rows):
            tiles = []
            for left in range(0, len(y), columns):
                high, wide = slice(top, top + rows), slice(left, left + columns)
                if symmetric and left + columns <= top:
                    tiles.append(x.new_zeros(len(x[high]), len(y[wide])))
                    continue
                inputs = (x[high], y[wide], [v[high] for v in q], [v[wide] for v in p])
                if keep or not torch.is_grad_enabled():
                    tiles.append(self._pairs(*inputs))
                else:
                    again = checkpoint(self._pairs, *inputs, use_reentrant=False, preserve_rng_state=False)
                    tiles.append(cast(Tensor, again))
            strips.append(torch.cat(tiles, dim=1))
        return torch.cat(strips)

    def _pairs(self, x: Tensor, y: Tensor, q: list[Tensor], p: list[Tensor]) -> Tensor:
        """Return the kernel (A, B) of one tile."""
        k, theta, relus = self._plan[0][1].inputs(x, y), None, zip(q, p, strict=True)
        for kind, layout in self._plan:
            if kind == "p":
                k, theta = layout.pooled(k), self._pooled(theta, layout)
                continue
            first, second = next(relus)
            k, theta = self._convolution(k, theta, layout)
            k, active = relu_covariance(k, layout.first(first), layout.second(second))
            theta = active * theta if theta is not None else None
        return self._dense(k, theta)

    def _own(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the variances (A, H, W) of each image at every ReLU and its kernel with itself (A,)."""
        size = self._pairs_at_once(x)
        if len(x) <= size:
            return self._own_pass(x)
        passes = []
        for part in x.split(size):
            if torch.is_grad_enabled():
                passes.append(checkpoint(self._own_pass, part, use_reentrant=False, preserve_rng_state=False))
            else:
                passes.append(self._own_pass(part))
        variances = [torch.cat(parts) for parts in zip(*(values for values, _ in passes), strict=True)]
        return variances, torch.cat([diagonal for _, diagonal in passes])

    def _own_pass(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        k, theta, variances = self._plan[0][1].own_inputs(x), None, []
        for kind, layout in self._plan:
            if kind == "p":
                k, theta = layout.pooled(k), self._pooled(theta, layout)
                continue
            k, theta = self._convolution(k, theta, layout)
            q = layout.variances(k)
            variances.append(q)
            same = layout.same_pixel(x.device)
            k, active = relu_covariance(k, layout.first(q), layout.second(q).transpose(0, 1), same)
            theta = active * theta if theta is not None else None
        return variances, self._dense(k, theta)[:, 0]

    def _convolution(self, k: Tensor, theta: Tensor | None, layout: Layout) -> tuple[Tensor, Tensor | None]:
        sigma = layout.shifted(self.sigma_w2 * layout.convolved(k), self.sigma_b2)
        if not self.tangent:
            return sigma, None
        return sigma, sigma if theta is None else sigma + self.sigma_w2 * layout.convolved(theta)

    @staticmethod
    def _pooled(theta: Tensor | None, layout: Layout) -> Tensor | None:
        return None if theta is None else layout.pooled(theta)

    def _dense(self, k: Tensor, theta: Tensor | None) -> Tensor:
        sigma = self.sigma_w2 * self._head.head(k) + self.sigma_b2
        return sigma if theta is None else sigma + self.sigma_w2 * self._head.head(theta)
