"""Is a candidate that cannot be measured named while the others go on, and are results those of the network itself?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.integrations.nas import ProxyRanker, SearchSpace, search, zero_cost
from ddkit.integrations.nas.inspection import inspect_candidate
from ddkit.integrations.nas.proxy import Proxy
from tests.integrations.nas_cases import Counting, digits, linear, tiny_set

QUICK = ProxyRanker(epochs=2, seeds=1)


class Wrapped(nn.Module):
    """A linear network whose forward is a function of it."""

    def __init__(self, how: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self._how = linear(), how

    def forward(self, x: Tensor) -> Tensor:
        return self._how(self.inner, x)


def lazy() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))


def lazy_norm() -> nn.Module:
    return nn.Sequential(nn.LazyBatchNorm2d(affine=False), linear())


def not_a_number(inner: nn.Module, x: Tensor) -> Tensor:
    return inner(x) / 0 * 0


def out_of_memory(inner: nn.Module, x: Tensor) -> Tensor:
    raise MemoryError("cannot allocate 1 TB")


def without_gradient(inner: nn.Module, x: Tensor) -> Tensor:
    return inner(x).detach()


def raising(inner: nn.Module, x: Tensor) -> Tensor:
    raise KeyError("missing")


def unbuildable() -> nn.Module:
    raise RuntimeError("no such block")


class Unprintable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def __repr__(self) -> str:
        raise ValueError("no text")


BROKEN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "lazy": (lazy, "'1.weight' belongs to a lazy layer"),
    "lazy norm": (lazy_norm, "belongs to a lazy layer"),
    "NaN": (lambda: Wrapped(not_a_number), "not finite before any training"),
    "memory": (lambda: Wrapped(out_of_memory), "MemoryError: cannot allocate"),
    "no gradient": (lambda: Wrapped(without_gradient), "does not require grad"),
    "raises": (lambda: Wrapped(raising), "KeyError"),
    "unbuildable": (unbuildable, "no such block"),
    "no text": (Unprintable, "ValueError: no text"),
}


def test_candidates_that_cannot_be_measured_fail_before_anything_is_trained_and_the_rest_go_on() -> None:
    builders = {name: builder for name, (builder, _) in BROKEN.items()}
    counting = Counting()
    ranking = QUICK.rank(SearchSpace({**builders, "good": linear}), tiny_set(5), digits()[1], executor=counting)
    assert counting.count == 1 and ranking["good"].status == "ok" and ranking.best == "good"
    for name, (_, words) in BROKEN.items():
        assert ranking[name].status == "failed" and words in ranking[name].message and not ranking[name].scores
        assert "\n" not in ranking[name].message


def test_a_search_and_a_measure_go_on_past_them_as_well() -> None:
    pytest.importorskip("optuna", reason="Optuna is not installed")

    def build(kind: int) -> Callable[[], nn.Module]:
        return lazy if kind == 0 else linear

    found = search(build, {"kind": [0, 1]}, tiny_set(5), digits()[1], QUICK, trials=6, sampler="random")
    assert {entry.name: entry.status for entry in found.entries} == {"kind=0": "failed", "kind=1": "ok"}
    measured = zero_cost("grad-norm", {"lazy": lazy, "good": linear, "frozen": frozen}, tiny_set(5))
    assert [entry.status for entry in measured.entries] == ["failed", "ok", "ok"]


def scaled(factor: float) -> Callable[[], nn.Module]:
    return lambda: Wrapped(lambda inner, x: inner(x) * factor)


def trained_only(factor: float) -> Callable[[], nn.Module]:
    def forward(inner: nn.Module, x: Tensor) -> Tensor:
        return inner(x) * (factor if inner.training else 1.0)

    return lambda: Wrapped(forward)


def stopped(inner: nn.Module, x: Tensor) -> Tensor:
    return (
        inner[1](inner[0](x))
        if not inner.training
        else F.linear(  # type: ignore[index]
            inner[0](x),
            inner[1].weight.detach() + 0 * inner[1].weight,
            inner[1].bias,  # type: ignore[index]
        )
    )


def frozen() -> nn.Module:
    model = linear()
    model[1].bias.requires_grad_(False)  # type: ignore[index]
    return model


def half_dropped(chance: float) -> Callable[[], nn.Module]:
    return lambda: Wrapped(lambda inner, x: F.dropout(inner(x), chance, inner.training))


PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "a constant of forward": (scaled(1.0), scaled(0.5)),
    "a constant that blanks it": (scaled(1.0), scaled(0.0)),
    "training mode alone": (trained_only(1.0), trained_only(2.0)),
    "a gradient that is stopped": (lambda: Wrapped(lambda inner, x: inner(x)), lambda: Wrapped(stopped)),
    "a frozen weight": (linear, frozen),
    "functional dropout": (half_dropped(0.1), half_dropped(0.5)),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_networks_that_compute_something_else_have_another_digest(pair: str) -> None:
    proxy = Proxy.of(tiny_set(), digits()[1], None)
    state = torch.get_rng_state()
    first, again, other = (
        inspect_candidate("x", SearchSpace({"x": build})["x"], proxy).digest for build in (PAIRS[pair][0], *PAIRS[pair])
    )
    assert first == again != other and first and other
    assert torch.equal(torch.get_rng_state(), state)


def test_a_cache_does_not_return_the_score_of_another_network_of_the_same_name(tmp_path: Path) -> None:
    """The second network is the first one with another constant in its forward."""
    _, validation, _ = digits()
    ranker = ProxyRanker(epochs=12, seeds=1, score="loss")

    def score(factor: float, cache: Path | None) -> tuple[float | None, int]:
        counting = Counting()
        found = ranker.rank({"A": scaled(factor)}, tiny_set(5), validation, executor=counting, cache=cache)
        return found["A"].score, counting.count

    assert score(1.0, tmp_path)[1] == 1
    assert score(0.5, tmp_path) == (score(0.5, None)[0], 1)
    assert score(0.5, tmp_path)[1] == score(1.0, tmp_path)[1] == 0
    assert score(0.5, tmp_path)[0] != score(1.0, tmp_path)[0]
