"""AND, OR and ADDER in models where they are known: effects in both directions, labels, and what training keeps."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.gates import LogicGates, logic_gates
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.models.gate_toys import GATE_TOYS, gate_toy
from pruning.evaluation.masks import evaluate_masks
from pruning.prompts.encoding import EncodedPairs
from pruning.runs.rank import rank_edges
from pruning.selection.top import top_edges
from pruning.tasks.gate_toys import gate_prompts


def toy_of(kind: str, seed: int = 0) -> tuple[CompiledModel, EncodedPairs]:
    toy = gate_toy(kind)
    return compile_model(toy, embeddings="joint", verify=False), gate_prompts(toy, 6, seed=seed)


def ranked(compiled: CompiledModel, pairs: EncodedPairs, method: str, direction: str, **settings: float) -> EdgeScores:
    seed = int(settings.pop("seed", 0))
    return rank_edges(
        compiled, pairs, method, settings, direction=direction, objective="mse", ablation="counterfactual", seed=seed
    )


def gates_of(compiled: CompiledModel, pairs: EncodedPairs) -> LogicGates:
    return logic_gates(*(ranked(compiled, pairs, "exact", way) for way in ("noising", "denoising")))


@pytest.mark.parametrize("seed", range(5))
def test_all_labels_are_right_and_what_is_zero_is_zero(seed: int) -> None:
    for kind, truth in GATE_TOYS.items():
        compiled, pairs = toy_of(kind, seed)
        gates = gates_of(compiled, pairs)
        found = gates.table.set_index("edge")
        assert found.loc[list(truth), "gate"].to_dict() == truth
        for edge, gate in truth.items():
            # Squared errors by hand: a gate's output goes from 1 to 0, an adder's share is 1 or 1.5.
            share = 1.5**2 if (kind, edge) == ("adder", "a0.h1->m0") else 1.0
            expected = {"AND": (share, 0.0), "OR": (0.0, share), "ADDER": (share, share)}[gate]
            assert tuple(found.loc[edge, ["noising", "denoising"]]) == expected


def test_the_smallest_sets_of_the_nested_toy() -> None:
    compiled, pairs = toy_of("nested")
    gates = gates_of(compiled, pairs)
    faithful, complete = gates.smallest_faithful, gates.smallest_complete
    into = {
        name: {edge for edge in circuit if edge.endswith("->m0")}
        for name, circuit in (("f", faithful), ("c", complete))
    }
    both_ands, both_ors = ({edge for edge, gate in GATE_TOYS["nested"].items() if gate == one} for one in ("AND", "OR"))
    assert into["f"] > both_ands and len(into["f"]) == 3
    assert into["c"] > both_ors and len(into["c"]) == 3

    def error(**masks: np.ndarray) -> dict[str, float]:
        found = evaluate_masks(compiled, masks, pairs, ablation="counterfactual", intervals=False)
        return {name: found[name]["mse"] for name in masks}

    def mask(edges: set[str]) -> np.ndarray:
        ids = [compiled.universe.edge_index(*edge.split("->")) for edge in edges]
        return np.isin(np.arange(compiled.universe.n_edges), ids)

    # Faithful: nothing is missing, and every single edge of it is. Output 2, of which a gate is 1.
    without = {f"-{edge}": mask(set(faithful) - {edge}) for edge in faithful}
    assert error(circuit=mask(set(faithful)))["circuit"] == 0
    assert all(value >= 1 for value in error(**without).values())
    # Complete: without its edges into the MLP the model is as far off as without any; with any one of them back, less.
    back = {f"+{edge}": ~mask(into["c"] - {edge}) for edge in into["c"]}
    off = error(complement=~mask(into["c"]), none=np.zeros(compiled.universe.n_edges, dtype=bool), **back)
    assert off["complement"] == off["none"] == 4
    assert all(off[name] == 1 for name in back)


def trained(kind: str, direction: str, n: int, seed: int) -> tuple[str, ...]:
    """The edges into the MLP of a circuit that says all that the model says."""
    compiled, pairs = toy_of(kind, seed)
    settings = {"steps": 120, "sparsity": 1 - n / compiled.universe.n_edges, "seed": seed}
    circuit = top_edges(ranked(compiled, pairs, "edge-pruning", direction, **settings), n)
    one_way = pairs if direction == "noising" else pairs.swapped()
    assert evaluate_masks(compiled, {"circuit": circuit}, one_way, intervals=False)["circuit"]["mse"] == 0
    return tuple(edge for edge in circuit if edge.endswith("->m0"))


@pytest.mark.slow
def test_training_keeps_one_edge_of_an_or_and_which_one_depends_on_the_seed() -> None:
    kept = [trained("or", "noising", 3, seed) for seed in range(2)]
    assert [len(edges) for edges in kept] == [1, 1] and len(set(kept)) == 2


@pytest.mark.full
def test_training_in_either_direction_on_five_seeds() -> None:
    """Of 13 edges: three where one head is enough, five where both are needed."""
    asked = {("or", "noising"): 3, ("or", "denoising"): 5, ("and", "noising"): 5, ("and", "denoising"): 3}
    kept = {how: [trained(*how, n, seed) for seed in range(5)] for how, n in asked.items()}
    sizes = {how: {len(edges) for edges in found} for how, found in kept.items()}
    assert sizes == {how: {1 if n == 3 else 2} for how, n in asked.items()}
    assert len(set(kept["or", "noising"])) == 2
