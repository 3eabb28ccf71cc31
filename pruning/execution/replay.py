"""Steps recorded once and replayed with other gates and prompts, where launching them costs more than running them.

A masked step of a small model is some two thousand kernels of a few microseconds each, and a GPU waits for the host
most of the time. A CUDA graph holds all of them, and is launched at once. It can only do what it did when it was
recorded, so that whatever differs from step to step has to lie in tensors that stay where they are:

1. what runs is fixed beforehand, for all gates that are likely to be open (`circuitgraph.forward.masked.FixedPlan`);
2. gates are read on the device, and prompts are picked there by an index (`pruning.frozen.group`);
3. a step whose gates need something more is run as it always was. The plan is then made anew, with what was missed; and
   also when much less is open than it provides for, which is looked at now and then.

All of that is decided by the gates alone, so a seed gives the same bits each time. Off CUDA nothing is gained; a
recording there is the step itself, run anew by the same fixed plan, which is how it is tested.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import out_of_memory
from circuitgraph.forward.plan.fixed import FixedPlan
from circuitgraph.forward.plan.plan import StreamPlan
from circuitgraph.transfer import SentArrays, to_device
from pruning.execution.objectives import Objective
from pruning.frozen.group import KeptGroup
from pruning.frozen.runs import FrozenRuns

MOST_BYTES = 6 << 30
"""Larger steps are not recorded: their kernels take long enough, and a recording holds its memory for good."""
SPARSEST = 16
"""Where a step with one in so many readers and writers would be too large, planning for recordings is not begun."""
LOOK_EVERY = 16
"""After so many steps the plan is compared with what is likely to be open."""
WORTH = 0.8
"""A plan is made anew when one for what is likely now would run less than this share of it."""
PATIENCE = 4
"""So many steps pass between two plans at least."""
MOST_RECORDINGS = 16
"""Batches of more lengths and sizes than this are run as they always were."""


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """The outputs of a recorded part of a batch; valid until the next replay, in the order of the device's work.

    Attributes:
        gradient: Of the mean objective of the part in its gates.
        objective: That mean.
        live_heads: Heads that ran.
        live_mlps: MLPs that ran.
    """

    gradient: Float[Tensor, " edge"]
    objective: Float[Tensor, ""]
    live_heads: int
    live_mlps: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ReplayState:
    """What decides which steps are replayed, and by which plan.

    Attributes:
        works: Whether steps are recorded at all.
        planned: Booleans `[edge]` that the plan was made from; None where there is no plan.
        missed: Booleans `[edge]` that the plan lacked since, to be in the next one; None where it lacked none.
        age: Steps since the plan was made.
        keys: Tokens per prompt and number of prompts of what was recorded by this plan, in order.
    """

    works: bool
    planned: np.ndarray | None
    missed: np.ndarray | None
    age: int
    keys: tuple[tuple[int, int], ...]


class Replays:
    """Records parts of batches and replays them.

    Args:
        compiled: The model.
        frozen: The data with its frozen runs.
        objective: What is minimised.
        at_once: Prompts of a part at the most.
        recompute: Whether MLPs are run again on the way back.
        say: Called with a line when recording failed.

    Attributes:
        recorded: How many recordings were made.
    """

    def __init__(
        self,
        compiled: CompiledModel,
        frozen: FrozenRuns,
        objective: Objective,
        *,
        at_once: int,
        recompute: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.compiled, self.frozen, self.objective = compiled, frozen, objective
        self.recompute, self._say = recompute, say
        self.recorded = 0
        self._plan: FixedPlan | None = None
        self._planned_from: np.ndarray | None = None
        self._keys: set[tuple[int, int]] = set()
        self._missed: np.ndarray | None = None
        self._fits = False
        self._age = 0
        self._groups: dict[int, KeptGroup | None] = {}
        self._recordings: dict[tuple[int, int], _Recording] = {}
        self._sent = SentArrays()
        self._pool: object | None = None
        universe, shortest = compiled.universe, min(frozen.by_length)
        rows = (universe.n_readers + universe.n_writers) / SPARSEST
        self._works = self._bytes(rows * at_once * shortest) <= MOST_BYTES

    def plan(self, active: np.ndarray, likely: Callable[[], np.ndarray]) -> None:
        """Settle what the next step's parts are replayed by.

        Args:
            active: Booleans `[edge]`: gates of the step that are not 0, or whose gradient is wanted.
            likely: Gives those that are likely to be open in the steps to come.
        """
        if not self._works:
            return
        self._age += 1
        universe = self.compiled.universe
        missed = self._plan.missed(universe, active) if self._plan is not None else active
        self._fits = missed is None
        if missed is not None:
            self._missed = missed if self._missed is None else self._missed | missed
        elif self._age % LOOK_EVERY or _size_of(self._planned(likely())) >= WORTH * _size_of(self._plan_now):
            return
        if self._plan is None or self._age >= PATIENCE:
            wanted = likely() | active
            self._planned_from = wanted if self._missed is None else wanted | self._missed
            self._plan = self._planned(self._planned_from)
            self._fits, self._age, self._missed = True, 0, None
            self._forget()

    def state(self) -> ReplayState:
        """What decides how later steps run; arrays are shared, and never written to."""
        return ReplayState(
            works=self._works, planned=self._planned_from, missed=self._missed, age=self._age,
            keys=tuple(sorted(self._keys)),
        )  # fmt: skip

    def restore(self, state: ReplayState) -> None:
        """Go on from a state of the same run: the plan is made again, and recordings when they are used.

        Args:
            state: What `state` gave.
        """
        self._forget()
        self._works, self._age, self._missed = state.works, state.age, state.missed
        self._planned_from, self._keys = state.planned, set(state.keys)
        self._plan = None if state.planned is None else self._planned(state.planned)

    @property
    def _plan_now(self) -> FixedPlan:
        assert self._plan is not None
        return self._plan

    def _planned(self, live: np.ndarray) -> FixedPlan:
        return FixedPlan.of(self.compiled.universe, live, ablation=self.frozen.ablation)

    def run(self, prompts: np.ndarray, gates: Float[Tensor, " edge"]) -> Replayed | None:
        """Take a part of a batch forward and backward.

        Args:
            prompts: Which of the data set, of one length.
            gates: One gate per edge, on the host; those that `plan` was given.

        Returns:
            Its outputs, or None where it has to be run without a recording.
        """
        if not self._works or not self._fits:
            return None
        group = self._group(len(self.frozen.pairs.clean_ids[int(prompts[0])]))
        if group is None:
            return None
        recording = self._recording(group, len(prompts), gates)
        if recording is None:
            return None
        recording.index.copy_(to_device(torch.from_numpy(group.index_of(prompts)), self.compiled.device))
        with torch.no_grad():
            recording.gates.copy_(gates, non_blocking=True)
        self.frozen.count_kept(len(prompts))
        return recording.replay()

    def _forget(self) -> None:
        """Give the recordings' memory back, and their pool, which cannot be used again once nothing holds it."""
        self._recordings.clear()
        self._keys.clear()
        self._pool, self._sent = None, SentArrays()

    def _group(self, length: int) -> KeptGroup | None:
        if length not in self._groups:
            self._groups[length] = self.frozen.group(length)
        return self._groups[length]

    def _recording(self, group: KeptGroup, n: int, gates: Tensor) -> _Recording | None:
        key = (group.pairs.clean.input_ids.shape[1], n)
        found = self._recordings.get(key)
        if found is not None and found.holds():
            return found
        full = key not in self._keys and len(self._keys) >= MOST_RECORDINGS
        if full or self._step_bytes(*key) > MOST_BYTES:
            return None
        try:
            made = _Recording(self, group, n, self._plan_now, gates)
        except RuntimeError as error:
            self._works = False
            self._forget()
            cause = "memory ran out" if out_of_memory(error) else str(error).strip().splitlines()[0]
            self._say(f"steps are not recorded ({cause}): going on without, slower")
            return None
        self._recordings[key] = made
        self._keys.add(key)
        self.recorded += 1
        return made

    def _step_bytes(self, seq: int, n: int) -> int:
        """What the streams of a step take at the most."""
        streams = self._plan_now.plan.streams
        group = self._group(seq)
        per_prompt = {"asked": len(group.asked) if group is not None else 0}
        rows = sum(_size(stream) * per_prompt.get(name, seq) for name, stream in streams.items())
        return self._bytes(rows * n)

    def _bytes(self, positions: float) -> int:
        """What so many rows of one position each take."""
        return round(positions * self.compiled.shape.d_model * self.compiled.dtype.itemsize)

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        """Something that can be run again, from a run of it.

        Args:
            body: Reads and writes tensors that stay where they are.

        Returns:
            Runs it again.
        """
        if self.compiled.device.type != "cuda":
            return body
        device = self.compiled.device
        with torch.cuda.device(device), self._sent.keeping():  # a graph records the device that is current
            # Once beforehand, for what libraries do when first used, and to send all arrays of indices.
            aside = torch.cuda.Stream(device)
            aside.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(aside):
                body()
            torch.cuda.current_stream(device).wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=aside):  # pyright: ignore[reportArgumentType]
                body()
        self._pool = graph.pool()
        return graph.replay


