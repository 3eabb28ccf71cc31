"""How much circuits of different regimes share: next to circuits of one regime, and next to chance.

Two circuits of one regime differ by the randomness of training alone. What they share is the yardstick: regimes
differ only as far as circuits of different regimes share less than circuits of the same one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import combinations, permutations, product

import numpy as np
import pandas as pd

from analysis.overlap.families import adjust_p_values
from analysis.overlap.levels import LEVELS
from analysis.overlap.tables import applicable_nulls, overlap_table, overlap_tests
from analysis.regimes.circuits import RegimeCircuits
from analysis.seeds import jackknife
from circuitgraph.circuits.circuit import Circuit

_MOST = 20_000
_SAMPLES = 9_999
_DTYPES = {"difference": "Float64", "low": "Float64", "high": "Float64", "p": "Float64", "smallest_p": "Float64"}
_MEANS = dict.fromkeys(("within", "across", "across_same_seed", "ratio"), "Float64")


def pairwise_overlap(circuits: RegimeCircuits) -> pd.DataFrame:
    """Overlap of every two circuits, on edges, nodes, heads and layers.

    Args:
        circuits: The circuits.

    Returns:
        The table of `analysis.overlap_table` with the columns `regime_a`, `seed_a`, `regime_b`, `seed_b` (str) and
        `pair` (`within` one regime or `across` two) before it.
    """
    return _with_regimes(overlap_table(_named(circuits), across_checkpoints=circuits.across_checkpoints), circuits)


def pairwise_tests(circuits: RegimeCircuits, *, n_samples: int = 999, seed: int = 0) -> pd.DataFrame:
    """Whether every two circuits share more than each null model expects, at each level that it speaks of.

    Args:
        circuits: The circuits.
        n_samples: How many samples for the degree-preserving null; 0 leaves it out.
        seed: Of the sampling.

    Returns:
        The table of `analysis.overlap_tests` at all levels, adjusted by Holm within each level and null, with the
        columns of `pairwise_overlap` before it.
    """
    table = _tests(_named(circuits), circuits, n_samples, seed)
    return _with_regimes(table, circuits)


def consensus_tests(circuits: RegimeCircuits, *, n_samples: int = 999, seed: int = 0) -> pd.DataFrame:
    """The same tests of the regimes' consensus circuits: a row for two regimes, a level and a null.

    Args:
        circuits: The circuits.
        n_samples: How many samples for the degree-preserving null; 0 leaves it out.
        seed: Of the sampling.

    Returns:
        The table of `analysis.overlap_tests` with `iou` and Holm's adjustment within each level and null.
    """
    tests = _tests(circuits.consensus, circuits, n_samples, seed)
    overlap = overlap_table(circuits.consensus, across_checkpoints=circuits.across_checkpoints)
    return overlap[["a", "b", "level", "n_a", "n_b", "n_universe", "iou"]].merge(tests, on=["a", "b", "level"])


def within_and_across(overlap: pd.DataFrame, *, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """Overlap within a regime against overlap across regimes, level by level.

    Where all regimes have the same seeds, two circuits of one seed share the order of batches and the noise on the
    gates, whatever their regimes. So only pairs of different seeds are compared, within and across, and the test
    exchanges regimes within each seed. Where they have no seed in common, all pairs are compared and circuits are
    dealt anew to the regimes.

    Args:
        overlap: A table of `pairwise_overlap`.
        confidence: How often the interval is to hold the true difference.
        seed: Of the sampling, where there are too many ways to exchange regimes to try all.

    Returns:
        One row per level, with the columns

        - `level` (str), `n_within`, `n_across` (int64): pairs compared;
        - `within`, `across` (Float64): mean IoU of pairs of one regime and of pairs of two;
        - `across_same_seed` (Float64): of pairs of two regimes and one seed, which are not compared;
        - `ratio` (Float64): across / within;
        - `difference`, `low`, `high` (Float64): within − across, and its delete-one-seed jackknife interval;
        - `p` (Float64): P(difference ≥ the one found) if regimes are exchanged at random;
        - `smallest_p` (Float64): the smallest p that this many seeds can give;
        - `note` (str): why something is missing, or empty.

    References:
        Efron and Stein 1981, "The jackknife estimate of variance"; Phipson and Smyth 2010, "Permutation p-values
        should never be zero".
    """
    rows = []
    for level, table in overlap.groupby("level", sort=False):
        pairs = _Pairs.of(table)
        found = pairs.means(pairs.regimes)
        row: dict[str, object] = {"level": level, **found}
        p, smallest, note = _exchange_test(pairs, seed)
        value = found["difference"]
        low, high, why = None, None, note
        if isinstance(value, float):
            low, high, why = jackknife(value, list(_without_each_seed(pairs)), confidence)
            why = why and "an interval needs three seeds, the same for all regimes"
        rows.append({**row, "low": low, "high": high, "p": p, "smallest_p": smallest, "note": note or why})
    order = ["level", "within", "n_within", "across", "n_across", "across_same_seed", "ratio", *_DTYPES, "note"]
    return pd.DataFrame(rows).reindex(columns=order).astype({**_DTYPES, **_MEANS})


# -------------------------------------------------------------------- pairs of circuits


class _Pairs:
    """The IoU of every two circuits, with the circuits' regimes and seeds.

    Attributes:
        iou: Square and symmetric `[circuit circuit]`.
        regimes: Regime of every circuit, by number `[circuit]`.
        seeds: Seed of every circuit, by number `[circuit]`.
        blocked: Whether all regimes have the same seeds.
    """

    def __init__(self, iou: np.ndarray, regimes: np.ndarray, seeds: np.ndarray) -> None:
        self.iou, self.regimes, self.seeds = iou, regimes, seeds
        sets = [frozenset(seeds[regimes == regime].tolist()) for regime in np.unique(regimes)]
        self.blocked = len(set(sets)) == 1
        different_seeds = seeds[:, None] != seeds[None] if self.blocked else np.ones(iou.shape, dtype=bool)
        upper = np.triu(np.ones(iou.shape, dtype=bool), 1)
        self._fair, self._same_seed = upper & different_seeds, upper & ~different_seeds

    @classmethod
    def of(cls, table: pd.DataFrame) -> _Pairs:
        """Read a level's rows of `pairwise_overlap`."""
        ends = [list(zip(table[f"regime_{end}"], table[f"seed_{end}"], strict=True)) for end in "ab"]
        places = {circuit: place for place, circuit in enumerate(dict.fromkeys(ends[0] + ends[1]))}
        iou = np.eye(len(places))
        for one, other, value in zip(*ends, table["iou"], strict=True):
            iou[places[one], places[other]] = iou[places[other], places[one]] = value
        regimes, seeds = (pd.factorize(pd.Series([circuit[part] for circuit in places]))[0] for part in (0, 1))
        return cls(iou, np.asarray(regimes), np.asarray(seeds))

    def means(self, regimes: np.ndarray) -> dict[str, float | int | None]:
        """Mean IoU within and across, if the circuits were of these regimes `[circuit]`."""
        same = regimes[:, None] == regimes[None]
        within, across = self.iou[self._fair & same], self.iou[self._fair & ~same]
        paired = self.iou[self._same_seed & ~same]
        known = len(within) > 0 and len(across) > 0
        return {
            "within": _mean(within),
            "n_within": len(within),
            "across": _mean(across),
            "n_across": len(across),
            "across_same_seed": _mean(paired),
            "ratio": float(across.mean() / within.mean()) if known and within.mean() > 0 else None,
            "difference": float(within.mean() - across.mean()) if known else None,
        }

    def subset(self, chosen: np.ndarray) -> _Pairs:
        """The pairs of some of the circuits `[circuit]`."""
        return _Pairs(self.iou[np.ix_(chosen, chosen)], self.regimes[chosen], self.seeds[chosen])


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _without_each_seed(pairs: _Pairs) -> Iterator[float | None]:
    """The difference without each of the seeds; none where regimes have other seeds."""
    if not pairs.blocked:
        return
    for one in np.unique(pairs.seeds):
        left = pairs.subset(pairs.seeds != one)
        value = left.means(left.regimes)["difference"]
        yield float(value) if value is not None else None


