"""Symbols come back to the bit, in few bytes, and bytes from strangers are bounded."""

from __future__ import annotations

import math
import zlib
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddkit.codecs import lossless
from ddkit.errors import ArtifactError, ConfigError, UnknownNameError

SHAPES = [(20, 1, 8, 8), (5, 3, 6, 7), (7, 5), (3,), (1, 1, 28, 28)]


def symbols(shape: tuple[int, ...], bits: int, seed: int = 0) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2**bits / 6 + 2**bits / 2
    return values.round().clamp(0, 2**bits - 1).to(torch.uint8)


@pytest.mark.parametrize("coder", ["auto", *lossless.CODERS])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_symbols_come_back(shape: tuple[int, ...], coder: str) -> None:
    for bits in (1, 3, 8):
        values = symbols(shape, bits)
        if coder == "webp" and len(shape) != 4:
            with pytest.raises(ConfigError, match="coder 'webp' cannot hold"):
                lossless.encode(values, bits, coder)
            continue
        stream = lossless.encode(values, bits, coder)
        assert torch.equal(lossless.decode(stream.data, stream.entry(), shape, bits), values)
        assert coder in ("auto", stream.coder)
        assert len(stream.data) <= math.ceil(values.numel() * bits / 8) or coder not in ("auto", "raw")


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    bits=st.integers(1, 8),
    seed=st.integers(0, 99),
    constant=st.booleans(),
)
def test_any_plane_comes_back(shape: list[int], bits: int, seed: int, constant: bool) -> None:
    values = torch.full(shape, seed % 2**bits, dtype=torch.uint8) if constant else symbols(tuple(shape), bits, seed)
    stream = lossless.encode(values, bits)
    assert torch.equal(lossless.decode(stream.data, stream.entry(), tuple(shape), bits), values)


@pytest.mark.parametrize("coder", ["zstd", "brotli"])
def test_bytes_are_near_the_entropy(coder: str) -> None:
    shares = torch.tensor([0.7, 0.2, 0.08, 0.02])
    values = torch.multinomial(shares, 40_000, replacement=True, generator=torch.Generator().manual_seed(1))
    entropy = -float((shares * shares.log2()).sum()) * len(values) / 8
    size = len(lossless.encode(values.to(torch.uint8).reshape(100, 400), 2, coder).data)
    assert entropy - 16 <= size * 1.02 and size <= 1.1 * entropy + 64


def test_symbols_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"symbols up to 4 .* do not fit 2 bits"):
        lossless.encode(torch.tensor([4], dtype=torch.uint8), 2)
    with pytest.raises(UnknownNameError, match="unknown coder 'zip'"):
        lossless.encode(torch.tensor([1], dtype=torch.uint8), 2, "zip")


VALUES = symbols((20, 1, 8, 8), 4)


@pytest.mark.parametrize("coder", list(lossless.CODERS))
@pytest.mark.parametrize("change", ["cut", "tail", "empty", "flipped"])
def test_damaged_bytes_are_refused_or_other_symbols(coder: str, change: str) -> None:
    stream = lossless.encode(VALUES, 4, coder)
    data = {
        "cut": stream.data[:-3],
        "tail": stream.data + b"abc",
        "empty": b"",
        "flipped": bytes([*stream.data[:20], stream.data[20] ^ 255, *stream.data[21:]]),
    }[change]
    try:
        found = lossless.decode(data, stream.entry(), tuple(VALUES.shape), 4)
    except ArtifactError as error:
        assert "\n" not in str(error)
    else:
        assert change == "flipped" and found.shape == VALUES.shape and int(found.max()) < 16


def test_bombs_are_stopped_at_the_announced_size() -> None:
    bomb = zlib.compress(bytes(2**27), 9)
    entry: dict[str, Any] = {"coder": "zlib", "order": "images", "packed": False}
    with pytest.raises(ArtifactError):
        lossless.decode(bomb, entry, (10, 10), 4)


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"coder": "pickle", "order": "images", "packed": False},
        {"coder": ["raw"], "order": "images", "packed": False},
        {"coder": "raw", "order": "rows", "packed": False},
        {"coder": "raw", "order": "images", "packed": 1},
    ],
)
def test_entries_that_make_no_sense_are_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="which is unknown"):
        lossless.decode(b"1234", entry, (2, 2), 8)


def test_padding_and_large_symbols_are_refused() -> None:
    entry = {"coder": "raw", "order": "images", "packed": True}
    with pytest.raises(ArtifactError, match="bits that belong to none"):
        lossless.decode(b"\xff", entry, (3,), 2)
    with pytest.raises(ArtifactError, match="a symbol of 9 has more than 3 bits"):
        lossless.decode(b"\x09\x01\x02", {**entry, "packed": False}, (3,), 3)
