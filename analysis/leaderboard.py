"""A leaderboard summed up: each method on each task in a row, and a page of tables and curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.columns import grouped, numbers_in, require_columns
from analysis.faithfulness import area_under_curves
from analysis.figures.front import front_figure
from analysis.figures.style import save_figure
from analysis.markdown import code, plain
from analysis.markdown import table as markdown_table
from analysis.rankings.mib import cpr_and_cmd, with_faithfulness
from circuitgraph.errors import ConfigurationError
from circuitgraph.files.atomic_file import write_atomically
from circuitgraph.files.csv_text import csv_text

_KEYS = ["method", "task", "seed"]
LIMITS = (0.003, 0.5)
"""Shares of edges between which means over the logarithm of the size are taken, as far as a table has them."""
_SHOWN = {"kl": 3, "exact_match": 3, "accuracy": 3}


def leaderboard_summary(table: pd.DataFrame, costs: pd.DataFrame, *, reference: str | None = None) -> pd.DataFrame:
    """Sum a leaderboard up.

    Args:
        table: As of `pruning.leaderboard.board.Board`: rows per cell, order and size.
        costs: A row per cell.
        reference: A method that the others are compared with: how many times its edges each needs to have its KL at
            97 and 98 % sparsity. None compares with none.

    Returns:
        A row per method and task, means over seeds: `order` (signed or by size, the one whose circuits are closer to
        the model); `kl_mean` (or `mse_mean`) and, where the task has them, `exact_match_mean` and `accuracy_mean`, over
        the logarithm of the size from 0.3 to 50 % of the edges in that order; `cpr` (signed) and `cmd` (by size, where
        scores have two orders), of the logit difference where there is one, else of the accuracy; `seconds`,
        `forward_passes`, `n_seeds`; and with a reference `times_edges_97` and `times_edges_98`, infinite where no size
        is enough.

    Raises:
        UnknownNameError: A column is missing.
        ConfigurationError: The table is empty, or the reference is none of its methods.
    """
    require_columns(table, numbers=["size", "n_edges"], others=[*_KEYS, "order"])
    if reference is not None and reference not in set(table["method"]):
        raise ConfigurationError(
            f"reference {reference!r} is none of the methods: {', '.join(sorted(set(table['method'])))}"
        )
    rows = []
    for (method, task), cells in grouped(table, ["method", "task"]):
        measure = "logit_diff" if "logit_diff" in cells and bool(cells["logit_diff"].notna().all()) else "accuracy"
        scaled = with_faithfulness(cells, measure, by=["seed", "order"])
        areas = cpr_and_cmd(scaled, by=["seed", "order"])
        order = best_order(cells)
        some = _where(cells, order=order)
        row: dict[str, object] = {"method": method, "task": task, "order": order}
        loss = "kl" if "kl" in cells else "mse"
        for name in (loss, "exact_match", "accuracy"):
            if name in some and bool(some[name].notna().all()):
                above = some.query("size > 0")
                found = area_under_curves(above, x="size", y=name, by="seed", limits=_limits(above), log_x=True)
                row[f"{name}_mean"] = _mean(found, "mean")
        row["cpr"] = _mean(_where(areas, order="signed"), "cpr")
        row["cmd"] = _mean(_where(areas, order="size" if "size" in set(areas["order"]) else "signed"), "cmd")
        cost = _where(costs, method=method, task=task)
        row |= {"seconds": _mean(cost, "seconds"), "forward_passes": _mean(cost, "forward_passes")}
        row["n_seeds"] = len(set(some["seed"]))
        if reference is not None:
            base = _where(table, method=reference, task=task)
            row |= {f"times_edges_{place}": times_edges(some, base, 1 - place / 100, loss) for place in (97, 98)}
        rows.append(row)
    return pd.DataFrame(rows)


def _limits(rows: pd.DataFrame) -> tuple[float, float]:
    sizes = numbers_in(rows, "size")
    return max(LIMITS[0], float(sizes.min())), min(LIMITS[1], float(sizes.max()))


def _mean(rows: pd.DataFrame, column: str) -> float:
    return float(numbers_in(rows, column).mean())


def _where(rows: pd.DataFrame, **values: object) -> pd.DataFrame:
    """The rows whose columns have these values."""
    chosen = np.ones(len(rows), dtype=bool)
    for name, value in values.items():
        chosen &= (rows[name] == value).to_numpy()
    return rows.iloc[np.flatnonzero(chosen)]


def best_order(cells: pd.DataFrame) -> str:
    """The order in which a method's circuits are closer to the model, over all sizes alike.

    Args:
        cells: The rows of one method and task.
    """
    loss = "kl" if "kl" in cells else "mse"
    above = cells.query("size > 0")
    found = area_under_curves(above, x="size", y=loss, by="order", limits=_limits(above), log_x=True)
    return str(found.sort_values("mean", kind="stable")["order"].iloc[0])


def times_edges(cells: pd.DataFrame, reference: pd.DataFrame, size: float, loss: str = "kl") -> float:
    """How many times the edges of a reference a method needs to be as close to the model.

    Args:
        cells: Rows of the method in one order; seeds are averaged.
        reference: Rows of the reference, in any order; the better is taken.
        size: The reference's size, as a share of all edges.
        loss: The column that is to be as small.

    Returns:
        The ratio, between sizes on a line over the logarithm of the number of edges; infinite where no size of the
        method but all edges is as close.
    """
    base = _where(reference, order=best_order(reference))
    sizes, goal_edges, goals = _curve(base, loss)
    goal = float(np.interp(np.log(size), np.log(sizes), goals))
    at = float(np.exp(np.interp(np.log(size), np.log(sizes), np.log(goal_edges))))
    _, edges, values = _curve(cells.query("size < 1"), loss)
    enough = np.flatnonzero(values <= goal)
    if not len(enough):
        return float("inf")
    first = int(enough[0])
    if first == 0:
        return float(edges[0]) / at
    left, right = first - 1, first
    share = (values[left] - goal) / (values[left] - values[right])
    return float(np.exp(np.log(edges[left]) + share * (np.log(edges[right]) - np.log(edges[left])))) / at


def _curve(cells: pd.DataFrame, loss: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sizes, rising, the mean number of edges of each and the mean loss, over seeds; without the empty circuit."""
    sizes, place = np.unique(numbers_in(cells, "size"), return_inverse=True)
    counts = np.bincount(place)
    edges, losses = (np.bincount(place, weights=numbers_in(cells, name)) / counts for name in ("n_edges", loss))
    there = (sizes > 0) & (edges > 0)
    return sizes[there], edges[there], losses[there]


