"""Do several training processes hold the same memory?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ddkit.errors import RunError

pytest.importorskip("avalanche")

from ddkit.integrations.continual.distributed import on_first_rank


def take_part(rank: int, folder: str) -> None:
    """Be one of two processes: the first one makes bytes, then fails."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    made = on_first_rank(lambda: f"made by {rank} of {os.getpid()}".encode())
    Path(folder, f"made-{rank}").write_bytes(made)
    try:
        on_first_rank(lambda: _fail(rank))
    except (RunError, ValueError) as error:
        Path(folder, f"failed-{rank}").write_text(f"{type(error).__name__}: {error}")
    dist.destroy_process_group()


def _fail(rank: int) -> bytes:
    raise ValueError(f"no memory on {rank}")


def test_without_processes_it_is_just_made() -> None:
    assert on_first_rank(lambda: b"memory") == b"memory"


@pytest.mark.slow
def test_the_first_process_makes_the_memory_of_all(tmp_path: Path) -> None:
    mp.spawn(take_part, args=(str(tmp_path),), nprocs=2)
    made = [(tmp_path / f"made-{rank}").read_bytes() for rank in range(2)]
    assert made[0] == made[1] and made[0].startswith(b"made by 0")
    assert (tmp_path / "failed-0").read_text() == "ValueError: no memory on 0"
    assert (tmp_path / "failed-1").read_text().startswith("RunError: the first process could not")
