"""Options of the commands that write tables about saved circuits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FORMAT = "Format of the tables"


CircuitFiles = Annotated[
    list[str],
    typer.Argument(
        metavar="CIRCUIT…",
        help="Circuit files, each with a name for the tables if you like: NAME=FILE.",
        show_default=False,
    ),
]


AcrossCheckpoints = Annotated[
    bool,
    typer.Option("--across-checkpoints", help="Allow circuits of other weights, such as before and after fine-tuning."),
]


Coarsen = Annotated[
    bool,
    typer.Option(
        "--coarsen",
        help="Map circuits of finer graphs (split embeddings, readers per query head, …) onto the finest graph that "
        "all have in common; what changes is said.",
    ),
]


Csv = Annotated[bool, typer.Option("--csv", help="Write CSV.", rich_help_panel=FORMAT)]


Latex = Annotated[bool, typer.Option("--latex", help="Write LaTeX in the style of booktabs.", rich_help_panel=FORMAT)]


Markdown = Annotated[bool, typer.Option("--markdown", help="Write Markdown.", rich_help_panel=FORMAT)]


JsonTables = Annotated[
    bool, typer.Option("--json", help="Write JSON: the tables whole, and what they are of.", rich_help_panel=FORMAT)
]


TablesOut = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Write into this file, in the format of its ending (.json, .csv, .tex, .md or .txt) if none is asked "
        "for. An older file is replaced.",
        show_default="standard output",
        rich_help_panel=FORMAT,
    ),
]
