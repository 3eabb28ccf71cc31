"""JSON that readers would understand differently is refused."""

from __future__ import annotations

import pytest

from circuitgraph.files.strict_json import MOST_NESTED, parse_strictly


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": {"b": 1, "c": 2, "b": 3}}', "the key 'b' comes twice"),
        ('{"a": NaN}', "holds NaN"),
        ('{"a": -Infinity}', "holds -Infinity"),
        ("[" * (MOST_NESTED + 1) + "]" * (MOST_NESTED + 1), "nested deeper than 100"),
        ("[" * 100_000 + "]" * 100_000, "nested deeper than 100"),
        ('{"a": ' * 500 + "1" + "}" * 500, "nested deeper than 100"),
        ("1" + "0" * 5000, "digits"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_strictly(text)


def test_what_is_read() -> None:
    deep = "[" * MOST_NESTED + "]" * MOST_NESTED
    assert parse_strictly(deep) is not None
    assert parse_strictly('{"a": [1, {"a": 2}], "b": "é\\ud83d"}') == {"a": [1, {"a": 2}], "b": "é\ud83d"}
