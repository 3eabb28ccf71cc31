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
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, IncompleteResultWarning, UnknownNameError
from circuitgraph.files.csv_text import csv_text
from circuitgraph.memory.peak import peak_rss_bytes
from circuitgraph.stopping import Stop, stopping
from circuitgraph.torch_state import with_gradients
from pruning.evaluation.card import metrics_line
from pruning.evaluation.evaluate import metrics_table
from pruning.evaluation.sampled import N_RANDOM_PROMPTS
from pruning.frozen.disk import DiskCache
from pruning.methods.edge_pruning.loop import TrainingRun
from pruning.methods.edge_pruning.recipes import Recipe, recipe_named
from pruning.methods.edge_pruning.state import StepRecord
from pruning.runs.card import discovery_card
from pruning.runs.checking.preflight import Preflight, look_before
from pruning.runs.diagnose import diagnose
from pruning.runs.measuring import N_EDGES, Counting, Measuring, measured_parts, not_counted
from pruning.runs.parts import Parts
from pruning.runs.result_folder import CURVE, GATES, ResultFolder, gates_file, report_command
from pruning.runs.run_settings import RunSettings
from pruning.runs.stages import Kept, Trained, check_run, keep_edges, provenance_of, train_gates
from pruning.runs.verdicts import verdicts
from pruning.tasks import TaskData

