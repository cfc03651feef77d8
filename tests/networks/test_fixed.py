"""Networks with known initial weights."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from ddkit.errors import ConfigError
from ddkit.models import ModelSpec
from ddkit.networks import FixedNetworks
from tests.networks.bench import ready, same_after_resuming, walk, weights


def test_the_same_weights_serve_every_step_whatever_happens_to_them() -> None:
    source, pixels = ready(FixedNetworks())
    first = weights(source)
    with torch.no_grad():
        next(source.network.module.parameters()).add_(1)
    source.after_step(pixels, last=False)
    assert torch.equal(weights(source), first)
    assert source.age() == (0, 1)


def test_weights_are_drawn_again_only_where_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    for count, most in ((1, 1), (3, 30)):
        source, pixels = ready(FixedNetworks(count=count))
        drawn: list[int] = []
        reset = source.network.reset
        monkeypatch.setattr(
            source.network, "reset", lambda seed, reset=reset, drawn=drawn: (drawn.append(seed), reset(seed))
        )
        seen = [tuple(one.tolist()) for one in walk(source, pixels, 30)]
        assert len(set(seen)) == count <= len(drawn) <= most
        assert all(before != after for before, after in pairwise(drawn))


def test_weights_follow_the_seed_of_the_run() -> None:
    first, again, other = (weights(ready(FixedNetworks(), seed)[0]) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_several_initialisations_take_turns_at_random() -> None:
    source, pixels = ready(FixedNetworks(count=3))
    seen = walk(source, pixels, 30)
    assert len({tuple(one.tolist()) for one in seen}) == 3


def test_the_card_is_enough_to_build_the_weights_again() -> None:
    source, _ = ready(FixedNetworks())
    card = source.metadata()
    module = ModelSpec.parse(card["model"]).build((1, 8, 8), 3, card["seeds"][0])
    built = torch.cat([weight.detach().flatten() for weight in module.parameters()])
    assert torch.equal(built, weights(source))


@pytest.mark.parametrize("count", [1, 3])
def test_a_resumed_source_goes_on_with_its_weights(count: int) -> None:
    same_after_resuming(FixedNetworks, {"count": count}, 3, 4)


def test_a_count_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"networks\.count=0"):
        FixedNetworks(count=0)