class _Recording:
    """A part of a batch, recorded."""

    def __init__(self, of: Replays, group: KeptGroup, n: int, plan: FixedPlan, gates: Tensor) -> None:
        compiled = of.compiled
        device = compiled.device
        self.gates = gates.detach().to(device, copy=True).requires_grad_()
        self.index = torch.zeros(n, dtype=torch.long, device=device)
        self.gradient = torch.zeros_like(self.gates, requires_grad=False)
        self.objective = torch.zeros((), dtype=widest(device), device=device)
        self._compiled, self._bound = compiled, compiled.runnable_with_vectors.bound
        self._live = plan.plan.live_heads, plan.plan.live_mlps

        def body() -> None:
            batch = group.batch(self.index)
            ran = compiled.masked_by_plan(
                self.gates, batch.pairs.clean, batch.values, plan,
                first_differing=group.first_differing, recompute=of.recompute,
            )  # fmt: skip
            loss = of.objective(ran.logits, batch.teacher, batch.pairs)
            self.gradient.copy_(torch.autograd.grad(loss, self.gates)[0])
            self.objective.copy_(loss.detach())

        self._again = of.record(body)

    def holds(self) -> bool:
        """Whether the model's weights lie where they lay."""
        return self._compiled.runnable_with_vectors.bound is self._bound

    def replay(self) -> Replayed:
        """Run it with what `gates` and `index` hold now."""
        self._again()
        heads, mlps = self._live
        return Replayed(gradient=self.gradient, objective=self.objective, live_heads=heads, live_mlps=mlps)


def _size(stream: StreamPlan) -> int:
    """How much a stream runs, in readers and writers."""
    return len(stream.edges) + stream.n_slots


def _size_of(plan: FixedPlan) -> int:
    return sum(_size(stream) for stream in plan.plan.streams.values())


def widest(device: torch.device) -> torch.dtype:
    """The widest numbers of a device."""
    return torch.float32 if device.type == "mps" else torch.float64
