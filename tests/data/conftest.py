"""What every data test checks besides its own subject: no network, and global random state left as it was."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


def _numpy_state() -> list[int]:
    state: Any = np.random.get_state()  # noqa: NPY002
    return [*state[1].tolist(), *state[2:]]


@pytest.fixture(autouse=True)
def no_network_and_no_global_randomness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    def refuse(*_: object) -> None:
        raise OSError("the network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("DDKIT_CACHE", str(tmp_path / "cache"))
    before = (torch.get_rng_state(), _numpy_state(), random.getstate())
    yield
    assert torch.equal(torch.get_rng_state(), before[0])
    assert _numpy_state() == before[1]
    assert random.getstate() == before[2]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
