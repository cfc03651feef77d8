"""Does every method make a graph of the asked size, of the right nodes, the same for the same seed?"""

from __future__ import annotations

import copy

import pytest
import torch
from torch_geometric.data import Data

from ddkit.errors import ConfigError, UnknownNameError
from ddkit.integrations.graph import METHODS, GraphCondenser
from tests.integrations.graph_small import QUICK, condensed, dense_normalised, small_graph

ALL = [pytest.param(name, QUICK.get(name, {}), id=name) for name in METHODS]


@pytest.mark.parametrize(("method", "options"), ALL)
def test_every_method_returns_a_valid_trainable_graph(method: str, options: dict) -> None:
    data = small_graph()
    small = condensed(data, method, **options)
    per_class = 1 if method == "means" else 2
    assert small.validate()
    assert small.num_nodes == 3 * per_class
    assert small.y.bincount().tolist() == [per_class] * 3
    assert small.x.shape == (3 * per_class, 8) and small.x.dtype == torch.float32
    assert small.edge_attr.shape == (small.edge_index.shape[1], 1)
    assert torch.equal(small.edge_attr[:, 0], small.edge_weight)
    assert small.is_coalesced() and not small.has_self_loops() and small.is_undirected()
    assert bool(small.train_mask.all()) and len(small.train_mask) == small.num_nodes
    told = small.provenance
    assert told["method"] == method and told["hops"] == 2 and told["classes"] == [0, 1, 2]
    assert told["source"]["nodes"] == 60 and told["source"]["labelled"] == 18
    assert told["bytes"] == sum(t.nbytes for t in (small.x, small.y, small.edge_index, small.edge_weight))


@pytest.mark.parametrize(("method", "options"), ALL)
def test_the_same_seed_gives_the_same_graph_and_leaves_global_random_state_alone(method: str, options: dict) -> None:
    data = small_graph()
    before = torch.get_rng_state()
    first, second = (condensed(data, method, seed=3, **options) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.x, second.x) and torch.equal(first.edge_index, second.edge_index)
    assert torch.equal(first.edge_weight, second.edge_weight)


def test_condensing_leaves_the_graph_unchanged() -> None:
    data = small_graph()
    kept = copy.deepcopy(data)
    condensed(data, "gcond", **QUICK["gcond"])
    assert data.keys() == kept.keys()
    assert all(torch.equal(data[name], kept[name]) for name in kept.keys())  # noqa: SIM118


def test_means_are_the_class_means_of_twice_propagated_features() -> None:
    data = small_graph()
    matrix = dense_normalised(data)
    rows = matrix @ matrix @ data.x.double()
    expected = torch.stack([rows[data.train_mask & (data.y == c)].mean(0) for c in range(3)])
    assert torch.allclose(condensed(data).x.double(), expected, atol=1e-6)


def test_kmeans_with_one_centre_is_the_mean() -> None:
    data = small_graph()
    assert torch.allclose(condensed(data, "kmeans", nodes_per_class=1).x, condensed(data).x, atol=1e-6)


@pytest.mark.parametrize("method", ["random", "herding", "kcenter"])
def test_coresets_are_labelled_nodes_with_the_edges_between_them(method: str) -> None:
    data = small_graph()
    small = condensed(data, method, nodes_per_class=6)
    assert torch.equal(small.x.sort(0).values, data.x[data.train_mask].sort(0).values)
    whole = data.subgraph(data.train_mask)
    assert small.edge_index.shape == whole.edge_index.shape
    assert small.y.bincount().tolist() == [6, 6, 6]
    edges = {(tuple(small.x[a].tolist()), tuple(small.x[b].tolist())) for a, b in small.edge_index.T}
    assert edges == {(tuple(whole.x[a].tolist()), tuple(whole.x[b].tolist())) for a, b in whole.edge_index.T}


def test_coresets_without_structure_are_rows_of_propagated_features() -> None:
    data = small_graph()
    rows = (dense_normalised(data) @ (dense_normalised(data) @ data.x.double())).float()
    small = condensed(data, "herding", structure="identity")
    assert small.num_edges == 0
    assert all(bool(torch.isclose(rows[data.train_mask], row, atol=1e-5).all(1).any()) for row in small.x)


def test_learned_edges_below_the_threshold_are_left_out() -> None:
    data = small_graph()
    loose, strict = (condensed(data, "gcond", threshold=t, **QUICK["gcond"]) for t in (0.0, 0.5))
    assert loose.num_edges == 6 * 5
    assert strict.num_edges == int((loose.edge_weight >= 0.5).sum()) < loose.num_edges
    assert float(strict.edge_weight.min()) >= 0.5


@pytest.mark.parametrize("options", [{}, {"backbone": "gcn"}, {"structure": "learned"}, {"init": "features"}])
def test_one_step_matching_moves_gradients_together(options: dict) -> None:
    data = small_graph()
    common = {"init": "propagated", **options}
    start = condensed(data, "doscond", restarts=1, **common).provenance["loss"]
    steps = [condensed(data, "doscond", restarts=n, **common).provenance["loss"] for n in (58, 59, 60)]
    assert sum(steps) / 3 < start / 2


