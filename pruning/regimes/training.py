"""A circuit for every regime and seed, each kept as soon as it is found and never trained twice."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import IncompleteResultWarning, OutputError, TrainingError
from circuitgraph.stopping import Stopped, stopping
from pruning.evaluation.matching import require_universe
from pruning.regimes.folder import StudyFolder
from pruning.regimes.planned import PlannedStudy, StudyProgress
from pruning.runs.discover import run_discovery
from pruning.runs.provenance import first_difference
from pruning.runs.trained_run import known_provenance


def train_regimes(
    study: PlannedStudy,
    kept: Mapping[tuple[str, int], Circuit],
    folder: StudyFolder | None,
    progress: StudyProgress,
) -> dict[str, dict[int, Circuit]]:
    """Find a circuit for every regime that has none, and every seed.

    Args:
        study: The study.
        kept: Circuits of an earlier run, by regime and seed, see `kept_circuits`.
        folder: Where circuits are kept.
        progress: Told what begins, and of every step.

    Returns:
        Circuits by regime and seed.

    Raises:
        TrainingError: A training could not go on; those before it are kept.
        KeyboardInterrupt: A training was interrupted; those before it are kept.
    """
    plan = [(regime, seed) for seed in study.asked.seeds for regime in study.trainings]
    if kept:
        progress.say(
            f"{len(kept)} of {len(plan)} circuits are there already, found with the same settings: not trained again"
        )
    found: dict[str, dict[int, Circuit]] = {regime: {} for regime in study.trainings}
    for number, (regime, seed) in enumerate(plan, 1):
        circuit = kept.get((regime, seed))
        if circuit is None:
            progress.say(f"training {number} of {len(plan)}: {regime}, seed {seed}")
            circuit = _train(study, regime, seed, folder, progress)
        found[regime][seed] = circuit
    return found


def kept_circuits(study: PlannedStudy, folder: StudyFolder) -> dict[tuple[str, int], Circuit]:
    """The circuits that an earlier run has left in a folder.

    Args:
        study: The study.
        folder: Its folder.

    Returns:
        Circuits by regime and seed.

    Raises:
        OutputError: One of them was found with other settings.
        CircuitFormatError: One of the files is no circuit.
    """
    wanted = [(regime, seed) for regime in study.trainings for seed in study.asked.seeds]
    found = {(regime, seed): _kept(study, regime, seed, folder) for regime, seed in wanted}
    return {key: circuit for key, circuit in found.items() if circuit is not None}


def _kept(study: PlannedStudy, regime: str, seed: int, folder: StudyFolder) -> Circuit | None:
    path = folder.circuit_file(regime, seed)
    if not path.exists():
        return None
    circuit = Circuit.load(path)
    difference = circuit.universe.first_difference(study.compiled.universe)
    difference = difference or first_difference(circuit, known_provenance(study.run(regime, seed)))
    if difference is not None:
        raise OutputError(
            f"{path} was found with other settings: {difference}. Go on with its settings, choose another folder, or "
            "replace the whole study with --overwrite (overwrite=True)"
        )
    return circuit


def _train(study: PlannedStudy, regime: str, seed: int, folder: StudyFolder | None, progress: StudyProgress) -> Circuit:
    with stopping() as stop, stop.held(), warnings.catch_warnings():
        # What is missing is said below, or by what ends the study.
        warnings.simplefilter("ignore", IncompleteResultWarning)
        found = run_discovery(study.run(regime, seed), progress.training(regime, seed))
        if found.interrupted:
            raise Stopped(stop.name or "SIGINT")
        if found.stopped_by:
            raise TrainingError(f"regime {regime!r}, seed {seed}: training stopped: {found.stopped_by}")
        for line in (*found.diagnoses, *(f"{part} is missing: {reason}" for part, reason in found.missing.items())):
            progress.say(f"{regime}, seed {seed}: {line}")
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