# -------------------------------------------------------------------- exchanging regimes


def _exchange_test(pairs: _Pairs, seed: int) -> tuple[float | None, float | None, str]:
    """P-value, the smallest that was possible, and why there is none."""
    found = pairs.means(pairs.regimes)["difference"]
    if found is None:
        return None, None, "a comparison needs two seeds of at least one regime"
    ways, count = _blocked_ways(pairs) if pairs.blocked else _free_ways(pairs)
    if count > _MOST:
        rng = np.random.default_rng(seed)
        shuffle = _shuffle_within_seeds if pairs.blocked else _shuffle_all
        reached = sum(_reaches(pairs, shuffle(pairs, rng), found) for _ in range(_SAMPLES))
        return (1 + reached) / (1 + _SAMPLES), 1 / (1 + _SAMPLES), ""
    hits = [_reaches(pairs, regimes, found) for regimes in ways()]
    return sum(hits) / len(hits), 1 / len(hits), ""


def _reaches(pairs: _Pairs, regimes: np.ndarray, found: float | int) -> bool:
    value = pairs.means(regimes)["difference"]
    # The tolerance lets equal sums in another order be equal.
    return value is not None and value >= found - 1e-12


def _blocked_ways(pairs: _Pairs) -> tuple[Callable[[], Iterator[np.ndarray]], int]:
    """Exchange regimes within each seed but the first: names of regimes as such change nothing."""
    names, seeds = np.unique(pairs.regimes), np.unique(pairs.seeds)

    def ways() -> Iterator[np.ndarray]:
        for orders in product(permutations(names.tolist()), repeat=len(seeds) - 1):
            regimes = pairs.regimes.copy()
            for one, order in zip(seeds[1:], orders, strict=True):
                mine = pairs.seeds == one
                regimes[mine] = np.array(order)[pairs.regimes[mine]]
            yield regimes

    return ways, math.factorial(len(names)) ** (len(seeds) - 1)


