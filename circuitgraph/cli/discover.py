"""`circuitgraph discover`: the main job, from a model's name to a folder with its circuit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from circuitgraph.cli import options
from circuitgraph.cli.failures import FAILURE
from circuitgraph.cli.figures import print_metrics
from circuitgraph.cli.findings import print_findings
from circuitgraph.cli.invocation import command_line
from circuitgraph.cli.job import Job
from circuitgraph.cli.settings import (
    GraphChoices,
    choices_of,
    parse_named,
    plan_model,
    settle_ablation,
    settle_objective,
    settle_recipe,
    settle_sizes,
    task_options,
)
from circuitgraph.errors import TrainingError
from circuitgraph.stopping import Stopped, exit_code

if TYPE_CHECKING:
    from circuitgraph.models import LoadedModel
    from pruning.runs.checking.preflight import Preflight
    from pruning.runs.discover import Discovery
    from pruning.runs.result_folder import ResultFolder
    from pruning.tasks import TaskData


def discover(
    model: options.Model,
    task: options.Task,
    out: options.ResultOut,
    recipe: options.Recipe = None,
    target_sparsity: options.TargetSparsity = None,
    steps: options.Steps = None,
    batch_size: options.BatchSize = None,
    ablation: options.Ablation = None,
    objective: options.Objective = None,
    seed: options.Seed = 0,
    n_random: options.NRandom = 10,
    n_random_prompts: options.RandomPrompts = 32,
    embeddings: options.Embeddings = None,
    kv_heads: options.KvHeads = None,
    qkv: options.Qkv = None,
    train_size: options.TrainSize = None,
    validation_size: options.ValidationSize = None,
    test_size: options.TestSize = None,
    chat_template: options.ChatTemplate = False,
    bos: options.Bos = "auto",
    task_option: options.TaskOption = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    cache_gib: options.CacheGib = 2.0,
    disk_cache_gib: options.DiskCacheGib = 2.0,
    cache_dir: options.CacheDir = None,
    teacher_top_k: options.TeacherTopK = None,
    memory_gib: options.MemoryGibOfRun = None,
    no_verify: options.NoVerify = False,
    strict: options.Strict = False,
    dry_run: options.DryRun = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Find the circuit that a model uses for a task, evaluate it and draw it.

    Writes circuit.json, metrics.json, examples.csv, curve.csv, curve.png, circuit.dot, circuit.pdf,
    circuit.svg, circuit.html (the circuit to explore in a browser), gates.safetensors and report.md into a new folder.
    """
    from circuitgraph.cli.cache import disk_cache
    from circuitgraph.cli.output import only_json, print_json, say
    from circuitgraph.cli.result_writer import result_bytes
    from pruning.runs.result_folder import ResultFolder, require_room

    with only_json(as_json), ResultFolder.opened(out, overwrite=overwrite) as folder:
        settled = settle_recipe(
            recipe, model=model, steps=steps, target_sparsity=target_sparsity, batch_size=batch_size
        )
        sizes = settle_sizes(train=train_size, validation=validation_size, test=test_size)
        chosen_options = task_options(task, dict(parse_named("--task-option", task_option or [])))
        goal = settle_objective(objective, settled, task)
        chosen = GraphChoices(embeddings=embeddings, kv_heads=kv_heads, qkv=qkv)
        plan = plan_model(model, chosen.over(choices_of(settled)))
        cut = settle_ablation(ablation, settled, plan)
        require_room(folder.path, result_bytes(plan.universe, settled.steps))
        if folder.note:
            say(f"note: {folder.note}")
        say(f"loading {model}")
        loaded = plan.load(dtype=dtype, device=device)
        job = Job(
            plan=plan,
            compiled=plan.compile(loaded, verify=not no_verify),
            task=_prompts(task, loaded, sizes, seed, chat_template, bos, chosen_options),
            recipe=settled,
            objective=goal,
            ablation=cut,
            seed=seed,
            cache_bytes=round(cache_gib * 2**30),
            disk_cache=disk_cache(cache_dir, disk_cache_gib),
            teacher_top_k=teacher_top_k,
            memory_bytes=None if memory_gib is None else round(memory_gib * 2**30),
        )
        checked = job.check(n_random=n_random, n_random_prompts=n_random_prompts, strict=strict)
        job.show(checked)
        if not dry_run:
            found, missing, ended_by = _run(
                job, folder, n_random=n_random, n_random_prompts=n_random_prompts, checked=checked
            )
    if dry_run:
        if as_json:
            print_json({**job.to_dict(), "preflight": checked.to_dict()})
        say("dry run: nothing was trained or written")
        return
    _show(found, missing, folder.path, as_json=as_json)
    _end(found, missing, ended_by, folder.path)


