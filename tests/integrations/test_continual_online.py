"""Does an online stream replay what has come, within the memory's size at any time?"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("avalanche")

from avalanche.benchmarks.scenarios.online import split_online_stream

from ddkit.integrations.continual import ClassMemory, CoresetReplayBuffer, DistilledReplayBuffer, distilled_replay
from tests.integrations.continual_streams import Stream, benchmark, pixels, strategy, tiny, toy_stream
from tests.integrations.test_continual_tasks import Heads, learner, multi_head, shares

CODES: dict[str, Any] = {
    "method": "idc",
    "steps": 1,
    "model": "convnet:width=4,depth=1",
    "objective": {"real_batch": 4},
    "augmentation": "none",
}


def online(stream: Any, size: int = 8, *, access: bool = False) -> Any:
    return split_online_stream(stream, experience_size=size, access_task_boundaries=access, seed=0)


def images_held(buffer: ClassMemory, stream: Any, agent: Any = None) -> list[int]:
    """Return how many images are held after every part of a stream, none of which may be beyond the size."""
    agent, held = strategy([]) if agent is None else agent, []
    for part in stream:
        part.train()
        buffer.post_adapt(agent, part)
        held.append(len(buffer.buffer))
        budget = buffer.budget()
        assert budget.decoded_images >= held[-1]  # each class's share of what waits is shown
        assert buffer._size.images is None or budget.images <= buffer._size.images
        assert buffer._size.bytes is None or budget.bytes <= buffer._size.bytes
    return held


def test_real_images_fill_the_room_until_they_are_distilled() -> None:
    buffer = tiny(8)
    held = images_held(buffer, online(benchmark().train_stream, access=True))
    assert held == [4, 4, 4, 8, 8, 8]
    assert [one.seen for one in buffer.facts().values()] == [12] * 4
    assert [one.how for one in buffer.facts().values()] == ["distilled"] * 2 + ["kept"] * 2  # no room for more of them


def test_where_boundaries_are_hidden_half_of_the_shares_is_distilled() -> None:
    buffer = tiny(8, window=24)  # a full window ends an experience
    held = images_held(buffer, online(benchmark().train_stream))
    assert held == [4, 4, 2, 6, 6, 4]
    assert buffer.facts()[3].seen == 12 and [one.experiences for one in buffer.facts().values()] == [[0], [0], [1], [1]]


def test_the_second_mini_batch_already_replays_the_first() -> None:
    from avalanche.training.plugins import SupervisedPlugin

    sizes: list[int] = []

    class Watch(SupervisedPlugin):
        def before_forward(self, strategy: Any, **_: Any) -> None:
            sizes.append(len(strategy.mb_x))

    agent = strategy([*distilled_replay(tiny(8), 8), Watch()])
    for part in online(benchmark().train_stream):
        agent.train(part)
    assert sizes == [8] + [16] * 5


def test_a_stream_shorter_than_the_window_leaves_a_balanced_sample_of_its_images() -> None:
    images, _ = pixels()
    numbers = {bytes(image.numpy()): number for number, image in enumerate(images)}
    drawn: Counter[int] = Counter()
    for seed in range(30):
        buffer = tiny(8, seed=seed)
        images_held(buffer, online(benchmark().train_stream))
        content = buffer.distilled()
        assert content.hard_labels().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        drawn.update(numbers[bytes(image.numpy())] for image in content.images)
    first = sum(drawn[number] for number in range(48) if number % 12 < 6)
    assert len(drawn) > 40 and 90 < first < 150  # of 240 half are expected to be of the first half of their class


@pytest.mark.parametrize("access", [True, False])
@pytest.mark.parametrize("kind", ["distilled", "random"])
@pytest.mark.parametrize("classes", [4, None])
def test_classes_that_come_again_give_half_of_their_share_to_new_images(kind: str, access: bool, classes: Any) -> None:
    options: dict[str, Any] = {"num_classes": classes, "window": 24}
    buffer = tiny(16, **options) if kind == "distilled" else CoresetReplayBuffer(16, **options)
    for _ in range(2):
        held = images_held(buffer, online(benchmark().train_stream, access=access))
    assert min(held) >= 8
    assert max(shares(buffer).values()) <= 6  # half of a share, and a share of what waits
    assert {label: one.seen for label, one in buffer.facts().items()} == dict.fromkeys(range(4), 24)


def test_bytes_hold_at_any_time_with_codes_beside_real_images() -> None:
    buffer = DistilledReplayBuffer(max_bytes=4096, window=30, **CODES)
    stream = benchmark(toy_stream(per_class=30, side=8), (2, 2)).train_stream
    for access in (True, False):
        assert min(images_held(buffer, online(stream, 10, access=access))) > 0


def test_a_memory_without_room_for_new_images_says_so_and_stays() -> None:
    buffer = CoresetReplayBuffer(4, num_classes=4)
    images_held(buffer, benchmark().train_stream)
    before = buffer.distilled().images
    with pytest.warns(UserWarning, match="has no room for new images of them: give it twice the size"):
        images_held(buffer, online(benchmark().train_stream, access=True))
    assert torch.equal(before, buffer.distilled().images)


def test_tasks_stay_apart_in_online_streams() -> None:
    buffer = tiny(8)
    images_held(buffer, online(multi_head(), access=True), learner(Heads(), []))
    assert shares(buffer) == {(task, label): 2 for task in range(2) for label in range(2)}


def test_a_waiting_window_survives_the_disk_with_its_tasks(tmp_path: Path) -> None:
    stream, agent = list(online(multi_head(), access=True)), learner(Heads(), [])
    whole, halved = tiny(8), tiny(8)
    images_held(whole, stream[:5], agent)
    halved.load(whole.save(tmp_path / "memory"))
    assert shares(halved) == shares(whole) and halved._window.seen == whole._window.seen
    assert halved.budget() == whole.budget()
    images_held(halved, stream[5:], agent)
    assert shares(halved) == {(task, label): 2 for task in range(2) for label in range(2)}


def test_an_experience_in_one_piece_takes_back_the_room_of_a_window() -> None:
    buffer = CoresetReplayBuffer(8, num_classes=4)
    stream = benchmark().train_stream
    images_held(buffer, list(online(stream, access=True))[:1])
    assert images_held(buffer, stream) == [8, 8]


def test_more_classes_than_places_go_on_with_some_of_them() -> None:
    images, labels = pixels(6, 4)
    for access in (True, False):
        buffer = CoresetReplayBuffer(3, window=8)
        stream = benchmark(Stream(images / 255, labels), (2, 2, 2)).train_stream
        with pytest.warns(UserWarning, match="has places for 3 of"):
            images_held(buffer, online(stream, 4, access=access))
        assert len(buffer.facts()) <= 3


def test_the_same_seed_gives_the_same_online_memory() -> None:
    contents = []
    for seed in (0, 0, 1):
        buffer = tiny(8, seed=seed, window=16)
        images_held(buffer, online(benchmark().train_stream))
        contents.append(buffer.distilled().images)
    assert torch.equal(contents[0], contents[1]) and not torch.equal(contents[0], contents[2])
