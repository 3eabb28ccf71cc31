"""A circuit for every regime and seed, each kept as soon as it is found and never trained twice."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import IncompleteResultWarning, OutputError, TrainingError
from circuitgraph.stopping import Stopped, stopping
from pruning.evaluation.matching import require_universe
from pruning.frozen.disk import DiskCache
from pruning.methods.edge_pruning.recipes import Recipe
from pruning.methods.edge_pruning.state import StepRecord
from pruning.regimes.folder import StudyFolder, first_difference
from pruning.runs.discover import discover, evaluated_splits
from pruning.tasks import TaskData

Watch = Callable[[str, int, StepRecord], None]


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings that all trainings of a study share.

    Attributes:
        recipe: The settings.
        objective: What is compared; None takes the recipe's, else the task's.
        ablation: What cut edges carry; None takes the recipe's, else counterfactuals.
        cache_bytes: Memory for runs that never change.
        disk_cache: A folder for them; with it a regime's seeds share them.
        teacher_top_k: See `pruning.discover`.
        micro_batch: See `pruning.discover`.
        recompute: See `pruning.discover`.
    """

    recipe: Recipe
    objective: str | None = None
    ablation: str | None = None
    cache_bytes: int = 2 << 30
    disk_cache: DiskCache | None = None
    teacher_top_k: int | None = None
    micro_batch: int | None = None
    recompute: bool = False

    def objective_for(self, task: TaskData) -> str:
        """What is compared on a task."""
        return self.objective or self.recipe.objective or task.objective

    @property
    def ablation_used(self) -> str:
        """What cut edges carry."""
        return self.ablation or self.recipe.ablation or "counterfactual"

    def provenance(self, compiled: CompiledModel, task: TaskData, seed: int) -> dict[str, Any]:
        """What a circuit trained with these settings says of itself, as far as it is known beforehand."""
        return {
            **compiled.identity,
            "dtype": str(compiled.dtype).removeprefix("torch."),
            "data_hash": task.data_hash,
            "objective": self.objective_for(task),
            "ablation": self.ablation_used,
            "teacher_top_k": self.teacher_top_k,
            "recipe": self.recipe.to_dict(),
            "seed": seed,
            "edits": compiled.gate_map.edits,
        }


def train_regimes(
    compiled: CompiledModel,
    tasks: Mapping[str, TaskData],
    seeds: Sequence[int],
    training: Training,
    *,
    kept: Mapping[tuple[str, int], Circuit],
    folder: StudyFolder | None,
    watch: Watch | None = None,
    say: Callable[[str], None],
) -> dict[str, dict[int, Circuit]]:
    """Find a circuit for every regime and seed.

    Args:
        compiled: The model.
        tasks: The prompts of the regimes to train.
        seeds: Seeds of the trainings.
        training: The settings.
        kept: Circuits of an earlier run, by regime and seed, see `kept_circuits`.
        folder: Where circuits are kept.
        watch: Called after every step with the regime, the seed and the step.
        say: Called with a line at the start of each stage.

    Returns:
        Circuits by regime and seed.

    Raises:
        TrainingError: A training could not go on; those before it are kept.
        KeyboardInterrupt: A training was interrupted; those before it are kept.
    """
    plan = [(regime, seed) for seed in seeds for regime in tasks]
    if kept:
        say(f"{len(kept)} of {len(plan)} circuits are there already, found with the same settings: not trained again")
    found: dict[str, dict[int, Circuit]] = {regime: {} for regime in tasks}
    for number, (regime, seed) in enumerate(plan, 1):
        circuit = kept.get((regime, seed))
        if circuit is None:
            say(f"training {number} of {len(plan)}: {regime}, seed {seed}")
            circuit = _train(compiled, tasks[regime], regime, seed, training, folder, watch, say)
        found[regime][seed] = circuit
    return found


def kept_circuits(
    compiled: CompiledModel,
    tasks: Mapping[str, TaskData],
    seeds: Sequence[int],
    training: Training,
    folder: StudyFolder,
) -> dict[tuple[str, int], Circuit]:
    """The circuits that an earlier run has left in a folder.

    Args:
        compiled: The model.
        tasks: The prompts of the regimes to train.
        seeds: Seeds of the trainings.
        training: The settings.
        folder: The study's folder.

    Returns:
        Circuits by regime and seed.

    Raises:
        OutputError: One of them was found with other settings.
        CircuitFormatError: One of the files is no circuit.
    """
    wanted = [(regime, seed) for regime in tasks for seed in seeds]
    found = {(regime, seed): _kept(compiled, tasks[regime], regime, seed, training, folder) for regime, seed in wanted}
    return {key: circuit for key, circuit in found.items() if circuit is not None}


def _kept(
    compiled: CompiledModel, task: TaskData, regime: str, seed: int, training: Training, folder: StudyFolder
) -> Circuit | None:
    path = folder.circuit_file(regime, seed)
    if not path.exists():
        return None
    circuit = Circuit.load(path)
    difference = circuit.universe.first_difference(compiled.universe)
    difference = difference or first_difference(circuit, training.provenance(compiled, task, seed))
    if difference is not None:
        raise OutputError(
            f"{path} was found with other settings: {difference}. Go on with its settings, choose another folder, or "
            "replace the whole study with --overwrite (overwrite=True)"
        )
    return circuit


def _train(
    compiled: CompiledModel,
    task: TaskData,
    regime: str,
    seed: int,
    training: Training,
    folder: StudyFolder | None,
    watch: Watch | None,
    say: Callable[[str], None],
) -> Circuit:
    with stopping() as stop, stop.held(), warnings.catch_warnings():
        # What is missing is said below, or by what ends the study.
        warnings.simplefilter("ignore", IncompleteResultWarning)
        found = discover(
            compiled,
            task,
            training.recipe,
            objective=training.objective,
            ablation=training.ablation,
            seed=seed,
            splits=evaluated_splits(task),
            n_random=0,
            n_effects=0,
            cache_bytes=training.cache_bytes,
            disk_cache=training.disk_cache,
            teacher_top_k=training.teacher_top_k,
            micro_batch=training.micro_batch,
            recompute=training.recompute,
            watch=None if watch is None else lambda record: watch(regime, seed, record),
            say=say,
        )
        if found.run.interrupted:
            raise Stopped(stop.name or "SIGINT")
        if found.run.stopped_by:
            raise TrainingError(f"regime {regime!r}, seed {seed}: training stopped: {found.run.stopped_by}")
        for line in (*found.diagnoses, *(f"{part} is missing: {reason}" for part, reason in found.missing.items())):
            say(f"{regime}, seed {seed}: {line}")
        circuit = found.circuit.with_provenance({"regime": regime})
        if folder is not None:
            folder.write_circuit(regime, seed, circuit, curve=found.curve, metrics=found.metrics)
        if stop.asked:
            raise Stopped(stop.name)
    return circuit


def require_universes(compiled: CompiledModel, circuits: Mapping[str, Mapping[int, Circuit]]) -> None:
    """Refuse circuits of another universe than the model's.

    Raises:
        GraphMismatchError: Such a circuit, by regime and seed.
    """
    for regime, by_seed in circuits.items():
        for seed, circuit in by_seed.items():
            require_universe(compiled, circuit, f"circuit of regime {regime!r}, seed {seed}: its universe")
