"""Made circuits: as many edges as asked for, none of which dangles, on as many nodes as asked for."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.build import build_graph
from circuitgraph.graph.universe import Universe
from tests.benchmarks.made_gates import made_alpha, made_circuit

UNIVERSES = (
    Universe(family="gpt2", n_layers=4, n_heads=6, n_kv_heads=6),
    Universe(family="llama", n_layers=5, n_heads=6, n_kv_heads=2),
    Universe(family="x", n_layers=3, n_heads=4, n_kv_heads=4, block_order="parallel", qkv="joint", embeddings="split"),
)


def live_nodes(universe: Universe, kept: np.ndarray) -> set[str]:
    """Heads and MLPs on a path of kept edges from an embedding to the logits, by networkx."""
    graph = build_graph(universe, {})
    for source, target, held in list(graph.edges(data=True)):
        if "mask" in held and not kept[held["mask"]]:
            graph.remove_edge(source, target)
    roots = universe.writers[: universe.n_embeddings]
    after = set().union(*(nx.descendants(graph, root) for root in roots))
    before = nx.ancestors(graph, "logits")
    return (after & before) & set(universe.writers)


@pytest.mark.parametrize("universe", UNIVERSES)
@pytest.mark.parametrize("edges_a_node", [2.0, 5.0])
def test_every_edge_is_on_a_path(universe, edges_a_node):
    for seed in range(3):
        n_edges = 40
        kept = made_circuit(universe, n_edges, edges_a_node=edges_a_node, seed=seed)
        assert kept.sum() == n_edges
        live = live_nodes(universe, kept) | set(universe.writers[: universe.n_embeddings])
        writers, readers = universe.endpoints(np.flatnonzero(kept))
        assert {universe.writers[writer] for writer in writers} <= live
        heads_of = {name.split("<")[0] for name in (universe.readers[reader] for reader in readers)}
        assert len(heads_of) > 1
        graph = build_graph(universe, {})
        for reader in set(readers.tolist()):
            name = universe.readers[reader]
            fed = {name} if name in ("logits", *universe.writers) else set(graph.successors(name))
            assert name == "logits" or fed & live, f"{name} feeds nothing that lives"
        n_nodes = universe.n_layers * (universe.n_heads + 1)
        assert len(live_nodes(universe, kept)) >= min(n_nodes, round(n_edges / edges_a_node))


def test_concentration_and_seeds():
    universe = Universe(family="gpt2", n_layers=8, n_heads=12, n_kv_heads=12)
    spread, dense = (made_circuit(universe, 200, edges_a_node=share, seed=0) for share in (2.0, 10.0))
    assert len(live_nodes(universe, spread)) == 100 and len(live_nodes(universe, dense)) == 20
    assert (made_circuit(universe, 200, seed=0) == spread).all()
    assert (made_circuit(universe, 200, seed=1) != spread).any()


def test_too_many_edges_for_so_few_nodes():
    with pytest.raises(ConfigurationError, match="do not fit among"):
        made_circuit(UNIVERSES[0], 60, edges_a_node=30.0, seed=0)


def test_alpha():
    kept = np.zeros(1000, dtype=bool)
    kept[100:200] = True
    log_alpha = made_alpha(kept, seed=0).numpy()
    assert (log_alpha[~kept] == -10).all()
    assert sorted(log_alpha[kept].tolist()) == [0.0] * 20 + [10.0] * 80
    assert (made_alpha(kept, seed=1).numpy() != log_alpha).any()
