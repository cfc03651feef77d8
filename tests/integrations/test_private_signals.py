"""Do private signals answer what the real one would, clipped and noised, and refuse everything else?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, vmap

from ddkit import augment
from ddkit.base.streams import Streams
from ddkit.data import RealData
from ddkit.engine import Distiller
from ddkit.errors import CheckpointError, ConfigError
from ddkit.integrations.private import OneShotMeans, Queries, SampledGradient, SampledMeans, SampledTargets
from ddkit.integrations.private.gradients import RecordGradients
from ddkit.integrations.private.noise import SeededNoise
from ddkit.integrations.private.public_norm import public_centre
from ddkit.models import ModelSpec
from ddkit.networks import FixedNetworks, Network
from ddkit.networks.real_signal import RealSignal
from tests.integrations.private_small import TINY_MODEL, records, wall, with_public_constants

CLASSES = torch.arange(3)
NONE = augment.create("none")
DRAWS = NONE.draw(3, torch.Generator())
TEMPLATE: dict[str, Any] = {
    "steps": 2,
    "model": TINY_MODEL,
    "init": "noise",
    "augmentation": "none",
    "compile": False,
    "networks": {"name": "fixed", "count": 2},
}


def network(model: str = TINY_MODEL) -> Network:
    return Network(ModelSpec.parse(model), (1, 8, 8), 3)


def set_up(signal: Any, real: RealData | None = None) -> Any:
    signal.setup(signal.private.public, Streams(0), NONE, 1)
    return signal


def one_shot(private: Any, count: int = 2, **options: Any) -> tuple[OneShotMeans, FixedNetworks]:
    pool = FixedNetworks(count)
    pool.network, pool.streams = network(), Streams(0)
    pool.seeds, pool._held = list(range(count)), None
    signal = set_up(OneShotMeans(private, 1.0, **options))
    signal.connect(pool)
    return signal, pool


def test_record_gradients_are_those_of_autograd_one_by_one() -> None:
    net, real = network(), with_public_constants(records())
    images, labels = real.batch(torch.arange(7)), real.labels[:7]
    names = [name for name, _ in net.module.named_parameters()]
    rows = RecordGradients(net.module, names)(net, images, labels)

    def loss(weights: dict[str, torch.Tensor], image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(functional_call(net.module, weights, (image[None],)), label[None])

    weights = {name: weight.detach() for name, weight in net.module.named_parameters()}
    expected = vmap(grad(loss), in_dims=(None, 0, 0))(weights, images, labels)
    assert torch.allclose(rows, torch.cat([expected[name].flatten(1) for name in names], 1), atol=1e-5)


def test_record_gradients_follow_the_weights_of_the_network() -> None:
    net, real = network(), with_public_constants(records())
    wrapped = RecordGradients(net.module, ["classifier.weight"])
    batch = real.batch(torch.arange(4)), real.labels[:4]
    before = wrapped(net, *batch)
    net.reset(7)
    after = wrapped(net, *batch)
    assert not torch.allclose(before, after)
    assert torch.allclose(after, wrapped(net, *batch))


@pytest.mark.parametrize("model", ["convnet:width=4,depth=1,norm=batch", "resnet18:norm=batch"])
def test_networks_that_mix_records_are_refused(model: str) -> None:
    with pytest.raises(ConfigError, match=r"every record on its own.*norm=instance"):
        RecordGradients(ModelSpec.parse(model).build((1, 32, 32), 3, 0), ["classifier.weight"])


def test_an_unclipped_silent_gradient_is_the_gradient_of_all_records() -> None:
    net, real = network(), records()
    shown = with_public_constants(real)
    signal = set_up(SampledGradient(wall(real), 1.0, clip=1e6))
    names = ["classifier.weight", "classifier.bias"]
    answer = signal.mean_gradient(net, CLASSES, DRAWS, names)
    weights = dict(net.module.named_parameters())
    loss = F.cross_entropy(net.module(shown.batch(torch.arange(36))), shown.labels)
    for own, expected in zip(answer, torch.autograd.grad(loss, [weights[n] for n in names]), strict=True):
        assert torch.allclose(own, expected, atol=1e-6)


def test_a_clipped_gradient_is_no_longer_than_its_bound() -> None:
    signal = set_up(SampledGradient(wall(), 1.0, clip=0.1))
    answer = signal.mean_gradient(network(), CLASSES, DRAWS, ["classifier.weight"])
    assert float(answer[0].norm()) <= 0.1


def test_one_release_serves_every_network_of_the_pool_and_every_step() -> None:
    real = records()
    signal, pool = one_shot(wall(real))
    shown = with_public_constants(real).batch(torch.arange(36))
    for number in (1, 0, 1):
        net = pool.select(number)
        centre = public_centre(net, Streams(0))
        with torch.no_grad():
            scaled = centre.scaled(net.features(shown))
        assert float(scaled.norm(dim=1).max()) < 1.5
        means = signal.feature_means(net, CLASSES, DRAWS)
        # Clipped jointly over the pool, so a little shorter than the plain means.
        plain = torch.stack([net.features(shown[real.labels == k]).mean(0) for k in range(3)]).detach()
        assert torch.allclose(means, plain, atol=0.15 * float(centre.radius))
    assert signal.private.plan.made == 1


def test_the_noise_of_a_release_is_drawn_once() -> None:
    signal, pool = one_shot(wall(noise=SeededNoise(0)))
    first = signal.feature_means(pool.select(0), CLASSES, DRAWS)
    second = signal.feature_means(pool.select(1), CLASSES, DRAWS)
    assert torch.equal(first, signal.feature_means(pool.select(0), CLASSES, DRAWS))
    assert torch.equal(second, signal.feature_means(pool.select(1), CLASSES, DRAWS))
    assert not torch.equal(first, second)


def test_asking_for_the_release_leaves_the_present_network_in_place() -> None:
    signal, pool = one_shot(wall(), count=3)
    net = pool.select(1)
    weights = net.snapshot()
    signal.feature_means(net, CLASSES, DRAWS)
    assert pool.number == 1
    assert all(torch.equal(value, weights[name]) for name, value in net.snapshot().items())


def test_noisy_counts_divide_the_sums_where_they_are_private() -> None:
    real = records()
    unbalanced = real.subset(torch.cat([torch.arange(4), torch.arange(12, 36)]))
    net_means = {}
    for weight in (0.0, 0.3):
        signal, pool = one_shot(wall(unbalanced), count=1, count_weight=weight)
        net_means[weight] = signal.feature_means(pool.select(0), CLASSES, DRAWS)
    net = pool.select(0)
    shown = with_public_constants(unbalanced)
    few = net.features(shown.batch(torch.arange(4))).mean(0).detach()
    assert float((net_means[0.3][0] - few).norm()) < float((net_means[0.0][0] - few).norm())


def test_sampled_means_are_scaled_by_the_public_size_of_a_sample() -> None:
    real = records()
    net = network()
    signal = set_up(SampledMeans(wall(real), 1.0))
    means = signal.feature_means(net, CLASSES[[2, 0]], DRAWS)
    shown = with_public_constants(real).batch(torch.arange(36))
    plain = torch.stack([net.features(shown[real.labels == k]).mean(0) for k in (2, 0)]).detach()
    assert torch.allclose(means, plain, atol=0.15 * public_centre(net, Streams(0)).radius)


def test_a_silent_signal_for_kernels_takes_the_step_of_the_real_one() -> None:
    real = with_public_constants(records())
    results = []
    for objective, signal, data in (
        ({"balanced": False, "real_images": 36}, RealSignal(), real),
        ({"balanced": False, "real_images": 36, "per_record": True}, RealSignal(), real),
        ({"balanced": False, "per_record": True}, SampledTargets(wall(real), 1.0, clip=1e6), None),
    ):
        distiller = Distiller(
            "kip",
            2,
            steps=1,
            init="noise",
            augmentation="none",
            compile=False,
            objective={"name": "kernel", "regulariser": 1e-3, **objective},
            signal=signal,
        )
        results.append(distiller.fit(data or signal.private.public).images)  # type: ignore[union-attr]
    assert torch.allclose(results[0], results[1], atol=1e-4)
    assert torch.allclose(results[0], results[2], atol=1e-4)


@pytest.mark.parametrize("wrong", [{"balanced": True}, {"loss": "platt"}, {"label_solve": True}])
def test_gradients_of_records_exclude_other_looks_at_them(wrong: dict[str, Any]) -> None:
    objective = {"name": "kernel", "balanced": False, "per_record": True, **wrong}
    with pytest.raises(ConfigError, match="asks for nothing but gradients of single records"):
        Distiller("kip", 1, objective=objective).fit(records())


def test_the_run_itself_must_not_get_the_records() -> None:
    real = records()
    with pytest.raises(ConfigError, match=r"fit\(private\.public\)"):
        Distiller("dm", 1, signal=OneShotMeans(wall(real), 1.0), **TEMPLATE).fit(real)


def test_one_release_needs_networks_that_are_known_before_the_first_step() -> None:
    signal = OneShotMeans(wall(), 1.0)
    with pytest.raises(ConfigError, match="networks=fixed"):
        Distiller("dm", 1, signal=signal, **{**TEMPLATE, "networks": "fresh"}).fit(signal.private.public)
    assert signal.private.plan.made == 0


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ("gradient", "set objective.level=batch"),
        ("trajectory", "does not tell"),
        ("meta", "does not tell"),
        ("characteristic", "does not tell 'characteristic'"),
        ("discrepancy", "does not tell 'features'"),
    ],
)
def test_objectives_without_a_sanitised_answer_are_refused_unasked(objective: str, words: str) -> None:
    signal = SampledGradient(wall(queries=Queries(1.0, 0.5, 2)), 1.0, rate=0.5)
    settings = {**TEMPLATE, "networks": "fresh", "objective": objective}
    if objective == "trajectory":
        settings["networks"] = "experts"
        words = "trained on private images"
    with pytest.raises(ConfigError, match=words):
        Distiller("dc", 1, signal=signal, **settings).fit(signal.private.public)
    assert signal.private.plan.made == 0


def test_images_paired_with_real_ones_are_refused() -> None:
    signal = OneShotMeans(wall(), 1.0)
    settings = {**TEMPLATE, "objective": {"name": "distribution", "pair_weight": 0.5}}
    with pytest.raises(ConfigError, match="images_at"):
        Distiller("dm", 1, signal=signal, **settings).fit(signal.private.public)


def test_a_private_run_is_not_resumed() -> None:
    signal = OneShotMeans(wall(), 1.0)
    with pytest.raises(CheckpointError, match="cannot be resumed"):
        signal.load_state_dict(signal.state_dict())
