"""What does the memory hold after a stream, at what size, and does it survive the disk?"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("avalanche")

from ddkit.data import Preprocessing
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import ArtifactError, ConfigError, DivergedError
from ddkit.integrations.continual import ClassMemory, CoresetReplayBuffer
from ddkit.integrations.continual.distilled import DistilledReplayBuffer
from ddkit.integrations.continual.model import CurrentModel
from tests.integrations.continual_streams import (
    NORMALISED,
    Stream,
    benchmark,
    fed,
    model,
    pixels,
    strategy,
    tiny,
    toy_stream,
)

KINDS = {
    "distilled": tiny,
    "random": lambda **options: CoresetReplayBuffer(8, **{"num_classes": 4, **options}),
    "herding": lambda **options: CoresetReplayBuffer(8, **{"num_classes": 4, "selection": "herding", **options}),
}


CODES: dict[str, Any] = {
    "method": "idc",
    "steps": 1,
    "model": "convnet:width=4,depth=1",
    "objective": {"real_batch": 4},
    "augmentation": "none",
}


def shown(buffer: ClassMemory) -> torch.Tensor:
    """Return the images that a strategy sees."""
    return torch.stack([buffer.buffer[index][0] for index in range(len(buffer.buffer))])


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_has_its_share_as_bytes_on_the_scale_of_the_stream(kind: str) -> None:
    buffer = fed(KINDS[kind]())
    content = buffer.distilled()
    assert content.hard_labels().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert content.images.dtype == torch.uint8
    assert torch.allclose(shown(buffer), NORMALISED.apply(content.images), atol=1e-5)
    assert shown(buffer).dtype == torch.float32
    assert buffer.budget().bytes == 8 * 16 and buffer.budget().images == 8


@pytest.mark.parametrize("kind", ["random", "herding"])
def test_real_memories_hold_images_of_their_classes_bit_by_bit(kind: str) -> None:
    images, labels = pixels()
    real = {label: {bytes(image.numpy()) for image, mine in zip(images, labels, strict=True) if mine == label}
            for label in range(4)}  # fmt: skip
    content = fed(KINDS[kind]()).distilled()
    for image, label in zip(content.images, content.labels.tolist(), strict=True):
        assert bytes(image.numpy()) in real[label]


def test_images_in_the_unit_range_keep_it_and_known_preprocessing_is_used() -> None:
    images, labels = pixels()
    plain = fed(CoresetReplayBuffer(8, num_classes=4), Stream(images / 255, labels))
    given = fed(CoresetReplayBuffer(8, num_classes=4, pixels=NORMALISED))
    assert plain.distilled().preprocessing == Preprocessing.identity(1)
    assert given.distilled().preprocessing == NORMALISED
    assert torch.equal(plain.distilled().images, given.distilled().images)


def test_values_beyond_the_range_are_clipped_and_reported() -> None:
    with pytest.warns(UserWarning, match="% of the values are beyond the range"):
        buffer = fed(CoresetReplayBuffer(8, num_classes=4, pixels=Preprocessing.identity(1)))
    assert 0.2 < buffer.facts()[0].clipped < 1
    assert float(shown(buffer).min()) >= 0 and float(shown(buffer).max()) <= 1


def test_constant_channels_do_not_divide_by_zero() -> None:
    stream = Stream(torch.full((8, 1, 4, 4), 3.0), [0, 0, 1, 1, 2, 2, 3, 3])
    buffer = fed(CoresetReplayBuffer(4, num_classes=4), stream)
    assert torch.allclose(shown(buffer), torch.tensor(3.0))


def test_the_same_seed_gives_the_same_memory_and_leaves_global_randomness_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    first = fed(tiny(seed=3))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002
    assert before[2] == random.getstate()
    torch.rand(3)
    assert torch.equal(shown(first), shown(fed(tiny(seed=3))))
    assert not torch.equal(shown(first), shown(fed(tiny(seed=4))))


def test_images_are_learned_and_not_only_chosen() -> None:
    buffer = fed(tiny(steps=20))
    real = {bytes(image.numpy()) for image in pixels()[0]}
    learned = [bytes(image.numpy()) not in real for image in buffer.distilled().images]
    assert all(learned)
    assert {one.how for one in buffer.facts().values()} == {"distilled"}
    assert [one.steps for one in buffer.facts().values()] == [20] * 4


def test_facts_say_where_each_class_comes_from() -> None:
    facts = fed(tiny(), order=[2, 0, 3, 1]).facts()
    assert [facts[label].experiences for label in range(4)] == [[0], [1], [0], [1]]
    assert [facts[label].seen for label in range(4)] == [12] * 4
    assert all(one.seconds > 0 for one in facts.values())


def test_the_distilled_dataset_carries_facts_and_survives_the_disk(tmp_path: Path) -> None:
    content = fed(tiny()).distilled()
    again = DistilledDataset.load(content.save(tmp_path / "memory.safetensors"))
    assert torch.equal(again.images, content.images)
    assert again.metadata["classes"]["2"]["seen"] == 12 and again.metadata["method"] == "dm"


def test_shares_shrink_as_classes_arrive_without_a_number_of_classes() -> None:
    sizes, buffer, agent = [], tiny(9, num_classes=None), strategy([])
    for experience in benchmark().train_stream:
        buffer.post_adapt(agent, experience)
        sizes.append(buffer.buffer.targets.count)
    assert sizes == [{0: 4, 1: 4}, {0: 2, 1: 2, 2: 2, 3: 2}]
    assert buffer.facts()[0].how == "distilled" and buffer.facts()[0].experiences == [0]


def test_old_classes_are_distilled_anew_or_selected_when_their_share_shrinks() -> None:
    class Watched(DistilledReplayBuffer):
        def shrink_parts(self, parts: Any, quota: int, agent: Any) -> Any:
            stored.update({part.holds[0]: part.images() for part in parts})
            return super().shrink_parts(parts, quota, agent)

    options = {"method": "dm", "steps": 8, "model": "mlp:width=8", "augmentation": "none"}
    for shrink, how in (("herding", "herded"), ("redistil", "distilled")):
        stored: dict[int, torch.Tensor] = {}
        buffer = fed(Watched(8, shrink=shrink, **options))  # type: ignore[arg-type]
        part = buffer.distilled()
        kept = {bytes(image.numpy()) for image in part.images[part.labels == 0]}
        old = {bytes(image.numpy()) for image in stored[0]}
        assert len(stored[0]) == 4 and len(kept) == 2
        assert (kept <= old) == (shrink == "herding")
        assert buffer.facts()[0].how == how and buffer.facts()[3].how == "distilled"


def test_a_real_memory_keeps_its_first_choices_when_it_shrinks() -> None:
    large, small = (fed(CoresetReplayBuffer(size, num_classes=4)) for size in (16, 8))
    large.resize(None, 8)
    assert torch.equal(large.distilled().images, small.distilled().images)
    assert large.max_size == 8


def test_resizing_to_less_than_the_classes_is_refused_and_changes_nothing() -> None:
    buffer = fed(tiny())
    with pytest.raises(ConfigError, match="at least max_size=4"):
        buffer.resize(None, 3)
    assert buffer.max_size == 8 and len(buffer.buffer) == 8


def test_a_class_seen_again_is_made_from_both_sides_by_weight() -> None:
    seen: list[Any] = []

    class Watched(DistilledReplayBuffer):
        def condense(self, material: Any, quota: int, agent: Any) -> Any:
            seen.append(material)
            return super().condense(material, quota, agent)

    buffer = Watched(8, num_classes=4, method="dm", steps=2, model="mlp:width=8", augmentation="none")
    fed(buffer)
    images, labels = pixels(2, 6, seed=4)
    fed(buffer, Stream(NORMALISED.apply(images), labels), per_experience=(2,))
    again = seen[-1]
    assert again.classes == (0, 1) and again.counts.tolist() == [8, 8]
    assert sorted(again.copies[again.labels == 0].tolist()) == [1] * 6 + [6] * 2  # 12 real images behind two stored
    assert len(again.real()) == 2 * (6 + 12)
    assert buffer.facts()[0].seen == 18 and buffer.facts()[0].experiences == [0, 2]
    assert buffer.buffer.targets.count == {0: 2, 1: 2, 2: 2, 3: 2}


@pytest.mark.parametrize("selection", ["random", "herding"])
def test_a_class_seen_again_keeps_its_share_of_real_images(selection: str) -> None:
    buffer = CoresetReplayBuffer(8, num_classes=4, selection=selection)  # type: ignore[arg-type]
    fed(fed(buffer))
    assert buffer.buffer.targets.count == {0: 2, 1: 2, 2: 2, 3: 2}
    assert len({bytes(image.numpy()) for image in buffer.distilled().images}) == 8


def test_small_classes_are_kept_whole_with_a_warning() -> None:
    images, labels = pixels(2, 6)
    stream = Stream(NORMALISED.apply(images)[:9], labels[:9])
    with pytest.warns(UserWarning, match="class 1 has fewer images than its share of 4"):
        buffer = fed(tiny(8, num_classes=2), stream, per_experience=(2,))
    assert buffer.buffer.targets.count == {0: 4, 1: 3}
    assert [buffer.facts()[label].how for label in (0, 1)] == ["distilled", "kept"]
    assert torch.equal(buffer.distilled().images[4:], images[6:9])


@pytest.mark.parametrize("kind", KINDS)
def test_one_class_per_experience_works(kind: str) -> None:
    buffer = fed(KINDS[kind](), per_experience=(1, 1, 1, 1))
    assert {one.how for one in buffer.facts().values()} == {"distilled" if kind == "distilled" else "selected"}
    assert buffer.buffer.targets.count == {0: 2, 1: 2, 2: 2, 3: 2}


def test_an_empty_experience_changes_nothing() -> None:
    buffer = fed(tiny())
    before = shown(buffer)

    class Empty:
        dataset = toy_stream()
        dataset.eval = list  # type: ignore[attr-defined]

    buffer.post_adapt(strategy([]), Empty())
    assert torch.equal(before, shown(buffer)) and buffer.facts()[0].experiences == [0]


def test_divergence_is_survived_by_real_images(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: Any, **__: Any) -> None:
        raise DivergedError("step 1 diverged")

    monkeypatch.setattr("ddkit.engine.distiller.Session.step", diverge)
    with pytest.warns(UserWarning, match=r"classes \[0, 1\] were not distilled, random real images stand in"):
        buffer = fed(tiny())
    real = {bytes(image.numpy()) for image in pixels()[0]}
    assert {one.how for one in buffer.facts().values()} == {"fallback"}
    assert all(bytes(image.numpy()) in real for image in buffer.distilled().images)
    assert buffer.buffer.targets.count == {0: 2, 1: 2, 2: 2, 3: 2}


def test_too_few_images_for_a_method_s_codes_are_survived_by_real_images() -> None:
    with pytest.warns(UserWarning, match=r"classes \[0, 1\] were not distilled.* starts from 16 real images"):
        buffer = fed(DistilledReplayBuffer(16, num_classes=4, **CODES), toy_stream(side=8))
    assert {one.how for one in buffer.facts().values()} == {"fallback"}
    assert buffer.buffer.targets.count == {0: 4, 1: 4, 2: 4, 3: 4}


def test_a_resize_has_a_time_limit_of_its_own() -> None:
    buffer = fed(tiny(16, steps=3, time_limit=1000))
    buffer._deadline = 0.0  # that of the last experience has long passed
    buffer.resize(strategy([]), 8)
    assert [(one.steps, one.how) for one in buffer.facts().values()] == [(3, "distilled")] * 4


def test_a_time_limit_ends_distilling_where_it_is() -> None:
    buffer = fed(tiny(steps=100_000, time_limit=1e-6))
    assert [one.steps for one in buffer.facts().values()] == [1] * 4
    assert len(buffer.buffer) == 8


@pytest.mark.parametrize("method", ["dc", "idc", "random", "herding"])
def test_any_method_fills_the_memory(method: str) -> None:
    options: dict[str, Any] = {"model": "convnet:width=4,depth=1"}
    if method in ("dc", "idc"):
        options |= {"steps": 2, "objective": {"real_batch": 4}, "augmentation": "none"}
    else:
        options |= {"selection": {"epochs": 1}} if method == "herding" else {}
    buffer = fed(DistilledReplayBuffer(8, num_classes=4, method=method, name="digits", **options), toy_stream(side=8))
    assert buffer.budget().images == 8
    assert len(buffer.buffer) == buffer.budget().decoded_images == (32 if method == "idc" else 8)
    assert set(buffer.buffer.targets.count) == {0, 1, 2, 3}


def test_codes_keep_their_compact_form_and_their_true_bytes(tmp_path: Path) -> None:
    size = 4 * 3 * 64 * 4  # three codes of 8x8 float32 numbers for each of four classes
    buffer = DistilledReplayBuffer(max_bytes=size + 255, num_classes=4, **CODES)
    fed(buffer, toy_stream(side=8))
    assert buffer.budget().images == 12 and buffer.budget().bytes == size
    fed(buffer, toy_stream(2, side=8), per_experience=(2,))  # two of the classes come again
    assert buffer.budget().bytes == size
    again = DistilledReplayBuffer(max_bytes=size + 255, num_classes=4, **CODES)
    again.load(buffer.save(tmp_path / "memory"))
    assert torch.equal(shown(again), shown(buffer)) and again.budget() == buffer.budget()


@pytest.mark.parametrize("per_experience", [(2, 1, 1), (1, 3)])
@pytest.mark.parametrize("shrink", ["redistil", "herding"])
def test_codes_and_images_share_bytes_that_are_never_exceeded(per_experience: tuple[int, ...], shrink: Any) -> None:
    buffer = DistilledReplayBuffer(max_bytes=4096, shrink=shrink, **CODES)
    agent = strategy([])
    for experience in benchmark(toy_stream(per_class=70, side=8), per_experience).train_stream:
        buffer.post_adapt(agent, experience)
        assert 3000 < buffer.budget().bytes <= 4096
    assert set(buffer.buffer.targets.count) == {0, 1, 2, 3}


def test_pieces_may_be_objects_of_one_s_own(tmp_path: Path) -> None:
    from ddkit.networks.sources import FreshNetworks

    class Mine(FreshNetworks):
        asked = 0

        def current(self) -> Any:
            Mine.asked += 1
            return super().current()

    buffer = fed(tiny(networks=Mine(), cache=tmp_path))
    assert Mine.asked == 4 and buffer.settings()["overrides"]["networks"] == "Mine"
    assert not list(tmp_path.iterdir())


def test_codes_of_a_single_class_are_stored_as_images() -> None:
    buffer = DistilledReplayBuffer(max_bytes=4 * 2 * 64, num_classes=4, **CODES)
    fed(buffer, toy_stream(side=8), per_experience=(1, 1, 1, 1))
    assert {one.how for one in buffer.facts().values()} == {"distilled"}
    assert buffer.budget().bytes == 4 * 2 * 64 and len(buffer.buffer) == 8


def test_the_strategy_s_model_can_be_the_matching_network() -> None:
    agent = strategy([])
    agent.model.train()
    weights = {name: value.clone() for name, value in agent.model.state_dict().items()}
    for method in ("dm", "dc"):
        buffer = tiny(method=method, networks="model", steps=4)
        for experience in benchmark(order=[3, 1, 0, 2]).train_stream:
            buffer.post_adapt(agent, experience)
        assert buffer.buffer.targets.count == {0: 2, 1: 2, 2: 2, 3: 2}
    assert agent.model.training and all(value.grad is None for value in agent.model.parameters())
    assert all(torch.equal(weights[name], value) for name, value in agent.model.state_dict().items())


def test_a_model_without_logits_of_a_class_is_refused() -> None:
    agent = strategy([], classes=2)
    with pytest.raises(ConfigError, match="gives 2 logits, class 3 has none"):
        tiny(networks="model").post_adapt(agent, benchmark(order=[3, 2, 1, 0]).train_stream[0])
    agent.model = torch.nn.Flatten()
    with pytest.raises(ConfigError, match="has no linear layer"):
        tiny(networks="model").post_adapt(agent, benchmark().train_stream[0])


def test_a_model_wrapped_for_distributed_training_is_used_without_talking_to_others(tmp_path: Path) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        used = CurrentModel(torch.nn.parallel.DistributedDataParallel(model())).model
    finally:
        dist.destroy_process_group()
    assert type(used) is type(model())


def test_herding_follows_the_features_of_the_current_model() -> None:
    first, second = strategy([]), strategy([])
    second.model = model()
    with torch.no_grad():
        for value in second.model.parameters():
            value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    contents = []
    for agent in (first, second):
        buffer = KINDS["herding"]()
        buffer.post_adapt(agent, benchmark().train_stream[0])
        contents.append(buffer.distilled().images)
    assert not torch.equal(*contents)


def test_a_cache_spares_distilling_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fed(tiny(cache=tmp_path))
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    other = fed(tiny(cache=tmp_path, steps=3))
    assert len(list(tmp_path.glob("*.safetensors"))) == 4 and not torch.equal(shown(first), shown(other))

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("distilled again")

    monkeypatch.setattr("ddkit.engine.distiller.Session.step", fail)
    assert torch.equal(shown(fed(tiny(cache=tmp_path))), shown(first))


def test_a_damaged_cache_is_made_anew(tmp_path: Path) -> None:
    first = fed(tiny(cache=tmp_path))
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"no artifact")
    with pytest.warns(UserWarning, match="is damaged and is made anew"):
        again = fed(tiny(cache=tmp_path))
    assert torch.equal(shown(first), shown(again))


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_memory_goes_on_as_if_it_had_never_stopped(kind: str, tmp_path: Path) -> None:
    stream, agent = benchmark().train_stream, strategy([])
    whole, halved = KINDS[kind](), KINDS[kind]()
    whole.post_adapt(agent, stream[0])
    path = whole.save(tmp_path / "memory.safetensors")
    whole.post_adapt(agent, stream[1])
    halved.load(path)
    assert len(halved.buffer) == 4
    halved.post_adapt(agent, stream[1])
    assert torch.equal(shown(whole), shown(halved))
    quick = [one.model_copy(update={"seconds": 0.0}) for one in halved.facts().values()]
    assert quick == [one.model_copy(update={"seconds": 0.0}) for one in whole.facts().values()]


def test_soft_labels_and_a_waiting_window_are_restored(tmp_path: Path) -> None:
    from avalanche.benchmarks.scenarios.online import split_online_stream

    options: dict[str, Any] = {"soft_labels": True, "synthesis": {"name": "pixels", "labels": "soft"}}
    buffer, again = fed(tiny(**options)), tiny(**options)
    part = next(iter(split_online_stream(benchmark().train_stream, experience_size=8, access_task_boundaries=True)))
    buffer.post_adapt(strategy([]), part)
    again.load(buffer.save(tmp_path / "memory"))
    assert torch.equal(again.buffer[5][1], buffer.buffer[5][1]) and float(again.buffer[5][1].max()) < 1
    assert again._window.arrivals == 1 and torch.equal(again._window.kept.images, buffer._window.kept.images)
    assert (
        buffer.budget().bytes == 6 * (16 + 2 * 4) + 2 * 16
    )  # rows of two classes; images that wait have class numbers


def test_a_memory_of_other_settings_is_refused(tmp_path: Path) -> None:
    path = fed(tiny()).save(tmp_path / "memory")
    with pytest.raises(ConfigError, match="seed=0, this buffer has seed=1"):
        tiny(seed=1).load(path)
    with pytest.raises(ConfigError, match="this buffer has kind=CoresetReplayBuffer"):
        CoresetReplayBuffer(8, num_classes=4).load(path)


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = fed(tiny()).save(tmp_path / "memory")
    raw = bytearray(path.read_bytes())
    for change in (slice(len(raw) - 1, None), slice(0, 20)):
        broken = bytearray(raw)
        broken[change] = b"\x01" * len(broken[change])
        path.write_bytes(broken)
        with pytest.raises(ArtifactError) as caught:
            tiny().load(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    with pytest.raises(ArtifactError, match="No such file"):
        tiny().load(tmp_path / "nothing")
