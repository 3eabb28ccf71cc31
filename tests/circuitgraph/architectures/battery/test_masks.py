"""Each family's graph against its untouched model: all edges, none, and any share of them cut."""

from __future__ import annotations

import pytest
import torch

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.parity import parity_differences
from tests.circuitgraph.architectures.battery.case import (
    GROUPS,
    HEADS,
    LAYERS,
    Made,
    compiled_case,
    differs_by,
    exact,
    gates_of,
    made,
    prompts,
)
from tests.circuitgraph.architectures.battery.families import CASES, EVERY, LONG_ONES
from tests.oracles.hooks import all_said, call, run_gated
from tests.oracles.uncast import uncast

# Float32 sums in another order through a few layers; 1e-5 is seen.
ROUNDING = 1e-4

pytestmark = pytest.mark.slow


def check_gates(own: Made, *, cut: float, side: str = "left", ablation: str = "counterfactual", seed: int = 0) -> float:
    """Compare a masked run of a float64 model with hooks; give how far it is from the full model."""
    clean, other = prompts(side=side, seed=seed)
    universe, marks = own.compiled.universe, own.marks
    gates = gates_of(own.n_edges, cut=cut, seed=seed, between=0 < cut < 1).double()
    with uncast(), torch.no_grad():
        said = all_said(own.model, universe, other, marks)
        if ablation == "counterfactual":
            values = own.compiled.run_with_values(other)[1]
        else:
            values = own.compiled.ablation_values(ablation, [other])
            real, nothing = other.attention_mask.bool(), torch.zeros((), dtype=torch.float64)
            said = {name: value[real].mean(0) if ablation == "mean" else nothing for name, value in said.items()}
        theirs = run_gated(own.model, universe, gates, clean, said, marks)
        ours = own.compiled.masked(gates, clean, values).logits
        assert ours.dtype == theirs.dtype == torch.float64
        assert differs_by(ours, theirs) < own.case.exact
        return differs_by(theirs, call(own.model, clean))


@pytest.mark.parametrize("case", EVERY)
def test_all_edges_and_none_are_the_models_own_runs(case: str) -> None:
    """At all positions, with left, right and no padding."""
    assert max(parity_differences(made(case).compiled).values()) < ROUNDING


@pytest.mark.parametrize("case", EVERY)
def test_a_third_of_the_edges_cut(case: str) -> None:
    assert check_gates(exact(case), cut=0.3) > 0.1


@pytest.mark.parametrize("case", LONG_ONES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("groups", [1, 2, HEADS])
def test_other_groups_and_attention_functions(case: str, attention: str, groups: int) -> None:
    family = CASES[case]
    if attention == "sdpa" and not made(case).model._supports_sdpa:
        pytest.skip("transformers has no sdpa for this family")
    if family.groups is None and groups != (1 if family.one_group else HEADS):
        pytest.skip("this family has no groups")
    groups = family.n_heads if groups == HEADS else groups
    own = compiled_case(family.with_groups(groups), attention=attention)
    assert own.compiled.universe.n_kv_heads == groups
    assert max(parity_differences(own.compiled).values()) < ROUNDING
    wide = compiled_case(family.with_groups(groups), attention=attention, dtype=torch.float64)
    check_gates(wide, cut=0.5, side="right")


@pytest.mark.parametrize("case", LONG_ONES)
@pytest.mark.parametrize("cut", [0.0, 0.03, 0.8, 0.97, 1.0])
def test_other_shares_of_the_edges_cut(case: str, cut: float) -> None:
    for seed, side in enumerate(("right", "none")):
        check_gates(exact(case), cut=cut, side=side, seed=seed)


@pytest.mark.parametrize("case", LONG_ONES)
@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_constants_in_cut_edges(case: str, ablation: str) -> None:
    for seed, cut in enumerate((0.3, 0.9)):
        check_gates(exact(case), cut=cut, ablation=ablation, seed=seed)


@pytest.mark.parametrize("case", EVERY)
def test_edges_are_as_many_as_the_formula_says(case: str) -> None:
    """Σ over layers of the readers' writers, and those of the logits."""
    own, universe = CASES[case], made(case).compiled.universe
    layers, heads, groups = universe.n_layers, universe.n_heads, universe.n_kv_heads
    of_case = GROUPS if own.groups else 1 if own.one_group else own.n_heads
    assert (layers, heads, groups) == (LAYERS, own.n_heads, of_case)
    before = [1 + layer * (heads + 1) for layer in range(layers)]
    of_own_layer = 0 if own.parallel else heads
    of_layers = sum((heads + 2 * groups) * n + n + of_own_layer for n in before)
    assert universe.n_edges == of_layers + 1 + layers * (heads + 1)
    assert universe.block_order == ("parallel" if own.parallel else "sequential")
    assert universe.head_scale == ("shared" if own.shared_scale else "own")


@pytest.mark.parametrize("case", [name for name, own in CASES.items() if own.shared_scale])
def test_a_head_that_nobody_reads_matters_by_the_scale_that_heads_share(case: str) -> None:
    """The logits read head 0 of the first layer; head 1, which nobody reads, moves the scale of head 0."""
    own = exact(case)
    universe, (clean, other) = own.compiled.universe, prompts(side="none")
    names = ["input->a0.h0<q>", "input->a0.kv0<v>", "a0.h0->logits", "input->a0.h5<q>"]
    edges = [universe.edge_index(*name.split("->")) for name in names]
    circuit = Circuit.from_edges(universe, names)
    assert len(circuit.edges) == len(names)
    runs = []
    with uncast(), torch.no_grad():
        values = own.compiled.run_with_values(other)[1]
        said = all_said(own.model, universe, other, own.marks)
        for kept in (edges, edges[:-1]):
            gates = torch.zeros(own.n_edges, dtype=torch.float64)
            gates[kept] = 1.0
            runs.append(own.compiled.masked(gates, clean, values).logits)
            assert differs_by(runs[-1], run_gated(own.model, universe, gates, clean, said, own.marks)) < own.case.exact
    assert differs_by(runs[0], runs[1]) > 1e-4
