"""Does every class of every task keep its own share, and do multi-task models serve?"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("avalanche")

from avalanche.benchmarks import nc_benchmark
from avalanche.models import IncrementalClassifier, MTSimpleMLP, MultiHeadClassifier, MultiTaskModule
from avalanche.training.plugins import SupervisedPlugin
from avalanche.training.supervised import Naive

from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import ConfigError
from ddkit.integrations.continual import ClassMemory, CoresetReplayBuffer, DistilledReplayBuffer, distilled_replay
from ddkit.integrations.continual.host import EvaluationPlugin
from ddkit.integrations.continual.model import CurrentModel
from ddkit.integrations.continual.replay import rows_of_length
from tests.integrations.continual_streams import NORMALISED, Stream, benchmark, pixels, tiny, toy_stream

KINDS: dict[str, Any] = {
    "distilled": tiny,
    "coreset method": lambda **options: tiny(method="random", steps=0, objective=None, **options),
    "random": lambda **options: CoresetReplayBuffer(8, **{"num_classes": 4, **options}),
    "herding": lambda **options: CoresetReplayBuffer(8, **{"num_classes": 4, "selection": "herding", **options}),
}


def multi_head(stream: Stream | None = None, tasks: int = 2) -> Any:
    """Return a stream whose tasks number their classes from 0."""
    stream = toy_stream() if stream is None else stream
    order = list(range(len(set(stream.targets))))
    return nc_benchmark(
        stream, stream, tasks, task_labels=True, class_ids_from_zero_in_each_exp=True, fixed_class_order=order
    ).train_stream


def permuted(tasks: int = 3) -> Any:
    """Return a stream of the same classes, whose pixels are permuted in each task."""
    images, labels = pixels(2, 6)
    flat = NORMALISED.apply(images)
    streams = []
    for task in range(tasks):
        order = torch.randperm(16, generator=torch.Generator().manual_seed(task))
        streams.append(Stream(flat.flatten(1)[:, order].view(-1, 1, 4, 4), labels))
    return nc_benchmark(
        streams, streams, tasks, task_labels=True, one_dataset_per_exp=True, class_ids_from_zero_in_each_exp=True
    ).train_stream


class Widths(SupervisedPlugin):
    """Looks at what the criterion compares."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.Size, torch.Size]] = []

    def before_backward(self, strategy: Any, **_: Any) -> None:
        self.seen.append((strategy.mb_output.shape, strategy.mb_y.shape))


