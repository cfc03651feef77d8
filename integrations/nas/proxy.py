"""What are candidates trained on, and which sets would give a wrong ranking and are refused?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, DataError
from ddkit.evaluation.choice import recipe_of
from ddkit.evaluation.compatibility import check_compatible, check_splits
from ddkit.models.spec import ModelSpec
from ddkit.training.recipe import TrainingRecipe

#: How candidates are trained on real images unless told otherwise.
REAL_RECIPE = TrainingRecipe(name="real", epochs=30, batch_size=100, schedule="cosine")


@dataclass(frozen=True)
class Proxy:
    """The set that candidates are trained on, and the held-out real images that score them.

    Args:
        images: preprocessed images (N, C, H, W), or a real set whose batches are preprocessed on access.
        labels: class indices (N,) or rows (N, K).
        label_kind: ``hard``, ``soft`` or ``regression``.
        validation: real images with the preprocessing of the proxy.
        recipe: how the set is trained on.
        bytes: what storing the set costs, in bytes.
        ipc: images per class of a distilled or selected set; None for real data.
        fingerprint: of images, labels and validation images.
        model: the network for which the set was distilled; None when it was not.
    """

    images: Tensor | RealData
    labels: Tensor
    label_kind: str
    validation: RealData
    recipe: TrainingRecipe
    bytes: int
    ipc: int | None
    fingerprint: str
    model: str | None

    @classmethod
    def of(cls, data: DistilledDataset | RealData, validation: RealData, recipe: TrainingRecipe | None) -> Proxy:
        """Check a set against the images that score, and put both into one form.

        Args:
            data: a distilled, selected or real set.
            validation: real images; they get the preprocessing of ``data``.
            recipe: None for the one that the set brings, or :data:`REAL_RECIPE`.

        Raises:
            DataError: other classes or image shapes, the same images on both sides, or a set distilled from whitened
                images that does not bring the whitening.
        """
        prepared = validation.with_preprocessing(data.preprocessing)
        if isinstance(data, RealData):
            check_splits(data, validation)
            mark = [data.fingerprint, prepared.fingerprint, data.preprocessing.metadata()]
            own, size, kind, ipc, model = REAL_RECIPE, data.images.nbytes + data.labels.nbytes, "hard", None, None
            images: Tensor | RealData = data
            labels = data.labels
        else:
            _require_whitening(data)
            check_compatible(data, validation)
            mark = [data.checksum(), prepared.fingerprint]
            own, size, kind, ipc = recipe_of(data), data.budget.bytes, str(data.label_kind), data.ipc
            model = _distilled_for(data)
            images, labels = data.tensors()
        recipe = own if recipe is None else recipe
        return cls(
            images=images,
            labels=labels,
            label_kind=kind,
            validation=prepared,
            recipe=recipe.replace(loss=recipe.loss_for(kind)),
            bytes=size,
            ipc=ipc,
            fingerprint=hashlib.sha256(json.dumps(mark).encode()).hexdigest(),
            model=model,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.validation.shape

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self.validation.num_classes

    @property
    def batch(self) -> int:
        """Images per training step."""
        return min(self.recipe.batch_size, self.recipe.shown(len(self.images)))


def _require_whitening(data: DistilledDataset) -> None:
    if data.card.config.zca and data.preprocessing.zca_matrix is None:
        raise DataError(
            "the set was distilled from ZCA-whitened images and does not bring the whitening, so real images cannot be "
            "shown to networks trained on it: load the artifact as it was saved, or distil without zca"
        )


def _distilled_for(data: DistilledDataset) -> str | None:
    config = data.card.config
    return config.model if config.model and not config.selection else None


def other_families(proxy: Proxy, specs: Mapping[str, ModelSpec]) -> list[str]:
    """Return a warning where candidates are of another family than the network that the set was distilled for."""
    if proxy.model is None:
        return []
    family = ModelSpec.parse(proxy.model).name
    others = [name for name, spec in specs.items() if spec.name != family]
    if not others:
        return []
    return [
        f"the set was distilled for '{proxy.model}' and {len(others)} of {len(specs)} candidates are of another family "
        f"('{others[0]}', ...): their ranks are less certain"
    ]


def one_line(error: BaseException) -> str:
    """Return the first line of an error, with its type where the text alone would say little."""
    text = (str(error).strip().splitlines() or [""])[0]
    return text if isinstance(error, ConfigError) else f"{type(error).__name__}: {text}"
