"""Are the embedded graphs what they say, and the files of Planetoid read without running anything in them?"""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from ddkit.errors import ConfigError, DataError, UnknownNameError
from ddkit.integrations.graph import (
    GraphCondenser,
    Training,
    block_model,
    citation_model,
    evaluate,
    karate_club,
    planetoid,
)


@pytest.fixture
def cora_root() -> Path:
    root = Path(os.environ.get("DDKIT_DATA", ""))
    if not (root / "Planetoid" / "Cora" / "raw" / "ind.cora.x").is_file():
        pytest.skip("Cora is not under $DDKIT_DATA/Planetoid")
    return root


def test_cora_is_read_as_pyg_reads_it(cora_root: Path) -> None:
    from torch_geometric.io import read_planetoid_data

    expected = read_planetoid_data(str(cora_root / "Planetoid" / "Cora" / "raw"), "cora")
    found = planetoid("Cora", cora_root)
    for name in ("x", "y", "train_mask", "val_mask", "test_mask"):
        assert torch.equal(found[name], expected[name])
    assert torch.equal(found.coalesce().edge_index, expected.coalesce().edge_index)


def test_class_means_of_cora_train_a_gcn(cora_root: Path) -> None:
    data = planetoid("cora", cora_root, normalise=True)
    small = GraphCondenser("means").condense(data)
    assert small.num_nodes == 7 and small.provenance["source"]["edges"] == 10556
    found = evaluate(small, data, ["sgc"], 1, training=Training(epochs=200), means=False)
    assert found.row("sgc").accuracies[0] > 0.74


class Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch attacked",)


def test_a_file_that_names_anything_else_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = tmp_path / "Cora" / "raw"
    raw.mkdir(parents=True)
    (raw / "ind.cora.x").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(DataError, match="system"):
        planetoid("cora", tmp_path)
    assert not (tmp_path / "attacked").exists()


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no Planetoid/Cora/raw"):
        planetoid("cora", tmp_path)
    raw = tmp_path / "Cora" / "raw"
    raw.mkdir(parents=True)
    (raw / "ind.cora.x").write_bytes(b"\x80\x02}q")
    with pytest.raises(DataError, match="damaged"):
        planetoid("cora", tmp_path)
    with pytest.raises(UnknownNameError, match="did you mean 'cora'"):
        planetoid("core", tmp_path)


def test_the_karate_club_has_disjoint_masks() -> None:
    data = karate_club()
    masks = torch.stack([data.train_mask, data.val_mask, data.test_mask]).sum(1)
    assert masks.tolist() == [4, 15, 15]
    assert GraphCondenser("gcond-x", nodes_per_class=1, restarts=1).condense(data).y.tolist() == [0, 1, 2, 3]


def test_the_block_model_has_more_edges_within_blocks() -> None:
    data = block_model(3, 40, within=0.3, between=0.05, labelled=5)
    assert data.validate() and data.is_undirected()
    same = (data.y[data.edge_index[0]] == data.y[data.edge_index[1]]).float().mean()
    assert 0.6 < float(same) < 0.9
    assert [int(data[f"{name}_mask"].sum()) for name in ("train", "val", "test")] == [15, 15, 90]
    assert torch.equal(block_model(3, 40, labelled=5, seed=1).x, block_model(3, 40, labelled=5, seed=1).x)
    with pytest.raises(ConfigError, match="to test on"):
        block_model(3, 10, labelled=5)
    with pytest.raises(ConfigError, match=r"within=.* must lie in \[0, 1\]"):
        block_model(within=1.5)


def test_the_citation_model_has_bags_of_words_and_edges_within_classes() -> None:
    data = citation_model(1000, 3, 200, words=20, labelled=10, validation=100, test=200, homophily=0.8, seed=1)
    assert data.validate() and data.is_undirected() and not data.has_self_loops()
    assert data.x.unique().tolist() == [0.0, 1.0] and 18 < float(data.x.sum(1).mean()) < 22
    same = (data.y[data.edge_index[0]] == data.y[data.edge_index[1]]).float().mean()
    assert 0.7 < float(same) < 0.9
    assert [int(data[f"{name}_mask"].sum()) for name in ("train", "val", "test")] == [30, 100, 200]
    assert data.y[data.train_mask].bincount().tolist() == [10, 10, 10]
    again = citation_model(1000, 3, 200, words=20, labelled=10, validation=100, test=200, homophily=0.8, seed=1)
    assert torch.equal(data.x, again.x) and torch.equal(data.edge_index, again.edge_index)
    counted = citation_model(1000, 3, 50, words=40, repeated=True, labelled=10, validation=100, test=200, homophily=1.0)
    assert float(counted.x.max()) > 1 and bool(
        (counted.y[counted.edge_index[0]] == counted.y[counted.edge_index[1]]).all()
    )


@pytest.mark.parametrize("options", [{"nodes": 900}, {"classes": 1}, {"topical": 1.5}, {"words": 0}, {"homophily": -1}])
def test_citation_models_that_cannot_be_drawn_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError):
        citation_model(**options)