class Heads(MultiTaskModule):
    """A convolution and a head for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.Flatten())
        self.head = MultiHeadClassifier(12)

    def forward(self, images: torch.Tensor, task_labels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(images), task_labels)
        return logits


def learner(network: torch.nn.Module, plugins: list[Any], **options: Any) -> Any:
    common = {"train_mb_size": 8, "train_epochs": 1, "eval_mb_size": 32, "evaluator": EvaluationPlugin(loggers=[])}
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    return Naive(model=network, optimizer=optimiser, plugins=plugins, **{**common, **options})


def trained(buffer: ClassMemory, stream: Any, network: torch.nn.Module | None = None, *plugins: Any) -> Any:
    agent = learner(Heads() if network is None else network, [*distilled_replay(buffer, 8), *plugins])
    for experience in stream:
        agent.train(experience)
    return agent


def shares(buffer: ClassMemory) -> Counter[tuple[int, int]]:
    """Return how many images of each task and class the memory shows."""
    content = buffer.buffer
    return Counter((int(content[index][2]), int(content[index][1])) for index in range(len(content)))


@pytest.mark.parametrize("kind", KINDS)
def test_class_numbers_that_restart_are_classes_of_their_tasks(kind: str) -> None:
    buffer = KINDS[kind]()
    trained(buffer, multi_head())
    assert shares(buffer) == {(0, 0): 2, (0, 1): 2, (1, 0): 2, (1, 1): 2}
    images, labels = pixels()
    real = [NORMALISED.apply(images[torch.tensor(labels) == label]).mean(0) for label in range(4)]
    for image, label, task in buffer.buffer:  # the nearest class mean of its task is its own: nothing was merged
        distances = [float((image - mean).square().sum()) for mean in real]
        assert min(range(4), key=distances.__getitem__) == 2 * task + label
    assert buffer.facts()[1, 0].seen == 12 and buffer.facts()[1, 0].experiences == [1]
    assert buffer.budget().images == 8


def test_tasks_with_the_same_classes_share_the_memory_adaptively() -> None:
    buffer, sizes = CoresetReplayBuffer(12, num_classes=2), []
    agent = learner(Heads(), distilled_replay(buffer, 8))
    for experience in permuted():
        agent.train(experience)
        sizes.append(shares(buffer))
    assert sizes[0] == {(0, 0): 6, (0, 1): 6}
    assert sizes[2] == {(task, label): 2 for task in range(3) for label in range(2)}


def test_a_class_of_a_task_that_comes_again_stays_with_it() -> None:
    buffer = CoresetReplayBuffer(8, num_classes=4)
    stream = multi_head()
    trained(buffer, [*stream, stream[0]])
    assert shares(buffer) == {(0, 0): 2, (0, 1): 2, (1, 0): 2, (1, 1): 2}
    assert buffer.facts()[0, 1].seen == 24 and buffer.facts()[1, 1].seen == 12


@pytest.mark.parametrize("kind", ["distilled", "random"])
@pytest.mark.parametrize("shrink", ["redistil", "herding"])
def test_shares_of_tasks_shrink_and_keep_their_tasks(kind: str, shrink: str) -> None:
    options = {"shrink": shrink} if kind == "distilled" else {}
    buffer = KINDS[kind](num_classes=None, **options)
    trained(buffer, multi_head())
    buffer.resize(None, 4)
    assert shares(buffer) == {(task, label): 1 for task in range(2) for label in range(2)}


def test_codes_with_decoders_stay_apart_by_task() -> None:
    codes: dict[str, Any] = {"method": "idc", "steps": 1, "model": "convnet:width=4,depth=1", "augmentation": "none",
                             "objective": {"real_batch": 4}}  # fmt: skip
    buffer = DistilledReplayBuffer(max_bytes=4 * 2 * 256, num_classes=4, **codes)
    agent = learner(MTSimpleMLP(64, 8), [])
    for experience in multi_head(toy_stream(per_class=20, side=8)):
        buffer.post_adapt(agent, experience)
    assert [(part.task, part.holds) for part in buffer._parts] == [(0, (0, 1)), (1, (0, 1))]
    assert set(shares(buffer).values()) == {8} and buffer.budget().bytes <= 4 * 2 * 256


def test_memories_of_tasks_survive_the_disk_and_go_on(tmp_path: Path) -> None:
    stream = multi_head(toy_stream(6), 3)
    whole, halved = (tiny(12, num_classes=6) for _ in range(2))
    agent = learner(Heads(), [])
    for experience in stream[:2]:
        whole.post_adapt(agent, experience)
    halved.load(whole.save(tmp_path / "memory"))
    for buffer in (whole, halved):
        buffer.post_adapt(agent, stream[2])
    assert shares(whole) == shares(halved) == {(task, label): 2 for task in range(3) for label in range(2)}
    assert all(torch.equal(mine[0], other[0]) for mine, other in zip(whole.buffer, halved.buffer, strict=True))
    assert list(halved.facts()) == [(task, label) for task in range(3) for label in range(2)]


def test_a_memory_saved_when_classes_were_kept_by_number_alone_has_its_tasks(tmp_path: Path) -> None:
    from ddkit.integrations.continual import state
    from ddkit.integrations.continual.parts import Facts, Part

    buffer = CoresetReplayBuffer(8, num_classes=4)
    trained(buffer, benchmark().train_stream, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4)))
    old = [Part(part.holds, part.classes, part.distilled) for part in buffer._parts]
    facts = {(0, label): Facts(seen=12, experiences=[0], how="selected", task=label // 2) for label in range(4)}
    raw = state.dump(old, facts, settings=buffer.settings(), updates=2, max_size=8, form=buffer._form)
    path = state.write_file(tmp_path / "memory", raw)
    again = CoresetReplayBuffer(8, num_classes=4)
    again.load(path)
    assert shares(again) == {(0, 0): 2, (0, 1): 2, (1, 2): 2, (1, 3): 2}
    assert list(again.facts()) == [0, 1, 2, 3]  # no number comes twice


def test_the_distilled_dataset_names_classes_by_task_where_numbers_restart(tmp_path: Path) -> None:
    buffer = tiny(soft_labels=True, synthesis={"name": "pixels", "labels": "soft", "label_confidence": 0.7})
    trained(buffer, multi_head())
    content = DistilledDataset.load(buffer.distilled().save(tmp_path / "set"))
    assert list(content.class_names) == ["class 0", "class 1", "class 0 of task 1", "class 1 of task 1"]
    assert content.hard_labels().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert torch.allclose(content.labels[-1], torch.tensor([0, 0, 0.3, 0.7]), atol=1e-3)
    assert content.metadata["classes"]["class 1 of task 1"]["seen"] == 12


@pytest.mark.parametrize("method", ["dm", "dc"])
@pytest.mark.parametrize("network", [Heads, lambda: MTSimpleMLP(16, 8)])
def test_a_multi_task_model_can_be_the_matching_network(method: str, network: Any) -> None:
    buffer = tiny(method=method, networks="model", steps=3)
    agent = trained(buffer, multi_head(), network())
    assert {one.how for one in buffer.facts().values()} == {"distilled"}
    assert shares(buffer) == {(task, label): 2 for task in range(2) for label in range(2)}
    assert all(value.grad is None or bool(value.grad.isfinite().all()) for value in agent.model.parameters())


def test_a_multi_task_model_answers_with_the_head_of_the_task() -> None:
    stream = multi_head()
    agent = trained(CoresetReplayBuffer(8, num_classes=4), stream)
    images = torch.stack([stream[1].dataset[index][0] for index in range(5)])
    for task in range(2):
        current = CurrentModel(agent.model, task=task)
        head = agent.model.head.classifiers[str(task)].classifier
        assert torch.allclose(head(current.features(images)), current(images), atol=1e-6)
        expected = agent.model.eval()(images, torch.full((5,), task))
        assert torch.allclose(current(images), expected)
    with pytest.raises(ConfigError, match="gives 2 logits, class 2 has none"):
        CurrentModel(agent.model, [2], task=1)(images)


def test_soft_labels_train_a_head_that_grows() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), IncrementalClassifier(16, initial_out_features=2))
    buffer = tiny(soft_labels=True, synthesis={"name": "pixels", "labels": "soft", "label_confidence": 0.7})
    widths = Widths()
    trained(buffer, benchmark().train_stream, network, widths)
    assert widths.seen == [((8, 2), (8, 2))] * 3 + [((16, 4), (16, 4))] * 3 and len(buffer.buffer) == 8


def test_soft_labels_train_heads_of_tasks() -> None:
    buffer = tiny(soft_labels=True, synthesis={"name": "pixels", "labels": "soft"})
    widths = Widths()
    trained(buffer, multi_head(), None, widths)
    assert widths.seen[-1] == ((16, 2), (16, 2))


def test_rows_follow_the_output_and_lose_nothing() -> None:
    rows = torch.tensor([[0.3, 0.7, 0.0], [1.0, 0.0, 0.0]])
    assert torch.equal(rows_of_length(rows, 2), rows[:, :2])
    assert torch.equal(rows_of_length(rows, 5), torch.cat([rows, torch.zeros(2, 2)], dim=1))
    with pytest.raises(ConfigError, match="names class 1, the model gives 1 outputs"):
        rows_of_length(rows, 1)


def vectors(classes: int = 4, per_class: int = 12) -> Stream:
    """Return features whose dimensions have ranges of their own, below and above 0."""
    images, labels = pixels(classes, per_class)
    return Stream((images.flatten(1).float() / 60 - 1) * torch.linspace(0.5, 2, 16), labels)


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_kept_as_bytes_and_replayed_as_vectors(kind: str, tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    buffer = KINDS[kind]()
    trained(buffer, benchmark(vectors()).train_stream, network)
    assert [tuple(image.shape) for image, *_ in buffer.buffer] == [(16,)] * 8
    assert buffer.budget().bytes == 8 * 16
    content, labels = vectors().images, torch.tensor(vectors().targets)
    means = torch.stack([content[labels == label].mean(0) for label in range(4)])
    for vector, label, _ in buffer.buffer:
        assert int((means - vector).square().sum(1).argmin()) == label
    again = KINDS[kind]()
    again.load(buffer.save(tmp_path / "memory"))
    assert torch.equal(again.buffer[5][0], buffer.buffer[5][0])


@pytest.mark.parametrize("networks", [None, "model"])
def test_vectors_are_distilled_by_networks_that_take_them_without_augmentation(networks: str | None) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    buffer = DistilledReplayBuffer(8, num_classes=4, method="dm", steps=2, networks=networks)
    trained(buffer, benchmark(vectors()).train_stream, network)
    assert {one.how for one in buffer.facts().values()} == {"distilled"}
    with pytest.raises(ConfigError):
        trained(tiny(model="convnet"), benchmark(vectors()).train_stream, network)


def test_vectors_of_tasks_train_their_heads() -> None:
    buffer = tiny(networks="model")
    trained(buffer, multi_head(vectors()), MTSimpleMLP(16, 8))
    assert shares(buffer) == {(task, label): 2 for task in range(2) for label in range(2)}
