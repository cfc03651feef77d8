"""Ctrl-C, SIGTERM and SIGHUP end a command with one line at most, at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddkit.base.interrupt import Interrupt
from ddkit.cli import main

#: Sends itself the signal at the ``at``-th line of Python that a command executes, so that every moment can be hit.
AT_A_LINE = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
count = iter(range(10**9))
def trace(frame, event, argument):
    if next(count) == {at}:
        sys.settrace(None)
        for number in {numbers}:
            os.kill(os.getpid(), number)
    return trace
from ddkit.cli import main
sys.argv = ["ddkit", *{arguments!r}]
sys.settrace(trace)
main()
"""


@pytest.mark.parametrize("numbers", [(2,), (15,), (1,), (15, 2), (2, 15, 1)], ids=str)
@pytest.mark.parametrize("at", [400, 4_000, 20_000, 60_000])
def test_signal_while_the_command_line_is_imported_is_one_line(at: int, numbers: tuple[int, ...]) -> None:
    code = AT_A_LINE.format(at=at, numbers=[int(number) for number in numbers], arguments=["distill", "--help"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_signal_that_falls_into_a_finaliser_is_not_lost() -> None:
    code = (
        "import os, signal, sys, time\n"
        "from ddkit.base.interrupt import CommandInterrupt\n"
        "class Late:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(0.05)\n"
        "with CommandInterrupt(True):\n"
        "    late = Late()\n"
        "    del late\n"
        "    time.sleep(30)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_hangup_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            signal.raise_signal(signal.SIGHUP)
        assert not interrupt.requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signal_stops_work_at_once_unless_it_is_waited_for() -> None:
    with Interrupt() as interrupt:
        with interrupt.waiting():
            signal.raise_signal(signal.SIGTERM)
        assert interrupt.requested
    with pytest.raises(KeyboardInterrupt), Interrupt():
        signal.raise_signal(signal.SIGINT)
        time.sleep(1)


def test_a_process_that_goes_on_behind_a_command_listens_to_signals() -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "no-such-run"])
    with pytest.raises(KeyboardInterrupt), Interrupt():
        signal.raise_signal(signal.SIGTERM)
        time.sleep(1)


def test_nothing_stops_what_is_being_finished(tmp_path: Path) -> None:
    with Interrupt() as interrupt, interrupt.finishing():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        (tmp_path / "saved").touch()
    assert interrupt.requested and os.listdir(tmp_path) == ["saved"]
