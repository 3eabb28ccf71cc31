"""Modules (embeddings, heads, MLPs, the logits) and the kept edges between them.

An edge ends at a reader, and a module reads through it. Under grouped attention the heads of a group share a
key and a value reader: an edge into it is an edge into each of those heads that the circuit has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.graph.node_names import node_kind
from circuitgraph.graph.spans import refuse_spans
from circuitgraph.graph.universe import SOURCES, Universe


@dataclass(frozen=True, kw_only=True)
class ModuleEdges:
    """Edges as pairs of modules. Modules have the index of their writer; the logits come after the writers.

    Attributes:
        writers: The module that writes `[pair]`.
        readers: The module that reads `[pair]`.
        places: Which of the edges it is, by position `[pair]`; one into a shared reader comes several times.
    """

    writers: np.ndarray
    readers: np.ndarray
    places: np.ndarray


def module_edges(universe: Universe, edges: np.ndarray) -> ModuleEdges:
    """Join modules by edges.

    Args:
        universe: The universe.
        edges: Flat edge indices, of a circuit for example `[edge]`.

    Returns:
        The pairs, in the order of the edges. Of the heads that share a reader only those count that write
        into one of the edges.

    Examples:
        >>> universe = Universe(family="llama", n_layers=1, n_heads=4, n_kv_heads=2)
        >>> circuit = Circuit.from_edges(universe, ["input->a0.kv1<v>", "a0.h2->m0", "a0.h3->logits", "m0->logits"])
        >>> pairs = module_edges(universe, circuit.edge_ids)
        >>> names = module_names(universe)
        >>> [(names[writer], names[reader]) for writer, reader in zip(pairs.writers, pairs.readers)]
        [('input', 'a0.h2'), ('input', 'a0.h3'), ('a0.h2', 'm0'), ('a0.h3', 'logits'), ('m0', 'logits')]
    """
    writers, readers = universe.endpoints(edges)
    first, n_sharing = modules_reading(universe)
    n_sharing = n_sharing[readers]
    places = np.repeat(np.arange(len(edges)), n_sharing)
    number = np.arange(len(places)) - np.repeat(np.cumsum(n_sharing) - n_sharing, n_sharing)
    modules = first[readers][places] + number
    is_there = np.zeros(universe.n_writers + 1, dtype=bool)
    is_there[writers] = is_there[-1] = True
    stays = is_there[modules]
    return ModuleEdges(writers=writers[places][stays], readers=modules[stays], places=places[stays])


def modules_reading(universe: Universe) -> tuple[np.ndarray, np.ndarray]:
    """Which modules read through every reader: the first, and how many follow one another from there.

    Examples:
        >>> modules_reading(Universe(family="llama", n_layers=1, n_heads=4, n_kv_heads=2))[1].tolist()
        [1, 1, 1, 1, 2, 2, 2, 2, 1, 1]
    """
    refuse_spans(universe, "what joins modules (hubs, composition, coarser graphs)")
    first = np.full(universe.n_readers, universe.n_writers)  # the logits come after all writers
    counts = np.zeros(universe.n_readers, dtype=np.int64)
    counts[-1] = 1
    for block in universe.blocks:
        modules = np.broadcast_to(
            np.arange(len(block.readers_of))[:, None] + block.first_written, block.readers_of.shape
        )
        np.minimum.at(first[block.readers], block.readers_of, modules)
        np.add.at(counts[block.readers], block.readers_of, 1)
    return first, counts


def module_names(universe: Universe) -> tuple[str, ...]:
    """Names of modules by their index: the writers, then the logits."""
    return (*universe.writers, "logits")


def modules_of(circuit: Circuit) -> dict[str, tuple[str, int]]:
    """Kind and layer of every module of a circuit, in the order of the computation."""
    universe = circuit.universe
    pairs = module_edges(universe, circuit.edge_ids)
    present = np.unique(np.concatenate([pairs.writers, pairs.readers])).tolist()
    names = module_names(universe)
    layers = [*universe.writer_layers.tolist(), universe.n_layers]
    return {names[index]: (node_kind(names[index]), layers[index]) for index in present}


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
    if kind in SOURCES:
        return 0, n_seeing
    layer = int(universe.writer_layers[writer])
    block = universe.blocks[2 * layer + (kind == "mlp")]
    n_ports = 3 if kind == "head" and universe.qkv == "split" else 1
    return n_ports * block.n_writers, n_seeing
