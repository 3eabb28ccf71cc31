"""`circuitgraph study`: the same items asked in several ways, and the circuits that answer them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitgraph.cli import options
from circuitgraph.cli.failures import DEBUG_VARIABLE, FAILURE, telling_what_is_there
from circuitgraph.cli.option_groups import (
    USUAL,
    GraphOptions,
    MachineOptions,
    MethodOptions,
    PromptOptions,
    grouped,
)
from circuitgraph.cli.settings import parse_named, parse_seeds, plan_of
from circuitgraph.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.regimes.comparison import RegimeComparison
    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.cli.study_job import StudyJob
    from circuitgraph.compiled.model import CompiledModel
    from pruning.regimes.study import Study
    from pruning.runs.load import PlannedRun
    from pruning.tasks import TaskData

_REGIMES = "The regimes"


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Which regimes, and what is measured on them."""

    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help=options.MODEL_HELP, show_default="the one that --circuit names"),
    ] = None
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "-t",
            help="A task that comes by instruction and in context, such as antonyms, capitals or boolean-expressions.",
            show_default=False,
            rich_help_panel=_REGIMES,
        ),
    ] = None
    regime: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TASK",
            help="Instead: a regime, as a task's name or a JSONL file; twice or more. Items are matched by 'group'.",
            show_default=False,
            rich_help_panel=_REGIMES,
        ),
    ] = None
    circuit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="A circuit already found for a regime; once for each seed. Such regimes are not trained.",
            show_default=False,
            rich_help_panel=_REGIMES,
        ),
    ] = None
    seeds: Annotated[
        str, typer.Option(help="Seeds of the trainings, for every regime.", rich_help_panel=options.SETTINGS)
    ] = "0,1,2"
    n_random: Annotated[
        int,
        typer.Option(
            min=0,
            help="Random circuits to measure beside each circuit and each intersection.",
            rich_help_panel=options.SETTINGS,
        ),
    ] = 5
    n_random_prompts: options.RandomPrompts = 32
    threshold: Annotated[
        float,
        typer.Option(
            help="In which share of the seeds an edge of a consensus circuit has to be at least.",
            rich_help_panel=options.SETTINGS,
        ),
    ] = 0.5
    data_seed: Annotated[
        int, typer.Option(help="Of the prompts, which are the same for all seeds.", rich_help_panel=options.PROMPTS)
    ] = 0
    set_: options.Set = None


@dataclass(frozen=True, kw_only=True)
class StudyEndOptions:
    """What is done with a study."""

    strict: options.Strict = False
    dry_run: options.DryRun = False
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Remove the study in the folder, its circuits included, and start again.",
            rich_help_panel=options.MACHINE,
        ),
    ] = False
    as_json: options.Json = False


@grouped
def study(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The folder to write, or that of a study to go on with.", show_default=False),
    ],
    asked: StudyOptions,
    method: MethodOptions,
    graph: GraphOptions,
    prompts: PromptOptions,
    machine: MachineOptions,
    ending: StudyEndOptions,
) -> None:
    """Ask for the same items in several ways, and compare the circuits that answer.

    Finds a circuit for every regime and seed, measures each circuit, what they share and what only one has on
    every regime's test prompts, and compares them. Circuits are kept as soon as they are found: stopped at any
    moment, the same command goes on with what is missing.
    """
    from circuitgraph.cli.cache import told_as_notes
    from circuitgraph.cli.output import only_json, print_json, say
    from pruning.regimes.folder import StudyFolder
    from pruning.runs.choices import read_settings

    with only_json(ending.as_json):
        chosen = dict(USUAL)
        for group in (method, graph, prompts, machine):
            chosen |= group.chosen()
        chosen |= read_settings(asked.set_ or ())
        job = _planned(asked, chosen, lambda: StudyFolder(out).check(overwrite=ending.overwrite))
        checked = job.check(strict=ending.strict)
        job.show(checked)
    if ending.dry_run:
        if ending.as_json:
            print_json({**job.to_dict(), "preflight": {name: one.to_dict() for name, one in checked.items()}})
        say("dry run: nothing was trained or written")
        return
    told = telling_what_is_there(lambda: _what_is_there(out, overwrite=ending.overwrite))
    with only_json(ending.as_json), told_as_notes(), told:
        found = job.run(out, overwrite=ending.overwrite)
        compared = _compare(found, out)
    _show(found, compared, out, as_json=ending.as_json)


