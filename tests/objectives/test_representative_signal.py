"""Representatives of a class: found when they are due, weighted exactly, the same after a kill."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from ddkit import Distiller, data
from ddkit.data import RealData
from ddkit.data.coresets.kmeans import kmeans_representatives
from ddkit.errors import ConfigError, UnknownNameError
from ddkit.networks import (
    FixedNetworks,
    FreshNetworks,
    NetworkSource,
    RealTrainedNetworks,
    RepresentativeSignal,
    SyntheticTrainedNetworks,
    TrainedPool,
)
from ddkit.networks.representative_signal import kmeans_representatives as used
from ddkit.objectives import DistributionMatching, GradientMatching, Objective
from ddkit.testing import toy_data
from tests.engine.runs import LOOPS, SMALL, Kill

LIFE = {"outer_loop": 7, "inner_epochs": 1, "batch_size": 4}


def with_signal(
    bench: Any,
    objective: Objective,
    source: NetworkSource | None = None,
    *,
    data: RealData | None = None,
    **options: Any,
) -> tuple[Any, Any, RealData]:
    """Set an objective up with representatives."""
    strategy = options.pop("strategy", "none")
    objective, pixels, data = bench(
        objective, source=source or SyntheticTrainedNetworks(**LIFE), data=data, strategy=strategy
    )
    signal, context = RepresentativeSignal(**options), objective.context
    signal.setup(data, context.streams, context.augmentation, objective.real_batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        signal.connect(context.networks)
    context.signal = signal
    return objective, pixels, data


def clusterings(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Keep the features of every class that is clustered."""
    seen: list[Tensor] = []
    monkeypatch.setattr(
        "ddkit.networks.representative_signal.kmeans_representatives",
        lambda features, *rest: (seen.append(features.clone()), used(features, *rest))[1],
    )
    return seen


def features_of(objective: Any, index: Tensor) -> Tensor:
    context = objective.context
    with torch.no_grad():
        return context.network.features(context.signal.real.batch(index))


def asked(objective: Any, data: RealData) -> tuple[Any, Tensor]:
    """Choose a network; what a signal is asked with."""
    network = objective.context.networks.current()
    classes = torch.arange(data.num_classes)
    return network, classes


def test_representatives_are_those_of_the_features_without_augmentation(bench) -> None:
    objective, _, data = with_signal(bench, DistributionMatching(real_batch=3), strategy="color_crop_flip_scale_rotate")
    network, classes = asked(objective, data)
    index, group, weight = objective.context.signal._draw(network, classes)
    for label, members in enumerate(data.class_index):
        picks = kmeans_representatives(features_of(objective, members), [torch.arange(len(members))], 3)[0]
        assert torch.equal(index[group == label], members[picks])
    assert weight.tolist() == [1.0] * 9


