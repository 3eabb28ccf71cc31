"""`circuitgraph causal-trace`: what comes back when parts say again what they said before the subject was hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitgraph.cli import options
from circuitgraph.cli.option_groups import grouped

if TYPE_CHECKING:
    import pandas as pd

    from circuitgraph.compiled.model import CompiledModel
    from circuitgraph.graph.universe import Universe
    from pruning.tracing.causal_trace import CausalTrace, CausalTraceSettings

TRACE, CORRUPTIONS, PROMPTS, ALL = "trace.csv", "corruptions.csv", "prompts.csv", "trace.json"
TOKEN, FIGURE = "null-token.safetensors", "trace.png"
_SHOWN = 4
"""Rows of the table for people, for each corruption."""


@dataclass(frozen=True, kw_only=True)
class CausalTraceOptions:
    """What is hidden, what is restored, and how the null token is learnt."""

    subject: Annotated[
        str | None,
        typer.Option(
            metavar="WAY",
            help="How the subject of a prompt is found: a span that prompts name; group, the prompt's group as a text "
            "in it; or differing, the tokens in which prompt and counterfactual differ, and what is between them.",
            show_default="the span subject, else group, else differing",
            rich_help_panel=options.PROMPTS,
        ),
    ] = None
    corruptions: Annotated[
        str,
        typer.Option(
            metavar="C[,C…]",
            help="What stands instead of the subject: null_token (a learnt vector), mean (of all subjects), noise "
            "(Gaussian, of 3 standard deviations, on the subject's own embeddings).",
            rich_help_panel=options.SETTINGS,
        ),
    ] = "null_token,mean,noise"
    kinds: Annotated[
        str,
        typer.Option(
            metavar="K[,K…]", help="What is restored: attention, mlp, residual.", rich_help_panel=options.SETTINGS
        ),
    ] = "attention,mlp"
    places: Annotated[
        str,
        typer.Option(
            metavar="P[,P…]",
            help="Where: first_subject, last_subject, subject (all of its tokens), last (where the answer is asked).",
            rich_help_panel=options.SETTINGS,
        ),
    ] = "first_subject,last_subject,last"
    widths: Annotated[
        str,
        typer.Option(
            metavar="W[,W…]",
            help="Windows: so many layers on either side of the middle one.",
            rich_help_panel=options.SETTINGS,
        ),
    ] = "0,2,4"
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="L[-M]",
            help="Middle layers of windows, such as 10-19, counted from 0.",
            show_default="all",
            rich_help_panel=options.SETTINGS,
        ),
    ] = None
    each_window: Annotated[
        bool,
        typer.Option(
            "--each-window",
            help="Learn the null token anew for each window, so that it hurts least while that is restored.",
            rich_help_panel=options.SETTINGS,
        ),
    ] = False
    objective: Annotated[
        str,
        typer.Option(
            help="What the null token makes least: kl, the distance from the full model, or answer, minus the "
            "log-probability of the right answer.",
            rich_help_panel=options.SETTINGS,
        ),
    ] = "kl"
    steps: Annotated[
        int, typer.Option(min=0, help="Steps in which it is learnt.", rich_help_panel=options.SETTINGS)
    ] = 60
    rate: Annotated[
        float,
        typer.Option(
            help="The first step's size, in standard deviations of embeddings.", rich_help_panel=options.SETTINGS
        ),
    ] = 0.1
    starts: Annotated[
        int,
        typer.Option(
            min=0,
            help="Subject tokens that it may begin at, beside their mean.",
            rich_help_panel=options.SETTINGS,
        ),
    ] = 4
    draws: Annotated[int, typer.Option(min=1, help="Draws of the noise.", rich_help_panel=options.SETTINGS)] = 5
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts run at once.", rich_help_panel=options.SETTINGS)] = 8
    all_prompts: Annotated[
        bool,
        typer.Option(
            "--all-prompts",
            help="Also prompts whose right answer is not the model's first choice.",
            rich_help_panel=options.PROMPTS,
        ),
    ] = False
    n_train: Annotated[
        int,
        typer.Option(
            "--train-prompts",
            min=1,
            help="Training prompts at most: the null token is learnt on them.",
            rich_help_panel=options.PROMPTS,
        ),
    ] = 64
    n_test: Annotated[
        int,
        typer.Option("--test-prompts", min=1, help="Prompts that are traced at most.", rich_help_panel=options.PROMPTS),
    ] = 64
    task_option: options.TaskOption = None
    seed: options.Seed = 0

    def settings(self, universe: Universe) -> CausalTraceSettings:
        """The same for Python, checked against the model.

        Args:
            universe: The model's.

        Raises:
            ConfigurationError: A number out of range, no such layers, or a list that is none.
            UnknownNameError: A name that there is not.
        """
        from circuitgraph.cli.settings import parse_layers
        from circuitgraph.errors import ConfigurationError
        from pruning.tracing.causal_trace import CausalTraceSettings
        from pruning.tracing.windows import windows_of

        widths = _listed(self.widths)
        if not all(part.isdecimal() for part in widths):
            raise ConfigurationError(
                f"--widths: expected whole numbers from 0 with commas between, such as 0,2,4; got {self.widths!r}"
            )
        found = CausalTraceSettings(
            subject=self.subject, corruptions=_listed(self.corruptions), kinds=_listed(self.kinds),
            places=_listed(self.places), widths=tuple(int(part) for part in widths),
            layers=None if self.layers is None else tuple(parse_layers("--layers", self.layers, universe.n_layers)),
            each_window=self.each_window, objective=self.objective, steps=self.steps, rate=self.rate,
            starts=self.starts, draws=self.draws, known=not self.all_prompts, batch_size=self.batch_size,
            seed=self.seed,
        )  # fmt: skip
        windows_of(universe, kinds=found.kinds, places=found.places, widths=found.widths, layers=found.layers)
        return found


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


@grouped
def causal_trace(
    model: options.Model,
    task: options.Task,
    out: options.ResultOut,
    how: CausalTraceOptions,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    no_verify: options.NoVerify = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Hide the subject of prompts, put back what single layers said of it, and measure what that brings back.

    The subject's embedding is replaced by a learnt null token, by the mean of subjects, or gets noise. Then the
    attention, the MLPs or the residual stream of a window of layers say at one place what they said before. Writes a
    folder: trace.csv (a row per window), corruptions.csv, prompts.csv, trace.json, trace.png and the learnt token.
    """
    from circuitgraph.cli.failures import telling_what_is_there
    from circuitgraph.cli.output import only_json, print_json
    from circuitgraph.files.reservation import reserved
    from circuitgraph.files.whole_folder import check_free, write_folder

    place = Path(out.expanduser()).resolve()
    names = (TRACE, CORRUPTIONS, PROMPTS, ALL, TOKEN, FIGURE)
    with only_json(as_json), reserved(place):
        check_free(place, overwrite=overwrite, names=names, what="result of causal-trace")
        compiled, found, about = _traced(model, task, how, device=device, dtype=dtype, verify=not no_verify)
        tables = {TRACE: found.table, CORRUPTIONS: found.corruptions, PROMPTS: found.prompts}
        write_folder(place, _files(found, tables, about, compiled.shape.n_layers))
    with telling_what_is_there(lambda: f"the result is in {place}"):
        if as_json:
            print_json({"out": str(place), **about, **_records(tables)})
            return
        _show(found, about, compiled.shape.n_layers)
        print(f"Written to {place}")


