"""How do several training processes come to hold the same memory?"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from ddkit.errors import ConfigError, RunError


def on_first_rank(make: Callable[[], bytes]) -> bytes:
    """Return what ``make`` returns on the first process, on every process; without others it is just called.

    Raises:
        ConfigError: the environment speaks of several processes, but no process group connects them.
        RunError: ``make`` failed on the first process.
    """
    if not (dist.is_available() and dist.is_initialized()):
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                f"WORLD_SIZE={os.environ['WORLD_SIZE']}, but no process group is initialised: call "
                f"torch.distributed.init_process_group (or DistributedHelper.init_distributed) before training"
            )
        return make()
    if dist.get_world_size() == 1:
        return make()
    if dist.get_rank() == 0:
        try:
            content = make()
        except BaseException:
            _broadcast(torch.tensor([-1]))
            raise
        _broadcast(torch.tensor([len(content)]))
        _broadcast(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        return content
    length = int(_broadcast(torch.zeros(1, dtype=torch.int64)))
    if length < 0:
        raise RunError("the first process could not update the memory: see its error")
    return bytes(_broadcast(torch.empty(length, dtype=torch.uint8)).numpy())


def _broadcast(tensor: Tensor) -> Tensor:
    """Send a tensor from the first process, or receive it there, by way of the device that the backend needs."""
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    moved = tensor.to(device)
    dist.broadcast(moved, src=0)
    return moved.cpu()
