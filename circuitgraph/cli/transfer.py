"""`circuitgraph transfer`: circuits of some tasks on the prompts of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitgraph.cli import options
from circuitgraph.cli.option_groups import GraphOptions, grouped

if TYPE_CHECKING:
    from analysis.transfer.writing import Transfer
    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.cli.found_circuit import FoundCircuit
    from circuitgraph.compiled.model import CompiledModel
    from pruning.tasks import TaskData

_FIND = "Circuits that are found first"


@dataclass(frozen=True, kw_only=True)
class FindOptions:
    """How a circuit is found for each task where none are given."""

    by: Annotated[
        str,
        typer.Option(
            "--by", metavar="METHOD", help="What ranks edges, see `circuitgraph rank`.", rich_help_panel=_FIND
        ),
    ] = "gate-importance"
    faithfulness: Annotated[
        float,
        typer.Option(
            help="How faithful a task's circuit has to be on its validation prompts, 1 being the full model.",
            rich_help_panel=_FIND,
        ),
    ] = 0.85
    sizes: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE[,SHARE…]",
            help="Shares of all edges that are tried, from the smallest on.",
            show_default="0.001 to 1 in 17 steps",
            rich_help_panel=_FIND,
        ),
    ] = None
    zoom: Annotated[
        int,
        typer.Option(
            min=0,
            help="How many sizes between the last that is not enough and the first that is are tried besides.",
            rich_help_panel=_FIND,
        ),
    ] = 2
    seed: options.Seed = 0


@dataclass(frozen=True, kw_only=True)
class OnPrompts:
    """Which prompts, and how they run."""

    split: Annotated[str, typer.Option(help="On which prompts circuits are measured: train, validation or test.")] = (
        "test"
    )
    group: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK=KIND",
            help="The kind of a task; tasks of one kind are compared with tasks of different kinds. Again for each.",
            show_default="kinds are not compared",
        ),
    ] = None
    ablation: Annotated[
        str | None,
        typer.Option(
            help="What cut edges carry: counterfactual, zero, mean or mean-positional.",
            show_default="what the circuits were found with; else counterfactual, zero of Tracr models",
        ),
    ] = None
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per batch.")] = 16
    train_size: options.TrainSize = None
    validation_size: options.ValidationSize = None
    test_size: options.TestSize = None
    device: options.Device = "cpu"
    dtype: options.DtypeOfCircuit = None
    no_verify: options.NoVerify = False


@grouped
def transfer(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.", show_default=False)],
    how: FindOptions,
    prompts: OnPrompts,
    graph: GraphOptions,
    circuits: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CIRCUIT",
            help="Circuit files, each with a name if you like: NAME=FILE. One named like a task is that task's own. "
            "Without any, a circuit is found for each task.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", "-t", help="A task; give the option again for each.", show_default="the circuits' own"),
    ] = None,
    model: options.ModelOfCircuit = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Measure circuits on tasks: each circuit on each task's prompts, and what circuits share.

    With circuit files, any circuits of one model on any tasks. Without, a circuit is found for each task first: edges
    ranked on its training prompts, the fewest kept that are faithful enough on its validation prompts.
    Writes matrices of task × circuit and circuit × circuit, figures, the circuits and transfer.md.
    """
    import os

    from analysis.transfer.writing import Transfer, write_transfer
    from circuitgraph.cli.cache import told_as_notes
    from circuitgraph.cli.invocation import command_line
    from circuitgraph.cli.output import only_json, say
    from circuitgraph.files.reservation import reserved
    from pruning.transfer.found import circuits_of_tasks
    from pruning.transfer.measure import measure_transfer

    place = Path(os.path.realpath(out.expanduser()))
    with only_json(as_json), reserved(place) as note, told_as_notes():
        _require_free(place, overwrite=overwrite)
        if note:
            say(f"note: {note}")
        kinds, sizes = _kinds(prompts.group), _sizes(how.sizes)
        _require_ablation(prompts.ablation)
        tried = None
        if circuits:
            compiled, given, tasks = _given(circuits, task, model, prompts)
        else:
            compiled, tasks = _to_find(model, task, how, prompts, graph)
            found = circuits_of_tasks(
                compiled, tasks, how.by, faithfulness=how.faithfulness, sizes=sizes, zoom=how.zoom,
                ablation=prompts.ablation, batch_size=prompts.batch_size, seed=how.seed, say=say,
            )  # fmt: skip
            given, tried = found.circuits, found.tried
        for name, one in tasks.items():
            n = len(one.split(prompts.split))
            say(f"measuring {len(given)} circuits on {n:,} {prompts.split} prompts of {name}")
        table = measure_transfer(
            compiled, given, tasks, split=prompts.split, ablation=prompts.ablation, batch_size=prompts.batch_size
        )
        made = Transfer(table=table, circuits=given, tried=tried, groups=kinds, own=_own(given, tasks))
        page = write_transfer(made, place, command=command_line() or "")
    _tell(made, page, as_json=as_json)


