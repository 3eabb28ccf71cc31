"""The exact circuits of the shipped programs, in the universe with `tok` and `pos` as writers apart.

An edge belongs to the circuit if cutting it alone (the reader loses what the writer says: zero ablation)
changes what the program says at any position that has an answer, on any prompt of 1 to `max_seq_len` tokens; and these
edges alone give every output. `cutting` found the lists, which lie in `truth/`; the tests find them again.

For most programs no other set of edges was found to be enough. In `dyck-1` and `shuffle-dyck` some were, and smaller
ones: `alternatives` has them.

Two kinds of prompt matter. With prompts of the maximal length alone, `reverse` would need only 9 edges:
there a silent `a0.h0` reads as "length 5", which is then true. And what is said at BOS, which no program
defines, is left out: it moves with `tok->a3.h0<q>` and `tok->a3.h0<k>` of `reverse`, and with
`tok->a1.h0<q>` and `tok->a1.h0<k>` of `xproportion`, which keep BOS attending to itself.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from circuitgraph.tracr.programs import get_program

TRUTH_FOLDER = Path(__file__).parent / "truth"
"""Where the lists lie, one JSON file a program."""


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """A program's true edges, and how they were found.

    Attributes:
        program: The program.
        edges: The circuit as `writer->reader`, in the order of its readers: the needed edges, if they are enough.
        needed: The edges that cannot be cut alone from the whole model.
        alternatives: Other sets that are enough, and from which no edge can be cut, as far as they are known.
        n_edges: How many edges the model has.
        n_readable: Of how many a reader reads anything that the writer writes; the others never change anything.
        every_set_tried: Whether every set of the readable edges was tried, so that all alternatives are known.
        n_prompts: On how many prompts.
        max_length: Of up to how many tokens.
        tolerance: How far an output may move and still be the same.
        largest_change_of_others: How far outputs move at most when an edge is cut alone that is not needed.
        smallest_change_of_needed: How far at least some output moves when a needed edge is cut alone.
        weights_sha256: The hash of the weights that were cut.
    """

    program: str
    edges: tuple[str, ...]
    needed: tuple[str, ...]
    alternatives: tuple[tuple[str, ...], ...]
    n_edges: int
    n_readable: int
    every_set_tried: bool
    n_prompts: int
    max_length: int
    tolerance: float
    largest_change_of_others: float
    smallest_change_of_needed: float
    weights_sha256: str

    @property
    def unique(self) -> bool:
        """Whether each edge is needed, and no other set was found to be enough."""
        return set(self.edges) == set(self.needed) and not self.alternatives

    def write(self, folder: Path) -> Path:
        """Write the file that `load_ground_truth` reads.

        Args:
            folder: Where to; made if it is not there.

        Returns:
            The file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.program}.json"
        record = {**asdict(self), "ablation": "zero", "embeddings": "split", "made_by": "circuitgraph.tracr.cutting"}
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return path


@lru_cache
def load_ground_truth(name: str) -> GroundTruth:
    """Give a program's true edges, and how they were found.

    Args:
        name: A shipped program, with or without `tracr:` before it.

    Returns:
        What `circuitgraph.tracr.cutting.establish_ground_truth` found.

    Raises:
        UnknownNameError: There is no such program.

    Examples:
        >>> truth = load_ground_truth("tracr:reverse")
        >>> len(truth.edges), truth.n_edges, truth.n_readable, truth.unique
        (11, 94, 15, True)
    """
    path = TRUTH_FOLDER / f"{get_program(name).name}.json"
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    values = {field.name: record[field.name] for field in fields(GroundTruth)}
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return GroundTruth(**{**plain, "alternatives": tuple(map(tuple, plain["alternatives"]))})


def ground_truth_edges(name: str) -> frozenset[str]:
    """Give the edges of a program's circuit.

    Args:
        name: A shipped program, with or without `tracr:` before it.

    Returns:
        Edges as `writer->reader`: 11 of 94 for `reverse`, 5 of 32 for `xproportion`.

    Raises:
        UnknownNameError: There is no such program.

    Examples:
        >>> sorted(ground_truth_edges("xproportion"))
        ['a1.h0->logits', 'm0->a1.h0<v>', 'pos->a1.h0<k>', 'pos->a1.h0<q>', 'tok->m0']
    """
    return frozenset(load_ground_truth(name).edges)
