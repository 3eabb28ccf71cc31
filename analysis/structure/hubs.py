"""Hubs: how many kept edges end and begin at each module, how strong they are, and what lies in reach."""

from __future__ import annotations

import networkx as nx
import pandas as pd

from analysis.structure.modules import module_edges, module_names, modules_of, possible_degrees
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import UnknownNameError
from circuitgraph.graph.build import STRUCTURAL
from circuitgraph.graph.universe import SOURCES

_PORTS = ("q", "k", "v", "qkv")
HUB_COLUMNS = (
    "node", "kind", "layer", "degree", "in_degree", "in_possible", "out_degree", "out_possible", "in_q", "in_k",
    "in_v", "in_qkv", "in_score", "out_score",
)  # fmt: skip


def hubs(circuit: Circuit, *, by: str = "degree") -> pd.DataFrame:
    """Degrees of the circuit's modules, the largest first.

    Args:
        circuit: The circuit.
        by: The column to sort by, from the largest down; equal rows stay in the order of the computation.

    Returns:
        A row an embedding, head, MLP or logits of the circuit: `node`, `kind`, `layer`; `in_degree` (kept
        edges into its readers; one into a key or value reader that several heads share counts for each of
        them), `out_degree` (kept edges from it), `degree` (their sum); `in_possible` and `out_possible`, the
        same for the whole universe; `in_q`, `in_k`, `in_v` and `in_qkv`, the in-degree of heads by reader;
        `in_score` and `out_score`, sums of |score|. An empty circuit: no rows.

    Raises:
        UnknownNameError: No such column.

    Examples:
        >>> from circuitgraph.graph.universe import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
        >>> scores = {"input->a0.h1<k>": 1.0, "input->a0.h1<v>": -2.0, "a0.h1->logits": 3.0}
        >>> hubs(Circuit.from_edges(universe, scores))[["node", "in_degree", "in_score"]].values.tolist()
        [['a0.h1', 2, 3.0], ['input', 0, 0.0], ['logits', 1, 3.0]]
    """
    if by not in HUB_COLUMNS:
        raise UnknownNameError.of("column", by, HUB_COLUMNS)
    rows = {}
    for name, (kind, layer) in modules_of(circuit).items():
        n_in, n_out = possible_degrees(circuit.universe, name)
        row = dict.fromkeys(HUB_COLUMNS, 0) | {"in_score": 0.0, "out_score": 0.0}
        rows[name] = row | {"node": name, "kind": kind, "layer": layer, "in_possible": n_in, "out_possible": n_out}
    sizes = circuit.strengths.tolist()
    for place, (writer, _) in enumerate(circuit.edges):
        rows[writer]["out_degree"] += 1
        rows[writer]["out_score"] += sizes[place]
    pairs, names = module_edges(circuit.universe, circuit.edge_ids), module_names(circuit.universe)
    for index, place in zip(pairs.readers.tolist(), pairs.places.tolist(), strict=True):
        module = names[index]
        rows[module]["in_degree"] += 1
        rows[module]["in_score"] += sizes[place]
        if circuit.kinds[place] in _PORTS:
            rows[module][f"in_{circuit.kinds[place]}"] += 1
    for row in rows.values():
        row["degree"] = row["in_degree"] + row["out_degree"]
    table = pd.DataFrame(list(rows.values()), columns=list(HUB_COLUMNS))
    return table.sort_values(by, ascending=by in ("node", "kind", "layer"), kind="stable", ignore_index=True)


def reachability(circuit: Circuit) -> pd.DataFrame:
    """How much of a circuit lies before and after each node, and how far it is from both ends.

    Args:
        circuit: The circuit.

    Returns:
        A row per node of the circuit, readers included, in the order of the computation: `node`, `kind`,
        `layer`; `n_before` and `n_after`, the modules that reach it and that it reaches, itself left out;
        `shortest_in` and `longest_in`, the fewest and the most kept edges on a path from an embedding, and
        `shortest_out` and `longest_out`, those to the logits. They are whole numbers, or `<NA>` where there
        is no path (a writer without inputs, which is kept under zero and mean ablation).

    Examples:
        >>> from circuitgraph.graph.universe import Universe
        >>> universe = Universe(family="gpt2", n_layers=2, n_heads=1, n_kv_heads=1)
        >>> edges = ["input->m0", "m0->m1", "input->m1", "m1->logits"]
        >>> table = reachability(Circuit.from_edges(universe, edges)).set_index("node")
        >>> table.loc["m1", ["n_before", "n_after", "shortest_in", "longest_in"]].tolist()
        [2, 1, 1, 2]
    """
    graph = circuit.graph
    place = {name: index for index, name in enumerate(modules_of(circuit))}
    before, after = _reached(graph, place), _reached(graph.reverse(copy=False), place, backwards=True)
    embeddings = [name for name, kind in graph.nodes(data="kind") if kind in SOURCES]
    stops = [name for name in ("logits",) if name in graph]
    shortest_in, longest_in = _distances(graph, embeddings)
    shortest_out, longest_out = _distances(graph.reverse(copy=False), stops, backwards=True)
    rows = [
        {
            "node": name,
            "kind": values["kind"],
            "layer": values["layer"],
            "n_before": before[name],
            "n_after": after[name],
            "shortest_in": shortest_in.get(name),
            "longest_in": longest_in.get(name),
            "shortest_out": shortest_out.get(name),
            "longest_out": longest_out.get(name),
        }
        for name, values in graph.nodes(data=True)
    ]
    columns = ["shortest_in", "longest_in", "shortest_out", "longest_out"]
    table = pd.DataFrame(rows, columns=["node", "kind", "layer", "n_before", "n_after", *columns])
    return table.astype(dict.fromkeys(columns, "Int64") | dict.fromkeys(["layer", "n_before", "n_after"], "int64"))


def _order(graph: nx.DiGraph, backwards: bool) -> list[str]:
    """The nodes of a circuit's graph in the order of the computation, in which it lists them, or back."""
    return list(graph)[:: -1 if backwards else 1]


def _reached(graph: nx.DiGraph, place: dict[str, int], *, backwards: bool = False) -> dict[str, int]:
    """How many modules come before each node; sets of modules are bits of a whole number."""
    bits: dict[str, int] = {}
    for node in _order(graph, backwards):
        bits[node] = 0
        for other in graph.pred[node]:
            bits[node] |= bits[other] | (1 << place[other] if other in place else 0)
    return {node: value.bit_count() for node, value in bits.items()}


def _distances(
    graph: nx.DiGraph, starts: list[str], *, backwards: bool = False
) -> tuple[dict[str, int], dict[str, int]]:
    """Fewest and most kept edges from the starts, for the nodes that they reach."""
    fewest, most = dict.fromkeys(starts, 0), dict.fromkeys(starts, 0)
    for node in _order(graph, backwards):
        steps = [(other, values["kind"] != STRUCTURAL) for other, values in graph.pred[node].items() if other in fewest]
        if steps and node not in starts:
            fewest[node] = min(fewest[other] + step for other, step in steps)
            most[node] = max(most[other] + step for other, step in steps)
    return fewest, most
