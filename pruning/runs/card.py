"""A finished run as a card for a notebook: its figures, what may be wrong, and its circuit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from circuitgraph.circuits.card import circuit_card
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.html import card, escaped
from pruning.evaluation.card import metrics_html


def discovery_card(circuit: Circuit, metrics: Mapping[str, Any], *, n_steps: int, warnings: Iterable[str]) -> str:
    """A run's figures by split, what may be wrong, and its circuit.

    Args:
        circuit: What was found.
        metrics: What `metrics.json` holds.
        n_steps: How many steps were trained; 0 where another method ranked the edges.
        warnings: What may be wrong with it, one line each.
    """
    tables = [
        part
        for split, by_role in metrics["splits"].items()
        for part in (f'<div style="margin-top:0.5em">{escaped(split)}</div>', metrics_html(by_role))
    ]
    steps = f"{n_steps:,} steps; " if n_steps else ""
    lines = [f"{steps}{metrics['seconds']:,.0f} s", *warnings]
    shown = (card("Discovery", lines, *tables), circuit_card(circuit))
    return "".join(f'<div style="margin-bottom:0.5em">{part}</div>' for part in shown)
