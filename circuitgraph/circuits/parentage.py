"""Provenance of circuits that are made of other circuits: who the parents are, and what all of them say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from circuitgraph.circuits.strength import score_meaning

if TYPE_CHECKING:
    from circuitgraph.circuits.kept import KeptEdges

INHERITED = (
    "model", "revision", "config_hash", "weights", "vectors", "tokenizer", "dtype", "task", "task_options",
    "data_hash", "objective",
)  # fmt: skip
"""What a result inherits where all that it is made of agree: what is needed to evaluate it."""
# What a result tells of each parent.
_TOLD = (*INHERITED, "method", "recipe", "seed", "ablation", "operation", "parents")


def parentage(operation: str, parents: Sequence[KeptEdges]) -> dict[str, Any]:
    """Provenance of a circuit made of others.

    Args:
        operation: What was done.
        parents: The circuits it was made of, in order.

    Returns:
        `operation`; `parents`, their digests; `parent_provenance`, for each its digest, size, model, task, recipe
        (by name), seed and so on, as far as it says; and what they all say, under the same names as in a
        circuit of their own: model, revision, task, options and hash of its data, and so on.
    """
    provenances = [parent.provenance for parent in parents]
    meanings = {score_meaning(provenance) for provenance in provenances}
    meaning = meanings.pop() if len(meanings) == 1 else ""
    common = {
        field: provenances[0][field]
        for field in INHERITED
        if field in provenances[0] and all(other.get(field) == provenances[0][field] for other in provenances)
    }
    told = []
    for parent, provenance in zip(parents, provenances, strict=True):
        facts = {field: provenance[field] for field in _TOLD if field in provenance}
        if isinstance(facts.get("recipe"), Mapping):
            facts["recipe"] = facts["recipe"].get("name")
        told.append({"digest": parent.digest, "n_edges": len(parent), **facts})
    return {
        **common,
        **({"score_meaning": meaning} if meaning else {}),
        "method": "set-algebra",
        "operation": operation,
        "parents": [parent.digest for parent in parents],
        "parent_provenance": told,
    }
