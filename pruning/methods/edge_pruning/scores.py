"""Trained gates as edge scores, so that they are kept, selected and compared as any other method's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.circuits.strength import LOG_ALPHA
from pruning.methods.edge_pruning.gates import Gates


def scores_of_gates(
    gates: Gates, *, ablation: str = "counterfactual", provenance: Mapping[str, object] | None = None
) -> EdgeScores:
    """The log α of trained gates.

    Args:
        gates: Trained gates.
        ablation: What cut edges carried in training.
        provenance: Where the gates came from, as JSON values.

    Returns:
        One log α per edge; edges frozen in an edited graph get the highest, removed ones the lowest of the others.
    """
    scores = gates.scores().double().cpu().numpy()
    finite = scores[np.isfinite(scores)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (-1.0, 1.0)
    return EdgeScores.of(
        gates.gate_map.universe, np.clip(scores, low, high), method="edge-pruning", direction="between",
        estimates=LOG_ALPHA, ablation=ablation, provenance=provenance,
    )  # fmt: skip
