"""The commands, put together. Each command's file says what it takes; nothing heavy is imported here."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from circuitgraph.cli.bench import bench
from circuitgraph.cli.cache import cache, told_as_notes
from circuitgraph.cli.causal_trace import causal_trace
from circuitgraph.cli.check import check
from circuitgraph.cli.combine import combine
from circuitgraph.cli.compare import compare
from circuitgraph.cli.components import components
from circuitgraph.cli.convert import convert
from circuitgraph.cli.coordinates import coordinates
from circuitgraph.cli.discover import discover
from circuitgraph.cli.draw import draw
from circuitgraph.cli.evaluate import evaluate
from circuitgraph.cli.export import export
from circuitgraph.cli.extract import extract
from circuitgraph.cli.failures import DEBUG_VARIABLE, Interrupted, Unread
from circuitgraph.cli.find import find
from circuitgraph.cli.gates import gates
from circuitgraph.cli.graph import graph
from circuitgraph.cli.heads import heads
from circuitgraph.cli.leaderboard import leaderboard
from circuitgraph.cli.listing import models, recipes, tasks
from circuitgraph.cli.on_task import OnTaskCommand
from circuitgraph.cli.paths import paths
from circuitgraph.cli.rank import rank
from circuitgraph.cli.report import report
from circuitgraph.cli.run import run
from circuitgraph.cli.select import select
from circuitgraph.cli.shrink import shrink
from circuitgraph.cli.sparsity import sparsity
from circuitgraph.cli.steer import steer, suppress
from circuitgraph.cli.study import study
from circuitgraph.cli.trace import trace
from circuitgraph.cli.transfer import transfer
from circuitgraph.stopping import Stopped


class _Commands(TyperGroup):
    """The group of commands; warnings and Ctrl-C in one of them are told in our own words."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with told_as_notes():
                return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted(error.name if isinstance(error, Stopped) else "SIGINT") from None
        except BrokenPipeError:
            raise Unread from None


app = typer.Typer(
    cls=_Commands,
    name="circuitgraph",
    help="Find, evaluate and draw the circuits of Hugging Face transformers by edge pruning.",
    epilog="Start with: circuitgraph discover --model smollm2-135m --task ioi --out runs/ioi",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> bool:
    if wanted:
        from circuitgraph import __version__

        print(f"circuitgraph {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def circuitgraph(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help=f"Show tracebacks; so does {DEBUG_VARIABLE}=1.")] = False,
) -> None:
    """Find, evaluate and draw the circuits of Hugging Face transformers by edge pruning."""
    # `main` looks for --debug itself, since errors end there.


def flowing(text: str) -> str:
    r"""A docstring with each paragraph on one line, so that help fills the terminal whatever its width.

    Args:
        text: The docstring, cleaned. Indented lines stay as they are.

    Examples:
        >>> flowing("One.\n\nTwo lines\nof text:\n\n    kept\n    as it is")
        'One.\n\nTwo lines of text:\n\n    kept\n    as it is'
    """
    parts = text.split("\n\n")
    return "\n\n".join(part if part.startswith((" ", "- ")) else part.replace("\n", " ") for part in parts)


_KINDS = {
    "Find a circuit": (discover, check, rank, select, report, leaderboard, study),
    "Measure circuits": (evaluate, run, compare, transfer),
    "Look inside one": (draw, paths, find, trace, causal_trace, heads, coordinates, gates, components, sparsity),
    "Change a model": (steer, suppress, extract, shrink),
    "Files of circuits": (combine, convert, export),
    "What there is": (models, tasks, recipes, graph, cache, bench),
}
"""Commands by what they are for, in the order in which help lists them."""

for kind, commands in _KINDS.items():
    for command in commands:
        told = flowing(inspect.cleandoc(command.__doc__ or ""))
        app.command(cls=OnTaskCommand if command is compare else None, help=told, rich_help_panel=kind)(command)
