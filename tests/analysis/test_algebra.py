"""Set algebra against Python sets of names and liveness; what a result says of its parents."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings

from analysis import complement, difference, intersection, symmetric_difference, union
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, GraphMismatchError
from circuitgraph.graph.universe import Universe
from tests.circuitgraph.graph.universes import STEADY, Kept, kept_edges

TINY = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
OPERATIONS: dict[Callable[..., Circuit], Callable[[set[str], set[str]], set[str]]] = {
    union: set.union,
    intersection: set.intersection,
    difference: set.difference,
    symmetric_difference: set.symmetric_difference,
}


def pair_of(case: Kept) -> tuple[Circuit, Circuit]:
    rng = np.random.default_rng(case.seed + 1)
    n = case.universe.n_edges
    other = np.where(rng.random(n) < 0.5, case.mask, rng.random(n) < 0.3)
    first, second = (
        Circuit.from_edges(case.universe, kept, scores=rng.normal(size=n), ablation="zero")
        for kept in (case.mask, other)
    )
    return first, second


@settings(parent=STEADY, max_examples=40)
@given(case=kept_edges())
def test_results_are_those_of_sets_of_names(case: Kept) -> None:
    a, b = pair_of(case)
    for operation, of_sets in OPERATIONS.items():
        found, wanted = operation(a, b), of_sets(set(a), set(b))
        assert found.n_raw == len(wanted)
        assert found == Circuit.from_edges(case.universe, sorted(wanted), ablation="zero")
        assert found.ablation == "zero"
        of_a, of_b = (dict(zip(circuit, circuit.scores.tolist(), strict=True)) for circuit in (a, b))
        for name, score in zip(found, found.scores.tolist(), strict=True):
            parents = [scores[name] for scores in (of_a, of_b) if name in scores]
            assert score == pytest.approx(sum(parents) / len(parents))
    everything = set(Circuit.from_edges(case.universe, np.arange(case.universe.n_edges)))
    assert complement(a).n_raw == len(everything - set(a))


def test_three_circuits() -> None:
    names = ["input->logits", "input->m0", "m0->logits"]
    a, b = Circuit.from_edges(TINY, dict.fromkeys(names, 3.0)), Circuit.from_edges(TINY, {"input->logits": 6.0})
    c = Circuit.from_edges(TINY, ["input->a0.h1<v>", "a0.h1->logits", "input->logits"])
    both = union(a, b, c)
    assert set(both) == {*names, *c} and both.scores[list(both).index("input->logits")] == pytest.approx(10 / 3)
    assert list(intersection(a, b, c)) == ["input->logits"]
    assert union(a) == a == intersection(a)
    for operation in (union, intersection):
        assert operation([a, b, c]) == operation({"a": a, "b": b, "c": c}) == operation(a, b, c)
        assert operation([a, b]).provenance == operation(a, b).provenance
        with pytest.raises(ConfigurationError, match="argument 2: expected a Circuit, or all .* got list"):
            operation(a, [b, c])


def test_edges_that_dangle_in_the_result_are_dropped() -> None:
    a = Circuit.from_edges(TINY, ["input->m0", "m0->logits"])
    b = Circuit.from_edges(TINY, ["m0->logits", "input->a0.h0<q>", "a0.h0->m0"])
    rest = difference(a, b)
    assert list(rest) == [] and rest.n_raw == 1


def test_a_result_tells_of_its_parents_and_inherits_what_they_agree_on() -> None:
    shared = {"model": "m", "revision": "r", "config_hash": "c", "task": "ioi", "data_hash": "d"}
    a = Circuit.from_edges(
        TINY, ["input->logits"], provenance={**shared, "seed": 0, "recipe": {"name": "quick", "steps": 9}}
    )
    b = Circuit.from_edges(
        TINY, ["input->m0", "m0->logits"], provenance={**shared, "task": "gt", "seed": 1, "metrics": {}}
    )
    found = union(a, b).provenance
    assert found["operation"] == "union" and found["parents"] == [a.digest, b.digest]
    assert {name: found[name] for name in shared if name in found} == {k: v for k, v in shared.items() if k != "task"}
    assert "seed" not in found and "metrics" not in found and "recipe" not in found
    told = found["parent_provenance"]
    assert [(one["digest"], one["task"], one["seed"], one["n_edges"]) for one in told] == [
        (a.digest, "ioi", 0, 1),
        (b.digest, "gt", 1, 2),
    ]
    assert told[0]["recipe"] == "quick" and "metrics" not in told[1]
    assert complement(a).provenance["parents"] == [a.digest] and complement(a).provenance["task"] == "ioi"
    assert complement(a) == a.complement()


def test_results_are_saved_and_loaded(tmp_path) -> None:
    a = Circuit.from_edges(TINY, {"input->logits": 1.5, "input->m0": 2.0, "m0->logits": 1.0}, provenance={"model": "m"})
    b = Circuit.from_edges(TINY, ["input->logits"], provenance={"model": "m"})
    for operation in OPERATIONS:
        made = operation(a, b)
        read = Circuit.load(made.save(tmp_path / "circuit.json"))
        assert read == made and read.provenance == made.provenance and np.array_equal(read.scores, made.scores)


def test_ablations_have_to_agree_or_be_given() -> None:
    zero, swapped = (Circuit.from_edges(TINY, ["input->logits"], ablation=name) for name in ("zero", "counterfactual"))
    for operation in OPERATIONS:
        with pytest.raises(ConfigurationError, match="differ in ablation .*'zero'.*'counterfactual'.*ablation="):
            operation(zero, swapped)
        assert operation(zero, swapped, ablation="mean").ablation == "mean"


def test_other_universes_and_models_are_refused() -> None:
    a = Circuit.from_edges(TINY, ["input->logits"], provenance={"model": "a"})
    b = Circuit.from_edges(TINY, ["input->logits"], provenance={"model": "b"})
    other = Circuit.from_edges(Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2), ["input->logits"])
    for operation in OPERATIONS:
        with pytest.raises(GraphMismatchError, match="across_checkpoints=True"):
            operation(a, b)
        assert "model" not in operation(a, b, across_checkpoints=True).provenance
        with pytest.raises(GraphMismatchError, match="n_layers: 1 against 2"):
            operation(a, other)
    with pytest.raises(ConfigurationError, match="at least 1 circuit; got 0"):
        union()
