"""Regimes in figures: shared and private edges by layer or kind, and how faithful each circuit is on each regime."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.columns import grouped, numbers_in, require_columns
from analysis.drawing.style import EDGE_STYLES
from analysis.figures.labels import legend_above, plain_labels, spread_labels
from analysis.figures.own_look import own_look
from analysis.figures.panels import title_panels
from analysis.figures.style import (
    DOUBLE_COLUMN,
    FAINT,
    GREY,
    INK,
    SMALL_FONT_SIZE,
    new_figure,
    series_style,
    style_axes,
)
from analysis.regimes.case_study import CONSENSUS, METRICS, regimes_in, title_of
from circuitgraph.errors import ConfigurationError, UnknownNameError

_AXES = {
    "reader_layer": "layer that reads",
    "writer_layer": "layer that writes",
    "reader_kind": "what reads",
    "writer_kind": "what writes",
}
# The words of the drawings, and the three kinds of writer.
_KINDS = {
    **{kind: style.label.removeprefix("into an ").removeprefix("into the ") for kind, style in EDGE_STYLES.items()},
    "embedding": "embedding",
    "head": "head",
}
_ROLES = ("circuit", "intersection", "union", "difference", "random")


@own_look
def shared_private_figure(differences: pd.DataFrame, *, by: str = "reader_layer") -> Figure:
    """Bars of shared edges, and of each regime's own, layer by layer or kind by kind.

    Args:
        differences: A table of `analysis.regimes.differences.edge_differences`, of two regimes.
        by: `reader_layer`, `writer_layer`, `reader_kind` or `writer_kind`.

    Returns:
        The figure.

    Raises:
        UnknownNameError: No such strata, or a column is missing.
        ConfigurationError: The table has other than two regimes.

    Examples:
        >>> rows = [("ask", "show", "reader_kind", "q", 3, 1, 2), ("ask", "show", "reader_kind", "v", 4, 0, 1)]
        >>> columns = ["a", "b", "by", "stratum", "shared", "only_a", "only_b"]
        >>> figure = shared_private_figure(pd.DataFrame(rows, columns=columns), by="reader_kind")
        >>> figure.axes[0].get_xlabel(), len(figure.axes[0].patches)
        ('what reads', 6)
    """
    if by not in _AXES:
        raise UnknownNameError.of("strata", by, _AXES)
    numbers = ["shared", "only_a", "only_b"]
    require_columns(differences, numbers=numbers, others=["a", "b", "by", "stratum"])
    pairs = list(grouped(differences, ["a", "b"]))
    if len(pairs) != 1:
        raise ConfigurationError(f"shared_private_figure draws two regimes; the table has {len(pairs)} pairs of them")
    (a, b), rows = pairs[0]
    rows = _in_order(rows.loc[np.asarray(rows["by"] == by)], by)
    strata = [_stratum(str(name), by, len(rows)) for name in rows["stratum"]]
    figure = new_figure(DOUBLE_COLUMN, 2.3)
    axes: Axes = figure.subplots()
    style_axes(axes, grid="y")
    places, looks = np.arange(len(strata)), [series_style(0), series_style(1)]
    shared, only_a, only_b = (numbers_in(rows, name) for name in numbers)
    axes.bar(places, shared, 0.8, color=FAINT, edgecolor=INK, linewidth=0.4)
    axes.bar(places, only_a, 0.8, bottom=shared, color=looks[0].color, edgecolor=INK, linewidth=0.4)
    axes.bar(
        places, only_b, 0.8, bottom=shared + only_a, color=looks[1].color, hatch="////", edgecolor=INK, linewidth=0.4
    )
    axes.set_xticks(places, strata)
    axes.set_xlabel(_AXES[by])
    axes.set_ylabel("edges")
    axes.set_xlim(-0.6, len(strata) - 0.4)
    handles = [Patch(facecolor=FAINT, edgecolor=INK, linewidth=0.4)]
    handles.append(Patch(facecolor=looks[0].color, edgecolor=INK, linewidth=0.4))
    handles.append(Patch(facecolor=looks[1].color, hatch="////", edgecolor=INK, linewidth=0.4))
    legend_above(axes, handles, plain_labels(["shared", f"only {a}", f"only {b}"]), grow=True)
    spread_labels(axes.xaxis)
    return figure


def _in_order(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Kinds in the order of every other table and figure: query, key, value, MLP, logits."""
    kinds = list(_KINDS)
    if not by.endswith("kind"):
        return rows
    places = [kinds.index(name) if name in kinds else len(kinds) for name in rows["stratum"].astype(str)]
    return rows.iloc[np.argsort(places, kind="stable")]


def _stratum(name: str, by: str, n_strata: int) -> str:
    if by.endswith("kind"):
        return _KINDS.get(name, name)
    if by == "writer_layer" and name == "-1":
        return "emb."
    # Readers have layers 0 to n - 1, and the logits the last.
    return "logits" if by == "reader_layer" and name == str(n_strata - 1) else name


