"""Keep rules that run the model: lengths against trying every one, and what the others can do without."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.graph.build import build_graph
from circuitgraph.graph.gate_map import GateMap
from circuitgraph.graph.universe import Universe
from circuitgraph.models import load_model
from circuitgraph.tracr.ground_truth import ground_truth_edges
from pruning.methods.edge_pruning.gates import Gates
from pruning.selection.best import discretize
from pruning.selection.faithful import fewest_enough, keep_faithful, needed_edges
from pruning.tasks import load_task

SMALL = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
LARGER = Universe(family="gpt2", n_layers=3, n_heads=2, n_kv_heads=2)


def gates_of(universe: Universe, alphas: Sequence[float], graph=None) -> Gates:
    gate_map = GateMap.identity(universe) if graph is None else GateMap.from_graph(universe, graph)
    gates = Gates(gate_map, init_mean=0, init_std=1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        gates.log_alpha.copy_(torch.tensor(alphas))
    return gates


class Needs:
    """A model that is right if all of some edges are kept, and off by 1 for each that is not; counts its runs."""

    def __init__(self, edges: Sequence[int]) -> None:
        self.edges, self.n_runs = set(edges), 0

    def __call__(self, kept: Sequence[np.ndarray]) -> list[float]:
        self.n_runs += len(kept)
        return [float(len(self.edges - set(edges.tolist()))) for edges in kept]


@pytest.mark.parametrize("seed", range(8))
def test_the_shortest_length_that_is_enough(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = LARGER.n_edges
    gates = gates_of(LARGER, rng.normal(size=n).tolist())
    needs = Needs(rng.choice(n, size=int(rng.integers(0, 12)), replace=False).tolist())
    lengths = [size for size in range(n + 1) if needs([discretize(gates, keep=size)[0]])[0] == 0]
    needs.n_runs = 0
    assert fewest_enough(gates, needs, tolerance=0.5) == min(lengths)
    assert needs.n_runs <= 3 * 8, f"{needs.n_runs} runs for {n} edges"


def test_everything_where_nothing_is_enough() -> None:
    gates = gates_of(SMALL, [0.1 * place for place in range(8)])
    assert fewest_enough(gates, lambda kept: [1.0] * len(kept), tolerance=0.5) == 8


@pytest.mark.parametrize("seed", range(4))
def test_only_needed_edges_stay(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gates = gates_of(LARGER, rng.normal(size=LARGER.n_edges).tolist())
    edges = np.sort(rng.choice(LARGER.n_edges, size=15, replace=False))
    needs = Needs(rng.choice(edges, size=6, replace=False).tolist())
    stays = needed_edges(gates, edges, needs, tolerance=0.5)
    assert set(edges[stays].tolist()) == needs.edges


def test_of_two_that_do_the_same_the_better_stays() -> None:
    gates = gates_of(SMALL, [3, 1, 2, 0, 4, 5, 6, 7])
    stays = needed_edges(
        gates, np.array([0, 1, 2]), lambda kept: [float(not set(kept[0].tolist()) & {1, 2})], tolerance=0.5
    )
    assert stays.tolist() == [False, False, True]


def test_what_is_needed_no_longer_goes_too() -> None:
    """Edge 0, tried first, is needed as long as edge 1 is there: only then, and it is cut in the second round."""
    gates = gates_of(SMALL, [0, 1, 2, 3, 4, 5, 6, 7])

    def losses_of(kept: Sequence[np.ndarray]) -> list[float]:
        sets = [set(edges.tolist()) for edges in kept]
        return [float(2 not in edges or (1 in edges and 0 not in edges)) for edges in sets]

    stays = needed_edges(gates, np.array([0, 1, 2]), losses_of, tolerance=0.5)
    assert stays.tolist() == [False, False, True]


def test_tied_edges_go_together_and_frozen_ones_stay() -> None:
    graph = build_graph(SMALL)
    graph.edges["m0", "logits"]["frozen"] = True
    graph.edges["input", "a0.h0<k>"]["mask"] = graph.edges["input", "a0.h0<q>"]["mask"]
    gates = gates_of(SMALL, [9.0, 1.0, 2.0, 3.0, 4.0, 5.0], graph)
    everything = np.arange(8)
    frozen = {place for place in range(8) if SMALL.edge_name(place) == "m0->logits"}
    tied = {place for place in range(8) if SMALL.edge_name(place) in ("input->a0.h0<k>", "input->a0.h0<q>")}
    assert (len(frozen), len(tied)) == (1, 2)
    for needed in ([], [min(tied)]):
        stays = needed_edges(gates, everything, Needs(needed), tolerance=0.5)
        assert set(everything[stays].tolist()) == frozen | (tied if needed else set())


@pytest.mark.parametrize("minimal", [False, True])
def test_a_compiled_program_is_run(minimal: bool) -> None:
    """Ground truth ranked first but for one edge, which comes after five that nothing needs."""
    compiled = compile_model(load_model("tracr:xproportion"), embeddings="split", verify=False)
    inputs = load_task("tracr-xproportion", compiled.tokenizer, options={"max_length": 3}).split("train")
    truth = {place for place in range(32) if compiled.universe.edge_name(place) in ground_truth_edges("xproportion")}
    others = [place for place in range(32) if place not in truth][:5]
    alphas = np.full(32, -5.0)
    alphas[others], alphas[list(truth)] = 1.0, 3.0
    alphas[max(truth)] = 0.0
    gates = gates_of(compiled.universe, alphas.tolist())
    edges, scores = keep_faithful(compiled, gates, inputs, ablation="zero", tolerance=1e-4, minimal=minimal)
    assert set(edges.tolist()) == (truth if minimal else truth | set(others))
    assert scores.tolist() == alphas[edges].tolist()