def test_inductive_runs_see_nothing_but_training_nodes() -> None:
    data = small_graph()
    changed = data.clone()
    hidden = ~changed.train_mask
    changed.x[hidden] += 100.0
    kept = changed.train_mask[changed.edge_index].all(0)
    changed.edge_index = changed.edge_index[:, kept]
    for method in ("means", "doscond"):
        options = {"setting": "inductive", **QUICK.get(method, {})}
        assert torch.equal(condensed(data, method, **options).x, condensed(changed, method, **options).x)
    assert not torch.equal(condensed(data).x, condensed(changed).x)


def test_degrees_in_inductive_runs_count_no_edges_to_hidden_nodes() -> None:
    data = small_graph()
    del data.x
    data.num_nodes = 60
    alone = data.clone()
    alone.edge_index = data.edge_index[:, data.train_mask[data.edge_index].all(0)]
    options = {"setting": "inductive", "features": "degree"}
    assert torch.equal(condensed(data, **options).x, condensed(alone, **options).x)
    assert not torch.equal(condensed(data, features="degree").x, condensed(alone, features="degree").x)


def test_ratio_counts_all_nodes_or_labelled_ones() -> None:
    data = small_graph()
    assert GraphCondenser("kmeans", ratio=0.1).condense(data).num_nodes == 6
    assert GraphCondenser("kmeans", ratio=0.5, ratio_of="labelled").condense(data).num_nodes == 9
    assert GraphCondenser("kmeans", ratio=0.5, setting="inductive").condense(data).num_nodes == 9


def test_nodes_are_shared_by_labelled_nodes_and_never_negative() -> None:
    data = small_graph()
    mask = data.train_mask.clone()
    for label, kept in ((0, 1), (1, 1), (2, 6)):
        mask[(mask & (data.y == label)).nonzero().flatten()[kept:]] = False
    data.train_mask = mask
    small = GraphCondenser("doscond", ratio=0.1, restarts=1).condense(data)
    assert small.provenance["counts"] == [1, 1, 4]


