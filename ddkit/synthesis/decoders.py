"""Shared decoders: latent codes and a few tiny decoders are learned, and every code passes through every decoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ddkit.base.ranges import Count
from ddkit.data.distilled.limits import Decoding, divided, image_shape, required, whole
from ddkit.data.real import RealData
from ddkit.errors import ArtifactError, ConfigError, DataError
from ddkit.synthesis.base import ANY_SCALE, Synthesizer, registry, with_targets
from ddkit.synthesis.labels import LabelKind
from ddkit.synthesis.latent import CHUNK, checked_codes, code_sides, decode_pairs, sizes
from ddkit.synthesis.pixels import check_ipc_fits

#: Standard deviation of the initial codes, and the learning rates of the warm start.
CODE_SCALE, WARM_CODE_LR, WARM_DECODER_LR = 0.5, 0.05, 0.02

#: Decoder tensors as they are learned and stored, the decoder being the first dimension of each.
_DECODER = ("first_weight", "first_bias", "second_weight", "second_bias")


@registry.register("shared-decoders")
class SharedDecoders(Synthesizer):
    r"""Latent codes of each class and decoders shared by all classes; every pair of both is an image.

    .. math:: s_{c,i,j} = D_j(z_{c,i}), \quad i = 1..n, \quad j = 1..m

    The factorisation of Lee, Lee and Hwang 2022 (arXiv 2208.10494), who published no code. Layers, sizes, rates and the
    warm start are ddkit's own, not taken from the paper. A code belongs to one class and is a map
    :math:`z \in R^{c_z \times \lceil H/4 \rceil \times \lceil W/4 \rceil}`; a decoder never sees the class and is

    .. math:: D_j(z) = W_2 *^\top \mathrm{LeakyReLU}_{0.1}(W_1 *^\top z + b_1) + b_2

    with 4x4 transposed convolutions of stride 2 and padding 1, and neither an output non-linearity (pixels are
    standardised) nor batch norm (an image must not depend on its batch). Content lives in codes; stroke, colour and
    texture in decoders. Image ``c * n * m + i * m + j`` is code i of class c through decoder j.

    ``ipc`` is a budget of numbers: codes and decoders together store at most as many as ``ipc`` images per class do.

    .. math:: K n |z| + m P_D \le \mathrm{ipc} \cdot K C H W, \quad P_D = 16 c_z h + h + 16 h C + C

    Hard labels follow from the order and are not stored. Soft ones belong to decoded images and come on top.
    Codes and decoders share a scale freedom (a factor on z, its inverse on W_1), which does no harm in float32, the
    format of the artifact, and is left alone.

    Initialisation: ``real`` draws codes from N(0, 0.25) and decoders as PyTorch does, then lets every pair reproduce a
    random real image of its class, all of them different, by ``warm_steps`` of Adam on the mean squared error, so
    that decoders differ. ``noise`` stops before.

    Args:
        num_classes: K.
        ipc: budget, in images per class.
        shape: (C, H, W).
        codes: n, codes per class; None for as many as the budget holds.
        decoders: m.
        code_channels: c_z.
        hidden: h, channels between the two layers.
        warm_steps: steps of the warm start.
        batch_decoders: decoders that an outer step looks at, drawn anew for all classes together; None for all. The
            term is a mean over pairs, so nothing is rescaled.
        labels: ``hard``, ``soft``, ``learned``, or (K * n * m, K) fixed probabilities.
        label_confidence: initial probability of the own class of soft and learned labels.

    Raises:
        ConfigError: an option out of range, more numbers than the budget holds, or more images than memory does.
    """

    name = "shared-decoders"
    image_like = ("codes",)
    inits = ("real", "noise")

    optimisers: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        ANY_SCALE: {"name": "adam", "lr": 0.02, "groups": {"decoders": {"lr": 0.005}}}
    }

    @classmethod
    def options_for(cls, data: RealData, ipc: int) -> dict[str, Any]:
        """Choose sizes for the budget, see :func:`ddkit.synthesis.latent.sizes`."""
        return sizes(data.shape, data.num_classes, ipc, int(data.class_counts.min()))

    def __init__(
        self,
        num_classes: int,
        ipc: int,
        shape: tuple[int, int, int],
        codes: Count | None = None,
        decoders: Count = 4,
        code_channels: Count = 2,
        hidden: Count = 8,
        warm_steps: Count = 200,
        batch_decoders: Count | None = None,
        labels: LabelKind | Tensor = "hard",
        label_confidence: float = 0.9,
    ) -> None:
        chosen = {"decoders": decoders, "code_channels": code_channels, "hidden": hidden}
        if batch_decoders is not None and batch_decoders > decoders:
            raise ConfigError(
                f"synthesis.batch_decoders={batch_decoders} must lie between 1 and synthesis.decoders={decoders}"
            )
        count = checked_codes(max(1, num_classes), ipc, shape, codes, chosen)
        super().__init__(num_classes, ipc, shape, labels, label_confidence, decoded_per_class=count * decoders)
        self.decoders, self.warm_steps, self.batch_decoders = decoders, warm_steps, batch_decoders
        self.codes = nn.Parameter(torch.zeros(num_classes * count, code_channels, *code_sides(shape)))
        self.first_weight = nn.Parameter(torch.zeros(decoders, code_channels, hidden, 4, 4))
        self.first_bias = nn.Parameter(torch.zeros(decoders, hidden))
        self.second_weight = nn.Parameter(torch.zeros(decoders, hidden, shape[0], 4, 4))
        self.second_bias = nn.Parameter(torch.zeros(decoders, shape[0]))

    def group_of(self, parameter: str) -> str:
        """Return ``codes``, ``labels`` or ``decoders``."""
        if parameter == "codes":
            return "codes"
        return "decoders" if parameter in _DECODER else super().group_of(parameter)

    def batch_index(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """Return all codes of ``classes`` (G,) through ``batch_decoders`` random decoders, the same for all of them."""
        index = super().batch_index(classes, generator)
        if self.batch_decoders in (None, self.decoders):
            return index
        chosen = torch.randperm(self.decoders, generator=generator)[: self.batch_decoders].sort().values
        return index.view(-1, self.decoders)[:, chosen.to(index.device)].flatten()

    @property
    def batch_per_class(self) -> int:
        """All codes through ``batch_decoders`` decoders, or all."""
        return self.decoded_per_class // self.decoders * (self.batch_decoders or self.decoders)

    @property
    def views(self) -> int:
        """Images of one code: as many as there are decoders."""
        return self.decoders

    def decode(self, index: Tensor) -> Tensor:
        """Return the images at ``index`` (M,), decoding only the codes and decoders that occur in it."""
        codes, row = torch.unique(index // self.decoders, return_inverse=True)
        used, column = torch.unique(index % self.decoders, return_inverse=True)
        pairs = decode_pairs(self.codes[codes], [tensor[used] for tensor in self._decoder()], self.shape)
        return pairs.flatten(0, 1)[row * len(used) + column]

    def check(self, real: RealData, how: str) -> None:
        """Refuse fewer images in a class than pairs, or than ``ipc``, for ``real``; see the base for the rest."""
        super().check(real, how)
        if how != "real":
            return
        check_ipc_fits(real, self.ipc)
        smallest = int(real.class_counts.argmin())
        count = int(real.class_counts[smallest])
        if self.decoded_per_class > count:
            codes = self.decoded_per_class // self.decoders
            remedy = f"synthesis.codes={count // self.decoders}" if count >= self.decoders else "fewer decoders"
            raise DataError(
                f"{codes} codes x {self.decoders} decoders want {self.decoded_per_class} real images per class to "
                f"start from, class '{real.class_names[smallest]}' has {count}: choose {remedy} or init=noise"
            )

    def initialise(self, real: RealData, how: str, generator: torch.Generator) -> None:
        """Draw codes and decoders; warm-start them on real images for ``real``."""
        self.check(real, how)
        with torch.no_grad():
            self.codes.copy_(CODE_SCALE * torch.randn(self.codes.shape, generator=generator))
            for weight, bias in ((self.first_weight, self.first_bias), (self.second_weight, self.second_bias)):
                bound = weight[0, 0].numel() ** -0.5  # PyTorch takes output channels x 16 as the fan-in
                for tensor in (weight, bias):
                    tensor.copy_(bound * (2 * torch.rand(tensor.shape, generator=generator) - 1))
        if how == "real":
            self.pairs.copy_(real.sample_indices(range(self.num_classes), self.decoded_per_class, generator))
            self._warm_start(real.batch(self.pairs))

    def _warm_start(self, images: Tensor) -> None:
        """Fit pair k to ``images[k]``; gradients are accumulated over chunks of codes."""
        targets = images.to(self.codes).unflatten(0, (-1, self.decoders))
        rates = [
            {"params": [self.codes], "lr": WARM_CODE_LR},
            {"params": self._decoder(), "lr": WARM_DECODER_LR},
        ]
        optimiser = torch.optim.Adam(rates)
        rows = torch.arange(len(targets), device=targets.device).split(max(1, CHUNK // self.decoders))
        begun = 0

        def state() -> dict[str, Any]:
            return {"step": number + 1, "pieces": dict(self.state_dict()), "optimiser": optimiser.state_dict()}

        def take(kept: dict[str, Any]) -> None:
            nonlocal begun
            self.load_state_dict(kept["pieces"])
            optimiser.load_state_dict(kept["optimiser"])
            begun = int(kept["step"])

        self.stages.restore("decoders", take)
        for number in range(begun, self.warm_steps):
            optimiser.zero_grad()
            for part in rows:
                error = decode_pairs(self.codes[part], self._decoder(), self.shape) - targets[part]
                (error.square().sum() / targets.numel()).backward()
            optimiser.step()
            self.report("fitting codes and decoders", number + 1, self.warm_steps)
            self.stages.keep("decoders", state)
        optimiser.zero_grad()

    def _decoder(self) -> list[nn.Parameter]:
        return [self.first_weight, self.first_bias, self.second_weight, self.second_bias]

    def options(self) -> dict[str, Any]:
        """Return the number of classes and the shape of an image."""
        return {"num_classes": self.num_classes, "shape": list(self.shape)}

    @staticmethod
    def decoding(stored: Mapping[str, Tensor], options: Mapping[str, Any]) -> Decoding:
        """Return what all pairs take."""
        dimensions = {"codes": 4, "first_weight": 5, "first_bias": 2, "second_weight": 5, "second_bias": 2}
        codes, *decoders = required(stored, dimensions)
        num_classes, shape = whole(options, "num_classes"), image_shape(options)
        divided(len(codes), num_classes, "codes")
        count, code_channels, hidden = decoders[0].shape[:3]
        channels, code = decoders[2].shape[2], tuple(codes.shape[2:])
        if shape[0] != channels or code != code_sides(shape):
            raise ArtifactError(
                f"codes of {code} and decoders of {channels} channels do not make images of {shape}: write the file "
                f"anew"
            )
        wanted = [(count, code_channels, hidden, 4, 4), (count, hidden), (count, hidden, channels, 4, 4)]
        if [tuple(tensor.shape) for tensor in decoders] != [*wanted, (count, channels)]:
            raise ArtifactError("the weights of the decoders do not fit each other: write the file anew")
        inner = count * hidden * 4 * math.prod(code)  # maps between the two layers
        work = len(codes) * inner * 4 * (code_channels + 4 * channels)
        return Decoding(len(codes) * count, shape, at_once=inner, work=work)

    @staticmethod
    def from_stored(stored: Mapping[str, Tensor], options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Decode all pairs; hard labels follow from the order."""
        codes, decoders = stored["codes"], [stored[name] for name in _DECODER]
        num_classes, shape = whole(options, "num_classes"), image_shape(options)
        with torch.no_grad():
            images = decode_pairs(codes, decoders, shape).flatten(0, 1).contiguous()
        return with_targets(images, stored, num_classes)