def write_leaderboard(
    folder: str | Path, table: pd.DataFrame, costs: pd.DataFrame, *, reference: str | None = None, command: str = ""
) -> Path:
    """Write the tables, a figure per task and a page into a leaderboard's folder.

    Args:
        folder: The folder.
        table: As of `leaderboard_summary`.
        costs: As of `leaderboard_summary`.
        reference: As of `leaderboard_summary`.
        command: The command that made it, for the page.

    Returns:
        The page.
    """
    place = Path(folder)
    summary = leaderboard_summary(table, costs, reference=reference)
    write_atomically(place / "table.csv", csv_text(table))
    write_atomically(place / "summary.csv", csv_text(summary))
    sections = ["# Leaderboard", _intro(command)]
    inside = table.query("0 < size < 1 and n_edges > 0")
    for (task,), rows in grouped(summary, ["task"]):
        cells = _where(inside, task=task)
        chosen = cells.merge(rows[["method", "order"]], on=["method", "order"])
        name = (
            "curves-" + "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in str(task)) + ".png"
        )
        drawn = chosen.assign(sparsity=1 - chosen["size"])
        save_figure(front_figure(drawn, by="method"), place / name, dpi=150)
        first = "kl_mean" if "kl_mean" in rows and bool(rows["kl_mean"].notna().all()) else "mse_mean"
        ordered = rows.sort_values(first, kind="stable").drop(columns="task").dropna(axis=1, how="all")
        sections.append(f"## {plain(str(task))}\n\n{_as_markdown(ordered)}\n\n![Curves]({name})")
    page = place / "leaderboard.md"
    write_atomically(page, "\n\n".join(section for section in sections if section) + "\n")
    return page


def _intro(command: str) -> str:
    text = (
        "A row per method, the closest to the model first. `kl_mean`, `exact_match_mean` and `accuracy_mean` are "
        "means over the logarithm of the circuit's size, from 0.3 to 50 % of the edges, on test prompts, in that order "
        "of the scores (signed, or by size) whose circuits are closer to the model. CPR (signed) and CMD (by size) are "
        "those of the Mechanistic Interpretability Benchmark, nine tenths of which are circuits of over 10 % of the "
        "edges. `forward_passes` is the time in plain forward passes of the model over the training prompts."
    )
    return text + (f"\n\nMade by {code(command)}." if command else "")


def _as_markdown(rows: pd.DataFrame) -> str:
    def text(value: object) -> str:
        return f"{value:.3g}" if isinstance(value, float) else plain(value)

    return markdown_table(
        list(map(str, rows.columns)), [[text(value) for value in row] for row in rows.itertuples(index=False)]
    )
