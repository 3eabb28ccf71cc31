"""Which edges are kept, by both rules, with ties, frozen and removed edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit

from circuitgraph.errors import UnknownNameError
from circuitgraph.graph.build import build_graph
from circuitgraph.graph.gate_map import GateMap
from circuitgraph.graph.universe import Universe
from pruning.methods.edge_pruning.gates import Gates
from pruning.selection.best import discretize, edges_to_keep

# input->q, input->k, input->v, input->m0, a0.h0->m0, and input, a0.h0, m0 into the logits.
SMALL = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
LARGER = Universe(family="gpt2", n_layers=3, n_heads=3, n_kv_heads=3)


def gates_of(universe: Universe, alphas: list[float], graph=None, **choices: object) -> Gates:
    gate_map = GateMap.identity(universe) if graph is None else GateMap.from_graph(universe, graph)
    gates = Gates(gate_map, init_mean=0, init_std=1, generator=torch.Generator().manual_seed(0), **choices)
    with torch.no_grad():
        gates.log_alpha.copy_(torch.tensor(alphas))
    return gates


def test_target_keeps_what_it_asks_for() -> None:
    gates = gates_of(LARGER, [0.0] * LARGER.n_edges)
    n = LARGER.n_edges
    for target in (0.01, 0.5, 0.9, 0.97):
        assert edges_to_keep(gates, rule="target", target_sparsity=target) == round((1 - target) * n)
    for target in (1.0, 1.2, 2.0):
        assert edges_to_keep(gates, rule="target", target_sparsity=target) == 0


def test_paper_keeps_what_the_soft_mask_sums_to() -> None:
    alphas = [4.0, -3.0, 0.5, -0.2, 6.0, -4.0, 1.0, 2.0]
    # Two expected zeros (0.004 + .802 + .109 + .198 + .0005 + .917 + .069 + .027 = 2.13): −3 and −4 count nothing.
    expected = sum(expit(1.2 * a) for a in alphas if a > -1)
    for target in (0.1, 0.9, 1.2):
        assert edges_to_keep(gates_of(SMALL, alphas), rule="paper", target_sparsity=target) == round(expected) == 5


def test_paper_with_fixed_and_tied_edges() -> None:
    graph = build_graph(SMALL)
    graph.remove_edge("input", "m0")
    graph.edges["m0", "logits"]["frozen"] = True
    graph.edges["input", "a0.h0<k>"]["mask"] = graph.edges["input", "a0.h0<q>"]["mask"]
    # The tied pair counts twice, the frozen edge once, the removed one not: 2 + 0 + 1 + 0 + 1 + 1.
    gates = gates_of(SMALL, [30, -30, 30, -30, 30], graph)
    assert edges_to_keep(gates, rule="paper", target_sparsity=0.9) == 5


def test_an_unknown_rule() -> None:
    with pytest.raises(UnknownNameError, match="keep rule"):
        edges_to_keep(gates_of(SMALL, [0.0] * 8), rule="papre", target_sparsity=0.9)


@pytest.mark.parametrize("keep", [0, 1, 5, 20, 200])
def test_the_highest_scores_stay(keep: int) -> None:
    rng = np.random.default_rng(0)
    alphas = rng.normal(size=LARGER.n_edges).astype(np.float32)
    edges, scores = discretize(gates_of(LARGER, alphas.tolist()), keep=keep)
    best = sorted(range(len(alphas)), key=lambda i: -alphas[i])[:keep]
    assert edges.tolist() == sorted(best)
    assert scores.tolist() == pytest.approx([alphas[i] for i in sorted(best)])


def test_equal_scores_are_decided_the_same_way_each_time() -> None:
    alphas = [1.0] * LARGER.n_edges
    draws = [discretize(gates_of(LARGER, alphas), keep=17)[0].tolist() for _ in range(3)]
    assert draws[0] == draws[1] == draws[2] == list(range(17))


def test_ties_stay_or_go_whole() -> None:
    graph = build_graph(SMALL)
    for port in "kv":
        graph.edges["input", f"a0.h0<{port}>"]["mask"] = graph.edges["input", "a0.h0<q>"]["mask"]
    # Parameters: the three into the head, then each of the other five edges.
    alphas = [5.0, 9.0, 1.0, 2.0, 3.0, 4.0]
    for keep, expected in [
        (1, [3]),  # the best alone
        (2, [3]),  # the three that come next do not fit in the one place left; nothing is taken before them
        (3, [3]),
        (4, [0, 1, 2, 3]),
        (5, [0, 1, 2, 3, 7]),
        (8, list(range(8))),
    ]:
        edges, scores = discretize(gates_of(SMALL, alphas, graph), keep=keep)
        assert edges.tolist() == expected
        assert len(scores) == len(edges)


def test_frozen_edges_stay_and_removed_ones_go() -> None:
    graph = build_graph(SMALL)
    graph.remove_edge("input", "m0")
    graph.remove_edge("input", "logits")
    graph.edges["m0", "logits"]["frozen"] = True
    # q, k, v, a0.h0->m0, a0.h0->logits
    gates = gates_of(SMALL, [1.0, 2.0, 3.0, 4.0, 5.0], graph)
    for keep, expected in [(0, [7]), (1, [7]), (2, [6, 7]), (3, [4, 6, 7]), (100, [0, 1, 2, 4, 6, 7])]:
        edges, scores = discretize(gates, keep=keep)
        assert edges.tolist() == expected
        assert np.isfinite(scores).all()
    assert scores.tolist() == [1, 2, 3, 4, 5, 5], "a frozen edge has the best score of the others"
    assert discretize(gates, keep=0)[1].tolist() == [0.0]


def test_an_edge_is_no_better_than_its_writer() -> None:
    gates = gates_of(SMALL, [9, 8, 7, 6, 5, 4, 3, 2], writers=True)
    with torch.no_grad():
        assert gates.writer_log_alpha is not None
        gates.writer_log_alpha.copy_(torch.tensor([6.5, -1.0, 10.0]))
    # min(own, writer): 6.5 6.5 6.5 6 | −1 | 4 −1 2
    edges, scores = discretize(gates, keep=6)
    assert edges.tolist() == [0, 1, 2, 3, 5, 7]
    assert scores.tolist() == [6.5, 6.5, 6.5, 6, 4, 2]
