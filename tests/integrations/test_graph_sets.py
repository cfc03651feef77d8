"""Are sets of graphs condensed into small valid graphs that teach a network, and bad sets refused?"""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from ddkit.errors import ConfigError, DataError
from ddkit.integrations.graph import GraphCondenser, Training, evaluate_graphs, random_families
from ddkit.integrations.graph.graphs import _cut


def families(**changes: object) -> list[Data]:
    graphs = random_families(12, 10)
    for name, value in changes.items():
        graphs[5][name] = value
    return graphs


def test_doscond_returns_binary_graphs_of_one_size_that_a_loader_takes() -> None:
    made = GraphCondenser("doscond", graphs_per_class=2, nodes=7, steps=5).condense(families())
    assert [int(graph.y) for graph in made] == [0, 0, 1, 1, 2, 2]
    for graph in made:
        assert graph.validate() and graph.num_nodes == 7 and graph.x.shape == (7, 8)
        assert graph.is_undirected() and not graph.has_self_loops() and graph.num_edges > 0
        assert graph.provenance["method"] == "doscond" and graph.provenance["source"]["graphs"] == 36
    batch = next(iter(DataLoader(made, batch_size=6)))
    assert batch.num_graphs == 6 and batch.x.shape == (42, 8)


def test_the_mean_size_is_the_default() -> None:
    graphs = families()
    mean = round(sum(graph.num_nodes for graph in graphs) / len(graphs))
    made = GraphCondenser("doscond", graphs_per_class=1, steps=1).condense(graphs)
    assert {graph.num_nodes for graph in made} == {mean}


def test_random_picks_are_graphs_of_the_set() -> None:
    graphs = families()
    made = GraphCondenser("random", graphs_per_class=3).condense(graphs)
    assert len(made) == 9
    for graph in made:
        assert any(g.x.shape == graph.x.shape and torch.equal(g.x, graph.x) and g.y == graph.y for g in graphs)


def test_the_same_seed_gives_the_same_set_and_leaves_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    first, second = (GraphCondenser("doscond", graphs_per_class=1, steps=4).condense(families()) for _ in range(2))
    evaluate_graphs(first, families(), seeds=1, training=Training(epochs=2, hidden=4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(
        torch.equal(a.x, b.x) and torch.equal(a.edge_index, b.edge_index) for a, b in zip(first, second, strict=True)
    )


def test_matching_improves_on_the_graphs_it_starts_from() -> None:
    graphs = random_families(30, 12)
    train, test = graphs[::2], graphs[1::2]
    plan = Training(epochs=150, hidden=32, weight_decay=0.0, dropout=0.0, validate_every=10)

    def mean(method: str, **options: object) -> float:
        found = [
            evaluate_graphs(
                GraphCondenser(method, graphs_per_class=1, seed=seed, **options).condense(train),
                test,
                seeds=2,
                training=plan,
            )
            .rows[0]
            .summary.mean
            for seed in range(3)
        ]
        return sum(found) / len(found)

    assert mean("doscond", steps=100) > mean("random")


def test_a_graph_that_lost_all_edges_keeps_its_strongest() -> None:
    logits = torch.tensor([[0.0, -3.0, -1.0], [-3.0, 0.0, -2.0], [-1.0, -2.0, 0.0]])
    assert _cut(logits).tolist() == [[0, 2], [2, 0]]


def test_graphs_without_features_take_their_degrees() -> None:
    graphs = random_families(12, 10)
    for graph in graphs:
        count = graph.num_nodes
        del graph.x
        graph.num_nodes = count
    with pytest.raises(DataError, match="features='degree'"):
        GraphCondenser("random", graphs_per_class=1).condense(graphs)
    made = GraphCondenser("random", graphs_per_class=1, features="degree").condense(graphs)
    assert made[0].x.shape[1] == 32
    assert evaluate_graphs(made, graphs, ["gcn", "sage", "gin"], 1, training=Training(epochs=2, hidden=4)).rows


@pytest.mark.parametrize(
    ("graphs", "message"),
    [
        ([], "no graphs"),
        (families(y=None), "graph 5 needs one label"),
        (families(y=torch.tensor([0, 1])), "graph 5 needs one label"),
        (families(y=torch.tensor([0.5])), "not whole"),
        (families(y=torch.tensor([torch.nan])), "label nan"),
        (families(x=torch.ones(families()[5].num_nodes, 3)), "3, 8 columns"),
        (families()[:12], "two classes"),
        ([*families(), Data(y=torch.tensor([0]), num_nodes=0)], "graph 36 has no nodes"),
    ],
)
def test_sets_that_cannot_be_condensed_are_refused(graphs: list[Data], message: str) -> None:
    with pytest.raises(DataError, match=message):
        GraphCondenser("doscond", graphs_per_class=1, steps=1).condense(graphs)


def test_sets_of_one_class_can_be_judged_on() -> None:
    graphs = families()
    plan = Training(epochs=30, hidden=8, validate_every=10)
    by_class = [[graph for graph in graphs if int(graph.y) == label] for label in sorted({int(g.y) for g in graphs})]
    shares = [len(own) / len(graphs) for own in by_class]
    found = [evaluate_graphs(graphs, own, seeds=1, training=plan).rows[0].last[0] for own in (*by_class, graphs)]
    assert sum(share * one for share, one in zip(shares, found[:-1], strict=True)) == pytest.approx(found[-1])
    assert found[-1] > max(shares)


def test_a_callable_is_no_model_of_graph_sets() -> None:
    with pytest.raises(ConfigError, match="unknown model"):
        evaluate_graphs(families(), families(), models=[dict], seeds=1)  # type: ignore[list-item]


def test_bad_options_of_sets_are_refused() -> None:
    with pytest.raises(ConfigError, match="12 graphs"):
        GraphCondenser("random", graphs_per_class=13).condense(families())
    with pytest.raises(ConfigError, match="give graphs_per_class"):
        GraphCondenser("doscond", ratio=0.1).condense(families())
    with pytest.raises(ConfigError, match="give one"):
        GraphCondenser("doscond", ratio=0.1, graphs_per_class=1)
    with pytest.raises(ConfigError, match="temperature"):
        GraphCondenser("doscond", graphs_per_class=1, temperature=0.0)
    with pytest.raises(DataError, match="needs a list"):
        GraphCondenser("doscond", graphs_per_class=1).condense(families()[0])
    made = GraphCondenser("random", graphs_per_class=1).condense(families())
    with pytest.raises(ConfigError, match="unknown model"):
        evaluate_graphs(made, families(), ["gat"])
    narrow = families()
    for graph in narrow:
        graph.x = graph.x[:, :3]
    with pytest.raises(DataError, match="3 features and the condensed ones 8"):
        evaluate_graphs(made, narrow)
