"""Which graphs are refused, repaired with a warning or taken as they are?"""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from torch_geometric.data import Data, HeteroData, TemporalData

from ddkit.errors import ConfigError, DataError, DivergedError
from ddkit.integrations.graph import GraphCondenser, Training, evaluate, random_families
from tests.integrations.graph_small import condensed, dense_normalised, small_graph


def without(name: str) -> Data:
    data = small_graph()
    del data[name]
    return data


def with_nan(name: str) -> Data:
    data = small_graph()
    values = torch.ones(data.num_edges) if name == "edge_weight" else data.x
    values[3] = torch.nan
    data[name] = values
    return data


def unlabelled_class() -> Data:
    data = small_graph()
    data.train_mask = data.train_mask & (data.y != 1)
    return data


def unlabelled_test_node() -> Data:
    data = small_graph()
    labels = data.y.double()
    labels[data.test_mask.nonzero()[0]] = torch.nan
    data.y = labels
    return data


REFUSED = {
    "no training mask": (lambda: without("train_mask"), "RandomNodeSplit"),
    "empty training mask": (lambda: small_graph(train_mask=torch.zeros(60, dtype=torch.bool)), "train_mask is empty"),
    "short mask": (lambda: small_graph(train_mask=torch.ones(59, dtype=torch.bool)), "59 entries for 60"),
    "mask of splits": (lambda: small_graph(train_mask=torch.ones(60, 10, dtype=torch.bool)), "split=0 to 9"),
    "index out of range": (lambda: small_graph(train_mask=torch.tensor([0, 60])), "names node 60"),
    "test nodes in training": (lambda: small_graph(test_mask=torch.arange(60)), "is in train_mask and in test_mask"),
    "test nodes in validation": (
        lambda: small_graph(val_mask=small_graph().test_mask),
        "is in val_mask and in test_mask",
    ),
    "test node without label": (lambda: unlabelled_test_node(), "of test_mask has no label"),
    "numbers for a mask": (lambda: small_graph(train_mask=torch.full((60,), 0.5)), "neither 0 nor 1"),
    "mask of three dimensions": (lambda: small_graph(train_mask=torch.ones(60, 2, 2)), "has shape"),
    "text for a mask": (lambda: small_graph(train_mask="all"), "no tensor of numbers"),
    "text for labels": (lambda: small_graph(y=["a"] * 60), "no tensor of numbers"),
    "labels beyond float64": (lambda: small_graph(y=small_graph().y + 2**60), "2\\^53"),
    "complex features": (lambda: small_graph(x=torch.ones(60, 8, dtype=torch.complex64)), "complex"),
    "edges of fractions": (lambda: small_graph(edge_index=small_graph().edge_index + 0.5), "node numbers"),
    "huge weights": (
        lambda: small_graph(edge_weight=torch.full((small_graph().num_edges,), 3e38)),
        "sum is not finite",
    ),
    "unlabelled class": (unlabelled_class, "missing='skip'"),
    "one class": (lambda: small_graph(y=torch.zeros(60, dtype=torch.int64)), "two classes"),
    "several labels": (lambda: small_graph(y=torch.ones(60, 2)), "several labels"),
    "regression": (lambda: small_graph(y=torch.rand(60)), "regression"),
    "no labels": (lambda: without("y"), "no labels y"),
    "short labels": (lambda: small_graph(y=torch.zeros(59)), "59 labels for 60"),
    "label missing in training": (lambda: small_graph(y=torch.full((60,), torch.nan)), "has no label"),
    "no features": (lambda: without("x"), "features='degree'"),
    "NaN features": (lambda: with_nan("x"), "node 3 is NaN"),
    "NaN weight": (lambda: with_nan("edge_weight"), "finite and not negative"),
    "negative weight": (
        lambda: small_graph(edge_weight=-torch.ones(small_graph().num_edges)),
        "finite and not negative",
    ),
    "weights of other edges": (lambda: small_graph(edge_weight=torch.ones(3)), "3 edge weights"),
    "edge out of range": (lambda: small_graph(edge_index=torch.tensor([[0, 60], [60, 0]])), "names node 60"),
    "heterogeneous": (HeteroData, "to_homogeneous"),
    "temporal": (TemporalData, "stream of events"),
    "no graph": (lambda: {"x": 1}, "not a torch_geometric.data.Data"),
    "private": (lambda: small_graph(private=True), "no differential privacy"),
    "no nodes": (lambda: Data(y=torch.empty(0)), "no nodes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_graphs_that_cannot_be_condensed_are_refused(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(DataError, match=message) as error:
        GraphCondenser().condense(make())
    assert "\n" not in str(error.value)


def test_a_dataset_in_place_of_its_graph_is_named() -> None:
    with pytest.raises(ConfigError, match=r"dataset\[0\]"):
        GraphCondenser().condense([small_graph()])


def test_index_masks_and_a_column_of_splits_equal_bool_masks() -> None:
    data = small_graph()
    expected = condensed(data).x
    index = small_graph(train_mask=data.train_mask.nonzero().flatten())
    assert torch.equal(condensed(index).x, expected)
    splits = small_graph(
        **{f"{n}_mask": torch.stack([~data[f"{n}_mask"], data[f"{n}_mask"]], 1) for n in ("train", "val", "test")}
    )
    assert torch.equal(condensed(splits, split=1).x, expected)
    with pytest.raises(DataError, match="split=2"):
        condensed(splits, split=2)


@pytest.mark.parametrize("kind", [torch.int64, torch.float32, torch.uint8])
def test_zeros_and_ones_are_a_mask_and_no_node_numbers(kind: torch.dtype) -> None:
    data = small_graph()
    expected = condensed(data)
    found = condensed(small_graph(train_mask=data.train_mask.to(kind), val_mask=None, test_mask=None))
    assert found.provenance["source"]["labelled"] == 18
    assert torch.equal(found.x, expected.x)


def test_features_that_overflow_are_refused_and_not_returned() -> None:
    with pytest.raises(DivergedError, match="not finite"):
        condensed(small_graph(x=torch.full((60, 8), 3e38)))


def test_a_class_without_labelled_nodes_is_dropped_when_asked_and_said_so() -> None:
    small = condensed(unlabelled_class(), missing="skip")
    assert small.y.tolist() == [0, 2]
    assert small.provenance["dropped_classes"] == [1]
    result = evaluate(small, unlabelled_class(), ["sgc"], 1, training=Training(epochs=100), means=False)
    assert result.rows[0].last[0] < 0.67  # test nodes of the dropped class are always wrong


def test_a_ratio_too_small_for_one_node_a_class_is_raised_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="raised to one a class"):
        small = condensed(small_graph(), "kmeans", ratio=0.001)
    assert small.num_nodes == 3
    assert small.provenance["ratio"] == pytest.approx(0.05)
    assert small.provenance["ratio_asked"] == 0.001


@pytest.mark.parametrize("method", ["random", "herding", "kcenter", "kmeans"])
def test_more_nodes_than_are_labelled_are_refused_for_selections(method: str) -> None:
    with pytest.raises(ConfigError, match="7 of the 6 labelled nodes of class 0"):
        condensed(small_graph(), method, nodes_per_class=7)


@pytest.mark.parametrize("shape", [(60,), (60, 1)])
def test_labels_of_any_numbers_come_back_as_they_were(shape: tuple[int, ...]) -> None:
    data = small_graph()
    odd = torch.tensor([7.0, 2.0, 40.0])[data.y].reshape(shape)
    small = condensed(small_graph(y=odd), "kmeans")
    assert small.y.tolist() == [2, 2, 7, 7, 40, 40]
    assert small.provenance["classes"] == [2, 7, 40]
    found = evaluate(small, small_graph(y=odd), ["sgc"], 1, training=Training(epochs=100), means=False)
    assert found.rows[0].last[0] > 0.8


def test_unlabelled_nodes_outside_the_masks_are_no_class() -> None:
    data = small_graph()
    masked = data.train_mask | data.val_mask | data.test_mask
    data.test_mask = data.test_mask & (torch.arange(60) > 5)
    data.y[masked & ~(data.train_mask | data.val_mask | data.test_mask)] = -1
    assert condensed(data).y.tolist() == [0, 1, 2]


def test_directed_edges_are_symmetrised_with_a_warning_or_kept() -> None:
    data = small_graph()
    one_way = small_graph(edge_index=data.edge_index[:, data.edge_index[0] < data.edge_index[1]])
    with pytest.warns(UserWarning, match="directed"):
        assert torch.allclose(condensed(one_way).x, condensed(data).x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not torch.allclose(condensed(one_way, directed="keep").x, condensed(data).x)


def test_self_loops_and_repeated_edges_change_nothing() -> None:
    data = small_graph()
    loops = torch.arange(60).expand(2, -1)
    more = torch.cat([data.edge_index, loops, data.edge_index], dim=1)
    assert torch.allclose(condensed(small_graph(edge_index=more)).x, condensed(data).x)


def test_isolated_nodes_keep_their_own_features() -> None:
    data = small_graph()
    node = int(data.train_mask.nonzero()[0])
    data.edge_index = data.edge_index[:, (data.edge_index != node).all(0)]
    small = condensed(data, "random", nodes_per_class=6, structure="identity")
    assert bool((small.x == data.x[node]).all(1).any())


def test_a_graph_without_edges_can_be_condensed() -> None:
    data = small_graph(edge_index=torch.empty(2, 0, dtype=torch.int64))
    expected = torch.stack([data.x[data.train_mask & (data.y == c)].mean(0) for c in range(3)])
    assert torch.allclose(condensed(data).x, expected, atol=1e-6)


@pytest.mark.parametrize(("features", "width"), [("degree", 32), ("identity", 60)])
def test_missing_features_are_made_when_asked(features: Any, width: int) -> None:
    data = without("x")
    data.num_nodes = 60
    small = condensed(data, "kmeans", features=features)
    assert small.x.shape == (6, width)
    assert evaluate(small, data, ["mlp"], 1, training=Training(epochs=2)).rows[0].last  # evaluation makes them alike
    with pytest.raises(DataError, match="replace the graph's own x"):
        condensed(small_graph(), features=features)


def test_a_sparse_adjacency_is_converted() -> None:
    data = small_graph()
    adjacency = torch.sparse_coo_tensor(data.edge_index.flip(0), torch.ones(data.num_edges), (60, 60))
    given = Data(x=data.x, y=data.y, train_mask=data.train_mask, adj_t=adjacency.to_sparse_csr())
    assert torch.allclose(condensed(given).x, condensed(data).x)


def test_edge_attributes_of_one_number_are_weights_and_of_several_are_left_out() -> None:
    data = small_graph()
    weights = torch.full((data.num_edges, 1), 2.0)
    weighted = condensed(small_graph(edge_attr=weights)).x
    assert not torch.allclose(weighted, condensed(data).x)
    with pytest.warns(UserWarning, match="left out"):
        assert torch.allclose(condensed(small_graph(edge_attr=torch.ones(data.num_edges, 3))).x, condensed(data).x)


def test_propagation_follows_the_textbook() -> None:
    data = small_graph()
    rows = dense_normalised(data) @ data.x.double()
    small = condensed(data, "random", nodes_per_class=6, hops=1, structure="identity")
    expected = rows[data.train_mask].float()
    assert torch.allclose(small.x.sort(0).values, expected.sort(0).values, atol=1e-6)


def test_without_the_extra_the_import_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['torch_geometric'] = None\n"
        "try:\n    import ddkit.integrations.graph\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "graph condensation with PyTorch Geometric needs an optional dependency: run `pip install 'ddkit[graph]'`"
    )


def test_more_condensed_nodes_than_the_graph_has_draw_a_word() -> None:
    with pytest.warns(UserWarning, match="21 nodes for each of 3 classes are more than the 60"):
        assert condensed(small_graph(), "doscond", nodes_per_class=21, restarts=1).num_nodes == 63


def test_a_condensed_graph_of_more_bytes_than_the_original_draws_a_word() -> None:
    sparse = torch.zeros(60, 400)
    sparse[torch.arange(60), torch.arange(60)] = 1.0
    with pytest.warns(UserWarning, match=r"takes 9648 bytes and the original \d{4},") as seen:
        small = condensed(small_graph(x=sparse), "kmeans", nodes_per_class=2)
    assert small.provenance["bytes"] > small.provenance["source"]["bytes"]
    assert len(seen) == 1 and "\n" not in str(seen[0].message)
    assert seen[0].filename.endswith("graph_small.py")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        condensed(small_graph(), "kmeans", nodes_per_class=2)


def test_minus_one_means_unlabelled_in_every_mask() -> None:
    data = small_graph()
    drawn = [int(data[f"{name}_mask"].nonzero()[-1]) for name in ("train", "val", "test")]
    marked = small_graph(y=data.y.index_fill(0, torch.tensor(drawn), -1))
    without_them = small_graph(
        **{
            name: data[name].index_fill(0, torch.tensor(drawn), False)
            for name in ("train_mask", "val_mask", "test_mask")
        }
    )
    with pytest.warns(UserWarning, match="train_mask 1 nodes, val_mask 1 nodes, test_mask 1 nodes"):
        small = condensed(marked)
    assert torch.equal(small.x, condensed(without_them).x)
    assert small.provenance["classes"] == [0, 1, 2] and small.provenance["source"]["labelled"] == 17
    with pytest.warns(UserWarning, match="unlabelled"):
        found = evaluate(small, marked, ["sgc"], 1, training=Training(epochs=60), means=False)
    assert found.rows[0].last == evaluate(small, without_them, ["sgc"], 1, training=Training(epochs=60)).rows[0].last


def test_classes_numbered_from_minus_one_are_told_to_start_from_0() -> None:
    with (
        pytest.warns(UserWarning, match="number the classes from 0"),
        pytest.raises(DataError, match="all training nodes are of class 1"),
    ):
        condensed(small_graph(y=torch.where(small_graph().y == 0, -1, 1)))
    with pytest.warns(UserWarning), pytest.raises(DataError, match="no node of train_mask has a label"):
        condensed(small_graph(y=-torch.ones(60)))


def test_a_split_of_pyg_over_unlabelled_nodes_can_be_condensed() -> None:
    from torch_geometric.transforms import RandomNodeSplit

    data = small_graph()
    data.y[::5] = -1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = RandomNodeSplit("random", num_train_per_class=4, num_val=10, num_test=20)(data)
    assert bool((data.y[data.val_mask | data.test_mask] == -1).any())
    with pytest.warns(UserWarning, match="unlabelled, as in PyG"):
        assert condensed(data).y.tolist() == [0, 1, 2]


@pytest.mark.parametrize("label", [-1.0, torch.nan])
def test_graphs_of_a_set_need_a_label(label: float) -> None:
    graphs = random_families(12, 8)
    graphs[3].y = torch.tensor([label])
    with pytest.raises(DataError, match="graph 3 has the label"):
        GraphCondenser("random", graphs_per_class=1).condense(graphs)
    graphs[3].y = torch.ones(2, 2)
    with pytest.raises(DataError, match=r"graph 3 needs one label y .* shape \(2, 2\)") as error:
        GraphCondenser("random", graphs_per_class=1).condense(graphs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("count", [torch.tensor([60, 60]), -3, 2.5])
def test_a_number_of_nodes_that_is_none_is_refused(count: Any) -> None:
    with pytest.raises(DataError, match=r"how many nodes|must not be negative"):
        condensed(small_graph(num_nodes=count))


def test_a_diverging_condensation_warns_or_stops() -> None:
    data = small_graph()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = condensed(data, "gcond-x", restarts=5)
    assert 0 < small.provenance["moved"] < 1.2
    with pytest.warns(UserWarning, match=r"may have diverged, the features have moved by \d.*lower lr=1,") as seen:
        far = condensed(data, "gcond-x", restarts=5, lr=1.0)
    assert far.provenance["moved"] > 1.2 and seen[0].filename.endswith("graph_small.py")
    with pytest.raises(DivergedError, match=r"after 100 steps the condensed features have moved by .* lower lr=30"):
        condensed(data, "gcond-x", restarts=5, lr=30.0)


def test_a_loss_that_does_not_fall_warns() -> None:
    large = small_graph(x=1000 * small_graph().x)
    with pytest.warns(UserWarning, match="the matching loss went from 8.8 to 9: lower"):
        condensed(large, "gcond-x", restarts=5, row_sum=None)  # networks that see such features are certain at once
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        condensed(large, "gcond-x", restarts=5)


def test_a_condensed_set_of_more_bytes_than_the_original_draws_a_word() -> None:
    graphs = random_families(2, 8)
    with pytest.warns(UserWarning, match="the condensed graph takes") as seen:
        GraphCondenser("doscond", graphs_per_class=2, nodes=60, steps=1).condense(graphs)
    assert seen[-1].filename == __file__
