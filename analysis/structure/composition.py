"""Composition between heads: kept edges from a head into another head's query, key or value.

The words are those of Elhage et al. (2021), A Mathematical Framework for Transformer Circuits: a head composes
with a later one through its query (Q), its key (K) or its value (V).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.structure.modules import module_edges, module_names
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.strength import strengths_of
from circuitgraph.graph.node_names import node_layer

COMPOSITION_COLUMNS = (
    "source", "target", "kind", "source_layer", "target_layer", "score", "edge", "n_sharing",
)  # fmt: skip


def composition(circuit: Circuit) -> pd.DataFrame:
    """Every pair of heads that compose, and how.

    Args:
        circuit: The circuit.

    Returns:
        A row per pair of heads and kind, the strongest edge first: `source`, `target` (heads), `kind` (`q`,
        `k`, `v`, or `qkv` where the universe keeps them joint), `source_layer`, `target_layer`, `score`,
        `edge` (its name) and `n_sharing`: how many heads of the circuit share the reader, and so the edge.
        Count edges by distinct `edge`. Without head-to-head edges: no rows.

    Examples:
        >>> from circuitgraph.graph.universe import Universe
        >>> universe = Universe(family="gpt2", n_layers=2, n_heads=1, n_kv_heads=1)
        >>> scores = {"input->a0.h0<v>": 1.0, "a0.h0->a1.h0<k>": -2.0, "a1.h0->logits": 1.0}
        >>> composition(Circuit.from_edges(universe, scores))[["source", "target", "kind", "score"]].values.tolist()
        [['a0.h0', 'a1.h0', 'k', -2.0]]
    """
    universe = circuit.universe
    pairs, names = module_edges(universe, circuit.edge_ids), module_names(universe)
    columns = (pairs.writers.tolist(), pairs.readers.tolist(), pairs.places.tolist())
    n_sharing, heads, scores = np.bincount(pairs.places).tolist(), set(circuit.heads), circuit.scores.tolist()
    rows = [
        {
            "source": names[writer],
            "target": names[module],
            "kind": circuit.kinds[place],
            "source_layer": node_layer(names[writer]),
            "target_layer": node_layer(names[module]),
            "score": scores[place],
            "edge": "->".join(circuit.edges[place]),
            "n_sharing": n_sharing[place],
        }
        for writer, module, place in zip(*columns, strict=True)
        if names[writer] in heads and names[module] in heads
    ]
    table = pd.DataFrame(rows, columns=list(COMPOSITION_COLUMNS))
    strengths = strengths_of(table["score"].to_numpy(dtype=np.float64), circuit.score_meaning)
    return table.iloc[np.argsort(-strengths, kind="stable")].reset_index(drop=True)


def composition_counts(circuit: Circuit) -> pd.DataFrame:
    """How much heads compose, by kind, with the number of edges that could be.

    Args:
        circuit: The circuit.

    Returns:
        A row per kind of the universe (`q`, `k`, `v` or `qkv`): `kind`, `n_edges` (kept, each once), `n_universe`
        (all head-to-head edges of the kind), `share` (0 where a model of one layer has none), `score` (sum of
        |score|), `n_sources` and `n_targets` (heads that take part).

    Examples:
        >>> from circuitgraph.graph.universe import Universe
        >>> universe = Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2)
        >>> edges = ["input->a0.h0<v>", "a0.h0->a1.h0<k>", "a1.h0->logits"]
        >>> composition_counts(Circuit.from_edges(universe, edges))[["kind", "n_edges", "n_universe"]].values.tolist()
        [['q', 0, 4], ['k', 1, 4], ['v', 0, 4]]
    """
    universe, pairs = circuit.universe, composition(circuit)
    # Layer l has l * n_heads heads before it.
    heads_before = universe.n_heads * universe.reader_layers
    rows = []
    for kind in ("qkv",) if universe.qkv == "joint" else ("q", "k", "v"):
        chosen = pairs.loc[pairs["kind"] == kind]
        once = chosen.drop_duplicates(subset=["edge"])
        n_universe = int(heads_before[universe.reader_kinds == kind].sum())
        rows.append(
            {
                "kind": kind,
                "n_edges": len(once),
                "n_universe": n_universe,
                "share": len(once) / max(n_universe, 1),
                "score": float(strengths_of(once["score"].to_numpy(dtype=np.float64), circuit.score_meaning).sum()),
                "n_sources": len(set(chosen["source"])),
                "n_targets": len(set(chosen["target"])),
            }
        )
    return pd.DataFrame(rows)
