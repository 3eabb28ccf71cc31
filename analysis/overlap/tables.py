"""Overlap of two or many circuits, and its tests against null models, as tidy tables: one row per pair."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from analysis.comparable import Circuits, named_circuits, require_comparable
from analysis.overlap.degree_preserving import ROUNDS, sampled_overlaps
from analysis.overlap.hypergeometric import hypergeometric_tails
from analysis.overlap.levels import LEVELS, items, n_items, require_level, stratum_counts
from analysis.overlap.stratified import stratified_tails
from analysis.overlap.tails import ALTERNATIVES, Tails
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.graph.universe import Universe

NULLS = ("hypergeometric", "stratified", "degree-preserving")

_OVERLAP_DTYPES = {"spearman": "Float64", "kendall": "Float64"}
_TEST_DTYPES = {"n_samples": "Int64"}
_KEPT_NODES = "keeping degrees keeps the nodes"
# Levels and the nulls that do not apply to them, with the reason.
_SAYS_NOTHING = {
    ("layers", "stratified"): "each would be a stratum by itself",
    ("nodes", "degree-preserving"): _KEPT_NODES,
    ("heads", "degree-preserving"): _KEPT_NODES,
    ("layers", "degree-preserving"): _KEPT_NODES,
}


def overlap_table(
    circuits: Circuits, *, levels: Sequence[str] = LEVELS, across_checkpoints: bool = False
) -> pd.DataFrame:
    """What circuits share, pair by pair, on edges, nodes, heads and layers.

    Two empty sets are equal, so their shares are 1; an empty set is contained in every set.

    Args:
        circuits: At least two circuits of one universe, or names with their circuits.
        levels: Any of `edges`, `nodes`, `heads` and `layers`; see `analysis.overlap.levels.items`.
        across_checkpoints: Allow other weights or another model of the same universe.

    Returns:
        One row per pair and level, pairs in the order of the circuits, with the columns

        - `a`, `b`, `level` (str);
        - `n_a`, `n_b`, `n_universe` (int64): the sizes, and how many items there are in all;
        - `intersection`, `union` (int64);
        - `iou` (float64): intersection / union, the Jaccard index;
        - `overlap_coefficient` (float64): intersection / the smaller size;
        - `a_in_b`, `b_in_a` (float64): intersection / `n_a`, intersection / `n_b`;
        - `spearman`, `kendall` (Float64): rank correlation (tau-b) of the scores of the shared edges; missing for
          other levels and where it is not defined;
        - `rank_note` (str): why it is missing, or empty;
        - `note` (str): what to know about the shares, such as that both sets are empty, or empty.

    Raises:
        GraphMismatchError: The circuits are of different universes or models.
        ConfigurationError: There are fewer than two circuits, or no level.
        UnknownNameError: No such level.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
        >>> a = Circuit.from_edges(universe, {"input->logits": 3, "input->m0": 2, "m0->logits": 1})
        >>> b = Circuit.from_edges(universe, {"input->logits": 5, "input->a0.h0<v>": 4, "a0.h0->logits": 4})
        >>> table = overlap_table({"a": a, "b": b}, levels=["edges", "nodes"])
        >>> print(table[["level", "n_a", "n_b", "intersection", "union", "iou"]])
           level  n_a  n_b  intersection  union  iou
        0  edges    3    3             1      5  0.2
        1  nodes    3    4             2      5  0.4
    """
    if not levels:
        raise ConfigurationError(f"expected at least one level of {', '.join(LEVELS)}; got none")
    for level in levels:
        require_level(level)
    named = named_circuits(circuits, at_least=2)
    universe = require_comparable(named, across_checkpoints=across_checkpoints)
    rows = []
    for a, b in combinations(named, 2):
        for level in levels:
            row = _overlap_row(universe, named[a], named[b], level)
            rows.append({"a": a, "b": b, "level": level, **row})
    return pd.DataFrame(rows).astype(_OVERLAP_DTYPES)


def overlap_tests(
    circuits: Circuits,
    *,
    level: str = "edges",
    nulls: Sequence[str] = ("hypergeometric", "stratified"),
    alternative: str = "greater",
    n_samples: int = 999,
    rounds: int = ROUNDS,
    seed: int = 0,
    across_checkpoints: bool = False,
) -> pd.DataFrame:
    """Whether circuits share more, or less, than null models expect, pair by pair.

    What each null model means, and what it does not, is in `docs/explanations/overlap.md`. P-values of many pairs
    or nulls are a family: see `analysis.adjust_p_values`.

    Args:
        circuits: At least two circuits of one universe, or names with their circuits.
        level: `edges`, `nodes`, `heads` or `layers`.
        nulls: Any of `hypergeometric` (all sets of that size), `stratified` (by layers and kinds; not for layers)
            and `degree-preserving` (by sampling; edges alone).
        alternative: `greater`: p = P(X ≥ observed). `less`: P(X ≤ observed). `two-sided`: twice the smaller, at
            most 1.
        n_samples: How many samples for `degree-preserving`; the smallest p is 1 / (1 + n_samples).
        rounds: Rounds of trades between two samples and their hub; see `analysis.overlap.degree_preserving`.
        seed: Of the sampling. The pairs of one call share their samples.
        across_checkpoints: Allow other weights or another model of the same universe.

    Returns:
        One row per pair and null, with the columns

        - `a`, `b`, `level`, `null`, `alternative` (str);
        - `observed` (int64): the intersection;
        - `expected`, `sd` (float64): its mean and standard deviation under the null;
        - `ratio` (float64): observed / expected; 1 where both are 0, infinite where only the expectation is;
        - `p` (float64): the p-value, which can underflow to 0;
        - `log10_p` (float64): its decimal logarithm, which cannot;
        - `mid_p` (float64): the p-value with half of P(X = observed);
        - `n_samples` (Int64): how many samples; missing where the null is computed;
        - `at_floor` (bool): whether `p` is the smallest that so many samples can give, so that the true one may be far
          smaller.

    Raises:
        GraphMismatchError: The circuits are of different universes or models.
        ConfigurationError: There are fewer than two circuits, or no null, or one that does not apply to the level.
        UnknownNameError: No such level, null or alternative.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
        >>> a = Circuit.from_edges(universe, ["input->logits", "input->m0", "m0->logits"])
        >>> b = Circuit.from_edges(universe, ["input->logits", "input->a0.h0<v>", "a0.h0->logits"])
        >>> table = overlap_tests({"a": a, "b": b})
        >>> print(table[["null", "observed", "expected", "ratio", "p"]].round(3))
                     null  observed  expected  ratio     p
        0  hypergeometric         1     0.692  1.444  0.58
        1      stratified         1     1.000  1.000  1.00
    """
    _check_asked(level, nulls, alternative)
    named = named_circuits(circuits, at_least=2)
    universe = require_comparable(named, across_checkpoints=across_checkpoints)
    names, values = list(named), list(named.values())
    pairs = list(combinations(range(len(named)), 2))
    samples = None
    if "degree-preserving" in nulls:
        edge_sets = [circuit.edge_ids for circuit in values]
        samples = sampled_overlaps(universe, edge_sets, pairs, n_samples=n_samples, rounds=rounds, seed=seed)
    rows = []
    for place, (one, other) in enumerate(pairs):
        for null in nulls:
            drawn = None if samples is None else samples[place]
            tails = _tails(universe, values[one], values[other], level, null, drawn)
            row = {"a": names[one], "b": names[other], "level": level, "null": null, "alternative": alternative}
            rows.append(row | _test_columns(tails, alternative))
    return pd.DataFrame(rows).astype(_TEST_DTYPES)


def applicable_nulls(level: str) -> tuple[str, ...]:
    """The null models that say something about a level.

    Args:
        level: `edges`, `nodes`, `heads` or `layers`.

    Returns:
        Some of `NULLS`, in their order.

    Raises:
        UnknownNameError: No such level.

    Examples:
        >>> applicable_nulls("heads")
        ('hypergeometric', 'stratified')
    """
    require_level(level)
    return tuple(null for null in NULLS if (level, null) not in _SAYS_NOTHING)


def _check_asked(level: str, nulls: Sequence[str], alternative: str) -> None:
    """Refuse unknown names, no null at all, and nulls that do not apply to the level."""
    require_level(level)
    if not nulls:
        raise ConfigurationError(f"expected at least one null of {', '.join(NULLS)}; got none")
    for name, valid, kind in (*((null, NULLS, "null") for null in nulls), (alternative, ALTERNATIVES, "alternative")):
        if name not in valid:
            raise UnknownNameError.of(kind, name, valid)
    for null in nulls:
        if (level, null) in _SAYS_NOTHING:
            others = " or ".join(repr(other) for other in applicable_nulls(level))
            raise ConfigurationError(
                f"null {null!r} says nothing about {level}: {_SAYS_NOTHING[level, null]}; use {others}"
            )


# -------------------------------------------------------------------- rows


def _overlap_row(universe: Universe, a: Circuit, b: Circuit, level: str) -> dict[str, object]:
    of_a, of_b = items(a, level), items(b, level)
    n_a, n_b = len(of_a), len(of_b)
    shared = len(np.intersect1d(of_a, of_b, assume_unique=True))
    union = n_a + n_b - shared
    spearman, kendall, note = _rank_correlation(a, b) if level == "edges" else (None, None, "scores are of edges")
    return {
        "n_a": n_a,
        "n_b": n_b,
        "n_universe": n_items(universe, level),
        "intersection": shared,
        "union": union,
        "iou": _share(shared, union),
        "overlap_coefficient": _share(shared, min(n_a, n_b)),
        "a_in_b": _share(shared, n_a),
        "b_in_a": _share(shared, n_b),
        "spearman": spearman,
        "kendall": kendall,
        "rank_note": note,
        "note": "" if n_a and n_b else "both are empty" if not n_a and not n_b else "one is empty",
    }


def _share(part: int, whole: int) -> float:
    """A share; 1 of nothing, since an empty set is contained in every set."""
    return part / whole if whole else 1.0


def _rank_correlation(a: Circuit, b: Circuit) -> tuple[float | None, float | None, str]:
    """Spearman's rho and Kendall's tau-b over shared edges, or why there are none."""
    shared, in_a, in_b = np.intersect1d(a.edge_ids, b.edge_ids, assume_unique=True, return_indices=True)
    of_a, of_b = a.scores[in_a], b.scores[in_b]
    if len(shared) < 2:
        return None, None, "fewer than two shared edges"
    for name, scores in (("a", of_a), ("b", of_b)):
        if np.all(scores == scores[0]):
            return None, None, f"all shared edges have the same score in {name}"
    first, second = pd.Series(of_a), pd.Series(of_b)
    return first.corr(second, method="spearman"), first.corr(second, method="kendall"), ""


def _tails(universe: Universe, a: Circuit, b: Circuit, level: str, null: str, samples: np.ndarray | None) -> Tails:
    of_a, of_b = items(a, level), items(b, level)
    observed = len(np.intersect1d(of_a, of_b, assume_unique=True))
    if null == "hypergeometric":
        return hypergeometric_tails(observed, n_items(universe, level), len(of_a), len(of_b))
    if null == "stratified":
        return stratified_tails(observed, *stratum_counts(a, b, level))
    assert samples is not None
    return Tails.of_samples(observed, samples)


def _test_columns(tails: Tails, alternative: str) -> dict[str, object]:
    return {
        "observed": tails.observed,
        "expected": tails.expected,
        "sd": tails.sd,
        "ratio": tails.ratio,
        "p": tails.p(alternative),
        "log10_p": tails.log10_p(alternative),
        "mid_p": tails.mid_p(alternative),
        "n_samples": tails.n_samples,
        "at_floor": tails.at_floor(alternative),
    }
