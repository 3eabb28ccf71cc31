"""The part of a report that says how faithful a circuit is: tables by split, intervals, differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from analysis.markdown import plain, table
from analysis.measure_text import METRICS, bounded, figure, title_of

if TYPE_CHECKING:
    pass

_ROWS = {
    "circuit": "circuit",
    "raw": "… with its dangling edges",
    "full": "full model",
    "edited": "all of the edited graph",
    "empty": "empty circuit",
    "complement": "complement",
    "random": "random circuits of that size",
}

TOLD = ("kl", "mse", "accuracy", "exact_match")
"""The measures that sentences tell; tables have all."""


def faithfulness_section(metrics: Mapping[str, Any]) -> str:
    """How faithful the circuit is, a table per split.

    Args:
        metrics: As in `metrics.json`.
    """
    splits = metrics.get("splits", {})
    parts = ["## How faithful it is"]
    known = ("test", "validation", "train")
    for split in sorted(splits, key=lambda name: known.index(name) if name in known else len(known)):
        figures = splits[split]
        names = _metric_names(figures)
        shown = {row: label for row, label in _ROWS.items() if isinstance(figures.get(row), Mapping)}
        sized = any("n_edges" in figures[row] for row in shown)
        rows = [
            [
                label + _sampled(figures[row], figures),
                *([_edges_kept(figures[row])] if sized else []),
                *(with_interval(name, figures[row]) for name in names),
            ]
            for row, label in shown.items()
        ]
        counts = [f"{part['n']:,}" for part in figures.values() if isinstance(part, Mapping) and part.get("n")]
        n = f", {counts[0]} prompts" if counts else ""
        header = [*([""] if not sized else ["", "edges"]), *(title_of(name) for name in names)]
        notes = [table(header, rows), *_differences(figures), *_left_out(figures)]
        parts.append(f"### {plain(split)}{n}\n\n" + "\n\n".join(notes))
    if len(parts) == 1:
        parts.append("Not evaluated.")
    else:
        parts.append(
            "KL and exact match compare with the full model; accuracy and logit difference with the right "
            "answer. Accuracy is the share of prompts where a right answer is chosen: over the wrong ones, at the "
            "answer's first token, where a prompt has wrong answers; among the whole vocabulary, at every answer "
            "token, where it has none. The logit difference is of prompts that have wrong answers. In brackets: 95 % "
            "intervals, from a bootstrap over prompts. Random circuits have the same number of edges between the same "
            "layers: mean ± standard deviation over them. Where they ran on some prompts only, their figures, and the "
            "circuit's difference to them, are of these."
        )
    return "\n\n".join(parts)


def front_section(metrics: Mapping[str, Any], *, picture: str | None = None) -> str:
    """Circuits of other sizes from the same ranking; an empty text where none were measured.

    Args:
        metrics: As in `metrics.json`.
        picture: The name of the figure beside the report, or None.
    """
    rows = metrics.get("front") or []
    if not rows:
        return ""
    names = [name for name in METRICS if any(row.get(name) is not None for row in rows)]
    header = ["sparsity", "edges", "heads", "MLPs", *(title_of(name) for name in names)]
    body = [
        [f"{row['sparsity']:g}", *(f"{row[name]:,}" for name in ("n_edges", "n_heads", "n_mlps"))]
        + [with_interval(name, row) for name in names]
        for row in rows
    ]
    intro = (
        f"The edges with the largest scores of the same run, as many as each sparsity leaves, on {rows[0]['n']:,} "
        f"{plain(rows[0]['split'])} prompts; edges that dangle are not counted. In brackets: 95 % intervals."
    )
    parts = ["## Other sizes", intro, table(header, body), *([f"![Measures over edges]({picture})"] if picture else [])]
    return "\n\n".join(parts)


def _sampled(row: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """On how many of the prompts a role ran, where not on all."""
    n, every = row.get("n"), (figures.get("circuit") or {}).get("n")
    return f", on {n:,} of {every:,} prompts" if n and every and n < every else ""


def _edges_kept(figures: Mapping[str, Any]) -> str:
    """How many edges a role keeps, the range where several circuits do, and what they lack."""
    if figures.get("n_edges") is None:
        return "–"
    text = f"{figures['n_edges']:,.0f}"
    low, high = figures.get("n_edges_min"), figures.get("n_edges_max")
    if low is not None and low != high:
        text += f" ({low:,} to {high:,})"
    return text + (f", {figures['n_missing']:,.1f} too few" if figures.get("n_missing") else "")


def _differences(figures: Mapping[str, Any]) -> list[str]:
    """The circuit against random circuits and the empty one, paired by prompt."""
    lines = []
    for role, label in (("random", "random circuits"), ("empty", "the empty circuit")):
        found = (figures.get(role) or {}).get("difference") or {}
        told = [
            f"{title_of(name)} {bounded(name, one['mean'], (one['low'], one['high']))}"
            for name, one in found.items()
            if name in TOLD and one.get("mean") is not None
        ]
        if told:
            lines.append(f"- circuit minus {label}, paired by prompt: {'; '.join(told)}")
    return ["\n".join(lines)] if lines else []


def _left_out(figures: Mapping[str, Any]) -> list[str]:
    told = [
        f"{label}: {figures[row]['n_undefined']:,}"
        for row, label in _ROWS.items()
        if isinstance(figures.get(row), Mapping) and figures[row].get("n_undefined")
    ]
    return [f"Prompts with outputs that are no numbers, left out of every mean: {'; '.join(told)}."] if told else []


def _metric_names(figures: Mapping[str, Any]) -> list[str]:
    """Metrics of a split that any of its rows has: the known ones in their order, then the others."""
    found = {
        name: None
        for part in figures.values()
        if isinstance(part, Mapping)
        for name, value in part.items()
        if isinstance(value, (int, float)) and name != "n" and not name.startswith("n_") and not name.endswith("_sd")
    }
    return [*(name for name in METRICS if name in found), *(name for name in found if name not in METRICS)]


def with_interval(name: str, figures: Mapping[str, Any]) -> str:
    """A measure with its interval, where there is one."""
    """A mean with its interval, and with its spread over circuits where there are several."""
    text = bounded(name, figures.get(name), (figures.get("intervals") or {}).get(name))
    spread = figures.get(f"{name}_sd")
    return text if spread is None else f"{text} ± {figure(name, spread)}"
