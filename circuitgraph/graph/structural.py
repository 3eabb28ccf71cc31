"""Structural edges: from a head's readers to the head, so that paths run from the input to the logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuitgraph.graph.universe import Universe


def structural_edges(universe: Universe) -> list[tuple[str, str]]:
    """The structural edges of a universe without spans, as pairs of names.

    Where heads share a scale, every reader of a layer leads to every head of it.

    Args:
        universe: The universe.
    """
    pairs: list[tuple[str, str]] = []
    if universe.head_scale == "shared":
        for layer in range(universe.n_layers):
            readers = universe.attention_readers(layer)
            pairs += [(reader, f"a{layer}.h{head}") for head in range(universe.n_heads) for reader in readers]
        return pairs
    kv = "kv" if universe.grouped else "h"
    for layer in range(universe.n_layers):
        for head in range(universe.n_heads):
            name = f"a{layer}.h{head}"
            if universe.qkv == "joint":
                pairs.append((f"{name}<qkv>", name))
                continue
            shared = head // universe.group_size if universe.grouped else head
            pairs.append((f"{name}<q>", name))
            pairs += [(f"a{layer}.{kv}{shared}<{letter}>", name) for letter in "kv"]
    return pairs
