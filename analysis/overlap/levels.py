"""What an overlap is counted in: edges, nodes, heads or layers, as integers."""

from __future__ import annotations

import numpy as np

from analysis.strata import node_groups, strata
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.graph.part import part_of_readers
from circuitgraph.graph.universe import Universe

LEVELS = ("edges", "nodes", "heads", "layers")


def items(circuit: Circuit, level: str) -> np.ndarray:
    """What a circuit consists of at a level.

    Args:
        circuit: The circuit.
        level: `edges`: kept edges. `nodes`: writers and readers at their ends, a head's queries, keys and values
            apart from the head. `heads`: heads that write into a kept edge. `layers`: layers that have such
            a head or MLP.

    Returns:
        Different integers, the same for the same thing in every circuit of the universe, rising `[item]`. With spans of
        positions edges, nodes and heads are others at each span.

    Raises:
        UnknownNameError: No such level.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2)
        >>> circuit = Circuit.from_edges(universe, ["input->a0.h1<v>", "a0.h1->m1", "m1->logits"])
        >>> [len(items(circuit, level)) for level in LEVELS]
        [3, 5, 1, 2]
    """
    require_level(level)
    if level == "edges":
        return circuit.edge_ids
    universe = circuit.universe
    writers, readers = (np.unique(ends) for ends in universe.endpoints(circuit.edge_ids))
    if level == "nodes":
        is_mlp = universe.reader_kinds[readers] == "mlp"
        mlp_writers = np.flatnonzero(universe.writer_kinds == "mlp")
        layers, spans = universe.reader_layers[readers[is_mlp]], part_of_readers(universe.parts)[readers[is_mlp]]
        same = mlp_writers[spans * universe.n_layers + layers]
        return np.unique(np.concatenate([writers, same, universe.n_writers + readers[~is_mlp]]))
    if level == "heads":
        return writers[universe.writer_kinds[writers] == "head"]
    layers = np.unique(universe.writer_layers[writers])
    return layers[layers >= 0]


def n_items(universe: Universe, level: str) -> int:
    """How many items a universe has at a level.

    Raises:
        UnknownNameError: No such level.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=12, n_heads=12, n_kv_heads=12)
        >>> [n_items(universe, level) for level in LEVELS]
        [32491, 590, 144, 12]
    """
    require_level(level)
    return {
        "edges": universe.n_edges,
        "nodes": universe.n_writers + universe.n_readers - len(universe.parts) * universe.n_layers,
        "heads": len(universe.parts) * universe.n_layers * universe.n_heads,
        "layers": universe.n_layers,
    }[level]


def stratum_counts(one: Circuit, other: Circuit, level: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many items every stratum has, in the universe and in two circuits of it.

    Strata of edges are the layers and kinds of both ends, those of nodes their layer and kind, those of heads
    their layer.

    Args:
        one: A circuit.
        other: Another of the same universe.
        level: `edges`, `nodes` or `heads`.

    Returns:
        Sizes, and the numbers of items of the two, each `[stratum]`.

    Raises:
        ConfigurationError: `layers`, of which each would be a stratum of its own.
    """
    universe = one.universe
    if level == "layers":
        raise ConfigurationError(
            "null 'stratified' says nothing about layers: each would be a stratum by itself; use 'hypergeometric'"
        )
    if level == "edges":
        groups = strata(universe)
        exist = groups.sizes > 0
        of_one, of_other = (groups.counts(universe, circuit.edge_ids)[exist] for circuit in (one, other))
        return groups.sizes[exist], of_one, of_other
    if level == "heads":
        layers = (universe.writer_layers[items(circuit, level)] for circuit in (one, other))
        of_one, of_other = (np.bincount(of, minlength=universe.n_layers) for of in layers)
        return np.full(universe.n_layers, len(universe.parts) * universe.n_heads), of_one, of_other
    sizes = _node_counts(universe, np.arange(universe.n_writers), np.arange(universe.n_readers))
    ends = (universe.endpoints(circuit.edge_ids) for circuit in (one, other))
    of_one, of_other = (_node_counts(universe, np.unique(writers), np.unique(readers)) for writers, readers in ends)
    return sizes, of_one, of_other


def _node_counts(universe: Universe, writers: np.ndarray, readers: np.ndarray) -> np.ndarray:
    """Nodes by layer and kind, in an order that is the universe's `[stratum]`."""
    kinds = np.unique(np.concatenate([universe.writer_kinds, universe.reader_kinds]))
    node_layers, node_kinds = node_groups(universe, writers, readers)
    flat = (node_layers + 1) * len(kinds) + np.searchsorted(kinds, node_kinds)
    return np.bincount(flat, minlength=(universe.n_layers + 2) * len(kinds))


def require_level(level: str) -> None:
    """Refuse an unknown level.

    Raises:
        UnknownNameError: No such level.
    """
    if level not in LEVELS:
        raise UnknownNameError.of("level", level, LEVELS)
