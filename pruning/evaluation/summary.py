"""Scores prompt by prompt, summed up: means, counts, intervals, and differences to the circuit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from circuitgraph.errors import UndefinedWarning
from pruning.evaluation.intervals import differences_of, intervals_of, mean_of
from pruning.evaluation.scores import HIT, SHARES

Columns = Mapping[str, np.ndarray]
"""By measure, one value per prompt, NaN where a prompt has none."""
_WITH_ITSELF = ("kl", "mse", "exact_match", "kendall_tau", "agreement_full_right", "agreement_full_wrong")
"""What the full model is to itself by definition, whatever the prompts."""


def summary(columns: Columns, full: Columns, *, intervals: bool = True) -> dict[str, Any]:
    """Sum up what a set of kept edges says.

    Args:
        columns: Its scores.
        full: The full model's.
        intervals: Whether to bootstrap.

    Returns:
        `n`, the prompts; `n_undefined`, those of them with NaN or infinite logits; each measure's mean over the others
        (None where none has it), with `n_MEASURE` where fewer prompts have it than there are; `n_full_right`,
        `agreement_full_right` and `agreement_full_wrong`, the exact match among the prompts that the full model gets
        right, and wrong, where accuracy is known; and `intervals` by measure.
    """
    n = len(columns["exact_match"])
    found: dict[str, Any] = {"n": n, "n_undefined": int(np.isnan(columns["exact_match"]).sum())}
    for name, values in columns.items():
        found[name] = mean_of(values)
        n_defined = int((~np.isnan(values)).sum())
        if n_defined < n:
            found[f"n_{name}"] = n_defined
    agreement = _agreement(columns, full)
    if agreement:
        found["n_full_right"] = int((~np.isnan(agreement["agreement_full_right"])).sum())
        found.update({name: mean_of(values) for name, values in agreement.items()})
    if intervals:
        shares = (*SHARES, *(name for name in columns if name.startswith(HIT)))
        bounds = intervals_of({**columns, **agreement}, shares=shares)
        if columns is full:
            bounds |= {name: [found[name]] * 2 for name in _WITH_ITSELF if found.get(name) is not None}
        found["intervals"] = bounds
    return found


def _agreement(columns: Columns, full: Columns) -> dict[str, np.ndarray]:
    """Exact match, only of prompts that the full model gets right, and only of those that it gets wrong."""
    if "accuracy" not in full:
        return {}
    return {
        f"agreement_full_{name}": np.where(full["accuracy"] == value, columns["exact_match"], np.nan)
        for name, value in (("right", 1), ("wrong", 0))
    }


def summary_of_random(randoms: Sequence[Columns], full: Columns) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Sum up random circuits: their mean, and how far they are apart.

    Args:
        randoms: Each one's scores, at least one.
        full: The full model's.

    Returns:
        As of `summary`, of the mean circuit, with `n_circuits` and the standard deviation over circuits as `MEASURE_sd`
        (None of one circuit). A prompt that any circuit leaves undefined is left out of all. Then the mean circuit's
        scores, which the intervals are of: they hold other prompts, not other random circuits.
    """
    together = {name: np.mean([one[name] for one in randoms], axis=0) for name in randoms[0]}
    missing = np.isnan(together["exact_match"])
    found = {**summary(together, full), "n_circuits": len(randoms)}
    each = [
        summary({name: np.where(missing, np.nan, values) for name, values in one.items()}, full, intervals=False)
        for one in randoms
    ]
    for name in (*together, "agreement_full_right", "agreement_full_wrong"):
        if name not in found:
            continue
        values = [row[name] for row in each if row[name] is not None]
        found[f"{name}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return found, together


def difference_to(circuit: Columns, other: Columns) -> dict[str, dict[str, float | None]]:
    """The circuit minus something else, prompt by prompt.

    Args:
        circuit: Its scores.
        other: The other's.

    Returns:
        By measure `mean`, `low` and `high`, see `pruning.evaluation.intervals.differences_of`.
    """
    return differences_of(circuit, other)


def warn_of_undefined(rows: Mapping[str, Mapping[str, Any]], missing: np.ndarray, texts: Sequence[str]) -> None:
    """Warn where prompts were left out because something put out NaN or infinite logits.

    Args:
        rows: Metrics by role.
        missing: Places of these prompts, rising.
        texts: The prompts, if they have texts.
    """
    told = undefined_text(rows)
    if told is None:
        return
    first = ", ".join(f"{i} ({texts[i]!r})" if texts else str(i) for i in missing[:3].tolist())
    warnings.warn(f"{told}. Prompts: {first}{' …' if len(missing) > 3 else ''}", UndefinedWarning, stacklevel=3)


def undefined_text(rows: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Say where prompts were left out because something put out NaN or infinite logits; None where none were.

    Args:
        rows: Metrics by role.

    Examples:
        >>> print(undefined_text({"full": {"n": 20, "n_undefined": 0}, "circuit": {"n": 20, "n_undefined": 3}}))
        NaN or infinite logits: circuit on 3 of 20 prompts; these are left out of every mean. Try --dtype float32
    """
    found = [(role, row["n_undefined"], row["n"]) for role, row in rows.items() if row.get("n_undefined")]
    if not found:
        return None
    told = ", ".join(f"{role} on {undefined:g} of {n:,} prompts" for role, undefined, n in found)
    return f"NaN or infinite logits: {told}; these are left out of every mean. Try --dtype float32"