def _planned(asked: StudyOptions, chosen: dict[str, Any], check_folder: Callable[[], None]) -> StudyJob:
    """The study that was asked for, its model and its prompts loaded."""
    from circuitgraph.cli.output import say
    from circuitgraph.cli.study_job import StudyJob
    from pruning.regimes.planned import StudyRequest, require_recipe
    from pruning.regimes.study import planned_study
    from pruning.runs.load import plan_with
    from pruning.runs.run import run_from

    request = StudyRequest(
        seeds=parse_seeds(asked.seeds), n_random=asked.n_random, n_random_prompts=asked.n_random_prompts,
        threshold=asked.threshold,
    )  # fmt: skip
    own = (
        "seed",
        "task.name",
        "task.seed",
        "task.options.",
        "splits",
        "n_random",
        "n_random_prompts",
        "n_effects",
        "front",
    )
    for name in chosen:
        if name.startswith(own):
            raise ConfigurationError(
                f"--set {name}: a study has its own; see --seeds, --data-seed, --task and --n-random"
            )
    circuits = _load_circuits(parse_named("--circuit", asked.circuit or []))
    names = _regime_names(asked.task, parse_named("--regime", asked.regime or []), circuits)
    chosen = {**_choices_in(circuits), **chosen}
    model = asked.model or chosen.get("model.name") or _model_of(circuits)
    plan = plan_with({**chosen, "model.name": model, "task.name": "study"}, objective="kl")
    if plan.request.task.spans:
        raise ConfigurationError("--spans: a study of regimes does not know spans of token positions; leave it out")
    require_recipe(plan.request)
    check_folder()
    say(f"loading {model}")
    compiled = plan.load_model()
    tasks = _tasks(names, circuits, compiled, plan, asked.data_seed)
    runs = {name: run_from(compiled, task, chosen) for name, task in tasks.items()}
    return StudyJob(study=planned_study(compiled, runs, circuits, request), model=model)


# -------------------------------------------------------------------- what was asked for


def _regime_names(
    task: str | None, regimes: list[tuple[str, str]], circuits: dict[str, list[Circuit]]
) -> dict[str, str | None]:
    """Each regime's task; None where its circuits have to say."""
    from pruning.regimes.study import regimes_of

    if task is not None and regimes:
        raise ConfigurationError("give --task, which names all regimes, or --regime for each of them; not both")
    if task is not None:
        return dict(regimes_of(task))
    names: dict[str, str | None] = {}
    for name, value in regimes:
        if name in names:
            raise ConfigurationError(f"--regime {name} is given twice")
        names[name] = value
    names.update({name: None for name in circuits if name not in names})
    if len(names) < 2:
        raise ConfigurationError(
            "expected at least two regimes: give --task antonyms (or another task that comes in two), or "
            "--regime NAME=TASK_OR_JSONL twice"
        )
    return names


def _load_circuits(files: list[tuple[str, str]]) -> dict[str, list[Circuit]]:
    from circuitgraph.circuits.circuit import Circuit

    loaded: dict[str, list[Circuit]] = {}
    for name, path in files:
        loaded.setdefault(name, []).append(Circuit.load(path))
    return loaded


def _model_of(circuits: dict[str, list[Circuit]]) -> str:
    """The model that given circuits name."""
    for several in circuits.values():
        for one in several:
            model = one.provenance.get("model")
            if isinstance(model, str):
                return model
    raise ConfigurationError("give --model: " + ("no circuit says which it belongs to" if circuits else "which one?"))


def _choices_in(circuits: dict[str, list[Circuit]]) -> dict[str, Any]:
    """What given circuits choose: the granularity that the model is compiled with, and their ablation if it is one."""
    from circuitgraph.graph.spans import refuse_spans

    for several in circuits.values():
        universe = several[0].universe
        refuse_spans(universe, "a study of regimes")
        chosen = {f"model.{name}": getattr(universe, name) for name in ("embeddings", "kv_heads", "qkv")}
        ablations = {one.ablation for each in circuits.values() for one in each}
        return chosen | ({"ablation": ablations.pop()} if len(ablations) == 1 else {})
    return {}


