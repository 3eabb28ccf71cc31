"""Circuits against each other on the same prompts: which is closer to the full model, and by how much."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from pruning.evaluation.intervals import differences_of, mean_of
from pruning.evaluation.masks import metrics_of_columns, scores_of
from pruning.frozen.constants import AblationData
from pruning.prompts.encoding import EncodedPairs

_CLOSER_IS_LESS = {"kl": True, "mse": True, "exact_match": False, "kendall_tau": False}
"""Measures of closeness to the full model, and whether less is closer. Accuracy and logit difference are none: a
circuit may be right more often than the model."""


@dataclass(frozen=True, kw_only=True)
class FaithfulnessComparison:
    """Circuits measured on the same prompts.

    Attributes:
        metrics: By circuit, then by metric, as of `pruning.evaluate_masks`, with the full model as `full`.
        differences: One row per pair of circuits and measure, with the columns `a`, `b`, `measure` (str), `n` (int64;
            prompts that have it in both), `mean_a`, `mean_b`, `difference` (a minus b, prompt by prompt), `low`, `high`
            (its 95 % bounds, missing of fewer than two prompts; float64), and `closer` (str): which of both is closer
            to the full model; empty where the interval holds 0, and for accuracy and logit difference, which do not
            say.

    Examples:
        >>> rows = pd.DataFrame({"a": ["mine"], "b": ["theirs"], "measure": ["kl"], "difference": [-0.2]})
        >>> found = FaithfulnessComparison(metrics={"mine": {"kl": 0.1}, "theirs": {"kl": 0.3}}, differences=rows)
        >>> found.differences[["a", "b", "difference"]].values.tolist()
        [['mine', 'theirs', -0.2]]
    """

    metrics: dict[str, dict[str, Any]]
    differences: pd.DataFrame


def compare_faithfulness(
    compiled: CompiledModel,
    circuits: Mapping[str, Circuit],
    pairs: EncodedPairs,
    *,
    ablation: str | None = None,
    ablation_data: AblationData | None = None,
    batch_size: int = 16,
    tick: Callable[[int, int], None] | None = None,
) -> FaithfulnessComparison:
    """Measure circuits on the same prompts, and their differences prompt by prompt.

    Two intervals that overlap do not mean that two circuits are alike: what makes a prompt hard for both widens each,
    and not their difference.

    Args:
        compiled: The model.
        circuits: Two or more, by name.
        pairs: The prompts, at least one.
        ablation: What cut edges carry; by default what the circuits were found with.
        ablation_data: The prompts that means are taken over, `pairs` by default; or constants (`learn_constants`).
        batch_size: Prompts run at once; halved when memory runs out.
        tick: Called with the number of runs done and of all, after every batch.

    Returns:
        Metrics by circuit, and a row per pair of circuits and measure.

    Raises:
        GraphMismatchError: A circuit is of another universe than the model, or not of its edited graph.
        ConfigurationError: Fewer than two circuits, no prompts, the name `full`, or circuits that were found under
            different ablations where none is chosen.

    Warns:
        UndefinedWarning: Prompts were left out because of NaN or infinite logits.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> from circuitgraph.tracr import ground_truth_edges
        >>> from pruning import load_task
        >>> compiled = compile_model(load_model("tracr:xproportion"), embeddings="split")
        >>> inputs = load_task("tracr-xproportion", compiled.tokenizer, options={"max_length": 3}).split("test")
        >>> truth = Circuit.from_edges(compiled.universe, ground_truth_edges("xproportion"), ablation="zero")
        >>> part = truth.without(["pos->a1.h0<k>"])
        >>> found = compare_faithfulness(compiled, {"truth": truth, "part": part}, inputs).differences
        >>> found.loc[found["measure"] == "mse", ["a", "b", "closer"]].values.tolist()
        [['truth', 'part', 'truth']]
    """
    if len(circuits) < 2:
        raise ConfigurationError(f"a comparison needs two circuits or more; got {len(circuits)}")
    measured = scores_of(
        compiled, circuits, pairs, ablation=ablation, ablation_data=ablation_data, batch_size=batch_size, tick=tick
    )
    rows = [row for a, b in combinations(circuits, 2) for row in _rows(a, b, measured.columns[a], measured.columns[b])]
    return FaithfulnessComparison(
        metrics=metrics_of_columns(compiled, measured, pairs),
        differences=pd.DataFrame(rows),
    )


def _rows(a: str, b: str, ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> list[dict[str, object]]:
    """A row per measure of two circuits."""
    rows = []
    for name, apart in differences_of(ours, theirs).items():
        both = ~np.isnan(ours[name]) & ~np.isnan(theirs[name])
        low, high = apart["low"], apart["high"]
        rows.append(
            {
                "a": a,
                "b": b,
                "measure": name,
                "n": int(both.sum()),
                "mean_a": _float(mean_of(ours[name][both])),
                "mean_b": _float(mean_of(theirs[name][both])),
                "difference": _float(apart["mean"]),
                "low": _float(low),
                "high": _float(high),
                "closer": _closer(name, a, b, low, high),
            }
        )
    return rows


def _float(value: float | None) -> float:
    return np.nan if value is None else value


def _closer(measure: str, a: str, b: str, low: float | None, high: float | None) -> str:
    """Which of two circuits is closer to the full model, if the interval of a minus b says so."""
    if measure not in _CLOSER_IS_LESS or low is None or high is None or low <= 0 <= high:
        return ""
    return a if (high < 0) == _CLOSER_IS_LESS[measure] else b
