"""Set algebra: circuits made of circuits, ready to be evaluated, with provenance of their parents.

The operations work on the parents' effective edges. The result is a circuit like any other, so edges that
dangle in it are dropped and counted as raw: a difference of two circuits can lose many, because an edge that
only one of them keeps may need edges that both keep to reach the logits. As plain sets, circuits are compared by
`analysis.overlap_table`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from analysis.comparable import Circuits, named_circuits, require_comparable
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.parentage import parentage
from circuitgraph.errors import ConfigurationError


def union(*circuits: Circuits, ablation: str | None = None, across_checkpoints: bool = False) -> Circuit:
    """The edges that at least one circuit keeps.

    Args:
        circuits: Circuits of one universe, at least one: one by one, or all in a list or a mapping of names.
        ablation: What cut edges carry in the result; by default the same as in the circuits.
        across_checkpoints: Allow other weights or another model of the same universe.

    Returns:
        The circuit. An edge's score is the mean of its scores in the circuits that keep it. The provenance has
        `operation`, `parents` (their digests) and `parent_provenance`, and the model, the task and so on as far
        as all parents agree.

    Raises:
        GraphMismatchError: The circuits are of different universes or models.
        ConfigurationError: There is none, or they differ in ablation and none is given.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> a = Circuit.from_edges(universe, {"input->logits": 4.0})
        >>> b = Circuit.from_edges(universe, {"input->logits": 2.0, "input->m0": 1.0, "m0->logits": 1.0})
        >>> both = union(a, b)
        >>> list(both), both.scores.tolist()
        (['input->m0', 'input->logits', 'm0->logits'], [1.0, 3.0, 1.0])
        >>> union({"a": a, "b": b}) == union([a, b]) == both
        True
    """
    return _combine("union", _each(circuits), ablation, across_checkpoints, lambda counts: counts > 0)


def intersection(*circuits: Circuits, ablation: str | None = None, across_checkpoints: bool = False) -> Circuit:
    """The edges that all circuits keep, less those that dangle without the others.

    Args:
        circuits: Circuits of one universe, at least one: one by one, or all in a list or a mapping of names.
        ablation: What cut edges carry in the result; by default the same as in the circuits.
        across_checkpoints: Allow other weights or another model of the same universe.

    Returns:
        The circuit, with mean scores and provenance as in `union`.

    Raises:
        GraphMismatchError: The circuits are of different universes or models.
        ConfigurationError: There is none, or they differ in ablation and none is given.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> a = Circuit.from_edges(universe, ["input->logits", "input->m0", "m0->logits"])
        >>> list(intersection(a, Circuit.from_edges(universe, ["input->logits"])))
        ['input->logits']
    """
    given = _each(circuits)
    return _combine("intersection", given, ablation, across_checkpoints, lambda counts: counts == len(given))


def difference(
    circuit: Circuit, other: Circuit, *, ablation: str | None = None, across_checkpoints: bool = False
) -> Circuit:
    """The edges that a circuit keeps and another cuts, less those that dangle without the others.

    Args:
        circuit: The circuit.
        other: What to take away, of the same universe.
        ablation: What cut edges carry in the result; by default the same as in the circuits.
        across_checkpoints: Allow other weights or another model of the same universe.

    Returns:
        The circuit, with the first circuit's scores and provenance as in `union`.

    Raises:
        GraphMismatchError: The circuits are of different universes or models.
        ConfigurationError: They differ in ablation and none is given.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> a = Circuit.from_edges(universe, ["input->logits", "input->m0", "m0->logits"])
        >>> rest = difference(a, Circuit.from_edges(universe, ["input->logits"]))
        >>> list(rest), rest.provenance["operation"]
        (['input->m0', 'm0->logits'], 'difference')
    """
    ablation = common_ablation([circuit, other], ablation, across_checkpoints)
    stays = ~np.isin(circuit.edge_ids, other.edge_ids, assume_unique=True)
    ids, scores = circuit.edge_ids[stays], circuit.scores[stays]
    return _make("difference", [circuit, other], ids, scores, ablation)


def symmetric_difference(
    circuit: Circuit, other: Circuit, *, ablation: str | None = None, across_checkpoints: bool = False
) -> Circuit:
    """The edges that exactly one of two circuits keeps, less those that dangle without the others.

    Args:
        circuit: A circuit.
        other: Another of the same universe.
        ablation: What cut edges carry in the result; by default the same as in the circuits.
        across_checkpoints: Allow other weights or another model of the same universe.

    Returns:
        The circuit, with the scores of whichever keeps an edge and provenance as in `union`.

    Raises:
        GraphMismatchError: The circuits are of different universes or models.
        ConfigurationError: They differ in ablation and none is given.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> a = Circuit.from_edges(universe, ["input->logits", "input->m0", "m0->logits"])
        >>> b = Circuit.from_edges(universe, ["input->a0.h0<v>", "a0.h0->logits", "input->logits"])
        >>> list(symmetric_difference(a, b))
        ['input->a0.h0<v>', 'input->m0', 'a0.h0->logits', 'm0->logits']
    """
    parents = [circuit, other]
    return _combine("symmetric_difference", parents, ablation, across_checkpoints, lambda counts: counts == 1)


def complement(circuit: Circuit) -> Circuit:
    """The edges that a circuit cuts, less those that dangle, with a score of 1 each.

    Args:
        circuit: The circuit.

    Returns:
        The circuit, with provenance as in `union`.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> kept = Circuit.from_edges(universe, ["input->logits"])
        >>> len(kept), len(complement(kept)), universe.n_edges
        (1, 7, 8)
    """
    return circuit.complement()


# -------------------------------------------------------------------- what the operations share


def edge_counts(circuits: Sequence[Circuit]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In how many circuits each edge is, and its mean score there.

    Args:
        circuits: Circuits of one universe, at least one.

    Returns:
        Flat indices of the edges that any of them keeps, rising `[edge]`, numbers of circuits `[edge]` and mean
        scores over these `[edge]`.
    """
    ids, place = np.unique(np.concatenate([circuit.edge_ids for circuit in circuits]), return_inverse=True)
    counts = np.bincount(place, minlength=len(ids))
    sums = np.bincount(place, weights=np.concatenate([circuit.scores for circuit in circuits]), minlength=len(ids))
    return ids, counts, sums / np.maximum(counts, 1)


