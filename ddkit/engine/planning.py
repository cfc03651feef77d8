"""From a number of bytes to a configuration: codec, resolution or formation factor, and images per class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ddkit import methods
from ddkit.base.config import DistillConfig, merge, piece_from_text
from ddkit.data.real import RealData
from ddkit.engine.session import Session
from ddkit.errors import ConfigError
from ddkit.evaluation.best_form import best_form
from ddkit.evaluation.coded_reals import most_that_fit
from ddkit.methods.base import Method
from ddkit.synthesis import registry as syntheses
from ddkit.training.named import recipe as named_recipe

#: The method that chooses for itself, and what it stands for.
AUTO = "auto"
COMPOSITION: dict[str, Any] = {"method": "dm", "steps": 300, "optimiser": {"lr": 0.3}}
#: Forms in which real images are tried before a run: all that an artifact can hold.
FORMS = tuple(
    f"{codec}{',' if ':' in codec else ':'}resolution={resolution}"
    for codec in (
        *(f"uniform:bits={bits}" for bits in (8, 4, 3, 2, 1)),
        *(f"dct:step={step}" for step in (0.5, 1.0, 2.0)),
    )
    for resolution in (1, 2, 4)
)

Say = Callable[[str], None]


def method_and_overrides(name: str, overrides: Mapping[str, Any]) -> tuple[Method, dict[str, Any]]:
    """Return a method and its overrides, those of :data:`COMPOSITION` under them for ``auto``."""
    if name != AUTO:
        return methods.get(name), dict(overrides)
    composition = {key: value for key, value in COMPOSITION.items() if key != "method"}
    return methods.get(COMPOSITION["method"]), merge(composition, overrides)


def raw_bytes(real: RealData, ipc: int) -> int:
    """Return what ``ipc`` real images a class take at 8 bits a value: the budget of ``auto`` where none is given."""
    channels, height, width = real.shape
    return channels * height * width * int(real.class_counts.clamp(max=ipc).sum())


def plan(
    method: Method,
    real: RealData,
    ipc: int | None,
    seed: int,
    overrides: Mapping[str, Any],
    objects: Mapping[str, Any],
    say: Say = lambda _: None,
) -> DistillConfig:
    """Return the configuration of a run whose coded start takes as many of its ``bytes`` as it can.

    The codec, unless it is given, is that in which random real images of this size are worth most, see
    :func:`~ddkit.evaluation.best_form.best_form`; with a synthesis that cuts its images into formations, the factor
    takes the place of the codec's resolution. Images that would start at random real ones start at herded ones.

    Args:
        method: a preset.
        real: training images, of which some are held out for the choice.
        ipc: images per class; None for the most that fit.
        seed: of the run.
        overrides: with ``bytes`` among them.
        objects: pieces given as objects.
        say: told what is being done.

    Raises:
        ConfigError: not one image a class fits, or a method that picks real images.
    """
    if method.is_coreset:
        raise ConfigError(
            f"'{method.name}' picks real images, which bytes do not limit: give ipc alone, or another method"
        )
    overrides = dict(overrides)
    first = method.configure(real, ipc or 1, seed, overrides, objects)
    synthesis = syntheses.get(first.synthesis.name) if "synthesis" not in objects else type(objects["synthesis"])
    if "init" not in overrides and first.init == "real" and "herded" in synthesis.inits:
        overrides["init"] = "herded"
    if first.codec is None:
        overrides = merge(
            overrides, _form(first, real, synthesis.image_like != (), "factor" in first.synthesis.options, say)
        )
    if ipc is not None:
        return method.configure(real, ipc, seed, overrides, objects)

    def needed(count: int) -> int:
        session = Session(method.configure(real, count, seed, {**overrides, "bytes": None}, objects), real, objects)
        session.start()
        assert session.coding is not None
        return session.coding.payload()

    available, most = int(overrides["bytes"]), int(real.class_counts.min())
    count = most_that_fit(needed, available, most)
    if not count:
        codec = method.configure(real, 1, seed, overrides, objects).codec
        assert codec is not None
        raise ConfigError(
            f"bytes={available:,} do not hold one image of each of {real.num_classes} classes in codec {codec.text}, "
            f"which take {needed(1):,}: give more bytes"
        )
    return method.configure(real, count, seed, overrides, objects)


def _form(first: DistillConfig, real: RealData, images: bool, formations: bool, say: Say) -> dict[str, Any]:
    """Return the codec, and the formation factor where there is one, as overrides."""
    if not images:
        return {"codec": "float16"}
    assert first.bytes is not None
    whitening = sum(tensor.nbytes for tensor in real.preprocessing.to_tensors().values())
    recipe = named_recipe(first.recipe.name if first.recipe.name in ("dc", "dsa", "idc", "quick") else "dsa", real.name)
    tried = best_form(
        real,
        first.bytes - whitening,
        FORMS,
        model=first.model,
        recipe=recipe,
        seed=first.seed,
        device=first.device,
        report=say,
    )
    piece = piece_from_text(tried[0].form)
    resolution = piece["resolution"]
    say(f"codec {tried[0].form}: {tried[0].images_per_class} real images a class, {tried[0].accuracy:.1%} held out")
    if formations:
        return {"codec": {**piece, "resolution": 1}, "synthesis": {"factor": resolution}}
    return {"codec": piece}
