"""Can strategies that hold a storage policy of their own hold this memory?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("avalanche")

from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.training.plugins import EvaluationPlugin, MIRPlugin, RARPlugin, ReplayPlugin
from avalanche.training.supervised import DER, ER_ACE, ER_AML, FeatureReplay, Naive

from ddkit.errors import ConfigError
from ddkit.integrations.continual import ClassMemory, CoresetReplayBuffer, RepeatedMemory, SoftTargets
from tests.integrations.continual_streams import benchmark, fed, model, strategy, tiny, toy_stream
from tests.integrations.test_continual_online import images_held, online
from tests.integrations.test_continual_tasks import Heads, multi_head

KINDS: dict[str, Callable[..., ClassMemory]] = {
    "distilled": tiny,
    "random": lambda **options: CoresetReplayBuffer(8, **{"num_classes": 4, **options}),
}


class Probe(torch.nn.Module):
    """The shared model behind a hook that counts the images that it is shown when training."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.shown = model(), 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.shown += len(images) * self.training
        logits: torch.Tensor = self.inner(images)
        return logits


def settings(network: torch.nn.Module, **options: Any) -> dict[str, Any]:
    common = {"train_mb_size": 8, "train_epochs": 2, "eval_mb_size": 32, "evaluator": EvaluationPlugin(loggers=[])}
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    return {"model": network, "optimizer": optimiser, **common, **options}


def dark(buffer: Any, network: torch.nn.Module | None = None, **options: Any) -> Any:
    """Return a DER strategy that replays from ``buffer``."""
    agent = DER(mem_size=8, batch_size_mem=4, **settings(model() if network is None else network, **options))
    agent.storage_policy = buffer
    return agent


def logits_in(buffer: ClassMemory) -> torch.Tensor:
    return torch.stack([item[3] for item in buffer.buffer])


@pytest.mark.parametrize("kind", KINDS)
def test_mir_retrieves_from_the_classes_of_earlier_experiences(kind: str) -> None:
    buffer, network = KINDS[kind](), Probe()
    plugin = MIRPlugin(batch_size_mem=2, mem_size=8)
    plugin.storage_policy = buffer
    agent = Naive(plugins=[plugin], criterion=torch.nn.CrossEntropyLoss(), **settings(network))
    shown = []
    for experience in benchmark(per_experience=(1, 1, 1, 1)).train_stream:
        network.shown = 0
        agent.train(experience)
        shown.append(network.shown)
    # two epochs of 12 images; after two classes one is another's: 2 images, too few for MIR; then all and the best 2
    assert shown == [24, 24, 24, 24 + 4 * (4 + 2)]
    assert sorted(buffer.buffer_groups) == [0, 1, 2, 3]
    assert all(len(group.buffer) == 2 for group in buffer.buffer_groups.values())


def test_groups_have_task_labels_also_where_the_stream_has_none() -> None:
    buffer = fed(tiny(), as_classification_dataset(toy_stream()))
    assert len(buffer.buffer[0]) == 2 and [len(group[0]) for group in buffer.buffer_datasets] == [3] * 4


def test_groups_of_tasks_with_the_same_class_numbers_stay_apart() -> None:
    buffer = CoresetReplayBuffer(8, num_classes=4)
    for experience in multi_head():
        buffer.post_adapt(strategy([]), experience)
    groups = buffer.buffer_groups
    held = {number: {(label, task) for _, label, task in group.buffer} for number, group in groups.items()}
    assert held == {0: {(0, 0)}, 1: {(1, 0)}, 2: {(0, 1)}, 3: {(1, 1)}}


def test_mir_trains_heads_of_tasks() -> None:
    buffer = tiny()
    plugin = MIRPlugin(batch_size_mem=1, mem_size=8)
    plugin.storage_policy = buffer
    agent = Naive(plugins=[plugin], criterion=torch.nn.CrossEntropyLoss(), **settings(Heads()))
    for experience in multi_head():
        agent.train(experience)
    assert len(buffer.buffer) == 8


@pytest.mark.parametrize("kind", KINDS)
def test_der_replays_the_logits_that_its_model_gave(kind: str) -> None:
    buffer = KINDS[kind]()
    agent = dark(buffer)
    stream = benchmark().train_stream
    agent.train(stream[0])
    first = logits_in(buffer)
    images = torch.stack([item[0] for item in buffer.buffer])
    assert torch.allclose(first, agent.model.eval()(images).detach(), atol=1e-5)
    replayed = []
    agent.after_forward_hook = None
    original = agent._after_forward
    agent._after_forward = lambda **kwargs: (replayed.append(agent.batch_logits.clone()), original(**kwargs))
    agent.train(stream[1])
    assert all(bool((first == row).all(dim=1).any()) for batch in replayed for row in batch)
    assert torch.equal(logits_in(buffer)[:4], first)  # of classes that were not touched they stay
    assert buffer.budget().bytes == 8 * (16 + 4 * 4)


def test_logits_count_as_bytes_and_survive_the_disk(tmp_path: Path) -> None:
    size = 4 * 2 * (16 + 4 * 4)
    buffer, again = tiny(None, max_bytes=size), tiny(None, max_bytes=size)
    agent = dark(buffer)
    for experience in benchmark().train_stream:
        agent.train(experience)
    assert buffer.budget().bytes == size and len(buffer.buffer) == 8
    again.load(buffer.save(tmp_path / "memory"))
    assert torch.equal(logits_in(again), logits_in(buffer)) and again.budget() == buffer.budget()


