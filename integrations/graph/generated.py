"""Which graphs need no download: the karate club, models of blocks and citations, graphs of three random families?"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ddkit.base.ranges import Count, Rate, Share, in_range
from ddkit.base.streams import Streams
from ddkit.errors import ConfigError
from ddkit.integrations.graph.host import Data, KarateClub


def masks(data: Data, train: Tensor, val: Tensor, test: Tensor) -> Data:
    """Set the three masks (N,) of ``data`` from node indices and return it."""
    for name, nodes in (("train", train), ("val", val), ("test", test)):
        data[f"{name}_mask"] = torch.zeros(int(data.num_nodes or 0), dtype=torch.bool)
        data[f"{name}_mask"][nodes] = True
    return data


def karate_club(seed: int = 0) -> Data:
    """Return Zachary's karate club with PyG's four communities, a labelled node each; 15 validate, 15 test."""
    data = KarateClub()[0]
    train = data.train_mask.nonzero().flatten()
    rest = (~data.train_mask).nonzero().flatten()
    rest = rest[torch.randperm(len(rest), generator=Streams(seed)("split"))]
    return masks(data, train, rest[:15], rest[15:])


@in_range("")
def block_model(
    classes: Count = 4,
    nodes_per_class: int = 100,
    features: Count = 32,
    within: Share = 0.05,
    between: Share = 0.005,
    noise: float = 2.0,
    labelled: Count = 20,
    seed: int = 0,
) -> Data:
    """Draw a stochastic block model whose nodes see their class mean under noise.

    Args:
        classes: C.
        nodes_per_class: nodes of every class.
        features: F.
        within: probability of an edge within a class.
        between: probability of an edge between two classes.
        noise: standard deviation of features around the class means, which have standard deviation 1.
        labelled: training nodes of every class; as many validate and the rest test.
        seed: of the draw.

    Raises:
        ConfigError: no node left to test on, or a probability out of range.
    """
    if 2 * labelled >= nodes_per_class:
        raise ConfigError(f"labelled={labelled} twice must leave some of nodes_per_class={nodes_per_class} to test on")
    streams = Streams(seed)
    y = torch.arange(classes).repeat_interleave(nodes_per_class)
    chance = torch.where(y[:, None] == y[None], within, between)
    drawn = (torch.rand(len(y), len(y), generator=streams("edges")) < chance).triu(1)
    centres = torch.randn(classes, features, generator=streams("centres"))
    x = centres[y] + noise * torch.randn(len(y), features, generator=streams("noise"))
    data = Data(x=x, edge_index=(drawn | drawn.T).nonzero().T.contiguous(), y=y)
    place = torch.cat([torch.randperm(nodes_per_class, generator=streams("split")) for _ in range(classes)])
    train, val = place < labelled, (place >= labelled) & (place < 2 * labelled)
    return masks(data, *(m.nonzero().flatten() for m in (train, val, ~(train | val))))


@in_range("")
def citation_model(
    nodes: int = 3000,
    classes: Annotated[int, Field(ge=2)] = 6,
    features: Count = 2000,
    words: Rate = 30.0,
    repeated: bool = False,
    topical: Share = 0.3,
    degree: Rate = 4.0,
    homophily: Share = 0.75,
    labelled: Count = 20,
    validation: int = 500,
    test: int = 1000,
    seed: int = 0,
) -> Data:
    """Draw a graph like those of citations: bags of words as features, few edges, most of them within a class.

    Words follow a law of Zipf that every class bends its own way; some nodes have far more edges than others, and some
    none. Classes differ in size by up to three times.

    Args:
        nodes: N.
        classes: C.
        features: F, words of the vocabulary.
        words: mean number of words of a node, at least three each.
        repeated: x counts words; otherwise it says which ones a node has.
        topical: share of words that a node draws from its class, not from all.
        degree: mean number of edges of a node, before repeated ones become one.
        homophily: share of edges within a class.
        labelled: training nodes of every class.
        validation: nodes that validate.
        test: nodes that test.
        seed: of the draw.

    Raises:
        ConfigError: not enough nodes for the splits, or a share out of range.
    """
    if 6 * classes * labelled + validation + test > nodes:
        raise ConfigError(
            f"nodes={nodes} must be at least six times labelled={labelled} for each of {classes} classes, beside "
            f"{validation + test} to validate and test on"
        )
    streams = Streams(seed)
    y = torch.multinomial(
        0.5 + torch.rand(classes, generator=streams("sizes")), nodes, replacement=True, generator=streams("classes")
    )
    x = _bags(y, classes, features, words, repeated, topical, streams)
    data = Data(x=x, edge_index=_citations(y, degree, homophily, streams("edges")), y=y)
    order = torch.randperm(nodes, generator=streams("split"))
    train = torch.cat([order[y[order] == row][:labelled] for row in range(classes)])
    rest = order[~torch.isin(order, train)]
    return masks(data, train, rest[:validation], rest[validation : validation + test])


def _bags(
    y: Tensor, classes: int, features: int, words: float, repeated: bool, topical: float, streams: Streams
) -> Tensor:
    """Return bags of words (N, F)."""
    common = 1 / (torch.randperm(features, generator=streams("words")) + 10.0)
    topics = common * torch.exp(1.5 * torch.randn(classes, features, generator=streams("topics")))
    chance = (1 - topical) * common / common.sum() + topical * topics / topics.sum(1, keepdim=True)
    length = torch.poisson(torch.full((len(y),), float(words)), generator=streams("lengths")).clamp(min=3, max=features)
    drawn = torch.multinomial(chance[y], int(length.max()), replacement=repeated, generator=streams("bags"))
    return torch.zeros(len(y), features).scatter_add_(
        1, drawn, (torch.arange(drawn.shape[1]) < length[:, None]).float()
    )


def _citations(y: Tensor, degree: float, homophily: float, generator: torch.Generator) -> Tensor:
    """Return edges (2, E) in both directions between nodes whose activity has a heavy tail."""
    active = (1 - torch.rand(len(y), generator=generator)).pow(-0.5)
    source = torch.multinomial(active, int(len(y) * degree / 2), replacement=True, generator=generator)
    within = torch.rand(len(source), generator=generator) < homophily
    target = torch.empty_like(source)
    for row in range(int(y.max()) + 1):
        for same in (True, False):
            asked = ((y[source] == row) & (within == same)).nonzero().flatten()
            if len(asked):
                wanted = active * ((y == row) == same)
                target[asked] = torch.multinomial(wanted, len(asked), replacement=True, generator=generator)
    edges = torch.stack([source, target])[:, source != target]
    keys = torch.cat([edges[0] * len(y) + edges[1], edges[1] * len(y) + edges[0]]).unique()
    return torch.stack([keys // len(y), keys % len(y)])


@in_range("")
def random_families(
    per_class: Count = 200, nodes: Annotated[int, Field(ge=8)] = 20, noise: float = 0.3, seed: int = 0
) -> list[Data]:
    """Draw graphs of three families: preferential attachment, small worlds and random cycles laid over each other.

    Features (N, 8) are the degree, one-hot up to 7 and above, under noise.

    Args:
        per_class: graphs of every family.
        nodes: of every graph, give or take a quarter.
        noise: standard deviation of the noise.
        seed: of the draw.
    """
    generator = Streams(seed)("families")
    graphs = []
    for row, family in enumerate((_attached, _small_world, _cycles)):
        for _ in range(per_class):
            count = nodes + int(torch.randint(-(nodes // 4), nodes // 4 + 1, (1,), generator=generator))
            adjacency = family(count, generator)
            adjacency = (adjacency | adjacency.T) & ~torch.eye(count, dtype=torch.bool)
            x = torch.nn.functional.one_hot(adjacency.sum(1).clamp(max=7), 8).float()
            x += noise * torch.randn(x.shape, generator=generator)
            graphs.append(Data(x=x, edge_index=adjacency.nonzero().T.contiguous(), y=torch.tensor([row])))
    return graphs


def _attached(count: int, generator: torch.Generator) -> Tensor:
    """Barabasi and Albert: every node is tied to two earlier ones in proportion to their degrees."""
    adjacency = torch.zeros(count, count, dtype=torch.bool)
    adjacency[0, 1] = adjacency[1, 0] = True
    for node in range(2, count):
        weights = adjacency[:node, :node].sum(1, dtype=torch.float32)
        chosen = torch.multinomial(weights, 2, generator=generator)
        adjacency[node, chosen] = adjacency[chosen, node] = True
    return adjacency


def _small_world(count: int, generator: torch.Generator) -> Tensor:
    """Watts and Strogatz: a ring of neighbours at distance 1 and 2, a tenth of the edges rewired."""
    adjacency = torch.zeros(count, count, dtype=torch.bool)
    source = torch.arange(count).repeat(2)
    target = (source + torch.tensor([1, 2]).repeat_interleave(count)) % count
    moved = torch.rand(len(target), generator=generator) < 0.1
    target = torch.where(moved, torch.randint(count, target.shape, generator=generator), target)
    adjacency[source, target] = True
    return adjacency


def _cycles(count: int, generator: torch.Generator) -> Tensor:
    """Two random cycles over all nodes: degree 4 nearly everywhere."""
    adjacency = torch.zeros(count, count, dtype=torch.bool)
    for _ in range(2):
        order = torch.randperm(count, generator=generator)
        adjacency[order, order.roll(1)] = True
    return adjacency
