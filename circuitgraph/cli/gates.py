"""`circuitgraph gates`: which edges stand in for each other, need each other, or each add a share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitgraph.cli import table_options
from circuitgraph.cli.option_groups import grouped

if TYPE_CHECKING:
    from analysis.gates import LogicGates
    from circuitgraph.cli.tables import ResultTable

_SHOWN = 20
_FILES = "Other files"
_USUAL_THRESHOLD, _USUAL_LEAST = 0.2, 0.01
_DRAWN = (".dot", ".pdf", ".svg", ".png")


@dataclass(frozen=True, kw_only=True)
class GateFiles:
    """What is written besides the tables."""

    draw: Annotated[
        Path | None,
        typer.Option(
            help="A drawing with a colour and a line for each kind of gate; its ending says what: .dot, .pdf, .svg or "
            ".png.",
            show_default=False,
            rich_help_panel=_FILES,
        ),
    ] = None
    graph: Annotated[
        Path | None,
        typer.Option(
            help="The graph, whose edges have gate, noising and denoising as attributes: .graphml, .gexf, .json "
            "(node-link) or .cyjs.",
            show_default=False,
            rich_help_panel=_FILES,
        ),
    ] = None
    faithful: Annotated[
        Path | None,
        typer.Option(
            help="A circuit file of what noising needs: of each reader's OR the strongest edge alone.",
            show_default=False,
            rich_help_panel=_FILES,
        ),
    ] = None
    complete: Annotated[
        Path | None,
        typer.Option(
            help="A circuit file of what the model cannot do without: of each reader's AND the strongest edge alone.",
            show_default=False,
            rich_help_panel=_FILES,
        ),
    ] = None

    def require(self, inputs: list[Path], tables: Path | None) -> None:
        """Refuse what cannot be written, before anything is read.

        Args:
            inputs: Files and folders that are read.
            tables: Where the tables go.

        Raises:
            UnknownNameError: An ending that says no format.
            ConfigurationError: Two results into one file.
            OutputError: A file that is read would be replaced.
        """
        from circuitgraph.cli.tables import refuse_to_replace
        from circuitgraph.errors import ConfigurationError, UnknownNameError

        written = [path for path in (tables, *self.all.values()) if path is not None]
        if len({path.resolve() for path in written}) < len(written):
            raise ConfigurationError(f"two results would go into one file: {', '.join(map(str, written))}")
        if self.draw is not None and self.draw.suffix.lower() not in _DRAWN:
            raise UnknownNameError.of("drawing format", self.draw.suffix, _DRAWN)
        if self.graph is not None:
            from analysis.graph_files import FORMATS

            if self.graph.suffix.lower() not in FORMATS:
                raise UnknownNameError.of("graph format", self.graph.suffix, FORMATS)
        for path in written:
            refuse_to_replace(inputs, path)

    @property
    def all(self) -> dict[str, Path | None]:
        """Every file by its option."""
        return {"draw": self.draw, "graph": self.graph, "faithful": self.faithful, "complete": self.complete}

    def write(self, found: LogicGates, made_of: list[Path]) -> None:
        """Write those that were asked for.

        Args:
            found: The labelled circuit.
            made_of: The files and folders that it is of.
        """
        from analysis.graph_files import write_graph
        from circuitgraph.cli.circuit_files import save_with_vectors
        from circuitgraph.cli.output import say

        if self.draw is not None:
            found.draw(self.draw)
        if self.graph is not None:
            write_graph(found.graph, self.graph)
        if self.faithful is not None:
            save_with_vectors(found.smallest_faithful, self.faithful, made_of)
        if self.complete is not None:
            save_with_vectors(found.smallest_complete, self.complete, made_of)
        for path in self.all.values():
            if path is not None:
                say(f"Written to {path}")


@grouped
def gates(
    noising: Annotated[
        Path,
        typer.Argument(
            metavar="NOISING",
            help="Effects of single edges in the full model: a folder of `rank --method exact` or `eap`; or one of "
            "`rank --direction both`, which has both.",
            show_default=False,
        ),
    ],
    files: GateFiles,
    denoising: Annotated[
        Path | None,
        typer.Argument(
            metavar="DENOISING",
            help="The same of `rank --direction denoising`, on the same prompts.",
            show_default="the first has both",
        ),
    ] = None,
    circuit: Annotated[
        Path | None,
        typer.Option(
            help="A circuit file: label its edges.",
            show_default="all edges that get a label, less those that dangle",
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(help="An edge has no effect in a direction where it is at most this share of its other one."),
    ] = _USUAL_THRESHOLD,
    least: Annotated[
        float,
        typer.Option(help="Edges below this share of the largest effect into their reader get no label."),
    ] = _USUAL_LEAST,
    as_json: table_options.JsonTables = False,
    as_csv: table_options.Csv = False,
    as_latex: table_options.Latex = False,
    as_markdown: table_options.Markdown = False,
    out: table_options.TablesOut = None,
) -> None:
    """Label edges AND, OR or ADDER by what each alone does in both directions. Loads no model.

    Cutting one edge of an OR changes nothing, restoring it alone does all (denoising only); an AND is the other way
    round (noising only); an ADDER has both effects. CSV holds the edges, a row each.
    """
    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.circuits.edge_scores import EdgeScores
    from circuitgraph.cli.tables import TableFormat

    given = [noising, *([] if circuit is None else [circuit])]
    noising, denoising = _both(noising, denoising)
    inputs = [noising, denoising, *given]
    into = TableFormat.of(
        as_json=as_json, as_csv=as_csv, as_latex=as_latex, as_markdown=as_markdown, out=out, inputs=inputs
    )
    with into.alone():
        from analysis.gates import logic_gates

        files.require(inputs, out)
        scores = [EdgeScores.load(path) for path in (noising, denoising)]
        found = logic_gates(
            scores[0], scores[1], None if circuit is None else Circuit.load(circuit), threshold=threshold, least=least
        )
        files.write(found, inputs)
    written = {name: str(path) for name, path in files.all.items() if path is not None}
    about: dict[str, Any] = {
        "scores": {
            one.direction: {"path": str(path), "method": one.method, "sha256": one.digest}
            for path, one in zip((noising, denoising), scores, strict=True)
        },
        "circuit": None if circuit is None else str(circuit),
        "universe": found.circuit.universe.to_dict(), "ablation": found.circuit.ablation,
        "threshold": threshold, "least": least, "n": _counts(found), "files": written,
    }  # fmt: skip
    tables = _tables(found)
    into.write(tables, about=about, first=_told(found), csv=found.table)


def _both(first: Path, second: Path | None) -> tuple[Path, Path]:
    """The two folders of scores.

    Raises:
        ConfigurationError: One folder came, and it is none of both directions.
    """
    from circuitgraph.cli.rank import HALVES
    from circuitgraph.errors import ConfigurationError

    if second is not None:
        return first, second
    noising, denoising = (first / name for name in HALVES)
    if not (noising.is_dir() and denoising.is_dir()):
        raise ConfigurationError(
            f"{first} has no scores of both directions alone (noising/ and denoising/): give a folder of `rank "
            "--direction both`, or two, of `rank` and of `rank --direction denoising`"
        )
    return noising, denoising


def _counts(found: LogicGates) -> dict[str, int]:
    from analysis.gates import GATES

    return {**{gate: len(found.of(gate)) for gate in GATES}, "none": found.labels.count("")}


def _told(found: LogicGates) -> str:
    counts = _counts(found)
    none = counts.pop("none")
    told = ", ".join(f"{n:,} {gate}" for gate, n in counts.items())
    return f"{len(found.circuit):,} edges: {told}" + (f", {none:,} of no gate" if none else "")


def _tables(found: LogicGates) -> list[ResultTable]:
    from circuitgraph.cli.tables import ResultTable

    receivers = found.receivers
    several = receivers.loc[receivers["n"] > 1]
    edges = found.table
    strongest = edges.assign(both=found.circuit.scores).sort_values("both", ascending=False, kind="stable")
    cut = f", the strongest {_SHOWN} of {len(edges):,}" if len(edges) > _SHOWN else ""
    return [
        ResultTable(
            name="receivers", title="Gates of several writers", frame=receivers, for_people=several,
            shown={"reader": "reader", "gate": "gate", "n": "writers", "senders": "which"},
        ),
        ResultTable(
            name="edges", title=f"Edges{cut}", frame=edges, for_people=strongest.head(_SHOWN),
            shown={"edge": "edge", "noising": "noising", "denoising": "denoising", "gate": "gate"},
        ),
    ]  # fmt: skip
