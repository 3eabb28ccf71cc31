"""`circuitgraph discover`: the main job, from a model's name to a folder with its circuit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuitgraph.cli import options
from circuitgraph.cli.failures import FAILURE, INTERRUPTED, Interrupted
from circuitgraph.cli.figures import print_metrics
from circuitgraph.cli.invocation import command_line
from circuitgraph.cli.job import Job
from circuitgraph.cli.settings import (
    GraphChoices,
    choices_of,
    plan_model,
    settle_ablation,
    settle_objective,
    settle_recipe,
    settle_sizes,
)
from circuitgraph.errors import TrainingError

if TYPE_CHECKING:
    from circuitgraph.models import LoadedModel
    from pruning.discovery import Discovery
    from pruning.tasks import TaskData


def discover(
    model: options.Model,
    task: Annotated[str, typer.Option("--task", "-t", help=options.TASK_HELP, show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.", show_default=False)],
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Settings by name (see `circuitgraph recipes`).",
            show_default="quick; Tracr models: tracr",
            rich_help_panel=options.SETTINGS,
        ),
    ] = None,
    target_sparsity: Annotated[
        float | None,
        typer.Option(
            help="Share of edges to cut, in (0, 2]; above 1 pushes harder.",
            show_default="the recipe's",
            rich_help_panel=options.SETTINGS,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Training steps.", show_default="the recipe's", rich_help_panel=options.SETTINGS),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Prompts a step.", show_default="the recipe's", rich_help_panel=options.SETTINGS),
    ] = None,
    ablation: Annotated[
        str | None,
        typer.Option(
            help="What cut edges carry: counterfactual, zero, mean or mean-positional.",
            show_default="the recipe's, else counterfactual; Tracr models: zero",
            rich_help_panel=options.SETTINGS,
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="What is compared with the full model: kl, logit-diff, cross-entropy, mse or position-kl.",
            show_default="the recipe's, else the task's",
            rich_help_panel=options.SETTINGS,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of prompts and training.", rich_help_panel=options.SETTINGS)] = 0,
    n_random: Annotated[
        int,
        typer.Option(min=0, help="Random circuits of the same size to compare with.", rich_help_panel=options.SETTINGS),
    ] = 10,
    embeddings: options.Embeddings = None,
    kv_heads: options.KvHeads = None,
    qkv: options.Qkv = None,
    train_size: Annotated[
        int | None,
        typer.Option(help="Training prompts.", show_default="the task's", rich_help_panel=options.PROMPTS),
    ] = None,
    validation_size: Annotated[
        int | None,
        typer.Option(help="Validation prompts.", show_default="the task's", rich_help_panel=options.PROMPTS),
    ] = None,
    test_size: Annotated[
        int | None,
        typer.Option(help="Test prompts.", show_default="the task's", rich_help_panel=options.PROMPTS),
    ] = None,
    chat_template: Annotated[
        bool,
        typer.Option(
            "--chat-template",
            help="Wrap each prompt as a user's message; by default it is not.",
            rich_help_panel=options.PROMPTS,
        ),
    ] = False,
    bos: Annotated[
        str,
        typer.Option(
            help="BOS before each prompt: auto (as the tokenizer does), yes or no.",
            rich_help_panel=options.PROMPTS,
        ),
    ] = "auto",
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    cache_gib: Annotated[
        float,
        typer.Option(
            min=0,
            help="Memory for runs that never change, in GiB; 0 keeps none of them in memory.",
            rich_help_panel=options.MACHINE,
        ),
    ] = 2.0,
    disk_cache_gib: options.DiskCacheGib = 2.0,
    cache_dir: options.CacheDir = None,
    teacher_top_k: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of the full model, keep the likeliest K tokens and the mass of all others as one; for "
            "vocabularies too large for the cache.",
            show_default="the whole vocabulary",
            rich_help_panel=options.MACHINE,
        ),
    ] = None,
    memory_gib: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Memory that the run has to fit into, in GiB; it decides how many prompts run at once.",
            show_default="what is free",
            rich_help_panel=options.MACHINE,
        ),
    ] = None,
    no_verify: options.NoVerify = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check everything and show what would run; train and write nothing.",
            rich_help_panel=options.MACHINE,
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace an older result in the folder.", rich_help_panel=options.MACHINE),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Find the circuit that a model uses for a task, evaluate it and draw it.

    Writes circuit.json, metrics.json, examples.csv, curve.csv, curve.png, circuit.dot, circuit.pdf,
    circuit.svg, circuit.html (the circuit to explore in a browser), gates.safetensors and report.md into a new folder.
    """
    from circuitgraph.cli.cache import disk_cache, told_as_notes
    from circuitgraph.cli.output import only_json, print_json, say, warn
    from circuitgraph.cli.progress import watching
    from circuitgraph.cli.result_folder import ResultFolder
    from circuitgraph.cli.result_writer import result_bytes, write_result

    with only_json(as_json):
        settled = settle_recipe(
            recipe, model=model, steps=steps, target_sparsity=target_sparsity, batch_size=batch_size
        )
        sizes = settle_sizes(train=train_size, validation=validation_size, test=test_size)
        goal = settle_objective(objective, settled, task)
        chosen = GraphChoices(embeddings=embeddings, kv_heads=kv_heads, qkv=qkv)
        plan = plan_model(model, chosen.over(choices_of(settled)))
        cut = settle_ablation(ablation, settled, plan)
        n_bytes = result_bytes(plan.universe, settled.steps)
        folder = ResultFolder.check(out, overwrite=overwrite, n_bytes=n_bytes)
        say(f"loading {model}")
        loaded = plan.load(dtype=dtype, device=device)
        job = Job(
            plan=plan,
            compiled=plan.compile(loaded, verify=not no_verify),
            task=_prompts(task, loaded, sizes, seed, chat_template, bos),
            recipe=settled,
            objective=goal,
            ablation=cut,
            seed=seed,
            cache_bytes=round(cache_gib * 2**30),
            disk_cache=disk_cache(cache_dir, disk_cache_gib),
            teacher_top_k=teacher_top_k,
            memory_bytes=None if memory_gib is None else round(memory_gib * 2**30),
        )
        job.check()
        job.show()
    if dry_run:
        if as_json:
            print_json(job.to_dict())
        say("dry run: nothing was trained or written")
        return
    with only_json(as_json):
        with told_as_notes(), watching(settled.steps, goal) as watch:
            found = job.run(watch, n_random=n_random)
        _check_learnt(found)
        unwritten = write_result(found, folder, command=command_line())
    for text in (*found.diagnoses, *unwritten):
        warn(text)
    _show(found, folder.path, as_json=as_json)
    _end(found, folder.path)


