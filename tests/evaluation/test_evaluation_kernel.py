"""Is a set judged by its kernel, by its own recipe and by the common protocol, each for what it is?"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ddkit.data import RealData
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import ConfigError
from ddkit.evaluation import (
    EvaluationResult,
    KernelRecipe,
    assess,
    common_recipe,
    evaluate,
    evaluate_kernel,
    kernel_of,
    own_model,
    recipe_for_others,
    robust_scores,
)
from ddkit.models.kernels import create
from ddkit.training import TrainingRecipe, recipe

from .conftest import TINY, random_set

Pair = tuple[RealData, RealData]
BODIES = {"name": "random-features", "model": "convnet:depth=2,width=8,norm=none", "count": 2, "seed": 3}
CARD: dict[str, Any] = {"describe": BODIES, "regulariser": 5e-3}


def own_recipe(name: str, **changes: Any) -> dict[str, Any]:
    return recipe(name, "digits").replace(**changes).model_dump(mode="json")


def by_hand(distilled: DistilledDataset, test: RealData, description: dict[str, Any], flip: bool = False) -> float:
    """Ridge regression written out with the inverse."""
    kernel = create(description, distilled.shape, 10)
    images, rows = distilled.images, F.one_hot(distilled.labels, 10).double() - 0.1
    if flip:
        images, rows = torch.cat([images, images.flip(3)]), torch.cat([rows, rows])
    with torch.no_grad():
        support = kernel.represent(images)
        gram = kernel.gram(support)
        weights = torch.linalg.inv(gram + 5e-3 * gram.trace() / len(gram) * torch.eye(len(gram))) @ rows
        guess = (kernel.cross(test.batch(torch.arange(len(test))), support) @ weights).argmax(1)
    return float((guess == test.labels).double().mean())


@pytest.mark.parametrize("flip", [False, True])
def test_a_kernel_of_random_networks_gives_an_accuracy_per_draw(digits: Pair, flip: bool) -> None:
    train, test = digits
    distilled = random_set(train, 2, kernel={**CARD, "flip": flip})
    result = evaluate_kernel(distilled, test, repeats=2)
    (row,) = result.rows
    wanted = [by_hand(distilled, test, {**BODIES, "seed": seed}, flip) for seed in (3, 4)]
    assert row.accuracies == pytest.approx(wanted) and row.seeds == (3, 4) and min(wanted) > 0.3
    assert row.architecture.startswith("random-features(") and row.steps == 0
    assert EvaluationResult.from_dict(json.loads(json.dumps(result.as_dict()))) == result


def test_a_kernel_of_trained_networks_trains_them_as_the_set_says(digits: Pair) -> None:
    train, test = digits
    card = {"describe": {"name": "network-features", "model": "unknown"}, "regulariser": 1e-4}
    plan = own_recipe("adam", epochs=20)
    distilled = random_set(train, 2, kernel=card, recipe=plan)
    first = evaluate_kernel(distilled, test, (TINY,), 2, seed=1)
    assert first.rows[0].accuracies == evaluate_kernel(distilled, test, (TINY,), 2, seed=1).rows[0].accuracies
    assert isinstance(first.recipe, KernelRecipe) and first.recipe.networks == TrainingRecipe(**plan)
    assert min(first.rows[0].accuracies) > 0.4 and len(set(first.rows[0].seeds)) == 2


def test_an_assessment_trains_the_networks_whose_features_are_compared_once(
    digits: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = digits
    card = {"describe": {"name": "network-features", "model": "unknown"}, "regulariser": 1e-4}
    distilled = random_set(train, 2, kernel=card, recipe=own_recipe("adam", epochs=20))
    alone = evaluate_kernel(distilled, test, (TINY,), 2, seed=1)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the networks were trained again")

    monkeypatch.setattr("ddkit.evaluation.kernel.train_networks", refuse)
    own, kernel, *_ = assess(distilled, test, architectures=(TINY,), repeats=2, seed=1)
    assert kernel[0].endswith("(kernel)") and kernel[1].rows[0].accuracies == alone.rows[0].accuracies
    assert kernel[1].rows[0].seeds == own[1].rows[0].seeds == alone.rows[0].seeds


def test_a_set_for_one_initialisation_has_one_kernel_of_its_network(digits: Pair) -> None:
    train, test = digits
    card = {"describe": {"name": "network-features", "model": "unknown"}, "regulariser": 1e-4}
    distilled = random_set(train, 2, kernel=card, recipe={**own_recipe("adam", epochs=2), "start": 3})
    (row,) = evaluate_kernel(distilled, test, (TINY,), 2).rows
    assert len(row.accuracies) == len(row.seeds) == 1


def test_networks_of_a_centred_recipe_have_a_kernel_too(digits: Pair) -> None:
    train, test = digits
    card = {"describe": {"name": "network-features", "model": "unknown"}, "regulariser": 1e-4}
    distilled = random_set(train, 2, kernel=card, recipe=own_recipe("centred", epochs=20))
    assert evaluate_kernel(distilled, test, (TINY,), 1).rows[0].mean > 0.4


def test_a_set_without_a_kernel_is_refused(digits: Pair) -> None:
    assert kernel_of(random_set(digits[0], 1)) is None
    with pytest.raises(ConfigError, match="not learned for a kernel"):
        evaluate_kernel(random_set(digits[0], 1), digits[1])
    with pytest.raises(ConfigError, match="no kernel"):
        kernel_of(random_set(digits[0], 1, kernel={"describe": BODIES}))


def test_a_set_is_judged_its_own_way_by_its_kernel_and_by_the_common_protocol(
    digits: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = digits
    short = TrainingRecipe(name="dsa", epochs=1, augmentation="color")
    monkeypatch.setattr(TrainingRecipe, "standard", classmethod(lambda cls, name, augmented=True: short))
    distilled = random_set(train, 1, method="kip", kernel=CARD, recipe=own_recipe("centred", epochs=3))
    tiny, other = TINY.canonical(), "mlp(width=16)"
    results = assess(
        distilled,
        test,
        train=train,
        baselines=("random",),
        architectures=(tiny,),
        common_architectures=(other,),
        repeats=2,
        draws=2,
    )
    labels = ["kip", "kip (kernel)", "kip (common protocol)", "random", "random (kernel)", "random (common protocol)"]
    assert [label for label, _ in results] == labels
    by_label = dict(results)
    assert by_label["kip"].recipe.name == "centred" and by_label["kip (common protocol)"].recipe == short.replace(
        loss="mse"
    )
    assert (
        by_label["kip"].rows[0].architecture == tiny and by_label["kip (common protocol)"].rows[0].architecture == other
    )
    assert by_label["random"].recipe == by_label["kip"].recipe
    beside, real = by_label["kip (common protocol)"], by_label["random (common protocol)"]
    assert real.recipe == beside.recipe and real.rows[0].architecture == other and len(real.rows[0].accuracies) == 2
    draws = by_label["random (kernel)"].rows[0].accuracies
    assert len(draws) == 2 and draws[0] != draws[1]


def test_one_way_is_taken_when_a_recipe_is_given(digits: Pair) -> None:
    distilled = random_set(digits[0], 1, method="kip", kernel=CARD, recipe=own_recipe("centred", epochs=3))
    how = TrainingRecipe(name="short", epochs=1)
    results = assess(distilled, digits[1], architectures=(TINY.canonical(),), repeats=1, recipe=how)
    assert [label for label, _ in results] == ["kip"]


def given(**changes: Any) -> dict[str, Any]:
    return own_recipe("steps", schedule="given", rates=(0.1, 0.1), **changes)


def test_others_are_not_trained_with_steps_that_a_set_learned(digits: Pair) -> None:
    distilled = random_set(digits[0], 1, recipe=given(), learned={"rates": [0.1, 0.1]})
    common = common_recipe(distilled)
    assert common == TrainingRecipe.standard("digits").replace(loss="ce")
    assert recipe_for_others(distilled, TrainingRecipe(**given())) == common


def test_a_set_is_judged_with_the_model_of_its_card_or_of_its_run(digits: Pair) -> None:
    train = digits[0]
    config = {"model": "mlp:width=16"}
    assert own_model(random_set(train, 1)) == "convnet"
    assert own_model(random_set(train, 1, config=config)) == "mlp:width=16"
    assert own_model(random_set(train, 1, config=config, networks={"evaluation_model": "lenet"})) == "lenet"


def test_a_fixed_start_trains_one_network_and_warns_for_other_architectures(digits: Pair) -> None:
    distilled = random_set(digits[0], 1, recipe=given(start=5), config={"model": "mlp:width=16"})
    result = evaluate(distilled, digits[1], ("mlp:width=16",), repeats=3)
    assert len(result.rows[0].accuracies) == 1 and "one network" in result.note
    with pytest.warns(UserWarning, match=r"one initialisation of 'mlp:width=16'"):
        evaluate(distilled, digits[1], (TINY,), repeats=1)


def test_scores_of_a_set_with_steps_of_its_own_use_the_common_protocol(
    digits: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = TrainingRecipe(name="dsa", epochs=1, augmentation="color")
    monkeypatch.setattr(TrainingRecipe, "standard", classmethod(lambda cls, name, augmented=True: short))
    distilled = random_set(digits[0], 1, recipe=given())
    scores = robust_scores(distilled, *digits, architecture=TINY.canonical(), repeats=1, draws=1, whole=0.9)
    assert 0 <= scores.as_dict()["lrs"] <= 100
