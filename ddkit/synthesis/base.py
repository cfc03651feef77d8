"""The base of everything that is learned: indexed images with targets, a budget, and a form to store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from inspect import getattr_static
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ddkit.base.progress import Report, silent
from ddkit.base.registry import Registry
from ddkit.base.stages import Stages
from ddkit.data.distilled import syntheses
from ddkit.data.distilled.budget import Budget
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.distilled.limits import MOST_NUMBERS, Decoding, image_shape, required, stored_images, whole
from ddkit.data.preprocessing import Preprocessing
from ddkit.data.real import RealData
from ddkit.errors import ArtifactError, ConfigError, unknown_name
from ddkit.synthesis.labels import HardLabels, LabelKind, make_labels

registry: Registry[type[Synthesizer]] = syntheses.registry

#: Key of the settings that suit every scale of gradients, as adaptive optimisers do.
ANY_SCALE = "any"


class Synthesizer(nn.Module, ABC):
    """A differentiable description of a synthetic dataset.

    What is stored (pixels, codes, bases with decoders) and what a network trains on (images) may differ; an objective
    sees only the decoded images, so any synthesizer works with any objective. Decoded images are numbered class by
    class: those of class c occupy ``c * decoded_per_class`` to ``(c + 1) * decoded_per_class - 1``, where c counts the
    classes that have images; that is all of them unless ``present`` says otherwise.

    Args:
        num_classes: K, at least 2.
        ipc: stored images (or codes) per class.
        shape: (C, H, W) of a decoded image.
        labels: a kind of :func:`ddkit.synthesis.labels.make_labels`, or (M, K) fixed probabilities.
        label_confidence: initial probability of the own class of soft, learned and projected labels.
        decoded_per_class: decoded images per class; ``ipc`` unless the synthesizer decodes one code into several.
        label_scale: factor of the start of free and centred labels.
        present: classes that have images, ascending; None for all. With learned labels a set can teach classes of
            which it holds no image.

    Raises:
        ConfigError: fewer than two classes, an IPC below 1, labels that are no probabilities, or classes that are not
            ascending numbers below K.
    """

    name: ClassVar[str]
    inits: ClassVar[tuple[str, ...]] = ("real", "noise")
    #: Optimiser settings by the scale of an objective's gradients; under :data:`ANY_SCALE` those for every other one.
    optimisers: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    #: Most decoded images of a class that an outer step looks at; None for all.
    batch_images: int | None = None
    #: Stored tensors (N, C, H, W) that look like images, which a codec may keep in few bits.
    image_like: ClassVar[tuple[str, ...]] = ("images",)
    #: Told how far :meth:`initialise` is where it takes a while.
    report: Report = staticmethod(silent)
    #: Keeps how far long work in :meth:`initialise` is; without a run folder nothing.
    stages: Stages = Stages(None)

    classes: Tensor
    _position: Tensor
    #: (M,) int64, index of the real image from which each decoded image started; -1 where there is none.
    pairs: Tensor

    @classmethod
    def defaults(cls, scale: str | None) -> dict[str, Any]:
        """Return ``init`` and ``optimiser`` settings for a method whose preset uses another synthesis or objective.

        The optimiser is missing where this synthesis knows no rates for the scale.

        Args:
            scale: of the gradients, :attr:`ddkit.objectives.Objective.gradient_scale`.
        """
        settings: dict[str, Any] = {"init": cls.inits[0]}
        if scale is not None and (optimiser := cls.optimisers.get(scale, cls.optimisers.get(ANY_SCALE))):
            settings["optimiser"] = optimiser
        return settings

    @classmethod
    def options_for(cls, data: RealData, ipc: int) -> dict[str, Any]:
        """Return options for a method whose preset uses another synthesis, where they depend on data and budget."""
        return {}

    def __init__(
        self,
        num_classes: int,
        ipc: int,
        shape: tuple[int, int, int],
        labels: LabelKind | Tensor = "hard",
        label_confidence: float = 0.9,
        decoded_per_class: int | None = None,
        label_scale: float = 1.0,
        present: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ConfigError(f"num_classes={num_classes}: classification needs at least 2 classes")
        if ipc < 1:
            raise ConfigError(f"ipc={ipc} must be at least 1")
        self.num_classes, self.ipc, self.shape = num_classes, ipc, tuple(shape)
        self.decoded_per_class = decoded_per_class or ipc
        #: Classes that have images, ascending.
        self.present = tuple(range(num_classes)) if present is None else _checked_classes(present, num_classes)
        classes = torch.tensor(self.present).repeat_interleave(self.decoded_per_class)
        self.register_buffer("classes", classes, persistent=False)
        position = torch.full((num_classes,), -1)
        position[list(self.present)] = torch.arange(len(self.present))
        self.register_buffer("_position", position, persistent=False)
        self.register_buffer("pairs", torch.full((len(classes),), -1))
        self.labels = make_labels(labels, classes, num_classes, label_confidence, label_scale)

    def __len__(self) -> int:
        """Number of decoded images."""
        return len(self.classes)

    def index_of(self, classes: Tensor) -> Tensor:
        """Return the indices of all decoded images of ``classes`` (G,), class-major: (G * decoded_per_class,).

        Raises:
            ConfigError: a class without images.
        """
        offsets = torch.arange(self.decoded_per_class, device=classes.device)
        return (self.rank_of(classes)[:, None] * self.decoded_per_class + offsets).flatten()

    def rank_of(self, classes: Tensor) -> Tensor:
        """Return which of the classes with images each of ``classes`` (G,) is, counted from 0: (G,) int64.

        Raises:
            ConfigError: a class without images.
        """
        if len(self.present) == self.num_classes:
            return classes
        rank = self._position[classes.to(self._position.device)].to(classes.device)
        if bool((rank < 0).any()):
            missing = int(classes[rank < 0][0])
            raise ConfigError(f"class {missing} has no synthetic images: only {list(self.present)} have some")
        return rank

    def batch_index(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """Return the decoded images of ``classes`` (G,) that an outer step looks at, class-major.

        An outer step calls it once, for all classes. Above ``batch_images`` they are drawn anew for every class, one
        after the other, without replacement.
        """
        if self.batch_images is None or self.decoded_per_class <= self.batch_images:
            return self.index_of(classes)
        chosen = [torch.randperm(self.decoded_per_class, generator=generator)[: self.batch_images] for _ in classes]
        return (
            self.rank_of(classes)[:, None] * self.decoded_per_class + torch.stack(chosen).to(classes.device)
        ).flatten()

    def inner_batches(self, steps: int, size: int | None, generator: torch.Generator) -> list[Tensor]:
        """Return the decoded images on which a student trains in each of ``steps`` inner steps.

        They are consecutive chunks of a random permutation of all decoded images, drawn anew whenever it is used up. A
        remainder shorter than ``size`` is dropped, where the programs of the field train on the short chunk: batches of
        one shape are compiled once. A synthesizer that decodes one code into several images may override it.

        Args:
            steps: number of batches, at least 0.
            size: images per batch; None for all, but at most as many as an outer step of another objective looks at.
            generator: on the CPU.

        Returns:
            ``steps`` tensors (size,) int64 of decoded indices, on the CPU.

        Raises:
            ConfigError: a size below 1 or above the number of decoded images.
        """
        count = len(self)
        size = min(count, len(self.present) * self.batch_per_class) if size is None else size
        if not 1 <= size <= count:
            raise ConfigError(
                f"a batch of {size} synthetic images must hold between 1 and all {count} of them: choose a size in "
                f"that range, or none for all"
            )
        batches: list[Tensor] = []
        while len(batches) < steps:
            chunks = torch.randperm(count, generator=generator).split(size)
            batches += chunks[: count // size]
        return batches[:steps]

    @property
    def batch_per_class(self) -> int:
        """Decoded images of each class that an outer step looks at: how many :meth:`batch_index` returns."""
        return min(self.decoded_per_class, self.batch_images or self.decoded_per_class)

    @property
    def views(self) -> int:
        """Decoded images that show one stored image or code; 1 where that number is not the same for all."""
        views, rest = divmod(self.decoded_per_class, self.ipc)
        return 1 if rest else views

    @property
    def neighbouring_views(self) -> int:
        """How many consecutive decoded images show one stored code; 1 where views are not neighbours."""
        second = self.view_index(torch.zeros(1, dtype=torch.int64), 1) if self.views > 1 else torch.ones(1)
        return self.views if int(second) == 1 else 1

    def view_index(self, codes: Tensor, view: int) -> Tensor:
        """Return which decoded images show the stored images or codes ``codes`` (n,), numbered class by class.

        Args:
            codes: (n,) int64 in ``0 .. len(self) // views - 1``.
            view: which of their images, in ``0 .. views - 1``.

        Returns:
            (n,) int64. The images of one code are neighbours here: ``code * views + view``.
        """
        return codes * self.views + view

    @property
    def pairing_inits(self) -> tuple[str, ...]:
        """Those of ``inits`` that start every decoded image from one real image, see ``pairs``."""
        return ("real",)

    def after_step(self) -> None:
        """React to an update: project labels; a subclass that clamps what is stored calls this, too."""
        self.labels.after_step()

    def forward(self, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Decode images.

        Args:
            index: (M,) int64 decoded images to return; None for all.

        Returns:
            images (M, C, H, W) in the preprocessed space, differentiable; targets (M,) int64 or (M, K) float32.
        """
        if index is None:
            index = torch.arange(len(self), device=self.classes.device)
        return self.decode(index), self.labels(index)

    @abstractmethod
    def decode(self, index: Tensor) -> Tensor:
        """Return the images (M, C, H, W) at ``index`` (M,)."""

    def check(self, real: RealData, how: str) -> None:
        """Refuse data or an initialisation that do not fit, before anything is computed or written.

        Raises:
            ConfigError: an unknown initialisation, or data of other classes or shapes.
            DataError: a class with too few images.
        """
        if how not in self.inits:
            raise unknown_name(f"initialisation of {self.name}", how, self.inits)
        if real.shape != self.shape or real.num_classes != self.num_classes:
            raise ConfigError(
                f"data with {real.num_classes} classes of {real.shape} images do not fit a synthesizer of "
                f"{self.num_classes} classes of {self.shape} images"
            )

    @abstractmethod
    def initialise(self, real: RealData, how: str, generator: torch.Generator) -> None:
        """Set the starting point from ``real`` in the way called ``how``, after :meth:`check`; may take a while.

        The synthesizer is on its device already; ``generator`` is on the CPU.
        """

    def stored(self) -> dict[str, Tensor]:
        """Return the tensors that an artifact keeps, targets under ``labels``: here all parameters by their names."""
        return {**{name: value.detach() for name, value in self._weights().items()}, **self.stored_targets()}

    def options(self) -> dict[str, Any]:
        """Return what, besides :meth:`stored`, is needed to decode (JSON-able): here the arguments of the constructor.

        A subclass with arguments of its own adds them.
        """
        return {"num_classes": self.num_classes, "ipc": self.ipc, "shape": list(self.shape)}

    @classmethod
    def decoding(cls, stored: Mapping[str, Tensor], options: Mapping[str, Any]) -> Decoding | None:
        """Return what :meth:`from_stored` will take, from shapes and options alone: a file may come from a stranger.

        None where it takes nothing beside the stored tensors, or is not known.

        Raises:
            ArtifactError: tensors and options that contradict each other.
        """
        if getattr_static(cls, "from_stored") is not Synthesizer.__dict__["from_stored"]:
            return None
        if whole(options, "num_classes") * whole(options, "ipc") > MOST_NUMBERS:
            raise ArtifactError(
                f"{options['num_classes']} classes of {options['ipc']} are too many: write the file anew"
            )
        made = cls._described(options)
        return Decoding(len(made), image_shape(options))

    @classmethod
    def from_stored(cls, stored: Mapping[str, Tensor], options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Decode all images and targets of an artifact from its stored tensors: here by a synthesizer that holds them.

        Raises:
            ArtifactError: tensors that are missing or of another shape than the options say.
        """
        wanted = {name: tuple(value.shape) for name, value in cls._described(options)._weights().items()}
        required(stored, {name: len(shape) for name, shape in wanted.items()})
        wrong = [name for name, shape in wanted.items() if tuple(stored[name].shape) != shape]
        if wrong:
            raise ArtifactError(f"the tensor '{wrong[0]}' is missing or of a wrong shape: write the file anew")
        made = cls(**{**options, "shape": image_shape(options)})
        with torch.no_grad():
            for name, value in made._weights().items():
                value.copy_(stored[name])
            images, classes = made()
        return images, stored.get("labels", classes)

    @classmethod
    def _described(cls, options: Mapping[str, Any]) -> Self:
        """Return a synthesizer of these options that has shapes and no memory: they may come from a stranger."""
        with torch.device("meta"):
            return cls(**{**options, "shape": image_shape(options)})

    def _weights(self) -> dict[str, nn.Parameter]:
        return {name: value for name, value in self.named_parameters() if not name.startswith("labels.")}

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the learnable tensors by group name, for an optimiser setting per group; no group is empty."""
        groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(self.group_of(name), []).append(parameter)
        return groups

    def group_of(self, parameter: str) -> str:
        """Return the group of the parameter called ``parameter``: ``labels`` or ``images``, unless overridden."""
        return "labels" if parameter.startswith("labels.") else "images"

    def learnable(self) -> list[nn.Parameter]:
        """Return the parameters that receive gradients: all but frozen ones, such as a pretrained decoder's."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def budget(self) -> Budget:
        """Count stored images, numbers and bytes, targets and decoders included."""
        tensors = self.stored().values()
        return Budget(
            images=len(self.present) * self.ipc,
            decoded_images=len(self),
            floats=sum(t.numel() for t in tensors),
            bytes=sum(t.numel() * t.element_size() for t in tensors),
        )

    def stored_labels(self) -> Tensor:
        """Return all targets as an artifact keeps them."""
        index = torch.arange(len(self), device=self.classes.device)
        return self.labels(index).detach().cpu()

    def stored_targets(self) -> dict[str, Tensor]:
        """Return ``labels`` for :meth:`stored`, or nothing where they are hard and follow from the order."""
        return {} if isinstance(self.labels, HardLabels) else {"labels": self.stored_labels()}

    def materialise(
        self, preprocessing: Preprocessing, class_names: tuple[str, ...], metadata: dict[str, Any]
    ) -> DistilledDataset:
        """Return the artifact, decoded on the CPU from what is stored, as loading does: the same bits."""
        stored = {key: value.detach().cpu().contiguous() for key, value in self.stored().items()}
        with torch.no_grad():
            images, labels = self.from_stored(stored, self.options())
        if labels.is_floating_point():  # which need not tell the classes
            metadata = {**metadata, "order": {"classes": list(self.present), "per_class": self.decoded_per_class}}
        package = type(self).__module__.partition(".")[0]
        if package != "ddkit":
            metadata = {**metadata, "synthesis_package": package}
        return DistilledDataset(
            images=images.contiguous(),
            labels=labels,
            label_kind=self.labels.artifact_kind,
            class_names=class_names,
            preprocessing=preprocessing,
            budget=self.budget(),
            metadata=metadata,
            synthesis=self.name,
            synthesis_options=self.options(),
            stored=stored,
        )


class StoredImages(Synthesizer):
    """A synthesizer whose artifact keeps the training images themselves: ``images`` and ``labels`` say it all."""

    def options(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    @classmethod
    def decoding(cls, stored: Mapping[str, Tensor], options: Mapping[str, Any]) -> Decoding:
        """Return the number and shape of the stored images."""
        return stored_images(stored)

    @classmethod
    def from_stored(cls, stored: Mapping[str, Tensor], options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the stored images and targets as they are."""
        return stored["images"], stored["labels"]


def with_targets(images: Tensor, stored: Mapping[str, Tensor], num_classes: int) -> tuple[Tensor, Tensor]:
    """Return decoded images with their stored targets; hard ones are not stored and follow from the order."""
    if "labels" in stored:
        return images, stored["labels"]
    return images, torch.arange(num_classes).repeat_interleave(len(images) // num_classes)


def _checked_classes(present: Sequence[int], num_classes: int) -> tuple[int, ...]:
    """Return the classes with images."""
    chosen = tuple(int(number) for number in present)
    if not chosen or list(chosen) != sorted(set(chosen)) or chosen[0] < 0 or chosen[-1] >= num_classes:
        raise ConfigError(f"classes {list(chosen)} must be different numbers from 0 to {num_classes - 1}, ascending")
    return chosen
