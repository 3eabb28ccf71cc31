"""How training steps are run: settings that change time and memory, and the results by rounding alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """How training steps are run.

    Attributes:
        micro_batch: Prompts run at once; gradients add up over a batch. None takes all of a batch. Halved when memory
            runs out.
        recompute: Whether MLPs run once more in the backward pass instead of keeping what is inside them.
        replay: Whether steps are recorded and replayed where that pays (see `pruning.execution.replay`); None does so
            on CUDA.
    """

    micro_batch: int | None = None
    recompute: bool = False
    replay: bool | None = None
