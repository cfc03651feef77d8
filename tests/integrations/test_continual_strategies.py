"""Does the memory work inside Avalanche's strategies, in every kind of stream?"""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch

pytest.importorskip("avalanche")

from avalanche.benchmarks import task_incremental_benchmark
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin, EWCPlugin
from avalanche.training.supervised import LwF

from ddkit.errors import ConfigError
from ddkit.integrations.continual import CoresetReplayBuffer, RepeatedMemory, SoftTargets, distilled_replay, replay
from ddkit.integrations.continual.host import ClassBalancedBuffer, ReplayPlugin, ReservoirSamplingBuffer
from tests.integrations.continual_streams import Stream, benchmark, fed, model, pixels, strategy, tiny, toy_stream


def batches(plugins: Any, stream: Any, **options: Any) -> list[list[tuple[int, ...]]]:
    """Return the shapes of the images of every mini-batch, by experience."""
    seen: list[list[tuple[int, ...]]] = []

    from avalanche.training.plugins import SupervisedPlugin

    class Watch(SupervisedPlugin):
        def before_training_exp(self, *_: Any, **__: Any) -> None:
            seen.append([])

        def before_forward(self, strategy: Any, **_: Any) -> None:
            assert strategy.mb_x.dtype == torch.float32
            seen[-1].append(tuple(strategy.mb_x.shape))

    trained = strategy([*plugins, Watch()], **options)
    for experience in stream:
        trained.train(experience)
    return seen


@pytest.mark.parametrize("as_tensors", [False, True])
def test_replay_joins_stream_and_memory_in_task_aware_streams(as_tensors: bool) -> None:
    buffer = tiny()
    seen = batches(distilled_replay(buffer, 8), benchmark(toy_stream(as_tensors=as_tensors)).train_stream)
    assert seen[0] == [(8, 1, 4, 4)] * 3
    assert seen[1] == [(16, 1, 4, 4)] * 3
    assert len(buffer.buffer) == 8 and buffer.buffer.targets.count == {0: 2, 1: 2, 2: 2, 3: 2}


def test_streams_without_task_labels_get_none() -> None:
    buffer = tiny()
    stream = benchmark(as_classification_dataset(toy_stream())).train_stream
    assert len(stream[0].dataset[0]) == 2
    assert batches(distilled_replay(buffer, 8), stream)[1] == [(16, 1, 4, 4)] * 3
    assert len(buffer.buffer[0]) == 2


def test_memory_keeps_the_task_label_of_each_class() -> None:
    buffer = tiny()
    stream = task_incremental_benchmark(benchmark(as_classification_dataset(toy_stream()))).train_stream
    assert batches(distilled_replay(buffer, 8), stream)[1][0][0] == 16
    assert [task for *_, task in buffer.buffer] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert sorted(buffer.buffer.task_set) == [0, 1]


def test_a_task_balanced_loader_takes_the_memory() -> None:
    buffer = tiny()
    plugin = ReplayPlugin(8, batch_size_mem=8, task_balanced_dataloader=True, storage_policy=buffer)
    stream = task_incremental_benchmark(benchmark(as_classification_dataset(toy_stream()))).train_stream
    assert len(batches([plugin], stream)[1]) == 3


def test_soft_labels_train_and_evaluate() -> None:
    buffer = tiny(soft_labels=True, synthesis={"name": "pixels", "labels": "soft", "label_confidence": 0.7})
    plugins = distilled_replay(buffer, 8)
    assert [type(plugin) for plugin in plugins] == [SoftTargets, ReplayPlugin]
    stream = benchmark().train_stream
    evaluator = EvaluationPlugin(accuracy_metrics(epoch=True, stream=True), loggers=[])
    trained = strategy(plugins, evaluator=evaluator)
    for experience in stream:
        trained.train(experience)
    row = buffer.buffer[-1][1]
    assert torch.allclose(row, torch.tensor([0, 0, 0.3, 0.7]), atol=1e-3)
    assert buffer.buffer.targets[-1] == 3
    trained.eval(stream)
    for name, (_, values) in evaluator.get_all_metrics().items():
        assert all(0 <= value <= 1 for value in values), name
    assert len(evaluator.get_all_metrics()) >= 2


