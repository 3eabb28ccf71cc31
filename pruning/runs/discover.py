"""The main job in one call: find a circuit by any method, measure it, and say where it came from.

1. check: what cannot work is refused before any work (`check_run`);
2. learn: gates are trained by a recipe (`train_gates`), or another method scores the edges (`rank_run`);
3. keep: which edges the circuit has; with `out`, gates or scores and the circuit are on disk from here on;
4. later parts, each of which may fail or be left out alone (`pruning.runs.parts`): the evaluation of each split.

Every part that is added to a result goes into the fourth stage, as a part with a name.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Unpack

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, IncompleteResultWarning
from circuitgraph.memory.peak import peak_rss_bytes
from circuitgraph.stopping import Stop, stopping
from circuitgraph.torch_state import with_gradients
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.recipes import Recipe
from pruning.prompts.swapped import BOTH
from pruning.runs.checking.preflight import Preflight, look_before
from pruning.runs.choice_files import RUN_FILE
from pruning.runs.circuit_constants import circuit_constants
from pruning.runs.decide import run_text
from pruning.runs.discovery import Discovery
from pruning.runs.measuring import Constants, Measuring, measured_parts
from pruning.runs.parts import Parts
from pruning.runs.progress import Progress, Watch, progress_for
from pruning.runs.ranked_run import rank_run
from pruning.runs.result_files import front_file
from pruning.runs.result_folder import ResultFolder, report_command
from pruning.runs.run import Run, RunChoices, run_of
from pruning.runs.stages import Kept, Learnt, check_run, how_evaluated
from pruning.runs.trained_run import train_gates
from pruning.runs.trained_twice import train_both
from pruning.runs.verdicts import verdicts
from pruning.tasks import TaskData


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
            is none yet it begins. Another model, other prompts or other settings are refused, and so is a method that
            trains by no recipe, which has no checkpoints.
        progress: True shows how far the run is, False does not; by default it is shown in a notebook and on a
            terminal, unless `watch` or `say` are given. Or a `pruning.runs.progress.Progress` of your own.
        choices: Settings of the run by name: those of what is asked for (`pruning.runs.request.RunRequest`:
            `objective`, `ablation`, `seed`, `splits`, `n_random`, `n_random_prompts`, `n_effects`, `teacher_top_k`),
            of the method (`method`, a name of `pruning.methods.registry` or such a method with its settings; its own
            settings by name; `rule` and others of `pruning.runs.request.SelectionRequest`),
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
    if resume and run.request.method is not None:
        raise ConfigurationError(
            f"method {run.request.method.name!r} has no checkpoints to go on from; begin it anew. Where its scores are "
            "there already, `circuitgraph report` makes what is missing"
        )
    if resume and run.request.direction == BOTH:
        raise ConfigurationError("direction 'both' trains twice and keeps no checkpoints to go on from; begin it anew")
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
    """Learn, keep, and make the later parts, each kept before the next begins.

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
    learnt: Learnt = (
        rank_run(run, progress, stop) if request.method is not None
        else train_both(run, progress, stop, frozen) if request.direction == BOTH
        else train_gates(run, progress, stop, folder, frozen)
    )  # fmt: skip
    if folder is not None:
        folder.ended_early = learnt.ended_early
    parts = Parts(
        stop, (learnt.part, "circuit", *measured_parts(run.splits, request.n_effects, request.sparsities), "verdicts")
    )
    if learnt.is_worthless:
        folder = None
    parts.attempt(learnt.part, lambda: _keep_learnt(folder, asked, learnt), cheap=True)
    kept = learnt.kept(run, progress, stop)
    constants = circuit_constants(run, learnt.constants, kept.circuit, progress, stop)
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
        provenance=learnt.provenance(run, kept),
        metrics={**_first_metrics(learnt, kept), "preflight": checked.to_dict()},
        folder=folder,
        progress=progress,
        front=kept.front,
        constants=Constants(of_circuit=constants, of_front=learnt.constants),
    )

    def judge() -> None:
        measuring.metrics |= _judged(run, learnt, kept, measuring.metrics)

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
        curve=learnt.curve(),
        diagnoses=tuple(measuring.metrics["diagnoses"]),
        run=learnt.training,
        scores=learnt.edge_scores(run),
        request=request,
        settings=run.settings,
        circuits=_described_front(measuring),
        missing=parts.missing,
        errors=parts.errors,
        constants=constants,
    )


def _opened(
    out: str | Path | ResultFolder | None, overwrite: bool, resume: bool
) -> AbstractContextManager[ResultFolder | None]:
    """The folder of a result; one that is opened already is left open."""
    if out is None or isinstance(out, ResultFolder):
        return nullcontext(out)
    return ResultFolder.opened(out, overwrite=overwrite, resume=resume)


def _keep_learnt(folder: ResultFolder | None, asked: Run, learnt: Learnt) -> None:
    if folder is not None:
        folder.write(RUN_FILE, run_text(asked.request, asked.settings, edited=_is_edited(asked)))
        learnt.keep(folder)


def _is_edited(run: Run) -> bool:
    edits = run.compiled.gate_map.edits
    if run.compiled.vectors and run.request.model.vectors is None:
        return True
    return any(edits.get(how) for how in ("removed", "frozen", "tied"))


def _keep_circuit(measuring: Measuring) -> None:
    measuring.keep()
    measuring.keep_vectors()
    measuring.keep_constants()
    if measuring.folder is not None:
        for sparsity, circuit in _described_front(measuring).items():
            circuit.save(measuring.folder.place / front_file(sparsity))
        measuring.folder.settle()


def _described_front(measuring: Measuring) -> dict[float, Circuit]:
    """Further circuits of the same ranking, with their provenance."""
    return {
        sparsity: circuit.with_provenance({**measuring.provenance, "selection": circuit.provenance["selection"]})
        for sparsity, circuit in measuring.front.items()
    }


def _first_metrics(learnt: Learnt, kept: Kept) -> dict[str, Any]:
    """What is known before anything is evaluated."""
    stopped_by = "" if learnt.training is None else learnt.training.stopped_by
    return {
        "sparsity": dict(kept.circuit.sparsity),
        "splits": {},
        **learnt.metrics(),
        "peak_rss_bytes": peak_rss_bytes(),
        "diagnoses": [stopped_by] if stopped_by else [],
        "verdicts": [],
    }


def _judged(run: Run, learnt: Learnt, kept: Kept, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What method and figures say against the run: `diagnoses` and `verdicts`."""
    by_split, judged = metrics["splits"], verdicts(metrics)
    first = by_split.get("validation") or next(iter(by_split.values()), None)
    against = {one["name"] for one in judged if one["severity"] == "wrong"}
    found = learnt.diagnoses(run, kept, first, against)
    return {"diagnoses": [*found, *([kept.trouble] if kept.trouble else [])], "verdicts": judged}


def _incomplete(found: Discovery, folder: Path | None) -> str:
    """Which parts are missing and how to come by them."""
    parts = "; ".join(f"{part}: {reason}" for part, reason in found.missing.items())
    if folder is None:
        return (
            f"parts of the result are missing ({parts}). Circuit and scores are in what is given back; "
            "pruning.evaluate(compiled, found.circuit, task.split('test')) measures it"
        )
    return f"parts of the result in {folder} are missing ({parts}). `{report_command(folder)}` makes them"
