"""A batch forward and backward, in parts where memory runs out.

The gates can be sampled more than once per step, each sample for its share of the batch. A share is run in parts of at
most `micro_batch` prompts, one after the other, whose gradients add up. A part is divided among threads inside its
products, so nothing else is to be run beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import out_of_memory
from circuitgraph.graph.liveness import effective_edges
from circuitgraph.memory.numbers import step_numbers
from pruning.execution.learnt_constants import LearntConstants
from pruning.execution.objectives import Objective
from pruning.execution.replay import Replays, ReplayState, widest
from pruning.frozen.runs import FrozenRuns

_SPARSE_BELOW = 1 / 30  # of the gates are not 0


@dataclass(frozen=True, kw_only=True)
class Share:
    """Prompts of a batch, and the gates that they run with.

    Attributes:
        prompts: Which of the data set, at least one, of one length.
        gates: One gate per edge, on the host.
        wanted: Gates whose gradient is wanted, on the host.
        likely: Gives gates that are likely to be open in steps to come, on the host; None for these ones.
    """

    prompts: np.ndarray
    gates: Float[Tensor, " edge"]
    wanted: Bool[Tensor, " edge"]
    likely: Callable[[], Bool[Tensor, " edge"]] | None = None

    @property
    def active(self) -> np.ndarray:
        """Booleans `[edge]`: gates that are not 0, or whose gradient is wanted."""
        return ((self.gates != 0) | self.wanted).numpy()


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """A batch that went forward and backward.

    Attributes:
        gradients: Of the objective in each share's gates `[edge]`, on the device.
        objective: Its mean over the batch, on the device.
        live_heads: Heads that ran, with the last gates.
        live_mlps: MLPs that ran, with the last gates.
        constants: Of the objective in the constants that are learnt, on the device; None where none are.
    """

    gradients: list[Float[Tensor, " edge"]]
    objective: Float[Tensor, ""]
    live_heads: int
    live_mlps: int
    constants: Float[Tensor, " number"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class RunnerState:
    """How later batches are divided and run.

    Attributes:
        micro_batch: Prompts at once.
        most_sparse: Prompts at once with few gates open, once memory ran out; None before that.
        recompute: Whether MLPs run again in the backward pass.
        replays: What decides which parts are replayed; None where none are.
    """

    micro_batch: int
    most_sparse: int | None
    recompute: bool
    replays: ReplayState | None


class BatchRunner:
    """Takes batches forward and backward.

    Args:
        compiled: The model.
        frozen: The data with its frozen runs.
        objective: What is minimised.
        micro_batch: Prompts that run at once at most, more only where few gates leave little to hold; halved when
            memory runs out.
        recompute: Run MLPs once more in the backward pass instead of keeping what is inside them.
        replay: Whether parts are recorded and replayed where that pays; see `pruning.execution.replay`. Not where
            constants are learnt, or edges are divided by spans: a recording knows nothing of these.
        constants: What cut edges carry instead of the data's own values, and takes a gradient; None where nothing of
            it is learnt.
        say: Called with a line when memory ran out.
    """

    def __init__(
        self,
        compiled: CompiledModel,
        frozen: FrozenRuns,
        objective: Objective,
        *,
        micro_batch: int,
        recompute: bool = False,
        replay: bool = False,
        constants: LearntConstants | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.compiled, self.frozen, self.objective = compiled, frozen, objective
        self.constants = constants
        self.micro_batch, self.recompute, self._say = micro_batch, recompute, say
        self._most_sparse: int | None = None  # prompts at once, once memory ran out
        self._replays: Replays | None = None
        if replay and constants is None and not compiled.universe.spans and not compiled.vectors:
            self._replays = Replays(compiled, frozen, objective, at_once=micro_batch, recompute=recompute, say=say)

    @property
    def replays(self) -> bool:
        """Whether parts are recorded and replayed where that pays."""
        return self._replays is not None

    @property
    def recorded(self) -> int:
        """How many parts were recorded so far."""
        return 0 if self._replays is None else self._replays.recorded

    def state(self) -> RunnerState:
        """What decides how later batches run, beside their gates and prompts."""
        replays = None if self._replays is None else self._replays.state()
        return RunnerState(
            micro_batch=self.micro_batch, most_sparse=self._most_sparse, recompute=self.recompute, replays=replays
        )

    def restore(self, state: RunnerState) -> None:
        """Go on from a state of the same run.

        Args:
            state: What `state` gave.
        """
        self.micro_batch, self._most_sparse, self.recompute = state.micro_batch, state.most_sparse, state.recompute
        if state.replays is None:
            self._replays = None
        elif self._replays is not None:
            self._replays.restore(state.replays)

    def run(self, shares: Sequence[Share]) -> BatchResult:
        """Run a batch forward and backward, in smaller parts if memory runs out; at last, MLPs are run again.

        Args:
            shares: All of the batch, at least one.
        """
        sparse = all(int(share.gates.count_nonzero()) < _SPARSE_BELOW * len(share.gates) for share in shares)
        while True:
            at_once = [self._at_once(share) if sparse else self.micro_batch for share in shares]
            try:
                return self._run(shares, at_once)
            except (RuntimeError, MemoryError) as error:
                tried = max(min(n, len(share.prompts)) for n, share in zip(at_once, shares, strict=True))
                if not out_of_memory(error) or (tried == 1 and self.recompute):
                    raise
            # Outside of the handler, whose traceback holds the failed pass.
            self._take_less(tried)

    def _take_less(self, tried: int) -> None:
        """Take less memory, now that it ran out with so many prompts at once."""
        if tried == 1:
            self.recompute = True
            line = "going on with MLPs run again in the backward pass"
        elif tried > self.micro_batch:
            self._most_sparse = max((tried + 1) // 2, self.micro_batch)
            line = f"sparse steps go on with {self._most_sparse} prompts at once, the same batches"
        else:
            self.micro_batch = self._most_sparse = (tried + 1) // 2
            line = f"going on with {self.micro_batch} prompts at once, the same batches"
        self._replays = None
        self.compiled.free_buffers()
        self._say(f"memory ran out: {line}")

    def _run(self, shares: Sequence[Share], at_once: Sequence[int]) -> BatchResult:
        n_prompts = sum(len(share.prompts) for share in shares)
        device = self.compiled.device
        if self._replays is not None:
            self._replays.plan(*_open(shares))
        gradients = [torch.zeros(len(share.gates), dtype=share.gates.dtype, device=device) for share in shares]
        objective = torch.zeros((), dtype=widest(device), device=device)
        constants = None if self.constants is None else torch.zeros_like(self.constants.numbers, requires_grad=False)
        live_heads = live_mlps = 0
        for share, most, total in zip(shares, at_once, gradients, strict=True):
            for start in range(0, len(share.prompts), most):
                ran = self._run_part(replace(share, prompts=share.prompts[start : start + most]), n_prompts)
                total += ran.gradients[0]
                objective += ran.objective
                if constants is not None and ran.constants is not None:
                    constants += ran.constants
                live_heads, live_mlps = ran.live_heads, ran.live_mlps
        return BatchResult(
            gradients=gradients, objective=objective, live_heads=live_heads, live_mlps=live_mlps, constants=constants
        )

    def _at_once(self, share: Share) -> int:
        """How many prompts run at once with few gates: as many as hold no more than `micro_batch` with all gates do."""
        if len(share.prompts) <= self.micro_batch:
            return self.micro_batch
        universe, shape = self.compiled.universe, self.compiled.shape
        live = effective_edges(universe, share.active, self.frozen.ablation)
        writers, readers = (np.unique(ends) for ends in universe.endpoints(np.flatnonzero(live)))
        kinds, first = universe.writer_kinds[writers], int(share.prompts[0])
        length, asked = self.frozen.pairs.lengths[first], len(self.frozen.pairs.predict_positions[first])
        prompt = {"tokens": int(length), "asked": asked, "n_bytes": self.compiled.dtype.itemsize}
        heads, mlps = (int((kinds == kind).sum()) for kind in ("head", "mlp"))
        few = step_numbers(shape, writers=len(writers), readers=len(readers), heads=heads, mlps=mlps, **prompt)
        whole = {"writers": universe.n_writers, "readers": universe.n_readers}
        whole |= {f"{kind}s": int((universe.writer_kinds == kind).sum()) for kind in ("head", "mlp")}
        every = step_numbers(shape, **whole, **prompt)
        fit = self.micro_batch * (every // few)
        return fit if self._most_sparse is None else min(fit, self._most_sparse)

    def _run_part(self, part: Share, n_prompts: int) -> BatchResult:
        """What a part adds to a batch of so many prompts."""
        weight = len(part.prompts) / n_prompts
        replayed = self._replays.run(part.prompts, part.gates) if self._replays is not None else None
        if replayed is not None:
            return BatchResult(
                gradients=[replayed.gradient * weight], objective=replayed.objective * weight,
                live_heads=replayed.live_heads, live_mlps=replayed.live_mlps,
            )  # fmt: skip
        gates = part.gates.detach().requires_grad_()
        batch = self.frozen.batch(part.prompts)
        values = batch.values if self.constants is None else self.constants.values()
        ran = self.compiled.masked(gates, batch.pairs.clean, values, wanted=part.wanted, recompute=self.recompute)
        loss = self.objective(ran.logits, batch.teacher, batch.pairs) * weight
        learnt = [] if self.constants is None else [self.constants.numbers]
        gradient, *of_constants = torch.autograd.grad(loss, [ran.gates, *learnt])
        return BatchResult(
            gradients=[gradient], objective=loss.detach(), live_heads=ran.live_heads, live_mlps=ran.live_mlps,
            constants=of_constants[0] if of_constants else None,
        )  # fmt: skip


def _open(shares: Sequence[Share]) -> tuple[np.ndarray, Callable[[], np.ndarray]]:
    """Gates that are active in any share, and what gives those that are likely to be."""
    active = np.logical_or.reduce([share.active for share in shares])
    likely = shares[0].likely
    return active, (lambda: active) if likely is None else lambda: likely().numpy()
