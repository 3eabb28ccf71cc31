"""The command line that is being run, for the report and for messages."""

from __future__ import annotations

import shlex
from contextvars import ContextVar

ARGUMENTS: ContextVar[tuple[str, ...] | None] = ContextVar("arguments", default=None)
"""What follows `circuitgraph`; None where a command's function was called by other means."""


def command_line() -> str | None:
    """The command as one would type it."""
    arguments = ARGUMENTS.get()
    return None if arguments is None else shlex.join(["circuitgraph", *arguments])
