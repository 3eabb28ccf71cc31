"""How strong an edge is, by its score: the one rule behind "the strongest edges", everywhere.

A score of gradients, a difference or a weight says how much an edge matters by its size, whatever its sign: its
strength is |score|. The score of a trained gate is the gate's log α instead, and there the sign matters: the larger,
the surer the edge is kept, and −8 is an edge that was as good as cut. Its strength is log(1 + exp(score)), which
rises with the score, is near the score where that is large, and near 0 where it is far below 0. The rise that a greedy
search measured when it tried an edge has its sign too: a fall is no reason to keep the edge, and its strength is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

LOG_ALPHA = "log-alpha"
"""`score_meaning` in the provenance of circuits whose scores are trained gates' log α."""
RISE_WHEN_TRIED = "rise of the objective when the edge was cut from what was left of the model"
"""`score_meaning` where edges were tried one after the other (ACDC) and kept by how much the objective rose."""
SIGNED = (LOG_ALPHA, RISE_WHEN_TRIED)
"""Meanings of scores of which the larger is the surer, whatever the size."""


def score_meaning(provenance: Mapping[str, Any]) -> str:
    """What a circuit's scores are: `log-alpha`, what its provenance calls them, or an empty string.

    Args:
        provenance: A circuit's provenance. Files from before `score_meaning` say it by their method.

    Examples:
        >>> score_meaning({"method": "edge-pruning"}), score_meaning({"method": "eap"})
        ('log-alpha', '')
    """
    told = provenance.get("score_meaning")
    if isinstance(told, str):
        return told
    return LOG_ALPHA if provenance.get("method") == "edge-pruning" else ""


def strengths_of(scores: np.ndarray, meaning: str) -> np.ndarray:
    """The strength of edges, never below 0: the larger, the stronger.

    Args:
        scores: Scores `[edge]`.
        meaning: From `score_meaning`.

    Returns:
        Strengths `[edge]`, in the scores' unit.

    Examples:
        >>> scores = np.array([-8.0, 0.0, 8.0])
        >>> strengths_of(scores, "").tolist(), strengths_of(scores, "log-alpha").round(3).tolist()
        ([8.0, 0.0, 8.0], [0.0, 0.693, 8.0])
        >>> strengths_of(scores, RISE_WHEN_TRIED).tolist()
        [0.0, 0.0, 8.0]
    """
    if meaning == RISE_WHEN_TRIED:
        return np.maximum(scores, 0.0)
    return np.logaddexp(0.0, scores) if meaning == LOG_ALPHA else np.abs(scores)


def strength_name(meaning: str) -> str:
    """What a legend calls the strength: `score` where the largest is the strongest, otherwise `|score|`.

    Args:
        meaning: From `score_meaning`.
    """
    return "score" if meaning in SIGNED else "|score|"