EVALUATED = ("validation", "test")


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
        missing: Why a part of the result is not there, by part, such as `evaluation:test`; empty where all are.
        errors: What was raised, by part, of those that failed.
    """

    circuit: Circuit
    metrics: dict[str, Any]
    examples: pd.DataFrame
    curve: pd.DataFrame
    diagnoses: tuple[str, ...]
    run: TrainingRun
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


@with_gradients
def discover(
    compiled: CompiledModel,
    task: TaskData,
    recipe: Recipe | str = "quick",
    *,
    objective: str | None = None,
    ablation: str | None = None,
    seed: int = 0,
    splits: Sequence[str] | None = None,
    n_random: int = 10,
    n_random_prompts: int | None = N_RANDOM_PROMPTS,
    n_effects: int = N_EDGES,
    cache_bytes: int = 2 << 30,
    disk_cache: DiskCache | None = None,
    teacher_top_k: int | None = None,
    micro_batch: int | None = None,
    recompute: bool = False,
    replay: bool | None = None,
    out: str | Path | ResultFolder | None = None,
    overwrite: bool = False,
    watch: Callable[[StepRecord], None] | None = None,
    counting: Counting | None = None,
    say: Callable[[str], None] | None = None,
    preflight: Preflight | None = None,
) -> Discovery:
    """Find the circuit that a model uses for a task.

    Once the gates are trained nothing of them is lost: what fails after that is left out, is in `missing` of what is
    given back, and is warned of. Ctrl-C, SIGTERM and SIGHUP end the stage that runs and keep what there is; training
    ends with the circuit learnt so far, which is not evaluated then. Asked a second time, the call ends at once.

    Args:
        compiled: The model.
        task: The prompts.
        recipe: The settings, or the name of a recipe.
        objective: What is compared; by default the recipe's, else the task's own.
        ablation: What cut edges carry; by default the recipe's, else counterfactual.
        seed: Of everything random.
        splits: Splits to evaluate on; by default validation and test, where they have prompts.
        n_random: Random circuits to compare with.
        n_random_prompts: On how many prompts of each split they run, drawn once; None for all.
        n_effects: Of how many edges the effects are measured, beside those of all heads and MLPs; 0 for none at all.
        cache_bytes: Memory for runs that never change.
        disk_cache: A folder for those that memory cannot hold, and for the next run; None keeps nothing on disk.
        teacher_top_k: Train towards the full model's likeliest tokens and the mass of all others, instead of its
            whole vocabulary; the evaluation takes the whole vocabulary in any case.
        micro_batch: Prompts run at once in training; by default all of a batch.
        recompute: Run MLPs once more in the backward pass instead of keeping what is inside them.
        replay: Whether training steps are recorded and replayed where that pays; by default on CUDA (see
            `pruning.execution.replay`).
        out: A folder to keep the result in, as `circuitgraph discover --out` does: gates and circuit before anything
            is evaluated, then the measures. `circuitgraph report` adds its pictures and its report. None keeps nothing
            on disk.
        overwrite: Whether an older result there may be replaced; it stays until the new circuit is safe.
        watch: Called after every step.
        counting: Called with the name of each later stage, gives a context that yields what to call with the number of
            runs done and of all.
        say: Called with a line at the start of each stage, and with each doubt.
        preflight: What `pruning.preflight` found, where it was called before; by default it is called here.

    Returns:
        The circuit, its measures and its provenance.

    Raises:
        ConfigurationError: Settings that cannot work together.
        OutputError: `out` is there already, is reserved by another run, or cannot be made.
        KeyboardInterrupt: It was stopped before training began, or a second time.

    Warns:
        IncompleteResultWarning: Parts are missing.
    """
    recipe = recipe_named(recipe) if isinstance(recipe, str) else recipe
    if isinstance(splits, str):
        raise ConfigurationError(f"splits must be several names; got {splits!r}. For one, pass [{splits!r}]")
    settings = RunSettings(
        recipe=recipe,
        objective=objective or recipe.objective or task.objective,
        ablation=ablation or recipe.ablation or "counterfactual",
        seed=seed,
        splits=tuple(splits) if splits is not None else evaluated_splits(task),
        n_random=n_random,
        n_random_prompts=n_random_prompts,
        n_effects=n_effects,
        cache_bytes=cache_bytes,
        disk_cache=disk_cache,
        teacher_top_k=teacher_top_k,
        micro_batch=micro_batch,
        recompute=recompute,
        replay=replay,
    )
    check_run(compiled, task, settings)
    preflight = preflight or look_before(compiled, task, settings, say)
    preflight.require()
    with stopping() as stop, _opened(out, overwrite) as folder, stop.held():
        found = run_stages(
            compiled, task, settings, preflight, folder=folder, watch=watch, counting=counting, say=say, stop=stop
        )
    if found.missing and not isinstance(out, ResultFolder):
        warnings.warn(_incomplete(found, folder), IncompleteResultWarning, stacklevel=2)
    return found


def evaluated_splits(task: TaskData) -> tuple[str, ...]:
    """The splits that a circuit is evaluated on by default: validation and test, where they have prompts."""
    return tuple(split for split in EVALUATED if len(task.splits.get(split, ())))


def run_stages(
    compiled: CompiledModel,
    task: TaskData,
    settings: RunSettings,
    preflight: Preflight,
    *,
    folder: ResultFolder | None,
    watch: Callable[[StepRecord], None] | None,
    counting: Counting | None,
    say: Callable[[str], None] | None,
    stop: Stop,
) -> Discovery:
    """Train, keep, and make the later parts, each kept before the next begins.

    Args:
        compiled: The model.
        task: The prompts.
        settings: The settings, checked.
        preflight: What was looked at before.
        folder: Where the result is kept, or None.
        watch: Called after every step.
        counting: Shows how far later stages are, see `discover`.
        say: Called with a line at the start of each stage.
        stop: Who asked the run to stop.
    """
    say = say or (lambda line: None)
    began = time.perf_counter()
    trained = train_gates(compiled, task, settings, watch=watch, say=say, stop=stop)
    parts = Parts(stop, ("gates", "circuit", *measured_parts(settings.splits, settings.n_effects), "verdicts"))
    if not trained.run.records:
        folder = None  # of gates as they began nothing is kept
    curve = pd.DataFrame([asdict(record) for record in trained.run.records])
    parts.attempt("gates", lambda: _keep_gates(folder, trained, curve), cheap=True)
    kept = keep_edges(compiled, task, settings, trained.run, say=say, stop=stop)
    measuring = Measuring(
        compiled=compiled,
        task=task,
        circuit=kept.circuit,
        raw_edges=kept.raw_edges,
        n_random=settings.n_random,
        n_random_prompts=settings.n_random_prompts,
        n_effects=settings.n_effects,
        seed=settings.seed,
        provenance=provenance_of(compiled, task, settings, trained),
        metrics={**_first_metrics(trained, kept), "preflight": preflight.to_dict()},
        folder=folder,
        counting=counting or not_counted,
    )

    def judge() -> None:
        measuring.metrics |= _judged(settings, trained, kept, measuring.metrics)

    parts.attempt("verdicts", judge, cheap=True)
    parts.attempt("circuit", lambda: _keep_circuit(measuring), cheap=True)
    measuring.keep_state(parts, evaluation=_how_evaluated(settings, kept))
    measuring.run(parts, say)
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
        missing=parts.missing,
        errors=parts.errors,
    )


def _opened(out: str | Path | ResultFolder | None, overwrite: bool) -> AbstractContextManager[ResultFolder | None]:
    """The folder of a result; one that is opened already is left open."""
    if out is None or isinstance(out, ResultFolder):
        return nullcontext(out)
    return ResultFolder.opened(out, overwrite=overwrite)


def _keep_gates(folder: ResultFolder | None, trained: Trained, curve: pd.DataFrame) -> None:
    if folder is not None:
        folder.write(GATES, gates_file(trained.run.gates))
        folder.write(CURVE, csv_text(curve))


def _keep_circuit(measuring: Measuring) -> None:
    measuring.keep()
    if measuring.folder is not None:
        measuring.folder.settle()


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


def _judged(settings: RunSettings, trained: Trained, kept: Kept, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What training and figures say against the run: `diagnoses` and `verdicts`."""
    by_split, judged = metrics["splits"], verdicts(metrics)
    first = by_split.get("validation") or next(iter(by_split.values()), None)
    against = {one["name"] for one in judged if one["severity"] == "wrong"}
    found = diagnose(trained.run, kept.circuit, settings.recipe, first, objective=settings.objective, verdicts=against)
    return {"diagnoses": [*found, *([kept.trouble] if kept.trouble else [])], "verdicts": judged}


def _how_evaluated(settings: RunSettings, kept: Kept) -> dict[str, Any]:
    """What it takes to evaluate again as was asked: for `state.json`."""
    dangling = sorted(set(kept.raw_edges.tolist()) - set(kept.circuit.edge_ids.tolist()))
    names = [kept.circuit.universe.edge_name(edge) for edge in dangling]
    return {
        "splits": list(settings.splits),
        "n_random": settings.n_random,
        "n_random_prompts": settings.n_random_prompts,
        "n_effects": settings.n_effects,
        "dangling_edges": names,
    }


def _incomplete(found: Discovery, folder: ResultFolder | None) -> str:
    """Which parts are missing and how to come by them."""
    parts = "; ".join(f"{part}: {reason}" for part, reason in found.missing.items())
    if folder is None:
        return (
            f"parts of the result are missing ({parts}). Circuit and gates are in what is given back; "
            "pruning.evaluate(compiled, found.circuit, task.split('test')) measures it"
        )
    return f"parts of the result in {folder.path} are missing ({parts}). `{report_command(folder.path)}` makes them"
