"""Multi-formation: every stored image is cut into patches, each enlarged to an image of full size."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, cast, get_args

import torch
from torch import Tensor, nn

from ddkit.base.ranges import Count
from ddkit.data.distilled.limits import Decoding, check_learned, numbers_of, required, whole
from ddkit.data.preprocessing import Preprocessing
from ddkit.data.real import RealData
from ddkit.errors import ArtifactError, ConfigError, DataError, unknown_name
from ddkit.synthesis.base import Synthesizer, registry, with_targets
from ddkit.synthesis.labels import LabelKind
from ddkit.synthesis.patches import DecodeType, decode_patches, formations, layout, mosaic, patch_bounds
from ddkit.synthesis.pixels import kmeans_start

#: What fills a patch beyond the border of a stored image in pixel space, as in the authors' program.
GREY = 0.5
#: Patches with fewer pixels a side decode to blurs: the user is warned.
COARSE_PATCH = 8
#: Patches need at least this many pixels a side.
SMALLEST_PATCH = 4


@registry.register("multi-formation")
class MultiFormation(Synthesizer):
    r"""Stored images whose patches are enlarged to training images (IDC, Kim et al. 2022, ICML; survey Eq. 27).

    With factor F an image is cut into F x F patches of ceil(H/F) x ceil(W/F) pixels, padded with grey on the right and
    at the bottom where F does not divide, and every patch is enlarged to H x W by bilinear interpolation: F² training
    images for the bytes of one. Decoded images of a class are neighbours; among them the patch (row-major) varies
    slowest and the stored image fastest. The same number of bytes holds more, blurred images, which pays where images
    have detail to spare: with patches below 8 pixels it usually does not, and a warning says so.

    Stored images live on the [0, 1] scale of pixels and are standardised after decoding with the constants of the real
    data. They are clamped to [0, 1] after every step, so that what is saved can be shown; the authors clamp once in
    100 steps and save without a clamp. Data with ZCA preprocessing have no such scale: there the stored images live in
    the preprocessed space, are not clamped, and are padded with 0.

    Initialisation: ``real`` puts a different random real image into every patch, shrunk by nearest neighbour (called
    ``mix`` in the paper; plain real images for F = 1); under ``multi`` the patches are those of the largest factor,
    under ``bound`` each image is cut as it will be decoded (the authors cut all by F). ``kmeans`` takes the images
    nearest to k-means centres of their class for it (DREAM, Liu et al. 2023). ``noise`` draws N(0, 1) / 4 + 0.5,
    clamped (N(0, 1) with ZCA).

    An outer step looks at no more than ``batch_images`` decoded images per class, drawn anew for every class without
    replacement. Learning rates count on the [0, 1] scale: a rate of r there moves a standardised pixel like r / std².

    Args:
        num_classes: K.
        ipc: stored images per class.
        shape: (C, H, W).
        factor: patches along an axis, F.
        decode_type: ``single``, ``multi`` or ``bound``, see :func:`ddkit.synthesis.patches.formations`.
        batch_images: most decoded images per class and outer step; under ``bound`` also the bound.
        labels: ``hard``, ``soft``, ``learned``, or (decoded images, K) fixed probabilities; one per decoded image.
        label_confidence: initial probability of the own class of soft and learned labels.

    Raises:
        ConfigError: a factor below 1 or with patches below 4 pixels, an unknown decode type, ``batch_images`` below 1.
    """

    name = "multi-formation"
    inits = ("real", "noise", "kmeans")

    mean: Tensor
    std: Tensor
    #: 1 where stored images are pixels on the [0, 1] scale, 0 where the data are whitened; uint8, as it is saved.
    in_pixels: Tensor
    plan: Tensor

    #: A tenth of the rates for pixels, for standard deviations of about 0.3.
    optimisers: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "feature": {"name": "sgd", "lr": 0.1, "momentum": 0.5},
        "trajectory": {"name": "sgd", "lr": 10.0, "momentum": 0.5},
        **{scale: {"name": "sgd", "lr": 0.01, "momentum": 0.5} for scale in ("gradient", "risk", "regression")},
        "kernel": {"name": "adam", "lr": 0.005},
    }

    def __init__(
        self,
        num_classes: int,
        ipc: int,
        shape: tuple[int, int, int],
        factor: Count = 2,
        decode_type: DecodeType = "single",
        batch_images: Count = 128,
        labels: LabelKind | Tensor = "hard",
        label_confidence: float = 0.9,
    ) -> None:
        if decode_type not in get_args(DecodeType):
            raise unknown_name("synthesis.decode_type", decode_type, get_args(DecodeType))
        _check_factor(factor, shape)
        parts = formations(decode_type, ipc, factor, batch_images)
        decoded, size = sum(part.decoded for part in parts), num_classes * math.prod(shape)
        check_learned(f"ipc={ipc} and factor={factor}", decoded * size, ipc * size, "lower ipc or synthesis.factor")
        super().__init__(num_classes, ipc, shape, labels, label_confidence, decoded)
        self.factor, self.decode_type, self.batch_images = factor, decode_type, batch_images
        self.start_parts = parts[-1:] if decode_type == "multi" else parts
        self.register_buffer("plan", layout(parts), persistent=False)
        per_image = torch.bincount(self.plan[:, 1])
        self._views = int(per_image[0]) if bool((per_image == per_image[0]).all()) else 1
        self.register_buffer("mean", torch.zeros(shape[0], 1, 1))
        self.register_buffer("std", torch.ones(shape[0], 1, 1))
        self.register_buffer("in_pixels", torch.tensor(1, dtype=torch.uint8))
        self.images = nn.Parameter(torch.zeros(num_classes * ipc, *shape))

    @property
    def start_images(self) -> int:
        """Real images per class from which the initialisation ``real`` starts."""
        return sum(part.decoded for part in self.start_parts)

    @property
    def views(self) -> int:
        """Patches of one stored image; 1 under ``bound`` where images are cut differently."""
        return self._views

    def view_index(self, codes: Tensor, view: int) -> Tensor:
        """Return where patch ``view`` of the stored images ``codes`` (n,) is: patches vary slowest in a class."""
        first = codes.div(self.ipc, rounding_mode="floor") * self.decoded_per_class
        return first + view * self.ipc + codes % self.ipc

    @property
    def pairing_inits(self) -> tuple[str, ...]:
        """``real`` and ``kmeans``, unless some decoded images show several real ones (``multi``)."""
        return () if self.decode_type == "multi" and self.factor > 1 else ("real", "kmeans")

    def after_step(self) -> None:
        """Clamp pixels to [0, 1], project labels."""
        super().after_step()
        if self.in_pixels:
            with torch.no_grad():
                self.images.clamp_(0, 1)

    def decode(self, index: Tensor) -> Tensor:
        """Return the enlarged and standardised patches (M, C, H, W) at ``index`` (M,)."""
        padding = GREY if self.in_pixels else 0.0
        return (decode_patches(self.images, self.plan, self.ipc, index, padding) - self.mean) / self.std

    def check(self, real: RealData, how: str) -> None:
        """Refuse more patches per class than there are images, for ``real``; see the base for the rest."""
        super().check(real, how)
        smallest = int(real.class_counts.argmin())
        count = int(real.class_counts[smallest])
        if how in ("real", "kmeans") and self.start_images > count:
            raise DataError(
                f"ipc={self.ipc} is larger than class '{real.class_names[smallest]}' allows: with factor "
                f"{self.factor} it starts from {self.start_images} real images, and there are {count}: choose a "
                f"smaller ipc or factor, or init=noise"
            )

    def initialise(self, real: RealData, how: str, generator: torch.Generator) -> None:
        """Take the constants of the preprocessing, set the stored images."""
        self.check(real, how)
        self._take_scale(real.preprocessing)
        if how == "noise":
            noise = torch.randn(self.images.shape, generator=generator)
            start = (noise / 4 + GREY).clamp(0, 1) if self.in_pixels else noise
        else:
            classes = range(self.num_classes)
            if how == "real":
                index = real.sample_indices(classes, self.start_images, generator)
            else:
                index = kmeans_start(real, classes, self.start_images)
            by_class = index.split(self.start_images)
            start = torch.cat([mosaic(self._codes(real, own), self.start_parts, self.ipc) for own in by_class])
            # Under ``multi`` the largest factor comes last; images of smaller factors show several sources.
            self.pairs.view(self.num_classes, -1)[:, -self.start_images :].copy_(torch.stack(by_class))
        with torch.no_grad():
            self.images.copy_(start)

    def _take_scale(self, preprocessing: Preprocessing) -> None:
        whitened = preprocessing.zca_matrix is not None
        self.in_pixels.fill_(int(not whitened))
        for buffer, values, neutral in ((self.mean, preprocessing.mean, 0.0), (self.std, preprocessing.std, 1.0)):
            scale = [neutral] * len(values) if whitened else list(values)
            buffer.copy_(torch.tensor(scale, dtype=torch.float64).view(-1, 1, 1))

    def _codes(self, real: RealData, index: Tensor) -> Tensor:
        """Return real images (n, C, H, W) in the space of the stored ones."""
        if not self.in_pixels:
            return real.batch(index)
        return real.images.index_select(0, index.to(real.images.device)).to(real.device).float() / 255

    def options(self) -> dict[str, Any]:
        """Return how to decode."""
        return {
            "ipc": self.ipc,
            "factor": self.factor,
            "decode_type": self.decode_type,
            "batch_images": self.batch_images,
            "in_pixels": bool(self.in_pixels),
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
        }

    @staticmethod
    def decoding(stored: Mapping[str, Tensor], options: Mapping[str, Any]) -> Decoding:
        """Return what all patches take."""
        (images,) = required(stored, {"images": 4})
        ipc, factor = whole(options, "ipc"), whole(options, "factor")
        bound, kind = whole(options, "batch_images"), options.get("decode_type")
        channels, height, width = images.shape[1:]
        if factor > max(1, min(height, width) // SMALLEST_PATCH):
            raise ArtifactError(
                f"factor {factor} leaves patches of less than {SMALLEST_PATCH} pixels in images of {height}x{width}: "
                f"write the file anew"
            )
        if kind not in get_args(DecodeType) or len(images) % ipc:
            raise ArtifactError(
                f"{len(images)} stored images are not ipc={ipc} for each class, or their decode type is unknown: write "
                f"the file anew"
            )
        if any(len(numbers_of(options, name)) != channels for name in ("mean", "std")):
            raise ArtifactError(f"mean and std are not {channels} numbers each: write the file anew")
        per_class = sum(part.decoded for part in formations(cast("DecodeType", kind), ipc, factor, bound))
        decoded = len(images) // ipc * per_class
        patch = math.ceil(height / factor), math.ceil(width / factor)
        work = decoded * channels * height * patch[1] * (patch[0] + width)
        return Decoding(decoded, (channels, height, width), work=work)

    @staticmethod
    def from_stored(stored: Mapping[str, Tensor], options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Decode like the run did, bit for bit on the same kind of device."""
        images, ipc = stored["images"], options["ipc"]
        parts = formations(options["decode_type"], ipc, options["factor"], options["batch_images"])
        per_class = sum(part.decoded for part in parts)
        decoded = len(images) // ipc * per_class
        padding = GREY if options["in_pixels"] else 0.0
        mean, std = (torch.tensor(options[name]).to(images).view(-1, 1, 1) for name in ("mean", "std"))
        patches = decode_patches(images, layout(parts), ipc, torch.arange(decoded), padding)
        return with_targets((patches - mean) / std, stored, len(images) // ipc)


def _check_factor(factor: int, shape: tuple[int, int, int]) -> None:
    """Refuse patches that hold nothing, warn about coarse ones."""
    side = min(shape[1:])
    if factor > 1 and factor * SMALLEST_PATCH > side:
        raise ConfigError(
            f"synthesis.factor={factor} leaves patches of less than {SMALLEST_PATCH} pixels in images of "
            f"{shape[1]}x{shape[2]}: choose a factor up to {max(1, side // SMALLEST_PATCH)}"
        )
    if any(patch_bounds(length, factor)[-1][0] >= length for length in shape[1:]):
        raise ConfigError(
            f"synthesis.factor={factor} leaves a patch outside images of {shape[1]}x{shape[2]}: choose a factor that "
            f"divides both sides"
        )
    if factor > 1 and factor * COARSE_PATCH > side:
        warnings.warn(
            f"factor {factor} decodes images of {shape[1]}x{shape[2]} from patches of {side / factor:g} pixels, which "
            f"lose much of their content: compare with synthesis.factor=1",
            stacklevel=4,
        )
