"""TOML of plain values: what `tomllib` reads again. The standard library has a reader and no writer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def toml_text(values: Mapping[str, Any]) -> str:
    """Write a table: its own values first, then the tables within it.

    Args:
        values: Texts, numbers, truth values, lists of these, and tables. None is left out, as TOML has none.

    Raises:
        TypeError: A value of another type.

    Examples:
        >>> print(toml_text({"seed": 0, "task": {"name": "ioi", "sizes": {"train": 8}}, "splits": ["test"]}), end="")
        seed = 0
        splits = ["test"]
        <BLANKLINE>
        [task]
        name = "ioi"
        <BLANKLINE>
        [task.sizes]
        train = 8
    """
    return "\n".join(_table(values, ())).lstrip("\n") + "\n"


def _table(values: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    own = [
        f"{_key(name)} = {_value(value)}"
        for name, value in values.items()
        if not isinstance(value, Mapping) and value is not None
    ]
    lines = ["", f"[{'.'.join(map(_key, path))}]"] if path and (own or not values) else []
    lines += own
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines += _table(value, (*path, name))
    return lines


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, str):
        # JSON's escapes are TOML's; only DEL has to be escaped in addition.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    raise TypeError(f"TOML has no {type(value).__name__}: {value!r}")
