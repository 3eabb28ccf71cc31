"""`circuitgraph components`: what each writer of a model is worth alone, under every ablation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuitgraph.cli import options
from circuitgraph.cli.option_groups import GraphOptions, grouped

if TYPE_CHECKING:
    import pandas as pd

    from circuitgraph.compiled.model import CompiledModel
    from circuitgraph.graph.universe import Universe
    from pruning.components.table import Components
    from pruning.prompts.encoding import EncodedPairs

TRAIN, TEST, LENS, ALL, CONSTANTS = "train.csv", "test.csv", "lens.csv", "components.json", "constants.safetensors"
_SHOWN = 15


@dataclass(frozen=True, kw_only=True)
class ComponentOptions:
    """Which writers, and how constants are learnt."""

    layers: Annotated[
        str | None,
        typer.Option(
            metavar="L[-M]",
            help="Heads and MLPs of these layers alone, such as 20-29, counted from 0.",
            show_default="all writers",
            rich_help_panel=options.SETTINGS,
        ),
    ] = None
    steps: Annotated[
        int, typer.Option(min=0, help="Steps in which constants are learnt.", rich_help_panel=options.SETTINGS)
    ] = 60
    starts: Annotated[
        int,
        typer.Option(
            min=0,
            help="Constants near its own outputs that each writer tries before the first step, beside zero and mean.",
            rich_help_panel=options.SETTINGS,
        ),
    ] = 8
    rate: Annotated[
        float,
        typer.Option(
            help="The first step's size, in standard deviations of what a writer says.",
            rich_help_panel=options.SETTINGS,
        ),
    ] = 0.1
    lens: Annotated[
        str | None,
        typer.Option(
            metavar="L[,L…]",
            help="Measure the optimal-constant lens at these layers, too: the model without heads above them.",
            show_default=False,
            rich_help_panel=options.SETTINGS,
        ),
    ] = None
    lens_steps: Annotated[
        int, typer.Option(min=0, help="Steps of learning for each of these layers.", rich_help_panel=options.SETTINGS)
    ] = 100
    batch_size: Annotated[
        int, typer.Option(min=1, help="Prompts per step, and run at once.", rich_help_panel=options.SETTINGS)
    ] = 8
    n_train: Annotated[
        int, typer.Option("--train-prompts", min=1, help="Training prompts at most.", rich_help_panel=options.PROMPTS)
    ] = 64
    n_test: Annotated[
        int, typer.Option("--test-prompts", min=0, help="Test prompts at most.", rich_help_panel=options.PROMPTS)
    ] = 64
    task_option: options.TaskOption = None
    seed: options.Seed = 0


@grouped
def components(
    model: options.Model,
    task: options.Task,
    out: options.ResultOut,
    how: ComponentOptions,
    graph: GraphOptions,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    no_verify: options.NoVerify = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Measure what taking each writer alone out of the model costs: zero, mean, resampled, counterfactual, optimal.

    A constant is learnt for every writer, all at once, each sample with one writer out. Writes a folder: train.csv and
    test.csv (a row per writer), components.json, constants.safetensors and, with --lens, lens.csv.
    """
    from circuitgraph.cli.output import only_json, print_json, say
    from circuitgraph.cli.settings import named_values, plan_model, task_options
    from circuitgraph.cli.tables import records
    from circuitgraph.compiled.constants import constants_bytes
    from circuitgraph.files.csv_text import csv_text
    from circuitgraph.files.plain_json import json_text
    from circuitgraph.files.reservation import reserved
    from circuitgraph.files.whole_folder import check_free, write_folder
    from pruning.components.table import component_summary
    from pruning.tasks import load_task

    place = Path(out.expanduser()).resolve()
    with only_json(as_json), reserved(place):
        check_free(place, overwrite=overwrite, names=(TRAIN, TEST, LENS, ALL, CONSTANTS), what="result of components")
        named = task_options(task, named_values("--task-option", how.task_option or []))
        plan = plan_model(
            model, embeddings=graph.embeddings, kv_heads=graph.kv_heads, qkv=graph.qkv, vectors=graph.vectors
        )
        writers, layers = _writers(plan.universe, how.layers), _layers(how.lens, plan.universe)
        say(f"loading {model}")
        loaded = plan.load(dtype=dtype, device=device)
        data = load_task(task, loaded.tokenizer, seed=how.seed, options=named)
        train, test = (data.split(name) for name in ("train", "test"))
        train, test = (train.first(how.n_train), test.first(how.n_test))
        compiled = plan.compile(loaded, verify=not no_verify)
        found, seen = _measured(compiled, train, test, writers, layers, how)
        about = {
            **compiled.identity, "task": data.name, "data_hash": data.data_hash, "measure": found.measure,
            "n_train": len(train), "n_test": len(test), "steps": how.steps, "starts": how.starts, "rate": how.rate,
            "lens_steps": how.lens_steps, "batch_size": how.batch_size, "seed": how.seed,
        }  # fmt: skip
        tables = {TRAIN: found.train, TEST: found.test, LENS: seen}
        frames = {name: frame for name, frame in tables.items() if frame is not None}
        summed = {
            f"{name.partition('.')[0]}_summary": component_summary(frames[name])
            for name in (TRAIN, TEST)
            if name in frames
        }
        whole = {name.partition(".")[0]: frame for name, frame in frames.items()} | summed
        content = {**about, **{name: records(frame) for name, frame in whole.items()}}
        files: dict[str, str | bytes] = {name: csv_text(frame) for name, frame in frames.items()}
        files[ALL] = json_text({"format_version": 1, **content})
        files[CONSTANTS] = constants_bytes(compiled, found.constants, {"task": data.name, "data_hash": data.data_hash})
        write_folder(place, files)
    if as_json:
        print_json({"out": str(place), **content})
        return
    _show(found, summed, seen)
    print(f"Written to {place}")


