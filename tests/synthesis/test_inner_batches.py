"""The batches on which a student trains: chunks of permutations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ddkit.errors import ConfigError
from ddkit.synthesis import Pixels, SharedDecoders, Synthesizer

SHAPE = (1, 8, 8)


def draw(synthesizer: Synthesizer, steps: int, size: int | None, seed: int = 0) -> list[Tensor]:
    return synthesizer.inner_batches(steps, size, torch.Generator().manual_seed(seed))


def test_batches_are_chunks_of_permutations_of_all_images() -> None:
    batches = draw(Pixels(3, 2, SHAPE), 7, 2)
    assert [batch.shape for batch in batches] == [(2,)] * 7
    assert all(batch.dtype == torch.int64 and batch.device.type == "cpu" for batch in batches)
    for first in (0, 3):
        assert sorted(torch.cat(batches[first : first + 3]).tolist()) == list(range(6))
    assert [b.tolist() for b in batches[:3]] != [b.tolist() for b in batches[3:6]]


def test_a_short_remainder_is_dropped() -> None:
    batches = draw(Pixels(3, 3, SHAPE), 5, 4)
    assert [len(batch) for batch in batches] == [4] * 5
    assert len(set(torch.cat(batches[:2]).tolist())) == 8


def test_none_takes_all_images() -> None:
    for batch in draw(Pixels(3, 2, SHAPE), 3, None):
        assert sorted(batch.tolist()) == list(range(6))


def test_none_takes_no_more_than_an_outer_step_looks_at() -> None:
    made = SharedDecoders(3, 4, SHAPE, decoders=4, hidden=2, code_channels=1, codes=2, batch_decoders=1)
    assert len(made) == 24
    assert [len(batch) for batch in draw(made, 2, None)] == [6, 6]
    assert [len(batch) for batch in draw(made, 2, 24)] == [24, 24]


def test_the_generator_decides() -> None:
    made = Pixels(3, 4, SHAPE)
    assert torch.equal(torch.stack(draw(made, 4, 5, 1)), torch.stack(draw(made, 4, 5, 1)))
    assert not torch.equal(torch.stack(draw(made, 4, 5, 1)), torch.stack(draw(made, 4, 5, 2)))


def test_no_steps_are_no_batches() -> None:
    assert draw(Pixels(3, 2, SHAPE), 0, None) == []


@pytest.mark.parametrize("size", [0, 7, -1])
def test_a_size_that_the_set_does_not_have_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=f"a batch of {size} synthetic images must hold between 1 and all 6"):
        draw(Pixels(3, 2, SHAPE), 1, size)
