"""Does the ranker train what it should, survive what goes wrong, and go on where it was killed?"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ddkit.data import RealData
from ddkit.errors import ConfigError, DataError, RunError
from ddkit.evaluation import network_seeds
from ddkit.integrations.nas import Preparation, ProxyRanker, Ranking, SearchSpace
from ddkit.integrations.nas.trainer import of_steps
from ddkit.models import ModelSpec
from ddkit.training import TrainingRecipe, accuracy_and_loss, train_networks
from tests.integrations.nas_cases import Explodes, Raises, digits, grid, linear, tiny_set

SHORT = ProxyRanker(epochs=12, seeds=2)


def test_a_ranking_scores_every_candidate_on_held_out_real_images() -> None:
    _, validation, _ = digits()
    data = tiny_set(ipc=5)
    ranking = SHORT.rank(grid(), data, validation)
    spec = next(iter(grid().values()))
    recipe = TrainingRecipe(name="dc", epochs=12, batch_size=20, schedule="constant", loss="ce")
    networks = train_networks(*data.tensors(), spec, recipe, network_seeds(0, spec, 2), num_classes=10, stacked=False)
    expected = [accuracy_and_loss(network, validation)[0] for network in networks]
    assert list(ranking.entries[0].scores) == pytest.approx(expected, abs=1e-6)
    assert [entry.status for entry in ranking.entries] == ["ok"] * 4
    assert ranking.cost.image_passes == 4 * 2 * 12 * 50
    assert (ranking.cost.images, ranking.cost.bytes) == (50, data.budget.bytes)


def test_a_candidate_built_by_a_function_equals_the_same_network_built_by_name() -> None:
    _, validation, _ = digits()
    name = "convnet(depth=1,width=2)"
    own = SearchSpace({name: lambda: _convnet()})
    named = SearchSpace({name: ModelSpec("convnet", {"depth": 1, "width": 2})})
    ours, theirs = (SHORT.rank(space, tiny_set(5), validation) for space in (own, named))
    assert ours.entries[0].scores == pytest.approx(theirs.entries[0].scores)


def test_the_same_seed_gives_the_same_scores_and_leaves_global_state_alone() -> None:
    _, validation, _ = digits()
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first, again = (SHORT.rank(grid(), tiny_set(), validation) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads
    assert [entry.scores for entry in first.entries] == [entry.scores for entry in again.entries]
    other = ProxyRanker(epochs=12, seeds=2, seed=1).rank(grid(), tiny_set(), validation)
    assert [entry.scores for entry in first.entries] != [entry.scores for entry in other.entries]


def test_candidates_that_go_wrong_are_named_and_the_others_ranked() -> None:
    _, validation, _ = digits()
    space = SearchSpace(
        {
            "good": "convnet:width=4,depth=1",
            "raises": Raises,
            "explodes": Explodes,
            "too deep": "convnet:width=4,depth=9",
            "cannot be built": lambda: nn.Linear(3, -1),
        }
    )
    ranking = SHORT.rank(space, tiny_set(5), validation)
    assert [entry.status for entry in ranking.entries] == ["ok", "failed", "diverged", "failed", "failed"]
    assert ranking["raises"].message == "RuntimeError: no kernel for this"
    assert "depth" in ranking["too deep"].message
    assert ranking["explodes"].scores == (0.1, 0.1) and ranking["explodes"].message
    assert ranking.best == "good" and set(ranking.ranks) == {"good", "explodes"}
    assert ranking.compare({"good": 0.9, "explodes": 0.1}).failed == ("raises", "too deep", "cannot be built")


def test_a_space_of_which_nothing_can_be_trained_is_a_failed_run() -> None:
    with pytest.raises(RunError, match=r"none of 1 candidates could be trained; .*no kernel"):
        SHORT.rank(SearchSpace({"raises": Raises}), tiny_set(), digits()[1])


@pytest.mark.parametrize(
    "builder, words",
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), r"'x' returns \(7,\) .* 10 classes"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), r"'x' takes images of 3 channels and the set has 1"),
        (lambda: _Pair(), "'x' returns tuple"),
        (lambda network=linear(): network, "'x' returns one network at every call"),
    ],
)
def test_a_candidate_for_other_data_is_refused_before_any_training(
    builder: Callable[[], nn.Module], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        SHORT.rank(SearchSpace({"good": linear, "x": builder}), tiny_set(), digits()[1], cache=tmp_path)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_candidates_are_never_selected_on_the_test_split() -> None:
    train, _, test = digits()
    with pytest.raises(ConfigError, match="hold out part of the training data"):
        SHORT.rank(grid(), tiny_set(), test)
    assert len(ProxyRanker(epochs=1, seeds=1).truth(grid(), train, test)) == 4


def test_a_whitened_set_without_its_whitening_is_refused() -> None:
    with pytest.raises(DataError, match="ZCA"):
        SHORT.rank(grid(), tiny_set(config={"zca": "pixels"}), digits()[1])


def test_other_shapes_and_the_training_images_themselves_are_refused() -> None:
    train, validation, _ = digits()
    small = RealData.from_tensors(validation.images[:, :, :4, :4], validation.labels, num_classes=10)
    with pytest.raises(DataError, match="images"):
        SHORT.rank(grid(), tiny_set(), small)
    with pytest.raises(DataError, match="test set"):
        SHORT.rank(grid(), train, train)


def test_candidates_of_another_family_are_ranked_with_a_warning() -> None:
    space = SearchSpace({"own": linear, "net": "convnet:width=4,depth=1"})
    with pytest.warns(UserWarning, match="1 of 2 candidates are of another family") as caught:
        ranking = SHORT.rank(space, tiny_set(5, config={"model": "convnet:width=8"}), digits()[1])
    assert "another family" in ranking.notes[0] and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SHORT.rank(space, tiny_set(5), digits()[1])  # selected for no network


def test_scores_at_chance_are_reported_as_such() -> None:
    with pytest.warns(UserWarning, match="does not separate"):
        ranking = ProxyRanker(epochs=1, seeds=1).rank(
            SearchSpace.convnet(width=[2, 3], activation=["sigmoid"], depth=[3]), tiny_set(), digits()[1]
        )
    assert not ranking.separates
    assert ranking.compare(dict.fromkeys(ranking.ranks, 1.0)).spearman["all"].value is None


def test_batch_norm_on_tiny_batches_is_flagged() -> None:
    space = SearchSpace.convnet(width=[4], depth=[1], norm=["batch", "instance"])
    tiny = ProxyRanker(epochs=12, seeds=1).rank(space, tiny_set(1), digits()[1])
    assert [entry.flags for entry in tiny.entries] == [("batch norm on tiny batches",), ()]
    large = ProxyRanker(epochs=2, seeds=1).rank(space, tiny_set(5), digits()[1])
    assert [entry.flags for entry in large.entries] == [(), ()]


def test_halving_trains_the_best_third_further_and_keeps_every_rung_apart() -> None:
    _, validation, _ = digits()
    space = SearchSpace.convnet(width=[2, 4, 8], norm=["none", "instance"], depth=[1])
    halving = ProxyRanker(epochs=18, seeds=1, budget="halving").rank(space, tiny_set(5), validation)
    rungs = [ProxyRanker(epochs=epochs, seeds=1).rank(space, tiny_set(5), validation) for epochs in (2, 6, 18)]
    reached = {entry.name: entry.rung for entry in halving.entries}
    assert sorted(reached.values()) == [0, 0, 0, 0, 1, 2]  # the best 2 of 6, then the best 1 of 2
    for name, rung in reached.items():
        entry = halving[name]
        assert entry.scores == rungs[rung][name].scores
        assert entry.status == ("ok" if rung == 2 else f"stopped at rung {rung}")
        assert entry.image_passes == 50 * sum((2, 6, 18)[: rung + 1])
    assert reached[halving.best] == 2
    survivors = sorted(space, key=lambda name: rungs[0][name].scores[0], reverse=True)[:2]
    assert {name for name, rung in reached.items() if rung > 0} == set(survivors)


def test_equal_steps_are_equal_image_passes_of_full_batches_and_part_of_an_epoch_is_part_of_the_images() -> None:
    recipe = TrainingRecipe(epochs=7, batch_size=100, schedule="constant")
    assert _passes(*of_steps(recipe, 1000, 30), 1000) == 3000
    assert _passes(*of_steps(recipe, 1000, 4), 1000) == 400
    assert _passes(*of_steps(recipe, 10, 30), 10) == 300
    halved, _ = of_steps(recipe.replace(schedule="halve"), 100, 30)
    assert (halved.schedule, halved.total_epochs) == ("halve", 30)
    assert of_steps(recipe.replace(schedule="halve"), 100, 1)[0].total_epochs == 1


def test_early_stopping_within_an_epoch_sees_other_images_with_every_seed() -> None:
    train, validation, _ = digits()
    recipe = TrainingRecipe(name="short", batch_size=50, schedule="constant", lr=0.05)
    ranking = ProxyRanker(steps=2, seeds=2, recipe=recipe).rank(grid(), train, validation)
    assert ranking.cost.image_passes == 4 * 2 * 100
    assert ranking.entries[0].scores[0] != ranking.entries[0].scores[1]


def test_a_rate_per_candidate_is_chosen_and_its_cost_counted() -> None:
    slow = TrainingRecipe(name="slow", epochs=12, batch_size=20, schedule="constant", lr=1e-3)
    data = tiny_set(5)
    data.metadata["recipe"] = slow.model_dump(mode="json")
    ranker = ProxyRanker(epochs=12, seeds=1, recipe="per-candidate")
    ranking = ranker.rank(SearchSpace({"own": linear}), data, digits()[1])
    assert ranking["own"].learning_rate == pytest.approx(1e-2)
    assert ranking["own"].image_passes == (3 + 1) * 12 * 50


def test_rates_that_tie_leave_the_one_of_the_recipe() -> None:
    ranker = ProxyRanker(epochs=1, seeds=1, recipe="per-candidate")
    space = SearchSpace({"explodes": Explodes, "own": linear})
    ranking = ranker.rank(space, tiny_set(5), digits()[1])
    assert ranking["explodes"].learning_rate == TrainingRecipe().lr


def test_a_plain_mapping_is_a_space() -> None:
    ranking = ProxyRanker(epochs=1, seeds=1).rank({"own": linear, "net": "convnet:width=4"}, tiny_set(5), digits()[1])
    assert [entry.name for entry in ranking.entries] == ["own", "net"]


def test_the_loss_separates_what_the_accuracy_ties() -> None:
    _, validation, _ = digits()
    ranking = ProxyRanker(epochs=12, seeds=1, score="loss").rank(grid(), tiny_set(5), validation)
    scores = [entry.score for entry in ranking.entries]
    assert len(set(scores)) == 4 and all(score is not None and score < 0 for score in scores)


def test_steps_that_belong_to_a_set_are_not_shortened() -> None:
    given = {"name": "dd", "schedule": "given", "rates": [0.01, 0.01], "loss": "ce"}
    data = tiny_set(1)
    data.metadata["recipe"] = given
    with pytest.raises(ConfigError, match="common_recipe"):
        SHORT.rank(grid(), data, digits()[1])
    with pytest.warns(UserWarning, match="separate"):
        assert len(ProxyRanker(seeds=1).rank(SearchSpace({"a": linear}), data, digits()[1])) == 1


def test_a_ranking_survives_json_and_prints_csv(tmp_path: Path) -> None:
    _, validation, _ = digits()
    ranking = SHORT.rank(grid(), tiny_set(), validation, preparation=Preparation(3.0, 70))
    assert ranking.cost.total_seconds == ranking.cost.cpu_seconds + 3.0
    path = ranking.save(tmp_path)
    assert Ranking.from_json(path.read_text()) == ranking
    lines = (tmp_path / "ranking.csv").read_text().splitlines()
    assert lines[0].startswith("candidate,rank,score,spread") and len(lines) == 5
    assert json.loads(path.read_text())["settings"]["epochs"] == 12
    with pytest.raises(DataError, match="not a ranking"):
        Ranking.from_json("{}")


@pytest.mark.parametrize(
    "options, words",
    [
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": 1, "steps": 1}, "exclude each other"),
        ({"seeds": 0}, "seeds=0"),
        ({"seeds": None}, "seeds=None"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"budget": "half"}, "budget='half'"),
        ({"score": "f1"}, "score='f1'"),
        ({"recipe": "own"}, "recipe='own'"),
        ({"eta": 1}, "eta=1"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ProxyRanker(**options)


def _passes(recipe: TrainingRecipe, part: int | None, images: int) -> int:
    return recipe.total_epochs * (part or images)


def _convnet() -> nn.Module:
    from ddkit.models import ConvNet

    return ConvNet((1, 8, 8), 10, depth=1, width=2)


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = linear()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inner(x), x
