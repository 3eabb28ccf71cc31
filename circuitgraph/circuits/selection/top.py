"""The edges with the largest scores: a number of them, or all from a score on."""

from __future__ import annotations

import math

import numpy as np

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.circuits.selection.chosen import Chosen, require_count, values_by
from circuitgraph.circuits.strength import LOG_ALPHA
from circuitgraph.errors import ConfigurationError


def top_edges(scores: EdgeScores, n: int, *, by: str = "strength") -> Circuit:
    """Keep the first edges, less those that dangle without the others.

    Args:
        scores: Of every edge.
        n: How many edges, before dangling ones are dropped.
        by: `strength`, `size` or `signed`; see `EdgeScores.order`. Of equal scores the first in the order of the flat
            gate vector stays.

    Returns:
        The circuit, with the edges' scores and the scores' provenance. Its `selection` says the rule; `sparsity` how
        many edges are left.

    Raises:
        ConfigurationError: More edges than there are, or fewer than none.
        UnknownNameError: No such order.

    Examples:
        >>> import numpy as np
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> values = np.arange(8.0)
        >>> found = EdgeScores.of(universe, values, method="mine", direction="noising", estimates="a rank")
        >>> circuit = top_edges(found, 5)
        >>> list(circuit), circuit.sparsity["n_raw"]
        (['input->m0', 'input->logits', 'm0->logits'], 5)
    """
    return top_choice(scores, n, by=by).circuit()


def top_choice(scores: EdgeScores, n: int, *, by: str = "strength") -> Chosen:
    """The edges that `top_edges` goes by, those that dangle included; its arguments and errors."""
    require_count(scores, n)
    return Chosen(scores=scores, edges=scores.order(by=by)[:n], selection={"rule": "top", "n": n, "by": by})


def threshold_edges(scores: EdgeScores, threshold: float, *, by: str = "strength") -> Circuit:
    """Keep all edges from a score on, less those that dangle.

    Args:
        scores: Of every edge.
        threshold: The least that an edge must have, in the scores' unit.
        by: What is compared with it: `strength`, `size` or `signed`; of trained gates' scores, whose strength is
            log(1 + exp(score)), `strength` compares the score itself.

    Returns:
        The circuit; see `top_edges`.

    Raises:
        ConfigurationError: The threshold is not finite.
        UnknownNameError: No such order.

    Examples:
        >>> import numpy as np
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> found = EdgeScores.of(universe, np.arange(8.0), method="mine", direction="noising", estimates="a rank")
        >>> list(threshold_edges(found, 5.0))
        ['input->logits']
    """
    return threshold_choice(scores, threshold, by=by).circuit()


def threshold_choice(scores: EdgeScores, threshold: float, *, by: str = "strength") -> Chosen:
    """The edges that `threshold_edges` goes by, those that dangle included; its arguments and errors."""
    if not math.isfinite(threshold):
        raise ConfigurationError(f"threshold must be a finite number; got {threshold}")
    is_log_alpha = by == "strength" and scores.estimates == LOG_ALPHA
    values = scores.values if is_log_alpha else values_by(scores, by)
    selection = {"rule": "threshold", "threshold": threshold, "by": by}
    return Chosen(scores=scores, edges=np.flatnonzero(values >= threshold), selection=selection)
