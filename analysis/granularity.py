"""Circuits of two universes of one architecture, made comparable by mapping the finer onto the coarser.

Universes of one architecture differ in three choices: embeddings `split` or `joint`, key and value readers
`per_query` head or `native`, query, key and value readers `split` or `joint`. In each the second is the
coarser: several of its edges become one. The mapping is asked for by name and never made in silence, because
it changes what an edge is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.parentage import parentage
from circuitgraph.errors import ConfigurationError, GraphMismatchError, UnknownNameError
from circuitgraph.graph.granularity import GRANULARITIES, coarse_edges, require_one_architecture
from circuitgraph.graph.universe import Universe

AGGREGATIONS = ("max", "sum")


def coarsen(circuit: Circuit, universe: Universe, *, scores: str = "max") -> Circuit:
    """Map a circuit onto a coarser universe of the same architecture.

    An edge of the coarser universe is kept if any of the edges that become it is kept.

    Args:
        circuit: The circuit of the finer universe.
        universe: The coarser one, or the circuit's own.
        scores: How the scores of edges that become one are joined: `max` takes that of the strongest with
            its sign (the positive of two equal ones), `sum` adds them up.

    Returns:
        The circuit. None of its edges dangle, because paths become paths; its raw count is its size, for the
        parent's dangling edges are gone. The provenance tells the parent, the rule and both universes.

    Raises:
        GraphMismatchError: The universes are not of one architecture, or this one is finer somewhere: a
            coarse edge does not say which finer ones it stands for. The message names the first difference.
        UnknownNameError: No such way to join scores.

    Examples:
        >>> from dataclasses import replace
        >>> finer = Universe(family="llama", n_layers=1, n_heads=2, n_kv_heads=1, kv_heads="per_query")
        >>> scores = {"input->a0.h0<k>": 1.0, "input->a0.h1<k>": -2.0, "a0.h0->logits": 3.0, "a0.h1->logits": 1.0}
        >>> coarse = coarsen(Circuit.from_edges(finer, scores), replace(finer, kv_heads="native"))
        >>> dict(zip(coarse, coarse.scores.tolist()))
        {'input->a0.kv0<k>': -2.0, 'a0.h0->logits': 3.0, 'a0.h1->logits': 1.0}
    """
    if scores not in AGGREGATIONS:
        raise UnknownNameError.of("way to join scores", scores, AGGREGATIONS)
    _require_coarser(circuit.universe, universe)
    coarse = coarse_edges(circuit.universe, universe)[circuit.edge_ids]
    edges, place = np.unique(coarse, return_inverse=True)
    provenance = {
        **parentage("coarsen", [circuit]),
        "method": "coarsen",
        "kept_if": "any",
        "scores": scores,
        "parent_universe": circuit.universe.to_dict(),
    }
    joined = _join(circuit.scores, circuit.strengths, place, len(edges), scores)
    return Circuit.from_edges(universe, edges, scores=joined, ablation=circuit.ablation, provenance=provenance)


def common_universe(one: Universe, other: Universe) -> Universe:
    """The finest universe that two of one architecture can both be mapped onto.

    Args:
        one: A universe.
        other: Another.

    Returns:
        The universe with the coarser of each choice.

    Raises:
        GraphMismatchError: They are not of one architecture, or there is none: joint query, key and value
            readers belong to one query head each, native key and value readers to a group.

    Examples:
        >>> split = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2, embeddings="split")
        >>> joint = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2, qkv="joint")
        >>> common = common_universe(split, joint)
        >>> common.embeddings, common.qkv
        ('joint', 'joint')
    """
    require_one_architecture(one, other)
    coarser = {
        name: order[max(order.index(getattr(universe, name)) for universe in (one, other))]
        for name, order in GRANULARITIES.items()
    }
    try:
        return replace(one, **coarser)
    except ConfigurationError as error:
        raise GraphMismatchError(
            f"there is no universe onto which both can be mapped: {error}. Find one of the circuits again, at the "
            "granularity of the other"
        ) from error


def _require_coarser(finer: Universe, coarser: Universe) -> None:
    require_one_architecture(finer, coarser)
    for name, order in GRANULARITIES.items():
        mine, theirs = getattr(finer, name), getattr(coarser, name)
        # Where every query head has its own key and value, both choices mean the same.
        same = name == "kv_heads" and finer.group_size == 1
        if order.index(mine) > order.index(theirs) and not same:
            raise GraphMismatchError(
                f"{name}: {mine!r} of the circuit is coarser than {theirs!r}: an edge there does not say which of the "
                "finer ones it stands for. coarsen maps a finer circuit onto a coarser universe; map the other "
                "circuit onto this one's, or both onto common_universe(…)"
            )


def _join(scores: np.ndarray, strengths: np.ndarray, place: np.ndarray, n_edges: int, how: str) -> np.ndarray:
    if how == "sum":
        return np.bincount(place, weights=scores, minlength=n_edges)
    # Of several assignments the last stays: the strongest, and of two equally strong ones the positive.
    joined, order = np.zeros(n_edges), np.lexsort((scores, strengths))
    joined[place[order]] = scores[order]
    return joined
