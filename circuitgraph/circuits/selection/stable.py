"""Edges whose sign holds when the prompts are drawn anew: scores of several resamples, one circuit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.combined_scores import combine_scores
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.circuits.selection.chosen import Chosen, require_count, values_by
from circuitgraph.errors import ConfigurationError, GraphMismatchError


def stable_edges(several: Sequence[EdgeScores], n: int, *, by: str = "strength", agreement: float = 1.0) -> Circuit:
    """Keep the n edges of the largest mean score among those whose sign is the same in all resamples.

    Args:
        several: Scores of the same method, one for each resample of the prompts, at least two.
        n: How many edges at most; fewer where fewer are stable.
        by: What the mean score is ranked by: `strength`, `size` or `signed`.
        agreement: The share of the resamples in which an edge has its commoner sign, above 0.5; a score of 0 has none.

    Returns:
        The circuit of the mean scores; its `selection` has the number of stable edges, of resamples, and of edges kept.

    Raises:
        ConfigurationError: Fewer than two, more edges than there are, or an agreement that is no share above a half.
        GraphMismatchError: The scores are of different universes or say different things.
        UnknownNameError: No such order.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> draws = np.array([[0, 0, 0, 5, 0, 3, 0, 2.0], [0, 0, 0, 4, 0, -1, 0, 2]])
        >>> about = {"method": "mine", "direction": "noising", "estimates": "a rank"}
        >>> list(stable_edges([EdgeScores.of(universe, draw, **about) for draw in draws], 3))
        ['input->m0', 'm0->logits']

    References:
        The Technion's team in the BlackboxNLP 2025 shared task keeps edges whose sign is consistent over bootstraps.
    """
    return stable_choice(several, n, by=by, agreement=agreement).circuit()


def stable_choice(several: Sequence[EdgeScores], n: int, *, by: str = "strength", agreement: float = 1.0) -> Chosen:
    """The edges that `stable_edges` goes by, those that dangle included; its arguments and errors."""
    if len(several) < 2:
        raise ConfigurationError(f"stable edges need scores of at least two resamples; got {len(several)}")
    if not 0.5 < agreement <= 1:
        raise ConfigurationError(f"agreement must be above 0.5 and at most 1; got {agreement}")
    first = several[0]
    for place, other in enumerate(several):
        if other.estimates != first.estimates:
            raise GraphMismatchError(
                f"stable edges need scores of one method on several samples of prompts; scores 0 and {place} are of "
                f"{first.method} and {other.method}, which estimate different things. To join methods, make their mean "
                "with a scale (`--combine mean`) and choose by another rule"
            )
    mean = combine_scores(several, how="mean", scale="none")
    require_count(mean, n)
    signs = np.sign([scores.values for scores in several])
    commoner = np.maximum((signs > 0).sum(0), (signs < 0).sum(0))
    # Of a share such as 0.9 of 10, whose product is not a whole number in floating point.
    stable = commoner >= np.ceil(agreement * len(several) - 1e-9)
    order = np.argsort(-values_by(mean, by), kind="stable")
    chosen = order[stable[order]][:n]
    selection = {
        "rule": "stable", "n": n, "by": by, "agreement": agreement, "n_resamples": len(several),
        "n_stable": int(stable.sum()), "n_chosen": len(chosen),
    }  # fmt: skip
    return Chosen(scores=mean, edges=chosen, selection=selection)
