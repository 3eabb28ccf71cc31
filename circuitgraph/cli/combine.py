"""`circuitgraph combine`: circuits made of saved circuits, ready to be evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuitgraph.cli import options, table_options

if TYPE_CHECKING:
    from circuitgraph.circuits.circuit import Circuit

_UNION, _INTERSECTION, _CONSENSUS = "union", "intersection", "consensus"
_DIFFERENCE, _SYMMETRIC, _COMPLEMENT = "difference", "symmetric-difference", "complement"
_OPERATIONS = (_UNION, _INTERSECTION, _DIFFERENCE, _SYMMETRIC, _COMPLEMENT, _CONSENSUS)
# How many circuits an operation takes; without an entry, any number.
_TAKES = {_DIFFERENCE: 2, _SYMMETRIC: 2, _COMPLEMENT: 1}


def combine(
    circuits: table_options.CircuitFiles,
    op: Annotated[
        str,
        typer.Option(
            "--op",
            help="union, intersection, difference (what the first keeps and the second cuts), symmetric-difference, "
            "complement, or consensus (what enough of them keep).",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The circuit file to write.", show_default=False)],
    threshold: Annotated[
        float | None, typer.Option(help="For consensus: in which share of the circuits an edge is.", show_default="0.5")
    ] = None,
    ablation: Annotated[
        str | None, typer.Option(help="What cut edges carry in the result.", show_default="as in the circuits")
    ] = None,
    across_checkpoints: table_options.AcrossCheckpoints = False,
    coarsen: table_options.Coarsen = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older file.")] = False,
    as_json: options.Json = False,
) -> None:
    """Make a circuit of circuits. Its file names its parents, and can be evaluated, compared and drawn.

    Edges that dangle in the result are dropped, as in every circuit. Loads no model.
    """
    from circuitgraph.cli.circuit_files import comparable_circuits, named_files, save_with_vectors
    from circuitgraph.cli.output import only_json, print_json, warn
    from circuitgraph.cli.tables import refuse_to_replace
    from circuitgraph.errors import OutputError

    files = named_files(circuits)
    refuse_to_replace(list(files.values()), out)
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists; choose another --out, or --overwrite")
    with only_json(as_json):
        _check(op, len(files), threshold)
        found = comparable_circuits(files, coarsen=coarsen, across_checkpoints=across_checkpoints)
        made = _operation(op, ablation, across_checkpoints, threshold)(list(found.values()))
        save_with_vectors(made, out, files.values())
    if not len(made):
        warn("the result has no edges" + (f": all {made.n_raw:,} dangle without the others" if made.n_raw else ""))
    if as_json:
        print_json({"out": str(out), "operation": op, "digest": made.digest, **made.sparsity})
        return
    dropped = made.n_raw - len(made)
    told = f" ({dropped:,} more dangle without the others and were dropped)" if dropped else ""
    print(f"{op} of {', '.join(files)}: {len(made):,} of {made.universe.n_edges:,} edges{told}, written to {out}")


def _check(op: str, n_circuits: int, threshold: float | None) -> None:
    from circuitgraph.errors import ConfigurationError, UnknownNameError

    if op not in _OPERATIONS:
        raise UnknownNameError.of("operation", op, _OPERATIONS)
    if n_circuits != _TAKES.get(op, n_circuits):
        raise ConfigurationError(f"--op {op} takes {_TAKES[op]} circuit{'s' * (_TAKES[op] > 1)}; got {n_circuits}")
    if threshold is not None and op != _CONSENSUS:
        raise ConfigurationError(f"--threshold is for --op consensus; got --op {op}")


def _operation(
    op: str, ablation: str | None, across_checkpoints: bool, threshold: float | None
) -> Callable[[Sequence[Circuit]], Circuit]:
    """The operation, as a function of a list of circuits."""
    from functools import partial

    from analysis import algebra
    from analysis.seeds import consensus
    from circuitgraph.errors import ConfigurationError

    if op == _COMPLEMENT:
        if ablation is not None:
            raise ConfigurationError("--op complement keeps the circuit's ablation; leave out --ablation")
        return lambda circuits: algebra.complement(circuits[0])
    options = {"ablation": ablation, "across_checkpoints": across_checkpoints}
    if op == _CONSENSUS:
        return partial(consensus, threshold=0.5 if threshold is None else threshold, **options)
    function = {
        _UNION: algebra.union, _INTERSECTION: algebra.intersection, _DIFFERENCE: algebra.difference,
        _SYMMETRIC: algebra.symmetric_difference,
    }[op]  # fmt: skip
    return lambda circuits: function(*circuits, **options)
