"""Coreset methods through the engine: real images, at rest, with their indices."""

from __future__ import annotations

import pytest
import torch

from ddkit.data.coresets import herding_indices, kcenter_indices, kmeans_representatives, pixel_features
from ddkit.engine import Distiller
from ddkit.errors import ConfigError, DataError
from ddkit.testing import toy_data

SMALL = {"model": "convnet:width=4,depth=2", "precision": "float32", "compile": False, "device": "cpu"}


def fit(method: str, ipc: int = 2, **options):
    return Distiller(method, ipc, **{**SMALL, **options}).fit(toy_data())


@pytest.mark.parametrize("method", ["random", "herding", "kcenter", "kmeans"])
def test_result_is_the_real_images_at_the_recorded_indices(method: str) -> None:
    selection = {} if method == "random" else {"selection": {"features": "pixels"}}
    data, distilled = toy_data(), fit(method, **selection)
    index = torch.tensor(distilled.metadata["indices"])
    assert distilled.images.dtype == torch.uint8
    assert torch.equal(distilled.images, data.images[index])
    assert distilled.labels.tolist() == [0, 0, 1, 1, 2, 2] == data.labels[index].tolist()
    assert len(set(index.tolist())) == 6
    assert (distilled.budget.images, distilled.budget.bytes) == (6, 6 * 64 + 6 * 8)
    assert distilled.metadata["steps"] == 0


def test_coresets_follow_their_definition_on_pixels() -> None:
    data = toy_data()
    features = pixel_features(data)
    herding = fit("herding", selection={"features": "pixels"}).metadata["indices"]
    assert herding == herding_indices(features, data.class_index, 2).tolist()
    centres = fit("kcenter", selection={"features": "pixels"}).metadata["indices"]
    assert centres == kcenter_indices(features, data.class_index, 2).tolist()
    means = fit("kmeans", selection={"features": "pixels"}).metadata["indices"]
    assert means == kmeans_representatives(features, data.class_index, 2)[0].tolist()


@pytest.mark.parametrize("method", ["herding", "kcenter", "kmeans"])
def test_network_features_repeat_with_the_seed(method: str) -> None:
    runs = [fit(method, seed=seed, selection={"epochs": 2}).metadata["indices"] for seed in (1, 1)]
    assert runs[0] == runs[1]


def test_random_start_of_kcenter_follows_the_seed() -> None:
    options = {"features": "pixels", "start": "random"}
    starts = {fit("kcenter", ipc=1, seed=seed, selection=options).metadata["indices"][0] for seed in range(8)}
    assert len(starts) > 1


def test_random_selection_follows_the_seed() -> None:
    assert fit("random", seed=1).metadata["indices"] == fit("random", seed=1).metadata["indices"]
    assert fit("random", seed=1).metadata["indices"] != fit("random", seed=2).metadata["indices"]


def test_ipc_above_the_smallest_class_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="ipc=10 is larger than class 'class-0', which has 9 images"):
        fit("random", ipc=10)


def test_bad_selection_options_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"selection\.epochs=0"):
        fit("herding", selection={"epochs": 0})
    with pytest.raises(ConfigError, match="features"):
        fit("herding", selection={"features": "dreams"})


def test_features_are_trained_once_for_several_selections(monkeypatch: pytest.MonkeyPatch) -> None:
    from ddkit.engine import selection

    trained = []
    train = selection.train_networks
    monkeypatch.setattr(selection, "train_networks", lambda *a, **k: trained.append(1) or train(*a, **k))
    monkeypatch.setattr(selection, "_last_features", {})
    options = {"model": "convnet:width=4,depth=1", "selection": {"epochs": 1}}
    data = toy_data()
    kept = [Distiller(method, ipc, **options).fit(data) for method in ("herding", "kcenter") for ipc in (1, 2)]
    assert len(trained) == 1
    Distiller("herding", 1, seed=1, **options).fit(data)
    assert len(trained) == 2
    again = Distiller("herding", 2, **options).fit(data)
    assert len(trained) == 3
    assert again.metadata["indices"] == kept[1].metadata["indices"]
