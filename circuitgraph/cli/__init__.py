"""The command line: the one place that joins `circuitgraph`, `pruning` and `analysis`.

`main` is the console script. Importing this package is cheap: typer, torch and everything else load when a
command runs. Exit codes: 0 done; 1 a failure; 2 a user's error; 130, 143, 129 ended by Ctrl-C, SIGTERM,
SIGHUP.
"""

from __future__ import annotations

import io
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
    from typer.main import get_command

    from circuitgraph.cli.app import app
    from circuitgraph.cli.failures import INTERRUPTED, Interrupted, report
    from circuitgraph.cli.invocation import ARGUMENTS
    from circuitgraph.stopping import stopping

    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    running = ARGUMENTS.set(tuple(given))
    try:
        with stopping() as stop:
            get_command(app).main(args=given, prog_name="circuitgraph")
    except SystemExit as ended:
        if stop.asked and ended.code == INTERRUPTED:  # it came where only the library of commands could catch it
            return report(Interrupted(stop.name), given)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except Exception as error:  # noqa: BLE001 - whatever happens, a user sees a sentence and not a traceback
        return report(error, given)
    finally:
        ARGUMENTS.reset(running)
    return 0
