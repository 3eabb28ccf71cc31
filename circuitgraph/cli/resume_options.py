"""Options of a run that may be ended and go on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from circuitgraph.cli.options import MACHINE

ResultOutOfRun = Annotated[
    Path | None, typer.Option("--out", "-o", help="The folder to write.", show_default="the one of --resume")
]
Resume = Annotated[
    Path | None,
    typer.Option(
        "--resume",
        metavar="RESULT",
        help="Go on with a run that was ended, from the last checkpoint in its folder, to the same bits; nothing else "
        "need be given.",
        show_default=False,
    ),
]
TimeLimit = Annotated[
    str | None,
    typer.Option(
        "--time-limit",
        metavar="3h30m",
        help="When the run is to be over, such as 3h30m or 45m: it stops a little before, with a checkpoint, and exits "
        "with 0; --resume goes on.",
        show_default="none",
        rich_help_panel=MACHINE,
    ),
]
