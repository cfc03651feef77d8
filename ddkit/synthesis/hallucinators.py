"""Hallucinators: bases of each class and a few small networks are learned, and every basis passes through all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.base.ranges import Count
from ddkit.data.distilled.limits import Decoding, check_learned, divided, image_shape, required, whole
from ddkit.data.real import RealData
from ddkit.errors import ArtifactError, ConfigError
from ddkit.synthesis.base import ANY_SCALE, Synthesizer, registry, with_targets
from ddkit.synthesis.labels import LabelKind
from ddkit.synthesis.pixels import check_ipc_fits

#: Share of the default initialisation that is added to identity kernels, so that hallucinators differ.
IDENTITY_NOISE = 0.1

#: Hallucinator tensors as they are learned and stored, the hallucinator being the first dimension of each.
_STYLE = ("encoder_weight", "encoder_bias", "sigma", "mu", "decoder_weight", "decoder_bias")


def hallucinate(bases: Tensor, style: Sequence[Tensor]) -> Tensor:
    r"""Pass every basis through every hallucinator (Liu et al. 2022; survey Eq. 36).

    .. math:: s_{ij} = W^d_j *^\top (\sigma_j \odot (W^e_j * b_i + \beta^e_j) + \mu_j) + \beta^d_j

    All hallucinators run in two calls: the encoders see the same bases, so they are one convolution with m * C output
    channels; the decoders are one of m groups. Forward and backward of 500 bases of 3x32x32 through five hallucinators
    take 323 ms on one CPU thread, one hallucinator after the other 1,105 ms (10 bases of 1x8x8: 0.8 and 2.8 ms).

    Args:
        bases: (N, C_b, H, W).
        style: encoder weights (m, C, C_b, k, k) and biases (m, C), sigma and mu (m, C, H-k+1, W-k+1), decoder weights
            (m, C, C, k, k) and biases (m, C).

    Returns:
        (N, m, C, H, W), differentiable with respect to bases and hallucinators.
    """
    encoder_weight, encoder_bias, sigma, mu, decoder_weight, decoder_bias = style
    features = F.conv2d(bases, encoder_weight.flatten(0, 1), encoder_bias.flatten())
    features = sigma.flatten(0, 1) * features + mu.flatten(0, 1)
    images = F.conv_transpose2d(features, decoder_weight.flatten(0, 1), decoder_bias.flatten(), groups=len(sigma))
    return images.unflatten(1, (len(sigma), -1))


@registry.register("hallucinators")
class Hallucinators(Synthesizer):
    r"""Bases of each class and hallucinators shared by all classes; every pair of both is an image.

    .. math:: s_{c,k,j} = h_j(b_{c,k}), \quad k = 1..\mathrm{ipc}, \quad j = 1..m

    The factorisation of HaBa (Liu et al. 2022, NeurIPS, "Dataset Distillation via Factorization"; survey Eq. 36). A
    hallucinator is a convolution without padding, an element-wise scale :math:`\sigma_j` and shift :math:`\mu_j`, and a
    transposed convolution back to full size; it has no non-linearity and never sees the class. Image
    ``(c * ipc + k) * m + j`` is basis k of class c through hallucinator j.

    ``ipc`` counts bases. Hallucinators come on top: for kernels of q pixels and whatever number of classes

    .. math:: m \big(C C_b q^2 + C + 2 C (H - q + 1)(W - q + 1) + C^2 q^2 + C\big)

    numbers, which are 27,840 for five of them and 3x32x32 images, 460 for 1x8x8. Compare at equal numbers, not at equal
    IPC. Hard labels follow from the order and are not stored; soft ones belong to decoded images and come on top.

    Initialisation: ``real`` takes distinct random real images of each class as bases (their channel mean for bases of
    one channel), ``noise`` draws N(0, 1). Hallucinators start as PyTorch initialises convolutions, with sigma = 1 and
    mu = 0, as published: the first images are random filterings of the bases. With ``identity_start`` (an addition of
    ddkit) kernels start from a centre tap of 1 plus a tenth of that, so that the first images nearly are the bases,
    with a darker border of q // 2 pixels.

    Args:
        num_classes: K.
        ipc: bases per class.
        shape: (C, H, W).
        hallucinators: m. Objectives that unroll a training draw one per inner step, see :meth:`inner_batches`.
        kernel: side q of all kernels, in pixels.
        base_channels: channels of a basis, C_b: 1 or C; None for C.
        identity_start: start near the identity instead of the default initialisation.
        labels: ``hard``, ``soft``, ``learned``, or (K * ipc * m, K) fixed probabilities.
        label_confidence: initial probability of the own class of soft and learned labels.

    Raises:
        ConfigError: an option out of range, or more images than memory holds.
    """

    name = "hallucinators"
    image_like = ("bases",)

    #: All are ddkit's: on 8x8 digits HaBa's rates for whitened CIFAR-10 (100 for both, momentum 0.95) left the loss at
    #: 1.0, that of a student which does not move, after 100 steps; those for trajectories reached 0.56.
    optimisers: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "trajectory": {"name": "sgd", "lr": 10.0, "momentum": 0.5, "groups": {"style": {"lr": 0.1}}},
        ANY_SCALE: {"name": "adam", "lr": 0.02, "groups": {"style": {"lr": 0.005}}},
    }

    @classmethod
    def options_for(cls, data: RealData, ipc: int) -> dict[str, Any]:
        """Take a smaller kernel for images with a side below 3 pixels."""
        side = min(data.shape[1:])
        return {} if side >= 3 else {"kernel": side}

    def __init__(
        self,
        num_classes: int,
        ipc: int,
        shape: tuple[int, int, int],
        hallucinators: Count = 5,
        kernel: int = 3,
        base_channels: int | None = None,
        identity_start: bool = False,
        labels: LabelKind | Tensor = "hard",
        label_confidence: float = 0.9,
    ) -> None:
        if not 1 <= kernel <= min(shape[1:]):
            sides = f"{shape[1]}x{shape[2]}"
            raise ConfigError(f"synthesis.kernel={kernel} must lie between 1 and the shorter side of {sides} images")
        if base_channels not in (None, 1, shape[0]):
            raise ConfigError(f"synthesis.base_channels={base_channels} must be 1 or the {shape[0]} of the images")
        count, stored = num_classes * ipc, num_classes * ipc * (base_channels or shape[0]) * shape[1] * shape[2]
        what, numbers = f"{count} bases x {hallucinators} hallucinators", count * hallucinators * math.prod(shape)
        check_learned(what, numbers, stored, "lower ipc or synthesis.hallucinators")
        super().__init__(num_classes, ipc, shape, labels, label_confidence, decoded_per_class=ipc * hallucinators)
        self.kernel, self.identity_start = kernel, identity_start
        channels, inner = shape[0], (shape[0], shape[1] - kernel + 1, shape[2] - kernel + 1)
        inputs = base_channels or channels
        self.bases = nn.Parameter(torch.zeros(num_classes * ipc, inputs, *shape[1:]))
        self.encoder_weight = nn.Parameter(torch.zeros(hallucinators, channels, inputs, kernel, kernel))
        self.encoder_bias = nn.Parameter(torch.zeros(hallucinators, channels))
        self.sigma = nn.Parameter(torch.ones(hallucinators, *inner))
        self.mu = nn.Parameter(torch.zeros(hallucinators, *inner))
        self.decoder_weight = nn.Parameter(torch.zeros(hallucinators, channels, channels, kernel, kernel))
        self.decoder_bias = nn.Parameter(torch.zeros(hallucinators, channels))

    def group_of(self, parameter: str) -> str:
        """Return ``images`` for bases, ``style`` for hallucinators, or ``labels``."""
        return "style" if parameter in _STYLE else super().group_of(parameter)

    def inner_batches(self, steps: int, size: int | None, generator: torch.Generator) -> list[Tensor]:
        """Return the images of each step of an unrolled training: a chunk of bases through one random hallucinator.

        Chunks of ``size`` bases come from a permutation of all, drawn anew when what is left is shorter than a chunk.
        """
        count = len(self.bases)
        size = count if size is None else size
        if not 1 <= size <= count:
            raise ConfigError(f"a batch of {size} bases must hold between 1 and all {count}, or none for all of them")
        chunks: list[Tensor] = []
        while len(chunks) < steps:
            order = torch.randperm(count, generator=generator)
            chunks += [part for part in order.split(size) if len(part) == size]
        chosen = torch.randint(self.views, (steps,), generator=generator)
        return [self.view_index(chunk, int(view)) for chunk, view in zip(chunks[:steps], chosen, strict=True)]

    def decode(self, index: Tensor) -> Tensor:
        """Return the images at ``index`` (M,), decoding each of its pairs of basis and hallucinator once."""
        pairs, position = torch.unique(index, return_inverse=True)
        bases, used = torch.unique(pairs // self.views), torch.unique(pairs % self.views)
        if len(pairs) == len(bases) * len(used):
            return hallucinate(self.bases[bases], [tensor[used] for tensor in self._style()]).flatten(0, 1)[position]
        members = [(pairs % self.views == view).nonzero().flatten() for view in used]
        images = [
            hallucinate(self.bases[pairs[rows] // self.views], [tensor[view, None] for tensor in self._style()])[:, 0]
            for view, rows in zip(used.tolist(), members, strict=True)
        ]
        return torch.cat(images)[torch.cat(members).argsort()[position]]

    def check(self, real: RealData, how: str) -> None:
        """Refuse more bases per class than there are images, for ``real``; see the base for the rest."""
        super().check(real, how)
        if how == "real":
            check_ipc_fits(real, self.ipc)

    def initialise(self, real: RealData, how: str, generator: torch.Generator) -> None:
        """Set the bases, draw the hallucinators."""
        self.check(real, how)
        if how == "real":
            index = real.sample_indices(range(self.num_classes), self.ipc, generator)
            start = real.batch(index)
            if self.bases.shape[1] == 1:
                start = start.mean(1, keepdim=True)
            self.pairs.copy_(index.repeat_interleave(self.views))
        else:
            start = torch.randn(self.bases.shape, generator=generator)
        with torch.no_grad():
            self.bases.copy_(start)
            self.sigma.fill_(1)
            self.mu.zero_()
            self._draw(self.encoder_weight, self.encoder_bias, generator)
            self._draw(self.decoder_weight, self.decoder_bias, generator)

    def _draw(self, weight: Tensor, bias: Tensor, generator: torch.Generator) -> None:
        """Initialise one layer of all hallucinators like PyTorch does, or near the identity."""
        bound = weight[0, 0].numel() ** -0.5  # the fan-in of PyTorch, for transposed convolutions too
        for tensor in (weight, bias):
            tensor.copy_(bound * (2 * torch.rand(tensor.shape, generator=generator) - 1))
        if self.identity_start:
            weight.mul_(IDENTITY_NOISE)
            bias.mul_(IDENTITY_NOISE)
            tap = torch.eye(weight.shape[1]) if weight.shape[2] > 1 else torch.ones(weight.shape[1], 1)
            weight[..., self.kernel // 2, self.kernel // 2] += tap.to(weight)

    def _style(self) -> list[nn.Parameter]:
        return [getattr(self, name) for name in _STYLE]

    def options(self) -> dict[str, Any]:
        """Return the number of classes and the shape of an image."""
        return {"num_classes": self.num_classes, "shape": list(self.shape)}

    @staticmethod
    def decoding(stored: Mapping[str, Tensor], options: Mapping[str, Any]) -> Decoding:
        """Return what all pairs take."""
        dimensions = (5, 2, 4, 4, 5, 2)
        bases, *style = required(stored, {"bases": 4, **dict(zip(_STYLE, dimensions, strict=True))})
        shape = image_shape(options)
        divided(len(bases), whole(options, "num_classes"), "bases")
        _check_stored(bases, dict(zip(_STYLE, style, strict=True)), shape)
        images, taps = len(bases) * len(style[0]), style[0].shape[-1] ** 2
        work = images * math.prod(shape) * taps * (bases.shape[1] + shape[0])
        return Decoding(images, shape, at_once=len(style[0]) * math.prod(shape), work=work)

    @staticmethod
    def from_stored(stored: Mapping[str, Tensor], options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Decode all pairs; hard labels follow from the order."""
        bases, style, num_classes = stored["bases"], [stored[name] for name in _STYLE], whole(options, "num_classes")
        with torch.no_grad():
            images = hallucinate(bases, style).flatten(0, 1).contiguous()
        return with_targets(images, stored, num_classes)


def _check_stored(bases: Tensor, style: Mapping[str, Tensor], shape: Sequence[int]) -> None:
    """Refuse stored tensors that do not make images of ``shape``."""
    channels, height, width = shape
    count, kernel = len(style["sigma"]), style["encoder_weight"].shape[-1]
    inner = (count, channels, height - kernel + 1, width - kernel + 1)
    expected: dict[str, tuple[int, ...]] = {
        "encoder_weight": (count, channels, *bases.shape[1:2], kernel, kernel),
        "encoder_bias": (count, channels),
        "sigma": inner,
        "mu": inner,
        "decoder_weight": (count, channels, channels, kernel, kernel),
        "decoder_bias": (count, channels),
    }
    wrong = [name for name in _STYLE if tuple(style[name].shape) != expected[name]]
    if wrong or tuple(bases.shape[2:]) != (height, width):
        name = wrong[0] if wrong else "bases"
        raise ArtifactError(f"'{name}' does not make images of {tuple(shape)}: write the file anew")
