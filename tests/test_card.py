"""The metadata of an artifact are one typed model."""

from __future__ import annotations

import pytest

from ddkit.data.distilled.card import Card
from ddkit.errors import ArtifactError
from ddkit.testing.small import fit_small


def test_card_holds_what_a_run_writes() -> None:
    distilled = fit_small("rfad", {})
    card = distilled.card
    assert set(distilled.metadata) <= set(Card.model_fields)
    assert (card.method, card.config.ipc, card.source.name, card.steps) == ("rfad", 2, "toy", 4)
    assert card.kernel["describe"] and card.recipe["name"] and card.config.model == "convnet:width=4,depth=2"


def test_what_is_missing_has_a_value_and_what_is_unknown_is_kept() -> None:
    card = Card.model_validate({"source": None, "mine": 3})
    assert (card.source.name, card.config.model, card.recipe, card.clipped) == ("", None, {}, 0.0)
    assert card.model_extra == {"mine": 3}


def test_card_of_another_type_is_refused_in_one_line() -> None:
    distilled = fit_small("random", {})
    distilled.metadata["source"] = "somewhere"
    with pytest.raises(ArtifactError, match="metadata do not follow the schema: source='somewhere'"):
        _ = distilled.card


def test_source_without_a_name_is_refused() -> None:
    distilled = fit_small("random", {})
    distilled.metadata["source"] = {"split": "train"}
    with pytest.raises(ArtifactError, match=r"metadata do not follow the schema: source\.name"):
        distilled.to_bytes()
