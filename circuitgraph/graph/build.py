"""The computation graph as networkx sees it.

`build_graph` writes a universe out as an `nx.DiGraph`. Maskable edges run from a writer to a reader and
carry `mask`, the index of their gate; structural edges run from a head's readers to the head, carry no
`mask`, and let paths run from the input to the logits. An edited copy goes back through
`circuitgraph.graph.gate_map`.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping

import networkx as nx

from circuitgraph.graph.node_names import node_kind, node_layer
from circuitgraph.graph.universe import Universe

STRUCTURAL = "structural"


def node_attributes(universe: Universe) -> Iterator[tuple[str, dict[str, object]]]:
    """Every node of a universe with its `kind` and `layer`, in the order of the computation.

    Yields:
        Name and attributes; `layer` is -1 for embeddings and `n_layers` for the logits. With spans of positions the
            order is that of the spans, and each node has its `span` too.
    """
    plain = universe.without_spans
    names = list(plain.writers[: plain.n_embeddings])
    for layer in range(plain.n_layers):
        names += [name for name in plain.virtual if node_layer(name) == layer]
        names += plain.attention_readers(layer)
        names += [f"a{layer}.h{head}" for head in range(plain.n_heads)]
        names.append(f"m{layer}")
    for part in universe.parts:
        asked = ["logits"] if part.blocks[-1].kind == "logits" else []
        for name in [*names, *asked]:
            kind, layer = node_kind(name), node_layer(name)
            if layer is None:
                layer = universe.n_layers if kind == "logits" else -1
            if part.span:
                yield f"{name}@{part.span}", {"kind": kind, "layer": layer, "span": part.span}
            else:
                yield name, {"kind": kind, "layer": layer}


def _maskable_edges(universe: Universe) -> Iterator[tuple[str, str, dict[str, object]]]:
    kinds, offsets = universe.reader_kinds.tolist(), universe.reader_offsets.tolist()
    for part in universe.parts:
        writers = universe.writers[part.writers]
        for index in range(part.readers.start, part.readers.stop):
            reader, first, kind = universe.readers[index], offsets[index], kinds[index]
            for position in range(offsets[index + 1] - first):
                yield writers[position], reader, {"mask": first + position, "kind": kind}


def build_graph(universe: Universe, attributes: Mapping[str, object] | None = None) -> nx.DiGraph:
    """Write a universe out as a graph.

    Args:
        universe: What fixes the edges.
        attributes: Kept in `graph.graph` beside the universe, e.g. the model and its config hash.

    Returns:
        The graph. Maskable edges have `mask` (int) and `kind` (`q`, `k`, `v`, `qkv`, `mlp`, `logits`);
        structural edges have only `kind="structural"`.

    Examples:
        >>> graph = build_graph(Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2))
        >>> graph.edges["input", "m0"]
        {'mask': 6, 'kind': 'mlp'}
        >>> nx.has_path(graph, "input", "logits")
        True
    """
    graph = nx.DiGraph(**{**(attributes or {}), "universe": universe.to_dict()})
    # Millions of small dicts in a row make the cyclic collector scan them again and again for nothing.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        graph.add_nodes_from(node_attributes(universe))
        graph.add_edges_from(_maskable_edges(universe))
        graph.add_edges_from(universe.structural_edges(), kind=STRUCTURAL)
    finally:
        if was_enabled:
            gc.enable()
    return graph
