"""`circuitgraph check`: before a night of training, whether it can give anything, and what it will cost."""

from __future__ import annotations

from typing import Annotated

import typer

from circuitgraph.cli import options
from circuitgraph.cli.failures import USAGE
from circuitgraph.cli.findings import print_findings


def check(
    model: options.Model,
    task: options.Task,
    recipe: options.Recipe = None,
    target_sparsity: options.TargetSparsity = None,
    steps: options.Steps = None,
    batch_size: options.BatchSize = None,
    ablation: options.Ablation = None,
    objective: options.Objective = None,
    seed: Annotated[int, typer.Option(help="Of the prompts.", rich_help_panel=options.PROMPTS)] = 0,
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
    sample: Annotated[
        int,
        typer.Option(
            min=1,
            help="Prompts that the model is run on, about, spread over the splits.",
            rich_help_panel=options.PROMPTS,
        ),
    ] = 48,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    cache_gib: options.CacheGib = 2.0,
    teacher_top_k: options.TeacherTopK = None,
    memory_gib: options.MemoryGibOfRun = None,
    no_verify: options.NoVerify = False,
    strict: options.Strict = False,
    as_json: options.Json = False,
) -> None:
    """Check a model, a task and settings before any training.

    Takes the options of `discover`, and ends with code 2 where that would not begin: prompts that cannot run,
    answers that the objective cannot compare, more than memory holds. What may make a result mean less than it seems
    to is said as a doubt, with what to do; --strict makes doubts errors.
    """
    from circuitgraph.cli.cache import disk_cache
    from circuitgraph.cli.job import Job
    from circuitgraph.cli.output import only_json, print_json, print_table
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
    )  # fmt: skip
    from pruning.tasks import load_task

    with only_json(as_json):
        settled = settle_recipe(
            recipe, model=model, steps=steps, target_sparsity=target_sparsity, batch_size=batch_size
        )
        chosen_options = task_options(task, dict(parse_named("--task-option", task_option or [])))
        goal = settle_objective(objective, settled, task)
        sizes = settle_sizes(train=train_size, validation=validation_size, test=test_size)
        chosen = GraphChoices(embeddings=embeddings, kv_heads=kv_heads, qkv=qkv)
        plan = plan_model(model, chosen.over(choices_of(settled)))
        loaded = plan.load(dtype=dtype, device=device)
        job = Job(
            plan=plan,
            compiled=plan.compile(loaded, verify=not no_verify),
            task=load_task(
                task, loaded.tokenizer, sizes=sizes, seed=seed, options=chosen_options, chat_template=chat_template,
                bos=bos,
            ),
            recipe=settled,
            objective=goal,
            ablation=settle_ablation(ablation, settled, plan),
            seed=seed,
            cache_bytes=round(cache_gib * 2**30),
            disk_cache=disk_cache(None, 0.0),
            teacher_top_k=teacher_top_k,
            memory_bytes=None if memory_gib is None else round(memory_gib * 2**30),
        )  # fmt: skip
        found = job.look(n_random=n_random, n_random_prompts=n_random_prompts, sample=sample)
    stopped = bool(found.errors) or (strict and bool(found.doubts))
    if as_json:
        print_json({**found.to_dict(), "notes": list(job.task.notes), "strict": strict, "passed": not stopped})
    else:
        rows = [("model", found.model), ("task", f"{found.task}, compared by {found.objective}"), *found.rows()]
        print_table(("what", "found"), [*rows, *(("note", note) for note in job.task.notes)])
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
