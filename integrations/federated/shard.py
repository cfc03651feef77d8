"""How does a client distil its shard, whose classes may be missing or have fewer images than are wanted?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ddkit import methods
from ddkit.base.config import DistillConfig
from ddkit.base.streams import derive_seed
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.distilled.parts import relabelled, union
from ddkit.data.real import RealData
from ddkit.engine.distiller import Distiller
from ddkit.errors import ConfigError, DataError
from ddkit.networks.sources import NetworkSource
from ddkit.objectives.base import registry as objectives
from ddkit.synthesis.base import registry as syntheses

#: Starting points that show no single real image.
UNSEEN_STARTS = ("noise", "mean")

Networks = Callable[[], NetworkSource]


def require_no_records(config: DistillConfig, allowed: bool) -> None:
    """Refuse a method that sends real images or near copies of them, unless that is ``allowed``."""
    if allowed:
        return
    if config.selection is not None:
        raise ConfigError(
            f"method '{config.method}' sends real images of the client: use a method that distils, or "
            f"allow_real_init=True where that is meant"
        )
    if config.init not in UNSEEN_STARTS:
        raise ConfigError(
            f"init={config.init} starts from real images, of which distilled ones stay near copies: use init=noise or "
            f"init=mean, or allow_real_init=True where that is meant"
        )


def distil_shard(
    real: RealData,
    method: str,
    ipc: int,
    seed: int,
    *,
    options: Mapping[str, Any] | None = None,
    min_class_size: int = 2,
    allow_real_init: bool = False,
    networks: Networks | None = None,
) -> DistilledDataset:
    """Distil what a shard has, as a set of all classes.

    A class with fewer than ``ipc`` images gets as many as it has, never duplicates. Classes that get equally many are
    distilled together. Where one stands alone the largest other class goes along, and its images are dropped.

    Args:
        real: the shard, classes without images allowed.
        method: name of a ddkit method.
        ipc: images per class.
        seed: of the distillation.
        options: overrides of the preset, see :class:`~ddkit.Distiller`.
        min_class_size: smaller classes are left out.
        allow_real_init: whether real images may be sent or started from.
        networks: makes a source of matching networks that replaces the method's.

    Returns:
        the images of its classes in ascending order of ``min(ipc, size)``, labelled among all K classes.

    Raises:
        DataError: no class is large enough, or a single class with a method that needs several.
        ConfigError: what the method refuses, or real images that are not allowed.
    """
    options = dict(options or {})
    if not allow_real_init:
        options |= _unseen_start(method, options)
    sizes: dict[int, list[int]] = {}
    for number, count in enumerate(real.class_counts.tolist()):
        if count >= min_class_size:
            sizes.setdefault(min(ipc, count), []).append(number)
    if not sizes:
        raise DataError(f"no class of this shard has min_class_size={min_class_size} images: nothing can be distilled")
    parts = []
    for images, classes in sorted(sizes.items()):
        given: dict[str, Any] = {} if networks is None else {"networks": networks()}
        distiller = Distiller(method, images, seed=derive_seed(seed, "images", images), **options, **given)
        part = _with_company(real, classes, method, {**options, "init": "noise"})
        require_no_records(distiller.configure(part), allow_real_init)
        parts.append(_kept(distiller.fit(part), classes, real.class_names))
    return parts[0] if len(parts) == 1 else union(parts)


def _with_company(real: RealData, classes: list[int], method: str, options: Mapping[str, Any]) -> RealData:
    """Return the images of ``classes`` and, where one stands alone, those of a class that goes along behind it.

    That is the largest other class; a shard of one class gets a blank one where the method compares class means.
    """
    if len(classes) > 1 or methods.get(method).is_coreset:
        return real.only(classes)
    counts = real.class_counts.clone()
    counts[classes] = 0
    if int(counts.max()):
        return real.only([*classes, int(counts.argmax())])
    own = real.only(classes)
    blank = RealData.from_tensors(
        torch.cat([own.images, torch.zeros_like(own.images[:1])]),
        torch.cat([own.labels, own.labels.new_ones(1)]),
        class_names=(*own.class_names, "blank"),
        preprocessing=own.preprocessing,
        name=own.name,
    )
    objective = methods.get(method).configure(blank, 1, overrides=options).objective
    if objective is None or not objectives.get(objective.name).one_class:
        raise DataError(
            f"this shard has images of one class only, which method '{method}' cannot tell from others: use dm"
        )
    return blank


def _kept(distilled: DistilledDataset, classes: list[int], class_names: tuple[str, ...]) -> DistilledDataset:
    """Return the images of ``classes``, which come first, with their places among all classes."""
    own = distilled.started_as() < len(classes)
    if bool(own.all()):
        return relabelled(distilled, classes, class_names)
    labels = distilled.labels[own]
    if distilled.label_kind != "hard":
        labels = labels[:, : len(classes)]
        labels = labels / labels.sum(dim=1, keepdim=True) if distilled.label_kind == "soft" else labels
    alone = DistilledDataset(
        distilled.unclipped()[own] if distilled.images.dtype == torch.uint8 else distilled.images[own],
        labels,
        class_names=distilled.class_names[: len(classes)],
        preprocessing=distilled.preprocessing,
        label_kind=distilled.label_kind,
        metadata={key: value for key, value in distilled.metadata.items() if key not in ("order", "indices")},
    )
    return relabelled(alone, classes, class_names)


def _unseen_start(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the start that shows no single real image, where the method learns images and none is asked for."""
    preset = methods.get(method)
    if preset.is_coreset or "init" in options:
        return {}
    piece = options.get("synthesis", "pixels")
    name = str(piece.get("name", "pixels") if isinstance(piece, Mapping) else piece).partition(":")[0]
    inits = syntheses.get(name).inits if name in syntheses else ("noise",)
    return {"init": next(start for start in reversed(UNSEEN_STARTS) if start in inits)}
