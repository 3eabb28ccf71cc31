"""`circuitgraph discover`: the main job, from a model's name to a folder with its circuit."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from circuitgraph.cli import options
from circuitgraph.cli.failures import FAILURE
from circuitgraph.cli.figures import print_front, print_metrics
from circuitgraph.cli.findings import print_findings
from circuitgraph.cli.invocation import command_line
from circuitgraph.cli.job import Job, telling_memory
from circuitgraph.cli.option_groups import (
    EndOptions,
    GraphOptions,
    MachineOptions,
    MethodOptions,
    PromptOptions,
    RunOptions,
    grouped,
)
from circuitgraph.cli.resume_options import ResultOutOfRun
from circuitgraph.cli.sweep import SeveralSeeds, discover_seeds, has_several_seeds
from circuitgraph.errors import ConfigurationError, TrainingError
from circuitgraph.stopping import TIME_LIMIT, Stopped, exit_code

if TYPE_CHECKING:
    from pruning.runs.checking.preflight import Preflight
    from pruning.runs.discovery import Discovery
    from pruning.runs.result_folder import ResultFolder
    from pruning.runs.run import Run


@grouped
def discover(
    named: RunOptions,
    *,
    out: ResultOutOfRun = None,
    seeds: options.Seeds = None,
    method: MethodOptions,
    graph: GraphOptions,
    prompts: PromptOptions,
    machine: MachineOptions,
    ending: EndOptions,
) -> None:
    """Find the circuit that a model uses for a task, by any method, evaluate it and draw it.

    Writes run.toml, circuit.json, metrics.json, examples.csv, curve.csv, curve.png, circuit.dot, circuit.pdf,
    circuit.svg, circuit.html (the circuit to explore in a browser), gates.safetensors and report.md into a new folder.
    A recipe that ranks for all sparsities, and several target sparsities, add front.csv, front.png and a
    circuit-SPARSITY.json each. A --method that trains by no recipe leaves scores.safetensors and scores.json in place
    of gates and curve.

    With --seeds every seed has such a folder of its own, seed-S, and beside them lie the circuits of all seeds together
    (consensus-SPARSITY.json, averaged-SPARSITY.json), front.csv, summary.csv, stability.csv, front.png and report.md.
    The same command in the same folder goes on with what is missing.
    """
    if seeds is not None or has_several_seeds(ending.resume):
        asked = SeveralSeeds(seeds=seeds, out=out, named=named, ending=ending)
        discover_seeds(asked, (method, graph, prompts, machine, ending))
        return
    from circuitgraph.cli.output import only_json, print_json, say
    from circuitgraph.cli.result_writer import result_bytes
    from pruning.runs.checking.preflight import look_at
    from pruning.runs.load import plan_run
    from pruning.runs.result_folder import ResultFolder, require_room

    began = time.monotonic()
    named, place = _place(named, out, ending)
    opened = ResultFolder.opened(place, overwrite=ending.overwrite, resume=ending.resume is not None)
    with only_json(ending.as_json), opened as folder:
        plan = plan_run(named.over(method, graph, prompts, machine, ending))
        require_room(folder.path, result_bytes(plan.universe, plan.request.n_steps))
        if folder.note:
            say(f"note: {folder.note}")
        say(f"loading {plan.request.model.name}")
        job = Job(run=plan.load())
        checked = look_at(job.run)
        checked.require(strict=ending.strict)
        job.show(checked)
        if not ending.dry_run:
            found, missing, ended_by = _run(job.run, folder, checked, began)
    if ending.dry_run:
        if ending.as_json:
            print_json({**job.to_dict(), "preflight": checked.to_dict()})
        say("dry run: nothing was trained or written")
        return
    _show(found, missing, folder, as_json=ending.as_json)
    _end(found, missing, ended_by, folder)


def _place(named: RunOptions, out: Path | None, ending: EndOptions) -> tuple[RunOptions, Path]:
    """The folder of the result; where a run goes on, also the options with the settings in its folder.

    Raises:
        ConfigurationError: None was given, or options that make no sense where a run goes on.
        CheckpointError: There is no run to go on with.
    """
    from pruning.runs.resume import checkpoint_folder

    if ending.resume is None:
        if out is None:
            raise ConfigurationError("where to? Give --out FOLDER, or --resume FOLDER to go on with a run there")
        return named, out
    if (out is not None and out.resolve() != ending.resume.resolve()) or ending.overwrite or named.like is not None:
        raise ConfigurationError(
            "--resume goes on in the run's own folder, with its own settings; leave out --out, --overwrite and --like"
        )
    return replace(named, like=checkpoint_folder(ending.resume)), ending.resume


def _run(run: Run, folder: ResultFolder, checked: Preflight, began: float) -> tuple[Discovery, dict[str, str], str]:
    """Train, evaluate and write; also gives what is missing and why, and the signal that ended the run early."""
    from circuitgraph.cli.cache import told_as_notes
    from circuitgraph.cli.output import warn
    from circuitgraph.cli.result_writer import SHOWN, ended_at_once, tell_missing, write_shown
    from circuitgraph.stopping import stopping
    from pruning.runs.checkpoints import first_command
    from pruning.runs.discover import run_discovery
    from pruning.runs.shown_progress import ShownProgress

    folder.command, folder.later = first_command(folder.checkpoints) if folder.resumes else None, SHOWN
    folder.command = folder.command or command_line()
    limit, trains = run.settings.working_seconds, run.request.recipe is not None
    left = None if limit is None else limit - (time.monotonic() - began)
    with stopping() as stop, ended_at_once(folder), stop.limited(left), stop.held():
        with told_as_notes(), telling_memory(run.memory.estimate) if trains else nullcontext():
            found = run_discovery(run, ShownProgress(), out=folder, checked=checked)
        _check_learnt(found, stop.name)
        for text in found.diagnoses:
            warn(text)
        parts = write_shown(folder, found.circuit, found.metrics, found.curve, missing=found.missing)
    tell_missing(folder, parts.missing, {**found.errors, **parts.errors})
    return found, parts.missing, stop.name if parts.missing or found.interrupted else ""


def _check_learnt(found: Discovery, ended_by: str) -> None:
    """Keep nothing of a run that ended before its first step.

    Raises:
        Stopped: The user or a signal stopped it.
        TrainingError: The first step failed.
    """
    if found.run is None or found.n_steps:
        return
    if found.interrupted:
        raise Stopped(ended_by or "SIGINT")
    raise TrainingError(found.stopped_by or "no step was taken")


def _show(found: Discovery, missing: dict[str, str], folder: ResultFolder, *, as_json: bool) -> None:
    """Print the result."""
    from circuitgraph.cli.output import print_json
    from pruning.runs.result_folder import report_command, resume_command

    circuit, path = found.circuit, folder.path
    if as_json:
        ended = {"steps_taken": found.n_steps, "interrupted": found.interrupted, "stopped_by": found.stopped_by}
        lacking = {"missing": missing, "again": report_command(path) if missing else None}
        lacking["resume"] = resume_command(path) if folder.ended_early else None
        files = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
        print_json({"out": str(path), "files": files, **ended, **lacking, **found.metrics})
        return
    counts = circuit.sparsity
    print(
        f"{len(circuit):,} of {counts['n_universe']:,} edges kept ({100 * counts['effective']:.2f} % cut), "
        f"{len(circuit.heads)} heads, {len(circuit.mlps)} MLPs"
    )
    for split, figures in found.metrics["splits"].items():
        print_metrics(split, figures)
    print_front(found.metrics.get("front", ()))
    print_findings(found.metrics["verdicts"])
    if "report" not in missing:
        print(f"Written to {path}; begin with {path / 'report.md'}")


def _end(found: Discovery, missing: dict[str, str], ended_by: str, folder: ResultFolder) -> None:
    """Leave with the exit code of a run that did not do everything."""
    from circuitgraph.cli.output import say
    from circuitgraph.cli.result_writer import is_loss
    from pruning.runs.fields import duration_text
    from pruning.runs.result_folder import report_command, resume_command

    n_steps, limit, path = found.n_steps, found.settings.time_limit_seconds, folder.path
    go_on = resume_command(path)
    if limit is not None:
        go_on += f" --time-limit {duration_text(limit)}"
    more = f"; `{report_command(path)}` makes what is missing" if missing else ""
    if folder.ended_early:
        more = f"; `{go_on}` goes on"
    if ended_by:
        what = "The time limit was reached" if ended_by == TIME_LIMIT else "Interrupted"
        when = f" after {n_steps:,} of {found.request.n_steps:,} steps" if found.interrupted else ""
        say(f"{what}{when}: what was learnt by then is in {path}{more}")
        raise typer.Exit(exit_code(ended_by))
    if found.stopped_by:
        say(f"Error: training stopped after {n_steps:,} steps: the last good state is in {path}{more}")
        raise typer.Exit(FAILURE)
    if is_loss(missing):
        raise typer.Exit(FAILURE)
