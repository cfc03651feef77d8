"""GAN codes: what is learned are inputs of a frozen generator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ddkit.base.ranges import Count
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.distilled.limits import MOST_AT_ONCE, Decoding, check_learned, numbers_of
from ddkit.data.preprocessing import Preprocessing
from ddkit.data.real import RealData
from ddkit.errors import ArtifactError, ConfigError, DataError
from ddkit.synthesis.base import ANY_SCALE, Synthesizer, registry
from ddkit.synthesis.gan.generator import Generator, rebuild
from ddkit.synthesis.gan.given import frozen_generator
from ddkit.synthesis.gan.inversion import invert, train_features
from ddkit.synthesis.gan.training import train_generator
from ddkit.synthesis.labels import LabelKind

#: Most images that a generator draws in one call.
DECODE_CHUNK = 256
#: Learning rate of Adam for ``inverted``, as published.
INVERSION_RATE = 0.1


@registry.register("gan")
class GANCodes(Synthesizer):
    r"""One latent code per image of a frozen, class-conditional generator (IT-GAN: Zhao and Bilen 2022, NeurIPS
    workshop, https://arxiv.org/abs/2204.07513; survey section 5).

    .. math:: s_i = \big(\tfrac{1}{2} G(z_i, y_i) + \tfrac{1}{2} - m\big) / \sigma

    with learned codes :math:`z_i`, fixed classes :math:`y_i` and the preprocessing's mean :math:`m` and deviation
    :math:`\sigma`. Unless a trained generator is given, :meth:`initialise` trains one on the real data. It is then
    frozen: in eval mode with stored statistics always, so that an image does not depend on its batch.

    Starting points: ``inverted`` draws distinct real images of each class and looks for the codes that generate them
    (their positions become :attr:`pairs`); ``prior`` draws codes from N(0, 1), which without matching are ordinary
    samples of the GAN.

    Deviates from the paper, which learns a code for every training image: here ``ipc`` codes per class. The generator
    then weighs more than the codes (19,841 numbers against 3,200 at ten classes of ten 8x8 images). The budget counts
    both; the codes alone are ``gan.codes_floats`` in the artifact's metadata. A generator that was trained on private
    images is itself a release of them.

    A generator of one's own is any frozen module in eval mode with ``generator(z, labels) -> images`` in (-1, 1); it is
    copied. (Spectral norm is best removed first, by ``torch.nn.utils.parametrize.remove_parametrizations``: that
    changes images by rounding only and saves work.) An artifact cannot hold foreign code or decode through ZCA
    whitening: with either of them it stores plain pixels, and the budget counts these.

    Args:
        num_classes: K.
        ipc: codes per class.
        shape: (C, H, W).
        code_size: numbers in a code; a saved generator's own takes precedence.
        width: feature maps of a generator to be trained; None for 32 up to 16 pixels, else 64.
        generator_steps: training steps of the generator.
        generator_batch: images per such step.
        inversion_steps: steps of Adam for ``inverted``.
        feature_steps: SGD steps of the network in whose features inversion compares images.
        batch_codes: codes per class and outer step, drawn without replacement; None for all. Codes outside a draw still
            move by the momentum of the optimiser, as in the authors' program.
        generator: a file of :func:`ddkit.synthesis.gan.save_generator`, or a module; None to train one.
        labels: ``hard``, ``soft``, ``learned``, or (K * ipc, K) fixed probabilities.
        label_confidence: initial probability of the own class of soft and learned labels.

    Raises:
        ConfigError: an option out of range, or a generator that does not fit.
        ArtifactError: a generator file that cannot be read.
    """

    name = "gan"
    inits = ("inverted", "prior")

    scale: Tensor
    shift: Tensor
    inversion: Tensor

    #: Measured for distribution matching of some codes per class.
    optimisers: ClassVar[Mapping[str, Mapping[str, Any]]] = {ANY_SCALE: {"name": "adam", "lr": 0.01}}

    def __init__(
        self,
        num_classes: int,
        ipc: int,
        shape: tuple[int, int, int],
        code_size: Count = 32,
        width: int | None = None,
        generator_steps: Count = 1500,
        generator_batch: Annotated[int, Field(ge=2)] = 64,
        inversion_steps: Count = 400,
        feature_steps: Count = 300,
        batch_codes: Count | None = None,
        generator: str | Path | nn.Module | None = None,
        labels: LabelKind | Tensor = "hard",
        label_confidence: float = 0.9,
    ) -> None:
        super().__init__(num_classes, ipc, shape, labels, label_confidence)
        if batch_codes is not None and batch_codes > ipc:
            raise ConfigError(f"synthesis.batch_codes={batch_codes} must lie between 1 and ipc={ipc}")
        self.training_options = {"steps": generator_steps, "batch": generator_batch}
        self.inversion_steps, self.feature_steps = inversion_steps, feature_steps
        self.batch_codes = batch_codes
        self.needs_training = generator is None
        channels, height, columns = shape
        self.generator = frozen_generator(generator, num_classes, (channels, height, columns), code_size, width)
        code_size = getattr(self.generator, "code_size", code_size)
        stored = sum(tensor.numel() for tensor in self.generator.state_dict().values()) + len(self) * (code_size + 1)
        if isinstance(self.generator, Generator):  # another one's images are stored as they are
            check_learned(f"{len(self)} codes", len(self) * math.prod(shape), stored, "lower ipc")
        self.codes = nn.Parameter(torch.zeros(len(self), code_size))
        self.register_buffer("scale", torch.ones(shape[0]))
        self.register_buffer("shift", torch.zeros(shape[0]))
        self.register_buffer("inversion", torch.zeros(2, 2))
        self._whitening: Preprocessing | None = None

    def train(self, mode: bool = True) -> GANCodes:
        """Change nothing for the generator: it is in eval mode always."""
        super().train(mode)
        self.generator.eval()
        return self

    def group_of(self, parameter: str) -> str:
        """Return ``codes`` or ``labels``."""
        return "codes" if parameter == "codes" else super().group_of(parameter)

    @property
    def batch_per_class(self) -> int:
        """``batch_codes``, or all."""
        return self.batch_codes or self.ipc

    @property
    def pairing_inits(self) -> tuple[str, ...]:
        """``inverted``: codes start from the images that they were inverted from."""
        return ("inverted",)

    @property
    def portable(self) -> bool:
        """Whether an artifact can hold what decodes the codes."""
        return isinstance(self.generator, Generator) and self._whitening is None

    def batch_index(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """Return ``batch_codes`` random images of each of ``classes`` (G,), class-major; all of them by default."""
        index = self.index_of(classes)
        if self.batch_codes is None:
            return index
        rows = [torch.randperm(self.ipc, generator=generator)[: self.batch_codes].sort().values for _ in classes]
        return index.view(len(classes), self.ipc).gather(1, torch.stack(rows).to(index.device)).flatten()

    def decode(self, index: Tensor) -> Tensor:
        """Return the images at ``index`` (M,), a chunk of codes at a time.

        A differentiated call of several chunks keeps only the images: the generator passes each chunk again when its
        gradient is asked for, so that its activations never take more than one chunk's memory.
        """
        chunks = list(zip(self.codes[index].split(DECODE_CHUNK), self.classes[index].split(DECODE_CHUNK), strict=True))
        if len(chunks) == 1:
            return self._images(*chunks[0])
        if not torch.is_grad_enabled():
            return torch.cat([self._images(*chunk) for chunk in chunks])
        parts = [
            checkpoint(self._images, *chunk, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-untyped-call]
            for chunk in chunks
        ]
        return torch.cat(parts)

    def _images(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Generate images and bring them from (-1, 1) to the preprocessed space."""
        drawn = self.generator(codes, labels)
        if self._whitening is not None:
            return self._whitening.apply(drawn * 0.5 + 0.5).to(codes.dtype)
        return preprocessed(drawn, self.scale, self.shift)

    def check(self, real: RealData, how: str) -> None:
        """Refuse more images per class than there are, for ``inverted``; see the base for the rest.

        The whitening of ``real``, if any, is kept, as a resumed run is not initialised.
        """
        super().check(real, how)
        counts = real.class_counts
        smallest = int(counts.argmin())
        if how == "inverted" and self.ipc > int(counts[smallest]):
            raise DataError(
                f"ipc={self.ipc} is larger than class '{real.class_names[smallest]}', which has "
                f"{int(counts[smallest])} images to invert: choose ipc <= {int(counts[smallest])} or init=prior"
            )
        self._whitening = real.preprocessing if real.preprocessing.zca_matrix is not None else None

    def initialise(self, real: RealData, how: str, generator: torch.Generator) -> None:
        """Train the generator unless one was given, then draw the codes and, for ``inverted``, move them."""
        self.check(real, how)
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (real.preprocessing.mean, real.preprocessing.std))
        self.scale.copy_(0.5 / std)
        self.shift.copy_((0.5 - mean) / std)
        training, start, pairing = (
            torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=generator))) for _ in range(3)
        )
        if self.needs_training:
            self._train_generator(real, training)
        with torch.no_grad():
            self.codes.copy_(torch.randn(self.codes.shape, generator=start))
        if how == "inverted":
            self._invert(real, pairing)
        with torch.no_grad():
            finite = bool(self()[0].isfinite().all())
        if not finite:
            raise ConfigError("the generator draws images that are not finite: give one that was trained to the end")

    def _train_generator(self, real: RealData, generator: torch.Generator) -> None:
        assert isinstance(self.generator, Generator)
        options: dict[str, Any] = {
            "code_size": self.generator.code_size,
            "width": self.generator.width,
            **self.training_options,
            "device": self.codes.device,
            "report": self.report,
            "stages": self.stages,
        }
        trained = train_generator(real, generator, **options)
        self.generator.load_state_dict(trained.state_dict())

    def _invert(self, real: RealData, generator: torch.Generator) -> None:
        index = real.sample_indices(range(self.num_classes), self.ipc, generator)
        device, dtype = self.codes.device, self.codes.dtype
        network = train_features(real, self.feature_steps, generator, device).to(dtype)
        codes, losses = invert(
            self._images,
            network.features,  # type: ignore[arg-type]
            self.codes,
            self.classes,
            lambda position: real.batch(index[position]).to(device, dtype),
            steps=self.inversion_steps,
            lr=INVERSION_RATE,
            report=self.report,
            stages=self.stages,
        )
        with torch.no_grad():
            self.codes.copy_(codes)
        self.pairs.copy_(index)
        self.inversion.copy_(losses)

    def stored(self) -> dict[str, Tensor]:
        """Return ``codes``, the generator's parameters and buffers, ``labels``; ``images`` where it is not portable."""
        if not self.portable:
            with torch.no_grad():
                return {"images": self()[0], "labels": self.stored_labels()}
        weights = {f"generator.{name}": tensor for name, tensor in self.generator.state_dict().items()}
        return {"codes": self.codes.detach(), **weights, "labels": self.stored_labels()}

    def options(self) -> dict[str, Any]:
        """Return the generator's sizes, and scale and shift per channel; nothing where it is not portable."""
        if not self.portable:
            return {}
        assert isinstance(self.generator, Generator)
        return {**self.generator.options(), "scale": self.scale.tolist(), "shift": self.shift.tolist()}

    @staticmethod
    def decoding(stored: Mapping[str, Tensor], options: Mapping[str, Any]) -> Decoding:
        """Return what drawing all images takes."""
        generator, codes = _stored_generator(stored, options), stored.get("codes")
        if codes is None or codes.dtype != torch.float32 or codes.shape[1:] != (generator.code_size,):
            raise ArtifactError(f"codes are not (N, {generator.code_size}) float32: write the file anew with ddkit")
        if any(len(values) != generator.shape[0] for values in _affine(options)):
            raise ArtifactError(f"scale and shift are not {generator.shape[0]} numbers each: write the file anew")
        if "labels" not in stored or len(codes) % generator.num_classes:
            raise ArtifactError(f"{len(codes)} codes are not as many for each of {generator.num_classes} classes")
        return Decoding(len(codes), generator.shape, generator.at_once, len(codes) * generator.work)

    @staticmethod
    def from_stored(stored: Mapping[str, Tensor], options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Rebuild the generator and draw all images."""
        generator, codes, affine = _stored_generator(stored, options), stored["codes"], _affine(options)
        classes = torch.arange(generator.num_classes).repeat_interleave(len(codes) // generator.num_classes)
        chunk = max(1, min(DECODE_CHUNK, MOST_AT_ONCE // generator.at_once))
        with torch.no_grad():
            parts = [
                preprocessed(generator(code, label), *affine)
                for code, label in zip(codes.split(chunk), classes.split(chunk), strict=True)
            ]
        return torch.cat(parts), stored["labels"]

    def materialise(
        self, preprocessing: Preprocessing, class_names: tuple[str, ...], metadata: dict[str, Any]
    ) -> DistilledDataset:
        """Return the artifact: codes with their generator, or plain pixels where it is not portable.

        The images are those that any reader of the file decodes: from the stored tensors, on the CPU.
        """
        stored = {key: value.detach().float().cpu() for key, value in self.stored().items() if key != "labels"}
        stored["labels"] = self.stored_labels()
        images = self.from_stored(stored, self.options())[0] if self.portable else stored["images"]
        return DistilledDataset(
            images=images,
            labels=stored["labels"],
            label_kind=self.labels.artifact_kind,
            class_names=class_names,
            preprocessing=preprocessing,
            budget=self.budget(),
            metadata={**metadata, "gan": self.card()},
            synthesis=self.name if self.portable else "pixels",
            synthesis_options=self.options(),
            stored=stored,
        )

    def card(self) -> dict[str, Any]:
        """Return the size of codes and generator, and the mean losses of the inversion before and after it."""
        generator = list(self.generator.state_dict().values())
        sizes = {"codes_floats": self.codes.numel(), "generator_floats": sum(t.numel() for t in generator)}
        if int(self.pairs.min()) < 0:
            return sizes
        feature, pixel = self.inversion.T.tolist()
        return {**sizes, "inversion": {"feature_loss": feature, "pixel_loss": pixel}}


def _stored_generator(stored: Mapping[str, Tensor], options: Mapping[str, Any]) -> Generator:
    sizes = {name: value for name, value in options.items() if name not in ("scale", "shift")}
    return rebuild(sizes, {k.removeprefix("generator."): v for k, v in stored.items() if k.startswith("generator.")})


def _affine(options: Mapping[str, Any]) -> list[Tensor]:
    """Return scale and shift per channel as they are stored."""
    return [torch.tensor(numbers_of(options, name)) for name in ("scale", "shift")]


def preprocessed(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Bring images (N, C, H, W) in (-1, 1) to the preprocessed space: scale and shift (C,) per channel."""
    return torch.addcmul(shift[:, None, None], images, scale[:, None, None])
