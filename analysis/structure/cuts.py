"""Minimum cuts: the fewest or weakest edges, or the fewest heads and MLPs, without which no path is left.

By the theorem of Ford and Fulkerson a minimum cut is a maximum flow; networkx finds it. Structural edges have
no capacity of their own, so they are never cut. Capacities are made whole numbers, exactly (floats are whole
multiples of a power of 2), so no rounding decides, and they are ordered pairs in one number: what the cut
is asked to be small in comes first, the other thing breaks ties.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import networkx as nx
import pandas as pd

from analysis.structure.ends import Names, find_ends, graph_between
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.graph.build import STRUCTURAL

Edge = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A minimum cut.

    Attributes:
        table: A row per edge (`edge`, `source`, `target`, `kind`, `score`) or a node (`node`, `kind`,
            `layer`) of the cut, in the order of the computation.
        unique: Whether there is no other cut as small; if there is, this is the one nearest the sources.
    """

    table: pd.DataFrame
    unique: bool

    def __len__(self) -> int:
        return len(self.table)


def minimum_edge_cut(circuit: Circuit, *, by: str = "count", sources: Names = None, targets: Names = None) -> Cut:
    """The smallest set of kept edges on every path.

    Args:
        circuit: The circuit.
        by: What is to be small: `count`, the number of edges and then their total |score|, or `score`, the
            total |score| and then their number.
        sources: Writers to start from; the embeddings if None.
        targets: Readers, heads or MLPs to end at; the logits if None.

    Returns:
        The cut; without rows where no path is to be cut.

    Raises:
        UnknownNameError: No such node, or `by` is neither.
        ConfigurationError: A node is both a source and a target.

    Examples:
        >>> from circuitgraph.graph.universe import Universe
        >>> universe = Universe(family="gpt2", n_layers=2, n_heads=1, n_kv_heads=1)
        >>> scores = {"input->m0": 3.0, "m0->a1.h0<v>": 1.0, "m0->m1": 1.5, "a1.h0->m1": 1.0, "m1->logits": 9.0}
        >>> circuit = Circuit.from_edges(universe, scores)
        >>> minimum_edge_cut(circuit).table["edge"].tolist()
        ['input->m0']
        >>> minimum_edge_cut(circuit, by="score").table["edge"].tolist()
        ['m0->a1.h0<v>', 'm0->m1']
    """
    if by not in ("count", "score"):
        raise UnknownNameError.of("measure of a cut", by, ("count", "score"))
    starts, stops = find_ends(circuit, sources, targets)
    part = graph_between(circuit.graph, starts, stops)
    kept = {(u, v): values for u, v, values in part.edges(data=True) if values["kind"] != STRUCTURAL}
    strengths = dict(zip(circuit.edges, circuit.strengths.tolist(), strict=True))
    scores = _whole_numbers({edge: strengths[edge] for edge in kept})
    if by == "count":
        factor = sum(scores.values()) + 1
        capacity = {edge: factor + score for edge, score in scores.items()}
    else:
        capacity = {edge: score * (len(scores) + 1) + 1 for edge, score in scores.items()}
    network = nx.DiGraph()
    for edge in part.edges:
        network.add_edge(*edge, **({"capacity": capacity[edge]} if edge in capacity else {}))
    cut, unique = _minimum_cut(network, starts, stops)
    rows = [
        {"edge": f"{u}->{v}", "source": u, "target": v, "kind": kept[u, v]["kind"], "score": kept[u, v]["score"]}
        for u, v in circuit.edges
        if (u, v) in cut
    ]
    return Cut(table=pd.DataFrame(rows, columns=["edge", "source", "target", "kind", "score"]), unique=unique)


def minimum_node_cut(circuit: Circuit, *, sources: Names = None, targets: Names = None) -> Cut:
    """The fewest heads and MLPs on every path.

    Args:
        circuit: The circuit.
        sources: Writers to start from, never cut themselves; the embeddings if None.
        targets: Readers, heads or MLPs to end at, never cut themselves; the logits if None.

    Returns:
        The cut; without rows where no path is to be cut.

    Raises:
        UnknownNameError: No such node.
        ConfigurationError: A node is both a source and a target, or a path has no head or MLP on its way, so
            that nothing cuts it; the message names one.

    Examples:
        >>> from circuitgraph.graph.universe import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
        >>> edges = ["input->a0.h0<v>", "input->a0.h1<v>", "a0.h0->m0", "a0.h1->m0", "m0->logits"]
        >>> minimum_node_cut(Circuit.from_edges(universe, edges)).table["node"].tolist()
        ['m0']
    """
    starts, stops = find_ends(circuit, sources, targets)
    part = graph_between(circuit.graph, starts, stops)
    ends = {*starts, *stops}
    inner = [name for name, kind in part.nodes(data="kind") if kind in ("head", "mlp") and name not in ends]
    _refuse_uncuttable(part, set(inner), starts, stops)
    # A node that may be cut is an edge of capacity 1 from what it reads to what it writes.
    network = nx.DiGraph()
    network.add_edges_from(((name, "reads"), (name, "writes"), {"capacity": 1}) for name in inner)
    leaves = {name: (name, "writes") if name in inner else name for name in part}
    enters = {name: (name, "reads") if name in inner else name for name in part}
    network.add_edges_from((leaves[u], enters[v]) for u, v in part.edges)
    cut, unique = _minimum_cut(network, starts, stops)
    chosen = {source[0] for source, _ in cut}
    rows = [
        {"node": name, "kind": values["kind"], "layer": values["layer"]}
        for name, values in part.nodes(data=True)
        if name in chosen
    ]
    return Cut(table=pd.DataFrame(rows, columns=["node", "kind", "layer"]), unique=unique)


def _whole_numbers(values: Mapping[Edge, float]) -> dict[Edge, int]:
    """The values times one factor, as integers without any rounding."""
    exact = {edge: Fraction(value) for edge, value in values.items()}
    factor = lcm(*(value.denominator for value in exact.values()))
    return {edge: int(value * factor) for edge, value in exact.items()}


def _refuse_uncuttable(part: nx.DiGraph, inner: set[str], starts: list[str], stops: list[str]) -> None:
    bare = part.subgraph(set(part) - inner)
    for start in starts:
        for stop in stops:
            if start in bare and stop in bare and nx.has_path(bare, start, stop):
                path = " -> ".join(nx.shortest_path(bare, start, stop))
                raise ConfigurationError(
                    f"no set of heads and MLPs cuts the path {path}; cut edges instead, with minimum_edge_cut, "
                    "or choose other sources and targets"
                )


def _minimum_cut(network: nx.DiGraph, starts: list[str], stops: list[str]) -> tuple[set[tuple], bool]:
    """The minimum cut nearest the sources, and whether it is the only one.

    networkx gives the cut nearest the target; that of the reversed network is nearest the sources. All
    minimum cuts lie between these two.
    """
    if network.number_of_edges() == 0:
        return set(), True
    source, target = ("all sources",), ("all targets",)
    network.add_edges_from((source, name) for name in starts if name in network)
    network.add_edges_from((name, target) for name in stops if name in network)
    after, _ = nx.minimum_cut(network.reverse(), target, source)[1]
    _, before = nx.minimum_cut(network, source, target)[1]
    near_sources = _crossing(network, lambda node: node not in after)
    near_targets = _crossing(network, lambda node: node not in before)
    return near_sources, near_sources == near_targets


def _crossing(network: nx.DiGraph, is_before: Callable[[object], bool]) -> set[tuple]:
    return {(u, v) for u, v in network.edges if is_before(u) and not is_before(v)}
