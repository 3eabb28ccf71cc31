"""Gates trained by a recipe: the stages of a run that are theirs, train → keep."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.circuits.strength import LOG_ALPHA
from circuitgraph.errors import why
from circuitgraph.files.csv_text import csv_text
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.stopping import Stop
from pruning.frozen.constants import begun_at
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.loop import TrainingRun, train
from pruning.methods.edge_pruning.scores import scores_of_gates
from pruning.methods.edge_pruning.train import Trainer
from pruning.runs.checkpoints import RunCheckpoints
from pruning.runs.diagnose import diagnose
from pruning.runs.front import front_circuits
from pruning.runs.given_scores import GivenScores
from pruning.runs.progress import Progress
from pruning.runs.provenance import made_with, model_provenance
from pruning.runs.result_files import CURVE, GATES, gates_file
from pruning.runs.result_folder import ResultFolder
from pruning.runs.run import Run
from pruning.runs.stages import Kept
from pruning.selection.best import discretize, edges_to_keep
from pruning.selection.faithful import keep_faithful


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training leaves.

    Attributes:
        run: The training run with its gates.
        seconds: What it took, the frozen runs included.
        frozen_runs: Prompts by where their frozen runs came from.
        how: How it was made to fit and to be fast: `replay`, `memory`.
    """

    part: ClassVar[str] = "gates"

    run: TrainingRun
    seconds: float
    frozen_runs: dict[str, Any]
    how: dict[str, Any]

    @property
    def training(self) -> TrainingRun:
        """The training run."""
        return self.run

    @property
    def is_worthless(self) -> bool:
        """Whether no step was taken, so that the gates are as they began."""
        return not self.run.records

    @property
    def ended_early(self) -> bool:
        """Whether steps are left that a later process can take."""
        return self.run.goes_on

    @property
    def constants(self) -> AblationValues | None:
        """What was trained with the gates."""
        return self.run.constants

    def curve(self) -> pd.DataFrame:
        """A row a training step."""
        return pd.DataFrame([asdict(record) for record in self.run.records])

    def edge_scores(self, run: Run) -> EdgeScores:
        """The gates' log α."""
        return scores_of_gates(self.run.gates, ablation=run.request.ablation, provenance=known_provenance(run))

    def keep(self, folder: ResultFolder) -> None:
        """Write gates and curve."""
        folder.write(GATES, gates_file(self.run.gates))
        folder.write(CURVE, csv_text(self.curve()))

    def kept(self, run: Run, progress: Progress, stop: Stop) -> Kept:
        """Decide which edges the circuit has, by the recipe's rule.

        A rule that runs the model may fail or be ended; the rule `target`, which looks at the gates alone, takes its
        place then, so that there is a circuit in any case.
        """
        kept = _kept(run, self.run, progress, stop)
        front = front_circuits(self.run.gates, run.request.sparsities, ablation=run.request.ablation)
        return replace(kept, front=front)

    def provenance(self, run: Run, kept: Kept) -> dict[str, Any]:
        """Where the circuit came from."""
        del kept
        return {
            **known_provenance(run),
            **made_with(run.compiled),
            "cpu_kernels": run.compiled.uses_cpu_kernels,
            **self.how,
            "task": run.task.name,
            "task_options": dict(run.task.provenance),
            "method": "edge-pruning",
            "direction": run.request.direction,
            "score_meaning": LOG_ALPHA,
            "steps_taken": len(self.run.records),
        }

    def metrics(self) -> dict[str, Any]:
        """What the training took."""
        return {"seconds": self.seconds, "training_seconds": self.seconds, "frozen_runs": self.frozen_runs}

    def diagnoses(
        self, run: Run, kept: Kept, measures: Mapping[str, Mapping[str, Any]] | None, verdicts: Collection[str]
    ) -> list[str]:
        """What may be wrong with the training."""
        return diagnose(self.run, kept.circuit, run.recipe, measures, objective=run.objective, verdicts=verdicts)


def known_provenance(run: Run) -> dict[str, Any]:
    """What the circuit of a run says of itself and is known before it is trained.

    Args:
        run: The run.
    """
    request = run.request
    return {
        **model_provenance(run.compiled),
        "data_hash": run.task.data_hash,
        "objective": request.objective,
        "ablation": request.ablation,
        "teacher_top_k": request.teacher_top_k,
        "recipe": run.recipe.to_dict(),
        "seed": request.seed,
    }


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
        ablation_data=begun_at(run.compiled, run.request.ablation, train_split),
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
    with stop.open():
        given = GivenScores(run, progress, folder)
        asked, run, start = run, given.trained(), given.start()
        compiled, request, settings, recipe = run.compiled, run.request, run.settings, run.recipe
        checkpoints = None if folder is None else RunCheckpoints(asked, folder, progress.say, trained=run)
        state = None if checkpoints is None else checkpoints.begin()
        given.keep()
        frozen = frozen_runs(run, progress) if frozen is None else frozen.counted_anew()
        trainer = Trainer(
            compiled, frozen, recipe, objective=run.objective, seed=request.seed, how=settings.step_settings(),
            say=progress.say, state=state,
        )  # fmt: skip
        if start is not None and state is None:
            trainer.start_from(start)
    runner = trainer.runner
    at_once = min(settings.micro_batch or recipe.batch_size, recipe.batch_size)
    progress.say(f"training {compiled.gate_map.n_parameters:,} gates for {recipe.steps:,} steps ({recipe.name})")
    if state is not None:
        progress.say(f"going on after step {state.steps:,} of {recipe.steps:,}")
    with progress.training(recipe.steps, run.objective) as watch:
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
        how={"replay": runner.replays, "memory": memory, **given.about},
    )


def _kept(run: Run, trained: TrainingRun, progress: Progress, stop: Stop) -> Kept:
    recipe, trouble = run.recipe, ""
    target = trained.records[-1].target if trained.records else recipe.target_sparsity
    if recipe.keep in ("faithful", "minimal"):
        try:
            with stop.open():
                progress.say("looking for the fewest edges that are enough")
                edges, scores = keep_faithful(
                    run.compiled, trained.gates, run.task.splits["train"], ablation=run.request.ablation,
                    tolerance=recipe.tolerance, minimal=recipe.keep == "minimal", constants=trained.constants,
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
