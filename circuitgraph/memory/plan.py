"""How a run is made to fit: how many prompts run at once, whether MLPs are run again, what the cache gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from circuitgraph.errors import ConfigurationError
from circuitgraph.memory.estimate import MemoryEstimate

Estimate = Callable[[int, bool, int], MemoryEstimate]
"""Of prompts run at once, with or without running MLPs again, and with a budget of the cache in bytes."""

SMALL_BATCH_TOKENS = 512
"""Micro-batches are halved down to this many tokens before MLPs are run again instead."""

_CACHE_TRIES = 4  # a smaller cache keeps runs in short form, which takes a little more elsewhere
_ADVICE = "take shorter prompts, bfloat16 or a smaller model"


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What a run will hold, and what was decided so that it fits.

    Attributes:
        estimate: Its memory.
        micro_batch: Prompts run at once.
        accumulation: How many of these make a batch.
        recompute: Whether MLPs are run again in the backward pass.
        cache_bytes: What the cache of frozen runs may take.
        cache_asked: What it was to be given.
        limit_bytes: What it had to fit into, or None.

    Examples:
        >>> from circuitgraph import model_sizes
        >>> plan = model_sizes("smollm2-135m").plan(batch_size=8, limit_bytes=64 << 30)
        >>> plan.fits, plan.micro_batch
        (True, 8)
    """

    estimate: MemoryEstimate
    micro_batch: int
    accumulation: int
    recompute: bool
    cache_bytes: int
    cache_asked: int
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
            ...     cache_bytes=2**29, cache_asked=2**31, limit_bytes=2**30).describe())
            runs 4 prompts at once, 2 times a step; MLPs run again in the backward pass; the cache gets 0.5 of 2.0 GiB
            This does not fit into 1.0 GiB: take shorter prompts, bfloat16 or a smaller model.
        """
        times = "all of a batch" if self.accumulation == 1 else f"{self.accumulation} times a step"
        text = f"runs {self.micro_batch} prompt{'s' * (self.micro_batch > 1)} at once, {times}"
        text += "; MLPs run again in the backward pass" if self.recompute else ""
        if self.cache_bytes < self.cache_asked:
            text += f"; the cache gets {_gib(self.cache_bytes)} of {_gib(self.cache_asked)} GiB"
        if self.fits or self.limit_bytes is None:
            return text
        return f"{text}\nThis does not fit into {_gib(self.limit_bytes)} GiB: {_ADVICE}."

    def require(self, limit: str) -> None:
        """Refuse a run that does not fit.

        Args:
            limit: What the limit is, in words.

        Raises:
            ConfigurationError: It does not fit; the message has the estimate part by part.
        """
        if self.fits or self.limit_bytes is None:
            return
        parts = "".join(f"\n  {part:<12}{_gib(n, 3):>9} GiB" for part, n in self.estimate.to_dict().items())
        raise ConfigurationError(
            f"the run does not fit: it is expected to hold {_gib(self.estimate.total, 3)} GiB at its peak "
            f"with {self.micro_batch} prompt{'s' * (self.micro_batch > 1)} at once, and {_gib(self.limit_bytes, 3)} "
            f"GiB is {limit}. It would hold:{parts}\n"
            f"To make it fit, {_ADVICE}; or give --memory-gib (memory_bytes in Python), if it may take more"
        )

    def to_dict(self) -> dict[str, Any]:
        """The estimate's parts and the decisions."""
        decided: dict[str, Any] = {"micro_batch": self.micro_batch, "accumulation": self.accumulation}
        decided |= {"recompute": self.recompute, "cache_bytes": self.cache_bytes}
        return {**self.estimate.to_dict(), **decided, "limit_bytes": self.limit_bytes, "fits": self.fits}


def plan_memory(
    estimate: Estimate,
    *,
    batch_size: int,
    seq: int,
    limit_bytes: int | None,
    cache_bytes: int = 2 << 30,
    micro_batch: int | None = None,
    recompute: bool | None = None,
) -> MemoryPlan:
    """Decide how a run is made to fit.

    Micro-batches are halved while they are large, since that costs little time; then MLPs are run again in the
    backward pass, which costs a good part of a forward pass; then the cache gets what is left, and what it cannot hold
    is read from disk or run anew each time it is drawn; then micro-batches are halved down to one prompt.

    Args:
        estimate: The estimate of each way.
        batch_size: Prompts per step.
        seq: Tokens a prompt.
        limit_bytes: What it has to fit into; None sets no limit.
        cache_bytes: What the cache may take.
        micro_batch: Decided already, or None.
        recompute: Decided already, or None.

    Returns:
        The first way that fits, or the smallest one if none does.

    Raises:
        ConfigurationError: A micro-batch below 1 prompt.

    Examples:
        >>> def estimate(prompts: int, again: bool, cache_bytes: int) -> MemoryEstimate:
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
    ways = (False, True) if recompute is None else (recompute,)

    def plan(size: int, again: bool, cache: int) -> MemoryPlan:
        return MemoryPlan(
            estimate=estimate(size, again, cache),
            micro_batch=size,
            accumulation=-(-batch_size // size),
            recompute=again,
            cache_bytes=cache,
            cache_asked=cache_bytes,
            limit_bytes=limit_bytes,
        )

    for again in ways:
        for size in large:
            found = plan(size, again, cache_bytes)
            if found.fits:
                return found
    for size in sizes[len(large) - 1 :]:
        for again in ways:
            found = _with_smaller_cache(plan(size, again, cache_bytes), partial(plan, size, again))
            if found.fits:
                return found
    return found


def _with_smaller_cache(found: MemoryPlan, plan: Callable[[int], MemoryPlan]) -> MemoryPlan:
    """A plan whose cache gets what is left, none of it where nothing is."""
    for _ in range(_CACHE_TRIES):
        if found.fits or found.limit_bytes is None:
            return found
        held = min(found.cache_bytes, found.estimate.cache)
        found = plan(max(0, held - (found.estimate.total - found.limit_bytes)))
    return found if found.fits else plan(0)


def _gib(n_bytes: int, places: int = 1) -> str:
    return f"{n_bytes / 2**30:.{places}f}"
