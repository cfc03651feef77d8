"""Random streams: named, independent, restorable, never global."""

from __future__ import annotations

import torch

from ddkit.base.streams import Streams, derive_seed, some_of


def draw(streams: Streams, name: str, n: int = 4) -> list[float]:
    return torch.rand(n, generator=streams(name)).tolist()


def test_streams_repeat_with_the_seed_and_differ_by_name_and_seed() -> None:
    assert draw(Streams(1), "a") == draw(Streams(1), "a")
    draws = [tuple(draw(Streams(seed), name)) for seed in (0, 1) for name in ("a", "b", "ab")]
    assert len(set(draws)) == 6


def test_drawing_from_one_stream_does_not_disturb_another() -> None:
    plain, disturbed = Streams(3), Streams(3)
    draw(disturbed, "noise", 1000)
    disturbed.integer("more noise")
    assert draw(disturbed, "a") == draw(plain, "a")


def test_state_brings_every_stream_back() -> None:
    streams = Streams(5)
    draw(streams, "a"), streams.integer("b")
    state = {name: value.clone() for name, value in streams.state_dict().items()}
    expected = draw(streams, "a"), streams.integer("b"), draw(streams, "new")
    draw(streams, "a", 100)
    streams.load_state_dict(state)
    assert (draw(streams, "a"), streams.integer("b"), draw(streams, "new")) == expected


def test_state_is_a_copy() -> None:
    streams = Streams(5)
    draw(streams, "a")
    state = streams.state_dict()
    before = state["a"].clone()
    draw(streams, "a")
    assert torch.equal(state["a"], before)


def test_global_generator_is_not_touched() -> None:
    before = torch.get_rng_state()
    draw(Streams(0), "a"), Streams(0).integer("b")
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_are_stable_across_versions() -> None:
    assert derive_seed(0, "networks") == 778194354093651997
    assert derive_seed(7, "evaluation", "convnet", 3) == 1304974443719488078


def test_seeds_are_63_bit_numbers_of_the_whole_path() -> None:
    seeds = {
        derive_seed(0),
        derive_seed(0, 0),
        derive_seed(0, "a", "b"),
        derive_seed(0, "ab"),
        derive_seed(0, "b", "a"),
    }
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert all(0 <= Streams(seed).integer("x") < 2**62 for seed in range(20))


def test_some_of_many_are_different_numbers_each_as_likely_as_the_other() -> None:
    drawn = some_of(80_000, 9_000, torch.Generator().manual_seed(0))
    assert len(drawn) == len(drawn.unique()) == 9_000
    assert int(drawn.min()) >= 0 and int(drawn.max()) < 80_000
    again = [some_of(80_000, 9_000, torch.Generator().manual_seed(seed)) for seed in range(1, 41)]
    parts = torch.stack([torch.bincount(one // 20_000, minlength=4) for one in [drawn, *again]]).double()
    # a part of four gets 2,250 of 9,000 with a standard deviation of 38.7; the mean of 41 draws 6.1
    assert float((parts.mean(0) - 2250).abs().max()) < 5 * 6.1
    assert 20 < float(parts[:, 0].std()) < 60
    first = torch.tensor([int(one[0]) for one in again]).double()
    assert float((first.mean() - 40_000).abs()) < 5 * 80_000 / 12**0.5 / 40**0.5


def test_some_of_few_are_the_first_of_a_permutation() -> None:
    drawn = some_of(50_000, 100, torch.Generator().manual_seed(3))
    assert torch.equal(drawn, torch.randperm(50_000, generator=torch.Generator().manual_seed(3))[:100])
    assert len(some_of(5, 9, torch.Generator().manual_seed(0))) == 5
