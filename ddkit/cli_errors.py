"""How does the command line tell warnings and errors: one line each, and an exit status."""

from __future__ import annotations

import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import click

from ddkit.cli_tables import say
from ddkit.errors import DDKitError, InterruptedRunError
from ddkit.interrupt import Interrupt


@contextmanager
def on_one_line(verbose: bool) -> Iterator[None]:
    """Turn every error into one line on standard error and an exit status.

    Args:
        verbose: show warnings as Python does, and the traceback of an error before its line.

    Raises:
        SystemExit: with status 2 for bad input, 1 for a failed run, 130 when interrupted, or what click asks for.
    """
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
        except Exception as error:
            hint = "" if verbose else " (run again with -v for the traceback)"
            _fail(f"error: {type(error).__name__}: {error}{hint}", error, 1, verbose)


def _once_on_one_line() -> Callable[..., None]:
    """Return a hook that prints every warning on one line, and the same text only once."""
    seen: set[str] = set()

    def show(message: Warning | str, *place: object, **options: object) -> None:
        text = " ".join(str(message).split())
        if text not in seen:
            seen.add(text)
            say(f"warning: {text}")

    return show


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
        say(" ".join(text.split()))
    raise SystemExit(status) from None
