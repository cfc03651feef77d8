"""Is a condensed graph judged on the real one, by the same rules for every set, without selecting on test nodes?"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.nn.models import GCN

from ddkit.errors import ConfigError, DataError, UnknownNameError
from ddkit.integrations.graph import MODELS, Training, evaluate, evaluate_whole
from tests.integrations.graph_small import QUICK, condensed, small_graph

SHORT = Training(epochs=60, hidden=16, lr=0.02)


def test_every_architecture_learns_from_a_condensed_graph_and_the_means_stand_beside() -> None:
    data = small_graph()
    found = evaluate(condensed(data, "doscond", **QUICK["doscond"]), data, seeds=2, training=SHORT)
    assert [row.model for row in found.rows] == list(MODELS)
    assert all(row.summary.mean > 0.6 for row in found.rows)
    assert found.means is not None and [row.model for row in found.means] == list(MODELS)
    table = found.table()
    assert [row["set"] for row in table] == ["doscond"] * 6 + ["means"] * 6
    assert all(row["networks"] == 2 for row in table)


def test_the_same_seed_gives_the_same_accuracies_and_leaves_global_random_state_alone() -> None:
    data = small_graph()
    small = condensed(data, "kmeans")
    before = torch.get_rng_state()
    first, second = (evaluate(small, data, ["gcn", "gat"], 2, training=SHORT, means=False) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert [row.last for row in first.rows] == [row.last for row in second.rows]
    assert [row.selected for row in first.rows] == [row.selected for row in second.rows]


def test_test_labels_do_not_choose_the_epoch() -> None:
    data = small_graph()
    small = condensed(data, "kmeans")
    honest = evaluate(small, data, ["gcn"], 2, training=SHORT, means=False).row("gcn")
    wrong = small_graph()
    wrong.y[wrong.test_mask] = (wrong.y[wrong.test_mask] + 1) % 3
    turned = evaluate(small, wrong, ["gcn"], 2, training=SHORT, means=False).row("gcn")
    assert all(a + b <= 1.0 + 1e-6 for a, b in zip(honest.accuracies, turned.accuracies, strict=True))
    assert max(turned.accuracies) < 0.4


def test_without_validation_nodes_only_the_last_epoch_is_known() -> None:
    data = small_graph()
    del data.val_mask
    row = evaluate(condensed(data), data, ["sgc"], 1, training=SHORT, means=False).row("sgc")
    assert row.selected is None and row.accuracies == row.last


def test_models_without_weights_get_thresholded_edges_and_say_so() -> None:
    data = small_graph()
    small = condensed(data, "gcond", threshold=0.0, **QUICK["gcond"])
    found = evaluate(small, data, training=SHORT, seeds=1, means=False)
    assert {row.model: row.edges for row in found.rows} == {
        "gcn": "weighted",
        "sgc": "weighted",
        "sage": "unweighted",
        "appnp": "weighted",
        "gat": "unweighted",
        "mlp": "none",
    }
    none = evaluate(small, data, ["sage"], 1, training=SHORT, means=False, unweighted_threshold=1.1)
    assert none.row("sage").edges == "none"
    assert evaluate(condensed(data), data, ["gcn"], 1, training=SHORT, means=False).row("gcn").edges == "none"


def test_a_user_can_bring_a_pyg_model() -> None:
    seen: list[bool] = []

    def weighted(features: int, classes: int) -> nn.Module:
        return GCN(features, 16, num_layers=2, out_channels=classes)

    class Plain(nn.Module):
        def __init__(self, features: int, classes: int) -> None:
            super().__init__()
            self.layer = nn.Linear(features, classes)

        def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
            seen.append(True)
            return self.layer(x)

    data = small_graph()
    small = condensed(data, "gcond", **QUICK["gcond"])
    found = evaluate(small, data, [weighted, Plain], 1, training=SHORT, means=False)
    assert [row.model for row in found.rows] == ["weighted", "Plain"]
    assert found.rows[0].edges == "weighted" and seen
    assert all(row.last[0] > 0.5 for row in found.rows)


def test_the_whole_graph_is_trained_on_its_training_nodes_only() -> None:
    data = small_graph()
    found = evaluate_whole(data, ["gcn"], 1, training=SHORT).row("gcn")
    shuffled = small_graph()
    hidden = ~shuffled.train_mask & ~shuffled.test_mask & ~shuffled.val_mask
    assert not bool(hidden.any())
    shuffled.y[shuffled.val_mask] = shuffled.y[shuffled.val_mask].roll(1)
    assert evaluate_whole(shuffled, ["gcn"], 1, training=SHORT).row("gcn").last == found.last


def test_bad_evaluations_are_refused() -> None:
    data = small_graph()
    small = condensed(data)
    with pytest.raises(UnknownNameError, match="did you mean 'gcn'"):
        evaluate(small, data, ["gcnn"])
    with pytest.raises(ConfigError, match="at least one network"):
        evaluate(small, data, ["gcn"], 0)
    with pytest.raises(ConfigError, match="epochs=0"):
        Training(epochs=0)
    with pytest.raises(ConfigError, match="dropout=1"):
        Training(dropout=1.0)
    narrow = small_graph(x=data.x[:, :4])
    with pytest.raises(DataError, match="8 features and the real one 4"):
        evaluate(small, narrow, ["gcn"])
    untested = small_graph()
    del untested.test_mask
    with pytest.raises(DataError, match="RandomNodeSplit"):
        evaluate(small, untested, ["gcn"])
    with pytest.raises(DataError, match="RandomNodeSplit"):
        evaluate_whole(untested, ["gcn"])
    small.y = small.y + 5
    with pytest.raises(DataError, match="has class 5"):
        evaluate(small, data, ["gcn"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.full((3, 8), torch.nan)}, "NaN"),
        ({"edge_index": torch.tensor([[0], [9]]), "edge_weight": torch.ones(1)}, "names node 9"),
        ({"edge_index": torch.tensor([[0], [1]]), "edge_weight": -torch.ones(1)}, "not negative"),
        ({"edge_index": None}, "lacks x, edge_index or y"),
        ({"y": torch.tensor([0, 1])}, "3 nodes and labels"),
    ],
)
def test_condensed_graphs_that_teach_nothing_are_refused(changes: dict, message: str) -> None:
    data = small_graph()
    small = condensed(data)
    for name, value in changes.items():
        small[name] = value
    with pytest.raises(DataError, match=message):
        evaluate(small, data, ["gcn"], 1, training=SHORT, means=False)
    with pytest.raises(DataError, match="not a torch_geometric"):
        evaluate([small], data, ["gcn"], 1, training=SHORT)


def test_self_loops_of_a_condensed_graph_count_once() -> None:
    data = small_graph()
    small = condensed(data, "gcond", **QUICK["gcond"])
    looped = small.clone()
    loops = torch.arange(small.num_nodes).expand(2, -1)
    looped.edge_index = torch.cat([small.edge_index, loops], dim=1)
    looped.edge_weight = torch.cat([small.edge_weight, torch.ones(small.num_nodes)])
    found = [evaluate(one, data, ["gcn"], 1, training=SHORT, means=False).row("gcn").last for one in (small, looped)]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": "gcn"}, "give a list"),
        ({"models": [3]}, "unknown model '3'"),
        ({"models": []}, "at least one network"),
        ({"seeds": 1.5}, "seeds=1.5"),
        ({"seeds": 0}, "at least one network"),
        ({"training": {"epochs": 3}}, "training is a dict"),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_plans_that_make_no_sense_are_refused(changes: dict, message: str, whole: bool) -> None:
    data = small_graph()
    options: dict = {"models": ["gcn"], "seeds": 1, **changes}
    with pytest.raises(ConfigError, match=message):
        evaluate_whole(data, **options) if whole else evaluate(condensed(data), data, **options)


def test_an_unknown_option_of_the_whole_graph_is_named() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'features'"):
        evaluate_whole(small_graph(), ["gcn"], 1, feature="degree")


@pytest.mark.parametrize(
    "options",
    [
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"lr": 0},
        {"weight_decay": float("nan")},
        {"epochs": 2.5},
        {"hidden": "a"},
    ],
)
def test_trainings_that_make_no_sense_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Training(**options)


def test_rates_may_be_numbers_of_numpy() -> None:
    assert Training(lr=np.float64(0.01)).lr == 0.01


def test_nothing_is_warned_of_in_ordinary_use() -> None:
    data = small_graph()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(condensed(data, "kmeans"), data, seeds=1, training=Training(epochs=2, hidden=4))
