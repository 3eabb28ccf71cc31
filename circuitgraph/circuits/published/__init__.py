"""Circuits of GPT-2 small that people found by hand, as edges: indirect objects and greater-than.

A paper says which heads play which role, and which role acts on which. A JSON file a circuit holds just that, with its
source; edges are made from it here by one rule: from every writer of a role to every reader named, of every node of the
other role that comes later.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import UnknownNameError
from circuitgraph.graph.universe import Universe

_FOLDER = Path(__file__).parent


def published_circuit_names() -> list[str]:
    """List the circuits that come along.

    Examples:
        >>> published_circuit_names()
        ['greater-than', 'ioi']
    """
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def published_circuit(name: str, *, never_cut: bool = False) -> Circuit:
    """Give a circuit that people found by hand in GPT-2 small, in the universe of 32,491 edges.

    Args:
        name: `ioi` or `greater-than`.
        never_cut: Whether to add the edges that the authors let run in all their experiments and so say nothing of:
            every MLP's in `ioi`, the queries' of the middle heads in `greater-than`. Without them the circuit is for
            comparing; with them, for running.

    Returns:
        The circuit; its provenance has the source, and how edges were derived.

    Raises:
        UnknownNameError: No such circuit comes along.

    Examples:
        >>> ioi = published_circuit("ioi")
        >>> len(ioi), len(ioi.heads), "a8.h6->a9.h9<q>" in ioi
        (158, 26, True)
        >>> len(published_circuit("ioi", never_cut=True))
        938

    References:
        Wang et al., "Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 small", 2023.
        Hanna et al., "How does GPT-2 compute greater-than?", 2023.
    """
    described = _described(name)
    universe = Universe(**described["universe"])
    connections = [*described["edges"], *(described["never_cut"] if never_cut else ())]
    edges = dict.fromkeys(edge for one in connections for edge in _edges(universe, described["roles"], one))
    provenance = {
        "model": described["model"],
        "source": described["source"],
        "derivation": described["derivation"],
        "never_cut": never_cut,
    }
    return Circuit.from_edges(universe, list(edges), provenance=provenance)


def published_roles(name: str) -> Mapping[str, tuple[str, ...]]:
    """Say which nodes of a published circuit play which role.

    Args:
        name: `ioi` or `greater-than`.

    Returns:
        Nodes by role, from the embeddings to the logits; of `ioi` the MLPs are those that were never cut.

    Raises:
        UnknownNameError: No such circuit comes along.

    Examples:
        >>> published_roles("ioi")["name mover"]
        ('a9.h6', 'a9.h9', 'a10.h0')
    """
    return MappingProxyType({role: tuple(nodes) for role, nodes in _described(name)["roles"].items()})


@cache
def _described(name: str) -> dict[str, Any]:
    """Read a circuit's file."""
    if name not in published_circuit_names():
        raise UnknownNameError.of("published circuit", name, published_circuit_names())
    return json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def _edges(universe: Universe, roles: Mapping[str, list[str]], connection: Mapping[str, Any]) -> Iterator[str]:
    """Every edge of one line of the file."""
    readers = {reader: index for index, reader in enumerate(universe.readers)}
    n_seen = np.diff(universe.reader_offsets)
    for node in roles[connection["to"]]:
        for reader in [f"{node}<{part}>" for part in connection["reads"]] or [node]:
            seen = set(universe.writers[: n_seen[readers[reader]]])
            yield from (f"{writer}->{reader}" for writer in roles[connection["from"]] if writer in seen)
