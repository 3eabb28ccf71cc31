"""The main job in one call: train gates, keep edges, measure the circuit, and say where it came from.

1. check: what cannot work is refused before any work (`check_run`);
2. train: frozen runs, then the gates (`train_gates`);
3. keep: which edges the circuit has (`keep_edges`); with `out`, gates and circuit are on disk from here on;
4. later parts, each of which may fail or be left out alone (`pruning.runs.parts`): the evaluation of each split.

Every part that is added to a result goes into the fourth stage, as a part with a name.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Unpack

import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, IncompleteResultWarning, UnknownNameError
from circuitgraph.files.csv_text import csv_text
from circuitgraph.memory.peak import peak_rss_bytes
from circuitgraph.stopping import Stop, stopping
from circuitgraph.torch_state import with_gradients
from pruning.evaluation.card import metrics_line
from pruning.evaluation.tables import metrics_table
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.loop import TrainingRun
from pruning.methods.edge_pruning.recipes import Recipe
from pruning.runs.card import discovery_card
from pruning.runs.checking.preflight import Preflight, look_before
from pruning.runs.choices import RUN_FILE
from pruning.runs.decide import run_text
from pruning.runs.diagnose import diagnose
from pruning.runs.front import front_table
from pruning.runs.measuring import Measuring, measured_parts
from pruning.runs.parts import Parts
from pruning.runs.progress import Progress, Watch, progress_for
from pruning.runs.provenance import provenance_of
from pruning.runs.request import RunRequest
from pruning.runs.result_files import CURVE, GATES, front_file, gates_file
from pruning.runs.result_folder import ResultFolder, report_command
from pruning.runs.run import Run, RunChoices, run_of
from pruning.runs.settings import RunSettings
from pruning.runs.stages import Kept, Trained, check_run, how_evaluated, keep_edges, train_gates
from pruning.runs.verdicts import verdicts
from pruning.tasks import TaskData


@dataclass(frozen=True, kw_only=True, repr=False)
class Discovery:
    """What `discover` gives back.

    Attributes:
        circuit: The circuit, with its provenance.
        metrics: `sparsity`, `splits` (by split, role and metric), `seconds`, `peak_rss_bytes`, `frozen_runs`
            (prompts by where their runs came from), `verdicts` (what the figures say against the run, see
            `pruning.runs.verdicts`).
        examples: A row a test prompt.
        curve: A row a training step.
        diagnoses: What may be wrong, in words.
        run: The training run with its gates.
        request: What was asked for.
        settings: How it was done.
        circuits: Further circuits of the same ranking, by the sparsity asked for.
        missing: Why a part of the result is not there, by part, such as `evaluation:test`; empty where all are.
        errors: What was raised, by part, of those that failed.
    """

    circuit: Circuit
    metrics: dict[str, Any]
    examples: pd.DataFrame
    curve: pd.DataFrame
    diagnoses: tuple[str, ...]
    run: TrainingRun
    request: RunRequest
    settings: RunSettings
    circuits: Mapping[float, Circuit] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, Exception] = field(default_factory=dict)

    @property
    def verdicts(self) -> tuple[str, ...]:
        """What the figures say against the result, in words, the gravest first; see `pruning.runs.verdicts`."""
        return tuple(one["text"] for one in self.metrics.get("verdicts", []))

    def table(self, split: str = "test") -> pd.DataFrame:
        """The metrics of a split as a table, see `pruning.metrics_table`.

        Raises:
            UnknownNameError: That split was not evaluated.
        """
        by_split = self.metrics["splits"]
        if split not in by_split:
            raise UnknownNameError.of("evaluated split", split, by_split, self.missing.get(f"evaluation:{split}", ""))
        return metrics_table(by_split[split])

    @property
    def front(self) -> pd.DataFrame:
        """The measures of `circuits`, a row each; see `pruning.runs.front`. Empty where none were asked for."""
        return front_table(self.metrics.get("front", []))

    def __repr__(self) -> str:
        by_split = self.metrics["splits"]
        told = "".join(f"; {split}: {metrics_line(by_role)}" for split, by_role in by_split.items())
        missing = f"; missing: {', '.join(self.missing)}" if self.missing else ""
        against = f"; verdicts against it: {len(self.verdicts)}, see .verdicts" if self.verdicts else ""
        return f"<Discovery of {self.circuit!r}{told}{missing}{against}>"

    def _repr_html_(self) -> str:
        return discovery_card(
            self.circuit, self.metrics, n_steps=len(self.run.records), warnings=[*self.verdicts, *self.diagnoses]
        )


class DiscoverChoices(RunChoices, total=False):
    """What may be given to `discover` by keyword beside its own."""

    preflight: Preflight | None
    watch: Watch | None
    say: Callable[[str], None] | None


@with_gradients
def discover(
    compiled: CompiledModel,
    task: TaskData,
    recipe: Recipe | str | None = None,
    *,
    out: str | Path | ResultFolder | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | bool | None = None,
    **choices: Unpack[DiscoverChoices],
) -> Discovery:
    """Find the circuit that a model uses for a task.

    Once the gates are trained nothing of them is lost: what fails after that is left out, is in `missing` of what is
    given back, and is warned of. Ctrl-C, SIGTERM and SIGHUP end the stage that runs and keep what there is; training
    ends with the circuit learnt so far, which is not evaluated then. Asked a second time, the call ends at once.

    Args:
        compiled: The model.
        task: The prompts.
        recipe: The settings, or the name of a recipe; by default `tracr` for compiled programs, else `quick`.
        out: A folder to keep the result in, as `circuitgraph discover --out` does: gates and circuit before anything
            is evaluated, then the measures. `circuitgraph report` adds its pictures and its report. None keeps nothing
            on disk.
        overwrite: Whether an older result there may be replaced; it stays until the new circuit is safe.
        resume: Whether a run in `out` that was ended goes on from its last checkpoint, to the same bits; where there
            is none yet it begins. Another model, other prompts or other settings are refused.
        progress: True shows how far the run is, False does not; by default it is shown in a notebook and on a
            terminal, unless `watch` or `say` are given. Or a `pruning.runs.progress.Progress` of your own.
        choices: Settings of the run by name: those of what is asked for (`pruning.runs.request.RunRequest`:
            `objective`, `ablation`, `seed`, `splits`, `n_random`, `n_random_prompts`, `n_effects`, `teacher_top_k`),
            of how it is done (`pruning.runs.settings.RunSettings`: `memory_bytes`, `cache_bytes`, `micro_batch`,
            `recompute`, `replay`; `disk_cache` takes a `pruning.DiskCache`), and of the recipe (`steps`,
            `target_sparsity`, `batch_size` …), which change it. `watch` is called after every step, `say` with a line
            at the start of each stage, and with each doubt. `preflight` is what `pruning.preflight` found, where it
            was called before; by default it is called here.

    Returns:
        The circuit, its measures and its provenance.

    Raises:
        ConfigurationError: Settings that cannot work together.
        UnknownNameError: No such setting; the nearest are named.
        OutputError: `out` is there already, is reserved by another run, or cannot be made.
        CheckpointError: The run in `out` is another, is finished, or its checkpoints are damaged.
        KeyboardInterrupt: It was stopped before training began, or a second time.

    Warns:
        IncompleteResultWarning: Parts are missing.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> from pruning import load_task
        >>> loaded = load_model("tracr:reverse")
        >>> task = load_task("tracr-reverse", loaded.tokenizer, options={"max_length": 3})
        >>> found = discover(
        ...     compile_model(loaded, embeddings="split"), task, steps=3, n_random=0, splits=(), progress=False
        ... )
        >>> found.circuit.provenance["recipe"]["name"], found.circuit.ablation, len(found.run.records)
        ('tracr', 'zero', 3)
    """
    given: dict[str, Any] = dict(choices)
    checked = given.pop("preflight", None)
    if not isinstance(checked, Preflight | None):
        raise ConfigurationError(f"preflight must be what pruning.preflight gave, or None; got {checked!r}")
    shown = progress_for(progress, given.pop("watch", None), given.pop("say", None))
    run = run_of(compiled, task, recipe, given)
    found = run_discovery(run, shown, out=out, overwrite=overwrite, resume=resume, checked=checked)
    if found.missing and not isinstance(out, ResultFolder):
        warnings.warn(_incomplete(found, None if out is None else Path(out)), IncompleteResultWarning, stacklevel=2)
    return found


@with_gradients
def run_discovery(
    run: Run,
    progress: Progress,
    *,
    out: str | Path | ResultFolder | None = None,
    overwrite: bool = False,
    resume: bool = False,
    checked: Preflight | None = None,
    frozen: FrozenRuns | None = None,
) -> Discovery:
    """Find the circuit of a run that is decided; see `discover`.

    Args:
        run: The run.
        progress: Told how far it is.
        out: A folder to keep the result in, or None.
        overwrite: Whether an older result there may be replaced.
        resume: Whether a run there that was ended goes on.
        checked: What was found before the run, where it was looked for.
        frozen: As of `train_gates`.

    Raises:
        ConfigurationError: Settings that cannot work together.
        OutputError: `out` cannot be made.
        KeyboardInterrupt: It was stopped before training began, or a second time.
    """
    if resume and (out is None or overwrite):
        raise ConfigurationError("resume=True goes on in a folder: give it as out, and leave out overwrite")
    check_run(run)
    checked = checked or look_before(run, progress)
    checked.require()
    limited = run.settings.working_seconds
    with stopping() as stop, stop.limited(limited), _opened(out, overwrite, resume) as folder, stop.held():
        return run_stages(run, checked, folder, progress, stop, frozen)


def run_stages(
    asked: Run,
    checked: Preflight,
    folder: ResultFolder | None,
    progress: Progress,
    stop: Stop,
    frozen: FrozenRuns | None = None,
) -> Discovery:
    """Train, keep, and make the later parts, each kept before the next begins.

    Args:
        asked: The run.
        checked: What was looked at before.
        folder: Where the result is kept, or None.
        progress: Told how far the run is.
        stop: Who asked the run to stop.
        frozen: As of `train_gates`.
    """
    began = time.perf_counter()
    run, request = asked.fitted(checked.memory), asked.request
    trained = train_gates(run, progress, stop, folder, frozen)
    if folder is not None:
        folder.ended_early = trained.run.goes_on
    parts = Parts(
        stop, ("gates", "circuit", *measured_parts(run.splits, request.n_effects, request.sparsities), "verdicts")
    )
    if not trained.run.records:
        folder = None  # of gates as they began nothing is kept
    curve = pd.DataFrame([asdict(record) for record in trained.run.records])
    parts.attempt("gates", lambda: _keep_gates(folder, asked, trained, curve), cheap=True)
    kept = keep_edges(run, trained.run, progress, stop)
    if folder is not None and kept.trouble and stop.asked:
        folder.ended_early = True
    measuring = Measuring(
        compiled=run.compiled,
        task=run.task,
        circuit=kept.circuit,
        raw_edges=kept.raw_edges,
        n_random=request.n_random,
        n_random_prompts=request.n_random_prompts,
        n_effects=request.n_effects,
        seed=request.seed,
        provenance=provenance_of(run, trained),
        metrics={**_first_metrics(trained, kept), "preflight": checked.to_dict()},
        folder=folder,
        progress=progress,
        front=kept.front,
    )

    def judge() -> None:
        measuring.metrics |= _judged(run, trained, kept, measuring.metrics)

    parts.attempt("verdicts", judge, cheap=True)
    parts.attempt("circuit", lambda: _keep_circuit(measuring), cheap=True)
    measuring.keep_state(parts, evaluation=how_evaluated(run, kept))
    measuring.run(parts)
    measuring.metrics |= {"seconds": time.perf_counter() - began, "peak_rss_bytes": peak_rss_bytes()}
    measuring.metrics["verdicts"] = []  # where judging fails, what was said before anything was measured is void
    parts.attempt("verdicts", judge, cheap=True)
    measuring.provenance["seconds"] = measuring.metrics["seconds"]
    parts.attempt("circuit", measuring.keep, cheap=True)
    measuring.keep_state(parts, stopped_by=stop.name or None)
    return Discovery(
        circuit=measuring.described(),
        metrics=measuring.metrics,
        examples=measuring.examples,
        curve=curve,
        diagnoses=tuple(measuring.metrics["diagnoses"]),
        run=trained.run,
        request=request,
        settings=run.settings,
        circuits=_described_front(measuring),
        missing=parts.missing,
        errors=parts.errors,
    )


def _opened(
    out: str | Path | ResultFolder | None, overwrite: bool, resume: bool
) -> AbstractContextManager[ResultFolder | None]:
    """The folder of a result; one that is opened already is left open."""
    if out is None or isinstance(out, ResultFolder):
        return nullcontext(out)
    return ResultFolder.opened(out, overwrite=overwrite, resume=resume)


def _keep_gates(folder: ResultFolder | None, asked: Run, trained: Trained, curve: pd.DataFrame) -> None:
    if folder is not None:
        folder.write(RUN_FILE, run_text(asked.request, asked.settings, edited=_is_edited(asked)))
        folder.write(GATES, gates_file(trained.run.gates))
        folder.write(CURVE, csv_text(curve))


def _is_edited(run: Run) -> bool:
    edits = run.compiled.gate_map.edits
    return any(edits.get(how) for how in ("removed", "frozen", "tied"))


def _keep_circuit(measuring: Measuring) -> None:
    measuring.keep()
    if measuring.folder is not None:
        for sparsity, circuit in _described_front(measuring).items():
            circuit.save(measuring.folder.place / front_file(sparsity))
        measuring.folder.settle()


def _described_front(measuring: Measuring) -> dict[float, Circuit]:
    """Further circuits of the same ranking, with their provenance."""
    return {
        sparsity: circuit.with_provenance(
            {**measuring.provenance, "selection": {"rule": "target", "sparsity": sparsity}}
        )
        for sparsity, circuit in measuring.front.items()
    }


def _first_metrics(trained: Trained, kept: Kept) -> dict[str, Any]:
    """What is known before anything is evaluated."""
    return {
        "sparsity": dict(kept.circuit.sparsity),
        "splits": {},
        "seconds": trained.seconds,
        "training_seconds": trained.seconds,
        "peak_rss_bytes": peak_rss_bytes(),
        "frozen_runs": trained.frozen_runs,
        "diagnoses": [trained.run.stopped_by] if trained.run.stopped_by else [],
        "verdicts": [],
    }


def _judged(run: Run, trained: Trained, kept: Kept, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What training and figures say against the run: `diagnoses` and `verdicts`."""
    by_split, judged = metrics["splits"], verdicts(metrics)
    first = by_split.get("validation") or next(iter(by_split.values()), None)
    against = {one["name"] for one in judged if one["severity"] == "wrong"}
    found = diagnose(trained.run, kept.circuit, run.recipe, first, objective=run.request.objective, verdicts=against)
    return {"diagnoses": [*found, *([kept.trouble] if kept.trouble else [])], "verdicts": judged}


def _incomplete(found: Discovery, folder: Path | None) -> str:
    """Which parts are missing and how to come by them."""
    parts = "; ".join(f"{part}: {reason}" for part, reason in found.missing.items())
    if folder is None:
        return (
            f"parts of the result are missing ({parts}). Circuit and gates are in what is given back; "
            "pruning.evaluate(compiled, found.circuit, task.split('test')) measures it"
        )
    return f"parts of the result in {folder} are missing ({parts}). `{report_command(folder)}` makes them"
