"""How does the command line tell warnings and errors: one line each, and an exit status."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import click

from ddkit.base.interrupt import Interrupt
from ddkit.cli.tables import say
from ddkit.errors import DDKitError, InterruptedRunError, shortened

#: Characters of a message, and of one word (a path) in it.
LONGEST_MESSAGE, LONGEST_WORD = 600, 240


@contextmanager
def on_one_line(verbose: bool) -> Iterator[None]:
    """Turn every error into one line on standard error and an exit status.

    Args:
        verbose: show warnings as Python does, and the traceback of an error before its line.

    Raises:
        SystemExit: with status 2 for bad input, 1 for a failed run, 130 when interrupted, or what click asks for.
    """
    if sys.stdout is None:  # closed by whoever started the process: what is printed is not wanted
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    with warnings.catch_warnings():
        if not verbose:
            warnings.showwarning = _once_on_one_line()
        try:
            yield
        except click.exceptions.Exit as stop:
            raise SystemExit(stop.exit_code) from None
        except click.ClickException as error:
            _fail(_usage(error), error, error.exit_code, verbose)
        except InterruptedRunError as stop:
            _fail(str(stop), stop, stop.exit_status, verbose)
        except DDKitError as error:
            _fail(f"error: {error}", error, error.exit_status, verbose)
        except (KeyboardInterrupt, click.Abort) as stop:
            _fail("interrupted", stop, InterruptedRunError.exit_status, verbose)
        except BrokenPipeError:  # who reads the pipe has left, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from None
        except OSError as error:
            text, status = _system_error(error)
            _fail(f"error: {text or _unforeseen(error, verbose)}", error, status, verbose)
        except Exception as error:
            _fail(f"error: {_unforeseen(error, verbose)}", error, 1, verbose)


def _system_error(error: OSError) -> tuple[str | None, int]:
    """Describe what the system says of a name or of standard output; return the exit status, too."""
    if error.errno == errno.ENAMETOOLONG:
        return f"'{error.filename}' is too long for the name of a file or folder: choose a shorter one", 2
    if error.errno in (errno.ENOSPC, errno.EIO, errno.EBADF) and error.filename is None:
        # So that what is left in the buffer does not fail once more at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return f"cannot write to standard output: {error.strerror}; free space or write elsewhere", 1
    return None, 1


def _unforeseen(error: Exception, verbose: bool) -> str:
    return f"{type(error).__name__}: {error}" + ("" if verbose else " (run again with -v for the traceback)")


def _once_on_one_line() -> Callable[..., None]:
    """Return a hook that prints every warning on one line, and the same text only once."""
    seen: set[str] = set()

    def show(message: Warning | str, *place: object, **options: object) -> None:
        text = brief(str(message))
        if text not in seen:
            seen.add(text)
            say(f"warning: {text}")

    return show


def brief(text: str) -> str:
    """Return a message on one line that fits a terminal: what someone typed or a file held may be of any length."""
    return shortened(" ".join(shortened(word, LONGEST_WORD) for word in text.split()), LONGEST_MESSAGE)


def _usage(error: click.ClickException) -> str:
    """Describe a mistyped command line; click and typer may both suggest the same name."""
    text = re.sub(r"( Did you mean [^?]*\?)\1+", r"\1", " ".join(error.format_message().split()))
    context = getattr(error, "ctx", None)
    return f"error: {text} See `{context.command_path if context else 'ddkit'} -h`."


def _fail(text: str, error: BaseException, status: int, verbose: bool) -> NoReturn:
    Interrupt.deaf = True  # the process is about to end: a second signal has nothing to stop
    with suppress(OSError):  # standard error may be a terminal that is gone, which is what SIGHUP says
        if verbose:
            traceback.print_exception(error)
        say(brief(text))
    raise SystemExit(status) from None
