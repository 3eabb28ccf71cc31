"""Random circuits to compare with: as many edges between each pair of layers, and nothing that dangles.

A circuit drawn edge by edge would fall apart once dangling edges are dropped, and be far smaller than what
it is compared with. So edges are drawn, dangling ones dropped, and the shortfall drawn again, preferring
edges whose both ends are connected already, until the size is matched *after* dropping.
"""

from __future__ import annotations

import numpy as np

from circuitgraph.circuit import Circuit
from circuitgraph.gate_map import FROZEN, REMOVED, GateMap
from circuitgraph.liveness import effective_edges, readers_reaching, writers_reached
from circuitgraph.universe import Universe

_ROUNDS = 60


def layer_pairs(universe: Universe, edges: np.ndarray) -> np.ndarray:
    """A number for the pair of layers that each edge joins.

    Args:
        universe: The universe.
        edges: Flat edge indices `[n]`.

    Returns:
        Pair numbers `[n]`.
    """
    writers, readers = universe.endpoints(edges)
    return (universe.writer_layers[writers] + 1) * (universe.n_layers + 1) + universe.reader_layers[readers]


def random_circuit(circuit: Circuit, *, seed: int, gate_map: GateMap | None = None) -> Circuit:
    """A random circuit with as many edges between each pair of layers.

    Args:
        circuit: What to imitate.
        seed: Which one.
        gate_map: Of the edited graph that the circuit was found in, if it was edited: removed edges are never drawn,
            and the frozen edges of the circuit are the random circuit's as well.

    Returns:
        The random circuit. Where a pair of layers cannot be filled without dangling edges, it has fewer;
        its provenance says how many.
    """
    universe, rng = circuit.universe, np.random.default_rng(seed)
    pairs = layer_pairs(universe, np.arange(universe.n_edges))
    asked = np.bincount(pairs[circuit.edge_ids], minlength=int(pairs.max()) + 1)
    codes = np.zeros(universe.n_edges) if gate_map is None else gate_map.parameter_of_edge
    occupied = np.flatnonzero((asked[pairs] > 0) & (codes != REMOVED))
    by_pair = np.split(
        occupied[np.argsort(pairs[occupied], kind="stable")], np.cumsum(np.bincount(pairs[occupied]))[:-1]
    )
    members = {int(pairs[group[0]]): group for group in by_pair if len(group)}
    frozen = circuit.mask & (codes == FROZEN)
    kept = np.zeros(universe.n_edges, dtype=bool)
    best = kept.copy()
    for _ in range(_ROUNDS):
        kept |= frozen
        _fill(universe, kept, members, asked, pairs, rng)
        kept = effective_edges(universe, kept, circuit.ablation)
        if kept.sum() > best.sum():
            best = kept.copy()
        if kept.sum() == len(circuit):
            break
    return Circuit.from_edges(
        universe,
        best,
        ablation=circuit.ablation,
        provenance={
            "method": "random",
            "seed": seed,
            "imitates": circuit.digest,
            "missing": int(len(circuit) - best.sum()),
        },
    )


def _fill(
    universe: Universe,
    kept: np.ndarray,
    members: dict[int, np.ndarray],
    asked: np.ndarray,
    pairs: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Draw each pair's missing edges, connected ones first."""
    present = np.bincount(pairs[kept], minlength=len(asked))
    reached, reaching = writers_reached(universe, kept), readers_reaching(universe, kept)
    for pair, group in members.items():
        missing = int(asked[pair] - present[pair])
        if missing <= 0:
            continue
        free = group[~kept[group]]
        writers, readers = universe.endpoints(free)
        connected = reached[writers].astype(float) + reaching[readers]
        order = np.lexsort((rng.random(len(free)), -connected))
        kept[free[order[:missing]]] = True
