"""Task × circuit: how faithful each circuit is on each task.

With m the mean of a task's measure over its prompts,

    F[task, circuit] = (m_circuit − m_empty) / (m_full − m_empty),

0 for no edge, 1 for the full model, below 0 where the circuit is worse than nothing. Normalised by the task's *own*
circuit the divisor is m_own − m_empty instead, so that the diagonal is exactly 1: how much of what its own circuit can
do another one does too. KL and mean squared error go by the same formula; there the empty circuit is the worst.

References:
    Hanna, Pezzelle, Belinkov 2025, "Are formal and functional linguistic mechanisms dissociated in language models?"
    (arXiv 2503.11302).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.columns import numbers_in, require_columns
from circuitgraph.errors import ConfigurationError, UnknownNameError

FULL, EMPTY = "full", "empty"
OWN = "own"
"""As a measure: each task's own, as the column `measure` names it."""


def faithfulness_matrix(
    table: pd.DataFrame, measure: str = OWN, *, by_own: bool | Mapping[str, str] = False
) -> pd.DataFrame:
    """How faithful each circuit is on each task.

    Args:
        table: A row per circuit and task: `circuit`, `task`, the means, and with `full` and `empty` among the circuits.
        measure: Column of a mean; `own` for the one that each task's rows name in the column `measure`.
        by_own: Whether the task's own circuit counts as 1, not the full model. Its own is the circuit of the task's
            name, or what a mapping from task to circuit says; tasks without one are left out.

    Returns:
        Tasks as index and circuits as columns, float64, in the order of the table.

    Raises:
        UnknownNameError: No such column, or no such circuit.
        ConfigurationError: The table is empty, a task lacks a circuit or a mean, no task has a circuit of its own, or
            there is nothing to normalise by: a task's full model (or own circuit) and no edge have the same mean.

    Examples:
        >>> rows = [("full", "a", 4.0), ("empty", "a", 0.0), ("a", "a", 3.0), ("b", "a", 1.5)]
        >>> table = pd.DataFrame(rows, columns=["circuit", "task", "logit_diff"])
        >>> faithfulness_matrix(table, "logit_diff").loc["a"].tolist()
        [0.75, 0.375]
        >>> faithfulness_matrix(table, "logit_diff", by_own=True).loc["a"].tolist()
        [1.0, 0.5]
    """
    means = mean_matrix(table, measure)
    circuits = [str(name) for name in means if name not in (FULL, EMPTY)]
    empty = means[EMPTY].to_numpy()
    if by_own is False:
        whole, tasks = means[FULL].to_numpy(), np.ones(len(means), dtype=bool)
    else:
        own = {task: task for task in means.index if task in circuits} if by_own is True else dict(by_own)
        if unknown := [name for name in own.values() if name not in circuits]:
            raise UnknownNameError.of("circuit", unknown[0], circuits)
        tasks = means.index.isin(list(own))
        if not tasks.any():
            raise ConfigurationError(
                f"no task has a circuit of its own name: tasks {', '.join(map(str, means.index))}, circuits "
                f"{', '.join(circuits)}; say which is whose, by_own={{task: circuit}}"
            )
        whole = np.array([means.loc[task, own[task]] if task in own else np.nan for task in means.index], dtype=float)
    span = whole - empty
    if flat := [str(task) for task, width in zip(means.index, span, strict=True) if width == 0]:
        raise ConfigurationError(
            f"{', '.join(flat)}: what is to count as 1 has the same mean as no edge at all, so there is nothing to "
            "normalise by; leave the task out, or choose another measure"
        )
    found = (means[circuits].to_numpy() - empty[:, None]) / span[:, None]
    return pd.DataFrame(found[tasks], index=means.index[tasks], columns=circuits)


def mean_matrix(table: pd.DataFrame, measure: str = OWN) -> pd.DataFrame:
    """The means themselves, `full` and `empty` among the circuits.

    Args:
        table: As of `faithfulness_matrix`.
        measure: As of `faithfulness_matrix`.

    Returns:
        Tasks as index and circuits as columns, float64.

    Raises:
        UnknownNameError: No such column.
        ConfigurationError: The table is empty, or a task lacks a circuit or a mean.
    """
    require_columns(table, others=["circuit", "task", *(["measure"] if measure == OWN else [measure])])
    own = table["measure"] if measure == OWN else pd.Series(measure, index=table.index)
    if unknown := [str(name) for name in own.unique() if name not in table]:
        raise UnknownNameError.of("column", unknown[0], map(str, table.columns))
    values = np.array([numbers_in(table, str(name))[place] for place, name in enumerate(own)])
    names, tasks = list(dict.fromkeys(table["circuit"])), list(dict.fromkeys(table["task"]))
    found = pd.DataFrame(np.nan, index=pd.Index(tasks), columns=pd.Index(names))
    for circuit, task, value in zip(table["circuit"], table["task"], values, strict=True):
        found.loc[task, circuit] = value
    missing = [f"{circuit} on {task}" for task in tasks for circuit in names if np.isnan(found.loc[task, circuit])]
    missing += [f"{name} on {tasks[0]}" for name in (FULL, EMPTY) if name not in names]
    if missing:
        what = "its own measure" if measure == OWN else measure
        raise ConfigurationError(
            f"every circuit needs {what} on every task; it is missing for {', '.join(missing[:3])}"
        )
    return found
