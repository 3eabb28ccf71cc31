"""The true edges of a compiled program, found by cutting: how the files that `load_ground_truth` reads were made.

    python -m circuitgraph.tracr.cutting [--folder DIR] [PROGRAM ...]

1. Each edge is cut alone, on all prompts. What moves an output by more than the tolerance is *needed*. If the needed
   edges alone give every output, they are the circuit.
2. Edges are cut for good, one after the other from the last reader to the first, as long as no output moves; again
   from the back, until no edge can be cut.
3. Where at most 14 edges can matter at all (`CutModel.readable`), every set of them is tried: all minimal sets are
   known. With more, other orders of cutting are tried.

Sets of steps 2 and 3 that are not the circuit are its alternatives. There can be some although every edge of the
circuit is needed: what is missed when it is cut alone may be missed no longer once something else is cut too.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

from circuitgraph.tracr.cut_model import CutModel
from circuitgraph.tracr.ground_truth import TRUTH_FOLDER, GroundTruth
from circuitgraph.tracr.programs import get_program, program_names

TOLERANCE = 1e-4
"""How far an output may move and still be the same: what leaks through attention moves them by up to 2.4e-5."""

MOST_FOR_EVERY_SET = 14
"""With so many edges that can matter, every set of them is tried: 16,384 runs."""

_OTHER_ORDERS = 3

IsEnough = Callable[[frozenset[str]], bool]


def cut_in_order(edges: Sequence[str], is_enough: IsEnough) -> frozenset[str]:
    """Cut edges for good, one after the other, until none can be cut alone.

    Args:
        edges: What to begin with, which must be enough; cut in this order.
        is_enough: Whether kept edges are enough.

    Returns:
        The edges that are left.

    Examples:
        >>> either = lambda kept: "c" in kept and bool(kept & {"a", "b"})
        >>> sorted(cut_in_order(["a", "b", "c"], either)), sorted(cut_in_order(["c", "b", "a"], either))
        (['b', 'c'], ['a', 'c'])
    """
    kept = frozenset(edges)
    while True:
        before = kept
        for edge in edges:
            if edge in kept and is_enough(kept - {edge}):
                kept -= {edge}
        if kept == before:
            return kept


def minimal_sets(edges: Sequence[str], is_enough: IsEnough) -> list[frozenset[str]]:
    """Find every set that is enough while no part of it is, by trying all sets.

    Args:
        edges: The edges that can matter; 2 to their number sets are tried, without those that hold a found one.
        is_enough: Whether kept edges are enough.

    Returns:
        The sets, the smallest first.

    Examples:
        >>> either = lambda kept: "c" in kept and bool(kept & {"a", "b"})
        >>> [sorted(found) for found in minimal_sets(["a", "b", "c"], either)]
        [['a', 'c'], ['b', 'c']]
    """
    found: list[frozenset[str]] = []
    for size in range(len(edges) + 1):
        for some in map(frozenset, combinations(edges, size)):
            if not any(smaller <= some for smaller in found) and is_enough(some):
                found.append(some)
    return found


def establish_ground_truth(name: str, *, every_set: bool = True, tolerance: float = TOLERANCE) -> GroundTruth:
    """Find a program's true edges by cutting.

    Args:
        name: A shipped program, with or without `tracr:` before it.
        every_set: Whether to try every set where few enough edges can matter; else other orders of cutting.
        tolerance: How far an output may move and still be the same.

    Returns:
        What was found, and how.

    Raises:
        UnknownNameError: There is no such program.

    Examples:
        >>> truth = establish_ground_truth("first-token")
        >>> truth.edges
        ('pos->a0.h0<q>', 'pos->a0.h0<k>', 'tok->a0.h0<v>', 'a0.h0->logits')
    """
    program = get_program(name)
    model = CutModel(name)
    from_the_back = [edge for edge in reversed(model.edges) if edge in model.readable]

    def is_enough(kept: frozenset[str]) -> bool:
        return model.change(model.readable - kept, enough=tolerance) <= tolerance

    changes = {edge: model.change({edge}) for edge in from_the_back}
    needed = {edge for edge, change in changes.items() if change > tolerance}
    tried = every_set and len(from_the_back) <= MOST_FOR_EVERY_SET
    others = minimal_sets(from_the_back, is_enough) if tried else _in_other_orders(from_the_back, is_enough)
    found = dict.fromkeys([cut_in_order(from_the_back, is_enough), *others])
    circuit = frozenset(needed) if is_enough(frozenset(needed)) else next(iter(found))
    assert model.change(set(model.edges) - circuit) <= tolerance, "an edge that seemed unreadable is read"
    return GroundTruth(
        program=program.name,
        edges=_in_order(circuit, model),
        needed=_in_order(needed, model),
        alternatives=tuple(_in_order(other, model) for other in found if other != circuit),
        n_edges=len(model.edges),
        n_readable=len(model.readable),
        every_set_tried=tried,
        n_prompts=sum(len(ids) for ids in model.prompts),
        max_length=program.max_seq_len,
        tolerance=tolerance,
        largest_change_of_others=max((changes[edge] for edge in changes.keys() - needed), default=0.0),
        smallest_change_of_needed=min(changes[edge] for edge in needed),
        weights_sha256=model.weights_sha256,
    )


def _in_other_orders(from_the_back: list[str], is_enough: IsEnough) -> list[frozenset[str]]:
    orders = [from_the_back[::-1]]
    orders += [random.Random(seed).sample(from_the_back, len(from_the_back)) for seed in range(_OTHER_ORDERS - 1)]
    return [cut_in_order(order, is_enough) for order in orders]


def _in_order(edges: frozenset[str] | set[str], model: CutModel) -> tuple[str, ...]:
    return tuple(edge for edge in model.edges if edge in edges)


def main() -> None:
    """Find the true edges of the programs named on the command line, or of all of them, and write them down."""
    parser = argparse.ArgumentParser(prog="python -m circuitgraph.tracr.cutting")
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"of {', '.join(program_names())}")
    parser.add_argument("--folder", type=Path, default=TRUTH_FOLDER)
    arguments = parser.parse_args()
    for name in arguments.programs or program_names():
        print(establish_ground_truth(name).write(arguments.folder), flush=True)


if __name__ == "__main__":
    main()
