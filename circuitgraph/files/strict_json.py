"""JSON as the standard has it: no key twice in an object, no NaN, no number or nesting that a program chokes on."""

from __future__ import annotations

import json
from typing import Any, NoReturn

MOST_NESTED = 100
"""Levels of brackets; results of ours have six."""


def parse_strictly(text: str, *, constants: bool = False) -> Any:
    """Read JSON and refuse what readers would understand differently.

    Args:
        text: JSON text.
        constants: Whether NaN and infinity, which other tools write, are read all the same.

    Raises:
        json.JSONDecodeError: No JSON.
        ValueError: A key twice in one object, NaN or infinity (unless `constants`), an integer of thousands of digits,
            or brackets nested deeper than `MOST_NESTED`.

    Examples:
        >>> parse_strictly('{"score": 1.0}')
        {'score': 1.0}
        >>> parse_strictly('{"score": 1.0, "score": 99.0}')
        Traceback (most recent call last):
            ...
        ValueError: the key 'score' comes twice in one object; keep one
    """
    try:
        constant = float if constants else _no_constant
        value = json.loads(text, parse_constant=constant, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    refuse_deep(value)
    return value


_TOO_DEEP = f"brackets are nested deeper than {MOST_NESTED} levels"


def refuse_deep(value: object) -> None:
    """Refuse values nested deeper than `MOST_NESTED`.

    Raises:
        ValueError: They are.

    Examples:
        >>> refuse_deep([[1], {"a": [2]}])
    """
    level = [value]
    for _ in range(MOST_NESTED):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list, tuple))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError(_TOO_DEEP)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"it holds {text}, which JSON does not know")


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(items)
    if len(record) < len(items):
        seen: set[str] = set()
        twice = next(name for name, _ in items if name in seen or seen.add(name))
        raise ValueError(f"the key {twice!r} comes twice in one object; keep one")
    return record
