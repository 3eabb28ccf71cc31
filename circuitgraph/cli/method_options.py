"""Options of a run that say by which method edges are found, and by which scores a training begins."""

from __future__ import annotations

from typing import Annotated

import typer

from circuitgraph.cli.options import SETTINGS

Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="NAME",
        help="How edges are found: edge-pruning or nested, which a --recipe trains, or any method of `circuitgraph "
        "rank` (eap-ig, acdc, random …), whose own settings go with --set.",
        show_default="edge-pruning",
        rich_help_panel=SETTINGS,
    ),
]
Rule = Annotated[
    str | None,
    typer.Option(
        "--rule",
        metavar="NAME",
        help="How the scores of a --method become a circuit, as in `circuitgraph select`: top, greedy or connected at "
        "the target sparsity; threshold (--set selection.threshold=X); own: the circuit that acdc or greedy-nodes "
        "itself found.",
        show_default="top; acdc, greedy-nodes: own",
        rich_help_panel=SETTINGS,
    ),
]
WarmStart = Annotated[
    str | None,
    typer.Option(
        "--warm-start",
        metavar="NAME|SCORES",
        help="What trained gates begin by: none, gate-importance, any method of `circuitgraph rank`, or saved scores "
        "(a path such as runs/ioi-eap or ./scores.json).",
        show_default="the recipe's",
        rich_help_panel=SETTINGS,
    ),
]
Survivors = Annotated[
    int | None,
    typer.Option(
        "--survivors",
        min=1,
        metavar="N",
        help="Train the gates of the N strongest edges alone: all others are cut before the first step.",
        show_default="all edges",
        rich_help_panel=SETTINGS,
    ),
]
SurvivorsBy = Annotated[
    str | None,
    typer.Option(
        "--survivors-by",
        metavar="NAME|SCORES",
        help="What they are the strongest by: a method of `circuitgraph rank`, or saved scores.",
        show_default="gate-importance",
        rich_help_panel=SETTINGS,
    ),
]
