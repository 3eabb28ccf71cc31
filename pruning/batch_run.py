"""A batch forward and backward: in parts where memory asks for it, side by side where that pays.

The gates can be drawn more than once a step, each draw for its share of the batch. A share is run in parts of at most
`micro_batch` prompts, whose gradients add up; `lanes` of them run at once, each smaller accordingly, so that memory
holds as many prompts as without lanes. What lanes have to do each by itself, however few its prompts, is most of a
sparse step: there parts run one after the other, all threads on each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitgraph.compile import CompiledModel
from circuitgraph.errors import out_of_memory
from pruning.frozen_runs import FrozenRuns
from pruning.lanes import Lanes
from pruning.objectives import Objective

_SPARSE_BELOW = 1 / 30  # of the gates are not 0
_ONE_LANE = Lanes(1)


@dataclass(frozen=True, kw_only=True)
class Share:
    """Prompts of a batch, and the gates that they run with.

    Attributes:
        prompts: Which of the data set, at least one, of one length.
        gates: One gate an edge, on the host.
        wanted: Gates whose gradient is wanted, on the host.
    """

    prompts: np.ndarray
    gates: Float[Tensor, " edge"]
    wanted: Bool[Tensor, " edge"]


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """A batch that went forward and backward.

    Attributes:
        gradients: Of the objective in each share's gates `[edge]`, on the device.
        objective: Its mean over the batch, on the device.
        live_heads: Heads that ran, with the last gates.
        live_mlps: MLPs that ran, with the last gates.
    """

    gradients: list[Float[Tensor, " edge"]]
    objective: Float[Tensor, ""]
    live_heads: int
    live_mlps: int


class BatchRunner:
    """Takes batches forward and backward.

    Args:
        compiled: The model.
        frozen: The data with its frozen runs.
        objective: What is minimised.
        micro_batch: Prompts that run at once at most; halved when memory runs out.
        recompute: Run MLPs once more in the backward pass instead of keeping what is inside them.
        lanes: How many parts of a share run side by side, unless nearly all gates are 0.
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
        lanes: int = 1,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.compiled, self.frozen, self.objective = compiled, frozen, objective
        self.micro_batch, self.recompute, self._say = micro_batch, recompute, say
        self._lanes = Lanes(lanes)

    @property
    def lanes(self) -> int:
        """How many parts run side by side."""
        return self._lanes.n

    def run(self, shares: Sequence[Share]) -> BatchResult:
        """Run a batch forward and backward, in smaller parts if memory runs out.

        Args:
            shares: All of the batch, at least one.
        """
        while True:
            try:
                return self._run(shares)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or self.micro_batch == 1:
                    raise
            # Outside of the handler, whose traceback holds the failed pass.
            self.micro_batch = (self.micro_batch + 1) // 2
            self.compiled.free_buffers()
            if self.compiled.device.type == "cuda":
                torch.cuda.empty_cache()
            self._say(f"memory ran out: going on with {self.micro_batch} prompts at once, the same batches")

    def _run(self, shares: Sequence[Share]) -> BatchResult:
        n_prompts = sum(len(share.prompts) for share in shares)
        sparse = all(int(share.gates.count_nonzero()) < _SPARSE_BELOW * len(share.gates) for share in shares)
        lanes = _ONE_LANE if sparse else self._lanes
        places = [(place, part) for place, share in enumerate(shares) for part in self._parts(share.prompts, lanes.n)]
        parts = [replace(shares[place], prompts=part) for place, part in places]
        device = self.compiled.device
        gradients = [torch.zeros(len(share.gates), dtype=share.gates.dtype, device=device) for share in shares]
        objective = torch.zeros((), dtype=_widest(device), device=device)
        live_heads = live_mlps = 0
        with closing(lanes.map(lambda part: self._run_part(part, n_prompts), parts)) as results:
            for (place, _), (gradient, loss, live) in zip(places, results, strict=True):
                gradients[place] += gradient
                objective += loss
                live_heads, live_mlps = live
        return BatchResult(gradients=gradients, objective=objective, live_heads=live_heads, live_mlps=live_mlps)

    def _parts(self, prompts: np.ndarray, lanes: int) -> list[np.ndarray]:
        """What runs at once in one of some lanes."""
        lanes = min(lanes, self.micro_batch)
        if lanes == 1:
            return [prompts[start : start + self.micro_batch] for start in range(0, len(prompts), self.micro_batch)]
        turns = -(-len(prompts) // self.micro_batch)
        return np.array_split(prompts, min(lanes * turns, len(prompts)))

    def _run_part(self, part: Share, n_prompts: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """What a part adds to gradient and objective of a batch of so many prompts; its live heads and MLPs."""
        gates = part.gates.detach().requires_grad_()
        batch = self.frozen.batch(part.prompts)
        ran = self.compiled.masked(
            gates, batch.pairs.clean, batch.values,
            ablation=self.frozen.ablation, wanted=part.wanted, recompute=self.recompute,
        )  # fmt: skip
        loss = self.objective(ran.logits, batch.teacher, batch.pairs) * (len(part.prompts) / n_prompts)
        return torch.autograd.grad(loss, ran.gates)[0], loss.detach(), (ran.live_heads, ran.live_mlps)


def _widest(device: torch.device) -> torch.dtype:
    """The widest numbers of a device."""
    return torch.float32 if device.type == "mps" else torch.float64
