"""How do pixels become network input, and back: per-channel standardisation, then ZCA whitening if asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ddkit.data.whitening import channel_statistics, whitening
from ddkit.errors import DataError

_ZCA_NAMES = ("zca_mean", "zca_matrix", "zca_inverse")


@dataclass(frozen=True, eq=False)
class Preprocessing:
    r"""The map between pixels and network input that belongs to a dataset and to what is distilled from it.

    .. math::
        z = (x - m) / s, \qquad y = (z - \mu) W

    with :math:`x` on the [0, 1] scale, mean :math:`m` and standard deviation :math:`s` per channel. The
    second step is ZCA whitening over the flattened image and is present only when the three ``zca`` tensors
    are.

    Args:
        mean: per channel, on the [0, 1] scale; C values.
        std: per channel, on the [0, 1] scale, positive; C values.
        zca_mean: float32 ``(D,)``, D = C*H*W, the mean of z; None without whitening.
        zca_matrix: float32 ``(D, D)``, the symmetric W; None without whitening.
        zca_inverse: float32 ``(D, D)``, the inverse of W; None without whitening.

    Raises:
        DataError: constants of different lengths, a std that is not positive, or ZCA tensors that do not fit
            together.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    zca_mean: Tensor | None = None
    zca_matrix: Tensor | None = None
    zca_inverse: Tensor | None = None
    _constants: dict[Any, tuple[Tensor, ...]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            try:
                values = tuple(float(value) for value in getattr(self, name))
            except (TypeError, ValueError):
                values = ()
            object.__setattr__(self, name, values)
        if not self.mean or len(self.mean) != len(self.std):
            raise DataError(
                f"preprocessing has {len(self.mean)} means and {len(self.std)} standard deviations: "
                "give one number of each per channel"
            )
        if not all(map(math.isfinite, self.mean)) or not all(math.isfinite(s) and s > 0 for s in self.std):
            raise DataError(
                f"preprocessing mean {self.mean}, std {self.std}: give finite means and positive finite deviations"
            )
        self._check_zca()

    def _check_zca(self) -> None:
        tensors = [getattr(self, name) for name in _ZCA_NAMES]
        if all(tensor is None for tensor in tensors):
            return
        if any(not isinstance(tensor, Tensor) for tensor in tensors):
            raise DataError(f"ZCA preprocessing is incomplete: give all of {', '.join(_ZCA_NAMES)}, or none")
        size = tensors[0].numel()
        expected = [(size,), (size, size), (size, size)]
        if [tuple(tensor.shape) for tensor in tensors] != expected or size % len(self.mean):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
            raise DataError(
                f"ZCA tensors have shapes {shapes}: they must be (D,), (D, D), (D, D) with D a multiple "
                f"of the {len(self.mean)} channels; fit them again with Preprocessing.fit"
            )
        for name, tensor in zip(_ZCA_NAMES, tensors, strict=True):
            if not bool(torch.isfinite(tensor).all()):
                raise DataError(f"{name} holds NaN or Inf: fit it again with Preprocessing.fit")
            object.__setattr__(self, name, tensor.detach().to(torch.float32))

    @property
    def variance(self) -> float:
        """Mean variance of the channels: what turns a rate of standardised pixels into one of the [0, 1] scale."""
        return sum(deviation**2 for deviation in self.std) / len(self.std)

    @classmethod
    def identity(cls, channels: int) -> Preprocessing:
        """Return the preprocessing that only brings pixels to float32 on the [0, 1] scale."""
        return cls((0.0,) * channels, (1.0,) * channels)

    @classmethod
    def fit(
        cls, images: Tensor, zca: bool | Literal["standardised", "pixels"] = False, regularisation: float = 0.1
    ) -> Preprocessing:
        r"""Take the channel statistics of ``images`` and, if asked, a ZCA.

        :math:`W = U \, \mathrm{diag}((s + r)^{-1/2}) \, U^\top` with :math:`\mathrm{Cov} = U \mathrm{diag}(s)
        U^\top`. ``standardised`` (or True) whitens the standardised pixels with :math:`r = \mathrm{regularisation}
        \cdot \mathrm{tr}(\mathrm{Cov}) / D`, as KIP and FRePo do. ``pixels`` whitens the pixels on the [0, 1] scale,
        without standardising them, with :math:`r = \mathrm{regularisation}`, as trajectory matching does (MTT); what
        comes out has a standard deviation well below 1. A channel that is constant is centred and not scaled.

        Args:
            images: uint8 ``(N, C, H, W)``; the training images only.
            zca: whether, or which, whitening to fit as well.
            regularisation: added to every eigenvalue, in the unit that ``zca`` says; positive.

        Raises:
            DataError: images that are not uint8 ``(N, C, H, W)``, an empty set, a whitening that does not exist, a
                regularisation that is not positive, or images too large to whiten.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.numel() == 0:
            raise DataError(
                f"cannot fit preprocessing on {images.dtype} images of shape {tuple(images.shape)}: "
                "give at least one uint8 image as (N, C, H, W)"
            )
        if zca not in (False, True, "standardised", "pixels"):
            raise DataError(f"unknown whitening zca={zca!r}: choose standardised or pixels")
        if zca == "pixels":
            mean, std = torch.zeros(images.shape[1]).double(), torch.ones(images.shape[1]).double()
            whitened = whitening(images, mean, std, regularisation, relative=False)
            return cls(tuple(mean.tolist()), tuple(std.tolist()), *whitened)
        mean, std = channel_statistics(images)
        std = torch.where(std > 0, std, torch.ones_like(std))
        tensors: tuple[Tensor, ...] = ()
        if zca:
            tensors = whitening(images, mean, std, regularisation)
        return cls(tuple(mean.tolist()), tuple(std.tolist()), *tensors)

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return len(self.mean)

    def fits(self, shape: tuple[int, int, int]) -> bool:
        """Return whether images of ``shape`` (C, H, W) can be preprocessed."""
        return shape[0] == self.channels and (self.zca_mean is None or math.prod(shape) == self.zca_mean.numel())

    def describe(self) -> str:
        """Return, for messages, which images this preprocessing is for."""
        whitened = "" if self.zca_mean is None else f" and {self.zca_mean.numel()} whitened values"
        return f"{self.channels} channel{'s' * (self.channels > 1)}{whitened}"

    def apply(self, images: Tensor) -> Tensor:
        """Preprocess images; differentiable in float images, on the device that they are on.

        Args:
            images: ``(N, C, H, W)``, uint8 or floating point on the [0, 1] scale.

        Returns:
            float32 ``(N, C, H, W)``.

        Raises:
            DataError: another dtype, channel count or (with ZCA) image size than this preprocessing is for.
        """
        self._check(images)
        at_rest = images.dtype == torch.uint8
        if not at_rest and not images.is_floating_point():
            raise DataError(f"cannot preprocess {images.dtype} images: give uint8, or floats on the [0, 1] scale")
        scale, shift = self._on(images.device)[:2] if at_rest else self._on(images.device)[2:4]
        if at_rest and images.device.type == "cpu":
            # In place on the fresh copy: measured 1.4 to 3 times faster on a CPU core than a casting addcmul.
            output = images.to(torch.float32).mul_(scale).add_(shift)
        else:
            output = torch.addcmul(shift, images, scale).to(torch.float32)
        if self.zca_matrix is None:
            return output
        zca_mean, matrix = self._on(images.device)[6:8]
        return ((output.flatten(1) - zca_mean) @ matrix).reshape(images.shape)

    def invert(self, images: Tensor) -> Tensor:
        """Bring preprocessed images back to the [0, 1] scale, without clipping.

        Args:
            images: preprocessed, floating point, ``(N, C, H, W)``.

        Returns:
            float32 ``(N, C, H, W)``; values outside [0, 1] are kept.

        Raises:
            DataError: another channel count or (with ZCA) image size than this preprocessing is for.
        """
        self._check(images)
        output = images.to(torch.float32)
        std, mean = self._on(images.device)[4:6]
        if self.zca_matrix is not None:
            zca_mean, inverse = self._on(images.device)[6], self._on(images.device)[8]
            output = (output.flatten(1) @ inverse + zca_mean).reshape(images.shape)
        return torch.addcmul(mean, output, std)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the ZCA tensors by name; empty without whitening."""
        if self.zca_matrix is None:
            return {}
        return {name: getattr(self, name) for name in _ZCA_NAMES}

    @property
    def nbytes(self) -> int:
        """Bytes of the ZCA tensors; 0 without whitening."""
        return sum(tensor.nbytes for tensor in self.to_tensors().values())

    def metadata(self) -> dict[str, Any]:
        """Return everything but the tensors, ready for JSON."""
        return {"mean": list(self.mean), "std": list(self.std), "zca": self.zca_matrix is not None}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Preprocessing:
        """Rebuild a preprocessing from :meth:`to_tensors` and :meth:`metadata`.

        Args:
            tensors: by name; others than the three ZCA tensors are ignored.
            metadata: with keys ``mean``, ``std`` and ``zca``.

        Raises:
            DataError: a key is missing, of the wrong type, or does not fit the tensors.
        """
        for key, kind in (("mean", (list, tuple)), ("std", (list, tuple)), ("zca", bool)):
            if not isinstance(metadata.get(key), kind):
                raise DataError(
                    f"preprocessing metadata has {key}={metadata.get(key)!r}: "
                    "give lists of numbers as mean and std, and true or false as zca"
                )
        missing = [name for name in _ZCA_NAMES if name not in tensors]
        if metadata["zca"] and missing:
            raise DataError(f"preprocessing says zca=true but lacks {', '.join(missing)}: save it again")
        zca = {name: tensors[name] for name in _ZCA_NAMES} if metadata["zca"] else {}
        return cls(tuple(metadata["mean"]), tuple(metadata["std"]), **zca)

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or not self.fits((images.shape[1], images.shape[2], images.shape[3])):
            raise DataError(
                f"images of shape {tuple(images.shape)} do not fit preprocessing for {self.describe()}: "
                f"give (N, {self.channels}, H, W), with ZCA in the size that it was fitted on"
            )

    def _on(self, device: torch.device) -> tuple[Tensor, ...]:
        """Return (uint8 scale, uint8 shift, scale, shift, std, mean, *zca tensors), copied there once."""
        if device not in self._constants:
            # Ordinary tensors even when first asked for inside inference mode: autograd may need them later.
            with torch.inference_mode(False):
                mean, std = (torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1) for v in (self.mean, self.std))
                affine = (1 / (255 * std), -mean / std, 1 / std, -mean / std, std, mean)
                tensors = [value.to(torch.float32).to(device) for value in affine]
                tensors += [tensor.to(device) for tensor in self.to_tensors().values()]
            self._constants[device] = tuple(tensors)
        return self._constants[device]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_constants": {}}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Preprocessing):
            return NotImplemented
        if self.metadata() != other.metadata():
            return False
        pairs = zip(self.to_tensors().values(), other.to_tensors().values(), strict=True)
        return all(torch.equal(mine.cpu(), theirs.cpu()) for mine, theirs in pairs)

    def __hash__(self) -> int:
        return hash((self.mean, self.std, self.zca_matrix is None))
