"""Task × circuit by hand: shares of the way to the full model and to the task's own circuit."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.transfer.matrices import faithfulness_matrix, mean_matrix
from circuitgraph.errors import ConfigurationError, UnknownNameError

ROWS = [
    # circuit, task, measure, logit_diff, prob_diff, kl
    ("full", "a", "logit_diff", 4.0, 0.5, 0.0),
    ("empty", "a", "logit_diff", -1.0, -0.5, 2.0),
    ("a", "a", "logit_diff", 3.0, 0.25, 0.5),
    ("b", "a", "logit_diff", -2.0, -0.5, 2.5),
    ("full", "b", "prob_diff", 1.0, 0.6, 0.0),
    ("empty", "b", "prob_diff", 0.5, -0.4, 1.0),
    ("a", "b", "prob_diff", 0.9, 0.1, 0.75),
    ("b", "b", "prob_diff", 0.8, 0.4, 0.25),
]
TABLE = pd.DataFrame(ROWS, columns=["circuit", "task", "measure", "logit_diff", "prob_diff", "kl"])


def test_each_task_goes_by_its_own_measure():
    found = faithfulness_matrix(TABLE)
    assert found.index.tolist() == found.columns.tolist() == ["a", "b"]
    assert found.loc["a"].tolist() == pytest.approx([4 / 5, -1 / 5])
    assert found.loc["b"].tolist() == pytest.approx([0.5, 0.8])


def test_one_measure_for_all():
    assert faithfulness_matrix(TABLE, "kl").loc["a"].tolist() == [0.75, -0.25]
    assert faithfulness_matrix(TABLE, "logit_diff").loc["b"].tolist() == pytest.approx([0.8, 0.6])
    assert mean_matrix(TABLE, "kl").loc["b"].tolist() == [0.0, 1.0, 0.75, 0.25]


def test_next_to_the_own_circuit_the_diagonal_is_exactly_one():
    found = faithfulness_matrix(TABLE, by_own=True)
    assert found.loc["a", "a"] == found.loc["b", "b"] == 1.0
    assert found.loc["a", "b"] == pytest.approx(-1 / 4) and found.loc["b", "a"] == pytest.approx(0.5 / 0.8)
    other = faithfulness_matrix(TABLE, by_own={"b": "a"})
    assert other.index.tolist() == ["b"] and other.loc["b"].tolist() == pytest.approx([1.0, 1.6])


def test_refusals_name_what_is_missing():
    with pytest.raises(ConfigurationError, match="b on a"):
        faithfulness_matrix(TABLE.drop(index=3))
    with pytest.raises(ConfigurationError, match="empty on a"):
        faithfulness_matrix(TABLE[TABLE["circuit"] != "empty"])
    flat = TABLE.assign(logit_diff=1.0)
    with pytest.raises(ConfigurationError, match="a: what is to count as 1 has the same mean as no edge"):
        faithfulness_matrix(flat)
    with pytest.raises(UnknownNameError, match="unknown column 'kll'"):
        faithfulness_matrix(TABLE, "kll")
    with pytest.raises(UnknownNameError, match="unknown circuit 'c'"):
        faithfulness_matrix(TABLE, by_own={"a": "c"})
    with pytest.raises(ConfigurationError, match="no task has a circuit of its own name"):
        faithfulness_matrix(TABLE.replace({"circuit": {"a": "x", "b": "y"}}), by_own=True)
