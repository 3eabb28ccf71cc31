"""Circuits and rankings against a circuit that is known: precision, recall, and the area under the ROC."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from analysis.comparable import require_comparable
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import ORDERS, EdgeScores
from circuitgraph.circuits.strength import SIGNED
from circuitgraph.errors import ConfigurationError, GraphMismatchError, UnknownNameError


def recovery_table(circuits: Mapping[str, Circuit], truth: Circuit) -> pd.DataFrame:
    """How much of a known circuit other circuits have, and how much else.

    Args:
        circuits: By name.
        truth: The known circuit.

    Returns:
        Two rows per circuit, of its edges and of its nodes (writers with a kept edge): `name`, `of` (`edges` or
        `nodes`), `n`, `n_truth`, `n_both`, `precision` (n_both / n, 1 for an empty circuit), `recall`
        (n_both / n_truth), `f1`, and `exact`, whether both are the same.

    Raises:
        GraphMismatchError: A circuit is of another universe.
        ConfigurationError: The known circuit is empty.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> truth = Circuit.from_edges(universe, ["input->m0", "m0->logits"])
        >>> found = Circuit.from_edges(universe, ["input->m0", "m0->logits", "input->logits"])
        >>> print(recovery_table({"mine": found}, truth)[["of", "n_both", "precision", "recall", "exact"]].round(2))
              of  n_both  precision  recall  exact
        0  edges       2       0.67     1.0  False
        1  nodes       2       1.00     1.0   True
    """
    rows = []
    for name, circuit in circuits.items():
        for of in ("edges", "nodes"):
            real, kept = counted(truth, nodes=of == "nodes"), counted(circuit, nodes=of == "nodes", like=truth)
            n, n_truth, both = int(kept.sum()), int(real.sum()), int((kept & real).sum())
            if not n_truth:
                raise ConfigurationError("the known circuit is empty; there is nothing to recover")
            precision, recall = both / n if n else 1.0, both / n_truth
            f1 = 2 * precision * recall / (precision + recall) if both else 0.0
            rows.append((name, of, n, n_truth, both, precision, recall, f1, bool((kept == real).all())))
    columns = ["name", "of", "n", "n_truth", "n_both", "precision", "recall", "f1", "exact"]
    return pd.DataFrame(rows, columns=columns)


def auroc(scores: EdgeScores, truth: Circuit, *, by: str = "strength", nodes: bool = False) -> float:
    """The chance that an edge of a known circuit is ranked above one that is not in it; ties count half.

    That is the area under the ROC over all thresholds. A node's score is the highest of the edges that it writes.

    Args:
        scores: One per edge.
        truth: The known circuit.
        by: As of `EdgeScores.order`: `strength`, `size` or `signed`.
        nodes: Whether nodes are ranked instead of edges.

    Raises:
        GraphMismatchError: The circuit is of another universe.
        ConfigurationError: The known circuit has nothing, or everything, in it.
        UnknownNameError: No such order.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> truth = Circuit.from_edges(universe, ["input->m0", "m0->logits"])
        >>> values = np.where(truth.mask, 5.0, 1.0)
        >>> ranked = EdgeScores.of(universe, values, method="mine", direction="noising", estimates="a rank")
        >>> auroc(ranked, truth)
        1.0
    """
    if scores.universe != truth.universe:
        raise GraphMismatchError("the scores are of another universe than the known circuit; bring both to one first")
    worth = _worth(scores, by)
    if nodes:
        writers = scores.universe.writer_of_edge
        best = np.full(scores.universe.n_writers, -np.inf)
        np.maximum.at(best, writers, worth)
        worth = best
    real = counted(truth, nodes=nodes)
    require_truth(real)
    ranks = rankdata(worth)
    n_real, n_other = int(real.sum()), int((~real).sum())
    return float((ranks[real].sum() - n_real * (n_real + 1) / 2) / (n_real * n_other))


def counted(circuit: Circuit, *, nodes: bool, like: Circuit | None = None) -> np.ndarray:
    """Which edges, or which writers, a circuit has.

    Args:
        circuit: The circuit.
        nodes: Whether writers are meant.
        like: A circuit that has to be of the same universe.

    Returns:
        Booleans `[edge]` or `[writer]`.

    Raises:
        GraphMismatchError: It is of another universe.
    """
    if like is not None:
        require_comparable({"the circuit": circuit, "the known circuit": like}, across_checkpoints=True)
    if not nodes:
        return circuit.mask
    there = np.zeros(circuit.universe.n_writers, dtype=bool)
    writers, _ = circuit.universe.endpoints(circuit.edge_ids)
    there[writers] = True
    return there


def require_truth(real: np.ndarray) -> None:
    """Refuse a known circuit that splits nothing.

    Args:
        real: What it has.

    Raises:
        ConfigurationError: Nothing, or everything.
    """
    if real.all() or not real.any():
        raise ConfigurationError(
            f"the known circuit has {'everything' if real.all() else 'nothing'} in it; a ranking cannot be judged by it"
        )


def _worth(scores: EdgeScores, by: str) -> np.ndarray:
    """What edges are ranked by: the score itself, or its size, as `EdgeScores.order` has it."""
    if by not in ORDERS:
        raise UnknownNameError.of("order", by, ORDERS)
    signed = by == "signed" or (by == "strength" and scores.estimates in SIGNED)
    return scores.values if signed else np.abs(scores.values)
