"""The explicit graph: attributes, indices both ways, paths, and the 13B universe in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import networkx as nx
import pytest
from hypothesis import given

from circuitgraph.graph.build import STRUCTURAL, build_graph
from circuitgraph.graph.node_names import node_kind
from circuitgraph.graph.universe import Universe
from tests.circuitgraph.graph.universes import STEADY, universes


@STEADY
@given(universe=universes())
def test_every_mask_once_and_both_ways(universe: Universe) -> None:
    graph = build_graph(universe)
    masks = {data["mask"]: (u, v) for u, v, data in graph.edges(data=True) if "mask" in data}
    assert sorted(masks) == list(range(universe.n_edges))
    for mask, edge in masks.items():
        assert universe.edge_index(*edge) == mask
        assert graph.edges[edge]["kind"] == node_kind(edge[1])
    structural = [(u, v) for u, v, kind in graph.edges(data="kind") if kind == STRUCTURAL]
    assert sorted(structural) == sorted(universe.structural_edges())
    assert graph.number_of_edges() == universe.n_edges + len(structural)


@STEADY
@given(universe=universes())
def test_nodes_stand_in_the_order_of_the_computation(universe: Universe) -> None:
    graph = build_graph(universe)
    place = {name: index for index, name in enumerate(graph)}
    assert set(place) == {*universe.writers, *universe.readers}
    assert all(place[u] < place[v] for u, v in graph.edges)
    assert all(data["kind"] == node_kind(name) for name, data in graph.nodes(data=True))
    assert graph.nodes["logits"]["layer"] == universe.n_layers
    assert graph.nodes[universe.writers[0]]["layer"] == -1


def test_paths_run_through_heads_from_the_input_to_the_logits() -> None:
    universe = Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2)
    graph = build_graph(universe, {"model": "tiny"})
    path = ["input", "a0.kv1<v>", "a0.h3", "m0", "a1.h0<q>", "a1.h0", "logits"]
    assert nx.is_path(graph, path)
    assert not graph.has_edge("a0.kv0<v>", "a0.h3")
    assert graph.graph == {"model": "tiny", "universe": universe.to_dict()}


def test_parallel_blocks_hide_heads_from_their_mlp() -> None:
    graph = build_graph(Universe(family="neox", n_layers=1, n_heads=2, n_kv_heads=2, block_order="parallel"))
    assert set(graph.pred["m0"]) == {"input"}


MEASURE = """
import json, time
from circuitgraph.graph.build import build_graph
from circuitgraph.graph.universe import Universe
start = time.monotonic()
graph = build_graph(Universe(family="llama", n_layers=40, n_heads=40, n_kv_heads=40))
seconds = time.monotonic() - start
# Not ru_maxrss, which begins at the size of the process that started this one.
peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([sum(1 for _ in graph.edges) - 3 * 1600, seconds, peak]), flush=True)
os._exit(0)  # spare the interpreter from freeing four million dictionaries
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_the_13b_graph_takes_a_minute_and_two_gigabytes_at_most() -> None:
    run = subprocess.run(
        [sys.executable, "-c", "import os\n" + MEASURE],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    n_edges, seconds, peak = json.loads(run.stdout)
    assert n_edges == 3_877_661
    assert seconds <= 60
    assert peak <= 2e9
