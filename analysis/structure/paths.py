"""Paths from the input to the logits: the strongest, how many there are, and which nodes they pass.

A circuit has far too many paths to list, but no cycles. So both the k best and the counts come from one
sweep over its nodes in the order of the computation.

1. Every node keeps the k best ways to reach it, best first.
2. The ways into a node are those of its predecessors, each longer by one edge; lengthening keeps their order,
   so the lists are merged and cut at k.
3. Each way points at the one it lengthens; the paths are read off backwards from the targets.
"""

from __future__ import annotations

import heapq
import re
from itertools import islice, pairwise
from typing import NamedTuple

import networkx as nx
import pandas as pd

from analysis.structure.ends import Names, as_names, find_ends, graph_between, restrict_to_passing
from analysis.structure.strength import Rank, Strength, make_strength
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.build import STRUCTURAL

_PORT = re.compile(r"<\w+>")
PATH_COLUMNS = ("rank", "path", "strength", "n_edges", "weakest_edge", "sign", "nodes")


class _Way(NamedTuple):
    """A path so far: its rank, its last node, and the way before that."""

    rank: Rank
    node: str
    before: _Way | None

    @property
    def nodes(self) -> list[str]:
        """The nodes from the source on."""
        names, way = [], self
        while way is not None:
            names.append(way.node)
            way = way.before
        return names[::-1]


def strongest_paths(
    circuit: Circuit,
    k: int = 10,
    *,
    by: str = "weakest",
    sources: Names = None,
    targets: Names = None,
    through: Names = None,
) -> pd.DataFrame:
    """The k strongest paths, exactly.

    Args:
        circuit: The circuit.
        k: How many paths at most.
        by: What makes a path strong: `weakest`, `lowest` or `product`, see `analysis.structure.strength`.
        sources: Writers to start from; the embeddings if None.
        targets: Readers, heads or MLPs to end at; the logits if None.
        through: Nodes, such as `a3.h7`, or edges, such as `a3.h7->m4`, that a path has to pass, all of them.

    Returns:
        A row a path, the strongest first; equally strong ones in an order that never changes. `rank` from 1,
        `path` as text, `strength`, `n_edges` (kept edges; structural ones do not count), `weakest_edge` (by
        the score itself for `lowest`, else by |score|; the first of several), `sign` of the product of the
        scores (-1, 0 or 1), and `nodes`, a tuple of names, heads and their readers included. A circuit
        without such a path: no rows.

    Raises:
        ConfigurationError: k is below 1, or a node is both a source and a target.
        UnknownNameError: No such measure, node or edge.

    Examples:
        >>> from circuitgraph.graph.universe import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> scores = {"input->a0.h0<v>": 3.0, "a0.h0->logits": 2.0, "a0.h0->m0": -4.0, "m0->logits": 1.0}
        >>> paths = strongest_paths(Circuit.from_edges(universe, scores))
        >>> print(paths[["path", "strength", "sign"]].to_string(index=False))
                                         path  strength  sign
              input -> a0.h0<v> -> logits       2.0     1
        input -> a0.h0<v> -> m0 -> logits       1.0    -1
    """
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise ConfigurationError(f"k, the number of paths, must be a whole number of at least 1; got {k!r}")
    values = (circuit.scores if by == "lowest" else circuit.strengths).tolist()
    strength = make_strength(by, values)
    graph, starts, stops = _part(circuit, sources, targets, through)
    for edge, value in zip(circuit.edges, values, strict=True):
        if graph.has_edge(*edge):
            graph.edges[edge]["value"] = value
    ways = _best_ways(graph, starts, strength, k)
    best = heapq.merge(*(ways[name] for name in stops), key=lambda way: way.rank)
    rows = [_row(graph, way, rank, strength) for rank, way in enumerate(islice(best, k), 1)]
    return pd.DataFrame(rows, columns=list(PATH_COLUMNS))


def count_paths(circuit: Circuit, *, sources: Names = None, targets: Names = None, through: Names = None) -> int:
    """How many paths there are, exactly and however many; arguments as for `strongest_paths`.

    Examples:
        >>> import numpy as np
        >>> from circuitgraph.graph.universe import Universe
        >>> gpt2 = Universe(family="gpt2", n_layers=12, n_heads=12, n_kv_heads=12)
        >>> count_paths(Circuit.from_edges(gpt2, np.arange(gpt2.n_edges))) == 74**12
        True
    """
    graph, starts, stops = _part(circuit, sources, targets, through)
    into = _counts(graph, starts)
    return sum(into[name] for name in stops)


