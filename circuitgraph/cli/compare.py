"""`circuitgraph compare`: what saved circuits share, and whether that is more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuitgraph.cli import table_options
from circuitgraph.cli.compare_tables import SAMPLED, changes, matrix_table, overlap_table, sizes, test_table

if TYPE_CHECKING:
    import pandas as pd

    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.cli.on_task import OnTaskResult

_ALL, _NONE = "all", "none"
_FEW_EDGES = 10_000
_FEW_SAMPLES = 199
_CORRECTIONS = {"holm": "holm", "bh": "benjamini-hochberg", "benjamini-hochberg": "benjamini-hochberg", _NONE: None}
_NULLS, _PROMPTS = "Null models", "On a task's prompts"


Levels = Annotated[
    list[str] | None,
    typer.Option(
        "--level", help="What is counted: edges, nodes, heads or layers. May be repeated.", show_default="all four"
    ),
]
Nulls = Annotated[
    list[str] | None,
    typer.Option(
        "--null",
        help="What chance is: hypergeometric (any edges), stratified (as many between the same layers and kinds), "
        "degree-preserving (each node keeps its number of edges; sampled, edges alone) or all. May be repeated.",
        show_default=f"all; degree-preserving only for circuits of {_FEW_EDGES:,} edges together at most, which takes "
        "seconds",
        rich_help_panel=_NULLS,
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="For degree-preserving; its p is at least 1 / (1 + samples). 999 samples of two circuits of 5,000 edges "
        "take some 20 seconds.",
        show_default=str(_FEW_SAMPLES),
        rich_help_panel=_NULLS,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of the samples.", rich_help_panel=_NULLS)]
Alternative = Annotated[
    str, typer.Option(help="Whether they share greater, less, or either (two-sided).", rich_help_panel=_NULLS)
]
Correct = Annotated[
    str,
    typer.Option(
        help="Adjust the p-values of each null for being many: holm, bh (Benjamini-Hochberg) or none.",
        rich_help_panel=_NULLS,
    ),
]
Matrix = Annotated[
    str | None,
    typer.Option(
        help="Also one measure for all pairs as a square: iou, intersection, overlap_coefficient, containment, "
        "spearman or kendall, at the first level.",
        show_default="no matrix",
    ),
]
OnTaskOption = Annotated[
    str | None,
    typer.Option(
        "--on-task",
        metavar="[TASK]",
        help="Also measure all circuits on the same prompts: which is closer to the model, and by how much. Without a "
        "name, the task that the first circuit was found for. This loads the model.",
        show_default="no model is loaded",
        rich_help_panel=_PROMPTS,
    ),
]
Split = Annotated[
    str | None,
    typer.Option(help="train, validation or test.", show_default="test", rich_help_panel=_PROMPTS),
]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Which model runs.", show_default="the circuits' own", rich_help_panel=_PROMPTS),
]
AblationOnTask = Annotated[
    str | None,
    typer.Option(
        "--ablation",
        help="What cut edges carry: counterfactual, zero, mean or mean-positional.",
        show_default="what the circuits were found with",
        rich_help_panel=_PROMPTS,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(min=1, help="Prompts per batch.", show_default="16", rich_help_panel=_PROMPTS),
]
DeviceOnTask = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:N or mps.", show_default="cpu", rich_help_panel=_PROMPTS)
]
DtypeOnTask = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="float32, float64, bfloat16 or float16.",
        show_default="the first circuit's",
        rich_help_panel=_PROMPTS,
    ),
]


def compare(
    circuits: table_options.CircuitFiles,
    level: Levels = None,
    null: Nulls = None,
    samples: Samples = None,
    seed: Seed = 0,
    alternative: Alternative = "greater",
    correct: Correct = "holm",
    matrix: Matrix = None,
    on_task: OnTaskOption = None,
    split: Split = None,
    model: Model = None,
    ablation: AblationOnTask = None,
    batch_size: BatchSize = None,
    device: DeviceOnTask = None,
    dtype: DtypeOnTask = None,
    across_checkpoints: table_options.AcrossCheckpoints = False,
    coarsen: table_options.Coarsen = False,
    as_json: table_options.JsonTables = False,
    as_csv: table_options.Csv = False,
    as_latex: table_options.Latex = False,
    as_markdown: table_options.Markdown = False,
    out: table_options.TablesOut = None,
) -> None:
    """Compare two or more circuits: what they share, and whether it is more than chance.

    Loads no model, but for --on-task. With --across-checkpoints, two circuits are also compared as before and after:
    what is kept, gained and lost. CSV has a row per pair, level and null;
    with --on-task, a row per pair and measure.
    """
    from circuitgraph.cli.circuit_files import about_circuits, comparable_circuits, named_files
    from circuitgraph.cli.on_task import refuse_without
    from circuitgraph.cli.tables import TableFormat

    how = (("--split", split), ("--model", model), ("--ablation", ablation), ("--batch-size", batch_size))
    refuse_without(on_task, (*how, ("--device", device), ("--dtype", dtype)))
    files = named_files(circuits)
    into = TableFormat.of(
        as_json=as_json, as_csv=as_csv, as_latex=as_latex, as_markdown=as_markdown, out=out,
        inputs=list(files.values()),
    )  # fmt: skip
    with into.alone():
        correction = _correction(correct)
        found = comparable_circuits(files, coarsen=coarsen, across_checkpoints=across_checkpoints)
        _warn_of_ablations(found)
        _warn_of_empty(found)
        nulls = _nulls_by_level(level, null, found, wants_samples=samples is not None)
        sampling = {"n_samples": samples or _FEW_SAMPLES, "seed": seed}
        overlap = _overlap(found, list(nulls), across_checkpoints)
        tests = _tests(found, nulls, correction, alternative, sampling, across_checkpoints)
        tables = [overlap_table(overlap), test_table(tests, correction)]
        tables += changes(found) if across_checkpoints and len(found) == 2 else []
        tables += [matrix_table(found, matrix, next(iter(nulls)), across_checkpoints)] if matrix is not None else []
        measured = None
        if on_task is not None:
            measured = _on_task(
                found, files, coarsen, task=on_task, split=split, model=model, ablation=ablation,
                batch_size=batch_size, device=device, dtype=dtype,
            )  # fmt: skip
            tables += measured.tables
    csv = _joined(overlap, tests) if measured is None else measured.differences
    about = {
        "circuits": about_circuits(found, files),
        "universe": next(iter(found.values())).universe.to_dict(),
        "settings": {
            "alternative": alternative, "correction": correction, **sampling,
            "across_checkpoints": across_checkpoints, "coarsen": coarsen,
        },
        **({} if measured is None else {"on_task": measured.about}),
    }  # fmt: skip
    into.write(tables, about=about, first=sizes(found), csv=csv)


def _on_task(
    circuits: Mapping[str, Circuit],
    files: Mapping[str, Path],
    coarsen: bool,
    *,
    task: str,
    split: str | None,
    model: str | None,
    ablation: str | None,
    batch_size: int | None,
    device: str | None,
    dtype: str | None,
) -> OnTaskResult:
    """Measure the circuits on a task's prompts."""
    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.cli.on_task import OnTask
    from circuitgraph.errors import ConfigurationError

    if coarsen and any(Circuit.load(files[name]).universe != one.universe for name, one in circuits.items()):
        raise ConfigurationError(
            "--on-task measures circuits as they are, and --coarsen maps some of them onto another graph; leave one out"
        )
    asked = OnTask(
        task=task, model=model, split=split or "test", ablation=ablation, batch_size=batch_size or 16,
        device=device or "cpu", dtype=dtype, verify=True,
    )  # fmt: skip
    return asked.measure(circuits, files)


