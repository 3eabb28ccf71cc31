"""What is measured beside a study's circuits: what they share, what only one has, and chance.

Sets of edges are combined as masks, and each result is made a circuit by `Circuit.from_edges`, which drops what
dangles, so that it is the circuit that `analysis.union` and the others make of the same parents; those say
more of where it came from, and are for tables and drawings. Here it is only measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError
from pruning.evaluation.random_circuits import random_circuit

ROLES = ("full", "empty", "circuit", "intersection", "union", "difference", "random")
CONSENSUS = "consensus"


@dataclass(frozen=True, kw_only=True)
class Member:
    """A circuit to measure.

    Attributes:
        role: One of `ROLES`; `full` and `empty` are measured without a member.
        of: `circuit`: its regime. `difference`: the regime whose edges no other regime has. `random`: what it
            imitates, a regime or `intersection`. Else empty.
        over: The seed, as text, or `consensus`.
        draw: Of a random circuit, from 0.
        circuit: The circuit.
    """

    role: str
    of: str
    over: str
    draw: int | None
    circuit: Circuit


def consensus_of(circuits: Sequence[Circuit], threshold: float) -> Circuit:
    """The circuit of the edges that at least a share of the circuits keep.

    Args:
        circuits: Circuits of one universe and one ablation, at least one.
        threshold: The share, above 0 and at most 1.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> a = Circuit.from_edges(universe, ["input->m0", "m0->logits"])
        >>> b = Circuit.from_edges(universe, ["input->logits", "input->m0", "m0->logits"])
        >>> list(consensus_of([a, a, b], 0.5))
        ['input->m0', 'm0->logits']
    """
    counts = np.sum([circuit.mask for circuit in circuits], axis=0)
    # The tolerance lets 2 of 3 pass a threshold of 2 / 3.
    return _circuit(circuits[0], counts >= threshold * len(circuits) - 1e-9)


def combined(circuits: Mapping[str, Circuit], over: str) -> list[Member]:
    """One circuit per regime, what all share, what any has, and what only one has.

    Args:
        circuits: A circuit per regime, of one universe and one ablation.
        over: The seed, as text, or `consensus`.

    Returns:
        The circuits themselves, intersection, union, and a difference per regime: its edges less all others'.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> a = Circuit.from_edges(universe, ["input->logits", "input->m0", "m0->logits"])
        >>> b = Circuit.from_edges(universe, ["input->logits"])
        >>> [(member.role, member.of, len(member.circuit)) for member in combined({"a": a, "b": b}, "0")][2:]
        [('intersection', '', 1), ('union', '', 3), ('difference', 'a', 2), ('difference', 'b', 0)]
    """
    masks = {regime: circuit.mask for regime, circuit in circuits.items()}
    like = next(iter(circuits.values()))

    def member(role: str, of: str, circuit: Circuit) -> Member:
        return Member(role=role, of=of, over=over, draw=None, circuit=circuit)

    every = np.stack(list(masks.values()))
    members = [member("circuit", regime, circuit) for regime, circuit in circuits.items()]
    members.append(member("intersection", "", _circuit(like, np.all(every, axis=0))))
    members.append(member("union", "", _circuit(like, np.any(every, axis=0))))
    alone = every.sum(0) == 1
    return members + [member("difference", regime, _circuit(like, mask & alone)) for regime, mask in masks.items()]


def with_random(members: Sequence[Member], n_random: int, seeds: Iterator[int]) -> list[Member]:
    """Random circuits as large as each regime's circuit and as the intersection, layer pair by layer pair.

    Args:
        members: What was combined.
        n_random: How many of each size.
        seeds: Where their seeds come from.

    Returns:
        The members, then the random circuits.
    """
    drawn = []
    for member in members:
        if member.role in ("circuit", "intersection") and len(member.circuit):
            of = member.of or member.role
            for draw in range(n_random):
                circuit = random_circuit(member.circuit, seed=next(seeds))
                drawn.append(Member(role="random", of=of, over=member.over, draw=draw, circuit=circuit))
    return [*members, *drawn]


def require_one_ablation(circuits: Mapping[str, Mapping[int, Circuit]]) -> str:
    """The ablation of all circuits.

    Raises:
        ConfigurationError: They differ in it.
    """
    found: dict[str, str] = {}
    for regime, by_seed in circuits.items():
        for seed, circuit in by_seed.items():
            found.setdefault(circuit.ablation, f"{regime}, seed {seed}")
    if len(found) > 1:
        told = "; ".join(f"{name} has {ablation!r}" for ablation, name in found.items())
        raise ConfigurationError(f"the circuits differ in ablation, so their sets cannot be measured together: {told}")
    return next(iter(found))


def _circuit(like: Circuit, mask: np.ndarray) -> Circuit:
    return Circuit.from_edges(like.universe, mask, ablation=like.ablation)
