"""Finite networks in NTK parameterisation and full recursions: what kernels are compared with."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

W2, B2 = 2.0, 0.01


def relative(value: Tensor, expected: Tensor) -> float:
    """Relative Frobenius error."""
    return float((value - expected).norm() / expected.norm())


def random_images(count: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def finite_fc_kernels(x: Tensor, depth: int, width: int, generator: torch.Generator) -> Tensor:
    """Empirical NTK (n, n) of a network with ``depth`` hidden layers by back-propagation, one draw."""
    h = x.flatten(1)
    inputs, units = [h], []
    for layer in range(depth + 1):
        out = width if layer < depth else 1
        weights = torch.randn(h.shape[1], out, generator=generator, dtype=x.dtype)
        bias = torch.randn(out, generator=generator, dtype=x.dtype)
        z = (W2 / h.shape[1]) ** 0.5 * (h @ weights) + B2**0.5 * bias
        z = z.requires_grad_() if not layer else z
        units.append(z)
        if layer < depth:
            h = z.relu()
            inputs.append(h)
    deltas = (*torch.autograd.grad(units[-1].sum(), units[:-1]), torch.ones_like(units[-1]))
    total = torch.zeros(len(x), len(x), dtype=x.dtype)
    for h, delta in zip(inputs, deltas, strict=True):
        h = h.detach()
        total += (delta @ delta.T) * (W2 / h.shape[1] * (h @ h.T) + B2)
    return total


def finite_conv_kernel(x: Tensor, layers: str, width: int, generator: torch.Generator) -> Tensor:
    """Empirical NTK (n, n) of a convolutional network given as layers, by the Jacobian of one draw."""
    parameters: list[Tensor] = []

    def normal(*shape: int) -> Tensor:
        parameters.append(torch.randn(*shape, generator=generator, dtype=x.dtype).requires_grad_())
        return parameters[-1]

    h = x
    for kind in layers[:-1]:
        if kind == "p":
            h = F.avg_pool2d(h, 2)
            continue
        scale = (W2 / (9 * h.shape[1])) ** 0.5
        h = (scale * F.conv2d(h, normal(width, h.shape[1], 3, 3), padding=1) + B2**0.5 * normal(width, 1, 1)).relu()
    h = h.flatten(1) if layers[-1] == "f" else h.mean((2, 3))
    out = (W2 / h.shape[1]) ** 0.5 * (h @ normal(h.shape[1])) + B2**0.5 * normal(1)
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(o, parameters, retain_graph=True)]) for o in out]
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T


def pixel_recursion(x: Tensor, y: Tensor, layers: str, kind: str) -> Tensor:
    """Kernel (A, B) by the published recursion over all pairs of pixels, written with plain loops over shifts."""

    def first(u: Tensor, v: Tensor) -> Tensor:
        return torch.einsum("chw,cij->hwij", u, v) / u.shape[0]

    def conv(k: Tensor) -> Tensor:
        height, width = k.shape[:2]
        padded, total = F.pad(k, (1,) * 8), torch.zeros_like(k)
        for a in range(3):
            for b in range(3):
                total += padded[a : a + height, b : b + width, a : a + height, b : b + width]
        return W2 / 9 * total

    def pool(k: Tensor) -> Tensor:
        height, width = k.shape[0] // 2 * 2, k.shape[1] // 2 * 2
        k = k[:height, :width, :height, :width]
        parts = [k[a::2, b::2, c::2, d::2] for a in range(2) for b in range(2) for c in range(2) for d in range(2)]
        return torch.stack(parts).mean(0)

    def diagonal(k: Tensor) -> Tensor:
        n = k.shape[0] * k.shape[1]
        return k.reshape(n, n).diagonal().reshape(k.shape[:2])

    def one(u: Tensor, v: Tensor) -> Tensor:
        ks = [first(u, v), first(u, u), first(v, v)]
        theta = None
        for step in layers[:-1]:
            if step == "p":
                ks, theta = [pool(k) for k in ks], pool(theta)
                continue
            ks = [conv(k) + B2 for k in ks]
            theta = ks[0] if theta is None else ks[0] + conv(theta)
            q, p = diagonal(ks[1]), diagonal(ks[2])
            new = []
            for k, (left, right) in zip(ks, ((q, p), (q, q), (p, p)), strict=True):
                root = (left[:, :, None, None] * right).sqrt()
                angle = torch.acos((k / root).clamp(-1, 1))
                new.append(root / (2 * math.pi) * (angle.sin() + (math.pi - angle) * angle.cos()))
                if k is ks[0]:
                    theta = (math.pi - angle) / (2 * math.pi) * theta
            ks = new
        means = [diagonal(k).mean() if layers[-1] == "f" else k.mean() for k in (ks[0], theta)]
        sigma = W2 * means[0] + B2
        return sigma if kind == "nngp" else sigma + W2 * means[1]

    return torch.stack([torch.stack([one(u, v) for v in y]) for u in x])
