"""What a drawing says about itself: model, task, ablation, sparsity with its denominator, KL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.provenance import name_in


def recorded_metric(provenance: Mapping[str, Any], metric: str) -> tuple[str, float] | None:
    """A circuit's metric from its provenance, of the first split that has it.

    Looks into `metrics` in the layout of `metrics.json` (`splits`, then the split, then `circuit`) and in the
    shorter one of a split's own figures.

    Args:
        provenance: A circuit's provenance.
        metric: E.g. `kl`.

    Returns:
        The split and the value, or None.

    Examples:
        >>> recorded_metric({"metrics": {"splits": {"test": {"circuit": {"kl": 0.25}}}}}, "kl")
        ('test', 0.25)
        >>> recorded_metric({"metrics": {"validation": {"kl": 0.5}}}, "kl")
        ('validation', 0.5)
    """
    metrics = provenance.get("metrics")
    if not isinstance(metrics, Mapping):
        return None
    splits = metrics.get("splits", metrics)
    for split in ("test", "validation", "train"):
        figures = splits.get(split) if isinstance(splits, Mapping) else None
        if isinstance(figures, Mapping):
            figures = figures.get("circuit", figures)
            value = figures.get(metric) if isinstance(figures, Mapping) else None
            if isinstance(value, (int, float)):
                return split, float(value)
    return None


def parts_of(circuit: Circuit) -> str:
    """How many heads and MLPs a circuit has, in words."""
    heads, mlps = len(circuit.heads), len(circuit.mlps)
    return f"{heads} head{'s' * (heads != 1)} and {mlps} MLP{'s' * (mlps != 1)}"


def title(circuit: Circuit) -> str:
    """The model and the task, as far as the provenance knows them."""
    provenance = circuit.provenance
    model = name_in(provenance, "model") or f"{circuit.universe.family} model"
    task = name_in(provenance, "task")
    return f"{model}: {task}" if task else model


def facts(circuit: Circuit, n_drawn: int) -> list[str]:
    """The caption's lines below the title.

    Args:
        circuit: The whole circuit.
        n_drawn: How many of its edges the drawing shows.

    Returns:
        Plain text lines.
    """
    counts = circuit.sparsity
    universe = f"{counts['n_universe']:,}"
    raw = f"raw {counts['n_raw']:,}: {100 * counts['raw']:.2f} %"
    lines = [
        f"{len(circuit):,} of {universe} edges kept: {100 * counts['effective']:.2f} % sparse ({raw})",
        f"{parts_of(circuit)}; {circuit.ablation} ablation",
    ]
    for metric, unit in (("kl", " nats"), ("mse", "")):
        recorded = recorded_metric(circuit.provenance, metric)
        if recorded:
            lines[-1] += f"; {metric.upper()} {recorded[1]:.3f}{unit} ({recorded[0]})"
    if n_drawn < len(circuit):
        lines.append(f"{n_drawn:,} of {len(circuit):,} edges drawn (strongest, joined to input and logits)")
    return lines
