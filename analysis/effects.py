"""What single parts of a circuit are worth, as a table, from what `metrics.json` says; without the model."""

from __future__ import annotations

import pandas as pd

from analysis.drawing.effects import Effects, read_effects

_NUMBERS = [f"{where}{end}" for where in ("in_circuit", "in_full") for end in ("", "_low", "_high")]


def effects_table(effects: Effects) -> pd.DataFrame:
    """Measured effects, one row per part, the largest in the circuit first.

    Args:
        effects: A result folder, its `metrics.json`, what that holds, or its `effects` alone.

    Returns:
        Columns `part`, `kind` (str: `edge`, `head` or `mlp`), `score` (float64: an edge's trained score, missing of
        heads and MLPs), and `in_circuit` and `in_full`, the change in KL (nats), or in squared error, when the part
        alone is cut, each with its 95 % bounds `_low` and `_high` (float64, missing where there are none).

    Raises:
        ConfigurationError: The file cannot be read, or there are no effects in it.

    Examples:
        >>> change = {"kl": 0.5, "low": 0.25, "high": 1.0}
        >>> row = {"part": "input->m0", "score": 2.0, "in_circuit": change, "in_full": change}
        >>> table = effects_table({"measure": "kl", "edges": [row], "heads": [], "mlps": []})
        >>> table[["part", "kind", "in_circuit", "in_circuit_low"]].values.tolist()
        [['input->m0', 'edge', 0.5, 0.25]]
    """
    rows = []
    for row in read_effects(effects).values():
        found = {"part": row["part"], "kind": _kind(row["part"]), "score": row.get("score")}
        for where in ("in_circuit", "in_full"):
            change = row.get(where) or {}
            value = change.get("kl", change.get("mse"))
            found |= {where: value, f"{where}_low": change.get("low"), f"{where}_high": change.get("high")}
        rows.append(found)
    table = pd.DataFrame(rows, columns=["part", "kind", "score", *_NUMBERS])
    table = table.astype(dict.fromkeys(["score", *_NUMBERS], "float64"))
    return table.sort_values("in_circuit", ascending=False, kind="stable", ignore_index=True)


def _kind(part: str) -> str:
    """What a part is, by its name."""
    if "->" in part:
        return "edge"
    return "mlp" if part.startswith("m") else "head"
