"""The state of a training run: all that its next step depends on, as values that can be kept and put back.

`Trainer.state` makes one, `Trainer.restore` goes on from it, `pruning.methods.edge_pruning.checkpoint` keeps it on
disk. What does not change (model, prompts, recipe, seed) is not in it: a state belongs to a run of the same settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitgraph.errors import CheckpointError
from pruning.execution.batch_run import RunnerState
from pruning.execution.replay import ReplayState
from pruning.prompts.batch_order import OrderState


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One step, as a row of the curve.

    Attributes:
        step: From 0.
        seconds: Since training began.
        loss: What was minimised.
        objective: Its part from the task, such as the KL in nats.
        sparsity: Of the gates drawn.
        target: The sparsity asked for.
        lambda1: First multiplier.
        lambda2: Second multiplier.
        live_heads: Heads that ran.
        live_mlps: MLPs that ran.
        undecided: Gates strictly between 0 and 1.
    """

    step: int
    seconds: float
    loss: float
    objective: float
    sparsity: float
    target: float
    lambda1: float
    lambda2: float
    live_heads: int
    live_mlps: int
    undecided: int


_BEGIN_ANEW = "Remove the folder of checkpoints to begin anew"
_WHOLE = ("step", "live_heads", "live_mlps", "undecided")


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingState:
    """All that the next step of a run depends on, after a whole number of steps.

    Attributes:
        seconds: Since training began, of all processes together.
        records: One per step taken.
        parameters: The α of the gates, and of the writers' gates where there are some.
        optimiser: The optimiser's tensors, by name, for each of them; empty before its first step.
        multipliers: The Lagrange multipliers.
        ascent: Their optimiser's tensors, by name; empty before its first step.
        generator: State of the generator that gates are drawn with.
        order: Where the order of batches stands.
        runner: How batches are divided and run.
        counts: Prompts by where their frozen runs came from (`filled` and `drawn`), for the metrics.
        constants: What cut edges carry under optimal ablation and its optimiser's tensors, by name; else empty.
    """

    seconds: float
    records: tuple[StepRecord, ...]
    parameters: tuple[Tensor, ...]
    optimiser: tuple[dict[str, Tensor], ...]
    multipliers: Tensor
    ascent: dict[str, Tensor]
    generator: Tensor
    order: OrderState
    runner: RunnerState
    counts: dict[str, dict[str, int]]
    constants: dict[str, Tensor] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return len(self.records)

    def require_fits(self, parameters: Sequence[Tensor], multipliers: Tensor, n_prompts: int) -> None:
        """Refuse a state that a run cannot go on from, such as one of another graph or other prompts.

        Args:
            parameters: The α of the run.
            multipliers: Its Lagrange multipliers.
            n_prompts: How many training prompts it has.

        Raises:
            CheckpointError: Tensors of other shapes, numbers that are not finite, or prompts that there are not.
        """
        pairs = [*zip(self.parameters, parameters, strict=False), (self.multipliers, multipliers)]
        kept = [*zip(self.optimiser, parameters, strict=False), (self.ascent, multipliers)]
        moments = [(tensor, of) for held, of in kept for name, tensor in held.items() if name != "step"]
        constants = list(self.constants.values())
        prompts = [index for batch in self.order.queue for index in batch.tolist()]
        wrong = ""
        if len(self.parameters) != len(parameters):
            wrong = f"it has {len(self.parameters)} sets of gates, and the run {len(parameters)}"
        elif any(one.shape != other.shape for one, other in (*pairs, *moments)):
            wrong = "its tensors have other shapes than the run's"
        elif not all(bool(tensor.isfinite().all()) for tensor in (*(one for one, _ in (*pairs, *moments)), *constants)):
            wrong = "it holds numbers that are NaN or infinite"
        elif prompts and not 0 <= min(prompts) <= max(prompts) < n_prompts:
            wrong = f"it names prompts beyond the run's {n_prompts:,}"
        elif isinstance(size := self.runner.micro_batch, bool) or not isinstance(size, int) or size < 1:
            wrong = f"its micro_batch is {size!r}; expected a whole number of at least 1"
        if wrong:
            raise CheckpointError(f"the checkpoint's state does not fit this run: {wrong}. {_BEGIN_ANEW}")

    def packed(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state as named tensors and as values for JSON; `unpacked` is the way back."""
        runner, replays = self.runner, self.runner.replays
        tensors = {"multipliers": self.multipliers, "generator": self.generator}
        for index, parameter in enumerate(self.parameters):
            tensors[f"parameter.{index}"] = parameter
        for index, held in enumerate(self.optimiser):
            tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in held.items()}
        tensors |= {f"ascent.{name}": tensor for name, tensor in self.ascent.items()}
        tensors |= {f"constants.{name}": tensor for name, tensor in self.constants.items()}
        tensors |= _record_columns(self.records)
        queue = self.order.queue
        tensors["queue"] = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *queue]).astype(np.int64))
        tensors["queue_sizes"] = torch.tensor([len(batch) for batch in queue], dtype=torch.int64)
        if replays is not None:
            arrays = {"planned": replays.planned, "missed": replays.missed}
            tensors |= {f"replay.{name}": torch.tensor(a) for name, a in arrays.items() if a is not None}
        values = {
            "seconds": self.seconds,
            "steps": self.steps,
            "n_parameters": len(self.parameters),
            "order_generator": self.order.generator,
            "micro_batch": runner.micro_batch,
            "most_sparse": runner.most_sparse,
            "recompute": runner.recompute,
            "replays": None if replays is None else {
                "works": replays.works, "age": replays.age, "keys": [list(key) for key in replays.keys],
            },
            "counts": self.counts,
        }  # fmt: skip
        return tensors, values

    @staticmethod
    def unpacked(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> TrainingState:
        """The state again.

        Args:
            tensors: Named tensors, as `packed` gives them.
            values: Values of JSON, as `packed` gives them.

        Raises:
            KeyError: Something is missing.
            ValueError: It is not of as many steps as it says.
        """
        if values["steps"] != len(tensors["record.step"]):
            raise ValueError(f"it is of {len(tensors['record.step'])} steps and says {values['steps']!r}")
        return TrainingState(
            seconds=values["seconds"],
            records=_records(tensors, values["steps"]),
            parameters=tuple(tensors[f"parameter.{index}"] for index in range(values["n_parameters"])),
            optimiser=tuple(_below(tensors, f"optimiser.{index}.") for index in range(values["n_parameters"])),
            multipliers=tensors["multipliers"],
            ascent=_below(tensors, "ascent."),
            generator=tensors["generator"],
            order=OrderState(queue=tuple(_queue(tensors)), generator=values["order_generator"]),
            runner=RunnerState(
                micro_batch=values["micro_batch"],
                most_sparse=values["most_sparse"],
                recompute=values["recompute"],
                replays=_replays(tensors, values["replays"]),
            ),
            counts=values["counts"],
            constants=_below(tensors, "constants."),
        )


def optimiser_tensors(optimiser: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """Copies of what an optimiser keeps of a parameter, by name; empty before its first step."""
    return {name: value.detach().clone() for name, value in optimiser.state.get(parameter, {}).items()}


def put_optimiser_tensors(optimiser: torch.optim.Optimizer, held: Sequence[dict[str, Tensor]]) -> None:
    """Give an optimiser what it kept of each of its parameters."""
    states = {index: {name: tensor.clone() for name, tensor in of.items()} for index, of in enumerate(held) if len(of)}
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose names begin alike, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _record_columns(records: Sequence[StepRecord]) -> dict[str, Tensor]:
    rows = [asdict(record) for record in records]
    return {
        f"record.{one.name}": torch.tensor(
            [row[one.name] for row in rows], dtype=torch.int64 if one.name in _WHOLE else torch.float64
        )
        for one in fields(StepRecord)
    }


def _records(tensors: Mapping[str, Tensor], steps: int) -> tuple[StepRecord, ...]:
    columns = {one.name: tensors[f"record.{one.name}"].tolist() for one in fields(StepRecord)}
    return tuple(StepRecord(**{name: column[index] for name, column in columns.items()}) for index in range(steps))


def _queue(tensors: Mapping[str, Tensor]) -> Iterator[np.ndarray]:
    sizes = tensors["queue_sizes"].tolist()
    for batch in tensors["queue"].split(sizes) if sizes else ():
        yield batch.numpy()


def _replays(tensors: Mapping[str, Tensor], values: Mapping[str, Any] | None) -> ReplayState | None:
    if values is None:
        return None
    arrays = {name: tensors.get(f"replay.{name}") for name in ("planned", "missed")}
    return ReplayState(
        works=values["works"],
        age=values["age"],
        keys=tuple((int(tokens), int(prompts)) for tokens, prompts in values["keys"]),
        **{name: None if array is None else array.numpy() for name, array in arrays.items()},
    )