def _run(
    job: Job, folder: ResultFolder, *, n_random: int, n_random_prompts: int | None, checked: Preflight
) -> tuple[Discovery, dict[str, str], str]:
    """Train, evaluate and write; also gives what is missing and why, and the signal that ended the run early."""
    from circuitgraph.cli.cache import told_as_notes
    from circuitgraph.cli.output import warn
    from circuitgraph.cli.progress import following
    from circuitgraph.cli.result_writer import SHOWN, ended_at_once, tell_missing, write_shown
    from circuitgraph.stopping import stopping

    folder.command, folder.later = command_line(), SHOWN
    with stopping() as stop, ended_at_once(folder), stop.held():
        with told_as_notes(), following(job.recipe.steps, job.objective) as (watch, counting):
            found = job.run(
                watch, n_random=n_random, n_random_prompts=n_random_prompts, folder=folder, checked=checked,
                counting=counting,
            )  # fmt: skip
        _check_learnt(found, stop.name)
        for text in found.diagnoses:
            warn(text)
        parts = write_shown(folder, found.circuit, found.metrics, found.curve, missing=found.missing)
    tell_missing(folder, parts.missing, {**found.errors, **parts.errors})
    return found, parts.missing, stop.name if parts.missing or found.run.interrupted else ""


def _prompts(
    task: str,
    loaded: LoadedModel,
    sizes: dict[str, int] | None,
    seed: int,
    chat_template: bool,
    bos: str,
    chosen_options: dict[str, object],
) -> TaskData:
    from pruning.tasks import load_task

    return load_task(
        task, loaded.tokenizer, sizes=sizes, seed=seed, options=chosen_options, chat_template=chat_template, bos=bos
    )


def _check_learnt(found: Discovery, ended_by: str) -> None:
    """Keep nothing of a run that ended before its first step.

    Raises:
        Stopped: The user or a signal stopped it.
        TrainingError: The first step failed.
    """
    if found.run.records:
        return
    if found.run.interrupted:
        raise Stopped(ended_by or "SIGINT")
    raise TrainingError(found.run.stopped_by or "no step was taken")


def _show(found: Discovery, missing: dict[str, str], path: Path, *, as_json: bool) -> None:
    """Print the result."""
    from circuitgraph.cli.output import print_json
    from pruning.runs.result_folder import report_command

    circuit, run = found.circuit, found.run
    if as_json:
        ended = {"steps_taken": len(run.records), "interrupted": run.interrupted, "stopped_by": run.stopped_by}
        lacking = {"missing": missing, "again": report_command(path) if missing else None}
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
    print_findings(found.metrics["verdicts"])
    if "report" not in missing:
        print(f"Written to {path}; begin with {path / 'report.md'}")


def _end(found: Discovery, missing: dict[str, str], ended_by: str, path: Path) -> None:
    """Leave with the exit code of a run that did not do all that was asked."""
    from circuitgraph.cli.output import say
    from circuitgraph.cli.result_writer import is_loss

    n_steps = len(found.run.records)
    if ended_by:
        when = f" after {n_steps:,} steps" if found.run.interrupted else ""
        say(f"Interrupted{when}: what was learnt by then is in {path}")
        raise typer.Exit(exit_code(ended_by))
    if found.run.stopped_by:
        say(f"Error: training stopped after {n_steps:,} steps: the last good state is in {path}")
        raise typer.Exit(FAILURE)
    if is_loss(missing):
        raise typer.Exit(FAILURE)
