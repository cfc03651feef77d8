"""What real images say, computed once a pair of network and augmentation: exact against asking at every step."""

from __future__ import annotations

import warnings
from itertools import combinations
from typing import Any

import pytest
import torch

from ddkit import Distiller
from ddkit.data import RealData
from ddkit.errors import ConfigError
from ddkit.networks import CachedSignal, FixedNetworks, FreshNetworks, NetworkSource, RealSignal, TrainedPool
from ddkit.objectives import CharacteristicMatching, DistributionMatching, GradientMatching, Objective
from ddkit.testing import toy_data
from tests.engine.runs import SMALL, Kill

from .conftest import gradient_of

STRATEGY = "color_crop_cutout_flip_scale_rotate"


def cached(
    bench: Any, objective: Objective, source: NetworkSource | None = None, *, strategy: str = "none", **options: Any
) -> tuple[Any, Any, RealData]:
    """Set an objective up with a cached signal."""
    objective, synthesizer, data = bench(objective, source=source or FixedNetworks(count=3), strategy=strategy)
    signal, context = CachedSignal(**options), objective.context
    signal._unknown = 1
    signal.setup(data, context.streams, context.augmentation, 1)
    signal.connect(context.networks)
    context.signal = signal
    return objective, synthesizer, data


def shown(signal: RealSignal, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the real images that are read."""
    counts: list[int] = []
    batch = signal.real.batch
    monkeypatch.setattr(
        type(signal.real), "batch", lambda self, index: (counts.append(len(index)), batch(index))[1], raising=True
    )
    return counts


@pytest.mark.parametrize("objective", [DistributionMatching, lambda **o: GradientMatching(metric="mse", **o)])
def test_one_pair_of_whole_classes_is_matching_whole_classes(bench, objective, monkeypatch) -> None:
    mine, pixels, _ = cached(bench, objective(), FixedNetworks(), strategy=STRATEGY, images=None)
    loss, gradient = gradient_of(mine, pixels)
    draws = mine.context.signal._drawn
    plain, other, _ = bench(objective(real_batch=99), source=FixedNetworks(), strategy=STRATEGY)
    monkeypatch.setattr(plain.context.augmentation, "draw", lambda *_: draws)
    expected_loss, expected = gradient_of(plain, other)
    assert loss == pytest.approx(expected_loss, rel=1e-13)
    assert (gradient - expected).abs().max() <= 1e-14 * expected.abs().max().clamp(min=1)


def test_one_pair_keeps_its_frequencies_and_characteristic_function(bench, monkeypatch) -> None:
    """At the same frequencies, augmentations and network as a plain step on whole classes."""
    mine, pixels, _ = cached(bench, CharacteristicMatching(16), FixedNetworks(), strategy=STRATEGY, images=None)
    loss, gradient = gradient_of(mine, pixels)
    assert gradient_of(mine, pixels)[0] == loss
    draws, seed = mine.context.signal._drawn, mine.context.signal._seed("frequencies")
    plain, other, _ = bench(CharacteristicMatching(16, real_batch=99), source=FixedNetworks(), strategy=STRATEGY)
    monkeypatch.setattr(plain.context.augmentation, "draw", lambda *_: draws)
    integer = plain.context.streams.integer
    monkeypatch.setattr(plain.context.streams, "integer", lambda name: seed if name == "frequencies" else integer(name))
    expected_loss, expected = gradient_of(plain, other)
    assert loss == pytest.approx(expected_loss, rel=1e-13)
    assert (gradient - expected).abs().max() <= 1e-14 * expected.abs().max().clamp(min=1)


def test_characteristic_functions_of_a_pair_are_computed_once(bench, monkeypatch) -> None:
    objective, pixels, _ = cached(bench, CharacteristicMatching(8), strategy=STRATEGY, images=4)
    counts = shown(objective.context.signal, monkeypatch)
    for _ in range(30):
        objective.backward(pixels)
    assert len(counts) == 3
    seeds = set()
    for number in range(3):
        objective.context.networks.select(number)
        objective.context.signal.draws(torch.arange(3))
        seeds.add(objective.context.signal._seed("frequencies"))
    assert len(seeds) == 3


def test_the_mean_over_all_batches_is_the_gradient_of_whole_classes(bench, monkeypatch) -> None:
    mine, pixels, data = cached(bench, DistributionMatching(), FixedNetworks(), images=None)
    whole = gradient_of(mine, pixels)[1]
    plain, other, _ = bench(DistributionMatching(real_batch=2), source=FixedNetworks())
    gradients = []
    batches = [list(combinations(index.tolist(), 2)) for index in data.class_index]
    for one in batches[0]:
        for two in batches[1][:: len(batches[1]) // 3]:
            chosen = torch.tensor([*one, *two, *batches[2][0]])
            monkeypatch.setattr(RealData, "sample_indices", lambda *_, chosen=chosen: chosen)
            gradients.append(gradient_of(plain, other)[1])
    first = pixels.classes == 0
    assert (torch.stack(gradients).mean(0)[first] - whole[first]).abs().max() < 1e-12
    assert (gradients[0][first] - whole[first]).abs().max() > 1e-6


def test_no_real_image_is_read_for_a_pair_that_is_known(bench, monkeypatch) -> None:
    objective, pixels, _ = cached(bench, DistributionMatching(), strategy=STRATEGY, images=4, views=2)
    counts = shown(objective.context.signal, monkeypatch)
    for _ in range(60):
        objective.backward(pixels)
    assert len(counts) == 6 and sum(counts) == 6 * (4 + 4 + 4)


def test_an_answer_does_not_depend_on_when_it_is_asked_for(bench) -> None:
    """Also after other draws from the streams of the run, as when a run is resumed."""
    found = []
    for order in ((0, 1, 2), (2, 0, 1)):
        objective, _, data = cached(bench, DistributionMatching(), strategy=STRATEGY, images=3)
        context = objective.context
        answers = {}
        for number in order:
            network = context.networks.select(number)
            classes = torch.arange(data.num_classes)
            draws = context.signal.draws(classes)
            answers[number] = context.signal.feature_means(network, classes, draws), draws.uniform
            torch.rand(5, generator=context.streams("real"))
        found.append(answers)
    for number in range(3):
        assert all(torch.equal(a, b) for a, b in zip(found[0][number], found[1][number], strict=True))
    assert not torch.equal(found[0][0][1], found[0][1][1])


def test_a_refreshed_network_is_asked_about_once(bench, monkeypatch) -> None:
    source = FixedNetworks(count=3, refresh=20)
    objective, pixels, _ = cached(bench, DistributionMatching(), source, images=2)
    counts = shown(objective.context.signal, monkeypatch)
    seeds = list(source.seeds)
    for step in range(1, 81):
        objective.backward(pixels)
        source.after_step(pixels, last=False)
        changed = [number for number in range(3) if source.seeds[number] != seeds[number]]
        assert changed == ([(step // 20 - 1) % 3] if step % 20 == 0 else [])
        seeds = list(source.seeds)
    assert len(counts) == 3 + 3
    assert len(objective.context.signal._answers) <= 4


def test_classes_are_not_mixed_up(bench) -> None:
    objective, pixels, _ = cached(bench, DistributionMatching(), FixedNetworks())
    before = gradient_of(objective, pixels)[0]
    with torch.no_grad():
        pixels.images[:4] = pixels.images[[2, 3, 0, 1]].clone()
    assert abs(gradient_of(objective, pixels)[0] - before) > 1e-3


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("dm", {"networks": {"name": "fixed", "count": 4, "refresh": 3}, "signal": {"name": "cached", "images": 4}}),
        ("dm", {"networks": {"name": "pool", "runs": 1, "stages": 3, "steps": 4}, "signal": {"name": "cached"}}),
        ("dc", {"networks": {"name": "fixed", "count": 2}, "signal": {"name": "cached", "views": 2}}),
        ("fast-dm", {}),
        ("fast-dm", {"objective": {"name": "characteristic", "frequencies": 8}}),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(method: str, options: dict[str, Any], tmp_path) -> None:
    options = {**SMALL, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = Distiller(method, 2, **options).fit(toy_data())
        with pytest.raises(KeyboardInterrupt):
            killed = Distiller(method, 2, callbacks=[Kill(5)], checkpoint_every=2, **options)
            killed.fit(toy_data(), out=tmp_path / "run")
        resumed = Distiller(method, 2, **options).fit(toy_data(), out=tmp_path / "run", resume=True)
    assert resumed.to_bytes() == whole.to_bytes()


def test_networks_that_do_not_come_again_are_refused(bench) -> None:
    signal = CachedSignal()
    with pytest.raises(ConfigError, match=r"networks\.count=50"):
        signal.connect(FreshNetworks())
    with pytest.raises(ConfigError, match=r"leave networks\.blend out, or use signal=real"):
        blended = {"name": "pool", "stages": 2, "blend": True}
        Distiller("dm", 1, **{**SMALL, "signal": "cached", "networks": blended}).fit(toy_data())
    with pytest.raises(ConfigError, match="batch norm"):
        Distiller("fast-dm", 1, **{**SMALL, "model": "convnet:width=4,depth=2,norm=batch"}).fit(toy_data())
    with pytest.raises(ConfigError, match="layer_features"):
        Distiller("cafe", 1, **{**SMALL, "signal": "cached", "networks": "fixed"}).fit(toy_data())
    with pytest.raises(ConfigError, match="images"):
        CachedSignal(images=0)


def test_few_pairs_are_pointed_out() -> None:
    options = {**SMALL, "steps": 1, "signal": "cached", "networks": {"name": "fixed", "count": 1}}
    with pytest.warns(UserWarning, match="take at least"):
        Distiller("dm", 50, **options).fit(toy_data(counts=(60, 60, 60)))


def test_a_pool_of_trained_networks_answers_for_each_of_its_snapshots(bench, monkeypatch) -> None:
    source = TrainedPool(runs=1, stages=3, steps=4, batch_size=4, augmentation="none")
    objective, pixels, _ = cached(bench, DistributionMatching(), source, images=4)
    source.training.setup(objective.context)
    objective.backward(pixels)
    counts = shown(objective.context.signal, monkeypatch)
    for _ in range(40):
        objective.backward(pixels)
    assert len(counts) == 2 and source.count == 3
