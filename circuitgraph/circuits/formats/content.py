"""What a file of another tool says, and how it is mapped from its universe onto another of the same architecture.

Two universes of one architecture have a common refinement, in which the edges of both are apart. An edge is repeated
where the other universe has several for it, and several become one by a rule that is asked for by name wherever they
differ: a kept edge by `any` or `all` of them, a score by `sum`, `mean` or `max`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float

from circuitgraph.errors import GraphMismatchError, UnknownNameError
from circuitgraph.graph.granularity import coarse_edges, common_refinement
from circuitgraph.graph.universe import Universe

KEPT_IF = ("any", "all")
JOINS = ("sum", "mean", "max")
SPREADS = ("repeat", "share")


@dataclass(frozen=True, kw_only=True, eq=False)
class Content:
    """Scores and kept edges of a universe, before they are a circuit or edge scores.

    Attributes:
        universe: What fixes the edges.
        scores: One score per edge `[edge]`, float64, or None. With `kept`, those of cut edges say nothing.
        kept: Whether each edge is kept `[edge]`, or None where nothing was selected.
        about: What else the file says, as JSON values.
        lost: What the other side has no place for, a line each.
    """

    universe: Universe
    scores: Float[np.ndarray, " edge"] | None = None
    kept: Bool[np.ndarray, " edge"] | None = None
    about: Mapping[str, object] = field(default_factory=dict)
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MergeRules:
    """What is done where edges of two universes do not match one to one.

    Attributes:
        kept_if: An edge made of several is kept if `any` or `all` of them are. None: they have to agree.
        join_scores: The score of an edge made of several: their `sum`, `mean`, or `max`, the one largest in size with
            its sign. None: they have to agree.
        spread: An edge that becomes several: each gets its score (`repeat`), or an equal part of it (`share`).

    Raises:
        UnknownNameError: No such rule.
    """

    kept_if: str | None = None
    join_scores: str | None = None
    spread: str = "repeat"

    def __post_init__(self) -> None:
        for name, valid in (("kept_if", (None, *KEPT_IF)), ("join_scores", (None, *JOINS)), ("spread", SPREADS)):
            if getattr(self, name) not in valid:
                raise UnknownNameError.of(name, getattr(self, name), [known for known in valid if known])


def mapped(content: Content, universe: Universe, rules: MergeRules) -> Content:
    """The same content in another universe of its architecture.

    Args:
        content: Scores, kept edges or both.
        universe: Where they shall be.
        rules: What is done where edges do not match one to one.

    Returns:
        The content there; `lost` has a line more where edges that differed became one.

    Raises:
        GraphMismatchError: The universes are of different architectures, or edges that differ become one and no rule
            says how; the message names the first of them.

    Examples:
        >>> native = Universe(family="llama", n_layers=1, n_heads=2, n_kv_heads=1)
        >>> scores = np.arange(native.n_edges, dtype=float)
        >>> there = mapped(Content(universe=native, scores=scores), replace(native, kv_heads="per_query"), MergeRules())
        >>> scores.tolist()[:5], there.scores.tolist()[:7]
        ([0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0])
    """
    if content.universe == universe:
        return content
    fine = common_refinement(content.universe, universe)
    mine, theirs = coarse_edges(fine, content.universe), coarse_edges(fine, universe)
    lost = list(content.lost)
    kept, scores = content.kept, content.scores
    if scores is not None:
        spread = scores / np.bincount(mine) if rules.spread == "share" else scores
        counted = np.ones(len(mine), dtype=bool) if kept is None else kept[mine]
        scores, differ = _joined(spread[mine], theirs, counted, rules.join_scores, universe)
        lost += [f"each of {differ:,} edges is made of several whose scores differ"] if differ else []
    if kept is not None:
        kept, differ = _kept(kept[mine], theirs, rules.kept_if, universe)
        lost += [f"each of {differ:,} edges is made of several of which not all are kept"] if differ else []
    return replace(content, universe=universe, scores=scores, kept=kept, lost=tuple(lost))


def _joined(
    values: np.ndarray, place: np.ndarray, counted: np.ndarray, rule: str | None, universe: Universe
) -> tuple[np.ndarray, int]:
    """Scores of the edges that several become, of those that count, and how many are made of different ones."""
    n, values, place = universe.n_edges, values[counted], place[counted]
    low, high = np.full(n, np.inf), np.full(n, -np.inf)
    np.minimum.at(low, place, values)
    np.maximum.at(high, place, values)
    differ = low < high
    if rule is None and differ.any():
        first = int(np.argmax(differ))
        raise GraphMismatchError(
            f"{universe.edge_name(first)} is made of several edges whose scores differ, {low[first]:g} to "
            f"{high[first]:g}; say how they are joined, {', '.join(JOINS)} (join_scores, --join-scores)"
        )
    size, total = np.bincount(place, minlength=n), np.bincount(place, weights=values, minlength=n)
    if rule == "sum":
        return total, int(differ.sum())
    joined = np.where(size > 0, low, 0.0)
    if rule == "mean":
        joined[differ] = total[differ] / size[differ]
    elif rule == "max":
        joined[differ] = np.where(high >= -low, high, low)[differ]
    return joined, int(differ.sum())


def _kept(kept: np.ndarray, place: np.ndarray, rule: str | None, universe: Universe) -> tuple[np.ndarray, int]:
    """Which of the edges that several become are kept, and how many are made of kept and cut ones."""
    n = universe.n_edges
    size, count = np.bincount(place, minlength=n), np.bincount(place[kept], minlength=n)
    differ = (count > 0) & (count < size)
    if rule is None and differ.any():
        first = int(np.argmax(differ))
        raise GraphMismatchError(
            f"{universe.edge_name(first)} is made of {size[first]} edges of which {count[first]} are kept; say when it "
            f"is kept, if {' or '.join(KEPT_IF)} of them are (kept_if, --kept-if)"
        )
    return (count == size) & (size > 0) if rule == "all" else count > 0, int(differ.sum())
