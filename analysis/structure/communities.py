"""Communities: modules that are joined among themselves more than their strengths alone would make them.

Louvain's method on the directed graph of modules, weighted by score, from networkx. Its modularity compares
the weight within communities with what modules of the same in- and out-strengths would have by chance
(Leicht and Newman 2008). Random sparse graphs reach a fair modularity too: compare with that of circuits of
the same degrees before calling it structure.
"""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx
import pandas as pd

from analysis.structure.coarse import coarse_graph
from analysis.structure.modules import modules_of
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, UnknownNameError

WEIGHTS = ("score", "count")
# Louvain's order of the modules decides between partitions of about the same modularity.
_RESTARTS = 10


@dataclass(frozen=True, kw_only=True)
class Communities:
    """A partition of a circuit's modules.

    Attributes:
        table: A row a module, in the order of the computation: `node`, `kind`, `layer`, `community` (numbered
            from 0, the largest first), `within` and `across`: the weight of its edges to modules of its
            community and of others.
        modularity: Of the partition; at most 1, 0 if everything is one community.
    """

    table: pd.DataFrame
    modularity: float

    @property
    def n_communities(self) -> int:
        """How many there are."""
        return len(set(self.table["community"]))


def communities(circuit: Circuit, *, weight: str = "score", resolution: float = 1.0, seed: int = 0) -> Communities:
    """Find communities of modules.

    Args:
        circuit: The circuit.
        weight: `score`: modules are joined by the sum of |score| of the edges between them; `count`: by their
            number. Under grouped attention an edge into a shared reader joins its writer to each head.
        resolution: Above 1 for smaller communities, below 1 for larger ones.
        seed: Of Louvain's random order of modules; the best of ten orders is taken.

    Returns:
        The partition of highest modularity found. Communities of equal size are in the order of the
        computation, and the same seed gives the same partition.

    Raises:
        ConfigurationError: The circuit is empty, or all its scores are 0, so that there is no weight; or the
            resolution is not above 0.
        UnknownNameError: No such weight.

    Examples:
        >>> from circuitgraph.graph.universe import Universe
        >>> universe = Universe(family="gpt2", n_layers=2, n_heads=1, n_kv_heads=1)
        >>> edges = {"input->m0": 9.0, "m0->a1.h0<q>": 0.1, "a1.h0->m1": 9.0, "m1->logits": 9.0}
        >>> found = communities(Circuit.from_edges(universe, edges))
        >>> dict(zip(found.table["node"], found.table["community"]))
        {'input': 1, 'm0': 1, 'a1.h0': 0, 'm1': 0, 'logits': 0}
    """
    if weight not in WEIGHTS:
        raise UnknownNameError.of("weight", weight, WEIGHTS)
    if not resolution > 0:
        raise ConfigurationError(f"the resolution must be above 0; got {resolution}")
    # Numbers for names: networkx goes through sets, whose order for text differs from run to run.
    modules = list(modules_of(circuit))
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(modules)))
    number = {name: index for index, name in enumerate(modules)}
    for start, stop, values in coarse_graph(circuit).edges(data=True):
        size = values["score"] if weight == "score" else values["n_edges"]
        graph.add_edge(number[start], number[stop], weight=float(size))
    if graph.size(weight="weight") == 0:
        reason = "all scores are 0; pass weight='count'" if len(circuit) else "the circuit has no edges"
        raise ConfigurationError(f"communities need weight between modules, and there is none: {reason}")
    parts, modularity = _best_partition(graph, resolution, seed)
    return Communities(table=_table(circuit, graph, parts), modularity=modularity)


def _best_partition(graph: nx.DiGraph, resolution: float, seed: int) -> tuple[list[set[int]], float]:
    best: tuple[list[set[int]], float] = ([], -2.0)
    for restart in range(_RESTARTS):
        parts = nx.community.louvain_communities(graph, resolution=resolution, seed=_RESTARTS * seed + restart)
        modularity = nx.community.modularity(graph, parts, resolution=resolution)
        if modularity > best[1] + 1e-12:
            best = sorted(parts, key=lambda part: (-len(part), min(part))), float(modularity)
    return best


def _table(circuit: Circuit, graph: nx.DiGraph, parts: list[set[int]]) -> pd.DataFrame:
    community = {module: index for index, part in enumerate(parts) for module in part}
    within, across = dict.fromkeys(graph, 0.0), dict.fromkeys(graph, 0.0)
    for start, stop, size in graph.edges(data="weight"):
        side = within if community[start] == community[stop] else across
        for module in (start, stop):
            side[module] += size
    rows = [
        {
            "node": name,
            "kind": kind,
            "layer": layer,
            "community": community[index],
            "within": within[index],
            "across": across[index],
        }
        for index, (name, (kind, layer)) in enumerate(modules_of(circuit).items())
    ]
    return pd.DataFrame(rows)
