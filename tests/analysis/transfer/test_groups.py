"""Kinds of tasks: both means and the p-value against every permutation of the labels."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest

from analysis.transfer.groups import compare_groups
from circuitgraph.errors import ConfigurationError, UnknownNameError

NAMES = ["a", "b", "c", "d", "e"]
KINDS = dict(zip(NAMES, "xxxyy", strict=True))


@pytest.fixture
def matrix():
    return pd.DataFrame(np.random.default_rng(1).normal(size=(5, 5)), index=NAMES, columns=NAMES)


def means(matrix, labels, only=None):
    within, across = [], []
    for i, one in enumerate(NAMES):
        for j, other in enumerate(NAMES):
            if i == j:
                continue
            if labels[i] != labels[j]:
                across.append(matrix.loc[one, other])
            elif only in (None, labels[i]):
                within.append(matrix.loc[one, other])
    return np.mean(within), np.mean(across)


@pytest.mark.parametrize("only", [None, "x", "y"])
def test_the_p_value_counts_every_way_to_deal_the_labels_once(matrix, only):
    found = compare_groups(matrix, KINDS, only=only)
    within, across = means(matrix, "xxxyy", only)
    assert found.within == pytest.approx(within) and found.across == pytest.approx(across)
    ways = set(permutations("xxxyy"))
    differences = [np.subtract(*means(matrix, way, only)) for way in ways]
    assert found.n_ways == len(ways) == 10
    assert found.p == pytest.approx(np.mean(np.array(differences) >= within - across - 1e-9))


def test_many_tasks_are_dealt_at_random_the_true_way_among_them():
    n = 20
    names = [str(place) for place in range(n)]
    same = np.arange(n)[:, None] // 10 == np.arange(n)[None] // 10
    matrix = pd.DataFrame(same.astype(float), index=names, columns=names)
    found = compare_groups(matrix, {name: str(int(name) // 10) for name in names}, n_ways=99, seed=1)
    assert (found.within, found.across, found.n_ways, found.p) == (1.0, 0.0, 100, 0.01)


def test_refusals(matrix):
    with pytest.raises(ConfigurationError, match="of which kind is 'e'"):
        compare_groups(matrix, dict(list(KINDS.items())[:4]))
    with pytest.raises(ConfigurationError, match="square"):
        compare_groups(matrix.iloc[:4], KINDS)
    with pytest.raises(UnknownNameError, match="unknown kind of tasks 'z'"):
        compare_groups(matrix, KINDS, only="z")
    with pytest.raises(ConfigurationError, match="two tasks of one kind"):
        compare_groups(matrix, dict.fromkeys(NAMES, "x"))
    matrix.loc["a", "b"] = np.nan
    with pytest.raises(ConfigurationError, match="missing"):
        compare_groups(matrix, KINDS)
