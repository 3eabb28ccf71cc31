"""`circuitgraph rank`: a score per edge of a model's graph, by a named method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitgraph.cli import options

if TYPE_CHECKING:
    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.circuits.edge_scores import EdgeScores

CIRCUIT = "circuit.json"
_SHOWN = 10
_KEPT = (
    "model", "revision", "config_hash", "weights", "dtype", "task", "data_hash", "split", "n_prompts", "objective",
    "settings", "seed", "seconds",
)  # fmt: skip


def rank(
    model: options.Model,
    task: options.Task,
    out: options.ResultOut,
    method: Annotated[
        str,
        typer.Option(
            help="eap, eap-ig, eap-ig-activations, clean-corrupted, conductance, gate-gradients or gate-importance; "
            "see docs/how-to/rank-edges.md.",
            rich_help_panel=options.SETTINGS,
        ),
    ] = "eap",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting of the method, such as steps=30 or backward=relp; may be repeated.",
            show_default="the method's own",
            rich_help_panel=options.SETTINGS,
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="What is minimised: kl, kl-top1, logit-diff, negative-logit-diff, cross-entropy, mse or position-kl. "
            "eap takes kl-top1, negative-logit-diff or cross-entropy.",
            show_default="negative-logit-diff where prompts have wrong answers, else cross-entropy; gate methods: the "
            "task's",
            rich_help_panel=options.SETTINGS,
        ),
    ] = None,
    ablation: Annotated[
        str | None,
        typer.Option(
            help="What cut edges carry: counterfactual, zero, mean or mean-positional.",
            show_default="counterfactual; Tracr models: zero",
            rich_help_panel=options.SETTINGS,
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Also write circuit.json: the N strongest edges, less those that dangle without the others.",
            show_default="no circuit",
            rich_help_panel=options.SETTINGS,
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Prompts run at once at most.", rich_help_panel=options.SETTINGS)
    ] = 8,
    seed: options.Seed = 0,
    embeddings: options.Embeddings = None,
    kv_heads: options.KvHeads = None,
    qkv: options.Qkv = None,
    train_size: options.TrainSize = None,
    chat_template: options.ChatTemplate = False,
    bos: options.Bos = "auto",
    task_option: options.TaskOption = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    no_verify: options.NoVerify = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Score every edge of a model's graph by the task's training prompts.

    Writes scores.safetensors (a number per edge), scores.json (what they are and where they came from) and, with
    --top, circuit.json into a new folder.
    """
    import os
    from pathlib import Path

    from circuitgraph.circuits.edge_scores import ABOUT, NUMBERS
    from circuitgraph.circuits.file import circuit_text
    from circuitgraph.cli.cache import told_as_notes
    from circuitgraph.cli.output import only_json, print_json, print_table, say
    from circuitgraph.cli.settings import parse_named, plan_model, settle_sizes, task_options
    from circuitgraph.files.reservation import reserved
    from circuitgraph.files.whole_folder import check_free, write_folder
    from pruning.execution.objectives import objective_named
    from pruning.runs.method_settings import method_with, read_settings
    from pruning.runs.rank import rank_edges
    from pruning.tasks import load_task

    place = Path(os.path.realpath(out.expanduser()))
    with only_json(as_json), reserved(place) as note:
        check_free(place, overwrite=overwrite, names=(NUMBERS, ABOUT, CIRCUIT), what="result of rank")
        chosen = method_with(method, read_settings(method, dict(parse_named("--set", set_ or []))))
        if objective is not None:
            objective_named(objective)
            chosen.require(objective)
        if note:
            say(f"note: {note}")
        named = task_options(task, dict(parse_named("--task-option", task_option or [])))
        plan = plan_model(model, embeddings=embeddings, kv_heads=kv_heads, qkv=qkv)
        _require_top(top, plan.universe.n_edges)
        say(f"loading {model}")
        loaded = plan.load(dtype=dtype, device=device)
        compiled = plan.compile(loaded, verify=not no_verify)
        data = load_task(
            task, loaded.tokenizer, sizes=settle_sizes(train=train_size), seed=seed, options=named,
            chat_template=chat_template, bos=bos,
        )  # fmt: skip
        for text in data.notes:
            say(f"note: {text}")
        say(
            f"ranking {compiled.universe.n_edges:,} edges by {method}, on {len(data.split('train')):,} training prompts"
        )
        with told_as_notes():
            scores = rank_edges(
                compiled, data, chosen, objective=objective, ablation=ablation, batch_size=batch_size, seed=seed,
                say=say,
            )  # fmt: skip
        circuit = _circuit(scores, top)
        files: dict[str, str | bytes] = dict(scores.files())
        if circuit is not None:
            files[CIRCUIT] = circuit_text(circuit)
        write_folder(place, files)
    if as_json:
        print_json({"out": str(place), "files": sorted(files), **_summary(scores, circuit)})
        return
    rows = [(name, f"{scores[name]:.6g}") for name in scores.top(_SHOWN)]
    print_table(("edge", ">score"), rows, title="The strongest edges")
    compared = scores.provenance["objective"]
    print(f"score: {scores.estimates} (objective {compared or 'none'}, {scores.ablation} ablation)")
    if circuit is not None:
        print(f"{len(circuit):,} of {top:,} chosen edges kept, {len(circuit.heads)} heads, {len(circuit.mlps)} MLPs")
    print(f"Written to {place}")


def _require_top(top: int | None, n_edges: int) -> None:
    """Refuse more edges than there are before anything is run."""
    from circuitgraph.errors import ConfigurationError

    if top is not None and top > n_edges:
        raise ConfigurationError(f"--top {top:,}: the model's graph has {n_edges:,} edges; ask for that many at most")


def _circuit(scores: EdgeScores, top: int | None) -> Circuit | None:
    from pruning.selection.top import top_edges

    return None if top is None else top_edges(scores, top)


def _summary(scores: EdgeScores, circuit: Circuit | None) -> dict[str, Any]:
    """What JSON says of them."""
    provenance = scores.provenance
    return {
        **{name: provenance[name] for name in _KEPT},
        **scores.about,
        "universe": scores.universe.to_dict(),
        "n_edges": len(scores),
        "sha256": scores.digest,
        "strongest": {name: scores[name] for name in scores.top(_SHOWN)},
        "sparsity": None if circuit is None else circuit.sparsity,
    }
