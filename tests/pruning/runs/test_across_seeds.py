"""Circuits of several seeds together: averaged scores and consensus, against slow definitions and by hand."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import CircuitFormatError, ConfigurationError
from circuitgraph.graph.build import build_graph
from circuitgraph.graph.gate_map import GateMap
from circuitgraph.graph.universe import Universe
from pruning.runs.across_seeds import averaged_circuit, averaged_scores, consensus_circuit
from pruning.runs.planned_sweep import checked_seeds
from pruning.runs.result_files import gates_file, read_gates
from pruning.selection.best import best_edges, discretize

UNIVERSE = Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2)


def three_seeds(gate_map: GateMap, keep: int) -> tuple[list[np.ndarray], list[Circuit]]:
    """Scores that agree in part, and the circuits that are cut from them."""
    draws = np.random.default_rng(3)
    common = draws.normal(size=UNIVERSE.n_edges)
    scores = [3 * (seed + 1) * (common + 0.7 * draws.normal(size=UNIVERSE.n_edges)) + seed for seed in range(3)]
    circuits = [Circuit.from_edges(UNIVERSE, best_edges(one, gate_map, keep=keep)[0]) for one in scores]
    return scores, circuits


def test_scores_are_standardised_seed_by_seed() -> None:
    # By hand: [1, 3] and [10, 50] are both [-1, 1] in standard deviations, [4, 2] is [1, -1].
    scores = [np.array([1.0, 3.0, -np.inf]), np.array([10.0, 50.0, -np.inf]), np.array([4.0, 2.0, -np.inf])]
    assert averaged_scores(scores).tolist() == pytest.approx([-1 / 3, 1 / 3, -np.inf])
    assert averaged_scores([np.array([2.0, 2.0])]).tolist() == [0.0, 0.0]


def test_the_averaged_circuit_is_cut_like_those_of_the_seeds() -> None:
    gate_map = GateMap.identity(UNIVERSE)
    scores, circuits = three_seeds(gate_map, keep=40)
    mean = sum((one - one.mean()) / one.std() for one in scores) / 3
    wanted = Circuit.from_edges(UNIVERSE, np.argsort(-mean, kind="stable")[:40])
    found = averaged_circuit(averaged_scores(scores), gate_map, circuits)
    assert found == wanted and found.n_raw == 40 == circuits[0].n_raw
    assert found.provenance["operation"] == "averaged scores"
    assert found.provenance["parents"] == [circuit.digest for circuit in circuits]


def test_the_consensus_has_the_edges_that_most_keep_and_the_members_size() -> None:
    gate_map = GateMap.identity(UNIVERSE)
    scores, circuits = three_seeds(gate_map, keep=18)
    mean, counts = averaged_scores(scores), sum(circuit.mask.astype(int) for circuit in circuits)
    order = sorted(range(UNIVERSE.n_edges), key=lambda edge: (-counts[edge], -mean[edge]))
    wanted = round(sum(map(len, circuits)) / 3)
    largest = [Circuit.from_edges(UNIVERSE, np.array(order[:n], dtype=int)) for n in range(int((counts > 0).sum()) + 1)]
    expected = [circuit for circuit in largest if len(circuit) <= wanted][-1]
    found = consensus_circuit(mean, gate_map, circuits)
    assert found == expected and len({len(one) for one in circuits}) > 1
    by_edge = dict(zip(found, found.scores.tolist(), strict=True))
    assert all(
        by_edge[edge] == pytest.approx(sum(edge in list(circuit) for circuit in circuits) / 3) for edge in by_edge
    )


def test_seeds_that_agree_are_their_own_consensus() -> None:
    gate_map = GateMap.identity(UNIVERSE)
    scores, circuits = three_seeds(gate_map, keep=30)
    same = [circuits[0]] * 3
    assert consensus_circuit(averaged_scores(scores), gate_map, same) == circuits[0]


def test_ties_are_kept_or_cut_whole_and_fixed_edges_stay_fixed() -> None:
    graph: nx.DiGraph = build_graph(UNIVERSE)
    graph.remove_edge("input", "m1")
    graph.edges["input", "logits"]["frozen"] = True
    tied = [edge for edge in graph.in_edges("m0") if "mask" in graph.edges[edge]]
    for edge in tied:
        graph.edges[edge]["mask"] = graph.edges[tied[0]]["mask"]
    gate_map = GateMap.from_graph(UNIVERSE, graph)
    codes = gate_map.parameter_of_edge
    draws = np.random.default_rng(5)
    scores = [
        np.where(codes == -1, -np.inf, np.where(codes == -2, np.inf, draws.normal(size=len(codes)))) for _ in range(2)
    ]
    circuits = [Circuit.from_edges(UNIVERSE, best_edges(one, gate_map, keep=45)[0]) for one in scores]
    for found in (
        consensus_circuit(averaged_scores(scores), gate_map, circuits),
        averaged_circuit(averaged_scores(scores), gate_map, circuits),
    ):
        names = list(found)
        assert "input->m1" not in names and "input->logits" in names
        assert sum(f"{u}->{v}" in names for u, v in tied) in (0, len(tied))


@pytest.mark.parametrize(
    ("seeds", "words"),
    [((), "at least one"), ((0, 0), "each once"), ((-1,), "at least 0"), ("01", "several whole"), (3, "several whole")],
)
def test_what_are_no_seeds(seeds, words) -> None:
    with pytest.raises(ConfigurationError, match=words):
        checked_seeds(seeds)


def test_gates_come_back_from_their_file(tmp_path) -> None:
    import torch

    from pruning.methods.edge_pruning.gates import Gates

    gate_map, path = GateMap.identity(UNIVERSE), tmp_path / "gates.safetensors"
    for writers in (False, True):
        gates = Gates(
            gate_map, init_mean=0.0, init_std=1.0, writers=writers, generator=torch.Generator().manual_seed(1)
        )
        path.write_bytes(gates_file(gates))
        again = read_gates(path, gate_map)
        assert torch.equal(again.scores(), gates.scores())
        assert discretize(again, keep=9)[0].tolist() == discretize(gates, keep=9)[0].tolist()
    other = GateMap.identity(Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1))
    with pytest.raises(CircuitFormatError, match="expected log_alpha of 8 gates"):
        read_gates(path, other)
    path.write_bytes(b"none")
    with pytest.raises(CircuitFormatError, match="cannot be read as trained gates"):
        read_gates(path, gate_map)
