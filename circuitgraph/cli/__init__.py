"""The command line: the one place that joins `circuitgraph`, `pruning` and `analysis`.

`main` is the console script. Importing this package is cheap: typer, torch and everything else load when a
command runs. Exit codes: 0 done; 1 a failure; 2 a user's error; 130, 143, 129 ended by Ctrl-C, SIGTERM,
SIGHUP; 141 nobody reads the output any more, as of `circuitgraph … | head`.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows `circuitgraph`; by default the process's own arguments.

    Returns:
        The exit code.
    """
    from circuitgraph.cli.failures import FAILURE, UNREAD, tell_system_error
    from circuitgraph.cli.invocation import ARGUMENTS

    given = list(sys.argv[1:] if arguments is None else arguments)
    _prepare_streams()
    running = ARGUMENTS.set(tuple(given))
    try:
        code = _run(given)
        if code == UNREAD:
            _silence()
        sys.stdout.flush()
    except BrokenPipeError:
        _silence()
        return UNREAD
    except OSError as error:  # what was printed last cannot be written, as to a full disk
        _silence()
        tell_system_error(error, "standard output")
        return FAILURE
    finally:
        ARGUMENTS.reset(running)
    return code


def _run(given: list[str]) -> int:
    """Run a command; gives the exit code."""
    from typer.main import get_command

    from circuitgraph.cli.app import app
    from circuitgraph.cli.failures import INTERRUPTED, Interrupted, report
    from circuitgraph.stopping import stopping

    with stopping() as stop:
        try:
            get_command(app).main(args=given, prog_name="circuitgraph")
        except SystemExit as ended:
            if stop.asked and ended.code == INTERRUPTED and _uncaught(ended):
                return report(Interrupted(stop.name), given)
            return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except Exception as error:  # noqa: BLE001 - whatever happens, a user sees a sentence and not a traceback
            return report(error, given)
    return 0


def _uncaught(ended: SystemExit) -> bool:
    """Whether a signal came where only the library of commands could catch it, so that nobody has spoken of it yet.

    A command that kept what it could leaves with the same exit code, and has.
    """
    error: BaseException | None = ended
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _prepare_streams() -> None:
    """Let no character, and no closed stream, end a command."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process lives
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _silence() -> None:
    """Lead standard output nowhere, so that Python does not try again to write what it holds."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
