"""Is a condenser a transform of PyG: composed, pickled, and kept by a dataset as its ``pre_transform``?"""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_geometric.transforms as T
from torch_geometric.data import Data, InMemoryDataset

from ddkit.errors import DataError
from ddkit.integrations.graph import METHODS, GraphCondenser, random_families
from tests.integrations.graph_small import QUICK, small_graph


def positive_graph() -> Data:
    """Features that NormalizeFeatures can divide by their sum."""
    return small_graph(x=small_graph().x.abs())


class OneGraph(InMemoryDataset):
    """A dataset of one graph, as Planetoid is."""

    @property
    def processed_file_names(self) -> str:
        return "data.pt"

    def __init__(self, root: str, **transforms: Any) -> None:
        super().__init__(root, **transforms)
        self.load(self.processed_paths[0])

    def process(self) -> None:
        data = positive_graph()
        self.save([data if self.pre_transform is None else self.pre_transform(data)], self.processed_paths[0])


@pytest.mark.parametrize("method", METHODS)
def test_a_transform_gives_what_condense_gives_and_leaves_its_input_alone(method: str) -> None:
    size = {} if method == "means" else {"nodes_per_class": 2}
    condenser = GraphCondenser(method, seed=1, **size, **QUICK.get(method, {}))
    data = positive_graph()
    kept = copy.deepcopy(data)
    expected = condenser.condense(T.NormalizeFeatures()(positive_graph()))
    chain = pickle.loads(pickle.dumps(T.Compose([T.NormalizeFeatures(), condenser])))
    for _ in range(2):
        found = chain(copy.deepcopy(data))
        assert torch.equal(found.x, expected.x) and torch.equal(found.edge_weight, expected.edge_weight)
    condenser(data)
    assert all(torch.equal(data[name], kept[name]) for name in kept.keys())  # noqa: SIM118


def test_a_dataset_keeps_what_pre_transform_made(tmp_path: Path) -> None:
    condenser = GraphCondenser("kmeans", nodes_per_class=2)
    expected = condenser.condense(positive_graph())
    for _ in range(2):  # the second time it is read from disk
        found = OneGraph(str(tmp_path), pre_transform=GraphCondenser("kmeans", nodes_per_class=2))[0]
        assert torch.equal(found.x, expected.x) and torch.equal(found.y, expected.y)
        assert found.provenance["counts"] == [2, 2, 2]
    with pytest.warns(UserWarning, match="pre_transform"):
        OneGraph(str(tmp_path), pre_transform=GraphCondenser("kmeans", nodes_per_class=3))


def test_transform_condenses_at_every_access(tmp_path: Path) -> None:
    dataset = OneGraph(str(tmp_path), transform=GraphCondenser("doscond", nodes_per_class=2, restarts=3))
    assert torch.equal(dataset[0].x, dataset[0].x) and dataset[0].num_nodes == 6


def test_a_condenser_says_what_it_was_asked_for() -> None:
    told = repr(GraphCondenser("gcond", ratio=0.1, seed=3, lr=0.02))
    assert told.startswith("GraphCondenser('gcond', ratio=0.1, ") and "seed=3" in told and "lr=0.02" in told
    assert told == repr(GraphCondenser("gcond", ratio=0.1, seed=3, lr=0.02)) != repr(GraphCondenser("gcond", ratio=0.1))


def test_a_condenser_of_sets_is_no_transform_of_one_graph() -> None:
    condenser = GraphCondenser("random", graphs_per_class=1)
    with pytest.raises(DataError, match="list or Dataset of graphs"):
        T.Compose([condenser])(random_families(4, 8))
