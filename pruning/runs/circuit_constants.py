"""The constants of the circuit that was kept, learnt on once its edges are settled."""

from __future__ import annotations

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import why
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.stopping import Stop
from pruning.execution.learning import BATCH_SIZE, RATE, STEPS, learn_constants
from pruning.runs.progress import Progress
from pruning.runs.run import Run


def circuit_constants(
    run: Run, begun: AblationValues | None, circuit: Circuit, progress: Progress, stop: Stop
) -> AblationValues | None:
    """Learn the constants of a circuit on, its edges settled; None where none are learnt.

    Where that fails or is ended, those that it began at are taken.

    Args:
        run: The run.
        begun: What cut edges carried before, under optimal ablation; None under another.
        circuit: The circuit.
        progress: Told what begins.
        stop: Who asked the run to stop.

    Raises:
        KeyboardInterrupt: The run was asked to stop a second time.
    """
    recipe = run.request.recipe
    steps, rate, size = (
        (STEPS, RATE, 1) if recipe is None else (recipe.refine_steps, recipe.constants_rate, recipe.batch_size)
    )
    if begun is None or not steps or stop.asked:
        return begun
    progress.say(f"learning the circuit's constants on for {steps:,} steps")
    try:
        with stop.open(), progress.counting("constants") as tick:
            return learn_constants(
                run.compiled, run.task.splits["train"], circuit, start=begun, seed=run.request.seed,
                objective=run.request.objective, steps=steps, rate=rate, batch_size=max(BATCH_SIZE, size), tick=tick,
            )  # fmt: skip
    except KeyboardInterrupt as error:
        stop.note(error)
    except Exception as error:  # noqa: BLE001 - those that it began at are there
        progress.say(f"Warning: the circuit's constants were not learnt on: {why(error)}")
    return begun
