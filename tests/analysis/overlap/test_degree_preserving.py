"""The sampled null model against enumeration of all edge sets with the same degrees; its p-values calibrated."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import combinations, permutations

import numpy as np
import pytest
from scipy.stats import chi2, chisquare

from analysis.overlap.degree_preserving import EdgeSet, mixing_curve, sampled_overlaps, trade
from analysis.overlap.tails import Tails
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.universe import Universe
from tests.analysis.random_circuits import crowded_circuit

# Five readers that see 1, 2, 3, 4 and 5 writers: 15 edges, 32,768 edge sets.
STAIRS = Universe(family="gpt2", n_layers=2, n_heads=1, n_kv_heads=1, qkv="joint")
# Readers that see 1, 1, 3, 3 and 5 writers: flat steps.
PARALLEL = Universe(family="pythia", n_layers=2, n_heads=1, n_kv_heads=1, qkv="joint", block_order="parallel")
Edges = tuple[int, ...]
START: Edges = (2, 4, 7, 8, 9, 10)


def degrees(universe: Universe, edges: np.ndarray) -> bytes:
    writers, readers = universe.endpoints(np.asarray(edges, dtype=np.int64))
    out = np.bincount(writers, minlength=universe.n_writers)
    return np.concatenate([out, np.bincount(readers, minlength=universe.n_readers)]).tobytes()


def classes(universe: Universe) -> list[list[Edges]]:
    """All edge sets of a universe, those of the same degrees together."""
    found = defaultdict(list)
    everything = np.arange(universe.n_edges)
    for number in range(2**universe.n_edges):
        edges = everything[(number >> everything) & 1 == 1]
        found[degrees(universe, edges)].append(tuple(edges.tolist()))
    return list(found.values())


@pytest.fixture(scope="module")
def stairs() -> list[list[Edges]]:
    return classes(STAIRS)


def exchanges(universe: Universe, edges: Edges) -> set[Edges]:
    """Edge sets that differ by an exchange of two edges: u->r, v->s become v->r, u->s."""
    offsets = universe.reader_offsets
    visible = np.diff(offsets)
    ends = list(zip(*(side.tolist() for side in universe.endpoints(np.array(edges, dtype=np.int64))), strict=True))
    found = set()
    for (u, r), (v, s) in combinations(ends, 2):
        new = {(v, r), (u, s)}
        if u != v and r != s and v < visible[r] and u < visible[s] and not new & set(ends):
            found.add(tuple(sorted(int(offsets[b]) + a for a, b in (set(ends) - {(u, r), (v, s)}) | new)))
    return found


@pytest.mark.parametrize("universe", [STAIRS, PARALLEL], ids=["stairs", "parallel"])
def test_exchanges_of_two_edges_join_all_edge_sets_of_the_same_degrees(universe, stairs):
    """What the documentation proves, for every degree sequence of two universes."""
    found = stairs if universe is STAIRS else classes(universe)
    assert max(len(members) for members in found) > 5
    for members in found:
        reached, new = set(), [members[0]]
        while new:
            edges = new.pop()
            if edges not in reached:
                reached.add(edges)
                new += exchanges(universe, edges)
        assert reached == set(members)


def test_every_edge_set_of_the_same_degrees_is_equally_likely(stairs):
    members = sorted(max(stairs, key=len))
    assert len(members) == 20
    rng, n = np.random.default_rng(0), 100 * len(members)
    counts = dict.fromkeys(members, 0)
    state = EdgeSet.of(STAIRS, np.array(members[0]))
    for _ in range(n):
        state = trade(state, 4, rng)
        counts[tuple(sorted(state.edge_ids.tolist()))] += 1
    assert chisquare(list(counts.values())).pvalue > 0.001


def exact_trades(universe: Universe, edges: Edges, *, between_readers: bool) -> dict[Edges, float]:
    """What all pairs of readers, or of writers, can make of an edge set by trading at once, and how likely it is."""
    visible = np.diff(universe.reader_offsets)
    ends = {tuple(end) for end in np.stack(universe.endpoints(np.array(edges)), axis=1).tolist()}
    place = 1 if between_readers else 0
    nodes = sorted({end[place] for end in ends})
    found: dict[Edges, float] = defaultdict(float)
    orders = list(permutations(nodes))
    for order in orders:
        outcomes = {frozenset(ends): 1.0}
        for one, other in zip(order[::2], order[1::2], strict=False):
            outcomes = _after_a_trade(outcomes, one, other, place, visible)
        for outcome, chance in outcomes.items():
            ids = sorted(int(universe.reader_offsets[reader]) + writer for writer, reader in outcome)
            found[tuple(ids)] += chance / len(orders)
    return found


def _after_a_trade(
    outcomes: dict[frozenset[Edges], float], one: int, other: int, place: int, visible: np.ndarray
) -> dict[frozenset[Edges], float]:
    after: dict[frozenset[Edges], float] = defaultdict(float)
    for ends, chance in outcomes.items():
        listens = [{end[1 - place] for end in ends if end[place] == node} for node in (one, other)]

        def exists(node: int, partner: int) -> bool:
            writer, reader = (partner, node) if place else (node, partner)
            return bool(writer < visible[reader])

        tradable = {x for x in listens[0] ^ listens[1] if exists(one, x) and exists(other, x)}
        deals = list(combinations(sorted(tradable), len(tradable & listens[0])))
        for deal in deals:
            kept = {end for end in ends if end[place] not in (one, other) or end[1 - place] not in tradable}
            dealt = {(x, one if x in deal else other) for x in tradable}
            new = kept | (dealt if place else {(node, x) for x, node in dealt})
            after[frozenset(new)] += chance / len(deals)
    return after


def test_a_round_is_as_likely_as_its_reverse_and_as_calculated(stairs):
    """Detailed balance of single rounds: without it p-values would hang on mixing."""
    members = next(found for found in stairs if START in found)
    trades = {}
    for side in (True, False):
        rows = [exact_trades(STAIRS, edges, between_readers=side) for edges in members]
        trades[side] = np.array([[row.get(other, 0.0) for other in members] for row in rows])
        assert trades[side].sum(1) == pytest.approx(1) and trades[side] == pytest.approx(trades[side].T)
    both = trades[True] @ trades[False], trades[False] @ trades[True]
    # In either order alone a round would not be as likely as its reverse.
    assert np.abs(both[0] - both[1]).max() > 0.04
    kernel = (both[0] + both[1]) / 2
    assert kernel == pytest.approx(kernel.T)

    rng, n = np.random.default_rng(0), 1500
    counts = np.zeros_like(kernel)
    for place, start in enumerate(members):
        first = EdgeSet.of(STAIRS, np.array(start))
        for _ in range(n):
            counts[place, members.index(tuple(sorted(trade(first, 1, rng).edge_ids.tolist())))] += 1
    assert not counts[kernel == 0].any()
    distance = ((counts - n * kernel) ** 2)[kernel > 0] / (n * kernel[kernel > 0])
    assert chi2.sf(distance.sum(), np.count_nonzero(kernel) - len(members)) > 0.001


def test_the_circuit_is_exchangeable_with_its_samples():
    """Two samples are as far from each other as each is from the circuit, after a single round even."""
    universe = Universe(family="gpt2", n_layers=4, n_heads=4, n_kv_heads=4)
    rng = np.random.default_rng(0)
    state = trade(EdgeSet.of(universe, crowded_circuit(250, universe=universe).edge_ids), 100, rng)
    # Edges into one reader alone cannot move: what they share with the other set tells about that set.
    still = np.arange(*universe.reader_offsets[-2:])[::2]
    from_circuit, between = [], []
    for trial in range(400):
        state = trade(state, 10, rng)
        edge_sets = [still, state.edge_ids]
        one, other = sampled_overlaps(universe, edge_sets, [(0, 1)], n_samples=2, rounds=1, seed=trial)[0]
        observed = len(np.intersect1d(still, state.edge_ids))
        from_circuit.append(((observed - one) ** 2 + (observed - other) ** 2) / 2)
        between.append((one - other) ** 2)
    apart = np.subtract(from_circuit, between)
    assert np.mean(between) > 0.5
    assert apart.mean() == pytest.approx(0, abs=4 * apart.std() / math.sqrt(len(apart)))


@pytest.mark.parametrize("seed", range(3))
def test_degrees_stay_and_edges_are_the_universes(seed):
    circuit = crowded_circuit(600, seed=seed)
    universe = circuit.universe
    start = EdgeSet.of(universe, circuit.edge_ids)
    assert np.array_equal(np.sort(start.edge_ids), circuit.edge_ids)
    for rounds in (1, 10):
        drawn = trade(start, rounds, np.random.default_rng(seed)).edge_ids
        assert len(np.unique(drawn)) == len(circuit)
        assert drawn.min() >= 0 and drawn.max() < universe.n_edges
        assert degrees(universe, drawn) == degrees(universe, circuit.edge_ids)
        # Every node that had inputs and readers still has some.
        assert len(Circuit.from_edges(universe, drawn)) == len(circuit)
    assert np.array_equal(np.sort(start.edge_ids), circuit.edge_ids), "the start was changed"


def test_overlaps_are_distributed_as_enumerated(stairs):
    large = sorted((sorted(found) for found in stairs), key=lambda found: (-len(found), found))
    a, b = large[0], large[3]
    exact = defaultdict(float)
    for one in a:
        for other in b:
            exact[len(set(one) & set(other))] += 1 / (len(a) * len(b))
    n = 1200
    edge_sets = [np.array(a[0]), np.array(b[-1])]
    drawn = sampled_overlaps(STAIRS, edge_sets, [(0, 1)], n_samples=n, rounds=5)[0]
    support = sorted(exact)
    counts = np.array([(drawn == x).sum() for x in support])
    expected = n * np.array([exact[x] for x in support])
    assert counts.sum() == n
    large_enough = expected > 5
    scale = counts[large_enough].sum() / expected[large_enough].sum()
    assert chisquare(counts[large_enough], expected[large_enough] * scale).pvalue > 0.001


def test_calibrated_by_simulation_even_before_the_chain_has_mixed(stairs):
    found = sorted((sorted(found) for found in stairs), key=lambda found: (-len(found), found))
    rng, n, n_samples = np.random.default_rng(1), 300, 19
    p, mid = [], []
    for trial in range(n):
        a, b = (found[place][rng.integers(len(found[place]))] for place in (0, 3))
        drawn = sampled_overlaps(
            STAIRS, [np.array(a), np.array(b)], [(0, 1)], n_samples=n_samples, rounds=1, seed=trial
        )
        tails = Tails.of_samples(len(set(a) & set(b)), drawn[0])
        p.append([tails.p(alternative) for alternative in ("greater", "less", "two-sided")])
        mid.append(tails.mid_p("greater"))
    for alpha in (0.05, 0.1, 0.25, 0.5):
        noise = 3 * math.sqrt(alpha * (1 - alpha) / n)
        assert np.all((np.array(p) <= alpha + 1e-12).mean(0) <= alpha + noise), alpha
    assert np.mean(mid) == pytest.approx(0.5, abs=4 * np.std(mid) / math.sqrt(n))


def test_two_copies_of_a_circuit_share_more_than_chance():
    circuit = crowded_circuit(600)
    edge_sets = [circuit.edge_ids, circuit.edge_ids]
    drawn = sampled_overlaps(circuit.universe, edge_sets, [(0, 1)], n_samples=99)[0]
    assert Tails.of_samples(len(circuit), drawn).p() == pytest.approx(0.01)


def test_pairs_share_samples_and_seeds_decide():
    circuits = [crowded_circuit(300, seed=seed) for seed in range(3)]
    edge_sets, universe = [circuit.edge_ids for circuit in circuits], circuits[0].universe
    pairs = [(0, 1), (0, 2), (1, 2), (1, 0)]
    drawn = sampled_overlaps(universe, edge_sets, pairs, n_samples=20, seed=7)
    assert drawn.shape == (4, 20) and np.array_equal(drawn[0], drawn[3])
    assert np.array_equal(drawn, sampled_overlaps(universe, edge_sets, pairs, n_samples=20, seed=7))
    assert not np.array_equal(drawn, sampled_overlaps(universe, edge_sets, pairs, n_samples=20, seed=8))


def test_an_empty_set_shares_nothing():
    universe, nothing = STAIRS, np.zeros(0, dtype=np.int64)
    assert sampled_overlaps(universe, [nothing, np.arange(15)], [(0, 1)], n_samples=3).tolist() == [[0, 0, 0]]
    assert mixing_curve(Circuit.from_edges(universe, []), rounds=2)["still_there"].tolist() == [1, 1, 1]


def test_a_set_without_a_choice_stays():
    # All edges: nothing is free. One reader: nobody to trade with, and nothing between writers either.
    for edges in (np.arange(STAIRS.n_edges), np.arange(*STAIRS.reader_offsets[-2:])):
        assert sorted(trade(EdgeSet.of(STAIRS, edges), 9, np.random.default_rng(0)).edge_ids) == edges.tolist()


def test_the_mixing_curve_starts_whole_and_levels_off():
    curve = mixing_curve(crowded_circuit(600), rounds=40)
    assert curve["round"].tolist() == list(range(41)) and curve["still_there"].iloc[0] == 1
    late = curve["still_there"].iloc[20:]
    assert late.max() < 0.6 and late.max() - late.min() < 0.1


def test_no_samples_and_no_rounds_are_refused():
    for wrong in ({"n_samples": 0}, {"n_samples": 9, "rounds": 0}):
        with pytest.raises(ConfigurationError, match="at least 1 sample and 1 round"):
            sampled_overlaps(STAIRS, [np.arange(3)], [], **wrong)