def _given(
    files: Sequence[str], task: Sequence[str] | None, model: str | None, prompts: OnPrompts
) -> tuple[CompiledModel, dict[str, Circuit], dict[str, TaskData]]:
    """Saved circuits, their model and the tasks that they are measured on."""
    from circuitgraph.cli.circuit_files import comparable_circuits, named_files
    from circuitgraph.cli.found_circuit import load_found_circuit, warn_of_trained
    from circuitgraph.cli.settings import settle_sizes
    from circuitgraph.errors import ConfigurationError
    from pruning.tasks import get_task

    named = named_files(files)
    circuits = comparable_circuits(named, coarsen=False, across_checkpoints=False)
    wanted = list(dict.fromkeys(task or [str(one.provenance.get("task") or "") for one in circuits.values()]))
    if "" in wanted:
        raise ConfigurationError("a circuit does not say which task it was found for; give --task for each task")
    for name in wanted:
        get_task(name)
    found = load_found_circuit(
        next(iter(named.values())),
        model=model,
        device=prompts.device,
        dtype=prompts.dtype,
        verify=not prompts.no_verify,
    )
    sizes = settle_sizes(train=prompts.train_size, validation=prompts.validation_size, test=prompts.test_size)
    tasks = {}
    for name in wanted:
        tasks[name] = _prompts_of(name, circuits, found, sizes, prompts.ablation)
        warn_of_trained(circuits, found.compiled.tokenizer, tasks[name], prompts.split)
    return found.compiled, circuits, tasks


def _prompts_of(
    task: str,
    circuits: Mapping[str, Circuit],
    found: FoundCircuit,
    sizes: Mapping[str, int] | None,
    ablation: str | None,
) -> TaskData:
    """The prompts that a task's circuit was found with, in other numbers if asked for; else the task's usual ones."""
    from circuitgraph.cli.output import say, warn
    from pruning.evaluation.trained_on import task_of_provenance
    from pruning.prompts.swapped import NOISING, require_direction
    from pruning.tasks import get_task, load_task
    from pruning.tasks.spans import divided_as

    spans = found.circuit.universe.spans
    made = {name: one.provenance for name, one in circuits.items() if one.provenance.get("task") == task}
    if not made or (sizes and get_task(task).sizes is None):  # of the latter, sizes are refused there
        return divided_as(load_task(task, found.compiled.tokenizer, sizes=sizes, seed=found.seed), spans)
    first, *others = made
    options = {name: _options_in(about) for name, about in made.items()}
    if other := [name for name in others if _alike(options[name]) != _alike(options[first])]:
        warn(
            f"{first} and {other[0]} were found with prompts of {task} that were made in different ways; all are "
            f"measured on those of {first}"
        )
    taken = {**options[first], "sizes": {**(options[first].get("sizes") or {}), **(sizes or {})} or None}
    data = task_of_provenance({**made[first], "task_options": taken}, found.compiled.tokenizer)
    if data.direction != NOISING:
        require_direction(data.direction, ablation or circuits[first].ablation)
        say(f"note: {task} is measured by {data.direction}, as {first} was found")
    return divided_as(data, spans)


