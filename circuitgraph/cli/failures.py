"""What a user is told when a command fails, and the exit code that goes with it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from circuitgraph.errors import CircuitGraphError, out_of_memory
from circuitgraph.stopping import exit_code

FAILURE, USAGE, INTERRUPTED = 1, 2, 130
DEBUG_VARIABLE = "CIRCUITGRAPH_DEBUG"

_LOWER = (
    "Out of memory. What takes less: a smaller --batch-size, --dtype bfloat16, a smaller --cache-gib, fewer or "
    "shorter prompts. `circuitgraph graph --model MODEL --batch-size B` shows an estimate."
)


class Interrupted(Exception):
    """A command that Ctrl-C or a signal ended.

    Args:
        name: The signal.
        there: What there is of the command's work.
    """

    def __init__(self, name: str = "SIGINT", there: str = "nothing was written") -> None:
        super().__init__(there)
        self.name = name


def report(error: Exception, arguments: Sequence[str]) -> int:
    """Tell the user what went wrong.

    Args:
        error: What was raised.
        arguments: The command line.

    Returns:
        The exit code.
    """
    if isinstance(error, Interrupted):
        by = "" if error.name == "SIGINT" else f" by {error.name}"
        print(f"Interrupted{by}; {error}.", file=sys.stderr)
        return exit_code(error.name)
    debugging = bool(os.environ.get(DEBUG_VARIABLE)) or "--debug" in arguments
    if debugging:
        traceback.print_exception(error)
    if out_of_memory(error):
        first = str(error).strip().split("\n")[0]
        print(f"Error: {_LOWER}" + (f" ({first})" if first else ""), file=sys.stderr)
        return FAILURE
    if isinstance(error, CircuitGraphError):
        print(f"Error: {error}", file=sys.stderr)
        return USAGE if isinstance(error, ValueError) else FAILURE
    said = str(error).strip() or "no message"
    print(f"Error: {type(error).__name__}: {said}", file=sys.stderr)
    if not debugging:
        command = next((word for word in arguments if not word.startswith("-")), "COMMAND")
        print(
            f"This was not foreseen. For the traceback: circuitgraph --debug {command} …, or "
            f"{DEBUG_VARIABLE}=1 in the environment.",
            file=sys.stderr,
        )
    return FAILURE