@pytest.mark.parametrize("interval", [1, 3, 10])
def test_classes_are_clustered_at_every_interval_of_every_network(bench, monkeypatch, interval: int) -> None:
    source = SyntheticTrainedNetworks(**LIFE)
    objective, pixels, _ = with_signal(bench, DistributionMatching(real_batch=2), source, interval=interval)
    seen, ages = clusterings(monkeypatch), []
    for _ in range(16):
        before = len(seen)
        objective.backward(pixels)
        objective.backward(pixels) if source.served else None  # a second question within a step costs nothing
        ages += [source.age()] * ((len(seen) - before) // 3)
        source.after_step(pixels, last=False)
    assert ages == [(number, age) for number in range(3) for age in range(0, 7, interval) if 7 * number + age < 16]


def test_networks_that_take_turns_keep_their_own(bench, monkeypatch) -> None:
    source = RealTrainedNetworks(life=4, images=8, batch_size=4, pool=2)
    objective, pixels, _ = with_signal(bench, DistributionMatching(real_batch=2), source, interval=2)
    seen, ages = clusterings(monkeypatch), []
    for _ in range(12):
        before = len(seen)
        objective.backward(pixels)
        ages += [source.age()] * ((len(seen) - before) // 3)
        source.after_step(pixels, last=False)
    assert ages == [(0, 0), (1, 2), (0, 2), (2, 0), (3, 0), (2, 2)]
    assert len(objective.context.signal._clustered) == 2


def test_a_network_that_stays_is_clustered_under_once(bench, monkeypatch) -> None:
    source = FixedNetworks(count=2)
    objective, pixels, _ = with_signal(bench, DistributionMatching(real_batch=2), source, interval=1)
    seen = clusterings(monkeypatch)
    for _ in range(20):
        objective.backward(pixels)
        source.after_step(pixels, last=False)
    assert len(seen) == 2 * 3


def test_blended_networks_are_each_clustered_under(bench, monkeypatch) -> None:
    source = TrainedPool(runs=1, stages=2, steps=1, batch_size=4, blend=True)
    objective, pixels, _ = with_signal(bench, DistributionMatching(real_batch=2), source)
    seen = clusterings(monkeypatch)
    for _ in range(5):
        objective.backward(pixels)
        source.after_step(pixels, last=False)
    assert len(seen) == 5 * 3


def test_weighted_class_gradients_are_the_weighted_loop(bench) -> None:
    objective, _, data = with_signal(bench, GradientMatching(real_batch=4), weights="size")
    network, classes = asked(objective, data)
    signal, names = objective.context.signal, objective.names
    draws = objective.draws(classes)
    index, group, weight = signal._draw(network, classes)
    assert not torch.equal(weight, torch.ones(12)) and weight.view(3, 4).sum(1).tolist() == pytest.approx([4] * 3)
    expected = []
    for label in range(3):
        own = group == label
        losses = torch.nn.functional.cross_entropy(
            network.module(data.batch(index[own]).double()), torch.full((4,), label), reduction="none"
        )
        loss = (losses * weight[own]).sum() / 4
        weights = [dict(network.module.named_parameters())[name] for name in names]
        expected.append(torch.autograd.grad(loss, weights))
    loop = [torch.stack(rows) for rows in zip(*expected, strict=True)]
    for chunk in (1, 2, 3):
        for mine, theirs in zip(signal.gradients(network, classes, draws, names, chunk), loop, strict=True):
            assert (mine - theirs).abs().max() < 1e-12
    for mine, theirs in zip(signal.mean_gradient(network, classes, draws, names), loop, strict=True):
        assert (mine - theirs.mean(0)).abs().max() < 1e-12


@pytest.mark.parametrize("weights", ["equal", "size"])
def test_class_means_have_the_weights(bench, weights: str) -> None:
    objective, _, data = with_signal(bench, DistributionMatching(real_batch=4), weights=weights)
    network, classes = asked(objective, data)
    signal, draws = objective.context.signal, objective.draws(classes)
    means = signal.feature_means(network, classes, draws)
    layers = signal.layer_features(network, classes, draws)
    index, _, _ = signal._draw(network, classes)
    for label, members in enumerate(data.class_index):
        picks, shares = kmeans_representatives(features_of(objective, members), [torch.arange(len(members))], 4)
        if weights == "equal":
            shares = torch.full((4,), 0.25, dtype=torch.float64)
        expected = shares @ features_of(objective, members[picks])
        assert (means[label] - expected).abs().max() < 1e-12
        assert (layers.means[-1][label].flatten() - expected).abs().max() < 1e-12
    assert torch.equal(layers.last, features_of(objective, index))


def test_a_class_smaller_than_the_batch_gives_all_its_images(bench) -> None:
    objective, pixels, data = with_signal(bench, GradientMatching(real_batch=8), data=toy_data(counts=(5, 20, 9)))
    index, group, weight = objective.context.signal._draw(*asked(objective, data))
    assert torch.equal(index[:5], data.class_index[0]) and weight[:5].tolist() == [1.0] * 5
    assert group.bincount().tolist() == [5, 8, 8]
    assert objective.backward(pixels)["loss"] > 0


def test_a_subset_is_drawn_anew_and_disturbs_no_other_stream(bench, monkeypatch) -> None:
    objective, pixels, _ = with_signal(
        bench, DistributionMatching(real_batch=3), data=toy_data(counts=(30, 40, 4)), subset=8, interval=1
    )
    seen, networks = clusterings(monkeypatch), objective.context.networks
    streams = objective.context.streams
    before = streams("real").get_state()
    chosen = []
    for _ in range(2):
        objective.backward(pixels)
        chosen.append(objective.context.signal._draw(networks.network, torch.tensor([1]))[0].tolist())
        networks.after_step(pixels, last=False)
    assert [len(features) for features in seen] == [8, 8, 4] * 2
    assert chosen[0] != chosen[1] and all(row == sorted(row) for row in chosen)
    assert torch.equal(streams("real").get_state(), before)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("dsa", {**LOOPS, "signal": {"name": "representative", "interval": 3, "subset": 6, "weights": "size"}}),
        ("dcc", {**LOOPS, "signal": {"name": "representative", "interval": 2}}),
        ("dm", {"networks": {"name": "fixed", "count": 3}, "signal": "representative"}),
        (
            "cafe",
            {
                "networks": {"window": 2, "query": 3, "max_inner_epochs": 2},
                "signal": {"name": "representative", "interval": 4},
            },
        ),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(method: str, options: dict[str, Any], tmp_path) -> None:
    options = {**SMALL, **options}
    whole = Distiller(method, 2, **options).fit(toy_data())
    with pytest.raises(KeyboardInterrupt):
        Distiller(method, 2, callbacks=[Kill(6)], checkpoint_every=5, **options).fit(toy_data(), out=tmp_path / "run")
    resumed = Distiller(method, 2, **options).fit(toy_data(), out=tmp_path / "run", resume=True)
    assert resumed.to_bytes() == whole.to_bytes()
    plain = Distiller(method, 2, **{**options, "signal": "real"}).fit(toy_data())
    assert not torch.equal(plain.images, whole.images)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"signal": {"name": "representative", "interval": 0}}, r"signal\.interval=0 must be at least 1"),
        ({"signal": {"name": "representative", "subset": 0}}, r"signal\.subset=0 must be at least 1"),
        ({"signal": {"name": "representative", "subset": 4}}, r"signal\.subset=4 must be .* objective\.real_batch=5"),
        ({"signal": "representative", "objective": {"real_batch": 0}}, r"objective\.real_batch=0"),
        ({"signal": "representative", "model": "convnet:width=4,depth=2,norm=batch"}, "batch norm"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Distiller("dsa", 1, **{**SMALL, **options}).fit(toy_data())


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="size"):
        RepresentativeSignal(weights="sise")  # type: ignore[arg-type]


