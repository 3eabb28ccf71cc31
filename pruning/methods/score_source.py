"""Where scores for a training come from: the name of a method that ranks edges, or a place with saved scores."""

from __future__ import annotations

import os

from circuitgraph.errors import UnknownNameError
from pruning.methods.registry import METHODS

TRAINED = ("edge-pruning", "nested")
"""Registered methods that are trainings themselves."""
NAMES = tuple(name for name in METHODS if name not in TRAINED)


def is_place(source: str) -> bool:
    """Whether a source is a place with saved scores: a path with a separator in it, or a JSON file.

    Args:
        source: What was given.

    Examples:
        >>> is_place("runs/eap"), is_place("./eap"), is_place("scores.json"), is_place("eap")
        (True, True, True, False)
    """
    return "/" in source or os.sep in source or source.endswith(".json")


def check_source(what: str, source: str, others: tuple[str, ...] = ()) -> None:
    """Refuse what names neither a method nor a place.

    Args:
        what: What the message calls it.
        source: What was given.
        others: What else it may be.

    Raises:
        UnknownNameError: There is no such method.
    """
    if source not in others and source not in NAMES and not is_place(source):
        extra = "A folder of saved scores is given by a path, such as ./" + source
        raise UnknownNameError.of(what, source, (*others, *NAMES), extra)


def settled(source: str) -> str:
    """A source that holds wherever a run goes on: a path becomes absolute.

    Args:
        source: What was given.
    """
    return source if source in NAMES or not is_place(source) else os.path.abspath(os.path.expanduser(source))
