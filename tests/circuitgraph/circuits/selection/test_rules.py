"""Rules against slow ways to the same: greedy by looking at all candidates, the best circuit by trying all."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import combinations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.circuits.selection import connected
from circuitgraph.circuits.selection.connected import connected_edges
from circuitgraph.circuits.selection.greedy import greedy_edges, taken_from_the_logits
from circuitgraph.circuits.selection.rules import RULES, RuleOptions, select_edges
from circuitgraph.circuits.selection.stable import stable_edges
from circuitgraph.circuits.selection.top import threshold_edges, top_edges
from circuitgraph.errors import ConfigurationError, GraphMismatchError, UnknownNameError
from circuitgraph.graph.spans import with_spans
from circuitgraph.graph.universe import Universe

TOY = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
SHARED = Universe(family="llama", n_layers=1, n_heads=2, n_kv_heads=1)
GPT2 = Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2)
GROUPED = Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2)
SPANNED = with_spans(replace(GPT2, n_layers=1), ("name", "middle", "end"), asked=("name", "end"))
"""Not all its edges lead to the logits: what the middle's MLP writes is read nowhere."""
VALUES = np.array([0.1, -0.2, 3.0, 0.4, -4.0, -0.6, 5.0, 0.7])


def scores_of(universe: Universe, values: np.ndarray, **changes: str) -> EdgeScores:
    about = {"method": "mine", "direction": "noising", "estimates": "a rank"}
    return EdgeScores.of(universe, values, **{**about, **changes})


def lie_on_paths(universe: Universe, edges: tuple[int, ...], *, from_inputs: bool) -> bool:
    """Whether each of some edges is on a path to the logits, and from an embedding where that is asked."""
    graph = nx.DiGraph(universe.structural_edges())
    names = [tuple(universe.edge_name(edge).split("->")) for edge in edges]
    graph.add_edges_from(names)
    graph.add_nodes_from(["input", "logits"])
    behind, before = nx.descendants(graph, "input") | {"input"}, nx.ancestors(graph, "logits") | {"logits"}
    return all(target in before and (source in behind or not from_inputs) for source, target in names)


@cache
def connected_sets(universe: Universe, n: int, from_inputs: bool) -> np.ndarray:
    """All connected sets of n edges `[set, edge]`."""
    sets = combinations(range(universe.n_edges), n)
    found = [edges for edges in sets if lie_on_paths(universe, edges, from_inputs=from_inputs)]
    return np.array(found, dtype=np.int64).reshape(-1, n)


# -------------------------------------------------------------------- connected


@pytest.mark.parametrize("ablation", ["counterfactual", "zero"])
@pytest.mark.parametrize("universe", [TOY, SHARED], ids=["toy", "shared"])
def test_no_other_connected_circuit_is_better(universe: Universe, ablation: str) -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 4):
        values = rng.normal(size=universe.n_edges) * 10.0 ** rng.integers(-3, 4)
        all_sets = connected_sets(universe, n, ablation == "counterfactual")
        for by, worth in (("size", np.abs(values)), ("signed", values)):
            scores = scores_of(universe, values, ablation=ablation)
            circuit = connected_edges(scores, n, by=by)
            found, best = worth[circuit.edge_ids].sum(), worth[all_sets].sum(1).max()
            assert len(circuit) == circuit.n_raw == n and found == pytest.approx(best, rel=1e-9)
            told = circuit.provenance["selection"]
            assert told["optimal"] and told["sum"] == pytest.approx(best) and told["gap"] < 1e-6


def test_at_most_leaves_out_what_costs() -> None:
    rng = np.random.default_rng(1)
    for _ in range(2):
        values = rng.normal(size=TOY.n_edges)
        circuit = connected_edges(scores_of(TOY, values), 5, by="signed", exactly=False)
        best = max(values[connected_sets(TOY, n, True)].sum(1).max(initial=-9) for n in range(1, 6))
        assert values[circuit.edge_ids].sum() == pytest.approx(max(best, 0.0))
    assert len(connected_edges(scores_of(TOY, -np.ones(8)), 5, by="signed", exactly=False)) == 0


