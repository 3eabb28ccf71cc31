"""Metrics as a table: the circuit next to what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from circuitgraph.cli.findings import print_wrapped
from circuitgraph.cli.output import figure, print_table

if TYPE_CHECKING:
    from pruning.evaluation.effects import Effects

_ROLES = {
    "circuit": "circuit",
    "raw": "… with dangling edges",
    "full": "full model",
    "edited": "all of the edited graph",
    "empty": "empty circuit",
    "complement": "complement",
    "random": "random (mean)",
}
_METRICS = ("kl", "mse", "exact_match", "accuracy", "logit_diff", "agreement_full_right", "agreement_full_wrong")
_SURE = ("kl", "mse", "exact_match", "accuracy", "logit_diff")
"""Measures whose intervals are shown."""
_BASELINE = "random"
"""The role whose difference to the circuit is shown."""


def print_metrics(split: str, figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a split's figures; below them the circuit's intervals, and those of its difference to random circuits.

    Args:
        split: The split's name.
        figures: By role, then by metric, as `pruning.evaluate` gives them.
    """
    hits = [name for name in figures["circuit"] if name.startswith("hit_at_")]
    shown = [name for name in (*_METRICS, *hits) if any(row.get(name) is not None for row in figures.values())]
    every = figures["circuit"]["n"]
    rows = [
        [
            label + (f", {figures[role]['n']:,} prompts" if figures[role]["n"] < every else ""),
            figure(_whole(figures[role].get("n_edges"))),
            *(figure(figures[role].get(name)) for name in shown),
        ]
        for role, label in _ROLES.items()
        if role in figures
    ]
    print(f"\n{split}, {every:,} prompts:")
    print_table(["", ">edges", *(f">{name.replace('_', ' ')}" for name in shown)], rows)
    for note in _notes(figures):
        print_wrapped(note)


def print_front(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the measures of further circuits of the same ranking.

    Args:
        rows: As `pruning.runs.front.measured_front` gives them; none prints nothing.
    """
    if not rows:
        return
    shown = [name for name in _METRICS if any(name in row for row in rows)]
    print(f"\nThe same ranking cut at other sparsities, {rows[0]['split']}, {rows[0]['n']:,} prompts:")
    counts = ("n_edges", "n_heads", "n_mlps")
    print_table(
        [">sparsity", ">edges", ">heads", ">MLPs", *(f">{name.replace('_', ' ')}" for name in shown)],
        [
            [f"{row['sparsity']:g}", *(f"{row[name]:,}" for name in counts), *(figure(row.get(name)) for name in shown)]
            for row in rows
        ],
    )


def bounds_text(bounds: Sequence[float] | None) -> str:
    """The bounds of an interval, or a dash where there is none.

    Examples:
        >>> bounds_text([0.25, 0.5]), bounds_text([-0.5, 0.25]), bounds_text(None)
        ('0.250 to 0.500', '-0.500 to 0.250', '–')
    """
    return "–" if bounds is None else f"{figure(bounds[0])} to {figure(bounds[1])}"


def _whole(number: float | None) -> float | int | None:
    """A number of edges without a fraction that says nothing."""
    return int(number) if number is not None and number == int(number) else number


def _notes(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How sure the figures are, and measures that fewer prompts have."""
    circuit, notes = figures["circuit"], []
    bounds = circuit.get("intervals") or {}
    apart = {
        name: [found["low"], found["high"]]
        for name, found in (figures.get(_BASELINE, {}).get("difference") or {}).items()
        if found["low"] is not None
    }
    for label, intervals in (("Circuit", bounds), ("Circuit minus random circuits", apart)):
        told = [f"{_called(name)} {bounds_text(intervals[name])}" for name in _SURE if intervals.get(name)]
        if told:
            notes.append(f"{label}, 95 %: {', '.join(told)}.")
    fewer = [f"{_called(name)} {circuit[f'n_{name}']:,}" for name in _METRICS if f"n_{name}" in circuit]
    return [*notes, f"Of fewer prompts: {', '.join(fewer)}."] if fewer else notes


def _called(metric: str) -> str:
    return metric.replace("_", " ")


def print_effects(worth: Effects, top: int = 10) -> None:
    """Print the parts with the largest effects in the circuit.

    Args:
        worth: The effects.
        top: How many of each kind.
    """
    unit = "squared error" if worth.measure == "mse" else "KL (nats)"
    print(f"\nchange in {unit} where one part alone is cut, {worth.n:,} prompts, with 95 % intervals:")
    rows = []
    for kind in ("heads", "mlps", "edges"):
        for row in worth.rows[kind][:top]:
            score = "" if row["score"] is None else figure(row["score"])
            rows.append([row["part"], *(_with_bounds(row[where], worth.measure) for where in _WHERE), score])
    print_table(["part", ">from the circuit", ">from the full model", ">trained score"], rows)


def print_minimality(found: Mapping[str, Any], top: int = 20) -> None:
    """Print what single edges are worth, the idlest first.

    Args:
        found: As `evaluate --json` has it: `edges`, and how they were measured.
        top: How many of them.
    """
    unit = "squared error" if found["measure"] == "mse" else "KL (nats)"
    rows = [[row["edge"], figure(row["alone"]), figure(row["most"]), figure(row["score"])] for row in found["edges"]]
    idle = sum(row["most"] == 0 for row in found["edges"])
    cut = f", {top} of them" if len(rows) > top else ""
    beside = f" and beside {found['n_subsets']:,} subsets" if found["n_subsets"] else ""
    print(
        f"\nchange in {unit} where one of the {len(rows):,} weakest edges is cut alone{beside}, {found['n']:,} prompts:"
    )
    print_table(["edge", ">alone", ">the most", ">trained score"], rows[:top], title=f"The idlest first{cut}")
    print(f"{idle:,} of {len(rows):,} change nothing at all")


_WHERE = ("in_circuit", "in_full")


def _with_bounds(change: Mapping[str, Any], measure: str) -> str:
    bounds = "" if change["low"] is None else f" [{figure(change['low'])}, {figure(change['high'])}]"
    return figure(change[measure]) + bounds
