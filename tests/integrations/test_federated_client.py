"""Does a client send what it has, nothing that it must not, and stop when its privacy is spent?"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ddkit.base.streams import Streams
from ddkit.data import RealData
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import ConfigError, DataError, UnknownNameError
from ddkit.integrations.federated import (
    DistillClient,
    InProcessGrid,
    Limits,
    PrivateRelease,
    Task,
    TrainClient,
    dirichlet_partition,
    private_release,
    weights_to_arrays,
)
from ddkit.integrations.federated.around import NetworksAround
from ddkit.integrations.federated.client import PRIVATE_FAILURE
from ddkit.integrations.federated.flower import ConfigRecord, Context, Message, RecordDict, task_identity
from ddkit.integrations.federated.privacy import spent
from ddkit.integrations.federated.shard import distil_shard
from ddkit.integrations.federated.training import train, training_data
from ddkit.integrations.federated.weights import flat
from ddkit.integrations.federated.wire import unpack
from ddkit.models import ModelSpec
from ddkit.networks import Network
from ddkit.testing.small import toy_data
from tests.integrations.federated_small import DATA, MODEL, OPTIONS, RECIPE, TASK, client


def with_counts(*counts: int) -> RealData:
    """Return the first images of each class of the toy data."""
    index = torch.cat([DATA.class_index[k][:count] for k, count in enumerate(counts)])
    return DATA.subset(index)


def sent_classes(real: RealData, ipc: int, **more: Any) -> list[int]:
    options = {**OPTIONS, **more.pop("options", {})}
    distilled = distil_shard(real, more.pop("method", "dm"), ipc, 0, options=options, **more)
    return torch.bincount(distilled.hard_labels(), minlength=3).tolist()


def test_a_client_sends_the_classes_that_it_has() -> None:
    assert sent_classes(with_counts(5, 0, 4), 2) == [2, 0, 2]


def test_a_small_class_gets_as_many_images_as_it_has() -> None:
    assert sent_classes(with_counts(9, 3, 2), 4) == [4, 3, 2]


def test_a_class_that_is_too_small_is_left_out() -> None:
    assert sent_classes(with_counts(9, 1, 5), 2) == [2, 0, 2]
    assert sent_classes(with_counts(9, 1, 5), 2, min_class_size=1) == [2, 1, 2]


def test_a_shard_of_one_class_is_distilled_by_its_means() -> None:
    assert sent_classes(with_counts(0, 9, 0), 2) == [0, 2, 0]


def test_a_shard_of_one_class_is_refused_by_methods_that_need_several() -> None:
    with pytest.raises(DataError, match="one class only"):
        sent_classes(with_counts(0, 9, 0), 1, method="dc", options={"objective": {"real_batch": 4}})


def test_a_lone_class_keeps_its_own_images_when_another_goes_along() -> None:
    real = with_counts(9, 9, 2)
    distilled = distil_shard(real, "dm", 3, 0, options=OPTIONS)
    own = distilled.unclipped()[distilled.hard_labels() == 2]
    mean = real.images[real.class_index[2]].float().mean(0) / 255
    other = real.images[real.class_index[0]].float().mean(0) / 255
    assert float((own.mean(0) - mean).abs().mean()) < float((own.mean(0) - other).abs().mean())


def test_a_shard_without_a_large_enough_class_is_refused() -> None:
    with pytest.raises(DataError, match="min_class_size=2"):
        sent_classes(with_counts(1, 0, 1), 1)


@pytest.mark.parametrize(
    "options",
    [{"method": "random", "options": {}}, {"method": "herding", "options": {}}, {"options": {"init": "real"}}],
)
def test_real_images_are_not_sent_unless_that_is_meant(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="allow_real_init=True"):
        client(**options)
    client(**options, allow_real_init=True)


def test_the_start_shows_no_single_image() -> None:
    """Presets start from real images: a client of averages of two images must not copy one."""
    real = with_counts(2, 2, 2)
    distilled = distil_shard(real, "dm", 1, 0, options={**OPTIONS, "steps": 1, "optimiser": {"lr": 1e-9}})
    pixels = (real.images.float() / 255).flatten(1)
    for image in distilled.unclipped().flatten(1):
        assert float((pixels - image).abs().amax(dim=1).min()) > 0.05


def test_the_same_client_sends_the_same_set_and_another_seed_another() -> None:
    sets = [distil_shard(with_counts(6, 6, 6), "dm", 2, seed, options=OPTIONS).images for seed in (0, 0, 1)]
    assert torch.equal(sets[0], sets[1]) and not torch.equal(sets[0], sets[2])


@pytest.mark.parametrize(
    "bad, error, words",
    [
        ({"ipc": 0}, ConfigError, "ipc=0"),
        ({"min_class_size": 0}, ConfigError, "min_class_size=0"),
        ({"min_class_size": 1}, ConfigError, "allow_real_init=True"),
        ({"wire": "float8"}, UnknownNameError, "wire"),
        ({"method": "dmm"}, UnknownNameError, "did you mean 'dm'"),
    ],
)
def test_bad_settings_of_a_client_are_refused(bad: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        client(**bad)


def ask(node: DistillClient, partition: int = 0, rounds: int = 1) -> tuple[list[Message], Context]:
    """Send a client as many requests as there are rounds."""
    replies = []
    with task_identity(1):
        grid = InProcessGrid(node.app(), 4)
        for number in range(1, rounds + 1):
            content = RecordDict({"config": ConfigRecord({"server-round": number})})
            replies += list(grid.send_and_receive([Message(content, partition + 1, "train.distil")]))
    return replies, grid.context(partition + 1)


def test_a_client_of_other_classes_answers_with_one_line() -> None:
    other = toy_data(counts=(5, 5))
    node = DistillClient(TASK, lambda _: other, options=OPTIONS)
    (reply,), _ = ask(node)
    assert reply.has_error() and "allow_missing=True" in str(reply.error.reason)


def noisy_means(real: RealData, generator: torch.Generator, epsilon: float = 1.0) -> DistilledDataset:
    """Stand for a private release: whether its noise suffices is not what is tested here."""
    images = torch.randn(real.num_classes, *real.shape, generator=generator)
    return DistilledDataset(
        images,
        torch.arange(real.num_classes),
        class_names=real.class_names,
        preprocessing=real.preprocessing,
        metadata={"privacy": {"epsilon": epsilon, "delta": 1e-6}},
    )


def private(release: Any = noisy_means, rounds: int = 2) -> DistillClient:
    budget = PrivateRelease(release, epsilon=1.0, delta=1e-6, max_epsilon=rounds, max_delta=rounds * 1e-6)
    return DistillClient(TASK, lambda context: with_counts(7, 8, 9), private=budget)


def test_a_private_client_leaves_when_its_budget_is_spent() -> None:
    replies, context = ask(private(rounds=2), rounds=3)
    assert [reply.has_error() for reply in replies] == [False, False, True]
    assert "epsilon=2 of 2" in str(replies[2].error.reason)
    assert spent(context) == (2.0, pytest.approx(2e-6))


def test_a_private_client_says_nothing_but_its_release() -> None:
    (reply,), _ = ask(private())
    got = unpack(reply.content, Limits(TASK, 10**6, 1))
    assert got.counts == (1, 1, 1)  # not 7, 8, 9


def test_a_private_release_has_noise_of_its_own_every_time() -> None:
    first, second = (ask(private())[0][0].content.array_records["distilled"]["images"].data for _ in range(2))
    assert first != second


@pytest.mark.parametrize(
    "release",
    [
        lambda real, generator: noisy_means(real, generator, epsilon=1.5),
        lambda real, generator: DistilledDataset(
            torch.zeros(3, 1, 8, 8), torch.arange(3), class_names=TASK.class_names, preprocessing=TASK.preprocessing
        ),
        lambda real, generator: 1 / 0,
    ],
)
def test_a_release_that_breaks_its_promise_is_paid_for_and_not_sent(release: Any) -> None:
    (reply,), context = ask(private(release))
    assert reply.has_error() and reply.error.reason == PRIVATE_FAILURE
    assert spent(context)[0] == 1.0


def test_a_release_that_says_it_is_not_private_is_not_sent() -> None:
    def seeded(real: RealData, generator: torch.Generator) -> DistilledDataset:
        distilled = noisy_means(real, generator)
        distilled.metadata["privacy"]["private"] = False
        return distilled

    (reply,), context = ask(private(seeded))
    assert reply.error.reason == PRIVATE_FAILURE and spent(context)[0] == 1.0


def test_a_private_client_in_iterative_mode_says_why_it_refuses_and_spends_nothing() -> None:
    content = RecordDict(
        {"config": ConfigRecord({"server-round": 1}), "arrays": weights_to_arrays(torch.nn.Linear(1, 1))}
    )
    with task_identity(1):
        grid = InProcessGrid(private().app(), 1)
        (reply,) = grid.send_and_receive([Message(content, 1, "train.distil")])
    assert "one-shot mode" in str(reply.error.reason) and spent(grid.context(1)) == (0.0, 0.0)


def test_ddkits_private_distiller_makes_releases() -> None:
    pytest.importorskip("opacus", reason="needs ddkit[private]")
    options = {"ipc": 1, "steps": 2, "networks": 2, "model": "convnet:width=4,depth=1"}
    budget = private_release(2.0, 1e-3, records=30, **options)
    node = DistillClient(TASK, lambda context: with_counts(7, 0, 9), private=budget)
    replies, context = ask(node, rounds=2)
    got = unpack(replies[0].content, Limits(TASK, 10**6, 1))
    assert got.counts == (1, 1, 1)  # a class that the client lacks does not show
    assert replies[1].has_error() and spent(context) == (2.0, 1e-3)


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"records": 2000}, "below 1/records"),
        ({"budget": None}, "leave budget out"),
        ({"method": "mtt"}, "private form"),
    ],
)
def test_bad_options_of_private_releases_are_refused(bad: dict[str, Any], words: str) -> None:
    pytest.importorskip("opacus", reason="needs ddkit[private]")
    with pytest.raises(ConfigError, match=words):
        private_release(2.0, 1e-3, **{"records": 30, **bad})


def test_a_private_client_refuses_what_would_cost_more() -> None:
    with pytest.raises(ConfigError, match="private"):
        DistillClient(TASK, lambda c: DATA, private=PrivateRelease(noisy_means, 1, 0, 1, 0), options={"steps": 1})
    with pytest.raises(ConfigError, match="whole budget covers"):
        PrivateRelease(noisy_means, 2.0, 0.0, 1.0, 0.0)


def test_networks_around_stay_within_the_radius() -> None:
    network = Network(ModelSpec.parse(MODEL), TASK.shape, 3)
    origin = torch.cat([parameter.detach().flatten().clone() for parameter in network.module.parameters()])
    source = NetworksAround(network, 0.5)
    source.streams = Streams(0)
    lengths = []
    for _ in range(20):
        module = source.current().module
        lengths.append(float((torch.cat([p.detach().flatten() for p in module.parameters()]) - origin).norm()))
    assert max(lengths) <= 0.5 + 1e-5 and min(lengths) < 0.25 < max(lengths)


def test_every_part_of_a_shard_is_matched_around_the_same_weights() -> None:
    """A source moves the weights of its network: the next one must not start where that one ended."""
    module, node = ModelSpec.parse(MODEL).build(TASK.shape, 3, 0), client()
    config = ConfigRecord({"server-round": 1, "model": MODEL, "radius": 1.0})
    make = node._networks(RecordDict({"config": config, "arrays": weights_to_arrays(module)}), config)
    first = make()
    first.streams = Streams(0)
    first.current()
    assert torch.equal(make()._origin, flat(module))


def test_features_around_are_followed_by_logits() -> None:
    network = Network(ModelSpec.parse(MODEL), TASK.shape, 3)
    source = NetworksAround(network, 0.0)
    source.streams = Streams(0)
    images = DATA.batch(torch.arange(5))
    both = source.current().features(images)
    assert torch.allclose(both[:, -3:], network.logits(images), atol=1e-5)
    assert torch.allclose(both[:, :-3], network.features(images))


def test_the_proximal_term_is_half_mu_times_the_squared_distance() -> None:
    """One step from w0 has no proximal gradient; the second has mu (w1 - w0)."""
    spec = ModelSpec.parse(MODEL)
    data = training_data(with_counts(4, 4, 4))
    recipe = RECIPE.replace(epochs=2, batch_size=12, momentum=0.0, weight_decay=0.0, lr=0.1)
    plain, pulled, one = (spec.build(TASK.shape, 3, 0) for _ in range(3))
    start = [parameter.detach().clone() for parameter in plain.parameters()]
    train(one, data, recipe.replace(epochs=1), Streams(0))
    train(plain, data, recipe, Streams(0))
    train(pulled, data, recipe, Streams(0), proximal=0.5)
    for w0, w1, a, b in zip(start, one.parameters(), plain.parameters(), pulled.parameters(), strict=True):
        assert torch.allclose(b, a - 0.1 * 0.5 * (w1 - w0), atol=1e-6)


def test_training_stays_in_the_ball() -> None:
    module = ModelSpec.parse(MODEL).build(TASK.shape, 3, 0)
    start = torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])
    train(module, training_data(DATA), RECIPE.replace(lr=1.0), Streams(0), radius=0.1)
    assert float((torch.cat([p.detach().flatten() for p in module.parameters()]) - start).norm()) <= 0.1 + 1e-5


def test_dropout_follows_the_streams_and_leaves_the_process_alone() -> None:
    ends = []
    for _ in range(2):
        module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(64, 3))
        module.load_state_dict({"2.weight": torch.ones(3, 64), "2.bias": torch.zeros(3)})
        before = torch.default_generator.get_state()
        train(module, training_data(DATA), RECIPE, Streams(4))
        assert torch.equal(before, torch.default_generator.get_state())
        torch.rand(3)  # a process in another state
        ends.append(module[2].weight.detach().clone())
    assert torch.equal(*ends)


def test_training_refuses_recipes_that_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match="cutmix"):
        TrainClient(TASK, lambda c: DATA, recipe=RECIPE.replace(cutmix=0.5))


def test_a_partition_divides_all_images_and_the_seed_decides() -> None:
    parts = dirichlet_partition(DATA, 4, 0.5, 3, min_size=2)
    assert torch.cat(parts).sort().values.tolist() == list(range(len(DATA)))
    assert min(map(len, parts)) >= 2
    again = dirichlet_partition(DATA, 4, 0.5, 3, min_size=2)
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))
    assert [len(part) for part in dirichlet_partition(DATA, 4, 0.5, 4, min_size=2)] != [len(part) for part in parts]


def test_a_small_alpha_leaves_clients_without_classes() -> None:
    def missing(alpha: float) -> int:
        parts = dirichlet_partition(DATA, 4, alpha, 0, min_size=1)
        return sum(int((DATA.subset(part).class_counts == 0).sum()) for part in parts)

    assert missing(0.05) > missing(100.0) == 0


@pytest.mark.parametrize("clients, alpha, error", [(0, 1.0, ConfigError), (4, 0.0, ConfigError), (80, 0.1, DataError)])
def test_a_partition_that_cannot_be_is_refused(clients: int, alpha: float, error: type[Exception]) -> None:
    with pytest.raises(error):
        dirichlet_partition(DATA, clients, alpha, 0)


def test_a_task_of_one_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        Task((1, 8, 8), ("a",), DATA.preprocessing)


def test_a_client_set_to_another_model_refuses_iterative_rounds() -> None:
    node, module = client(options={**OPTIONS, "model": "convnet:width=8,depth=2"}), ModelSpec.parse(MODEL)
    config = ConfigRecord({"server-round": 1, "model": MODEL, "radius": 1.0})
    content = RecordDict({"config": config, "arrays": weights_to_arrays(module.build(TASK.shape, 3, 0))})
    with task_identity(1):
        (reply,) = InProcessGrid(node.app(), 1).send_and_receive([Message(content, 1, "train.distil")])
    assert "one model for all" in str(reply.error.reason)
