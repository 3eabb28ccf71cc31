"""Learnt constants of a saved circuit: read from beside it, or learnt on its training prompts and kept there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitgraph.cli.output import say, warn
from circuitgraph.errors import ConfigurationError, OutputError

if TYPE_CHECKING:
    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.cli.found_circuit import FoundCircuit
    from circuitgraph.compiled.model import CompiledModel
    from circuitgraph.forward.ablation_values import AblationValues
    from pruning.tasks import TaskData


def stored_constants(compiled: CompiledModel, circuit: Circuit, file: Path) -> AblationValues:
    """The constants that lie beside a circuit.

    Args:
        compiled: The model.
        circuit: The circuit.
        file: Its file.

    Raises:
        ConfigurationError: There are none, or they are of another model.
        CircuitFormatError: They cannot be read.
    """
    from circuitgraph.compiled.constants import constants_file, load_constants

    place = file.parent / constants_file(circuit)
    if not place.is_file():
        raise ConfigurationError(
            f"optimal ablation needs the constants that were learnt for this circuit, in {place.name} beside "
            f"{file}, and that file is not there: copy it, or learn them with "
            f"`circuitgraph evaluate {file} --ablation optimal`; or choose another --ablation"
        )
    return load_constants(compiled, place)


def constants_to_evaluate(
    found: FoundCircuit, file: Path, data: TaskData, *, given: Path | None, steps: int
) -> tuple[AblationValues, dict[str, Any]]:
    """The constants of a circuit that is to be evaluated: given, stored, or learnt now and stored beside it.

    Args:
        found: The circuit with its model.
        file: The circuit's file.
        data: The task, whose training prompts they are learnt on.
        given: A file of constants, or None.
        steps: Steps of learning.

    Returns:
        The constants, and what JSON says of them.

    Raises:
        ConfigurationError: There are no training prompts, or the constants are of another model.
    """
    from circuitgraph.compiled.constants import about_constants, constants_file, load_constants, save_constants
    from pruning.execution.learning import learn_constants
    from pruning.runs.shown_progress import counting

    compiled, circuit = found.compiled, found.circuit
    place = given or file.parent / constants_file(circuit)
    if given is not None or place.is_file():
        weights = about_constants(place).get("weights")
        if given is not None or weights == compiled.identity["weights"]:
            say(f"constants from {place}")
            return load_constants(compiled, place), {"file": str(place), "learnt_now": False}
        warn(f"{place} was learnt in a model of other weights; learning the constants anew")
    train = data.splits.get("train")
    if train is None or not len(train):
        raise ConfigurationError(
            f"task {data.name} has no training prompts to learn constants on; give them with --constants FILE"
        )
    say(f"learning one constant per writer for this circuit, {steps:,} steps on {len(train):,} training prompts")
    with counting("constants") as tick:
        values = learn_constants(compiled, train, circuit, steps=steps, seed=found.seed, tick=tick)
    about = {"circuit": circuit.digest, "task": data.name, "data_hash": data.data_hash, "steps": steps}
    try:
        save_constants(compiled, values, place, about)
    except OutputError as error:
        warn(f"the constants are not kept: {error}")
        return values, {"file": None, "learnt_now": True}
    say(f"constants written to {place}")
    return values, {"file": str(place), "learnt_now": True}