def _tasks(
    names: dict[str, str | None],
    circuits: dict[str, list[Circuit]],
    compiled: CompiledModel,
    plan: PlannedRun,
    seed: int,
) -> dict[str, TaskData]:
    """Each regime's prompts; those of circuits that name their own are made again as they were."""
    from circuitgraph.cli.found_circuit import FoundCircuit
    from pruning.regimes.study import Regime, load_regimes

    regimes: dict[str, Regime] = {}
    for name, task in names.items():
        if task is not None:
            regimes[name] = task
            continue
        first = circuits[name][0]
        found = FoundCircuit(circuit=first, provenance=first.provenance, plan=plan_of(compiled), compiled=compiled)
        regimes[name] = found.task(None)
    asked = plan.request.task
    return load_regimes(
        regimes, compiled.tokenizer, sizes=asked.sizes or None, seed=seed, chat_template=asked.chat_template,
        bos=asked.bos,
    )  # fmt: skip


# -------------------------------------------------------------------- running and telling


def _what_is_there(out: Path, *, overwrite: bool) -> str:
    """What there is of a study that was ended early, and how to go on."""
    n_circuits = len(list(out.glob("circuits/*/*/circuit.json")))
    again = "the same command without --overwrite" if overwrite else "the same command"
    return f"{n_circuits} circuits are in {out}; {again} goes on with the rest"


def _compare(found: Study, out: Path) -> RegimeComparison:
    """Write the comparison beside the circuits.

    Raises:
        Exit: It could not be written; circuits and measures are there.
    """
    from analysis import compare_regimes, write_comparison
    from circuitgraph.cli.output import say, warn
    from circuitgraph.errors import why

    say("comparing the circuits, null models by sampling included")
    compared = compare_regimes(
        found.circuits, found.faithfulness, threshold=found.about["threshold"], verdicts=found.verdicts
    )
    try:
        texts = write_comparison(compared, out)
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        warn(f"the comparison is not whole: {why(error)}")
        say(f"circuits and their measures are in {out}; the same command without --overwrite makes the rest")
        raise typer.Exit(FAILURE) from error
    for text in texts:
        warn(text)
    return compared


def _show(found: Study, compared: RegimeComparison, out: Path, *, as_json: bool) -> None:
    """Print the result."""
    from circuitgraph.cli.findings import print_findings
    from circuitgraph.cli.output import print_json, rows_of

    if as_json:
        files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
        tables = {"faithfulness": found.faithfulness, "yardstick": compared.yardstick}
        print_json(
            {"out": str(out), "files": files, **found.about, **{name: rows_of(one) for name, one in tables.items()}}
        )
        return
    _print_faithfulness(found.faithfulness)
    _print_yardstick(compared.yardstick)
    print()
    for one in found.verdicts:
        print_findings([{**one, "text": f"{one['text']} (seeds {', '.join(one['seeds'])})"}])
    print(f"\nWritten to {out}; begin with {out / 'report.md'}")


def _print_yardstick(table: pd.DataFrame) -> None:
    """Overlap within regimes and across them."""
    from circuitgraph.cli.output import figure, print_table, rows_of

    shown = ["within", "across", "difference", "p", "smallest_p"]
    cells = [[row["level"], *(figure(row[name]) for name in shown)] for row in rows_of(table)]
    print("\nmean IoU of circuits of different seeds, within a regime and across:")
    print_table(["", *(f">{name.replace('_', ' ')}" for name in shown)], cells)


def _print_faithfulness(table: pd.DataFrame) -> None:
    """Circuit × regime, means over seeds and draws."""
    from circuitgraph.cli.output import figure, print_table

    metrics = [name for name in ("kl", "mse", "accuracy", "exact_match") if name in table]
    seeds = table[table["seed"] != "consensus"]
    groups = seeds.groupby(["regime", "role", "of"], sort=False, as_index=False)
    means = groups.agg(dict.fromkeys(["n", "n_edges", *metrics], "mean"))
    rows = [dict(zip(means.columns, row, strict=True)) for row in means.itertuples(index=False)]
    for regime in dict.fromkeys(row["regime"] for row in rows):
        mine = [row for row in rows if row["regime"] == regime]
        cells = [
            [f"{row['role']} {row['of']}".strip(), f"{row['n_edges']:,.0f}", *(figure(row[name]) for name in metrics)]
            for row in mine
        ]
        print(f"\n{regime}, {mine[0]['n']:,.0f} test prompts (means over seeds):")
        print_table(["", ">edges", *(f">{name.replace('_', ' ')}" for name in metrics)], cells)
