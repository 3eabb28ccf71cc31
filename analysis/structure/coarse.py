"""The coarse graph: a circuit seen by module, by half a layer, by layer or by any grouping, as a quotient.

Each edge of the quotient says how many kept edges it stands for and how many the universe has there, in
closed form, so that densities come for free at any size.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping

import networkx as nx
import numpy as np

from analysis.structure.modules import module_edges, module_names, modules_reading
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.graph.node_names import node_kind, node_layer
from circuitgraph.graph.universe import EDGE_KINDS, Universe

GROUPINGS = ("module", "sublayer", "layer", "kind")
Grouping = str | Mapping[str, str] | Callable[[str], str]


def coarse_graph(circuit: Circuit, by: Grouping = "module") -> nx.DiGraph:
    """The circuit as a graph between groups of modules.

    Args:
        circuit: The circuit.
        by: `module` (`input`, `a3.h7`, `m3`, `logits`), `sublayer` (the heads of a layer are one, `a3`),
            `layer` (`layer 3`), `kind` (`embedding`, `head`, `mlp`, `logits`), or a mapping or function from
            every module's name to the name of its group. Modules that a mapping leaves out are in no group and
            counted nowhere, which is an error if the circuit has them.

    Returns:
        A directed graph. Nodes, in the order of the computation: `n_modules` of the circuit, and `layer` where
        all of them are of one (-1 embeddings, `n_layers` the logits). Edges: `n_edges` (kept), `n_universe`
        (in the universe), `density` (their quotient), `score` (sum of |score|), `max_score` (largest
        |score|) and `kinds`, such as `"k,v"`. Edges within a group are loops. An edge into a reader that
        several heads share counts once for each group that they are in: `by="module"` therefore for every
        head, the others once. An empty circuit: an empty graph.

    Raises:
        UnknownNameError: No such grouping.
        ConfigurationError: A module of the circuit has no group, or one whose name is no text.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2)
        >>> circuit = Circuit.from_edges(universe, ["input->a0.h0<v>", "a0.h0->m1", "a0.h0->logits", "m1->logits"])
        >>> graph = coarse_graph(circuit, "layer")
        >>> list(graph), graph.edges["layer 0", "logits"]["n_edges"], graph.edges["layer 0", "layer 1"]["density"]
        (['embedding', 'layer 0', 'layer 1', 'logits'], 1, 0.047619047619047616)
    """
    universe = circuit.universe
    groups = _groups(universe, by)
    pairs = module_edges(universe, circuit.edge_ids)
    modules = np.unique(np.concatenate([pairs.writers, pairs.readers])).tolist()
    _check_groups(universe, groups, modules)
    graph = nx.DiGraph(universe=universe.to_dict(), ablation=circuit.ablation)
    layers = [*universe.writer_layers.tolist(), universe.n_layers]
    for module in modules:
        _add_module(graph, groups[module], layers[module])
    # Once for each pair of groups, however many heads of a group share the reader.
    columns = (pairs.writers.tolist(), pairs.readers.tolist(), pairs.places.tolist())
    ends = dict.fromkeys((groups[start], groups[stop], place) for start, stop, place in zip(*columns, strict=True))
    for start, stop, place in ends:
        _add_edge(graph, (start, stop), circuit.kinds[place], float(circuit.strengths[place]))
    n_universe = _edges_between(universe, groups, list(graph.edges))
    for edge, values in graph.edges.items():
        values["kinds"] = ",".join(kind for kind in EDGE_KINDS if kind in values["kinds"])
        values["n_universe"] = n_universe[edge]
        values["density"] = values["n_edges"] / n_universe[edge]
    return graph


def _groups(universe: Universe, by: Grouping) -> list[str | None]:
    """The group of every module; None for those that a mapping leaves out."""
    names = module_names(universe)
    if isinstance(by, str):
        if by not in GROUPINGS:
            raise UnknownNameError.of("grouping", by, GROUPINGS)
        return [_named_group(by, name) for name in names]
    return [by.get(name) if isinstance(by, Mapping) else by(name) for name in names]


def _named_group(by: str, name: str) -> str:
    kind, layer = node_kind(name), node_layer(name)
    if by == "kind":
        return kind
    if by == "module" or (by == "sublayer" and kind != "head"):
        return name
    if by == "sublayer":
        return f"a{layer}"
    return kind if layer is None else f"layer {layer}"


def _check_groups(universe: Universe, groups: list[str | None], modules: list[int]) -> None:
    for module in modules:
        if not isinstance(groups[module], str):
            raise ConfigurationError(
                f"the grouping gives {module_names(universe)[module]} the group {groups[module]!r}; "
                "every module of the circuit needs a group, named by text"
            )


def _add_module(graph: nx.DiGraph, group: str | None, layer: int) -> None:
    if group not in graph:
        graph.add_node(group, n_modules=0, layer=layer)
    values = graph.nodes[group]
    values["n_modules"] += 1
    if values.get("layer") != layer:
        values.pop("layer", None)


def _add_edge(graph: nx.DiGraph, edge: tuple[str | None, str | None], kind: str, size: float) -> None:
    if not graph.has_edge(*edge):
        graph.add_edge(*edge, n_edges=0, score=0.0, max_score=0.0, kinds=set())
    values = graph.edges[edge]
    values["n_edges"] += 1
    values["score"] += size
    values["max_score"] = max(values["max_score"], size)
    values["kinds"].add(kind)


def _edges_between(
    universe: Universe, groups: list[str | None], wanted: list[tuple[str, str]]
) -> dict[tuple[str, str], int]:
    """How many edges of the universe run from one group to another.

    A reader sees the first so many writers, so a group's share of them is found by bisection.
    """
    writers_in: defaultdict[str | None, list[int]] = defaultdict(list)
    for writer in range(universe.n_writers):
        writers_in[groups[writer]].append(writer)
    seen_by: defaultdict[str | None, Counter[int]] = defaultdict(Counter)
    first, n_sharing = (values.tolist() for values in modules_reading(universe))
    for reader, n_seen in enumerate(np.diff(universe.reader_offsets).tolist()):
        for group in set(groups[first[reader] : first[reader] + n_sharing[reader]]):
            seen_by[group][n_seen] += 1
    return {
        (start, stop): sum(n * bisect_left(writers_in[start], n_seen) for n_seen, n in seen_by[stop].items())
        for start, stop in wanted
    }