def _options_in(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """How a circuit's prompts were made, as far as it says so."""
    told = provenance.get("task_options")
    return dict(told) if isinstance(told, Mapping) else {}


def _alike(options: Mapping[str, Any]) -> dict[str, Any]:
    """What makes prompts others than more of the same, or another draw."""
    return {name: value for name, value in options.items() if name not in ("seed", "sizes")}


def _to_find(
    model: str | None, task: Sequence[str] | None, how: FindOptions, prompts: OnPrompts, graph: GraphOptions
) -> tuple[CompiledModel, dict[str, TaskData]]:
    """The model and the tasks that circuits are to be found for."""
    from circuitgraph.cli.output import say
    from circuitgraph.cli.settings import plan_model, settle_sizes
    from circuitgraph.errors import ConfigurationError
    from pruning.methods.registry import method_class
    from pruning.tasks import get_task, load_task

    if model is None or not task:
        raise ConfigurationError(
            "give circuit files, or --model and a --task for each task that one is to be found for"
        )
    method_class(how.by)
    for name in task:
        get_task(name)
    plan = plan_model(model, embeddings=graph.embeddings, kv_heads=graph.kv_heads, qkv=graph.qkv)
    say(f"loading {model}")
    loaded = plan.load(dtype=prompts.dtype or "float32", device=prompts.device)
    compiled = plan.compile(loaded, verify=not prompts.no_verify)
    sizes = settle_sizes(train=prompts.train_size, validation=prompts.validation_size, test=prompts.test_size)
    return compiled, {
        name: load_task(name, loaded.tokenizer, sizes=sizes, seed=how.seed) for name in dict.fromkeys(task)
    }


def _own(circuits: Mapping[str, Circuit], tasks: Mapping[str, TaskData]) -> dict[str, str] | None:
    """Whose circuit is whose: by name, else the one circuit that was found for a task; None where nobody's is."""
    own = {}
    for task in tasks:
        of = [name for name, one in circuits.items() if one.provenance.get("task") == task]
        if task in circuits or len(of) == 1:
            own[task] = task if task in circuits else of[0]
    return own or None


def _sizes(text: str | None) -> tuple[float, ...]:
    from circuitgraph.errors import ConfigurationError
    from pruning.transfer.smallest import SIZES

    if text is None:
        return SIZES
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigurationError(
            f"--sizes: expected shares with commas between, such as 0.01,0.1; got {text!r}"
        ) from None


def _require_ablation(name: str | None) -> None:
    """Refuse an ablation that there is not, or that every circuit has constants of its own for."""
    from circuitgraph.errors import ConfigurationError, UnknownNameError
    from circuitgraph.graph.ablations import ABLATIONS

    usable = [one for one in ABLATIONS if one != "optimal"]
    if name == "optimal":
        raise ConfigurationError(
            f"--ablation optimal: each circuit has constants of its own, learnt on one task; choose {', '.join(usable)}"
        )
    if name is not None and name not in usable:
        raise UnknownNameError.of("ablation", name, usable)


def _kinds(given: Sequence[str] | None) -> dict[str, str]:
    from circuitgraph.cli.settings import named_values

    return named_values("--group", given or [])


def _require_free(place: Path, *, overwrite: bool) -> None:
    """Refuse a folder that is taken by anything but an older result of this command."""
    from analysis.transfer.writing import PAGE
    from circuitgraph.files.whole_folder import check_free

    names = {entry.name for entry in place.iterdir()} if (place / PAGE).is_file() else set()
    check_free(place, overwrite=overwrite, names=names, what="result of transfer")


def _tell(found: Transfer, page: Path, *, as_json: bool) -> None:
    from analysis.transfer.writing import with_names
    from circuitgraph.cli.output import print_json, print_table, rows_of

    matrices = found.matrices
    if as_json:
        tables = {name: with_names(matrix, "task") for name, matrix in matrices.items()}
        told: dict[str, Any] = {
            "out": str(page.parent),
            "circuits": {name: circuit.sparsity for name, circuit in found.circuits.items()},
            "measures": found.table.drop_duplicates("task").set_index("task")["measure"].to_dict(),
            **{name.replace("-", "_"): rows_of(table) for name, table in tables.items()},
            "kinds": {
                kind: {"within": test.within, "across": test.across, "p": test.p, "n_ways": test.n_ways}
                for kind, test in found.kinds.items()
            },
        }
        print_json(told)
        return
    shown = {
        "faithfulness": "Faithfulness of circuits (columns) on tasks (rows)",
        "faithfulness-own": "The same, the task's own circuit as 1",
        "kl": "KL to the full model, in nats",
    }
    for name, title in shown.items():
        if name in matrices:
            matrix = matrices[name]
            rows = [
                [str(task), *(f"{value:.3f}" for value in row)]
                for task, row in zip(matrix.index, matrix.to_numpy(), strict=True)
            ]
            print_table(["task", *(f">{one}" for one in matrix.columns)], rows, title=title)
    for kind, test in found.kinds.items():
        print(
            f"within {kind} kind: {test.within:.3f}, across: {test.across:.3f}, p = {test.p:.3f} of {test.n_ways} ways"
        )
    print(f"Written to {page.parent}; begin with {page}")