def _writers(universe: Universe, layers: str | None) -> list[str] | None:
    """Names of the heads and MLPs of some layers; None for all writers.

    Raises:
        ConfigurationError: No range, or no such layers.
    """
    from circuitgraph.cli.settings import parse_layers

    if layers is None:
        return None
    chosen = parse_layers("--layers", layers, universe.n_layers)
    return [name for name, layer in zip(universe.writers, universe.writer_layers, strict=True) if layer in chosen]


def _layers(text: str | None, universe: Universe) -> list[int]:
    """Layers of the lens.

    Raises:
        ConfigurationError: Something else than layers of the model.
    """
    from circuitgraph.errors import ConfigurationError

    parts = [] if text is None else [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) < universe.n_layers for part in parts):
        raise ConfigurationError(
            f"--lens: expected layers from 0 to {universe.n_layers - 1} with commas between, such as 0,1; got {text!r}"
        )
    return [int(part) for part in parts]


def _measured(
    compiled: CompiledModel,
    train: EncodedPairs,
    test: EncodedPairs,
    writers: list[str] | None,
    layers: list[int],
    how: ComponentOptions,
) -> tuple[Components, pd.DataFrame | None]:
    from circuitgraph.cli.output import say
    from pruning.components.lens import constant_lens, require_lens
    from pruning.components.table import component_table
    from pruning.runs.shown_progress import counting

    if layers:
        require_lens(compiled, train, test, layers)
    n = compiled.universe.n_writers if writers is None else len(writers)
    say(f"a constant for each of {n:,} writers, {how.steps:,} steps on {len(train):,} training prompts")
    with counting("steps") as tick:
        found = component_table(
            compiled, train, test=test, writers=writers, steps=how.steps, starts=how.starts, rate=how.rate,
            batch_size=how.batch_size, seed=how.seed, tick=tick,
        )  # fmt: skip
    if not layers:
        return found, None
    say(f"the optimal-constant lens at {len(layers):,} layers, {how.lens_steps:,} steps each")
    with counting("steps") as tick:
        seen = constant_lens(
            compiled, train, test, layers, steps=how.lens_steps, batch_size=how.batch_size, seed=how.seed, tick=tick
        )  # fmt: skip
    return found, seen


def _show(found: Components, summed: dict[str, pd.DataFrame], seen: pd.DataFrame | None) -> None:
    """The writers that matter most, and how optimal ablation compares with the others, for people."""
    from circuitgraph.cli.output import figure, print_table
    from circuitgraph.cli.tables import records
    from pruning.components.table import ABLATIONS

    rows = sorted(records(found.train), key=lambda row: -(row["optimal"] or 0.0))
    title = f"Writers that cost most, {found.measure}, on the training prompts"
    more = f" ({_SHOWN} of {len(rows)})" if len(rows) > _SHOWN else ""
    print_table(
        ["writer", *(f">{name.replace('_', ' ')}" for name in ABLATIONS), "kept"],
        [[row["writer"], *(figure(row[name]) for name in ABLATIONS), row["kept"]] for row in rows[:_SHOWN]],
        title=title + more,
    )
    for name, frame in summed.items():
        print_table(
            ["optimal against", ">median ratio", ">of writers", ">share below", ">rank correlation"],
            [
                [
                    row["ablation"].replace("_", " "), figure(row["median_ratio"]), row["n_ratio"],
                    figure(row["share_below"]), figure(row["rank_correlation"]),
                ]
                for row in records(frame)
            ],
            title=f"\n{name.partition('_')[0].capitalize()} prompts",
        )  # fmt: skip
    if seen is not None:
        names = ("optimal", "mean", "zero", "logit_lens")
        print_table(
            [">layer", *(f">{name.replace('_', ' ')}" for name in names)],
            [[row["layer"], *(figure(row[name]) for name in names)] for row in records(seen)],
            title="\nWhat layers know: distance from the full model, heads above held at constants",
        )
