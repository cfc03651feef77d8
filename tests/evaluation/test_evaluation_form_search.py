"""Is the form of real images chosen on held-out training images, repeatably and at a bounded price?"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from ddkit.data import RealData
from ddkit.errors import ConfigError, DataError, DivergedError, UnknownNameError
from ddkit.evaluation import assess, best_form
from ddkit.training import TrainingRecipe

from .conftest import TINY, random_set

Pair = tuple[RealData, RealData]
MODULE = importlib.import_module("ddkit.evaluation.form_search")
JUDGE = importlib.import_module("ddkit.training.judge")
RECIPE = TrainingRecipe(epochs=5, batch_size=64, loss="auto")
FORMS = [f"uniform:bits={bits},coder=zlib" for bits in (8, 2, 1)] + ["jpeg:quality=30", "jpeg:quality=30,resolution=2"]
HOW: dict[str, Any] = {"model": TINY, "recipe": RECIPE, "passes": 4000}


def test_what_was_tried_is_ranked_and_repeatable(digits: Pair) -> None:
    said: list[str] = []
    first = best_form(digits[0], 1600, FORMS, **HOW, report=said.append)
    assert sorted(one.form for one in first) == sorted(FORMS)
    assert first == best_form(digits[0], 1600, FORMS, **HOW)
    assert [one.accuracy for one in first[:2]] == sorted((one.accuracy for one in first[:2]), reverse=True)
    assert all(0 <= one.accuracy <= 1 and one.images_per_class >= 1 for one in first)
    assert len(said) == 3 and "5 forms of 1,600 bytes" in said[1] and "2 forms of 1,600 bytes" in said[2]


def test_fewer_bits_hold_more_images(digits: Pair) -> None:
    found = {one.form: one.images_per_class for one in best_form(digits[0], 1600, FORMS, **HOW)}
    assert found[FORMS[0]] < found[FORMS[1]] < found[FORMS[2]]


def test_networks_are_tested_on_training_images_that_none_was_trained_on(
    digits: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, _ = digits
    tested: list[RealData] = []
    parts: list[RealData] = []
    accuracies, split_off = JUDGE.accuracies, RealData.split_off
    monkeypatch.setattr(JUDGE, "accuracies", lambda nets, data: tested.append(data) or accuracies(nets, data))

    def split(self: RealData, *arguments: Any) -> tuple[RealData, RealData]:
        parts.extend(split_off(self, *arguments))
        return parts[0], parts[1]

    monkeypatch.setattr(RealData, "split_off", split)
    best_form(train, 1600, FORMS[:3], **HOW)
    rest, held_out = parts
    assert {id(data) for data in tested} == {id(held_out)} and held_out.split == "train-held-out"
    assert len(rest) + len(held_out) == len(train) and len(held_out) == round(0.2 * len(train))
    tested.clear(), parts.clear()
    best_form(train, 1600, FORMS[:1], **HOW, seed=1)
    assert not torch.equal(parts[1].images, held_out.images)


def test_the_test_split_is_refused(digits: Pair) -> None:
    with pytest.raises(DataError, match="leaks test images"):
        best_form(digits[1], 1600, FORMS, **HOW)


def test_passes_bound_the_images_shown_and_go_to_the_best(digits: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, str]] = []
    train = JUDGE.train_networks

    def watched(images: Any, labels: Any, spec: Any, recipe: TrainingRecipe, *rest: Any, **options: Any) -> Any:
        shown.append((recipe.epochs * len(images), recipe.optimiser))
        return train(images, labels, spec, recipe, *rest, **options)

    monkeypatch.setattr(JUDGE, "train_networks", watched)
    best_form(digits[0], 1600, FORMS, **{**HOW, "passes": 40_000})
    assert [optimiser for _, optimiser in shown] == ["adam"] * 5 + ["sgd"] * 2
    early, late = (sum(passes for passes, _ in part) for part in (shown[:5], shown[5:]))
    assert early == pytest.approx(20_000, rel=0.1) and late == pytest.approx(20_000, rel=0.1)


def test_a_longer_recipe_makes_a_longer_search_up_to_a_bound(digits: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []
    train = JUDGE.train_networks

    def watched(images: Any, labels: Any, spec: Any, recipe: TrainingRecipe, *rest: Any, **options: Any) -> Any:
        shown.append(recipe.epochs * len(images))
        return train(images, labels, spec, recipe.replace(epochs=1), *rest, **options)

    monkeypatch.setattr(JUDGE, "train_networks", watched)
    for epochs, passes in ((50, 10_000), (5000, MODULE.MOST_PASSES)):
        shown.clear()
        best_form(digits[0], 1600, FORMS[:1], model=TINY, recipe=RECIPE.replace(epochs=epochs))
        assert sum(shown) == pytest.approx(passes, rel=0.05)


def test_of_equal_forms_the_first_leads_and_divergence_loses(digits: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JUDGE, "accuracies", lambda nets, data: [0.5])
    assert [one.form for one in best_form(digits[0], 1600, FORMS, **HOW)] == FORMS
    calls = iter([False, True, False])
    train = JUDGE.train_networks

    def diverging(*arguments: Any, **options: Any) -> Any:
        if next(calls):
            raise DivergedError("weights are no longer finite")
        return train(*arguments, **options)

    monkeypatch.setattr(JUDGE, "train_networks", diverging)
    found = best_form(digits[0], 1600, FORMS[:3], **HOW)
    assert [(one.form, one.accuracy) for one in found] == [(FORMS[0], 0.5), (FORMS[2], 0.5), (FORMS[1], 0.0)]


def test_forms_that_do_not_fit_are_left_out_and_none_at_all_is_refused(digits: Pair) -> None:
    found = best_form(digits[0], 200, ["uniform:bits=8", "palette", "uniform:bits=1"], **HOW)
    assert [one.form for one in found] == ["uniform:bits=1"]
    with pytest.raises(ConfigError, match=r"7 bytes .*uniform:bits=1,resolution=4, the smallest form, takes \d+"):
        best_form(digits[0], 7, ["uniform:bits=8", "uniform:bits=1,resolution=4"], **HOW)
    with pytest.raises(ConfigError, match="no form is for such images"):
        best_form(digits[0], 1600, ["palette"], **HOW)
    with pytest.raises(ConfigError, match="0 passes"):
        best_form(digits[0], 1600, FORMS, **{**HOW, "passes": 0})
    with pytest.raises(UnknownNameError, match="did you mean 'uniform'"):
        best_form(digits[0], 1600, ["uniforn"], **HOW)


def test_assessment_hands_its_recipe_on_and_says_what_was_chosen(digits: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = digits
    monkeypatch.setattr("ddkit.evaluation.baselines.all_forms", lambda: ["uniform:bits=2", "uniform:bits=1"])
    said: list[str] = []
    distilled = random_set(train, 5, method="dm").coded("uniform:bits=3")
    results = dict(
        assess(
            distilled,
            test,
            train=train,
            baselines=("bytes",),
            architectures=(TINY.canonical(),),
            repeats=1,
            recipe=RECIPE,
            report_progress=said.append,
        )
    )
    assert list(results) == ["dm", "random-bytes", "random-coded", "herding-coded", "random-best"]
    payloads = {label: result.budget["payload"] for label, result in results.items()}
    assert max(payloads.values()) <= payloads["dm"] == distilled.budget.payload
    assert results["random-coded"].note.endswith("kept as uniform:bits=3")
    assert results["random-best"].note.split("kept as ")[1] in ("uniform:bits=2", "uniform:bits=1")
    assert any(line.startswith("real images are worth most as uniform:bits=") for line in said)
