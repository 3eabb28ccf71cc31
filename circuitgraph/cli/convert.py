"""`circuitgraph convert`: circuits and scores from files of other tools, and into them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuitgraph.cli import options

if TYPE_CHECKING:
    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.circuits.conversion import Conversion
    from circuitgraph.circuits.edge_scores import EdgeScores
    from circuitgraph.graph.universe import Universe

FORMATS_HELP = "circuit, scores (both ours), eap-ig, eap-ig-pt, mib, edge-pruning or auto-circuit."
_MATCH = "Where edges do not match one to one"
_OPEN = "What files leave open"


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The file or folder to read.", show_default=False)],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The file or folder to write.", show_default=False)],
    from_format: Annotated[
        str | None, typer.Option("--from", metavar="NAME", help=FORMATS_HELP, show_default="what IN looks like")
    ] = None,
    to_format: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="NAME",
            help=FORMATS_HELP,
            show_default="by the ending of OUT: .pt eap-ig-pt, .pkl auto-circuit; of another tool's file also .json "
            "circuit, none scores",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help=f"The model that the file is of, which files of other tools do not say. {options.MODEL_HELP}",
            show_default="the one in IN, where it is ours",
        ),
    ] = None,
    universe: Annotated[
        Path | None,
        typer.Option(
            metavar="RESULT", help="A circuit or scores of the model, in place of --model.", show_default=False
        ),
    ] = None,
    embeddings: options.Embeddings = None,
    kv_heads: options.KvHeads = None,
    qkv: options.Qkv = None,
    kept_if: Annotated[
        str | None,
        typer.Option(
            help="An edge made of several is kept if any or all of them are.",
            show_default="they have to agree",
            rich_help_panel=_MATCH,
        ),
    ] = None,
    join_scores: Annotated[
        str | None,
        typer.Option(
            help="The score of an edge made of several: their sum, mean, or max (the largest in size).",
            show_default="they have to agree",
            rich_help_panel=_MATCH,
        ),
    ] = None,
    spread: Annotated[
        str,
        typer.Option(
            help="An edge that becomes several: each gets its score (repeat) or an equal part of it (share).",
            rich_help_panel=_MATCH,
        ),
    ] = "repeat",
    part: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which result is meant, read or written, in a file or folder of several: ioi_gpt2 of mib, "
            "TASK/ALGORITHM of auto-circuit.",
            show_default="the only one",
            rich_help_panel=_OPEN,
        ),
    ] = None,
    embedding_edges: Annotated[
        str | None,
        typer.Option(
            help="always: a file of edge-pruning without edges from embeddings is of a run where these reach all.",
            show_default="the file has to have some",
            rich_help_panel=_OPEN,
        ),
    ] = None,
    join_positions: Annotated[
        str | None,
        typer.Option(
            help="How scores of several positions become one: sum, mean or max.",
            show_default="there may be none",
            rich_help_panel=_OPEN,
        ),
    ] = None,
    d_model: Annotated[
        int | None,
        typer.Option(
            "--d-model",
            min=1,
            help="The width of the model, which files of EAP-IG hold.",
            show_default="that of the model or of the file",
            rich_help_panel=_OPEN,
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="By which method the file was made, for the record.", rich_help_panel=_OPEN)
    ] = "unknown",
    direction: Annotated[
        str, typer.Option(help="noising, denoising, between or unknown.", rich_help_panel=_OPEN)
    ] = "unknown",
    ablation: Annotated[
        str,
        typer.Option(
            help="What cut edges carried: counterfactual, zero, mean or optimal. Decides which edges dangle.",
            rich_help_panel=_OPEN,
        ),
    ] = "counterfactual",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older file.")] = False,
    as_json: options.Json = False,
) -> None:
    """Convert a circuit or edge scores into the format of another tool, or from it. Loads no weights.

    Says how many edges there are on both sides, and what the result does not say any more.
    """
    from circuitgraph.circuits.conversion import convert_file
    from circuitgraph.circuits.formats.content import MergeRules
    from circuitgraph.circuits.formats.file_format import FileChoices
    from circuitgraph.cli.output import only_json, print_json
    from circuitgraph.cli.tables import refuse_to_replace

    refuse_to_replace([source], target)
    with only_json(as_json):
        rules = MergeRules(kept_if=kept_if, join_scores=join_scores, spread=spread)
        wanted, width = _model(model, universe, embeddings=embeddings, kv_heads=kv_heads, qkv=qkv)
        if wanted is None and (to_format == "eap-ig" or target.suffix == ".pt"):
            width = _width_of(source)
        choices = FileChoices(
            part=part, d_model=d_model or width, embedding_edges=embedding_edges, join_positions=join_positions,
            method=method, direction=direction, ablation=ablation, model=model,
        )  # fmt: skip
        done = convert_file(
            source, target, source_format=from_format, target_format=to_format, universe=wanted, rules=rules,
            choices=choices, overwrite=overwrite,
        )  # fmt: skip
    if as_json:
        print_json(_as_json(done))
        return
    _tell(done)


def _model(
    name: str | None, file: Path | None, *, embeddings: str | None, kv_heads: str | None, qkv: str | None
) -> tuple[Universe | None, int | None]:
    """The universe that was asked for, and the model's width as far as it is known."""
    from dataclasses import replace

    from circuitgraph.cli.settings import plan_model
    from circuitgraph.errors import ConfigurationError

    chosen = {"embeddings": embeddings, "kv_heads": kv_heads, "qkv": qkv}
    if name is not None and file is not None:
        raise ConfigurationError("--model and --universe both say which model it is; give one of them")
    if name is not None:
        plan = plan_model(name, **chosen)
        return plan.universe, plan.shape.d_model
    if file is None:
        return None, None
    found = _universe_in(file)
    return replace(found, **{option: value for option, value in chosen.items() if value is not None}), None


def _universe_in(path: Path) -> Universe:
    """The universe of one of our own files."""
    return _own(path).universe


def _own(path: Path) -> Circuit | EdgeScores:
    """A circuit or edge scores in one of our own files."""
    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.circuits.edge_scores import ABOUT, EdgeScores

    is_scores = path.name == ABOUT or (path / ABOUT).is_file()
    return (EdgeScores if is_scores else Circuit).load(path)


def _width_of(source: Path) -> int | None:
    """The width of the model that one of our own files is of, where its config is at hand."""
    from circuitgraph.circuits.provenance import name_in
    from circuitgraph.cli.settings import plan_model
    from circuitgraph.errors import CircuitGraphError

    try:
        name = name_in(_own(source).provenance, "model")
        return plan_model(name).shape.d_model if name else None
    except CircuitGraphError:
        return None


def _as_json(done: Conversion) -> dict[str, object]:
    return {
        "files": [str(path) for path in done.files],
        "from": done.source,
        "to": done.target,
        "n_edges": list(done.n_edges),
        "n_kept": None if done.n_kept is None else list(done.n_kept),
        "lost": list(done.lost),
        "notes": list(done.notes),
    }


def _tell(done: Conversion) -> None:
    """What a conversion did, for people."""
    before, after = done.n_edges
    if done.n_kept is None:
        print(f"scores of {before:,} edges ({done.source}) are scores of {after:,} edges ({done.target})")
    else:
        kept, left = done.n_kept
        print(
            f"{kept:,} of {before:,} edges ({done.source}, {kept / before:.2%}) are {left:,} of {after:,} edges "
            f"({done.target}, {left / after:.2%})"
        )
    for line in done.lost:
        print(f"lost: {line}")
    for line in done.notes:
        print(f"note: {line}")
    for path in done.files:
        print(f"Written to {path}")