def test_networks_that_are_new_at_every_step_are_pointed_out() -> None:
    signal, source = RepresentativeSignal(), FreshNetworks()
    source.network = type("Network", (), {"has_batch_norm": False})()  # type: ignore[assignment]
    with pytest.warns(UserWarning, match=r"signal\.subset"):
        signal.connect(source)


def test_cost_estimates_count_the_clustering() -> None:
    train = toy_data(counts=(10, 20, 30))
    assert RepresentativeSignal(interval=10).upkeep(train, SyntheticTrainedNetworks(outer_loop=50)) == 6
    assert RepresentativeSignal(interval=10).upkeep(train, FreshNetworks()) == 60
    assert RepresentativeSignal(subset=15).upkeep(train, SyntheticTrainedNetworks(outer_loop=50)) == 4


def test_representatives_estimate_the_mean_better_than_random_images(bench) -> None:
    """Measured: 0.32 and 0.25 of the squared error that random images are expected to have."""
    train = data.load_pair("digits")[0]
    ratios: dict[str, list[float]] = {"equal": [], "size": []}
    n = 16
    for seed in range(2):
        for weights, found in ratios.items():
            objective, _, _ = with_signal(
                lambda one, **o: bench(one, model="convnet:width=32,depth=2", seed=seed, **o),  # noqa: B023
                DistributionMatching(real_batch=n),
                FixedNetworks(),
                data=train,
                weights=weights,
            )
            network = objective.context.networks.current()
            classes = torch.tensor([1, 5, 8])
            means = objective.context.signal.feature_means(network, classes, objective.draws(classes))
            for mean, label in zip(means, classes.tolist(), strict=True):
                features = features_of(objective, train.class_index[label])
                spread = (features - features.mean(0)).square().sum(1).mean()
                expected = (1 - n / len(features)) / n * spread
                found.append(float((mean - features.mean(0)).square().sum() / expected))
    equal, size = (sum(ratios[name]) / 6 for name in ("equal", "size"))
    assert size <= equal <= 0.7
