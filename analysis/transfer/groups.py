"""Tasks of the same kind against tasks of different kinds, tested by exchanging the kinds' labels.

Is a circuit more faithful on other tasks of its own kind than on tasks of another? The difference of the two means is
compared with that of every way to deal the same labels to the tasks anew. With few tasks there are few ways: six tasks
in two kinds of three have 20, so that no p-value can be below 1/20 (and below 1/10 where both kinds count alike).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import factorial, prod

import numpy as np
import pandas as pd

from circuitgraph.errors import ConfigurationError, UnknownNameError

_EXACT = 20_000


@dataclass(frozen=True, kw_only=True)
class GroupTest:
    """What two kinds of pairs of tasks have.

    Attributes:
        within: The mean over pairs of different tasks of one kind.
        across: The mean over pairs of tasks of different kinds.
        p: The share of all ways to deal the labels whose difference is at least as large, the true one among them.
        n_ways: How many ways there are, or were drawn.
    """

    within: float
    across: float
    p: float
    n_ways: int

    @property
    def difference(self) -> float:
        """The mean within less the mean across."""
        return self.within - self.across


def compare_groups(
    matrix: pd.DataFrame, groups: Mapping[str, str], *, only: str | None = None, n_ways: int = 9_999, seed: int = 0
) -> GroupTest:
    """Compare tasks of one kind with tasks of different kinds.

    Args:
        matrix: A square table with the same tasks as index and columns, such as `faithfulness_matrix` gives for
            circuits of the tasks' names. The diagonal does not count.
        groups: The kind of each task.
        only: Within which kind pairs count; by default within any.
        n_ways: How many deals are drawn where there are more than 20,000.
        seed: Of the drawing.

    Returns:
        Both means, and the p-value (one-sided: more within than across).

    Raises:
        ConfigurationError: The table is not square, a value off its diagonal is missing, a task has no kind, or no two
            tasks are of one kind, or none of different kinds.
        UnknownNameError: No task is of the kind `only`.

    Examples:
        >>> names = ["a", "b", "c", "d"]
        >>> matrix = pd.DataFrame(np.full((4, 4), 0.2), index=names, columns=names)
        >>> matrix.loc["a", "b"] = matrix.loc["b", "a"] = matrix.loc["c", "d"] = matrix.loc["d", "c"] = 0.7
        >>> test = compare_groups(matrix, {"a": "one", "b": "one", "c": "two", "d": "two"})
        >>> round(test.within, 6), round(test.across, 6), round(test.p, 4), test.n_ways
        (0.7, 0.2, 0.3333, 6)
    """
    names = [str(name) for name in matrix.index]
    if names != [str(name) for name in matrix.columns]:
        raise ConfigurationError("expected a square table with the same tasks as index and columns")
    if missing := [name for name in names if name not in groups]:
        raise ConfigurationError(f"of which kind is {missing[0]!r}? groups= says it of {', '.join(groups) or 'none'}")
    values, off = matrix.to_numpy(dtype=np.float64, na_value=np.nan), ~np.eye(len(names), dtype=bool)
    if np.isnan(values[off]).any():
        raise ConfigurationError("a value off the diagonal is missing; leave that task out")
    kinds = sorted({groups[name] for name in names})
    if only is not None and only not in kinds:
        raise UnknownNameError.of("kind of tasks", only, kinds)
    codes = np.array([kinds.index(groups[name]) for name in names])
    wanted = None if only is None else kinds.index(only)
    within, across = _means(values, off, codes, wanted)
    if np.isnan(within) or np.isnan(across):
        raise ConfigurationError("expected two tasks of one kind, and two of different kinds")
    drawn = [np.subtract(*_means(values, off, one, wanted)) for one in _deals(codes, n_ways, seed)]
    # The least difference in the last digits is none: the same pairs can be added up in another order.
    at_least = np.array(drawn) >= within - across - 1e-12
    return GroupTest(within=within, across=across, p=float(at_least.mean()), n_ways=len(drawn))


def _means(values: np.ndarray, off: np.ndarray, codes: np.ndarray, only: int | None) -> tuple[float, float]:
    same = codes[:, None] == codes[None]
    within = same & off if only is None else same & off & (codes == only)[:, None]
    one, other = values[within], values[~same]
    return float(one.mean()) if one.size else np.nan, float(other.mean()) if other.size else np.nan


def _deals(codes: np.ndarray, n_ways: int, seed: int) -> Iterator[np.ndarray]:
    """Every way to deal the labels once; where there are many, some at random and the true one."""
    counts = np.bincount(codes)
    if factorial(len(codes)) // prod(factorial(int(count)) for count in counts) <= _EXACT:
        yield from map(np.array, _orders(counts.tolist()))
        return
    generator = np.random.default_rng(seed)
    yield codes
    yield from (generator.permutation(codes) for _ in range(n_ways))


def _orders(counts: Sequence[int]) -> Iterator[list[int]]:
    """Every sequence that holds label i as often as `counts[i]`."""
    if not sum(counts):
        yield []
        return
    for label, count in enumerate(counts):
        if count:
            left = [other - (place == label) for place, other in enumerate(counts)]
            yield from ([label, *rest] for rest in _orders(left))
