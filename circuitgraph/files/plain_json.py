"""Values as JSON that any program reads: no NaN, no numpy."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")


def plain_values(value: Any) -> Any:
    """A value in JSON's types: NaN and infinity become null, numpy's numbers Python's.

    Examples:
        >>> plain_values({"kl": float("nan"), "n": (1, 2)})
        {'kl': None, 'n': [1, 2]}
    """
    if isinstance(value, Mapping):
        return {str(name): plain_values(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def json_text(value: Any) -> str:
    r"""A value as JSON text for people and programs, which UTF-8 can hold whatever the value.

    Examples:
        >>> print(json_text("Zoë \ud83d"))
        "Zoë \ud83d"
    """
    text = json.dumps(plain_values(value), indent=2, ensure_ascii=False, allow_nan=False)
    return _SURROGATE.sub(lambda half: f"\\u{ord(half.group()):04x}", text)
