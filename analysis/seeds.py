"""Circuits over seeds: intervals, how often each edge is included, the consensus and how stable it all is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from analysis.algebra import common_ablation, edge_counts
from analysis.columns import column_names, grouped, numbers_in, require_columns
from analysis.comparable import Circuits, named_circuits, require_comparable
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.parentage import parentage
from circuitgraph.errors import ConfigurationError

_FREQUENCY_DTYPES = {"writer_layer": "int64", "reader_layer": "int64", "count": "int64"}


def seed_intervals(
    table: pd.DataFrame, values: str | Sequence[str], *, by: str | Sequence[str] = (), confidence: float = 0.95
) -> pd.DataFrame:
    """Mean and confidence interval of measures over seeds.

    Args:
        table: One row per seed (and a task, a method, …), all independent of each other: not pairs of seeds, whose
            interval `stability_table` knows.
        values: Columns of numbers.
        by: Columns whose values are told apart; rows that agree in them are seeds of one thing.
        confidence: How often the interval is to hold the true mean.

    Returns:
        One row per group and measure, with the columns of `by`, `measure` (str), `n` (int64), `mean` (float64), and
        `sd`, `low`, `high` (Float64): the standard deviation over seeds and the limits mean ± t sd / √n of
        Student's interval, missing where there is one seed. It takes the values for normal and knows of no
        bounds: a share near 0 or 1 can get limits beyond them.

    Raises:
        UnknownNameError: No such column.
        ConfigurationError: A value is missing or not finite, the table is empty, or the confidence is not
            between 0 and 1.

    Examples:
        >>> table = pd.DataFrame({"task": ["ioi"] * 3, "kl": [0.1, 0.2, 0.3]})
        >>> print(seed_intervals(table, "kl", by="task").round(3))
          task measure  n  mean   sd    low   high
        0  ioi      kl  3   0.2  0.1 -0.048  0.448
    """
    values, by = column_names(values), column_names(by)
    _check_confidence(confidence)
    require_columns(table, numbers=values, others=by)
    rows = []
    for key, group in grouped(table, by):
        for name in values:
            found = numbers_in(group, name)
            mean, n = float(found.mean()), len(found)
            sd = float(found.std(ddof=1)) if n > 1 else None
            low, high = _limits(mean, None if sd is None else sd / math.sqrt(n), n - 1, confidence)
            rows.append((*key, name, n, mean, sd, low, high))
    columns = [*by, "measure", "n", "mean", "sd", "low", "high"]
    return pd.DataFrame(rows, columns=columns).astype({"sd": "Float64", "low": "Float64", "high": "Float64"})


def inclusion_frequency(circuits: Circuits, *, across_checkpoints: bool = False) -> pd.DataFrame:
    """How many circuits keep each edge.

    Args:
        circuits: Circuits of one universe, such as one per seed.
        across_checkpoints: Allow other weights or another model of the same universe.

    Returns:
        One row per edge that any circuit keeps, the most frequent first, with the columns `edge`, `writer`, `reader`,
        `kind` (str), `writer_layer`, `reader_layer` (int64; -1 for embeddings, the number of layers for the
        logits), `count` (int64), `frequency` (float64), which is count / number of circuits, and `mean_score`
        (float64) over the circuits that keep it.

    Raises:
        GraphMismatchError: The circuits are of different universes or models.
        ConfigurationError: There is no circuit.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> a = Circuit.from_edges(universe, {"input->m0": 1.0, "m0->logits": 2.0})
        >>> b = Circuit.from_edges(universe, {"input->logits": 3.0, "input->m0": 3.0, "m0->logits": 4.0})
        >>> print(inclusion_frequency([a, b])[["edge", "count", "frequency", "mean_score"]])
                    edge  count  frequency  mean_score
        0      input->m0      2        1.0         2.0
        1     m0->logits      2        1.0         3.0
        2  input->logits      1        0.5         3.0
    """
    named = named_circuits(circuits)
    universe = require_comparable(named, across_checkpoints=across_checkpoints)
    ids, counts, scores = edge_counts(list(named.values()))
    order = np.lexsort((ids, -counts))
    ids, counts, scores = ids[order], counts[order], scores[order]
    writers, readers = universe.endpoints(ids)
    of_writer, of_reader = (
        np.array(universe.writers, dtype=object)[writers],
        np.array(universe.readers, dtype=object)[readers],
    )
    table = pd.DataFrame(
        {
            "edge": pd.Series([f"{u}->{v}" for u, v in zip(of_writer, of_reader, strict=True)], dtype="str"),
            "writer": pd.Series(of_writer, dtype="str"),
            "reader": pd.Series(of_reader, dtype="str"),
            "kind": pd.Series(universe.reader_kinds[readers], dtype="str"),
            "writer_layer": universe.writer_layers[writers],
            "reader_layer": universe.reader_layers[readers],
            "count": counts,
            "frequency": counts / len(named),
            "mean_score": scores,
        }
    )
    return table.astype(_FREQUENCY_DTYPES)


def consensus(
    circuits: Circuits,
    *,
    threshold: float = 0.5,
    ablation: str | None = None,
    across_checkpoints: bool = False,
) -> Circuit:
    """The circuit of the edges that enough circuits keep, less those that dangle.

    Args:
        circuits: Circuits of one universe, such as one per seed.
        threshold: In which share of the circuits an edge has to be at least: 1 gives the intersection, anything just
            above 0 the union.
        ablation: What cut edges carry in the result; by default the same as in the circuits.
        across_checkpoints: Allow other weights or another model of the same universe.

    Returns:
        The circuit, with inclusion frequencies as scores and provenance as in `analysis.union`.

    Raises:
        GraphMismatchError: The circuits are of different universes or models.
        ConfigurationError: There is none, they differ in ablation and none is given, or the threshold is not above
            0 and at most 1.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> a = Circuit.from_edges(universe, ["input->m0", "m0->logits"])
        >>> b = Circuit.from_edges(universe, ["input->logits", "input->m0", "m0->logits"])
        >>> list(consensus([a, a, b], threshold=0.6))
        ['input->m0', 'm0->logits']
    """
    _check_threshold(threshold)
    parents = list(named_circuits(circuits).values())
    ablation = common_ablation(parents, ablation, across_checkpoints)
    ids, counts, _ = edge_counts(parents)
    kept = _enough(counts, len(parents), threshold)
    return Circuit.from_edges(
        parents[0].universe,
        ids[kept],
        scores=counts[kept] / len(parents),
        ablation=ablation,
        provenance={**parentage("consensus", parents), "threshold": threshold, "score_meaning": "share of circuits"},
    )


def stability_table(
    circuits: Circuits, *, threshold: float = 0.5, confidence: float = 0.95, across_checkpoints: bool = False
) -> pd.DataFrame:
    """How much circuits over seeds agree, and how much their consensus hangs on any one of them.

    Args:
        circuits: At least two circuits of one universe, independent of each other, such as one per seed.
        threshold: Of the consensus, as in `consensus`.
        confidence: How often an interval is to hold the true value.
        across_checkpoints: Allow other weights or another model of the same universe.

    Returns:
        One row per measure, with the columns `measure` (str), `value`, `low`, `high` (Float64) and `note` (str: why
        something is missing, or empty). The measures are

        - `mean_pairwise_iou`: the mean Jaccard index of all pairs, but those of two empty circuits, for which it is not
          defined;
        - `chance_corrected`: the stability of Nogueira, Sechidis and Brown: 1 where all agree, 0 on average where each
          circuit is a random set of its size out of the whole universe;
        - `consensus_edges`: how many edges are in at least `threshold` of the circuits, dangling ones included;
        - `consensus_iou_without_one`, `…_worst`: the Jaccard index of that set with the one found without one of the
          circuits, on average and at worst.

        Intervals are those of the delete-one jackknife over circuits, with Student's t: pairs share circuits, so
        their spread is no guide. They need three circuits.

    Raises:
        GraphMismatchError: The circuits are of different universes or models.
        ConfigurationError: There are fewer than two, or threshold or confidence are out of bounds.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> a = Circuit.from_edges(universe, ["input->m0", "m0->logits"])
        >>> b = Circuit.from_edges(universe, ["input->logits", "input->m0", "m0->logits"])
        >>> stability_table([a, b, b]).set_index("measure")["value"].round(3).to_dict()["mean_pairwise_iou"]
        0.778

    References:
        Nogueira, Sechidis and Brown 2018, "On the stability of feature selection algorithms"; Efron and Stein 1981,
        "The jackknife estimate of variance".
    """
    _check_threshold(threshold)
    _check_confidence(confidence)
    named = named_circuits(circuits, at_least=2)
    universe = require_comparable(named, across_checkpoints=across_checkpoints)
    members = _membership(list(named.values()))
    everyone = np.arange(len(members))
    measures: dict[str, Callable[[np.ndarray], float | None]] = {
        "mean_pairwise_iou": _mean_iou,
        "chance_corrected": lambda chosen: _chance_corrected(chosen, universe.n_edges),
    }
    rows: list[tuple[object, ...]] = []
    for name, measure in measures.items():
        value = measure(members)
        without = [measure(np.delete(members, one, axis=0)) for one in everyone] if len(members) > 2 else []
        rows.append((name, value, *jackknife(value, without, confidence)))
    agreed = _frequent(members, threshold)
    left = [_iou(agreed, _frequent(np.delete(members, one, axis=0), threshold)) for one in everyone]
    known = [iou for iou in left if iou is not None]
    note = "no interval" if known else "not defined: no edge is in enough of the circuits"
    rows.append(("consensus_edges", int(agreed.sum()), None, None, "a count"))
    rows.append(("consensus_iou_without_one", float(np.mean(known)) if known else None, None, None, note))
    rows.append(("consensus_iou_without_one_worst", min(known, default=None), None, None, note))
    table = pd.DataFrame(rows, columns=["measure", "value", "low", "high", "note"])
    return table.astype({"value": "Float64", "low": "Float64", "high": "Float64"})


# -------------------------------------------------------------------- agreement of sets


def _membership(circuits: Sequence[Circuit]) -> np.ndarray:
    """Which circuit keeps which of the edges that any of them keeps `[circuit edge]`."""
    ids, _, _ = edge_counts(circuits)
    return np.stack([np.isin(ids, circuit.edge_ids, assume_unique=True) for circuit in circuits])


def _enough(counts: np.ndarray, n_circuits: int, threshold: float) -> np.ndarray:
    # The tolerance lets 2 of 3 pass a threshold of 2 / 3.
    return counts >= threshold * n_circuits - 1e-9


def _frequent(members: np.ndarray, threshold: float) -> np.ndarray:
    return _enough(members.sum(0), len(members), threshold)


def _iou(one: np.ndarray, other: np.ndarray) -> float | None:
    """The Jaccard index of two sets; None where both are empty."""
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else None


def _mean_iou(members: np.ndarray) -> float | None:
    """The mean Jaccard index of the pairs for which it is defined; None if there is none."""
    counts = members.astype(np.float64)
    shared = counts @ counts.T
    sizes = counts.sum(1)
    pairs = np.triu_indices(len(members), 1)
    union = (sizes[:, None] + sizes - shared)[pairs]
    defined = union > 0
    return float((shared[pairs][defined] / union[defined]).mean()) if defined.any() else None


def _chance_corrected(members: np.ndarray, n_edges: int) -> float | None:
    """1 minus the edges' mean variance over what it would be for random sets; None for empty or full sets."""
    n, frequency = len(members), members.mean(0)
    density = members.sum() / (n * n_edges)
    if density in (0.0, 1.0):
        return None
    variance = n / (n - 1) * (frequency * (1 - frequency)).sum() / n_edges
    return float(1 - variance / (density * (1 - density)))