# -------------------------------------------------------------------- what is asked


def _correction(asked: str) -> str | None:
    from circuitgraph.errors import UnknownNameError

    if asked not in _CORRECTIONS:
        raise UnknownNameError.of("correction", asked, _CORRECTIONS)
    return _CORRECTIONS[asked]


def _nulls_by_level(
    levels: Sequence[str] | None,
    asked: Sequence[str] | None,
    circuits: Mapping[str, Circuit],
    *,
    wants_samples: bool,
) -> dict[str, tuple[str, ...]]:
    """Which nulls are tested at each level.

    A null that is asked for by name is tested at every level that is, which may be refused; what nobody asked for
    is tested where it applies.
    """
    from analysis.overlap.levels import LEVELS
    from analysis.overlap.tables import NULLS, applicable_nulls

    by_name = tuple(dict.fromkeys(asked or ()))
    if _ALL in by_name or not by_name:
        chosen = NULLS if by_name or wants_samples or _quickly_sampled(circuits, levels or LEVELS) else NULLS[:-1]
        by_name = ()
    else:
        chosen = by_name
    if by_name and levels:
        return dict.fromkeys(levels, by_name)
    return {
        level: tuple(null for null in chosen if null in applicable_nulls(level) or null not in NULLS)
        for level in levels or LEVELS
    }