def _free_ways(pairs: _Pairs) -> tuple[Callable[[], Iterator[np.ndarray]], int]:
    """Deal circuits to two regimes in all ways; for more regimes there are too many to be worth it."""
    n, sizes = len(pairs.regimes), np.bincount(pairs.regimes)
    if len(sizes) != 2:
        return (lambda: iter(())), _MOST + 1

    def ways() -> Iterator[np.ndarray]:
        for chosen in combinations(range(n), int(sizes[0])):
            regimes = np.ones(n, dtype=np.int64)
            regimes[list(chosen)] = 0
            if sizes[0] != sizes[1] or regimes[0] == 0:  # of two that differ in names alone, one
                yield regimes

    return ways, math.comb(n, int(sizes[0])) // (1 + int(sizes[0] == sizes[1]))


def _shuffle_within_seeds(pairs: _Pairs, rng: np.random.Generator) -> np.ndarray:
    regimes = pairs.regimes.copy()
    for one in np.unique(pairs.seeds):
        mine = pairs.seeds == one
        regimes[mine] = rng.permutation(regimes[mine])
    return regimes


def _shuffle_all(pairs: _Pairs, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(pairs.regimes)


# -------------------------------------------------------------------- names


def _named(circuits: RegimeCircuits) -> dict[str, Circuit]:
    """Circuits by number, since regimes may have any names."""
    return {str(number): circuit for number, (_, _, circuit) in enumerate(circuits)}


def _with_regimes(table: pd.DataFrame, circuits: RegimeCircuits) -> pd.DataFrame:
    """Say of each row's circuits which regime and seed they are of."""
    places = {str(number): (regime, seed) for number, (regime, seed, _) in enumerate(circuits)}
    columns: dict[str, list[str]] = {}
    for end in "ab":
        ends = [places[name] for name in table[end]]
        columns |= {f"regime_{end}": [regime for regime, _ in ends], f"seed_{end}": [seed for _, seed in ends]}
    same = [one == other for one, other in zip(columns["regime_a"], columns["regime_b"], strict=True)]
    columns["pair"] = ["within" if it else "across" for it in same]
    return pd.concat([pd.DataFrame(columns), table.drop(columns=["a", "b"])], axis=1)


def _tests(named: dict[str, Circuit], circuits: RegimeCircuits, n_samples: int, seed: int) -> pd.DataFrame:
    tables = []
    for level in LEVELS:
        nulls = [null for null in applicable_nulls(level) if n_samples or null != "degree-preserving"]
        across = circuits.across_checkpoints
        tables.append(
            overlap_tests(
                named, level=level, nulls=nulls, n_samples=max(1, n_samples), seed=seed, across_checkpoints=across
            )
        )
    return adjust_p_values(pd.concat(tables, ignore_index=True), by=["level", "null"])
