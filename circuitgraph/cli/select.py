"""`circuitgraph select`: a circuit of saved edge scores, by a named rule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitgraph.cli import options

if TYPE_CHECKING:
    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.circuits.edge_scores import EdgeScores

_CONNECTED, _SEVERAL = "Rule connected", "Several scores"
_WEIGHTS = "--weights"


def select(
    scores: Annotated[
        list[Path],
        typer.Argument(metavar="SCORES…", help="Folders of edge scores, as `rank` writes them.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The circuit file to write.", show_default=False)],
    rule: Annotated[
        str,
        typer.Option(
            help="top (the N largest), threshold (all from a score on), greedy (N from the logits downwards), "
            "connected (the connected circuit of N edges with the largest sum) or stable (the N largest of the mean of "
            "several, of those whose sign is the same in all)."
        ),
    ] = "top",
    n: Annotated[int | None, typer.Option("-n", metavar="N", min=0, help="How many edges.", show_default=False)] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Of the rule threshold: the least score.", show_default=False)
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            help="What edges are ranked by: strength (the size, or the score itself of trained gates), size or signed."
        ),
    ] = "strength",
    at_most: Annotated[
        bool,
        typer.Option(
            "--at-most",
            help="At most N edges in place of exactly N, which differs where scores are negative.",
            rich_help_panel=_CONNECTED,
        ),
    ] = False,
    time_limit: Annotated[
        float, typer.Option(help="Seconds for the solver; the gap is told.", rich_help_panel=_CONNECTED)
    ] = 60.0,
    agreement: Annotated[
        float,
        typer.Option(
            help="Of the rule stable: in which share of the scores the sign is the same.", rich_help_panel=_SEVERAL
        ),
    ] = 1.0,
    combine: Annotated[
        str | None,
        typer.Option(
            help="Make one set of several before the rule: their mean, min or max, edge by edge.",
            show_default=False,
            rich_help_panel=_SEVERAL,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            _WEIGHTS,
            metavar="W,W…",
            help="Of a weighted mean.",
            show_default="the same for all",
            rich_help_panel=_SEVERAL,
        ),
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            help="What each is divided by before: largest, total, incoming (of each reader), rank, none.",
            rich_help_panel=_SEVERAL,
        ),
    ] = "largest",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older file.")] = False,
    as_json: options.Json = False,
) -> None:
    """Make a circuit of edge scores. Loads no model.

    Edges that dangle without others are dropped, as in every circuit; the rule and how many edges it really kept are in
    the circuit's provenance.
    """
    from circuitgraph.circuits.edge_scores import EdgeScores
    from circuitgraph.circuits.selection.rules import RuleOptions, select_edges
    from circuitgraph.cli.circuit_files import save_with_vectors
    from circuitgraph.cli.output import only_json, print_json, warn
    from circuitgraph.errors import OutputError

    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists; choose another --out, or --overwrite")
    with only_json(as_json):
        told = RuleOptions(
            n=n, threshold=threshold, by=by, exactly=not at_most, time_limit=time_limit, agreement=agreement
        )
        found = _combined([EdgeScores.load(path) for path in scores], combine, weights, scale)
        circuit = select_edges(found, rule, told)
        save_with_vectors(circuit, out, scores)
    if not len(circuit):
        warn("the circuit has no edges" + (f": all {circuit.n_raw:,} dangle without others" if circuit.n_raw else ""))
    if as_json:
        print_json({"out": str(out), "selection": circuit.provenance["selection"], **circuit.sparsity})
        return
    _tell(circuit, out)


def _combined(several: Sequence[EdgeScores], how: str | None, weights: str | None, scale: str) -> Sequence[EdgeScores]:
    """One set of scores in place of several, where that was asked for."""
    from circuitgraph.circuits.combined_scores import combine_scores
    from circuitgraph.errors import ConfigurationError

    if how is None:
        if weights is not None:
            raise ConfigurationError(f"{_WEIGHTS} are for --combine mean; add it")
        return several
    try:
        numbers = None if weights is None else [float(part) for part in weights.split(",")]
    except ValueError:
        raise ConfigurationError(f"{_WEIGHTS}: expected numbers with commas between them; got {weights!r}") from None
    return [combine_scores(several, how=how, weights=numbers, scale=scale)]


def _tell(circuit: Circuit, out: Path) -> None:
    """What was kept, for people."""
    selection: dict[str, Any] = circuit.provenance["selection"]
    dropped = circuit.n_raw - len(circuit)
    dangle = f" ({dropped:,} more were chosen, and dangle without others)" if dropped else ""
    print(f"{selection['rule']}: {len(circuit):,} of {circuit.universe.n_edges:,} edges{dangle}, written to {out}")
    if "gap" in selection:
        sure = (
            "no circuit of this size has a larger one" if selection["optimal"] else f"at most {selection['bound']:.6g}"
        )
        print(f"sum of scores: {selection['sum']:.6g}; {sure} (gap {selection['gap']:.1e})")
    if "n_stable" in selection:
        share = f"{selection['agreement']:.0%} of the {selection['n_resamples']} scores"
        print(f"{selection['n_stable']:,} edges have the same sign in {share} or more")