def _each(circuits: Sequence[Circuits]) -> list[Circuit]:
    """Circuits that were given one by one, or together as one argument."""
    if len(circuits) == 1:
        return list(named_circuits(circuits[0]).values())
    for number, circuit in enumerate(circuits, 1):
        if not isinstance(circuit, Circuit):
            raise ConfigurationError(
                f"argument {number}: expected a Circuit, or all circuits in one list or mapping; "
                f"got {type(circuit).__name__}"
            )
    return [circuit for circuit in circuits if isinstance(circuit, Circuit)]


def _combine(
    operation: str,
    circuits: Sequence[Circuit],
    ablation: str | None,
    across_checkpoints: bool,
    keeps: Callable[[np.ndarray], np.ndarray],
) -> Circuit:
    ablation = common_ablation(circuits, ablation, across_checkpoints)
    ids, counts, scores = edge_counts(circuits)
    kept = keeps(counts)
    return _make(operation, circuits, ids[kept], scores[kept], ablation)


def _make(operation: str, parents: Sequence[Circuit], ids: np.ndarray, scores: np.ndarray, ablation: str) -> Circuit:
    universe, provenance = parents[0].universe, parentage(operation, parents)
    return Circuit.from_edges(universe, ids, scores=scores, ablation=ablation, provenance=provenance)


def common_ablation(circuits: Sequence[Circuit], ablation: str | None, across_checkpoints: bool) -> str:
    """The ablation of what is made of circuits, once they are found to fit together.

    Args:
        circuits: The circuits.
        ablation: What was asked for.
        across_checkpoints: Allow other weights or another model of the same universe.

    Returns:
        What was asked for, or else what the circuits agree on.

    Raises:
        GraphMismatchError: The circuits are of different universes or models.
        ConfigurationError: There is none, or they differ in ablation and none was asked for.
    """
    named = named_circuits(circuits)
    require_comparable(named, across_checkpoints=across_checkpoints)
    found = {circuit.ablation: name for name, circuit in named.items()}
    if ablation is None and len(found) > 1:
        told = ", ".join(f"{name} has {value!r}" for value, name in found.items())
        raise ConfigurationError(f"the circuits differ in ablation ({told}); say which the result has, with ablation=")
    return ablation or next(iter(found))