def _quickly_sampled(circuits: Mapping[str, Circuit], levels: Sequence[str]) -> bool:
    """Whether circuits are small enough for samples that nobody asked for; if not, say so."""
    from circuitgraph.cli.output import say

    n_edges = sum(len(circuit) for circuit in circuits.values())
    if n_edges > _FEW_EDGES and "edges" in levels:
        say(
            f"the {SAMPLED} null was left out: the circuits have {n_edges:,} edges together, and it would take a "
            "while; --null all asks for it"
        )
    return n_edges <= _FEW_EDGES


def _warn_of_ablations(circuits: Mapping[str, Circuit]) -> None:
    from circuitgraph.cli.output import warn

    found = {circuit.ablation: name for name, circuit in circuits.items()}
    if len(found) > 1:
        told = ", ".join(f"{name} {ablation}" for ablation, name in found.items())
        warn(f"the circuits were found under different ablations ({told})")


def _warn_of_empty(circuits: Mapping[str, Circuit]) -> None:
    from circuitgraph.cli.output import visible, warn

    empty = [visible(name) for name, circuit in circuits.items() if not len(circuit)]
    if empty:
        warn(f"{', '.join(empty)}: without any edge; what it shares says nothing (two empty sets are equal)")


# -------------------------------------------------------------------- tables


def _overlap(circuits: Mapping[str, Circuit], levels: Sequence[str], across_checkpoints: bool) -> pd.DataFrame:
    from analysis.overlap.tables import overlap_table

    return overlap_table(circuits, levels=levels, across_checkpoints=across_checkpoints)


def _tests(
    circuits: Mapping[str, Circuit],
    nulls: Mapping[str, tuple[str, ...]],
    correction: str | None,
    alternative: str,
    sampling: Mapping[str, int],
    across_checkpoints: bool,
) -> pd.DataFrame:
    """The tests of all levels, with adjusted p-values where they are asked for."""
    import pandas as pd

    from analysis.overlap.families import adjust_p_values
    from analysis.overlap.tables import overlap_tests

    found = [
        overlap_tests(
            circuits, level=level, nulls=chosen, alternative=alternative, across_checkpoints=across_checkpoints,
            **sampling,
        )
        for level, chosen in nulls.items()
        if chosen
    ]  # fmt: skip
    tests = pd.concat(found, ignore_index=True)
    return tests if correction is None else adjust_p_values(tests, method=correction, by="null")


def _joined(overlap: pd.DataFrame, tests: pd.DataFrame) -> pd.DataFrame:
    """Both tables in one: a row per pair, a level and a null."""
    return overlap.merge(tests.drop(columns="observed"), on=["a", "b", "level"], how="left", validate="one_to_many")
