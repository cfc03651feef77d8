"""What does ddkit do with a hostile input? It is tried in a process of its own, whose memory and time are bounded."""

from __future__ import annotations

import os
import pickle
import resource
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ddkit.errors import DDKitError

#: Bytes that an input may take beside what is there, and seconds of the processor.
MOST_BYTES, MOST_SECONDS = 2**30, 5.0
#: Bytes of address space beside what is mapped, and seconds, at which a process is stopped: it shall not take the
#: machine along.
HARD_BYTES, HARD_SECONDS = 4 * 2**30, 30
LONGEST = 1200

Read = Callable[[bytes, Path], object]


@dataclass(frozen=True)
class Outcome:
    """What became of an input: ``refused``, ``read``, or what no input may do."""

    number: int
    kind: str
    text: str = ""

    @property
    def finding(self) -> bool:
        return self.kind not in ("refused", "read")


def peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def tried(read: Read, raw: bytes, folder: Path) -> tuple[str, str]:
    """Read one input."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, began = peak_bytes(), time.process_time()
    try:
        read(raw, folder)
        kind, text = "read", ""
    except DDKitError as error:
        text = str(error)
        kind = "refused" if "\n" not in text and len(text) <= LONGEST else "long message"
    except BaseException as error:
        kind, text = "exception", f"{type(error).__name__}: {error}"
    spent, taken = time.process_time() - began, peak_bytes() - before
    if taken > MOST_BYTES:  # asked first: what takes much memory is slow, too
        return "memory", f"{taken / 2**20:.0f} MiB; {text}"
    return ("slow", f"{spent:.1f} s of the processor; {text}") if spent > MOST_SECONDS else (kind, text)


def outcomes(read: Read, inputs: Sequence[bytes], folder: Path) -> list[Outcome]:
    """Read every input in forked processes: one that dies is a finding, and the next goes on behind it."""
    found: list[Outcome] = []
    while len(found) < len(inputs):
        receiving, sending = os.pipe()
        child = os.fork()
        if not child:
            os.close(receiving)
            _serve(read, inputs, len(found), folder, sending)
        os.close(sending)
        with os.fdopen(receiving, "rb") as stream:
            while True:
                try:
                    found.append(Outcome(*pickle.load(stream)))
                except EOFError:
                    break
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if len(found) < len(inputs):
            found.append(Outcome(len(found), "died", f"status {status}"))
    return found


def _serve(read: Read, inputs: Sequence[bytes], first: int, folder: Path, sending: int) -> None:
    """Try the inputs from ``first`` on and report each; never returns."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + HARD_BYTES, mapped + HARD_BYTES))
    with os.fdopen(sending, "wb", buffering=0) as stream:
        for number in range(first, len(inputs)):
            spent = int(time.process_time())
            resource.setrlimit(resource.RLIMIT_CPU, (spent + HARD_SECONDS, resource.RLIM_INFINITY))
            stream.write(pickle.dumps((number, *tried(read, inputs[number], folder))))
    sys.stdout.flush()
    os._exit(0)