def _prompts(
    task: str, loaded: LoadedModel, sizes: dict[str, int] | None, seed: int, chat_template: bool, bos: str
) -> TaskData:
    from pruning.tasks import load_task

    return load_task(task, loaded.tokenizer, sizes=sizes, seed=seed, chat_template=chat_template, bos=bos)


def _check_learnt(found: Discovery) -> None:
    """Keep nothing of a run that ended before its first step.

    Raises:
        Interrupted: The user stopped it.
        TrainingError: The first step failed.
    """
    if found.run.records:
        return
    if found.run.interrupted:
        raise Interrupted
    raise TrainingError(found.run.stopped_by or "no step was taken")


def _show(found: Discovery, path: Path, *, as_json: bool) -> None:
    """Print the result."""
    from circuitgraph.cli.output import print_json

    circuit, run = found.circuit, found.run
    if as_json:
        ended = {"steps_taken": len(run.records), "interrupted": run.interrupted, "stopped_by": run.stopped_by}
        files = sorted(file.name for file in path.iterdir())
        print_json({"out": str(path), "files": files, **ended, **found.metrics})
        return
    counts = circuit.sparsity
    print(
        f"{len(circuit):,} of {counts['n_universe']:,} edges kept ({100 * counts['effective']:.2f} % cut), "
        f"{len(circuit.heads)} heads, {len(circuit.mlps)} MLPs"
    )
    for split, figures in found.metrics["splits"].items():
        print_metrics(split, figures)
    print(f"Written to {path}; begin with {path / 'report.md'}")


def _end(found: Discovery, path: Path) -> None:
    """Leave with the exit code of a run that did not take all its steps."""
    from circuitgraph.cli.output import say

    n_steps = len(found.run.records)
    if found.run.interrupted:
        say(f"Interrupted after {n_steps:,} steps: what was learnt by then is in {path}")
        raise typer.Exit(INTERRUPTED)
    if found.run.stopped_by:
        say(f"Error: training stopped after {n_steps:,} steps: the last good state is in {path}")
        raise typer.Exit(FAILURE)