def test_der_keeps_the_logits_of_an_online_stream_from_when_its_images_came() -> None:
    buffer = CoresetReplayBuffer(8, num_classes=4)
    agent = dark(buffer)
    parts = list(online(benchmark().train_stream, 4))
    agent.train(parts[0])
    first = buffer._window.kept.logits
    agent.train(parts[1])
    assert torch.equal(buffer._window.kept.logits[:4], first)
    assert all(bool((buffer._window.kept.logits == row).all(dim=1).any()) for row in logits_in(buffer))
    for part in parts[2:]:
        agent.train(part)
        assert buffer.budget().images == 8


def test_der_fills_a_small_memory_by_repetition() -> None:
    agent = dark(RepeatedMemory(tiny(4), 4))
    stream = benchmark().train_stream
    agent.train(stream[0])
    agent.train(stream[1])
    assert agent.batch_logits.shape == (4, 4)


def test_a_memory_from_which_a_strategy_would_replay_nothing_is_named() -> None:
    plugin = MIRPlugin(batch_size_mem=8, mem_size=8)
    plugin.storage_policy = tiny()
    mir = Naive(plugins=[plugin], criterion=torch.nn.CrossEntropyLoss(), **settings(model()))
    for agent, least in ((dark(tiny(4)), 4), (mir, 9)):
        with pytest.warns(UserWarning, match=rf"fewer than {least} images.*RepeatedMemory\(buffer, {least}\)"):
            agent.train(benchmark().train_stream[0])


def test_der_takes_soft_labels_beside_soft_targets_only() -> None:
    options: dict[str, Any] = {"soft_labels": True, "synthesis": {"name": "pixels", "labels": "soft"}}
    with pytest.raises(ConfigError, match="plugins=\\[SoftTargets"):
        dark(tiny(**options)).train(benchmark().train_stream[0])
    agent = dark(tiny(**options), plugins=[SoftTargets(4)])
    for experience in benchmark().train_stream:
        agent.train(experience)
    assert agent.batch_logits.shape == (4, 4)


def test_der_without_task_labels_or_with_a_growing_head_is_refused() -> None:
    from avalanche.models import IncrementalClassifier

    stream = benchmark(as_classification_dataset(toy_stream())).train_stream
    with pytest.raises(ConfigError, match="DER reads a task label from every item"):
        dark(tiny()).train(stream[0])
    network = torch.nn.Sequential(torch.nn.Flatten(), IncrementalClassifier(16, initial_out_features=2))
    buffer = tiny()
    agent = dark(buffer, network)
    agent.train(benchmark().train_stream[0])
    with pytest.raises(ConfigError, match="went from 2 to 4: give it a model with all outputs"):
        agent.model[1].adaptation(benchmark().train_stream[1])
        buffer.post_adapt(agent, benchmark().train_stream[1])


def test_er_ace_replays_from_it() -> None:
    buffer = tiny()
    agent = ER_ACE(mem_size=8, batch_size_mem=4, criterion=torch.nn.CrossEntropyLoss(), **settings(model()))
    agent.storage_policy = buffer
    for experience in benchmark().train_stream:
        agent.train(experience)
    assert len(buffer.buffer) == 8


def test_er_aml_draws_full_batches_of_repeated_classes() -> None:
    features = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 6))
    network = torch.nn.Sequential(features, torch.nn.Linear(6, 4))
    agent = ER_AML(
        mem_size=8, batch_size_mem=4, criterion=torch.nn.CrossEntropyLoss(), feature_extractor=features,
        **settings(network),
    )  # fmt: skip
    for policy in (tiny(), RepeatedMemory(tiny(), 4)):
        agent.storage_policy = policy
        with pytest.raises(ConfigError, match=r"waits for ever .* storage_policy=RepeatedMemory\(buffer, 8\)"):
            agent.train(benchmark().train_stream[0])
    agent.storage_policy = RepeatedMemory(tiny(), 8)
    for experience in benchmark().train_stream:
        agent.train(experience)
    groups = agent.storage_policy.buffer_groups
    assert sorted(groups) == [0, 1, 2, 3] and all(len(group.buffer) == 8 for group in groups.values())


def test_feature_replay_keeps_vectors() -> None:
    network = torch.nn.Sequential()
    network.add_module("flat", torch.nn.Flatten())
    network.add_module("hidden", torch.nn.Sequential(torch.nn.Linear(16, 6), torch.nn.ReLU()))
    network.add_module("last", torch.nn.Linear(6, 4))
    agent = FeatureReplay(
        last_layer_name="last", mem_size=8, batch_size_mem=4, criterion=torch.nn.CrossEntropyLoss(), **settings(network)
    )
    buffer = tiny(4)
    agent.storage_policy = RepeatedMemory(buffer, 4)  # after one experience it holds two images
    for experience in benchmark().train_stream:
        agent.train(experience)
    assert [tuple(item[0].shape) for item in buffer.buffer] == [(6,)] * 4


@pytest.mark.parametrize("plugin", [ReplayPlugin, lambda **options: RARPlugin(batch_size_mem=4, **options)])
def test_a_forgotten_mem_size_is_named(plugin: Any) -> None:
    buffer = tiny(8)
    for policy in (buffer, RepeatedMemory(buffer, 16)):
        with pytest.raises(ConfigError, match=r"mem_size=200, the memory max_size=8: give it mem_size=buffer.max_size"):
            plugin(storage_policy=policy)
    assert plugin(mem_size=8, storage_policy=buffer).storage_policy is buffer
    assert buffer.max_size != 200 and buffer.max_size == 8  # others may compare


def test_logits_are_let_go_by_other_strategies() -> None:
    buffer = tiny()
    stream = benchmark().train_stream
    dark(buffer).train(stream[0])
    assert len(buffer.buffer[0]) == 4
    images_held(buffer, [stream[1]])
    assert len(buffer.buffer[0]) == 3 and buffer.budget().bytes == 8 * 16
