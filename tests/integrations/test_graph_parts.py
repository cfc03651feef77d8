"""Are gradients, structure and networks what the formulas and PyG say?"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch_geometric.nn import APPNP as HostAPPNP
from torch_geometric.nn import global_mean_pool

from ddkit.base.streams import Streams
from ddkit.integrations.graph import block_model, random_families
from ddkit.integrations.graph.backbones import GCNBackbone, SGCBackbone
from ddkit.integrations.graph.budget import shares, smallest_bytes
from ddkit.integrations.graph.graph_evaluation import GRAPH_MODELS, GraphNetwork
from ddkit.integrations.graph.graphs import checked_graphs
from ddkit.integrations.graph.learned import initial_features
from ddkit.integrations.graph.models import MODELS, GraphInput
from ddkit.integrations.graph.problem import Problem
from ddkit.integrations.graph.propagation import Constant, normalised_dense, propagation_matrix, rows_and_reach
from ddkit.integrations.graph.sets import laid
from ddkit.integrations.graph.structure import LearnedStructure, edges_above, spread
from ddkit.integrations.graph.task import node_task
from tests.integrations.graph_small import dense_normalised, small_graph


@pytest.fixture
def problem() -> Problem:
    return Problem(node_task(small_graph()), [2, 3, 2], 2, Streams(0))


def random_adjacency(count: int) -> torch.Tensor:
    raw = torch.rand(count, count, generator=Streams(1)("adjacency"))
    return (raw + raw.T) / 2 * (1 - torch.eye(count))


@pytest.mark.parametrize("learned", [False, True])
def test_closed_form_sgc_gradients_are_those_of_autograd(problem: Problem, learned: bool) -> None:
    backbone = SGCBackbone(problem)
    backbone.restart(Streams(0)("weights"), 0.05)
    x = torch.randn(7, 8, generator=Streams(0)("x"), requires_grad=True)
    adjacency = random_adjacency(7) if learned else None
    (own,) = backbone.gradients(x, adjacency)
    weight = backbone.weight.clone().requires_grad_()
    rows = spread(x, adjacency, 2)
    for row in range(3):
        mine = problem.labels == row
        loss = F.cross_entropy(rows[mine] @ weight.T + backbone.bias, problem.labels[mine])
        (expected,) = torch.autograd.grad(loss, weight, create_graph=True)
        assert torch.allclose(own[row], expected, atol=1e-6)
        second = [torch.autograd.grad(g.square().sum(), x, retain_graph=True)[0] for g in (own[row], expected)]
        assert torch.allclose(second[0], second[1], atol=1e-6)


@pytest.mark.parametrize("keep", [False, True])
def test_sgc_training_by_formula_is_training_by_autograd(problem: Problem, keep: bool) -> None:
    backbone = SGCBackbone(problem)
    backbone.restart(Streams(0)("weights"), 0.05)
    weight, bias = backbone.weight.clone().requires_grad_(), backbone.bias.clone().requires_grad_()
    x = torch.randn(7, 8, generator=Streams(0)("x"))
    backbone.train(x, None, 5, keep)
    backbone.train(x, None, 3, keep)
    optimiser = torch.optim.Adam([weight, bias], lr=0.05)
    for step in range(8):
        if step == 5 and not keep:
            optimiser = torch.optim.Adam([weight, bias], lr=0.05)
        optimiser.zero_grad()
        F.cross_entropy(x @ weight.T + bias, problem.labels).backward()
        optimiser.step()
    assert torch.allclose(backbone.weight, weight.detach(), atol=1e-6)
    assert torch.allclose(backbone.bias, bias.detach(), atol=1e-6)


def test_a_restart_forgets_the_moments_of_the_last_network(problem: Problem) -> None:
    x = torch.randn(7, 8, generator=Streams(0)("x"))
    ended = []
    for before in (0, 4):
        backbone = GCNBackbone(problem, hidden=5)
        backbone.restart(Streams(1)("weights"), 0.05)
        backbone.train(x, None, before, keep_moments=True)
        backbone.restart(Streams(0)("weights"), 0.05)
        backbone.train(x, None, 3, keep_moments=True)
        ended.append(backbone.weights[0].detach())
    assert torch.equal(*ended)


@pytest.mark.parametrize("density", [0.02, 0.9])
def test_products_with_constant_matrices_have_the_gradient_of_dense_ones(density: float) -> None:
    generator = Streams(0)("matrix")
    dense = torch.rand(30, 40, generator=generator) * (torch.rand(30, 40, generator=generator) < density)
    constant = Constant(dense)
    assert (constant.matrix.layout == torch.sparse_csr) == (density < 0.1)
    x = torch.randn(40, 5, generator=generator, requires_grad=True)
    upstream = torch.randn(30, 5, generator=generator)
    for found, expected in (
        (constant @ x, dense @ x),
        (torch.autograd.grad(constant @ x, x, upstream)[0], torch.autograd.grad(dense @ x, x, upstream)[0]),
    ):
        assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("kind", GRAPH_MODELS)
def test_networks_on_graphs_compute_what_pyg_layers_compute(kind: str) -> None:
    graphs, _ = checked_graphs(random_families(3, 12), None)
    joined = laid(graphs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GraphNetwork(kind, 8, 3, 16, 0.5).eval()
    hidden = F.relu(network.first(joined.x, joined.edge_index))
    hidden = F.relu(network.second(hidden, joined.edge_index))
    expected = network.last(global_mean_pool(hidden, joined.owner, len(graphs)))
    assert torch.allclose(network(joined), expected, atol=1e-5)


def test_gcn_gradients_of_reached_nodes_are_those_of_the_whole_graph(problem: Problem) -> None:
    backbone = GCNBackbone(problem, hidden=5)
    backbone.restart(Streams(0)("weights"), 0.05)
    data = small_graph()
    matrix = dense_normalised(data).float()
    hidden = F.relu(matrix @ data.x @ backbone.weights[0].T + backbone.biases[0])
    logits = matrix @ hidden @ backbone.weights[1].T + backbone.biases[1]
    found = backbone.real_gradients()
    for row in range(3):
        mine = data.train_mask & (data.y == row)
        expected = torch.autograd.grad(F.cross_entropy(logits[mine], data.y[mine]), backbone.weights, retain_graph=True)
        for own, other in zip(found, expected, strict=True):
            assert torch.allclose(own[row], other, atol=1e-6)


def test_rows_and_their_reach_are_a_block_of_the_matrix(problem: Problem) -> None:
    nodes = torch.tensor([4, 50, 7])
    block, reach = rows_and_reach(problem.matrix, nodes)
    dense = problem.matrix.to_dense()[nodes]
    assert torch.equal(block, dense[:, reach])
    assert float(dense.sum()) == pytest.approx(float(block.sum()))


def test_the_first_layer_on_pairs_splits_into_two_products() -> None:
    structure = LearnedStructure(4, 6, Streams(0)("structure"))
    x = torch.randn(5, 4, generator=Streams(0)("x"))
    pairs = torch.cat([x[:, None].expand(5, 5, 4), x[None].expand(5, 5, 4)], dim=2).reshape(25, 8)
    first = pairs @ torch.cat([structure.source, structure.target], dim=1).T
    hidden = F.relu(F.batch_norm(first, None, None, training=True))
    hidden = F.relu(F.batch_norm(F.linear(hidden, structure.middle), None, None, training=True))
    logits = F.linear(hidden, structure.last, structure.last_bias).view(5, 5)
    expected = torch.sigmoid((logits + logits.T) / 2) * (1 - torch.eye(5))
    assert torch.allclose(structure(x), expected, atol=1e-5)
    assert torch.equal(structure(x), structure(x))  # no running statistics


def test_dense_and_sparse_normalisation_agree() -> None:
    adjacency = random_adjacency(6)
    edges, weight = edges_above(adjacency, 0.0)
    assert torch.allclose(normalised_dense(adjacency), propagation_matrix(edges, weight, 6).to_dense(), atol=1e-6)


@pytest.mark.parametrize("density", [0.05, 0.9])
@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("appnp", "mlp")])
def test_networks_compute_what_pyg_layers_compute(name: str, density: float) -> None:
    data = small_graph()
    generator = Streams(0)("x")
    x = torch.randn(60, 40, generator=generator) * (torch.rand(60, 40, generator=generator) < density)
    weight = torch.rand(data.num_edges, generator=generator)
    weight = torch.where(data.edge_index[0] < data.edge_index[1], weight, weight)  # any weights will do for a forward
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MODELS[name](40, 3, 16, 0.5).eval()
    graph = GraphInput(x, data.edge_index, weight)
    extra = (weight,) if network.weighted else ()
    if name == "sgc":
        expected = network.layer(x, data.edge_index, *extra)
    else:
        hidden = network.first(x, data.edge_index, *extra)
        hidden = F.elu(hidden) if name == "gat" else F.relu(hidden)
        expected = network.second(hidden, data.edge_index, *extra)
    assert torch.allclose(network(graph), expected, atol=1e-5)


def test_appnp_spreads_as_pyg_does() -> None:
    data = small_graph()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MODELS["appnp"](8, 3, 16, 0.5).eval()
    graph = GraphInput(data.x, data.edge_index, torch.ones(data.num_edges))
    start = network.second(F.relu(network.first(data.x)))
    assert torch.allclose(network(graph), HostAPPNP(10, 0.1)(start, data.edge_index), atol=1e-5)


def test_networks_without_weights_see_edges_above_the_threshold_only() -> None:
    edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    graph = GraphInput(torch.eye(3), edges, torch.tensor([0.9, 0.9, 0.1, 0.1]), unweighted_threshold=0.5)
    assert graph.plain_edges.tolist() == [[0, 1], [1, 0]]
    assert graph.edge_index.shape == (2, 4)


@pytest.mark.parametrize(
    ("sizes", "total", "expected"),
    [
        ([20] * 7, 35, [5] * 7),
        ([5, 5, 5, 100], 4, [1, 1, 1, 1]),
        ([5, 5, 5, 100], 23, [1, 1, 1, 20]),
        ([1, 2], 5, [2, 3]),
    ],
)
def test_shares_are_proportional_and_at_least_one(sizes: list[int], total: int, expected: list[int]) -> None:
    assert shares(sizes, total) == expected


def test_bytes_are_those_of_the_smaller_form() -> None:
    dense, sparse = torch.ones(4, 10), torch.eye(4, 10)
    assert smallest_bytes(dense, 3, weighted=True) == 4 * 40 + 3 * 20 + 8 * 4
    assert smallest_bytes(sparse, 3, weighted=False) == 8 * 4 + 4 * 5 + 3 * 16 + 8 * 4


@pytest.mark.parametrize("init", ["kmeans", "propagated", "features"])
def test_features_start_in_their_own_class(init: str) -> None:
    separated = block_model(3, 20, features=8, within=0.3, between=0.02, noise=0.1, labelled=6)
    problem = Problem(node_task(separated), [2, 3, 2], 2, Streams(0))
    rows = initial_features(problem, init)
    means = torch.stack([own.mean(0) for own in problem.propagated])
    assert torch.equal(torch.cdist(rows, means).argmin(1), problem.labels)
