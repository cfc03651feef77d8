"""On which device work runs, and what this machine has for compiling it."""

from __future__ import annotations

import functools
import os
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from ddkit.errors import ConfigError, RunError

_CHOICE = "choose auto, cpu, cuda or cuda:N"
#: What the compiled passes of a CPU include: Python's own header and OpenMP.
_PROBE = "#include <Python.h>\n#include <omp.h>\nint main() { return omp_get_max_threads() < 0; }\n"


def resolve_device(name: str | torch.device) -> torch.device:
    """Return the device called ``name``; ``auto`` takes an accelerator where there is one.

    Raises:
        ConfigError: there is no such device on this machine, or it cannot hold a tensor.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ConfigError(f"unknown device '{name}': {_CHOICE}") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(f"device '{name}' is not on this machine: choose cpu or auto")
    try:
        torch.zeros(1, device=device).sum().item()
    except (RuntimeError, NotImplementedError, AssertionError, ImportError) as error:
        said = " ".join(str(error).split())[:120]
        raise ConfigError(f"device '{name}' does not work on this machine ({said}): choose cpu or auto") from None
    return device


def layout(shape: Sequence[int]) -> torch.memory_format:
    """Return the memory layout for networks that see images ``(C, H, W)``, and for those images.

    Channels last, which convolutions read faster; but not for grey images, of which the first layer makes maps with
    channels first: one step on 256 images of 28x28, ConvNet of width 128, one thread, 1,690 ms with channels last and
    990 ms without (32x32 in colour 1,150 and 1,060 ms, forward passes alone 304 and 349 ms).
    """
    return torch.contiguous_format if shape[-3] == 1 else torch.channels_last


@contextmanager
def memory_errors(what: str, device: str | torch.device) -> Iterator[None]:
    """Let the block end in one sentence where memory does not suffice, on any device.

    Args:
        what: is done in the block, for the message.
        device: where.

    Raises:
        RunError: memory did not suffice.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise RunError(
            f"the memory of '{device}' does not suffice to {what}: use smaller batches or networks"
        ) from None


@functools.cache
def why_not_compile() -> str | None:
    """Return why ``torch.compile`` cannot work here, in a few words; None where it can.

    Looks for the C++ compiler that PyTorch would call, lets it read the headers that compiled passes need, and tries
    the folder that PyTorch keeps its compiled code in. Once a process.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    try:
        compiler = get_cpp_compiler()
    except Exception:  # a class of its own that is not public; any failure means no compiler
        return "no C++ compiler (g++) is installed"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text(_PROBE)
        include = sysconfig.get_paths()["include"]
        command = [*compiler.split(), "-fopenmp", f"-I{include}", "-fsyntax-only", str(source)]
        try:
            tried = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return f"the C++ compiler '{compiler}' does not run"
    if tried.returncode:
        missing = next((word for word in ("Python.h", "omp.h") if word in tried.stderr), None)
        return f"the C++ compiler '{compiler}' " + (f"does not find {missing}" if missing else "does not work")
    try:
        os.makedirs(cache_dir(), exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_dir()):
            return None
    except OSError as error:
        return f"PyTorch's folder of compiled code cannot be written ({error.strerror}): set TORCHINDUCTOR_CACHE_DIR"