@own_look
def regime_faithfulness_figure(metrics: pd.DataFrame, *, metric: str = "kl", over: str = "seeds") -> Figure:
    """Bars of circuit × regime, with a point a seed.

    Args:
        metrics: A row per circuit and regime, as `pruning.run_regimes` makes it.
        metric: A column of it, such as `kl`, `accuracy` or `exact_match`.
        over: `seeds`: means over seeds. `consensus`: the consensus circuits.

    Returns:
        The figure: a panel for each regime that was measured on, with a dashed line for the full model and a dotted
        one for the empty circuit, and 95 % intervals over prompts as lines where the table has them. Random circuits
        are averaged over draws, without intervals.

    Raises:
        UnknownNameError: No such metric.
        ConfigurationError: The table has no such circuits, or the metric is missing throughout.

    Examples:
        >>> rows = [("full", "", "", 8, 0.0), ("circuit", "ask", "0", 4, 0.5), ("circuit", "ask", "1", 2, 0.7)]
        >>> table = pd.DataFrame(rows, columns=["role", "of", "seed", "n_edges", "kl"])
        >>> figure = regime_faithfulness_figure(table.assign(regime="show"))
        >>> [bar.get_width().round(2).item() for bar in figure.axes[0].patches], figure.axes[0].get_xlabel()
        ([0.6], 'KL (nats)')
    """
    regimes = regimes_in(metrics)
    require_columns(metrics, others=[metric])
    chosen = np.asarray(metrics["seed"] == CONSENSUS) == (over == CONSENSUS)
    members = metrics.loc[chosen & np.isin(np.asarray(metrics["role"]), _ROLES)]
    if not len(members) or not np.isfinite(numbers_in(members, metric)).any():
        raise ConfigurationError(f"metric {metric!r}: the table has no values of it for circuits over {over}")
    names = [(str(role), str(of)) for (role, of), _ in grouped(members, ["role", "of"])]
    figure = new_figure(DOUBLE_COLUMN, 0.65 + 0.22 * len(names))
    panels: list[Axes] = figure.subplots(1, len(regimes), sharey=True, squeeze=False)[0].tolist()
    for panel, regime in zip(panels, regimes, strict=True):
        style_axes(panel, grid="x")
        _draw_regime(panel, members.loc[np.asarray(members["regime"] == regime)], names, regimes, metric)
        _draw_references(panel, metrics.loc[np.asarray(metrics["regime"] == regime)], metric)
        panel.set_xlabel({"kl": "KL (nats)"}.get(metric, METRICS.get(metric, metric)))
    panels[0].set_yticks(range(len(names)), plain_labels([title_of(*name) for name in names]))
    panels[0].invert_yaxis()
    told = "dashed: full model; dotted: empty circuit; points: seeds"
    if f"{metric}_low" in metrics:
        told += "; lines: 95 % intervals over prompts"
    figure.supxlabel(told, fontsize=SMALL_FONT_SIZE, color=GREY)
    title_panels(panels, [f"on {regime}" for regime in regimes])
    for panel in panels:
        spread_labels(panel.xaxis)
    return figure


def _draw_regime(
    panel: Axes, rows: pd.DataFrame, names: list[tuple[str, str]], regimes: list[str], metric: str
) -> None:
    for place, (role, of) in enumerate(names):
        mine = rows.loc[np.asarray(rows["role"] == role) & np.asarray(rows["of"] == of)]
        by_seed = [rows for _, rows in grouped(mine, ["seed"]) if np.isfinite(numbers_in(rows, metric).mean())]
        values = np.array([numbers_in(one, metric).mean() for one in by_seed])
        if not len(values):
            continue
        own = role in ("circuit", "difference") and of in regimes
        color = series_style(regimes.index(of)).color if own else (GREY if role == "random" else FAINT)
        hatch = {"difference": "////", "random": "...."}.get(role, "")
        panel.barh(place, values.mean(), 0.72, color=color, hatch=hatch, edgecolor=INK, linewidth=0.4, alpha=0.85)
        spread = place + (np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else np.zeros(1))
        if role != "random":
            _draw_intervals(panel, by_seed, spread, metric)
        if len(values) > 1:
            panel.plot(values, spread, "o", markersize=2.6, color="white", markeredgecolor=INK, markeredgewidth=0.6)


def _draw_intervals(panel: Axes, by_seed: list[pd.DataFrame], places: np.ndarray, metric: str) -> None:
    """The 95 % intervals over prompts, seed by seed; random circuits have several draws, and none together."""
    if f"{metric}_low" not in by_seed[0]:
        return
    low, high = (np.array([numbers_in(one, f"{metric}{end}")[0] for one in by_seed]) for end in ("_low", "_high"))
    panel.hlines(places, low, high, color=INK, linewidth=0.7)


def _draw_references(panel: Axes, rows: pd.DataFrame, metric: str) -> None:
    for role, line in (("full", "--"), ("empty", ":")):
        mine = rows.loc[np.asarray(rows["role"] == role)]
        value = numbers_in(mine, metric).mean() if len(mine) else np.nan
        if np.isfinite(value):
            panel.axvline(value, color=INK, linestyle=line, linewidth=0.8)
