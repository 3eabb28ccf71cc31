"""The first stages of a run, each a function: check → train → keep.

`pruning.runs.discover` puts them together and keeps what each of them made before the next begins; what is measured
afterwards is in `pruning.runs.measuring`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, why
from circuitgraph.stopping import Stop
from pruning.execution.objectives import check_objective, check_top_k
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.loop import TrainingRun, train
from pruning.methods.edge_pruning.train import Trainer
from pruning.runs.checkpoints import RunCheckpoints
from pruning.runs.front import front_circuits
from pruning.runs.progress import Progress
from pruning.runs.result_folder import ResultFolder
from pruning.runs.run import Run
from pruning.selection.best import discretize, edges_to_keep
from pruning.selection.faithful import keep_faithful


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training leaves.

    Attributes:
        run: The training run with its gates.
        seconds: What it took, the frozen runs included.
        frozen_runs: Prompts by where their frozen runs came from.
        provenance: How it was made to fit and to be fast: `replay`, `memory`.
    """

    run: TrainingRun
    seconds: float
    frozen_runs: dict[str, Any]
    provenance: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What was kept of the gates.

    Attributes:
        circuit: The circuit, without its dangling edges.
        raw_edges: Flat indices of the edges kept, dangling ones included `[n]`.
        trouble: Why the recipe's keep rule was not taken, or an empty text.
        front: Further circuits of the same ranking, by the sparsity asked for.
    """

    circuit: Circuit
    raw_edges: np.ndarray
    trouble: str
    front: Mapping[float, Circuit] = field(default_factory=dict)


def check_run(run: Run) -> None:
    """Refuse, before any work, what could not be trained or evaluated.

    Args:
        run: The run.

    Raises:
        ConfigurationError: Settings that cannot work together, or no training prompts.
        UnknownNameError: No such objective or split.
    """
    compiled, task, request = run.compiled, run.task, run.request
    check_top_k(request.teacher_top_k, request.objective, compiled.shape.d_vocab)
    compiled.gate_map.check_target(run.recipe.target_sparsity)
    if not len(task.split("train")):
        raise ConfigurationError(f"task {task.name}: the train split is empty; there is nothing to learn from")
    check_objective(request.objective, task.split("train"), f"task {task.name} (train)")
    for split in run.splits:
        if not len(task.split(split)):
            raise ConfigurationError(
                f"task {task.name}: the {split} split is empty; leave it out of the splits to evaluate on"
            )


def frozen_runs(run: Run, progress: Progress) -> FrozenRuns:
    """Keep what never changes of a run's training prompts, whatever its seed and its recipe.

    Args:
        run: The run, as it is done.
        progress: Told what begins, and where it is kept.
    """
    train_split = run.task.splits["train"]
    progress.say(f"keeping what never changes of {len(train_split):,} training prompts")
    frozen = FrozenRuns(
        run.compiled,
        train_split,
        ablation=run.request.ablation,
        budget_bytes=run.settings.cache_bytes,
        disk=run.settings.disk_cache(),
        teacher_top_k=run.request.teacher_top_k,
    )
    progress.say(f"frozen runs: {frozen.describe()}")
    return frozen


def train_gates(
    run: Run,
    progress: Progress,
    stop: Stop,
    folder: ResultFolder | None = None,
    frozen: FrozenRuns | None = None,
) -> Trained:
    """Keep what never changes of the training prompts, then train the gates, or go on with it from a checkpoint.

    Args:
        run: The run.
        progress: Told what begins, and of every step.
        stop: Who asked the run to stop: training ends then, and what was learnt is given back.
        folder: Where checkpoints are kept; None keeps none.
        frozen: What `frozen_runs` gave for this run, or for one that differs in seed or recipe alone; None makes it.

    Raises:
        CheckpointError: The checkpoints to go on from are damaged, or of another run.
        KeyboardInterrupt: The run was asked to stop before training began.
    """
    began = time.perf_counter()
    compiled, request, settings, recipe = run.compiled, run.request, run.settings, run.recipe
    checkpoints = None if folder is None else RunCheckpoints(run, folder, progress.say)
    with stop.open():
        state = None if checkpoints is None else checkpoints.begin()
        frozen = frozen_runs(run, progress) if frozen is None else frozen.counted_anew()
        trainer = Trainer(
            compiled, frozen, recipe, objective=request.objective, seed=request.seed, how=settings.step_settings(),
            say=progress.say, state=state,
        )  # fmt: skip
    runner = trainer.runner
    at_once = min(settings.micro_batch or recipe.batch_size, recipe.batch_size)
    progress.say(f"training {compiled.gate_map.n_parameters:,} gates for {recipe.steps:,} steps ({recipe.name})")
    if state is not None:
        progress.say(f"going on after step {state.steps:,} of {recipe.steps:,}")
    with progress.training(recipe.steps, request.objective) as watch:
        trained = train(trainer, watch, stop, checkpoints)
    progress.say(f"prompts drawn in training: {frozen.drawn}")
    memory = {
        "micro_batch": at_once, "micro_batch_at_the_end": runner.micro_batch, "recompute": runner.recompute,
        "cache_bytes": settings.cache_bytes, "short_runs": frozen.short,
    }  # fmt: skip
    return Trained(
        run=trained,
        seconds=time.perf_counter() - began + (0.0 if state is None else state.seconds),
        frozen_runs=frozen.counts(),
        provenance={"replay": runner.replays, "memory": memory},
    )


def keep_edges(run: Run, trained: TrainingRun, progress: Progress, stop: Stop) -> Kept:
    """Decide which edges the circuit has.

    A rule that runs the model may fail or be ended; the rule `target`, which looks at the gates alone, takes its place
    then, so that there is a circuit in any case.

    Args:
        run: The run.
        trained: The gates, trained.
        progress: Told what begins.
        stop: Who asked the run to stop.

    Raises:
        KeyboardInterrupt: The run was asked to stop a second time.
    """
    kept = _kept(run, trained, progress, stop)
    front = front_circuits(trained.gates, run.request.sparsities, ablation=run.request.ablation)
    return replace(kept, front=front)


def _kept(run: Run, trained: TrainingRun, progress: Progress, stop: Stop) -> Kept:
    recipe, trouble = run.recipe, ""
    target = trained.records[-1].target if trained.records else recipe.target_sparsity
    if recipe.keep in ("faithful", "minimal"):
        try:
            with stop.open():
                progress.say("looking for the fewest edges that are enough")
                edges, scores = keep_faithful(
                    run.compiled, trained.gates, run.task.splits["train"], ablation=run.request.ablation,
                    tolerance=recipe.tolerance, minimal=recipe.keep == "minimal",
                )  # fmt: skip
                return Kept(circuit=_circuit(run, edges, scores), raw_edges=edges, trouble="")
        except KeyboardInterrupt as error:
            stop.note(error)
            trouble = f"the run was ended by {stop.name}"
        except Exception as error:  # noqa: BLE001 - the gates are trained; a circuit of them is not lost by it
            trouble = why(error)
        trouble = (
            f"The fewest edges that are enough were not looked for to the end ({trouble}): the circuit has the best "
            f"edges at the target sparsity instead, as the keep rule 'target' does."
        )
    rule = "target" if trouble else recipe.keep
    edges, scores = discretize(trained.gates, keep=edges_to_keep(trained.gates, rule=rule, target_sparsity=target))
    return Kept(circuit=_circuit(run, edges, scores), raw_edges=edges, trouble=trouble)


def _circuit(run: Run, edges: np.ndarray, scores: np.ndarray) -> Circuit:
    return Circuit.from_edges(run.compiled.universe, edges, scores=scores, ablation=run.request.ablation)


def how_evaluated(run: Run, kept: Kept) -> dict[str, Any]:
    """What it takes to evaluate again as was asked: for `state.json`.

    Args:
        run: The run.
        kept: What was kept.
    """
    dangling = sorted(set(kept.raw_edges.tolist()) - set(kept.circuit.edge_ids.tolist()))
    names = [kept.circuit.universe.edge_name(edge) for edge in dangling]
    return {
        "splits": list(run.splits),
        "n_random": run.request.n_random,
        "n_random_prompts": run.request.n_random_prompts,
        "n_effects": run.request.n_effects,
        "sparsities": list(kept.front),
        "dangling_edges": names,
    }
