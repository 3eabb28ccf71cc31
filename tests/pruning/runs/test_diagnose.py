"""Troubles told in words, and silence where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.graph.gate_map import GateMap
from circuitgraph.graph.universe import Universe
from pruning.methods.edge_pruning.gates import Gates
from pruning.methods.edge_pruning.loop import TrainingRun
from pruning.methods.edge_pruning.recipes import Recipe
from pruning.methods.edge_pruning.state import StepRecord
from pruning.runs.diagnose import diagnose

UNIVERSE = Universe(family="gpt2", n_layers=3, n_heads=3, n_kv_heads=3)
RECIPE = Recipe(name="test", steps=10, ramp_steps=5, warmup_steps=1, learning_rate=1, target_sparsity=0.9, batch_size=1)
CHAIN = Circuit.from_edges(UNIVERSE, ["input->a0.h0<v>", "a0.h0->m2", "m2->logits", "input->logits"])


def run_of(*, n: int = 60, stopped_by: str = "", **changes: float) -> TrainingRun:
    values = {"sparsity": 0.9, "target": 0.9, "objective": 0.1, "undecided": 2, **changes}
    gates = Gates(GateMap.identity(UNIVERSE), init_mean=0, init_std=1, generator=torch.Generator().manual_seed(0))
    records = tuple(
        StepRecord(step=step, seconds=step, loss=1.0, lambda1=0.0, lambda2=0.0, live_heads=1, live_mlps=1, **values)
        for step in range(n)
    )
    return TrainingRun(gates=gates, records=records, interrupted=bool(stopped_by), stopped_by=stopped_by)


def found(run: TrainingRun, circuit: Circuit = CHAIN, kl: float | None = 0.12) -> str:
    metrics = None if kl is None else {"circuit": {"kl": kl}}
    return " | ".join(diagnose(run, circuit, RECIPE, metrics))


def test_nothing_is_wrong() -> None:
    assert found(run_of()) == ""
    assert found(run_of(), kl=None) == ""


@pytest.mark.parametrize(("sparsity", "told"), [(0.95, False), (0.895, False), (0.88, True), (0.1, True)])
def test_a_target_that_was_not_reached(sparsity: float, told: bool) -> None:
    said = found(run_of(sparsity=sparsity))
    assert ("target was not reached" in said) == told
    assert not told or (f"{sparsity:.3f}" in said and "0.900" in said and "--steps" in said)


def test_targets_above_one_are_reached_by_nobody_and_no_trouble() -> None:
    assert "target" not in found(run_of(sparsity=0.98, target=1.1))


def test_gates_that_hardly_moved_are_said_whatever_the_target() -> None:
    # A short run of a schedule towards 1.0 kept 86 of 94 edges of a compiled program without a word.
    assert "hardly moved: their sparsity is 0.120 at the end of a schedule towards 1.1" in found(
        run_of(sparsity=0.12, target=1.1)
    )


def test_undecided_gates() -> None:
    # 0.1 of the universe's 172 edges are kept: 17.2; nine undecided are more than half of them.
    assert UNIVERSE.n_edges == 172
    assert "undecided" not in found(run_of(undecided=8))
    assert "undecided: 9 of them" in found(run_of(undecided=9))


def test_only_the_last_steps_count() -> None:
    early, late = run_of(n=50, sparsity=0.1), run_of(n=50)
    both = TrainingRun(gates=late.gates, records=early.records + late.records, interrupted=False, stopped_by="")
    assert found(both) == ""


def test_steps_of_a_lower_target_do_not_count() -> None:
    ramp, end = run_of(n=12, sparsity=0.5, target=0.5, objective=0.0, undecided=40), run_of(n=8)
    both = TrainingRun(gates=end.gates, records=ramp.records + end.records, interrupted=False, stopped_by="")
    assert found(both) == ""
    missed = run_of(n=8, sparsity=0.6)
    both = TrainingRun(gates=end.gates, records=ramp.records + missed.records, interrupted=False, stopped_by="")
    assert "sparsity is 0.600, 0.900 was asked for" in found(both)


def test_an_empty_circuit() -> None:
    empty = Circuit.from_edges(UNIVERSE, ["a0.h0->m2"])
    assert "circuit is empty" in found(run_of(), empty)


def test_many_edges_that_dangled() -> None:
    edges = np.zeros(UNIVERSE.n_edges, dtype=bool)
    edges[CHAIN.edge_ids] = True
    for name in ("a1.h0->m1", "a1.h1->m1"):
        edges[UNIVERSE.edge_index(*name.split("->"))] = True
    loose = Circuit.from_edges(UNIVERSE, edges)
    assert (loose.n_raw, len(loose)) == (6, 4)
    assert "2 of 6 kept edges dangled" in found(run_of(), loose)


def test_a_kept_circuit_worse_than_its_gates() -> None:
    assert found(run_of(objective=0.1), kl=0.19) == ""
    said = found(run_of(objective=0.1), kl=0.25)
    assert "worse than the gates" in said and "0.250" in said and "0.100" in said


def test_only_a_kl_is_compared_with_a_kl() -> None:
    run, metrics = run_of(objective=0.1), {"circuit": {"kl": 9.0}}
    assert diagnose(run, CHAIN, RECIPE, metrics, objective="logit-diff") == []
    assert len(diagnose(run, CHAIN, RECIPE, metrics, objective="kl")) == 1


def test_an_early_end_comes_first() -> None:
    said = found(run_of(stopped_by="step 7: the loss is not finite"))
    assert said.startswith("step 7:")


def test_no_step_at_all() -> None:
    assert "No step was taken" in found(run_of(n=0, stopped_by="interrupted by the user after 0 steps"))


def test_no_advice_on_training_where_there_is_nothing_to_explain() -> None:
    empty = Circuit.from_edges(UNIVERSE, [])
    run = run_of(sparsity=0.5, undecided=100)
    assert "Lower --target-sparsity" in found(run, empty)
    (said,) = diagnose(run, empty, RECIPE, None, verdicts={"nothing-to-explain"})
    assert said == "The circuit is empty: no path of kept edges leads from the input to the logits."
