"""Modules (embeddings, heads, MLPs, the logits) and the kept edges between them.

An edge ends at a reader, a module owns the reader. Under grouped attention the heads of a group share a key
and a value reader: an edge into it is an edge into each of those heads that the circuit has.
"""

from __future__ import annotations

import networkx as nx

from circuitgraph.circuit import Circuit
from circuitgraph.universe import Universe, node_kind


def modules_reading(graph: nx.DiGraph) -> dict[str, tuple[str, ...]]:
    """Which modules of a circuit read through each of its readers.

    Args:
        graph: `Circuit.graph`.

    Returns:
        The heads that each query, key and value reader feeds; for an MLP and the logits themselves.

    Examples:
        >>> universe = Universe(family="llama", n_layers=1, n_heads=2, n_kv_heads=1)
        >>> edges = ["input->a0.kv0<v>", "a0.h0->m0", "a0.h1->logits", "m0->logits"]
        >>> modules_reading(Circuit.from_edges(universe, edges).graph)
        {'a0.kv0<v>': ('a0.h0', 'a0.h1'), 'm0': ('m0',), 'logits': ('logits',)}
    """
    owners = {}
    for name, kind in graph.nodes(data="kind"):
        if kind in ("q", "k", "v", "qkv"):
            owners[name] = tuple(graph.successors(name))
        elif kind in ("mlp", "logits"):
            owners[name] = (name,)
    return owners


def module_edges(circuit: Circuit) -> list[tuple[str, str, int]]:
    """Kept edges as writer and reading module, each with its place in `circuit.edge_ids`.

    An edge into a shared reader comes once for every head of the circuit that reads there.
    """
    owners = modules_reading(circuit.graph)
    return [
        (writer, module, place) for place, (writer, reader) in enumerate(circuit.edges) for module in owners[reader]
    ]


def modules_of(circuit: Circuit) -> dict[str, tuple[str, int]]:
    """Kind and layer of every module of a circuit, in the order of the computation."""
    modules = ("embedding", "head", "mlp", "logits")
    nodes = circuit.graph.nodes(data=True)
    return {name: (values["kind"], values["layer"]) for name, values in nodes if values["kind"] in modules}


def possible_degrees(universe: Universe, name: str) -> tuple[int, int]:
    """How many edges of the universe end in a module's readers, and how many begin at it.

    Examples:
        >>> possible_degrees(Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2), "a0.h1")
        (3, 2)
    """
    kind = node_kind(name)
    if kind == "logits":
        return universe.n_writers, 0
    writer = universe.writers.index(name)
    n_seeing = sum(block.n_readers for block in universe.blocks if block.n_writers > writer)
    if kind == "embedding":
        return 0, n_seeing
    layer = int(universe.writer_layers[writer])
    block = universe.blocks[2 * layer + (kind == "mlp")]
    n_ports = 3 if kind == "head" and universe.qkv == "split" else 1
    return n_ports * block.n_writers, n_seeing
