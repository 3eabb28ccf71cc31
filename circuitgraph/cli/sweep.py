"""`circuitgraph discover --seeds`: several seeds and sparsities in one folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from circuitgraph.cli.failures import DEBUG_VARIABLE, FAILURE, Interrupted
from circuitgraph.cli.invocation import command_line
from circuitgraph.cli.job import Job, telling_memory
from circuitgraph.cli.option_groups import EndOptions, RunOptions
from circuitgraph.cli.settings import parse_seeds
from circuitgraph.errors import ConfigurationError
from circuitgraph.stopping import TIME_LIMIT, exit_code

if TYPE_CHECKING:
    import pandas as pd

    from analysis.sweep import SweepTables
    from pruning.runs.checking.preflight import Preflight
    from pruning.runs.discovery import Discovery
    from pruning.runs.planned_sweep import PlannedSweep
    from pruning.runs.result_folder import ResultFolder
    from pruning.runs.sweep import Sweep


@dataclass(frozen=True, kw_only=True)
class SeveralSeeds:
    """What `discover` was asked for, where it is asked for several seeds.

    Attributes:
        seeds: As typed; None where they are those of the folder that is gone on in.
        out: The folder, or None.
        named: Model, task and settings by name.
        ending: What is done with it.
    """

    seeds: str | None
    out: Path | None
    named: RunOptions
    ending: EndOptions

    def place(self) -> Path:
        """The folder.

        Raises:
            ConfigurationError: None was given, or options that make no sense together.
        """
        ending = self.ending
        if self.named.seed is not None or any(
            text.partition("=")[0].strip() == "seed" for text in self.named.set_ or ()
        ):
            raise ConfigurationError("--seeds names the seeds of all trainings: leave out --seed (and --set seed=…)")
        if ending.resume is None:
            if self.out is None:
                raise ConfigurationError("where to? Give --out FOLDER; the same command goes on in it")
            return self.out
        same = self.out is None or self.out.resolve() == ending.resume.resolve()
        if not same or ending.overwrite or self.named.like is not None:
            raise ConfigurationError(
                "--resume goes on in the folder itself, with its own settings; leave out --out, --overwrite and --like"
            )
        if not (ending.resume / "sweep.json").is_file():
            raise ConfigurationError(
                f"{ending.resume} holds a single run and not several seeds (it has no sweep.json); leave out --seeds"
            )
        return ending.resume

    def planned(self, place: Path, groups: tuple[Any, ...]) -> PlannedSweep:
        """The trainings, model and prompts loaded.

        Args:
            place: The folder.
            groups: The other groups of options.
        """
        from circuitgraph.cli.output import say
        from circuitgraph.cli.result_writer import result_bytes
        from pruning.runs.load import plan_run
        from pruning.runs.planned_sweep import PlannedSweep
        from pruning.runs.result_folder import require_room
        from pruning.runs.sweep_folder import SweepFolder

        folder = SweepFolder(place.expanduser().resolve())
        folder.check(overwrite=self.ending.overwrite)
        named = self.named if self.ending.resume is None else replace(self.named, like=place)
        seeds = parse_seeds(self.seeds) if self.seeds is not None else tuple(folder.read_mark()["seeds"])
        plan = plan_run({**named.over(*groups), "seed": seeds[0]})
        say(f"loading {plan.request.model.name}")
        planned = PlannedSweep(run=plan.load(), seeds=seeds)
        n_bytes = result_bytes(plan.universe, plan.request.n_steps)
        require_room(folder.path, n_bytes * len(planned.trainings))
        if not self.ending.overwrite:
            folder.require_same(planned)
        return planned


def has_several_seeds(folder: Path | None) -> bool:
    """Whether a folder holds the trainings of several seeds.

    Args:
        folder: The folder, or None.
    """
    return folder is not None and (folder / "sweep.json").is_file()


def discover_seeds(asked: SeveralSeeds, groups: tuple[Any, ...]) -> None:
    """Train what is not there, sum it up, and show it.

    Args:
        asked: What was asked for.
        groups: The other groups of options.
    """
    from circuitgraph.cli.cache import told_as_notes
    from circuitgraph.cli.output import only_json, print_json, say
    from pruning.runs.checking.preflight import look_at

    ending = asked.ending
    place = asked.place()
    with only_json(ending.as_json):
        planned = asked.planned(place, groups)
        first = planned.run_of(planned.trainings[0])
        checked = look_at(first)
        checked.require(strict=ending.strict)
        Job(run=first).show(checked)
        say(_trainings_text(planned, checked))
        if not ending.dry_run:
            with told_as_notes(), telling_memory(first.memory.estimate), _telling_what_is_there(planned, place, ending):
                found = _run(planned, place, checked, overwrite=ending.overwrite)
            tables = _summed_up(place)
    if ending.dry_run:
        if ending.as_json:
            print_json({**Job(run=first).to_dict(), **_trainings(planned, checked), "preflight": checked.to_dict()})
        say("dry run: nothing was trained or written")
        return
    _show(found, tables, place, as_json=ending.as_json)


# -------------------------------------------------------------------- before


def _trainings(planned: PlannedSweep, checked: Preflight) -> dict[str, Any]:
    """What would be trained, for JSON."""
    seconds = None if checked.duration is None else planned.duration(checked.duration).total
    return {
        "seeds": list(planned.seeds), "sparsities": list(planned.sparsities), "ranks_for_all": planned.ranks_for_all,
        "n_trainings": len(planned.trainings), "seconds": seconds,
    }  # fmt: skip


def _trainings_text(planned: PlannedSweep, checked: Preflight) -> str:
    """How many trainings there are, why so many, and how long they take."""
    from pruning.runs.checking.duration import seconds_text

    n, n_seeds, sizes = len(planned.trainings), len(planned.seeds), planned.sparsities
    at = ", ".join(f"{sparsity:g}" for sparsity in sizes)
    seeds = f"{n_seeds} seed{'s' * (n_seeds != 1)}"
    why = f"{seeds}, each ranking cut at sparsities {at}" if planned.ranks_for_all else f"{seeds} at sparsity {at}"
    if not planned.ranks_for_all and len(sizes) > 1:
        why = f"{seeds} × {len(sizes)} sparsities ({at}), for the recipe ranks for one at a time; nested ranks for all"
    told = f"trainings: {n} ({why})"
    if checked.duration is not None:
        told += f", about {seconds_text(planned.duration(checked.duration).total)} in all"
    return told


# -------------------------------------------------------------------- running


def _run(planned: PlannedSweep, place: Path, checked: Preflight, *, overwrite: bool) -> Sweep:
    """Train and measure, each training with its pictures and its report."""
    from circuitgraph.cli.result_writer import SHOWN, tell_missing, write_shown
    from pruning.runs.shown_progress import ShownProgress
    from pruning.runs.sweep import Finish, run_sweep

    def make(folder: ResultFolder, found: Discovery) -> None:
        parts = write_shown(folder, found.circuit, found.metrics, found.curve, missing=found.missing)
        tell_missing(folder, parts.missing, {**found.errors, **parts.errors})

    finish = Finish(make=make, later=SHOWN, command=command_line())
    return run_sweep(planned, ShownProgress(), place, overwrite=overwrite, checked=checked, finish=finish)


@contextlib.contextmanager
def _telling_what_is_there(planned: PlannedSweep, place: Path, ending: EndOptions) -> Iterator[None]:
    """Where it is ended early, say what there is and how to go on.

    Raises:
        Interrupted: It was, by a signal.
        Exit: Its time was up.
    """
    from circuitgraph.cli.output import say
    from circuitgraph.stopping import Stopped
    from pruning.runs.fields import duration_text
    from pruning.runs.result_folder import resume_command
    from pruning.runs.sweep_folder import SweepFolder

    try:
        yield
    except KeyboardInterrupt as error:
        folder = SweepFolder(place.expanduser().resolve())
        done = sum(map(folder.is_done, planned.trainings))
        go_on, limit = resume_command(folder.path), planned.run.settings.time_limit_seconds
        if limit is not None:
            go_on += f" --time-limit {duration_text(limit)}"
        there = f"{done} of {len(planned.trainings)} trainings are in {folder.path}; `{go_on}` goes on"
        name = error.name if isinstance(error, Stopped) else "SIGINT"
        if name == TIME_LIMIT:
            say(f"The time limit was reached: {there}")
            raise typer.Exit(exit_code(name)) from None
        raise Interrupted(name, there) from None


def _summed_up(place: Path) -> SweepTables:
    """Write the tables over seeds, the figure and the report.

    Raises:
        Exit: They could not be written; circuits and measures are there.
    """
    from analysis.sweep import write_sweep
    from circuitgraph.cli.output import say, warn
    from circuitgraph.errors import why

    try:
        return write_sweep(place)
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        warn(f"the tables over seeds are not whole: {why(error)}")
        say(f"circuits and their measures are in {place}; the same command without --overwrite makes the rest")
        raise typer.Exit(FAILURE) from error


# -------------------------------------------------------------------- after


def _show(found: Sweep, tables: SweepTables, place: Path, *, as_json: bool) -> None:
    """Print the result."""
    from circuitgraph.cli.output import print_json, rows_of

    if as_json:
        files = sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())
        named = {"front": found.front, "summary": tables.summary, "stability": tables.stability}
        told = {name: rows_of(table) for name, table in named.items()}
        print_json({"out": str(place), "files": files, **found.about, **told})
        return
    _print_summary(tables.summary)
    _print_stability(tables.stability)
    print(f"\nWritten to {place}; begin with {place / 'report.md'}")


def _print_summary(summary: pd.DataFrame) -> None:
    """Means over seeds, and the circuits of all seeds, by sparsity."""
    from circuitgraph.cli.output import figure, print_table

    measures = list(dict.fromkeys(summary["measure"]))
    whole = summary.pivot(index=["sparsity", "which"], columns="measure", values="mean")
    called = {"seed": "one seed (mean)", "consensus": "consensus", "averaged": "averaged scores"}
    rows = [
        [f"{sparsity:g}", name, *(figure(float(whole.loc[(sparsity, which), measure])) for measure in measures)]
        for sparsity in sorted(set(summary["sparsity"]))
        for which, name in called.items()
        if (sparsity, which) in whole.index
    ]
    print()
    print_table([">sparsity", "circuit", *(f">{name.removeprefix('n_').replace('_', ' ')}" for name in measures)], rows)


def _print_stability(stability: pd.DataFrame) -> None:
    """How much seeds agree, by sparsity."""
    from circuitgraph.cli.output import figure, print_table

    if not len(stability):
        return
    table = stability.pivot(index="sparsity", columns="measure", values="value")
    rows = [
        [f"{sparsity:g}", *(figure(None if value is None else float(value)) for value in row)]
        for sparsity, *row in table[["mean_pairwise_iou", "chance_corrected"]].astype(object).itertuples()
    ]
    print("\nhow much seeds agree:")
    print_table([">sparsity", ">mean pairwise IoU", ">beyond chance"], rows)
