"""Metrics as a table: the circuit next to what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from circuitgraph.cli.output import figure, print_table

_ROLES = {
    "circuit": "circuit",
    "raw": "… with dangling edges",
    "full": "full model",
    "empty": "empty circuit",
    "complement": "complement",
    "random": "random circuits (mean)",
}
_METRICS = ("kl", "mse", "exact_match", "accuracy", "logit_diff", "agreement_full_right", "agreement_full_wrong")


def print_metrics(split: str, figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a split's figures.

    Args:
        split: The split's name.
        figures: By role, then by metric.
    """
    shown = [name for name in _METRICS if any(name in row for row in figures.values())]
    rows = [
        [label, *(figure(figures[role].get(name)) for name in shown)]
        for role, label in _ROLES.items()
        if role in figures
    ]
    n = figures["circuit"].get("n")
    print(f"\n{split}, {n:,} prompts:")
    print_table(["", *(f">{name.replace('_', ' ')}" for name in shown)], rows)
