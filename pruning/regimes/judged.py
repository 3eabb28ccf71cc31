"""What a study's figures say against its circuits: the verdicts of single runs, for each regime on its own prompts.

Of each seed's circuit, and of the consensus circuit, on the prompts of the regime that it was found for, `full`,
`empty` and the random circuits of its size are the baselines; see `pruning.runs.verdicts`. A verdict that several
seeds share is said once, with the seeds.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from pruning.runs.verdicts import judge_roles


def study_verdicts(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Judge a study.

    Args:
        table: A row per circuit and regime, see `pruning.regimes.faithfulness.evaluate_regimes`.

    Returns:
        A dict per verdict, with `name`, `severity` (`wrong` or `doubt`), `text` (of the first seed that it holds for),
        `regime` and `seeds`, those that are wrong first; empty if nothing speaks against the circuits.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    rows: list[dict[str, Any]] = table.to_dict("records")
    baselines = {(row["regime"], row["role"]): row for row in rows if row["role"] in ("full", "empty")}
    drawn = [row for row in rows if row["role"] == "random"]
    for row in rows:
        if row["role"] != "circuit" or row["of"] != row["regime"]:
            continue
        regime, seed = row["regime"], row["seed"]
        roles = {"circuit": _metrics(row)}
        roles |= {name: _metrics(baselines[regime, name]) for name in ("full", "empty")}
        random = pd.DataFrame(
            [one for one in drawn if (one["regime"], one["of"], one["seed"]) == (regime, regime, seed)]
        )
        if len(random):
            means = pd.Series(random.mean(numeric_only=True)).to_dict()
            roles["random"] = {**_metrics(means), "n_circuits": len(random)}
        for one in judge_roles(roles, split=f"{regime} {row['split']}", n_edges=int(row["n_edges"])):
            entry = found.setdefault((regime, one.name), {**one.to_dict(), "regime": regime, "seeds": []})
            entry["seeds"].append(seed)
    return sorted(found.values(), key=lambda one: one["severity"] != "wrong")


def _metrics(row: dict[str, Any]) -> dict[str, Any]:
    """A table's row as the metrics of a role: numbers that are there, counts whole."""
    known = {name: value for name, value in row.items() if isinstance(value, (int, float)) and value == value}
    counts = {name: int(value) for name, value in known.items() if name == "n" or name.startswith("n_")}
    return {**known, **counts}