# -------------------------------------------------------------------- intervals


def jackknife(
    value: float | None, without: Sequence[float | None], confidence: float
) -> tuple[float | None, float | None, str]:
    """The delete-one jackknife's interval, with Student's t.

    Args:
        value: What was measured.
        without: What it is without each of the independent units, such as seeds; None where it is not defined.
        confidence: How often the interval is to hold the true value.

    Returns:
        The limits, or None for both, and why they are missing, or an empty text.

    Examples:
        The jackknife of a mean is Student's own interval.

        >>> low, high, note = jackknife(2.0, [2.5, 2.0, 1.5], 0.95)
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
    """
    if value is None:
        return None, None, "not defined: the circuits are empty, or the whole universe"
    known = [left for left in without if left is not None]
    if len(known) < 3 or len(known) < len(without):
        return None, None, "an interval needs three circuits" if len(without) < 3 else "not defined without one circuit"
    n = len(known)
    error = math.sqrt((n - 1) / n * float(np.sum((np.array(known) - np.mean(known)) ** 2)))
    return *_limits(value, error, n - 1, confidence), ""


def _limits(mean: float, error: float | None, freedom: int, confidence: float) -> tuple[float | None, float | None]:
    if error is None:
        return None, None
    reach = float(stdtrit(freedom, 0.5 + confidence / 2)) * error
    return mean - reach, mean + reach


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise ConfigurationError(f"threshold: expected more than 0 and at most 1; got {threshold}")


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ConfigurationError(f"confidence: expected more than 0 and less than 1; got {confidence}")
