"""Names of readers that a universe does not have: which reader was meant."""

from __future__ import annotations

import re
from collections.abc import Sequence

from circuitgraph.errors import UnknownNameError

_KEY_OR_VALUE = re.compile(r"a(?P<layer>\d+)\.(?P<part>kv|h)(?P<number>\d+)<(?P<port>k|v)>")


def unknown_reader(name: str, readers: Sequence[str], *, n_heads: int, n_kv_heads: int) -> UnknownNameError:
    """Name the reader that was meant: a group's where heads share keys and values, a head's where they do not.

    Args:
        name: What came.
        readers: The universe's readers.
        n_heads: Query heads per layer.
        n_kv_heads: Key-value heads per layer.

    Returns:
        The error, ready to raise.

    Examples:
        >>> readers = ["a0.h0<q>", "a0.h1<q>", "a0.kv0<k>", "a0.kv0<v>", "m0", "logits"]
        >>> print(unknown_reader("a0.h1<k>", readers, n_heads=2, n_kv_heads=1))
        unknown reader 'a0.h1<k>'; 2 heads share one key reader, which is 'a0.kv0<k>' for this one
    """
    match = _KEY_OR_VALUE.fullmatch(name)
    if match:
        layer, number, port = match["layer"], int(match["number"]), match["port"]
        word, per_group = {"k": "key", "v": "value"}[port], n_heads // n_kv_heads
        if match["part"] == "h":
            meant = f"a{layer}.kv{number // per_group}<{port}>"
            why = f"{per_group} heads share one {word} reader, which is {meant!r} for this one"
        else:
            meant = f"a{layer}.h{number * per_group}<{port}>"
            why = f"every head has a {word} reader of its own, such as {meant!r}"
        if meant in readers:
            return UnknownNameError(f"unknown reader {name!r}; {why}")
    return UnknownNameError.of("reader", name, readers)
