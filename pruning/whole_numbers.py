"""Whole numbers that a caller gives: checked before any work, named in the message."""

from __future__ import annotations

import operator

from circuitgraph.errors import ConfigurationError

MOST_SEED = 2**64 - 1
"""The largest seed that torch's generators take."""


def whole_number(name: str, value: object, *, least: int = 0, most: int | None = None) -> int:
    """A whole number of at least `least`, as Python's own `int`.

    Args:
        name: What the message calls it.
        value: An integer; numpy's will do.
        least: The smallest that makes sense.
        most: The largest that makes sense; None for no limit.

    Raises:
        ConfigurationError: It is no integer, too small or too large.

    Examples:
        >>> import numpy as np
        >>> whole_number("seed", np.int64(3))
        3
        >>> whole_number("n_random", -1)
        Traceback (most recent call last):
            ...
        circuitgraph.errors.ConfigurationError: n_random must be a whole number of at least 0; got -1
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < least:
        raise ConfigurationError(f"{name} must be a whole number of at least {least}; got {value!r}")
    if most is not None and number > most:
        raise ConfigurationError(f"{name} must be at most {most}; got {number}")
    return number
