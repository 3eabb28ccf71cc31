"""Which circuits may be compared, and what they are called in tables.

Every comparison starts here: one circuit, a list or a mapping of names becomes a mapping of names, and
circuits of different universes or different models are refused with the first difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, GraphMismatchError
from circuitgraph.graph.universe import Universe
from circuitgraph.graph.universe_rules import CHOICES

Circuits = Circuit | Sequence[Circuit] | Mapping[str, Circuit]

# Choices of granularity: of two universes that differ in nothing else, one is a coarser view of the other.
GRANULARITY = ("embeddings", "kv_heads", "qkv")


def named_circuits(circuits: Circuits, *, at_least: int = 1) -> dict[str, Circuit]:
    """Give every circuit its name.

    Args:
        circuits: One circuit, several, or names with their circuits. Without names they are called
            `circuit 1`, `circuit 2`, … in their order.
        at_least: How many there have to be.

    Returns:
        Names and circuits, in the order they came.

    Raises:
        ConfigurationError: There are too few, or something among them is no circuit.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> circuit = Circuit.from_edges(universe, ["input->logits"])
        >>> list(named_circuits([circuit, circuit])), list(named_circuits({"ioi": circuit}))
        (['circuit 1', 'circuit 2'], ['ioi'])
    """
    if isinstance(circuits, Circuit):
        circuits = [circuits]
    if not isinstance(circuits, Mapping):
        circuits = {f"circuit {number}": circuit for number, circuit in enumerate(circuits, 1)}
    for name, circuit in circuits.items():
        if not isinstance(circuit, Circuit):
            raise ConfigurationError(f"{name}: expected a Circuit; got {type(circuit).__name__}")
    if len(circuits) < at_least:
        raise ConfigurationError(f"expected at least {at_least} circuit{'s' * (at_least > 1)}; got {len(circuits)}")
    return dict(circuits)


def require_comparable(circuits: Mapping[str, Circuit], *, across_checkpoints: bool = False) -> Universe:
    """Refuse circuits of different universes, or of different models.

    Two circuits are of different models if both say which, and their `config_hash` differs, or their `weights`; or,
    where one does not know these or the number formats differ, their `revision`, else their `model`. What a circuit
    does not say cannot differ.

    Args:
        circuits: At least one circuit, by name.
        across_checkpoints: Allow other weights or another model of the same universe.

    Returns:
        Their universe.

    Raises:
        GraphMismatchError: The first difference, between which two, and what to do.
        ConfigurationError: There is no circuit.
    """
    if not circuits:
        raise ConfigurationError("expected at least one circuit; got none")
    (first_name, first), *others = circuits.items()
    for name, circuit in others:
        pair = f"{first_name} and {name}"
        difference = first.universe.first_difference(circuit.universe)
        if difference is not None:
            raise GraphMismatchError(
                f"{pair} are circuits of different universes: {difference}. "
                + _way_out(first.universe, circuit.universe)
            )
        difference = None if across_checkpoints else model_difference(first.provenance, circuit.provenance)
        if difference is not None:
            raise GraphMismatchError(
                f"{pair} are circuits of different models: {difference}. To compare circuits of two checkpoints, "
                "pass across_checkpoints=True"
            )
    return first.universe


def _way_out(one: Universe, other: Universe) -> str:
    names = dict.fromkeys(field.name for universe in (one, other) for field in fields(universe))
    differing = [name for name in names if getattr(one, name, ()) != getattr(other, name, ())]
    if all(name in GRANULARITY for name in differing):
        return "Map the finer one onto the coarser one first, with analysis.coarsen"
    fixed = next(name for name in differing if name not in GRANULARITY)
    if fixed == "virtual":
        return "Other vectors are added to the model, and they are writers; compare circuits with the same ones"
    if fixed in ("spans", "asked_spans"):
        return "Their edges are divided by other spans of tokens; find both with the same --spans, or both without"
    kind = "in the order of its blocks" if fixed in CHOICES else f"in {fixed}"
    return (
        f"The architectures differ {kind}, so no edge of one is an edge of the other; analysis.coarsen maps "
        f"between choices of granularity alone ({', '.join(GRANULARITY)})"
    )


def model_difference(mine: Mapping[str, object], theirs: Mapping[str, object]) -> str | None:
    """The first thing by which two results are known to be of different models, as text.

    Args:
        mine: What one says of its model: `config_hash`, `weights` with `dtype`, `revision`, `model`.
        theirs: What the other says.

    Examples:
        >>> model_difference({"model": "a", "config_hash": "1"}, {"model": "b", "seed": 2})
        "model: 'a' against 'b'"
    """

    def both_know(field: str) -> bool:
        return mine.get(field) is not None and theirs.get(field) is not None

    # The weights say it whatever name they were loaded by, but not in another number format; next best is a revision.
    same_format = both_know("dtype") and mine["dtype"] == theirs["dtype"]
    by = "weights" if both_know("weights") and same_format else "revision" if both_know("revision") else "model"
    for field in ("config_hash", by, "vectors"):
        if both_know(field) and mine[field] != theirs[field]:
            return f"{field}: {mine[field]!r} against {theirs[field]!r}"
    return None