def whole_programme(universe: Universe, values: np.ndarray, n: int) -> float:
    """The best sum by the textbook programme over all edges, all variables whole."""
    n_edges, names = universe.n_edges, list(universe.writers[1:])
    feeds = {name: [reader for reader, head in universe.structural_edges() if head == name] or [name] for name in names}
    ends = [universe.edge_name(edge).split("->") for edge in range(n_edges)]
    rows = []

    def row(plus: dict[int, float]) -> None:
        line = np.zeros(n_edges + len(names))
        for place, value in plus.items():
            line[place] += value
        rows.append(line)

    for edge, (source, target) in enumerate(ends):
        if source != "input":
            row({edge: 1, n_edges + names.index(source): -1})
        if target != "logits":
            row({edge: 1, **{n_edges + place: -1 for place, name in enumerate(names) if target in feeds[name]}})
    for place, name in enumerate(names):
        row({n_edges + place: 1, **{edge: -1 for edge, (_, target) in enumerate(ends) if target in feeds[name]}})
        row({n_edges + place: 1, **{edge: -1 for edge, (source, _) in enumerate(ends) if source == name}})
    count = np.concatenate([np.ones(n_edges), np.zeros(len(names))])
    done = milp(
        -np.concatenate([values, np.zeros(len(names))]),
        constraints=[LinearConstraint(np.array(rows), ub=0), LinearConstraint(count[None], lb=n, ub=n)],
        bounds=Bounds(0, 1),
        integrality=np.ones(n_edges + len(names)),
    )
    return -done.fun


@pytest.mark.parametrize("universe", [GPT2, GROUPED], ids=["gpt2", "grouped"])
def test_edges_that_join_late_are_enough(universe: Universe, monkeypatch: pytest.MonkeyPatch) -> None:
    """From few edges to begin with, columns and reduced costs find what the whole programme finds."""
    straight = connected._Programme.first_edges
    rng = np.random.default_rng(2)
    for n in (3, 12):
        values = np.exp(2 * rng.normal(size=universe.n_edges))
        best = whole_programme(universe, values, n)
        for first in (straight, lambda self: np.flatnonzero((self.writers < 0) | (self.readers == self.readers.max()))):
            monkeypatch.setattr(connected._Programme, "first_edges", first)
            circuit = connected_edges(scores_of(universe, values), n)
            assert circuit.scores.sum() == pytest.approx(best, rel=1e-6) and len(circuit) == n
            assert circuit.provenance["selection"]["bound"] >= best * (1 - 1e-9)


def test_time_runs_out() -> None:
    scores = scores_of(GPT2, np.random.default_rng(3).normal(size=46))
    with pytest.raises(ConfigurationError, match="time_limit must be above 0"):
        connected_edges(scores, 5, time_limit=0)
    try:
        told = connected_edges(scores, 5, time_limit=1e-9).provenance["selection"]
        assert told["bound"] >= told["sum"] and told["optimal"] == (told["gap"] <= 1e-6)
    except ConfigurationError as error:
        assert "allow more" in str(error)


