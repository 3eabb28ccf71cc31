"""The option by which prompts, and with them a graph's edges, are divided into spans of token positions."""

from __future__ import annotations

from typing import Annotated

import typer

from circuitgraph.cli.options import PROMPTS

Spans = Annotated[
    str | None,
    typer.Option(
        metavar="task|positions",
        help="An edge for each span of token positions: those that the task names, or each position.",
        show_default=False,
        rich_help_panel=PROMPTS,
    ),
]