def test_other_strategies_and_plugins_stay_untouched() -> None:
    buffer = tiny()
    network = model()
    lwf = LwF(
        model=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.05),
        alpha=1.0,
        temperature=2.0,
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=8,
        plugins=[*distilled_replay(buffer, 8), EWCPlugin(0.1)],
        evaluator=EvaluationPlugin(loggers=[]),
    )
    for experience in benchmark().train_stream:
        lwf.train(experience)
    assert len(buffer.buffer) == 8


def test_a_small_memory_fills_its_batch_by_default() -> None:
    plain = batches(distilled_replay(tiny(4), 8, repeat_to_batch=False), benchmark().train_stream)
    full = batches(distilled_replay(tiny(4), 8), benchmark().train_stream)
    assert plain[1] == [(10, 1, 4, 4)] * 3  # the two images of the memory once each, as Avalanche does it
    assert full[1] == [(16, 1, 4, 4)] * 3


@pytest.mark.parametrize("policy", [ReservoirSamplingBuffer(3), ClassBalancedBuffer(3), CoresetReplayBuffer(4)])
def test_baselines_get_the_same_weight(policy: Any) -> None:
    seen = batches(replay(policy, 8), benchmark().train_stream)
    assert seen[1] == [(16, 1, 4, 4)] * 3
    assert len(policy.buffer) <= 4


def test_repetition_is_even_and_divides_into_batches() -> None:
    buffer = fed(tiny(12))
    repeated = RepeatedMemory(buffer, 8)
    assert len(repeated.buffer) == 24
    assert set(repeated.buffer.targets.count.values()) == {6}
    assert len(RepeatedMemory(buffer, 4).buffer) == 12
    repeated.resize(None, 8)
    assert repeated.max_size == buffer.max_size == len(buffer.buffer) == 8


def test_a_large_memory_is_not_repeated() -> None:
    policy = fed(CoresetReplayBuffer(100), toy_stream(per_class=30))
    assert len(policy.buffer) == 100 and len(RepeatedMemory(policy, 3).buffer) == 100


def test_updates_do_not_warn_of_deprecation() -> None:
    agent, buffer = strategy([]), tiny()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.experience = benchmark().train_stream[0]
        buffer.update(agent)
        RepeatedMemory(buffer, 8).update(agent)
    assert len(buffer.buffer) == 4


def test_replay_refuses_what_is_no_memory() -> None:
    with pytest.raises(ConfigError, match="got a ReservoirSamplingBuffer: give a DistilledReplayBuffer"):
        distilled_replay(ReservoirSamplingBuffer(8))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 1"):
        distilled_replay(tiny(), 0)


def test_the_transform_of_replayed_images_is_for_training_only() -> None:
    buffer = fed(tiny(train_transform=lambda image: image + 100))
    assert buffer.buffer.train()[0][0].min() > 90
    assert buffer.buffer.eval()[0][0].max() < 90
    assert RepeatedMemory(buffer, 32).buffer[31][0].min() > 90


def test_augmentation_of_the_stream_is_not_baked_in() -> None:
    from avalanche.benchmarks.utils.transform_groups import TransformGroups

    groups = TransformGroups({"train": (lambda image: image * 0 + 50, None), "eval": None})
    images, labels = pixels()
    stream = as_classification_dataset(Stream(images / 255, labels), transform_groups=groups)
    buffer = fed(CoresetReplayBuffer(8), stream)
    assert float(buffer.buffer[0][0].max()) <= 1


def test_a_strategy_with_the_memory_can_be_pickled_without_the_stream() -> None:
    buffer = tiny()
    plugins = distilled_replay(buffer, 8)
    trained = strategy(plugins)
    for experience in benchmark(toy_stream(per_class=400)).train_stream:
        trained.train(experience)
    content = pickle.dumps(plugins)
    assert len(content) < 60_000  # 1600 images of the stream alone are 102 kB
    again = pickle.loads(content)[0].storage_policy
    assert len(again.buffer) == len(plugins[0].storage_policy.buffer)
    assert torch.equal(copy.deepcopy(buffer).buffer[0][0], buffer.buffer[0][0])
