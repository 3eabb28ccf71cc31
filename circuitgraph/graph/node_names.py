"""What a node is, by its name."""

from __future__ import annotations

import re

from circuitgraph.errors import UnknownNameError
from circuitgraph.graph.virtual import vector_layer

_NODE = re.compile(
    r"^(?:(?P<module>[am])(?P<layer>\d+))?(?:\.(?P<part>kv|h)(?P<head>\d+))?(?:<(?P<port>qkv|q|k|v)>)?(?:@(?P<span>.+))?$"
)


def node_span(name: str) -> str:
    """Span of token positions of a node by its name; empty where it has none.

    Examples:
        >>> node_span("a3.kv1<k>@subject"), node_span("m11")
        ('subject', '')
    """
    return "" if vector_layer(name) is not None else name.partition("@")[2]


def node_layer(name: str) -> int | None:
    """Layer of a node by its name; None for embeddings and logits.

    Examples:
        >>> node_layer("a3.kv1<k>"), node_layer("m11"), node_layer("v@4"), node_layer("logits")
        (3, 11, 4, None)
    """
    layer = vector_layer(name)
    if layer is not None:
        return layer
    match = _NODE.match(name)
    return int(match["layer"]) if match and match["layer"] is not None else None


def node_kind(name: str) -> str:
    """Kind of a node by its name: `embedding`, `vector`, `head`, `mlp`, `logits`, or the port `q`, `k`, `v`, `qkv`.

    Raises:
        UnknownNameError: The name is no node's.

    Examples:
        >>> [node_kind(name) for name in ("tok", "a0.h1", "a0.h1<q>", "m0", "logits")]
        ['embedding', 'head', 'q', 'mlp', 'logits']
    """
    if vector_layer(name) is not None:
        return "vector"
    whole, name = name, name.partition("@")[0]
    if name in ("input", "tok", "pos"):
        return "embedding"
    if name == "logits":
        return "logits"
    match = _NODE.match(name)
    if match and match["module"] == "m" and not match["part"] and not match["port"]:
        return "mlp"
    if match and match["module"] == "a" and match["part"]:
        return match["port"] or "head"
    raise UnknownNameError(f"{whole!r} is no node name; examples: input, a3.h7, a3.h7<q>, m3, logits")
