"""The table of circuit × regime, in the layout of the case study of Bhaskar et al. (2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import latex, markdown
from analysis.columns import grouped, numbers_in, require_columns
from circuitgraph.errors import ConfigurationError

CONSENSUS = "consensus"
METRICS = {"accuracy": "accuracy", "exact_match": "exact match", "kl": "KL", "mse": "MSE", "logit_diff": "logit diff."}
_SHARES = ("accuracy", "exact_match")
_IN_TABLE = ("accuracy", "exact_match", "kl", "mse")


def regimes_in(metrics: pd.DataFrame) -> list[str]:
    """The regimes that circuits were measured on, in order.

    Raises:
        UnknownNameError: The table has no column `regime`, `role`, `of`, `seed` or `n_edges`.
        ConfigurationError: The table is empty.
    """
    require_columns(metrics, numbers=["n_edges"], others=["role", "of", "seed", "regime"])
    return list(dict.fromkeys(metrics["regime"]))


def case_study_table(metrics: pd.DataFrame, *, over: str = "seeds") -> pd.DataFrame:
    """One row per circuit: its size, and how faithful it is on every regime.

    Args:
        metrics: A row per circuit and regime, as `pruning.run_regimes` makes it.
        over: `seeds`: means over seeds. `consensus`: of the consensus circuits.

    Returns:
        The full model, each regime's circuit, their intersection, union and differences, and random circuits of these
        sizes, with the columns `circuit`, `role`, `of` (str), `n_seeds` (int64), `edges`, `edges_sd` (float64),
        `percent` (float64; of the universe), and for each regime and metric `REGIME: METRIC` and `REGIME: METRIC sd`
        (float64), the standard deviation over seeds, missing with fewer than two. Random circuits are averaged over
        draws first.

    Raises:
        ConfigurationError: There is nothing of that kind in the table.

    Examples:
        >>> rows = [("full", "", "", 8, 1.0), ("circuit", "ask", "0", 4, 0.5), ("circuit", "ask", "1", 2, 0.7)]
        >>> table = pd.DataFrame(rows, columns=["role", "of", "seed", "n_edges", "accuracy"])
        >>> metrics = table.assign(regime="show", n_universe=8)
        >>> print(case_study_table(metrics)[["circuit", "edges", "percent", "show: accuracy"]])
              circuit  edges  percent  show: accuracy
        0  full model    8.0    100.0             1.0
        1     ask       3.0     37.5             0.6
    """
    regimes = regimes_in(metrics)
    wanted = np.asarray(metrics["seed"] == CONSENSUS) == (over == CONSENSUS)
    reference = np.isin(np.asarray(metrics["role"]), ["full", "empty"])
    if over not in ("seeds", CONSENSUS) or not (wanted & ~reference).any():
        raise ConfigurationError(f"over: expected 'seeds' or 'consensus', of which the table has some; got {over!r}")
    shown = [name for name in METRICS if name in metrics and np.isfinite(numbers_in(metrics, name)).any()]
    rows = []
    for (role, of), group in grouped(metrics.loc[wanted | reference], ["role", "of"]):
        if role != "empty":
            rows.append(_row(str(role), str(of), group, regimes, shown))
    return pd.DataFrame(rows)


def _row(role: str, of: str, group: pd.DataFrame, regimes: Sequence[str], shown: Sequence[str]) -> dict[str, object]:
    edges = _by_seed(group, "n_edges")
    universe = float(numbers_in(group, "n_universe")[0])
    row: dict[str, object] = {"circuit": title_of(role, of), "role": role, "of": of, "n_seeds": len(edges)}
    row |= {"edges": edges.mean(), "edges_sd": _sd(edges), "percent": 100 * edges.mean() / universe}
    for regime in regimes:
        mine = group.loc[np.asarray(group["regime"] == regime)]
        for name in shown:
            values = _by_seed(mine, name)
            row[f"{regime}: {name}"] = values.mean() if len(values) else np.nan
            row[f"{regime}: {name} sd"] = _sd(values)
    return row


def _by_seed(rows: pd.DataFrame, name: str) -> np.ndarray:
    """A measure's mean over the rows of each seed, where it is known `[seed]`."""
    means = []
    for _, mine in grouped(rows, ["seed"]):
        values = numbers_in(mine, name)
        means += [values.mean()] if np.isfinite(values).all() else []
    return np.array(means)


def _sd(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def title_of(role: str, of: str) -> str:
    """What a circuit of the table is called."""
    titles = {"full": "full model", "circuit": of, "difference": f"only {of}", "random": f"random, as {of}"}
    return titles.get(role, role)


def case_study_markdown(metrics: pd.DataFrame, *, over: str = "seeds") -> str:
    """The table as Markdown, with mean ± standard deviation over seeds.

    Args:
        metrics: As of `case_study_table`.
        over: As of `case_study_table`.
    """
    header, rows = _cells(metrics, over)
    return markdown.table(
        [markdown.plain(cell) for cell in header], [[markdown.plain(cell) for cell in row] for row in rows]
    )


def case_study_latex(metrics: pd.DataFrame, *, over: str = "seeds", caption: str = "") -> str:
    """The table as LaTeX in the style of booktabs, with mean ± standard deviation over seeds.

    Args:
        metrics: As of `case_study_table`.
        over: As of `case_study_table`.
        caption: Above the table, plain text.
    """
    header, rows = _cells(metrics, over)

    def cell(text: str) -> str:
        return latex.plain(text).replace("±", r"$\pm$").replace("–", "--")

    numbers = [False, *[True] * (len(header) - 1)]
    return latex.table(
        [cell(text) for text in header],
        [[cell(text) for text in row] for row in rows],
        numbers=numbers,
        caption=latex.plain(caption),
    )


def _cells(metrics: pd.DataFrame, over: str) -> tuple[list[str], list[list[str]]]:
    table, regimes = case_study_table(metrics, over=over), regimes_in(metrics)
    shown = [name for name in _IN_TABLE if f"{regimes[0]}: {name}" in table]
    header = ["circuit", "edges", "% of all"]
    header += [f"{regime}: {METRICS[name]}{' (%)' if name in _SHARES else ''}" for regime in regimes for name in shown]
    rows = []
    for values in table.itertuples(index=False):
        row: dict[str, Any] = dict(zip(table.columns, values, strict=True))
        cells = [str(row["circuit"]), _figure(row["edges"], row["edges_sd"], 0), f"{row['percent']:.2f}"]
        for regime in regimes:
            for name in shown:
                scale, digits = (100, 1) if name in _SHARES else (1, 3)
                value, sd = row[f"{regime}: {name}"], row[f"{regime}: {name} sd"]
                cells.append(_figure(scale * value, scale * sd, digits))
        rows.append(cells)
    return header, rows


def _figure(value: float, sd: float, digits: int) -> str:
    if np.isnan(value):
        return "–"
    return f"{value:,.{digits}f}" + ("" if np.isnan(sd) else f" ± {sd:,.{digits}f}")
