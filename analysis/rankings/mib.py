"""The measures of the Mechanistic Interpretability Benchmark (arXiv 2504.13151), as its code has them.

A ranking is cut at ten sizes. With m the mean of a measure over prompts, such as the logit difference, a circuit's
faithfulness is the ratio of means

    f = (m_circuit − m_empty) / (m_full − m_empty),

and over the sizes x *asked for* (edges that dangle are dropped afterwards, which x does not know), by the trapezoidal
rule on a linear axis from the smallest size to 1:

    CPR = ∫ f dx          (the larger, the better; f may be above 1)
    CMD = ∫ |1 − f| dx    (the smaller, the better)

Nine tenths of either come from circuits of more than 10 % of the edges: they say how good a ranking is for large
circuits. For small ones take an area over the logarithm of the size, `analysis.area_under_curves(..., log_x=True)`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.integrate import trapezoid

from analysis.columns import column_names, grouped, numbers_in, require_columns
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError


def normalised_faithfulness(
    circuit: float | np.ndarray, *, empty: float | np.ndarray, full: float | np.ndarray
) -> float | np.ndarray:
    """A measure on the scale on which the empty circuit has 0 and the full model 1.

    Args:
        circuit: The mean over prompts of the circuit, or several.
        empty: Of the empty circuit.
        full: Of the full model.

    Raises:
        ConfigurationError: The empty circuit and the full model have the same, so that there is no scale.

    Examples:
        >>> normalised_faithfulness(2.0, empty=-1.0, full=3.0)
        0.75
    """
    span = np.asarray(full) - np.asarray(empty)
    if np.any(span == 0):
        raise ConfigurationError(
            f"the full model and the empty circuit have the same ({np.asarray(full)}); there is nothing to normalise by"
        )
    found = (np.asarray(circuit) - np.asarray(empty)) / span
    return float(found) if np.ndim(found) == 0 else found


def with_faithfulness(
    table: pd.DataFrame, measure: str = "logit_diff", *, size: str = "size", by: str | Sequence[str] = ()
) -> pd.DataFrame:
    """A table with a column `faithfulness`: the measure on the scale from the empty circuit to the full model.

    Args:
        table: A row per circuit, with the means of the measure; each ranking has its empty circuit (size 0) and all
            edges (size 1), as `pruning.measure_ranking` gives them.
        measure: Column of the means.
        size: Column of the sizes, as shares of all edges.
        by: Columns whose values tell rankings apart.

    Returns:
        A copy with the column.

    Raises:
        UnknownNameError: No such column.
        ConfigurationError: The table is empty, a value is missing, a ranking lacks size 0 or 1, or has the same
            measure at both.

    Examples:
        >>> table = pd.DataFrame({"size": [0.0, 0.1, 1.0], "logit_diff": [-1.0, 2.0, 3.0]})
        >>> with_faithfulness(table)["faithfulness"].tolist()
        [0.0, 0.75, 1.0]
    """
    by = column_names(by)
    require_columns(table, numbers=[size, measure], others=by)
    places = table.reset_index(drop=True)
    found = np.zeros(len(table))
    for key, group in grouped(places, by):
        sizes, means = numbers_in(group, size), numbers_in(group, measure)
        if not {0.0, 1.0} <= set(sizes.tolist()):
            called = f"the ranking of {', '.join(map(str, key))}" if key else "the ranking"
            raise ConfigurationError(f"{called} needs the sizes 0 (no edge) and 1 (all edges); got {sizes.tolist()}")
        empty, full = means[sizes == 0][0], means[sizes == 1][0]
        found[group.index] = normalised_faithfulness(means, empty=empty, full=full)
    return table.assign(faithfulness=found)


def cpr_and_cmd(
    table: pd.DataFrame, *, size: str = "size", faithfulness: str = "faithfulness", by: str | Sequence[str] = ()
) -> pd.DataFrame:
    """CPR and CMD of each ranking. Circuits of size 0 are left out, as in the benchmark.

    Args:
        table: A row per circuit.
        size: Column of the sizes that were asked for, as shares of all edges.
        faithfulness: Column of f.
        by: Columns whose values tell rankings apart, such as `["method", "order"]`; signed and absolute orders of the
            same scores are two rankings.

    Returns:
        A row per ranking: the columns of `by`, `cpr`, `cmd` and `n_sizes`.

    Raises:
        UnknownNameError: No such column.
        ConfigurationError: The table is empty, a value is missing or not finite, or a ranking has a size twice, fewer
            than two of them, or other sizes than the others.

    Examples:
        >>> table = pd.DataFrame({"size": [0.1, 0.5, 1.0], "faithfulness": [0.5, 1.5, 1.0]})
        >>> cpr_and_cmd(table).round(3).to_dict("records")
        [{'cpr': 1.025, 'cmd': 0.325, 'n_sizes': 3}]
    """
    by = column_names(by)
    require_columns(table, numbers=[size, faithfulness], others=by)
    rows, first = [], None
    for key, group in grouped(table, by):
        called = f"the ranking of {', '.join(map(str, key))}" if key else "the ranking"
        sizes, values = numbers_in(group, size), numbers_in(group, faithfulness)
        order = np.argsort(sizes, kind="stable")
        order = order[sizes[order] > 0]
        sizes, values = sizes[order], values[order]
        if len(sizes) < 2 or np.any(np.diff(sizes) == 0):
            raise ConfigurationError(f"{called} needs two sizes or more, each once; got {sizes.tolist()}")
        first = sizes if first is None else first
        if not np.array_equal(first, sizes):
            raise ConfigurationError(
                f"{called} has the sizes {sizes.tolist()}, the first one {first.tolist()}; areas over different sizes "
                "cannot be compared"
            )
        cpr, cmd = float(trapezoid(values, sizes)), float(trapezoid(np.abs(1 - values), sizes))
        rows.append((*key, cpr, cmd, len(sizes)))
    return pd.DataFrame(rows, columns=[*by, "cpr", "cmd", "n_sizes"])


def mib_auroc(circuits: Sequence[Circuit], truth: Circuit, *, nodes: bool = False) -> float:
    """The benchmark's area under the ROC of circuits of rising size against a known one (InterpBench).

    A point per circuit; the area is taken by the trapezoidal rule between the first and the last of them, without the
    corner (0, 0), and divided by the last false positive rate. `analysis.auroc` is the area over all thresholds.

    Args:
        circuits: One ranking cut at rising sizes.
        truth: The known circuit.
        nodes: Whether nodes are counted instead of edges.

    Raises:
        GraphMismatchError: A circuit is of another universe.
        ConfigurationError: The known circuit has nothing, or everything, in it; or no false positive is in any circuit.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> truth = Circuit.from_edges(universe, ["input->m0", "m0->logits"])
        >>> larger = Circuit.from_edges(universe, ["input->m0", "m0->logits", "input->logits"])
        >>> round(mib_auroc([truth, larger], truth), 3)
        1.0
    """
    from analysis.rankings.truth import counted, require_truth

    real = counted(truth, nodes=nodes)
    require_truth(real)
    points = []
    for circuit in circuits:
        kept = counted(circuit, nodes=nodes, like=truth)
        points.append((float((kept & ~real).sum() / (~real).sum()), float((kept & real).sum() / real.sum())))
    points.sort()
    false, right = map(np.array, zip(*points, strict=True))
    if not false[-1] > 0:
        raise ConfigurationError("no circuit has an edge that the known one lacks; give larger ones as well")
    return float(trapezoid(right, false) / false[-1])
