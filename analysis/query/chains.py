"""The edges on paths that fit a chain of steps, found without listing a path.

A chain is an automaton. Its states are its steps: a module is in state i at the end of a path that has come
as far as step i. An edge into a module that step i + 1 fits moves from state i to state i + 1; in a gap (`**`)
any edge stays. A gap may also be empty, so what is before a gap is in the gap already.

1. Forward: the states in which paths can arrive at each module.
2. Backward: the states at each module from which a path can be finished.
3. An edge is found if it moves some state of the first kind to one of the second.

Sets of states are the bits of a whole number. Modules are indexed in the order of the computation, so one
pass in each direction is enough.
"""

from __future__ import annotations

import numpy as np

from analysis.query.names import Readings, StepFit
from circuitgraph.circuits.circuit import Circuit


class _Automaton:
    """The states of a chain; `reads` and `writes` say for every reading and module which steps fit it."""

    def __init__(self, steps: list[StepFit]):
        self.gaps = [place for place, step in enumerate(steps) if step.is_gap]
        self.in_gap = sum(1 << place for place in self.gaps)
        self.finished = self.before_gaps(1 << (len(steps) - 1))
        self.reads = _bits([step.reads for step in steps])
        first = next(place for place, step in enumerate(steps) if not step.is_gap)
        starts = _bits([step.writes & (place <= first) for place, step in enumerate(steps)])
        self.starts = [self.into_gaps(states) for states in starts]

    def into_gaps(self, states: int) -> int:
        """The states, and the gaps right after them."""
        for gap in self.gaps:
            if gap and states >> (gap - 1) & 1:
                states |= 1 << gap
        return states

    def before_gaps(self, states: int) -> int:
        """The states, and those that come right before a gap among them."""
        for gap in reversed(self.gaps):
            if gap and states >> gap & 1:
                states |= 1 << (gap - 1)
        return states

    def forward(self, states: int, reading: int) -> int:
        """Where an edge that is read in some way leads."""
        return self.into_gaps((states << 1 & self.reads[reading]) | (states & self.in_gap))

    def backward(self, states: int, reading: int) -> int:
        """From where an edge that is read in some way leads into some states."""
        return self.before_gaps((states & self.reads[reading]) >> 1 | (states & self.in_gap))


def _bits(steps: list[np.ndarray]) -> list[int]:
    """Booleans `[step thing]` as whole numbers `[thing]`, of any number of bits."""
    numbers = [0] * len(steps[0])
    for place, fits in enumerate(steps):
        for thing in np.flatnonzero(fits).tolist():
            numbers[thing] |= 1 << place
    return numbers


def edges_touching(circuit: Circuit, readings: Readings, step: StepFit) -> np.ndarray:
    """Whether each edge begins or ends at something that a step fits `[edge]`."""
    moves = readings.of_edges(circuit)
    touched = step.writes[moves.writers] | step.reads[moves.readings]
    found = np.zeros(len(circuit), dtype=bool)
    found[moves.places[touched]] = True
    return found


def edges_on_chain(circuit: Circuit, readings: Readings, steps: list[StepFit]) -> np.ndarray:
    """Whether each edge is on a path that fits a chain.

    Args:
        circuit: The circuit.
        readings: Those of its universe.
        steps: What the chain's steps fit, at least two of them, at least one no gap.

    Returns:
        Booleans, in the order of the circuit `[edge]`.
    """
    automaton = _Automaton(steps)
    edges = readings.of_edges(circuit)
    columns = (edges.writers, edges.modules, edges.readings, edges.places)
    in_order = np.argsort(edges.writers, kind="stable")
    moves = list(zip(*(column[in_order].tolist() for column in columns), strict=True))
    arriving = list(automaton.starts)
    for writer, module, reading, _ in moves:
        arriving[module] |= automaton.forward(arriving[writer], reading)
    finishing = [automaton.finished] * len(arriving)
    for writer, module, reading, _ in reversed(moves):
        finishing[writer] |= automaton.backward(finishing[module], reading)
    found = np.zeros(len(circuit), dtype=bool)
    for writer, module, reading, place in moves:
        if automaton.forward(arriving[writer], reading) & finishing[module]:
            found[place] = True
    return found