def path_counts(circuit: Circuit, *, sources: Names = None, targets: Names = None) -> pd.DataFrame:
    """How many paths pass each node.

    Args:
        circuit: The circuit.
        sources: Writers to start from; the embeddings if None.
        targets: Readers, heads or MLPs to end at; the logits if None.

    Returns:
        A row per node of the circuit, in the order of the computation: `node`, `kind`, `layer`, `n_into` (ways
        to reach it from a source), `n_onward` (ways on to a target), `n_paths` (paths that pass it, the
        product of the two), `share` of all paths (0 where there are none at all) and `on_every_path`. The
        counts are Python integers: they outgrow 64 bits.

    Raises:
        ConfigurationError: A node is both a source and a target.
        UnknownNameError: No such node.

    Examples:
        >>> from circuitgraph.graph.universe import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> circuit = Circuit.from_edges(universe, ["input->m0", "m0->logits", "input->logits"])
        >>> path_counts(circuit)[["node", "n_paths", "share"]].values.tolist()
        [['input', 2, 1.0], ['m0', 1, 0.5], ['logits', 2, 1.0]]
    """
    starts, stops = find_ends(circuit, sources, targets)
    whole = circuit.graph
    graph = graph_between(whole, starts, stops)
    into, onward = _counts(graph, starts), _counts(graph, stops, backwards=True)
    total = sum(into[name] for name in stops if name in into)
    passing = {name: into[name] * onward[name] for name in graph}
    rows = [
        {
            "node": name,
            "kind": values["kind"],
            "layer": values["layer"],
            "n_into": into.get(name, 0),
            "n_onward": onward.get(name, 0),
            "n_paths": passing.get(name, 0),
            "share": passing.get(name, 0) / total if total else 0.0,
            "on_every_path": total > 0 and passing.get(name, 0) == total,
        }
        for name, values in whole.nodes(data=True)
    ]
    columns = ["node", "kind", "layer", "n_into", "n_onward", "n_paths", "share", "on_every_path"]
    table = pd.DataFrame(rows, columns=columns)
    counts = ["n_into", "n_onward", "n_paths"]
    return table.astype(dict.fromkeys(counts, object) | {"on_every_path": bool, "share": float})


def path_text(nodes: list[str]) -> str:
    """A path as text; a head is left out after a reader of its own, which names it already.

    Examples:
        >>> path_text(["input", "a0.h1<v>", "a0.h1", "a3.kv0<k>", "a3.h2", "logits"])
        'input -> a0.h1<v> -> a3.kv0<k> -> a3.h2 -> logits'
        >>> path_text(["input@a", "a0.h1<v>@a", "a0.h1@a", "a3.h0<k>@a", "a3.h0@b", "logits@b"])
        'input@a -> a0.h1<v>@a -> a3.h0<k>@a -> a3.h0@b -> logits@b'
    """
    told = nodes[:1] + [name for before, name in pairwise(nodes) if _PORT.sub("", before) != name]
    return " -> ".join(told)


def _part(circuit: Circuit, sources: Names, targets: Names, through: Names) -> tuple[nx.DiGraph, list[str], list[str]]:
    """The nodes and edges on the paths asked for, with the sources and targets among them."""
    starts, stops = find_ends(circuit, sources, targets)
    graph = circuit.graph
    for name in [] if through is None else as_names(through):
        graph, starts, stops = restrict_to_passing(circuit, graph, starts, stops, name)
    graph = graph_between(graph, starts, stops)
    return graph, [name for name in starts if name in graph], [name for name in stops if name in graph]


def _best_ways(graph: nx.DiGraph, sources: list[str], strength: Strength, k: int) -> dict[str, list[_Way]]:
    """For every node the k best ways to reach it, best first."""
    ways: dict[str, list[_Way]] = {}
    # The nodes of a circuit's graph are in the order of the computation, which is topological.
    for node in graph:
        arriving = [[_Way(strength.empty, node, None)]] if node in sources else []
        for before, values in graph.pred[node].items():
            arriving.append([_longer(way, node, values, strength) for way in ways[before]])
        ways[node] = list(islice(heapq.merge(*arriving, key=lambda way: way.rank), k))
    return ways


def _longer(way: _Way, node: str, values: dict[str, object], strength: Strength) -> _Way:
    value = values.get("value")
    rank = way.rank if value is None else strength.extend(way.rank, float(value))  # type: ignore[arg-type]
    return _Way(rank, node, way)


def _counts(graph: nx.DiGraph, ends: list[str], *, backwards: bool = False) -> dict[str, int]:
    """How many paths from the ends, or with `backwards` to the ends, there are at each node."""
    counts: dict[str, int] = {}
    neighbours = graph.succ if backwards else graph.pred
    for node in reversed(list(graph)) if backwards else graph:
        counts[node] = (node in ends) + sum(counts[other] for other in neighbours[node])
    return counts


def _row(graph: nx.DiGraph, way: _Way, rank: int, strength: Strength) -> dict[str, object]:
    nodes = way.nodes
    edges = [(u, v, graph.edges[u, v]) for u, v in pairwise(nodes)]
    kept = {f"{u}->{v}": values for u, v, values in edges if values["kind"] != STRUCTURAL}
    scores = [values["score"] for values in kept.values()]
    worth = {name: strength.of_edge(values["value"]) for name, values in kept.items()}
    return {
        "rank": rank,
        "path": path_text(nodes),
        "strength": strength.of_path([values["value"] for values in kept.values()]),
        "n_edges": len(scores),
        "weakest_edge": min(worth, key=lambda edge: worth[edge]),
        "sign": 0 if 0 in scores else (-1) ** sum(score < 0 for score in scores),
        "nodes": tuple(nodes),
    }
