"""Which training recipes have a name?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ddkit.augment import default_strategy
from ddkit.errors import unknown_name
from ddkit.training.recipe import TrainingRecipe

#: How single methods train on their results, beside the field's common protocol.
#: ``steps``: the inner steps of meta-learning; a run replaces the schedule by the one it learned.
#: ``adam``: plain Adam (LD, Bohdal et al. 2020). ``frepo``: Adam with warm-up on squared errors (Zhou et al. 2022).
#: ``centred``: gradient descent near the tangent kernel (KIP, Nguyen et al. 2021; RFAD, Loo et al. 2022), with the
#: scale of labels that RFAD found for most of its cells; theirs stops on validation images, this after its epochs.
#: ``ncfm`` (Wang et al. 2025): Adam for the authors' AdamW, whose decay hardly moves weights in so few steps, and the
#: crop of the three families from which they draw one per batch; theirs is the best epoch on test images.
OWN_RECIPES: dict[str, Callable[[str], TrainingRecipe]] = {
    "steps": lambda data_name: TrainingRecipe(
        name="steps", epochs=30, momentum=0.0, weight_decay=0.0, schedule="constant", loss="ce"
    ),
    "adam": lambda data_name: TrainingRecipe(
        name="adam", epochs=300, optimiser="adam", lr=1e-3, weight_decay=0.0, schedule="constant", loss="ce"
    ),
    "frepo": lambda data_name: TrainingRecipe(
        name="frepo",
        epochs=1000,
        optimiser="adam",
        lr=3e-4,
        weight_decay=0.0,
        batch_size=500,
        augmentation=TrainingRecipe.standard(data_name).augmentation,
        schedule="warmup",
        warmup=0.5,
        floor=0.01,
        loss="mse",
    ),
    "centred": lambda data_name: TrainingRecipe(
        name="centred",
        epochs=2000,
        lr=1e-2,
        weight_decay=0.0,
        batch_size=500,
        schedule="constant",
        loss="mse",
        centred=True,
        label_scale=8.0,
    ),
    "ncfm": lambda data_name: TrainingRecipe(
        name="ncfm",
        epochs=2000,
        optimiser="adam",
        lr=1e-3,
        weight_decay=0.0,
        batch_size=128,
        augmentation="color+crop+flip" if "flip" in default_strategy(data_name) else "color+crop",
        schedule="steps",
        milestones=(0.2, 0.4, 0.6, 0.8),
        gamma=0.5,
        cutmix=0.5,
    ),
}

RECIPES: dict[str, Callable[[str], TrainingRecipe]] = {
    "dc": lambda data_name: TrainingRecipe.standard(data_name, augmented=False),
    "dsa": lambda data_name: TrainingRecipe.standard(data_name, augmented=True),
    "idc": TrainingRecipe.idc,
    "quick": TrainingRecipe.quick,
    **OWN_RECIPES,
}


def recipe(name: str, data_name: str, **overrides: Any) -> TrainingRecipe:
    """Return a recipe by name for a dataset, with some fields overridden.

    Args:
        name: one of ``RECIPES``: dc, dsa, idc, quick, or the own one of a method.
        data_name: name of the dataset, which decides about mirroring.
        overrides: fields of :class:`TrainingRecipe`.

    Raises:
        UnknownNameError: no preset or no field of that name.
        ConfigError: a value out of range.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    for key in overrides:
        if key not in TrainingRecipe.model_fields:
            raise unknown_name("recipe field", key, TrainingRecipe.model_fields)
    return RECIPES[name](data_name).replace(**overrides)
