"""What a page is told of what heads do: roles, attention on a few prompts, and the tokens that each says most.

It is read from what `circuitgraph heads` wrote (`heads.json`). Attention is told in whole percent and a page holds a
bounded number of them, so that it stays a file to be sent by mail; what was left out is told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.comparable import GRANULARITY, model_difference
from analysis.drawing.escaping import xml_text
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import CircuitGraphError, ConfigurationError, GraphMismatchError
from circuitgraph.graph.universe import Universe

Heads = Mapping[str, Any] | str | Path
"""The folder that `circuitgraph heads` wrote, its `heads.json`, or what that holds."""

MOST_TOKENS = 64
"""Longer prompts are left out: their tokens would not fit beside the graph."""

MOST_NUMBERS = 400_000
"""Shares of attention in a page at most, about two bytes each."""

_SAID = 5


def heads_contents(
    heads: Heads, circuits: Mapping[str, Circuit], names: list[str], *, across_checkpoints: bool = False
) -> dict[str, Any]:
    """Turn what heads do into what the page is told.

    Args:
        heads: The folder that `circuitgraph heads` wrote, its `heads.json`, or what that holds.
        circuits: What the page shows, by name.
        names: The nodes in the page.
        across_checkpoints: Allow heads of other weights or another model of the same sizes.

    Returns:
        JSON values: `about` (on which prompts), `prompts` (`tokens`, and the positions `asked`), `of` (by head:
        `roles`, `direct`, `rank`, `attention` per prompt, and `says` per prompt and asked position) and `left_out`,
        a text.
        A row of attention, a position's shares in percent, ends with its last share that is not 0.

    Raises:
        ConfigurationError: It cannot be read, or is no such file.
        GraphMismatchError: It is of another model, or of a universe with other layers or heads.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> circuit = Circuit.from_edges(universe, ["input->a0.h0<v>", "a0.h0->logits"])
        >>> example = {
        ...     "tokens": ["A", " B"], "asked": [1], "attention": {"a0.h0": [[1.0, 0.0], [0.751, 0.249]]},
        ...     "says": {"a0.h0": [[[" B", 1.5]]]},
        ... }
        >>> row = {"head": "a0.h0", "roles": "mover", "direct": 1.25, "rank": 1}
        >>> found = {"format_version": 1, "universe": universe.to_dict(), "heads": [row], "examples": [example]}
        >>> heads_contents(found, {"": circuit}, ["input", "a0.h0", "logits"])["of"]["a0.h0"]["attention"]
        [[[100], [75, 25]]]
    """
    where, told = _read(heads)
    _require_same(where, told, circuits, across_checkpoints=across_checkpoints)
    try:
        rows = {str(row["head"]): row for row in told["heads"]}
        shown = [name for name in names if name in rows]
        examples, left_out = _chosen(told["examples"], shown)
        return {
            "about": _about(told),
            "prompts": [{"tokens": list(map(_text, one["tokens"])), "asked": list(one["asked"])} for one in examples],
            "of": {name: _head(name, rows[name], examples) for name in shown},
            "left_out": left_out,
        }
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ConfigurationError(f"{where}: {_not_heads(f'{type(error).__name__}: {error}')}") from error


def _not_heads(found: str) -> str:
    return f"expected what `circuitgraph heads --out DIR` writes into heads.json; {found}"


def _read(heads: Heads) -> tuple[str, Mapping[str, Any]]:
    """Where it is from, and what is in it."""
    if isinstance(heads, Mapping):
        where, told = "heads", heads
    else:
        path = Path(heads)
        path = path / "heads.json" if path.is_dir() else path
        where = str(path)
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigurationError(f"{where}: {_not_heads(str(error))}") from error
    if not isinstance(told, Mapping) or told.get("format_version") != 1:
        raise ConfigurationError(f"{where}: {_not_heads('it has no format_version of 1')}")
    return where, told


def _require_same(
    where: str, told: Mapping[str, Any], circuits: Mapping[str, Circuit], *, across_checkpoints: bool
) -> None:
    """Refuse heads of another model: the same names would be other heads."""
    try:
        universe = Universe.from_dict(told["universe"])
    except (KeyError, TypeError, CircuitGraphError) as error:
        raise ConfigurationError(f"{where}: {_not_heads(f'its universe cannot be read: {error}')}") from error
    for name, circuit in circuits.items():
        of = f"the circuit {name}" if name else "the circuit"
        mine, theirs = universe.to_dict(), circuit.universe.to_dict()
        for field in mine:
            if field not in GRANULARITY and mine[field] != theirs[field]:
                raise GraphMismatchError(
                    f"{where} and {of} are of different universes: {field}: {mine[field]!r} against {theirs[field]!r}. "
                    "Make the file anew with `circuitgraph heads --circuit`"
                )
        difference = None if across_checkpoints else model_difference(told, circuit.provenance)
        if difference is not None:
            raise GraphMismatchError(
                f"{where} and {of} are of different models: {difference}. Make the file anew with `circuitgraph heads "
                "--circuit`, or pass across_checkpoints=True"
            )


def _about(told: Mapping[str, Any]) -> str:
    n, split, task = told.get("n_prompts"), told.get("split"), told.get("task")
    many = f"{n:,} {split or ''} prompts".replace("  ", " ") if isinstance(n, int) else "prompts"
    return xml_text(f"{many} of {task}" if task else many)


def _chosen(examples: list[Mapping[str, Any]], shown: list[str]) -> tuple[list[Mapping[str, Any]], str]:
    """The prompts that fit into a page, in their order, and what is left out, as text."""
    chosen, n_numbers, too_long, too_many = [], 0, 0, 0
    for example in examples:
        n_tokens = len(example["tokens"])
        size = sum(1 for name in shown if name in example["attention"]) * n_tokens * (n_tokens + 1) // 2
        if n_tokens > MOST_TOKENS:
            too_long += 1
        elif n_numbers + size > MOST_NUMBERS:
            too_many += 1
        else:
            chosen.append(example)
            n_numbers += size
    reasons = [f"{too_long} longer than {MOST_TOKENS} tokens"] * bool(too_long)
    reasons += [f"{too_many} for which the page would be too large"] * bool(too_many)
    left_out = f"Prompts left out: {', '.join(reasons)}." if reasons else ""
    return chosen, left_out


def _head(name: str, row: Mapping[str, Any], examples: list[Mapping[str, Any]]) -> dict[str, Any]:
    roles = row["roles"]
    return {
        "roles": [xml_text(role) for role in roles.split(", ")] if roles else [],
        "direct": _number(row.get("direct")),
        "rank": _number(row.get("rank")),
        "attention": [list(map(_percent, one["attention"][name])) for one in examples],
        "says": [
            [[[_text(token), _number(value)] for token, value in said[:_SAID]] for said in one["says"][name]]
            for one in examples
        ],
    }


def _number(value: object) -> float | None:
    return round(float(value), 4) if isinstance(value, (int, float)) and value == value else None  # noqa: PLR0124


def _percent(row: list[float]) -> list[int]:
    """Shares in whole percent, without the zeros behind the last one."""
    shares = [round(100 * share) for share in row]
    while shares and not shares[-1]:
        shares.pop()
    return shares


def _text(token: str) -> str:
    return xml_text(str(token))
