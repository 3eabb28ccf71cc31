"""Measures in words: their names, and values with their intervals as a report shows them."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.markdown import plain

METRICS = {
    "kl": "KL (nats)",
    "mse": "MSE",
    "within_0.05": "within 0.05",
    "accuracy": "accuracy",
    "logit_diff": "logit difference",
    "prob_diff": "probability difference",
    "kendall_tau": "Kendall's τ",
    "exact_match": "exact match",
    "agreement_full_right": "exact match where the model is right",
    "agreement_full_wrong": "… where it is wrong",
}
SHARES = ("accuracy", "exact_match", "within_0.05")


def title_of(name: str) -> str:
    """A measure's name as a table's head."""
    return plain(METRICS.get(name, name.replace("_", " ")))


def bounded(name: str, value: float | None, bounds: Sequence[float | None] | None) -> str:
    """A value with its bounds, if it has any that differ."""
    text = figure(name, value)
    if value is None or bounds is None or bounds[0] is None or bounds[0] == bounds[1]:
        return text
    low, high = (figure(name, bound) for bound in bounds)
    if text.endswith(" %"):
        return f"{text} [{low.removesuffix(' %')}, {high.removesuffix(' %')}]"
    return f"{text} [{low}, {high}]"


def figure(name: str, value: float | None) -> str:
    """A value: shares as percentages, small ones in powers of ten."""
    if value is None:
        return "–"
    if name in SHARES or name.startswith("agreement"):
        return f"{100 * value:.1f} %"
    value = 0.0 if -5e-7 < value < 0 else value  # a KL of nothing, but for rounding
    return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"
