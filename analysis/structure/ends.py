"""Where paths start and end, and the part of a circuit that lies between: shared by paths, counts and cuts.

Paths run over the nodes of `Circuit.graph`: along kept edges from writers to readers, and along structural
edges from a head's readers to the head. They start at writers (`input`, `a3.h7`, `m3`) and end at readers,
heads or the logits, so every path has at least one kept edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import networkx as nx
import numpy as np

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.graph.universe import Universe

Names = str | Iterable[str] | None


def as_names(names: str | Iterable[str]) -> list[str]:
    """One name or several as a list without repetitions."""
    return [names] if isinstance(names, str) else list(dict.fromkeys(names))


def find_ends(circuit: Circuit, sources: Names, targets: Names) -> tuple[list[str], list[str]]:
    """Check the ends of paths, and leave out those that the circuit does not have.

    Args:
        circuit: The circuit.
        sources: Writers; None stands for the embeddings and vectors.
        targets: Readers, heads or MLPs; None stands for the logits.

    Returns:
        Sources and targets that are nodes of the circuit.

    Raises:
        UnknownNameError: The universe has no such writer, or no such node to end at.
        ConfigurationError: A node is both a source and a target.
    """
    universe = circuit.universe
    starts = universe.sources if sources is None else as_names(sources)
    stops = logits_of(universe) if targets is None else as_names(targets)
    writers = set(universe.writers)
    begins = set(universe.sources)
    ends = [*universe.readers, *(name for name in universe.writers if name not in begins)]
    for name in starts:
        if name not in writers:
            hint = "Paths start at writers, such as input, a3.h7 or m3."
            raise UnknownNameError.of("source of paths", name, universe.writers, hint)
    for name in stops:
        if name not in ends:
            raise UnknownNameError.of("target of paths", name, ends, "Paths do not end at embeddings or vectors.")
    both = [name for name in starts if name in stops]
    if both:
        raise ConfigurationError(f"{both[0]} is both a source and a target; a path needs at least one edge")
    present = set(circuit.nodes)
    return [name for name in starts if name in present], [name for name in stops if name in present]


def logits_of(universe: Universe) -> list[str]:
    """The readers that are logits: one, or one at each span at which something is asked."""
    return [universe.readers[index] for index in np.flatnonzero(universe.reader_kinds == "logits")]


def graph_between(graph: nx.DiGraph, sources: Iterable[str], targets: Iterable[str]) -> nx.DiGraph:
    """The part of a graph on paths from sources to targets, as a new graph in the same order."""
    after, before = set(sources), set(targets)
    for source in tuple(after):
        after |= nx.descendants(graph, source)
    for target in tuple(before):
        before |= nx.ancestors(graph, target)
    between = after & before
    return _part_of(graph, between, lambda edge: between.issuperset(edge))


def restrict_to_passing(
    circuit: Circuit, graph: nx.DiGraph, sources: list[str], targets: list[str], through: str
) -> tuple[nx.DiGraph, list[str], list[str]]:
    """Keep the part of a graph in which every path passes a node or an edge.

    Args:
        circuit: The circuit, for its names.
        graph: Its graph or a part of it.
        sources: Where paths start.
        targets: Where paths end.
        through: A node, such as `a3.h7` or `a3.h7<q>`, or an edge, such as `a3.h7->m4`.

    Returns:
        The part, a new graph in the same order, and the sources and targets that are still possible.

    Raises:
        UnknownNameError: The universe has no such node or edge.
    """
    first, last, arrow = _passage(circuit.universe, through)
    if not (graph.has_edge(first, last) if arrow else graph.has_node(first)):
        return nx.DiGraph(), [], []
    before = nx.ancestors(graph, first) | {first}
    after = nx.descendants(graph, last) | {last}

    def passes(edge: tuple[str, str]) -> bool:
        return before.issuperset(edge) or after.issuperset(edge) or (arrow and edge == (first, last))

    part = _part_of(graph, before | after, passes)
    return part, [name for name in sources if name in before], [name for name in targets if name in after]


def _part_of(graph: nx.DiGraph, nodes: set[str], keeps: Callable[[tuple[str, str]], bool]) -> nx.DiGraph:
    """Some nodes and edges as a new graph.

    A view of networkx would go through its nodes in the order of a set, which differs from run to run.
    """
    part = nx.DiGraph(**graph.graph)
    part.add_nodes_from((name, values) for name, values in graph.nodes(data=True) if name in nodes)
    part.add_edges_from((u, v, values) for u, v, values in graph.edges(data=True) if keeps((u, v)))
    return part


def _passage(universe: Universe, through: str) -> tuple[str, str, bool]:
    """First and last node of what paths shall pass, and whether it is an edge."""
    source, arrow, target = through.partition("->")
    if arrow:
        universe.edge_index(source, target)
        return source, target, True
    known = [*universe.writers, *universe.readers]
    if through not in known:
        raise UnknownNameError.of("node", through, known)
    return through, through, False
