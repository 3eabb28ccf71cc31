"""`circuitgraph draw`: one or two saved circuits as a picture, or as a page to explore."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuitgraph.cli import options

if TYPE_CHECKING:
    from analysis.drawing import Drawing
    from circuitgraph.circuits.circuit import Circuit

_WIDTHS_BY = ("score", "effect")


def draw(
    circuit: options.CircuitFile,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="The file to write; its ending says what: .dot, .pdf, .svg, .png, or .html for a page to "
            "explore the circuit in. An older file is replaced.",
            show_default=False,
        ),
    ],
    other: Annotated[
        Path | None,
        typer.Argument(
            metavar="OTHER",
            help="A second circuit of the same universe: what both share and what only one has, by colour.",
            show_default=False,
        ),
    ] = None,
    max_edges: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Above this many edges, only the strongest are drawn; of two circuits, the strongest of each colour.",
            show_default="150, or as many as fit --width; .html: 5,000",
        ),
    ] = None,
    width: Annotated[
        str | None,
        typer.Option(
            help="For a paper: at most so wide, with letters of 6 pt or more, such as 5.5in, 8.4cm or 240pt.",
            show_default=False,
        ),
    ] = None,
    width_by: Annotated[
        str,
        typer.Option(
            metavar="[score|effect]",
            help="What makes a line wide: the trained score, or how much KL rises when that edge alone is cut from the "
            "circuit, from the metrics.json beside the circuit.",
        ),
    ] = "score",
    heads: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="For a page: what `circuitgraph heads` wrote of the same model. A click on a head then shows where it "
            "looks on a few prompts, its roles, and the tokens that it says most.",
            show_default=False,
        ),
    ] = None,
    across_checkpoints: Annotated[
        bool,
        typer.Option("--across-checkpoints", help="Allow two circuits of different weights or models."),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Draw one circuit or two, or write a page to explore them. Loads no model."""
    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.cli.output import only_json, print_json
    from circuitgraph.errors import ConfigurationError, UnknownNameError

    is_page = out.suffix.lower() == ".html"
    with only_json(as_json):
        if width_by not in _WIDTHS_BY:
            raise UnknownNameError.of("--width-by", width_by, _WIDTHS_BY)
        if is_page and width is not None:
            raise ConfigurationError(f"--width is for pictures; --out is {out.name}, a page as wide as its window")
        if width_by == "effect" and (is_page or other is not None):
            raise ConfigurationError(
                "--width-by effect is for the picture of one circuit; a page has a choice of widths of its own"
            )
        if heads is not None and not is_page:
            raise ConfigurationError(f"--heads is for pages; --out is {out.name}, a picture: name it .html")
        paths = [circuit] if other is None else [circuit, other]
        named = dict(zip(file_names(paths), map(Circuit.load, paths), strict=True))
        if is_page:
            n_edges, n_drawn = _write_page(named, paths, out, max_edges, across_checkpoints, heads)
        else:
            drawing = _drawing(
                named, out, max_edges, width, across_checkpoints, circuit if width_by == "effect" else None
            )
            n_edges, n_drawn = drawing.n_edges, drawing.n_drawn
            drawing.save(out)
            if drawing.note:
                print(drawing.note, file=sys.stderr)
    if as_json:
        print_json({"out": str(out), "n_edges": n_edges, "n_drawn": n_drawn})
        return
    left_out = f" (the strongest of {n_edges:,})" if n_drawn < n_edges else ""
    print(f"{n_drawn:,} edges{left_out} drawn into {out}")


def file_names(paths: list[Path]) -> list[str]:
    """Short names for circuits by their files: the folder's where the file is `circuit.json`.

    Examples:
        >>> file_names([Path("runs/ioi/circuit.json"), Path("capitals.json")])
        ['ioi', 'capitals']
        >>> file_names([Path("a/ioi.json"), Path("b/ioi.json")])
        ['a/ioi.json', 'b/ioi.json']
        >>> file_names([Path("ioi.json"), Path("ioi.json")])
        ['ioi.json', 'ioi.json (again)']
    """
    names = [path.parent.name if path.stem == "circuit" and path.parent.name else path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return [name + " (again)" * (name in names[:place]) for place, name in enumerate(names)]


def _write_page(
    named: dict[str, Circuit], paths: list[Path], out: Path, max_edges: int | None, across: bool, heads: Path | None
) -> tuple[int, int]:
    """Write the page; how many edges the circuits have together, and how many of them are in it."""
    import numpy as np

    from analysis.drawing.effects import has_effects
    from analysis.explorer import MAX_EDGES, page_contents, page_document
    from circuitgraph.files.atomic_file import write_atomically

    limit = MAX_EDGES if max_edges is None else max_edges
    beside = {name: path.parent / "metrics.json" for name, path in zip(named, paths, strict=True)}
    effects = {name: path for name, path in beside.items() if has_effects(path)}
    contents = page_contents(named, max_edges=limit, across_checkpoints=across, effects=effects, heads=heads)
    write_atomically(out, page_document(contents))
    n_edges = len(np.unique(np.concatenate([circuit.edge_ids for circuit in named.values()])))
    return n_edges, len(contents["edges"]["kind"])


def _drawing(
    named: dict[str, Circuit],
    out: Path,
    max_edges: int | None,
    width: str | None,
    across: bool,
    effects_of: Path | None,
) -> Drawing:
    """The drawing of one circuit or two, not laid out yet; `effects_of` is the circuit file beside its effects."""
    from analysis.drawing import draw as draw_circuit
    from analysis.drawing.membership import draw_membership
    from analysis.drawing.render import FORMATS
    from circuitgraph.errors import UnknownNameError

    known = [f".{name}" for name in ("html", "dot", *FORMATS)]
    if out.suffix.lower() not in known:
        raise UnknownNameError.of("drawing format", out.suffix, known)
    if len(named) > 1:
        title = " and ".join(named)
        return draw_membership(named, max_edges=max_edges, width=width, title=title, across_checkpoints=across)
    effects = None if effects_of is None else effects_of.parent / "metrics.json"
    return draw_circuit(next(iter(named.values())), max_edges=max_edges, width=width, effects=effects)
