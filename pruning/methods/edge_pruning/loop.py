"""The training loop: step after step, until all are taken or something ends the run.

After each step the run's state is kept. Whatever ends a run inside of a step, it goes back to the state after the last
whole one; written to disk (`pruning.methods.edge_pruning.checkpoint`), that state is what a later process goes on from,
to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from circuitgraph.errors import NotFiniteError, TrainingError, why
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.stopping import Stop, Stopped
from pruning.methods.edge_pruning.gates import Gates
from pruning.methods.edge_pruning.state import StepRecord, TrainingState
from pruning.methods.edge_pruning.train import Trainer

Watch = Callable[[StepRecord], None]


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What training gives back.

    Attributes:
        gates: The trained gates.
        records: A row a step.
        interrupted: Whether it was stopped early by the user.
        stopped_by: Why it stopped early, or an empty text.
        goes_on: Whether steps are left that a later process can take; not so after a loss that is not finite, which
            would be the same again.
        constants: What cut edges carry under optimal ablation, as they were trained; else None.
    """

    gates: Gates
    records: tuple[StepRecord, ...]
    interrupted: bool
    stopped_by: str
    goes_on: bool = False
    constants: AblationValues | None = None


@runtime_checkable
class Checkpointing(Protocol):
    """What keeps the states of a run; see `pruning.methods.edge_pruning.checkpoint`."""

    def after_step(self, state: TrainingState) -> None:
        """Keep a state if it is time to."""

    def keep(self, state: TrainingState) -> None:
        """Keep a state now."""


def train(
    trainer: Trainer, watch: Watch | None = None, stop: Stop | None = None, checkpoints: Checkpointing | None = None
) -> TrainingRun:
    """Take all steps that are left.

    Args:
        trainer: A fresh trainer, or one that goes on from a state.
        watch: Called after every step, e.g. by a progress bar.
        stop: Who asks the run to stop.
        checkpoints: Keeps the state now and then, and when the run ends, however it does; None keeps it nowhere.

    Returns:
        The trained gates and the curve. A request to stop, a NaN and any error after the first step end it early and
        keep the state after the last whole step.

    Raises:
        NotFiniteError: The full model's own logits are NaN or infinite in the first step.
    """
    stopped_by = ""
    interrupted = goes_on = False
    stop = stop or Stop()
    last = trainer.state()
    try:
        with stop.open():
            while last.steps < trainer.recipe.steps:
                record = trainer.step(last.steps)
                last = trainer.state()
                if watch is not None:
                    watch(record)
                if checkpoints is not None:
                    checkpoints.after_step(last)
                if stop.asked:  # by what could not end the step
                    raise Stopped(stop.name)
    except KeyboardInterrupt as error:
        stop.note(error)
        by = "the user" if stop.name == "SIGINT" else stop.name
        interrupted = goes_on = True
        stopped_by = f"interrupted by {by} after {last.steps} steps"
    except NotFiniteError:
        raise
    except TrainingError as error:
        stopped_by = str(error)
    except Exception as error:
        if not last.steps:
            raise
        goes_on, stopped_by = True, f"after {last.steps} steps: {why(error)}"
    if stopped_by:
        trainer.restore(last)
    if checkpoints is not None and last.steps:
        checkpoints.keep(last)
    if trainer.recipe.control == "budget" and last.steps:
        trainer._hold_budget(last.records[-1].target)
    return TrainingRun(
        gates=trainer.gates, records=last.records, interrupted=interrupted, stopped_by=stopped_by,
        goes_on=goes_on and last.steps < trainer.recipe.steps,
        constants=None if trainer.constants is None else trainer.constants.settled(),
    )  # fmt: skip
