"""What the fields of a JSON line of prompts may hold."""

from __future__ import annotations

import json

_EXPECTED = {
    "wrong_answer": "a string or a list of strings",
    "correct_answers": "a list of strings",
    "spans": "a list of [name, text]",
    "corrupted_spans": "a list of [name, text]",
}


def expected(name: str) -> str:
    """What a field has to hold, in words."""
    return _EXPECTED.get(name, "a string")


def written(value: object) -> str:
    """Write a value as JSON has it, at most so much of it."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def well_typed(name: str, value: object) -> bool:
    """Say whether a field's value has the type that the field asks for; null means absent if optional."""
    if value is None:
        return name not in ("clean", "corrupted")
    strings = isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)
    if name == "correct_answers":
        return strings
    if name.endswith("spans"):
        return isinstance(value, list) and all(_is_span(item) for item in value)
    return isinstance(value, str) or (name == "wrong_answer" and strings)


def _is_span(item: object) -> bool:
    return isinstance(item, list) and len(item) == 2 and all(isinstance(part, str) for part in item)