def _traced(
    model: str, task: str, how: CausalTraceOptions, *, device: str, dtype: str, verify: bool
) -> tuple[CompiledModel, CausalTrace, dict[str, Any]]:
    """The model, the trace, and what the folder says of where it came from."""
    from dataclasses import asdict

    from circuitgraph.cli.output import say
    from circuitgraph.cli.settings import named_values, plan_model, task_options
    from pruning.runs.shown_progress import counting
    from pruning.tasks import load_task
    from pruning.tracing.causal_trace import causal_trace as traced

    named = task_options(task, named_values("--task-option", how.task_option or []))
    plan = plan_model(model, embeddings=None, kv_heads=None, qkv=None)
    settings = how.settings(plan.universe)
    say(f"loading {model}")
    loaded = plan.load(dtype=dtype, device=device)
    data = load_task(task, loaded.tokenizer, seed=how.seed, options=named)
    train, test = data.split("train"), data.splits.get("test")
    train = train.first(how.n_train)
    test = None if test is None or not len(test) else test.first(how.n_test)
    compiled = plan.compile(loaded, verify=verify)
    if test is None:
        say(f"tracing {len(train):,} training prompts at most, since the task has no test prompts")
    else:
        say(f"tracing {len(test):,} prompts at most, after {len(train):,} that the null token is learnt on")
    with counting("steps and batches") as tick:
        found = traced(compiled, train, test, settings, tick=tick)
    token = found.null_token
    about = {
        **compiled.identity, "dtype": str(compiled.dtype).removeprefix("torch."), "task": data.name,
        "data_hash": data.data_hash, "n_train": len(train),
        "n_test": 0 if test is None else len(test), "n_traced": len(found.prompts),
        "subject": found.subject, "settings": asdict(settings),
        "null_token": None if token is None else {"kept": token.kept, "losses": token.losses},
    }  # fmt: skip
    return compiled, found, about


