"""The curve of a training run as a picture: how faithful, how sparse, how much still lives, step by step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.labels import legend_above
from analysis.figures.own_look import own_look
from analysis.figures.style import BLACK, BLUE, DOUBLE_COLUMN, GREEN, GREY, VERMILLION, new_figure, style_axes
from circuitgraph.errors import ConfigurationError

_OBJECTIVES = {"kl": "KL (nats)", "objective": "objective", "loss": "loss"}
# What an objective measures, with its unit.
_MEASURES = {
    "kl": "KL (nats)",
    "kl-top1": "KL and top token (nats)",
    "position-kl": "KL over positions (nats)",
    "mse": "mean squared error",
    "logit-diff": "logit difference lost",
    "negative-logit-diff": "minus the logit difference",
}
_SPLIT_LINES = ((VERMILLION, "--"), (BLACK, ":"), (GREEN, "-."))
_COUNTS = {
    "live_heads": ("live heads", BLUE, "-"),
    "live_mlps": ("live MLPs", BLACK, "--"),
    "undecided": ("undecided gates", GREY, ":"),
}


@own_look
def training_figure(
    curve: pd.DataFrame, *, objective: str | None = None, evaluated: Mapping[str, float] | None = None
) -> Figure:
    """Draw a training curve: the objective, the sparsity beside its target, and what still lives.

    Args:
        curve: A row per step, with `step`, `sparsity`, one of `kl`, `objective` and `loss`, and where there are
            any `target`, `live_heads`, `live_mlps` and `undecided`.
        objective: Which objective the column `objective` or `loss` is of, such as `kl` or `mse`, for its name and unit.
        evaluated: The finished circuit's values of the same measure by split, such as `{"validation": 0.2}`: dashed
            lines beside the curve, which is of training batches and of gates that are not yet 0 or 1.

    Returns:
        The figure.

    Raises:
        ConfigurationError: The curve is empty or lacks a column.

    Examples:
        >>> curve = pd.DataFrame({"step": [0, 1, 2], "kl": [0.5, 0.2, 0.1], "sparsity": [0.0, 0.4, 0.8]})
        >>> [axes.get_ylabel() for axes in training_figure(curve).axes]
        ['KL (nats)', 'edges cut (%)']
    """
    column = _check_columns(curve)
    counts = [name for name in _COUNTS if name in curve and _finite(curve, name).size]
    n_panels = 3 if counts else 2
    figure = new_figure(DOUBLE_COLUMN, 1.9 * n_panels + 0.4)
    panels: list[Axes] = figure.subplots(n_panels, 1, sharex=True).tolist()
    for panel in panels:
        style_axes(panel, grid="both")
    _plot_objective(panels[0], curve, column, evaluated or {})
    if column != "kl":
        named = _MEASURES.get(objective or "", f"objective {objective}" if objective else _OBJECTIVES[column])
        panels[0].set_ylabel(f"{named} + penalty" if column == "loss" else named)
    _plot_sparsity(panels[1], curve)
    if counts:
        _plot_counts(panels[2], curve, counts)
    panels[-1].set_xlabel("step")
    return figure


def _check_columns(curve: pd.DataFrame) -> str:
    """The column of the objective, once everything needed is there."""
    missing = [name for name in ("step", "sparsity") if name not in curve]
    objective = next((name for name in _OBJECTIVES if name in curve and _finite(curve, name).size), None)
    if len(curve) == 0 or missing or objective is None:
        raise ConfigurationError(
            "a curve needs at least one row and the columns step, sparsity and kl (or objective, or loss); "
            f"got {len(curve)} rows of {', '.join(map(str, curve.columns)) or 'nothing'}"
        )
    return objective


def _column(curve: pd.DataFrame, name: str) -> np.ndarray:
    return np.asarray(curve[name], dtype=np.float64)


def _finite(curve: pd.DataFrame, name: str) -> np.ndarray:
    values = _column(curve, name)
    return values[np.isfinite(values)]


def _plot_objective(panel: Axes, curve: pd.DataFrame, objective: str, evaluated: Mapping[str, float]) -> None:
    values = _column(curve, objective)
    window = max(1, len(values) // 40)
    lines: list[Line2D] = []
    labels: list[str] = []
    panel.plot(curve["step"], values, color=BLUE, alpha=0.3 if window > 1 else 1, linewidth=0.8)
    if window > 1:
        smooth = curve[objective].astype(float).rolling(window, min_periods=1, center=True).median()
        lines += panel.plot(curve["step"], smooth, color=BLUE, linewidth=1.4)
        labels.append(f"training batches, median of {window} steps")
    for (split, value), (color, line) in zip(evaluated.items(), _SPLIT_LINES, strict=False):
        if np.isfinite(value):
            lines.append(panel.axhline(value, color=color, linestyle=line, linewidth=1.1))
            labels.append(f"finished circuit, {split}")
    if lines:
        legend_above(panel, lines, labels)
    finite = _finite(curve, objective)
    if finite.min() > 0 and finite.max() > 50 * finite.min():
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter("{x:,g}")
    panel.set_ylabel(_OBJECTIVES[objective])


def _plot_sparsity(panel: Axes, curve: pd.DataFrame) -> None:
    lines = panel.plot(curve["step"], 100 * _column(curve, "sparsity"), color=GREEN, linewidth=1.4)
    labels = ["sparsity"]
    if "target" in curve:
        target = 100 * _column(curve, "target")
        lines += panel.plot(curve["step"], target, color=VERMILLION, linestyle="--", linewidth=1.1)
        labels.append("target")
    panel.set_ylabel("edges cut (%)")
    legend_above(panel, lines, labels)


def _plot_counts(panel: Axes, curve: pd.DataFrame, names: list[str]) -> None:
    """Counts on a scale that is linear up to 1 and logarithmic above, since gates outnumber heads."""
    largest, lines = 0.0, []
    for name in names:
        _, color, line = _COUNTS[name]
        values = _column(curve, name)
        largest = max(largest, float(_finite(curve, name).max()))
        lines += panel.plot(curve["step"], values, color=color, linestyle=line, linewidth=1.2)
    if largest > 1000:
        panel.set_yscale("symlog", linthresh=1)
        panel.yaxis.set_major_formatter("{x:,g}")
    panel.set_ylim(bottom=0)
    panel.set_ylabel("count")
    legend_above(panel, lines, [_COUNTS[name][0] for name in names])
