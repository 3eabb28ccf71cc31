"""`circuitgraph shrink`: from a task to a small model in one command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitgraph.cli import options
from circuitgraph.cli.option_groups import GraphOptions, grouped

if TYPE_CHECKING:
    from pruning.runs.shrink import Shrunk

CIRCUIT, REPORT, MODEL = "circuit.json", "shrink.json", "model"


@dataclass(frozen=True, kw_only=True)
class ShrinkOptions:
    """What may go, and what stands for it."""

    threshold: Annotated[
        float,
        typer.Option(
            help="A head or MLP goes if the objective rises by less without it, all that went before it gone.",
            rich_help_panel=options.SETTINGS,
        ),
    ] = 0.02
    heads_only: Annotated[
        bool, typer.Option("--heads-only", help="Let no MLP go.", rich_help_panel=options.SETTINGS)
    ] = False
    ablation: Annotated[
        str | None,
        typer.Option(
            help="What stands for what is gone: mean-positional, mean (over the training prompts) or zero.",
            show_default="mean-positional where all prompts have one length, else mean; Tracr models: zero",
            rich_help_panel=options.SETTINGS,
        ),
    ] = None
    objective: Annotated[
        str | None,
        typer.Option(
            help="What must not rise: kl, logit-diff, mse, ….",
            show_default="kl; mse for numbers",
            rich_help_panel=options.SETTINGS,
        ),
    ] = None
    seed: options.Seed = 0


@dataclass(frozen=True, kw_only=True)
class ShrinkPrompts:
    """The prompts, and how they run."""

    train_size: options.TrainSize = None
    test_size: options.TestSize = None
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per batch, and prompts that are timed.")] = 16
    repeats: Annotated[int, typer.Option(min=1, help="Turns of the speed measurement.")] = 15
    device: options.Device = "cpu"
    dtype: options.Dtype = "float32"
    no_verify: options.NoVerify = False


@grouped
def shrink(
    model: options.Model,
    task: options.Task,
    out: options.ResultOut,
    how: ShrinkOptions,
    prompts: ShrinkPrompts,
    graph: GraphOptions,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Make a small model that does one task: heads and MLPs that are not needed become constants.

    Heads and MLPs are tried from the last layer to the first, and go for good where it hardly matters on the training
    prompts. Writes the small model (model/, for circuitgraph.extract.load_extracted), circuit.json, and shrink.json
    with accuracy on test prompts, size and speed next to the model's.
    """
    import os

    from circuitgraph.circuits.file import circuit_text
    from circuitgraph.cli.cache import told_as_notes
    from circuitgraph.cli.output import only_json, print_json, say
    from circuitgraph.cli.settings import plan_model, settle_sizes
    from circuitgraph.extract.saving import extracted_files
    from circuitgraph.files.reservation import reserved
    from circuitgraph.files.whole_folder import check_free, write_folder
    from pruning.execution.objectives import objective_named
    from pruning.methods.greedy_nodes import GreedyNodes
    from pruning.runs.shrink import shrink as shrunk
    from pruning.tasks import get_task, load_task

    place = Path(os.path.realpath(out.expanduser()))
    with only_json(as_json), reserved(place) as note, told_as_notes():
        check_free(place, overwrite=overwrite, names=(CIRCUIT, REPORT, MODEL), what="result of shrink")
        GreedyNodes(threshold=how.threshold)
        get_task(task)
        if how.objective is not None:
            objective_named(how.objective)
        if note:
            say(f"note: {note}")
        plan = plan_model(
            model, embeddings=graph.embeddings, kv_heads=graph.kv_heads, qkv=graph.qkv, vectors=graph.vectors
        )
        say(f"loading {model}")
        loaded = plan.load(dtype=prompts.dtype, device=prompts.device)
        compiled = plan.compile(loaded, verify=not prompts.no_verify)
        sizes = settle_sizes(train=prompts.train_size, test=prompts.test_size)
        data = load_task(task, loaded.tokenizer, sizes=sizes, seed=how.seed)
        for text in data.notes:
            say(f"note: {text}")
        found = shrunk(
            compiled, data, threshold=how.threshold, mlps=not how.heads_only, ablation=how.ablation,
            objective=how.objective, batch_size=prompts.batch_size, repeats=prompts.repeats, say=say,
        )  # fmt: skip
        report = _report(found, compiled.identity, task)
        model_files = {f"{MODEL}/{name}": content for name, content in extracted_files(found.extracted).items()}
        write_folder(place, {CIRCUIT: circuit_text(found.circuit), REPORT: _json(report), **model_files})
    if as_json:
        print_json({"out": str(place), **report})
        return
    _show(found)
    print(f"Written to {place}")


def _report(found: Shrunk, identity: dict[str, Any], task: str) -> dict[str, Any]:
    """What JSON says of it."""
    selection = found.circuit.provenance["selection"]
    return {
        **identity,
        "task": task,
        "ablation": found.circuit.ablation,
        "threshold": selection["threshold"],
        "n_tried": selection["n_tried"],
        "live_heads": list(found.extracted.live_heads),
        "live_mlps": list(found.extracted.live_mlps),
        **found.to_dict(),
    }


def _json(report: dict[str, Any]) -> str:
    import json

    return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _show(found: Shrunk) -> None:
    """Accuracy, size and speed side by side, for people."""
    from circuitgraph.cli.output import print_table

    print(found.extracted)
    model, circuit, speed = found.measures["model"], found.measures["circuit"], found.speed
    rows = [
        [name.replace("_", " "), f"{model[name]:.3f}", f"{circuit[name]:.3f}", f"{circuit[name] - model[name]:+.3f}"]
        for name in ("accuracy", "exact_match", "kl", "mse", "logit_diff", "prob_diff")
        if name in model and name in circuit
    ]
    sizes = (found.n_parameters_model, found.n_parameters)
    rows.append(["weights of layers", *(f"{size:,}" for size in sizes), f"{-100 * found.share_gone:.1f} %"])
    times = (
        ("logits everywhere", speed.model_seconds, speed.circuit_seconds, speed.ratio),
        ("asked logits alone", speed.model_asked_seconds, speed.circuit_asked_seconds, speed.ratio_asked),
    )
    for name, one, other, ratio in times:
        rows.append([name, f"{1000 * one:.1f} ms", f"{1000 * other:.1f} ms", f"{ratio:.2f} times as fast"])
    title = f"On {found.n_prompts:,} test prompts; times of {speed.n_prompts} of {speed.n_tokens} tokens"
    print_table(["", ">model", ">small model", ">difference"], rows, title=title)
    print(f"largest difference from the masked run: {found.largest_difference:.1e} of the largest logit")
