"""What a user is told when a command fails, and the exit code that goes with it."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence

from circuitgraph.errors import CircuitGraphError, out_of_memory
from circuitgraph.files.atomic_file import reason
from circuitgraph.stopping import Stopped, exit_code

FAILURE, USAGE, INTERRUPTED, UNREAD = 1, 2, 130, 141
DEBUG_VARIABLE = "CIRCUITGRAPH_DEBUG"

_LOWER = (
    "Out of memory. Try: a smaller --batch-size, --dtype bfloat16, a smaller --cache-gib, fewer or shorter prompts. "
    "`circuitgraph graph --model MODEL --batch-size B` shows an estimate."
)

_OF_THE_SYSTEM = {
    errno.ENOSPC: "make room, or write somewhere else",
    errno.EDQUOT: "make room, or write somewhere else",
    errno.EFBIG: "write somewhere else, or raise the limit on a file's size (ulimit -f)",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: "choose a place that can be read and written",
    errno.EPERM: "choose a place that can be read and written",
    errno.ENOENT: "give a path that is there",
    errno.ENOTDIR: "a part of the path is a file; give another path",
    errno.EISDIR: "give a file, not a folder",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.EIO: "the disk or the terminal failed; try another place",
}
"""What to do about what the system refuses."""


class Interrupted(Exception):
    """A command that Ctrl-C or a signal ended.

    Args:
        name: The signal.
        there: What there is of the command's work.
    """

    def __init__(self, name: str = "SIGINT", there: str = "nothing was written") -> None:
        super().__init__(there)
        self.name = name


@contextlib.contextmanager
def telling_what_is_there(there: Callable[[], str]) -> Iterator[None]:
    """Where a command is ended early, say what there is of its work.

    Args:
        there: Says it, and how to go on; asked only then.

    Raises:
        Interrupted: It was.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(error.name if isinstance(error, Stopped) else "SIGINT", there()) from None


class Unread(Exception):
    """Nobody reads standard output any more."""


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
        return exit_code(error.name) or FAILURE
    if isinstance(error, Unread):
        return UNREAD
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
    if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM:
        tell_system_error(error)
        return FAILURE
    said = str(error).strip() or "no message"
    print(f"Error: {type(error).__name__}: {said}", file=sys.stderr)
    if not debugging:
        command = next((word for word in arguments if not word.startswith("-")), "COMMAND")
        print(
            "Unexpected error, probably a bug in circuitgraph. For the traceback: "
            f"circuitgraph --debug {command} …, or {DEBUG_VARIABLE}=1 in the environment.",
            file=sys.stderr,
        )
    return FAILURE


def tell_system_error(error: OSError, where: str = "") -> None:
    """Tell the user what the system refused, and what to do.

    Args:
        error: What was raised.
        where: What it was about, if the error does not name a file.
    """
    where = str(error.filename) if error.filename is not None else where
    advice = _OF_THE_SYSTEM.get(error.errno or 0, "try another place")
    print(f"Error: {where}{': ' if where else ''}{reason(error)}; {advice}", file=sys.stderr)
