"""How a batch is run so that it fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from circuitgraph.errors import ConfigurationError
from circuitgraph.memory.estimate import MemoryEstimate

SMALL_BATCH_TOKENS = 512
"""Micro-batches are halved down to this many tokens before MLPs are run again instead."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What a run will hold, and what was decided so that it fits.

    Attributes:
        estimate: Its memory.
        micro_batch: Prompts run at once.
        accumulation: How many of these make a batch.
        recompute: Whether MLPs are run again in the backward pass.
        limit_bytes: What it had to fit into, or None.
    """

    estimate: MemoryEstimate
    micro_batch: int
    accumulation: int
    recompute: bool
    limit_bytes: int | None

    @property
    def fits(self) -> bool:
        """Whether the estimate is within the limit."""
        return self.limit_bytes is None or self.estimate.total <= self.limit_bytes

    def describe(self) -> str:
        """The decisions in words.

        Examples:
            >>> parts = dict.fromkeys(MemoryEstimate.__dataclass_fields__, 2**30)
            >>> print(MemoryPlan(estimate=MemoryEstimate(**parts), micro_batch=4, accumulation=2, recompute=True,
            ...     limit_bytes=2**30).describe())
            runs 4 prompts at once, 2 times a step; MLPs are run again in the backward pass
            This does not fit into 1.0 GiB: take a smaller cache, shorter prompts or bfloat16.
        """
        times = "all of a batch" if self.accumulation == 1 else f"{self.accumulation} times a step"
        told = f"runs {self.micro_batch} prompts at once, {times}"
        told += "; MLPs are run again in the backward pass" if self.recompute else ""
        if self.fits or self.limit_bytes is None:
            return told
        limit = f"{self.limit_bytes / 2**30:.1f} GiB"
        return f"{told}\nThis does not fit into {limit}: take a smaller cache, shorter prompts or bfloat16."

    def to_dict(self) -> dict[str, Any]:
        """The estimate's parts and the decisions."""
        decided = {"micro_batch": self.micro_batch, "accumulation": self.accumulation, "recompute": self.recompute}
        return {**self.estimate.to_dict(), **decided, "limit_bytes": self.limit_bytes, "fits": self.fits}


def plan_memory(
    estimate: Callable[[int, bool], MemoryEstimate],
    *,
    batch_size: int,
    seq: int,
    limit_bytes: int | None,
    micro_batch: int | None = None,
    recompute: bool | None = None,
) -> MemoryPlan:
    """Decide how a batch is run so that it fits.

    Micro-batches are halved while they are large, since that costs little time; then MLPs are run again in the
    backward pass, which costs a good part of a forward pass; then micro-batches are halved down to one prompt.

    Args:
        estimate: The estimate for a micro-batch's size, with or without running MLPs again.
        batch_size: Prompts a step.
        seq: Tokens a prompt.
        limit_bytes: What it has to fit into; None sets no limit.
        micro_batch: Decided already, or None.
        recompute: Decided already, or None.

    Returns:
        The first way that fits, or the smallest one if none does.

    Raises:
        ConfigurationError: A micro-batch below 1 prompt.

    Examples:
        >>> def estimate(prompts: int, again: bool) -> MemoryEstimate:
        ...     parts = dict.fromkeys(MemoryEstimate.__dataclass_fields__, 0)
        ...     return MemoryEstimate(**{**parts, "activations": prompts * (5 if again else 10)})
        >>> plan = plan_memory(estimate, batch_size=16, seq=100, limit_bytes=50)
        >>> plan.micro_batch, plan.accumulation, plan.recompute
        (8, 2, True)
    """
    if micro_batch is not None and micro_batch < 1:
        raise ConfigurationError(f"a micro-batch must be of at least 1 prompt; got {micro_batch}")
    sizes = [batch_size]
    while sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) // 2)
    if micro_batch is not None:
        sizes = [min(micro_batch, batch_size)]
    large = [size for size in sizes if size * seq > SMALL_BATCH_TOKENS] or sizes[:1]
    tries = [(size, False) for size in large] + [(size, again) for size in sizes for again in (False, True)]
    if recompute is not None:
        tries = [(size, recompute) for size in sizes]
    for size, again in tries:
        found = MemoryPlan(
            estimate=estimate(size, again),
            micro_batch=size,
            accumulation=-(-batch_size // size),
            recompute=again,
            limit_bytes=limit_bytes,
        )
        if found.fits:
            return found
    return found
