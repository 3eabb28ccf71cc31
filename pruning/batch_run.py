"""A batch forward and backward: in parts where memory asks for it, side by side where that pays.

The gates can be drawn more than once a step, each draw for its share of the batch. A share is run in parts of at most
`micro_batch` prompts, whose gradients add up; `lanes` of them run at once, each smaller accordingly, so that memory
holds as many prompts as without lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitgraph.compile import CompiledModel
from circuitgraph.errors import out_of_memory
from pruning.frozen_runs import FrozenRuns
from pruning.lanes import Lanes
from pruning.objectives import Objective


@dataclass(frozen=True, kw_only=True)
class Share:
    """Prompts of a batch, and the gates that they run with.

    Attributes:
        prompts: Which of the data set, at least one, of one length.
        gates: One gate an edge.
        wanted: Gates whose gradient is wanted.
    """

    prompts: np.ndarray
    gates: Float[Tensor, " edge"]
    wanted: Bool[Tensor, " edge"]


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """A batch that went forward and backward.

    Attributes:
        gradients: Of the objective in each share's gates `[edge]`.
        objective: Its mean over the batch, on the device.
        live_heads: Heads that ran, with the last gates.
        live_mlps: MLPs that ran, with the last gates.
    """

    gradients: list[Float[Tensor, " edge"]]
    objective: Float[Tensor, ""]
    live_heads: int
    live_mlps: int


@dataclass(frozen=True, kw_only=True)
class _PartResult:
    gradient: Tensor
    objective: Tensor
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
        lanes: How many parts of a share run side by side.
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
        parts = [(place, part) for place, share in enumerate(shares) for part in self._parts(share.prompts)]

        def run_part(part: tuple[int, np.ndarray]) -> _PartResult:
            place, prompts = part
            return self._run_part(shares[place], prompts, len(prompts) / n_prompts)

        gradients: list[Tensor | None] = [None] * len(shares)
        objective = torch.zeros((), dtype=counting(self.compiled.device), device=self.compiled.device)
        live_heads = live_mlps = 0
        with closing(self._lanes.map(run_part, parts)) as results:
            for (place, _), ran in zip(parts, results, strict=True):
                before = gradients[place]
                gradients[place] = ran.gradient if before is None else before.add_(ran.gradient)
                objective += ran.objective
                live_heads, live_mlps = ran.live_heads, ran.live_mlps
        whole = [gradient for gradient in gradients if gradient is not None]
        return BatchResult(gradients=whole, objective=objective, live_heads=live_heads, live_mlps=live_mlps)

    def _parts(self, prompts: np.ndarray) -> list[np.ndarray]:
        """What runs at once in a lane."""
        lanes = min(self.lanes, self.micro_batch)
        if lanes == 1:
            return [prompts[start : start + self.micro_batch] for start in range(0, len(prompts), self.micro_batch)]
        turns = -(-len(prompts) // self.micro_batch)
        return np.array_split(prompts, min(lanes * turns, len(prompts)))

    def _run_part(self, share: Share, prompts: np.ndarray, weight: float) -> _PartResult:
        gates = share.gates.detach().requires_grad_()
        batch = self.frozen.batch(prompts)
        ran = self.compiled.masked(
            gates, batch.pairs.clean, batch.values,
            ablation=self.frozen.ablation, wanted=share.wanted, recompute=self.recompute,
        )  # fmt: skip
        loss = self.objective(ran.logits, batch.teacher, batch.pairs) * weight
        (gradient,) = torch.autograd.grad(loss, gates)
        return _PartResult(
            gradient=gradient, objective=loss.detach(), live_heads=ran.live_heads, live_mlps=ran.live_mlps
        )


def counting(device: torch.device) -> torch.dtype:
    """The widest numbers of a device."""
    return torch.float32 if device.type == "mps" else torch.float64