def test_more_nodes_than_labelled_ones_are_allowed_for_learned_features() -> None:
    small = condensed(small_graph(), "doscond", nodes_per_class=8, restarts=2)
    assert small.num_nodes == 24
    assert len(small.x.unique(dim=0)) == 24


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"method": "gcon", "nodes_per_class": 1}, "did you mean 'gcond'"),
        ({"method": "kmeans"}, "give ratio"),
        ({"method": "kmeans", "ratio": 0.1, "nodes_per_class": 1}, "give one of them"),
        ({"method": "kmeans", "ratio": 1.3}, "not a percentage"),
        ({"method": "kmeans", "ratio": 0.1, "ratio_of": "edges"}, "ratio_of"),
        ({"method": "kmeans", "nodes_per_class": 0}, "at least 1"),
        ({"method": "kmeans", "nodes_per_class": 1, "structure": "learned"}, "structure='learned'"),
        ({"method": "gcond-x", "nodes_per_class": 1, "structure": "learned"}, "structure='learned'"),
        ({"method": "gcdm", "nodes_per_class": 1, "backbone": "gcn"}, "backbone=gcn"),
        ({"method": "gcond", "nodes_per_class": 1, "backbone": "gat"}, "backbone='gat'"),
        ({"method": "gcond", "nodes_per_class": 1, "threshold": 1.0}, "threshold"),
        ({"method": "gcond", "nodes_per_class": 1, "setting": "both"}, "setting"),
        ({"method": "gcond", "nodes_per_class": 1, "directed": "keep", "backbone": "gcn"}, "backbone=sgc only"),
        ({"method": "gcond", "nodes_per_class": 1, "restart": 3}, "did you mean 'restarts'"),
        ({"method": "gcond", "nodes_per_class": 1, "lr": 0.0}, "positive"),
        ({"method": "gcond", "nodes_per_class": 1, "restarts": "many"}, "restarts='many'"),
        ({"method": "means", "restarts": 3}, "unknown option of method means"),
        ({"method": "gcond", "nodes_per_class": 1, "metric": "cosine"}, "gradient distance"),
        ({"method": "gcond", "nodes_per_class": 1, "seed": -1}, "seed"),
        ({"method": "means", "hops": -1}, "hops"),
        ({"method": "means", "hops": 1.5}, "hops=1.5"),
        ({"method": "gcond", "nodes_per_class": 1, "hops": 0}, "hops=0 with learned structure"),
        ({"method": "means", "seed": "a"}, "seed='a'"),
        ({"method": "means", "hops": True}, "hops=True must be a whole number"),
        ({"method": "kmeans", "nodes_per_class": "2"}, "nodes_per_class='2' must be a whole number"),
        ({"method": "means", "ratio": 0.1}, "one node a class"),
        ({"method": "kmeans", "nodes_per_class": 1.5}, "nodes_per_class=1.5"),
        ({"method": "kmeans", "ratio": "much"}, "ratio='much'"),
        ({"method": "kmeans", "ratio": 0.1, "nodes": 4}, "sets of graphs"),
        ({"method": "means", "features": "degrees"}, "features='degrees'"),
        ({"method": "means", "missing": "drop"}, "missing='drop'"),
        ({"method": "means", "split": "first"}, "split='first'"),
        ({"method": "gcond", "graphs_per_class": 1}, "sets of graphs"),
        ({"method": "random", "graphs_per_class": 1, "hops": 3}, "hops=3 is for the nodes of one graph"),
        ({"method": "doscond", "graphs_per_class": 1, "structure": "learned"}, "structure='learned' is for the nodes"),
        ({"method": "means", "setting": "inductive", "features": "identity"}, "inductive"),
    ],
)
def test_bad_options_are_refused_when_the_condenser_is_made(options: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as error:
        GraphCondenser(**options)
    assert "\n" not in str(error.value)


def test_an_unknown_method_is_an_unknown_name() -> None:
    with pytest.raises(UnknownNameError):
        GraphCondenser("sgdd", ratio=0.1)


def test_a_dense_predictor_is_refused_beyond_its_size() -> None:
    with pytest.raises(ConfigError, match="at most 3000"):
        condensed(small_graph(), "gcond", nodes_per_class=1001)


def test_the_result_trains_a_plain_pyg_model() -> None:
    from torch_geometric.nn.models import GCN

    data = small_graph()
    small: Data = condensed(data, "gcond", **QUICK["gcond"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GCN(8, 16, num_layers=2, out_channels=3)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        out = model(small.x, small.edge_index, edge_weight=small.edge_weight)
        torch.nn.functional.cross_entropy(out[small.train_mask], small.y[small.train_mask]).backward()
        optimiser.step()
    model.eval()
    right = model(data.x, data.edge_index).argmax(1) == data.y
    assert float(right[data.test_mask].float().mean()) > 0.8


@pytest.mark.parametrize("method", ["gcond", "gcond-x", "doscond"])
@pytest.mark.parametrize("factor", [2.0**-9, 2.0**10])
def test_features_of_another_unit_give_the_same_graph_in_that_unit(method: str, factor: float) -> None:
    data = small_graph()
    options = QUICK[method]
    small = condensed(data, method, **options)
    other = condensed(small_graph(x=data.x * factor), method, **options)
    assert torch.equal(other.x, small.x * factor)
    assert torch.equal(other.edge_index, small.edge_index) and torch.equal(other.edge_weight, small.edge_weight)
    unscaled = condensed(small_graph(x=data.x * factor), method, row_sum=None, **options)
    assert not torch.allclose(unscaled.x, small.x * factor, rtol=1e-3)


def test_networks_start_within_the_bounds_of_the_authors_or_of_glorot() -> None:
    from ddkit.integrations.graph.backbones import WEIGHTS

    generator = torch.Generator().manual_seed(0)
    for name, bound, bias in (("authors", 400**-0.5, 400**-0.5), ("glorot", (6 / 403) ** 0.5, 0.0)):
        weight, shift = WEIGHTS[name](3, 400, generator)
        assert weight.shape == (3, 400) and 0.99 * bound < float(weight.abs().max()) <= bound
        assert float(shift.abs().max()) <= bias and bool((shift != 0).any()) == (bias > 0)


@pytest.mark.parametrize("backbone", ["sgc", "gcn"])
def test_the_start_of_networks_changes_what_is_learned(backbone: str) -> None:
    data = small_graph()
    found = [condensed(data, "gcond", backbone=backbone, weights=w, **QUICK["gcond"]) for w in ("authors", "glorot")]
    assert not torch.equal(found[0].x, found[1].x)


def with_nodes(count: int, classes: int, labelled: int) -> Data:
    """A graph of as many nodes, with as many labelled ones in every class."""
    y = torch.arange(count) % classes
    mask = torch.arange(count) < classes * labelled
    return Data(x=torch.rand(count, 3), edge_index=torch.empty(2, 0, dtype=torch.int64), y=y, train_mask=mask)


@pytest.mark.parametrize(
    ("nodes", "classes", "ratio", "expected"),
    [
        *((3327, 6, ratio, n) for ratio, n in ((0.009, 30), (0.018, 60), (0.036, 120))),  # CiteSeer in papers
        *((2708, 7, ratio, n) for ratio, n in ((0.013, 35), (0.026, 70), (0.052, 140))),  # Cora
        (1000, 4, 0.0125, 13),
        (1000, 4, 0.0124, 12),
    ],
)
def test_a_ratio_is_rounded_to_the_node_counts_of_papers(nodes: int, classes: int, ratio: float, expected: int) -> None:
    small = GraphCondenser("kmeans", ratio=ratio).condense(with_nodes(nodes, classes, 20))
    assert small.num_nodes == expected
