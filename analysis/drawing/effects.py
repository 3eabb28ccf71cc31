"""What cutting each part alone costs, as measured by `pruning.evaluation.effects`: read from a result folder's files.

Rows are as in `metrics.json` under `effects`: `edges`, `heads` and `mlps`, each row with its `part`, its trained
`score`, and the change in KL when it alone is cut, `in_circuit` and `in_full`, each `{kl, low, high}`; where outputs
are numbers, the change in squared error, as `mse`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from circuitgraph.errors import ConfigurationError

Effects = Mapping[str, Any] | str | Path
_PARTS = ("edges", "heads", "mlps")


def read_effects(effects: Effects) -> dict[str, dict[str, Any]]:
    """The measured effects by part.

    Args:
        effects: A result folder, its `metrics.json`, what that holds, or its `effects` alone.

    Returns:
        By the part's name, such as `a3.h7` or `input->m0`, a row with `in_circuit` and `in_full`.

    Raises:
        ConfigurationError: The file cannot be read, or there are no effects in it.

    Examples:
        >>> row = {"part": "input->m0", "score": 2.0, "in_circuit": {"kl": 0.5}, "in_full": {"kl": 0.1}}
        >>> list(read_effects({"split": "test", "edges": [row]}))
        ['input->m0']
    """
    where, value = "effects", effects
    if isinstance(effects, (str, Path)):
        path = Path(effects)
        path = path / "metrics.json" if path.is_dir() else path
        where = str(path)
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigurationError(f"{where}: measured effects are read from a metrics.json: {error}") from error
    if isinstance(value, Mapping):
        value = value.get("effects", value)
    rows = [row for part in _PARTS for row in _rows(value, part)]
    found = {str(row["part"]): dict(row) for row in rows if _change(row, "in_circuit") is not None}
    if not found:
        raise ConfigurationError(
            f"{where}: expected `effects` with `edges` and rows of `part` and `in_circuit`, and there are none; "
            "`circuitgraph evaluate` measures them"
        )
    return found


def has_effects(effects: Effects) -> bool:
    """Whether there are measured effects of edges to read."""
    try:
        return bool(read_effects(effects))
    except ConfigurationError:
        return False


def effect_of(row: Mapping[str, Any] | None, where: str = "in_circuit") -> float | None:
    """The change in KL, or in squared error, of one row, None where it was not measured."""
    return None if row is None else _change(row, where)


def _rows(value: object, part: str) -> list[Mapping[str, Any]]:
    rows = value.get(part) if isinstance(value, Mapping) else None
    return [row for row in rows if isinstance(row, Mapping) and "part" in row] if isinstance(rows, list) else []


def _change(row: Mapping[str, Any], where: str) -> float | None:
    place = row.get(where)
    change = place.get("kl", place.get("mse")) if isinstance(place, Mapping) else None
    return float(change) if isinstance(change, (int, float)) else None