def _records(tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    from circuitgraph.cli.tables import records

    return {name.partition(".")[0]: records(frame) for name, frame in tables.items()}


def _files(
    found: CausalTrace, tables: dict[str, pd.DataFrame], about: dict[str, Any], n_layers: int
) -> dict[str, str | bytes]:
    """The content of every file by its name."""
    import json

    import numpy as np
    from safetensors.torch import save

    from analysis.figures.style import figure_bytes
    from analysis.figures.tracing import causal_trace_figure
    from circuitgraph.files.csv_text import csv_text
    from circuitgraph.files.plain_json import json_text

    files: dict[str, str | bytes] = {name: csv_text(frame) for name, frame in tables.items()}
    files[ALL] = json_text({"format_version": 1, **about, **_records(tables)})
    if np.isfinite(found.table["probability_share"].to_numpy(dtype=float)).any():
        width = _drawn_width(about["settings"]["widths"], n_layers)
        files[FIGURE] = figure_bytes(causal_trace_figure(found.table, width=width, n_layers=n_layers), "png")
    if found.null_token is not None:
        told = json.dumps(about, allow_nan=False, sort_keys=True)
        value = found.null_token.value.detach().cpu().contiguous()
        files[TOKEN] = save({"null_token": value}, metadata={"format_version": "1", "about": told})
    return files


def _drawn_width(widths: Sequence[int], n_layers: int) -> int:
    """The middle one of those whose windows are smaller than the model; else the narrowest."""
    fitting = sorted(width for width in widths if 2 * width + 1 <= n_layers) or [min(widths)]
    return fitting[len(fitting) // 2]


def _show(found: CausalTrace, about: dict[str, Any], n_layers: int) -> None:
    """What hiding costs, and the windows that bring back most, for people."""
    from circuitgraph.cli.output import figure, print_table
    from circuitgraph.cli.tables import records

    example = found.prompts.iloc[0]
    print(f"{len(found.prompts):,} prompts; subject: {found.subject}, such as {example['subject']!r}")
    print_table(
        ["subject hidden by", ">probability", ">of clean", ">KL", ">KL, training prompts"],
        [
            [row["corruption"], *(figure(row[name]) for name in ("probability", "clean_probability", "kl", "train_kl"))]
            for row in records(found.corruptions)
        ],
    )
    rows = sorted(records(found.table), key=lambda row: row["width"])
    for corruption in about["settings"]["corruptions"]:
        different: dict[
            tuple[str, ...], dict[str, Any]
        ] = {}  # windows that end with the model may hold the same layers
        for row in rows:
            if row["corruption"] == corruption and row["probability_share"] is not None:
                different.setdefault((row["kind"], row["place"], _window(row, n_layers)), row)
        own = sorted(different.values(), key=lambda row: -row["probability_share"])
        if not own:
            print(f"\nSubject hidden by {corruption}: no probability was lost, so there are no shares of it")
            continue
        more = f" ({min(_SHOWN, len(own))} of {len(own)})" if len(own) > _SHOWN else ""
        print_table(
            ["restored", "at", ">layers", ">probability back", ">KL back"],
            [
                [
                    row["kind"], row["place"].replace("_", " "), _window(row, n_layers),
                    figure(row["probability_share"]), figure(row["kl_share"]),
                ]
                for row in own[:_SHOWN]
            ],
            title=f"\nWhat brings back most, subject hidden by {corruption}{more}",
        )  # fmt: skip


def _window(row: dict[str, Any], n_layers: int) -> str:
    first, last = max(0, row["layer"] - row["width"]), min(n_layers - 1, row["layer"] + row["width"])
    return f"{first}-{last}" if first < last else f"{first}"
