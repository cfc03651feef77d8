"""Does a memory in a codec hold as many images as fit its bytes, and replay exactly what decodes?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("avalanche")

from ddkit.data import Preprocessing
from ddkit.data.distilled.coding import bytes_of_noise
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import ConfigError, DDKitError
from ddkit.evaluation.coded_reals import most_that_fit
from ddkit.integrations.continual import ClassMemory, CodedBuffer, CoresetReplayBuffer, DistilledReplayBuffer
from ddkit.integrations.continual.host import ClassBalancedBuffer, ReservoirSamplingBuffer
from ddkit.integrations.continual.parts import Material, parts_of
from tests.integrations.continual_streams import NORMALISED, TINY, benchmark, fed, strategy, toy_stream
from tests.integrations.test_continual_memory import CODES, shown
from tests.integrations.test_continual_plugins import dark

CODEC = "uniform:bits=3"
BYTES = 240  # fifteen 8-bit images of 4x4 pixels
KINDS: dict[str, Any] = {
    "distilled": lambda **options: DistilledReplayBuffer(**{**TINY, **options}),
    "random": CoresetReplayBuffer,
    "herding": lambda **options: CoresetReplayBuffer(selection="herding", **options),
}


def made(kind: str, **options: Any) -> ClassMemory:
    return KINDS[kind](**{"max_bytes": BYTES, "codec": CODEC, "num_classes": 4, **options})


def long_stream() -> Any:
    return toy_stream(per_class=60)


@pytest.mark.parametrize("kind", KINDS)
def test_each_class_holds_what_fits_its_share_and_its_bytes_are_those_of_its_files(kind: str) -> None:
    buffer = fed(made(kind), long_stream())
    assert buffer.budget().bytes == sum(part.distilled.budget.payload or 0 for part in buffer._parts) <= BYTES
    for part in buffer._parts:
        coding = part.distilled.coding
        assert coding is not None and coding.codec == CODEC
        assert part.distilled.budget.payload == sum(tensor.nbytes for tensor in coding.parts().values()) <= BYTES // 4
        assert "labels.symbols" not in coding.parts()
    assert buffer.budget().bytes > 0.8 * BYTES
    assert len(buffer.buffer) == buffer.budget().images > BYTES // 16


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_replayed_is_what_decodes(kind: str, tmp_path: Path) -> None:
    buffer = fed(made(kind), long_stream())
    files = [DistilledDataset.from_bytes(part.distilled.to_bytes()) for part in buffer._parts]
    assert torch.equal(shown(buffer), torch.cat([NORMALISED.apply(one.images) for one in files]))
    again = made(kind)
    again.load(buffer.save(tmp_path / "memory"))
    assert torch.equal(shown(again), shown(buffer)) and again.budget() == buffer.budget()
    assert torch.equal(buffer.distilled().images, shown(buffer))
    with pytest.raises(ConfigError, match="was saved with codec=uniform:bits=3, this buffer has codec=None"):
        made(kind, codec=None).load(tmp_path / "memory")


def test_a_memory_without_a_codec_is_saved_as_before() -> None:
    assert "codec" not in made("random", codec=None).settings()


@pytest.mark.parametrize("kind", KINDS)
def test_shares_that_shrink_and_classes_that_come_again_stay_within_the_bytes(kind: str) -> None:
    buffer, agent = made(kind, num_classes=None), strategy([])
    sizes = []
    for experience in [*benchmark(long_stream()).train_stream, *benchmark(long_stream(), (4,)).train_stream]:
        buffer.post_adapt(agent, experience)
        assert 0.7 * BYTES < buffer.budget().bytes <= BYTES
        sizes.append(len(buffer.buffer))
    assert set(buffer.buffer.targets.count) == {0, 1, 2, 3}


def test_online_streams_and_images_that_wait_stay_within_the_bytes() -> None:
    from avalanche.benchmarks.scenarios.online import split_online_stream

    buffer = made("distilled", max_bytes=400)
    for part in split_online_stream(
        benchmark(long_stream()).train_stream, experience_size=30, access_task_boundaries=True
    ):
        buffer.post_adapt(strategy([]), part)
        assert buffer.budget().bytes <= 400
    assert all(part.distilled.coding is not None for part in buffer._parts)


def test_images_can_be_counted_and_coded() -> None:
    buffer = fed(CoresetReplayBuffer(8, codec=CODEC, num_classes=4), long_stream())
    assert len(buffer.buffer) == 8 and buffer.budget().bytes < 8 * 16


def test_codes_and_decoders_are_coded_too() -> None:
    buffer = DistilledReplayBuffer(max_bytes=1200, codec=CODEC, num_classes=4, **CODES)
    fed(buffer, toy_stream(per_class=60, side=8))
    compact = [part for part in buffer._parts if part.compact]
    assert compact and all(part.distilled.coding is not None for part in compact)
    assert 1200 / 2 < buffer.budget().bytes <= 1200


def test_soft_labels_are_coded_and_count() -> None:
    options = {"soft_labels": True, "synthesis": {"name": "pixels", "labels": "soft"}}
    buffer = fed(made("distilled", max_bytes=400, **options), long_stream())
    assert buffer.budget().bytes <= 400
    assert all("labels.symbols" in part.distilled.coding.parts() for part in buffer._parts)  # type: ignore[union-attr]


def test_learned_labels_lie_in_order_within_a_part_so_that_they_cost_nothing() -> None:
    images = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    learned = DistilledDataset(
        images,
        torch.tensor([[0.2, 0.8], [0.9, 0.1], [0.3, 0.7], [0.1, 0.9]]),
        label_kind="soft",
        class_names=["0", "1"],
        preprocessing=Preprocessing.identity(1),
        metadata={"order": {"classes": [0, 1], "per_class": [3, 1]}},
    )
    material = Material((0, 1), torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.arange(2), torch.ones(2), "toy")
    for codec in (None, CODEC):
        part = parts_of(learned, material, False, codec)[0]
        assert part.hard_labels().tolist() == [0, 1, 1]
        scale = 255 if codec is None else 1
        assert torch.allclose(part.pixels().float() / scale, images[[1, 0, 2]], atol=1 / 255 if codec is None else 1e-6)
    assert parts_of(learned, material, False, None)[0].payload == 3 * 16


def test_logits_count_beside_coded_images() -> None:
    buffer = made("distilled", max_bytes=600)
    agent = dark(buffer)
    for experience in benchmark(long_stream()).train_stream:
        agent.train(experience)
    logits = sum(part.logits.nbytes for part in buffer._parts if part.logits is not None)
    assert logits == len(buffer.buffer) * 4 * 4
    assert 0.7 * 600 < buffer.budget().bytes == sum(part.payload for part in buffer._parts) + logits <= 600


@pytest.mark.parametrize(
    ("codec", "words"),
    [
        ("uniforn:bits=3", "did you mean 'uniform'"),
        ("uniform:bits=9", r"codec.bits=9 must lie in \[1, 8\]"),
        ("uniform:bit=3", "did you mean 'bits'"),
    ],
)
def test_codecs_that_there_are_not_are_refused_at_once(codec: str, words: str) -> None:
    with pytest.raises(DDKitError, match=words):
        made("random", codec=codec)
    with pytest.raises(DDKitError, match=words):
        CodedBuffer(ReservoirSamplingBuffer(9), 99, codec)


def test_a_codec_that_cannot_hold_the_images_and_too_few_bytes_are_refused_before_there_are_any() -> None:
    with pytest.raises(ConfigError, match="palette is for images of several channels"):
        made("random", codec="palette").check((1, 4, 4))
    each = bytes_of_noise(CODEC, (1, 4, 4))
    assert each == 16 * 3 // 8 + 4
    with pytest.raises(ConfigError, match=f"4 classes, of {each} bytes each: give at least {4 * each} bytes"):
        made("random", max_bytes=4 * each - 1).check((1, 4, 4))
    buffer = fed(made("random", max_bytes=4 * each), long_stream())
    assert set(buffer.buffer.targets.count) == {0, 1, 2, 3}


def test_the_number_that_fits_is_found_where_bytes_are_not_monotone() -> None:
    costs = [0, 10, 22, 30, 29, 41, 50, 48, 60]
    for room in range(10, 70):
        count = most_that_fit(costs.__getitem__, room, 8)
        assert costs[count] <= room and (count == 8 or costs[count + 1] > room)


@pytest.mark.parametrize("policy", [ReservoirSamplingBuffer, ClassBalancedBuffer])
def test_avalanche_s_buffers_replay_what_their_images_decode_to_within_the_bytes(policy: Any) -> None:
    torch.manual_seed(0)
    buffer = fed(CodedBuffer(policy(10_000), BYTES, CODEC), long_stream())
    assert 0.8 * BYTES < buffer.bytes <= BYTES
    assert len(buffer.buffer) == len(buffer.policy.buffer) > BYTES // 16
    real = torch.stack([item[0] for item in buffer.policy.buffer.eval()])
    images = torch.stack([item[0] for item in buffer.buffer.eval()])
    far = torch.cdist(images.flatten(1), real.flatten(1)).min(dim=1).values / 4
    assert 0 < float(far.max()) < 0.5  # three bits of about +-1.5
    assert set(buffer.buffer.targets.count) == {0, 1, 2, 3}
    with pytest.raises(ConfigError, match=r"max_bytes=9 does not hold one image, of .* bytes: give at least"):
        fed(CodedBuffer(policy(10_000), 9, CODEC), long_stream())
