"""The curve of a training run as a figure: how faithful, how sparse, how much still lives, step by step."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from circuitgraph.atomic_file import write_atomically
from circuitgraph.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#6B4C9A", "#555555"
_OBJECTIVES = {"kl": "KL (nats)", "objective": "objective", "loss": "loss"}
_COUNTS = {
    "live_heads": ("live heads", BLUE, "-"),
    "live_mlps": ("live MLPs", PURPLE, "--"),
    "undecided": ("undecided gates", GREY, ":"),
}


def plot_curve(curve: pd.DataFrame, path: str | Path) -> Path:
    """Plot a training curve as PNG.

    Args:
        curve: A row a step, with `step`, `sparsity`, one of `kl`, `objective` and `loss`, and where there are
            any `target`, `live_heads`, `live_mlps` and `undecided`.
        path: The PNG to write.

    Returns:
        The path.

    Raises:
        ConfigurationError: The curve is empty or lacks a column.
        OutputError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    objective = _check_columns(curve)
    counts = [name for name in _COUNTS if name in curve and _finite(curve, name).size]
    n_panels = 3 if counts else 2
    figure = Figure(figsize=(7, 2.1 * n_panels + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels: list[Axes] = list(figure.subplots(n_panels, 1, sharex=True))
    _plot_objective(panels[0], curve, objective)
    _plot_sparsity(panels[1], curve)
    if counts:
        _plot_counts(panels[2], curve, counts)
    panels[-1].set_xlabel("step")
    for panel in panels:
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return write_atomically(Path(path), picture.getvalue())


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


def _plot_objective(panel: Axes, curve: pd.DataFrame, objective: str) -> None:
    values = _column(curve, objective)
    window = max(1, len(values) // 40)
    panel.plot(curve["step"], values, color=BLUE, alpha=0.3 if window > 1 else 1, linewidth=1)
    if window > 1:
        smooth = curve[objective].astype(float).rolling(window, min_periods=1, center=True).median()
        panel.plot(curve["step"], smooth, color=BLUE, linewidth=1.8, label=f"median of {window} steps")
        panel.legend(frameon=False, loc="best")
    finite = _finite(curve, objective)
    if finite.min() > 0 and finite.max() > 50 * finite.min():
        panel.set_yscale("log")
    panel.set_ylabel(_OBJECTIVES[objective])


def _plot_sparsity(panel: Axes, curve: pd.DataFrame) -> None:
    panel.plot(curve["step"], 100 * _column(curve, "sparsity"), color=GREEN, linewidth=1.8, label="sparsity")
    if "target" in curve:
        target = 100 * _column(curve, "target")
        panel.plot(curve["step"], target, color=ORANGE, linestyle="--", linewidth=1.4, label="target")
    panel.set_ylabel("edges cut (%)")
    panel.legend(frameon=False, loc="lower right")


def _plot_counts(panel: Axes, curve: pd.DataFrame, names: list[str]) -> None:
    """Counts on a scale that is linear up to 1 and logarithmic above, since gates outnumber heads."""
    largest = 0.0
    for name in names:
        label, color, line = _COUNTS[name]
        values = _column(curve, name)
        largest = max(largest, float(_finite(curve, name).max()))
        panel.plot(curve["step"], values, color=color, linestyle=line, linewidth=1.5, label=label)
    if largest > 1000:
        panel.set_yscale("symlog", linthresh=1)
    panel.set_ylim(bottom=0)
    panel.set_ylabel("count")
    panel.legend(frameon=False, loc="best")
