"""Which training recipe belongs to a set, and which to what stands beside it?"""

from __future__ import annotations

import math

from ddkit.base.config import Piece
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.training.named import recipe as named_recipe
from ddkit.training.recipe import TrainingRecipe


def recipe_of(distilled: DistilledDataset) -> TrainingRecipe:
    """Return the recipe that a distilled set carries, or the standard augmented one of its data.

    Raises:
        ConfigError: the set carries something that is not a recipe.
    """
    card = distilled.card
    return TrainingRecipe(**card.recipe) if card.recipe else TrainingRecipe.standard(card.source.name)


def whole_recipe(train: RealData) -> TrainingRecipe:
    """Return how networks are trained on a whole real set, the upper reference of the distilled ones beside it.

    They get the augmentation of the common protocol too, in batches of 64, and at least 80,000 images or 30 epochs. On
    300 held-out training images of the 8x8 digits: 96.1 % after 8 epochs without augmentation and 97.7 % after 30; with
    it 95.1 % after 8, 97.7 % after 30, 98.3 % after 60 and 98.6 % after 120.

    Args:
        train: the set.
    """
    epochs = max(30, math.ceil(80_000 / len(train)))
    return TrainingRecipe.standard(train.name).replace(name="whole", epochs=epochs, batch_size=64)


def own_model(distilled: DistilledDataset) -> str:
    """Return the architecture with which a set wants to be judged: what its card says, or that of the run."""
    card = distilled.card
    return str(card.networks.get("evaluation_model") or card.config.model or "convnet")


def common_recipe(distilled: DistilledDataset) -> TrainingRecipe:
    """Return the standard augmented protocol of the data, under which sets of all methods compare.

    Only the loss is the set's own where its labels ask for one.
    """
    card = distilled.card
    return TrainingRecipe.standard(card.source.name).replace(loss=card.recipe.get("loss", "auto"))


def recipe_for_others(distilled: DistilledDataset, recipe: TrainingRecipe) -> TrainingRecipe:
    """Return ``recipe`` for real images that stand beside a distilled set.

    What was learned together with the set (a learning rate) and what its decoding asks for (views) is its own: others
    get what the recipe says without. Steps learned with the set say nothing about others at all: they get the
    standard protocol of the data.

    Args:
        distilled: the set.
        recipe: with which it is evaluated.
    """
    if recipe.schedule == "given":
        return common_recipe(distilled)
    card = distilled.card
    own = [name for name, value in card.learned.items() if getattr(recipe, name, None) == value]
    if not own and recipe.views == 1:
        return recipe
    stated = card.config.recipe or "dsa"
    piece = Piece(name=stated) if isinstance(stated, str) else Piece(**stated)
    options = {name: value for name, value in piece.options.items() if name != "views"}
    plain = named_recipe(piece.name, card.source.name, **options)
    return recipe.replace(views=1, **{name: getattr(plain, name) for name in own})