def test_a_bound_without_the_relaxation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where time ran out before it, the bound is the sum of the n best, and the gap says so."""
    values = VALUES.copy()
    simple = np.sort(np.abs(values))[::-1][:3].sum()
    monkeypatch.setattr(connected, "_relaxation", lambda programme, edges, _: (simple / programme.scale, None, edges))
    told = connected_edges(scores_of(TOY, values), 3).provenance["selection"]
    assert told["bound"] == pytest.approx(12.0) and told["sum"] == pytest.approx(8.6) and not told["optimal"]
    assert told["gap"] == pytest.approx((12 - 8.6) / 12)


# -------------------------------------------------------------------- greedy


def naive_greedy(universe: Universe, values: np.ndarray, n: int) -> list[int]:
    heads = universe.structural_edges()
    inside, taken = {name for name in universe.readers if name.startswith("logits")}, []
    ends = [tuple(universe.edge_name(edge).split("->")) for edge in range(universe.n_edges)]
    for _ in range(n):
        candidates = [
            edge
            for edge, (_, target) in enumerate(ends)
            if edge not in taken
            and (target in inside or any(head in inside for reader, head in heads if reader == target))
        ]
        if not candidates:
            break
        best = max(candidates, key=lambda edge: (values[edge], -edge))
        taken.append(best)
        inside.add(ends[best][0])
    return taken


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), universe=st.sampled_from([GPT2, GROUPED, SPANNED]), n=st.integers(0, 40))
def test_greedy_takes_the_best_candidate_each_time(seed: int, universe: Universe, n: int) -> None:
    values = np.random.default_rng(seed).integers(0, 12, universe.n_edges).astype(float)  # with ties
    assert taken_from_the_logits(universe, values, n).tolist() == naive_greedy(universe, values, n)


def test_greedy_by_hand() -> None:
    scores = scores_of(TOY, VALUES)
    circuit = greedy_edges(scores, 3)  # a0.h0->logits, then input->a0.h0<v>, then m0->logits
    assert list(circuit) == ["input->a0.h0<v>", "a0.h0->logits"] and circuit.n_raw == 3
    told = circuit.provenance["selection"]
    assert told == {"rule": "greedy", "n": 3, "by": "strength", "scores": scores.digest, "n_kept": 2}
    assert len(greedy_edges(scores, 8)) == 8 and len(greedy_edges(scores, 0)) == 0


# -------------------------------------------------------------------- threshold, stable, by name


def test_threshold() -> None:
    assert list(threshold_edges(scores_of(TOY, VALUES), 3.0)) == ["input->a0.h0<v>", "a0.h0->logits"]
    assert (
        threshold_edges(scores_of(TOY, VALUES), 3.0).n_raw
        == 3
        == threshold_edges(scores_of(TOY, VALUES), 0.7 + 2).n_raw
    )
    assert threshold_edges(scores_of(TOY, VALUES), 0.1, by="signed").n_raw == 5
    gates = scores_of(TOY, VALUES, estimates="log-alpha")
    assert threshold_edges(gates, 0.0).n_raw == 5  # the score itself, not log(1 + exp(score))
    with pytest.raises(ConfigurationError, match="finite"):
        threshold_edges(gates, np.nan)


def test_stable() -> None:
    draws = np.stack([VALUES, VALUES, VALUES, VALUES])
    draws[0, 6], draws[1, 3] = -50.0, 0.0  # a0.h0->logits changes its sign once, input->m0 has none once
    several = [scores_of(TOY, draw) for draw in draws]
    told = stable_edges(several, 8).provenance["selection"]
    assert (told["n_stable"], told["n_resamples"], told["n_chosen"]) == (6, 4, 6)
    lenient = stable_edges(several, 3, agreement=0.75)  # the mean of a0.h0->logits is -8.75
    assert lenient.n_raw == 3 and lenient.provenance["selection"]["n_stable"] == 8
    assert dict(zip(lenient, lenient.scores.tolist(), strict=True))["a0.h0->logits"] == pytest.approx(-8.75)
    for wrong, message in (({"agreement": 0.5}, "above 0.5"), ({"n": 9}, "0 to 8")):
        with pytest.raises(ConfigurationError, match=message):
            stable_edges(several, **{"n": 2, **wrong})
    with pytest.raises(ConfigurationError, match="at least two"):
        stable_edges(several[:1], 2)
    with pytest.raises(GraphMismatchError, match="n_layers"):
        stable_edges([several[0], scores_of(replace(TOY, n_layers=2), np.zeros(23))], 2)
    with pytest.raises(GraphMismatchError, match="scores of one method on several samples"):
        stable_edges([several[0], replace(several[1], estimates="another thing")], 2)


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"threshold"}))
def test_every_rule_keeps_its_word(rule: str, tmp_path) -> None:
    """No more than n are chosen, none dangles, the provenance says how many were kept, and files keep them."""
    several = [scores_of(GPT2, np.random.default_rng(5).normal(size=46) + 0.1 * place) for place in range(3)]
    for n in (0, 1, 7, 46):
        circuit = select_edges(several if rule == "stable" else several[:1], rule, RuleOptions(n=n))
        told = circuit.provenance["selection"]
        assert (told["rule"], told["n"], told["n_kept"]) == (rule, n, len(circuit)) and circuit.n_raw <= n
        assert lie_on_paths(GPT2, tuple(circuit.edge_ids.tolist()), from_inputs=True)
        assert Circuit.load(circuit.save(tmp_path / "c.json")) == circuit
        with pytest.raises((ConfigurationError, UnknownNameError), match="order 'sizes'"):
            select_edges(several if rule == "stable" else several[:1], rule, RuleOptions(n=n, by="sizes"))


def test_by_name() -> None:
    scores = scores_of(TOY, VALUES)
    assert scores.select("top", 3) == top_edges(scores, 3) and scores.select(n=3) == top_edges(scores, 3)
    assert scores.select("threshold", threshold=3.0) == threshold_edges(scores, 3.0)
    assert scores.select("connected", 3) == connected_edges(scores, 3)
    wrong = [
        (("best",), {"n": 1}, "unknown rule 'best'"),
        (("top",), {}, "needs n"),
        (("top", 3), {"threshold": 1.0}, "rule 'top' has no threshold; its options are by, n"),
        (("greedy", 3), {"exactly": False}, "has no exactly"),
        (("threshold", 3), {"threshold": 1.0}, "takes a threshold and no n"),
        (("stable", 3), {}, "at least two"),
        (("connected", 99), {}, "0 to 8"),
    ]
    for arguments, options, message in wrong:
        with pytest.raises((ConfigurationError, UnknownNameError), match=message):
            scores.select(*arguments, **options)
    with pytest.raises(ConfigurationError, match="takes the scores of one method; got 2"):
        select_edges([scores, scores], "top", RuleOptions(n=1))
