"""The entry of the command line: handles signals first, then imports, runs a command and ends with a status."""

from __future__ import annotations

import io
import sys

from ddkit.base.interrupt import CommandInterrupt


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors become one line and an exit status.

    The status is 2 for bad input (nothing was started), 1 for a run that failed, 130 where Ctrl-C, SIGTERM or SIGHUP
    stopped it.

    Args:
        arguments: what stands behind ``ddkit``; None for those of the process, which then ends with the command.

    Raises:
        SystemExit: with a status other than 0; success returns.
    """
    with CommandInterrupt(to_the_end=arguments is None):
        from ddkit.base.memory import freed_memory_kept
        from ddkit.cli.commands import invoke
        from ddkit.cli.errors import on_one_line

        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a name that a terminal cannot show is no reason to fail
        typed = list(sys.argv[1:] if arguments is None else arguments)
        with freed_memory_kept(), on_one_line(verbose=bool({"-v", "--verbose"} & set(typed))):
            invoke(typed)
