"""`circuitgraph check`: before a night of training, whether it can give anything, and what it will cost."""

from __future__ import annotations

from typing import Annotated

import typer

from circuitgraph.cli import options
from circuitgraph.cli.failures import USAGE
from circuitgraph.cli.findings import print_findings
from circuitgraph.cli.option_groups import (
    GraphOptions,
    MachineOptions,
    MethodOptions,
    PromptOptions,
    RunOptions,
    grouped,
)


@grouped
def check(
    named: RunOptions,
    method: MethodOptions,
    graph: GraphOptions,
    prompts: PromptOptions,
    machine: MachineOptions,
    sample: Annotated[
        int,
        typer.Option(
            min=1,
            help="Prompts that the model is run on, about, spread over the splits.",
            rich_help_panel=options.PROMPTS,
        ),
    ] = 48,
    strict: options.Strict = False,
    as_json: options.Json = False,
) -> None:
    """Check a model, a task and settings before any training.

    Takes the options of `discover`, and ends with code 2 where that would not begin: prompts that cannot run,
    answers that the objective cannot compare, more than memory holds. What may make a result mean less than it seems
    to is said as a doubt, with what to do; --strict makes doubts errors.
    """
    from circuitgraph.cli.output import only_json, print_json, print_table
    from pruning.runs.checking.preflight import Look, look_at
    from pruning.runs.load import plan_run

    with only_json(as_json):
        run = plan_run(named.over(method, graph, prompts, machine)).load()
        found = look_at(run, Look(sample=sample))
    stopped = bool(found.errors) or (strict and bool(found.doubts))
    if as_json:
        print_json({**found.to_dict(), "notes": list(run.task.notes), "strict": strict, "passed": not stopped})
    else:
        rows = [("model", found.model), ("task", f"{found.task}, compared by {found.objective}"), *found.rows()]
        print_table(("what", "found"), [*rows, *(("note", note) for note in run.task.notes)])
        print_findings([one.to_dict() for one in found.findings])
        print(_outcome(len(found.errors), len(found.doubts), strict=strict))
    if stopped:
        raise typer.Exit(USAGE)


def _outcome(n_errors: int, n_doubts: int, *, strict: bool) -> str:
    """The last line."""
    counted = f"{n_errors} error{'s' * (n_errors != 1)}, {n_doubts} doubt{'s' * (n_doubts != 1)}"
    if n_errors or (strict and n_doubts):
        return f"{counted}: a run would not begin" + (" under --strict" if not n_errors else "")
    return f"{counted}: " + ("a run may begin" if n_doubts else "nothing stands in the way")
