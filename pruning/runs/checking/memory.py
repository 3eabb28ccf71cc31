"""What a training run on a task is expected to hold, and how it is run so that it fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitgraph.memory.available import available_bytes
from circuitgraph.memory.estimate import MemoryEstimate, estimate_memory
from circuitgraph.memory.plan import MemoryPlan, plan_memory
from pruning.prompts.reached import share_reached

if TYPE_CHECKING:
    from circuitgraph.compiled.model import CompiledModel
    from pruning.prompts.encoding import EncodedPairs
    from pruning.runs.settings import RunSettings

_SAFE = 0.9  # of what is free; estimates were up to a tenth too low
FREE = "free, less a tenth for what the estimate may be off"


def training_memory(
    compiled: CompiledModel,
    train: EncodedPairs,
    settings: RunSettings,
    *,
    batch_size: int,
    ablation: str,
    teacher_top_k: int | None = None,
) -> MemoryPlan:
    """Plan a training run's memory.

    Args:
        compiled: The model.
        train: The training prompts, at least one.
        settings: How the run is done: what it has to fit into, and what was decided already.
        batch_size: Prompts per step.
        ablation: What cut edges carry.
        teacher_top_k: How many of the full model's likeliest tokens are kept; None keeps the whole vocabulary.

    Returns:
        The plan: memory at the peak by part, and how many prompts run at once.
    """
    batch_size, seq = min(batch_size, len(train)), int(train.lengths.max())
    n_parameters = sum(weights.numel() for weights in compiled.model.parameters())
    device = compiled.device
    reached = _reached(compiled, train, ablation)

    def estimate(prompts_at_once: int, recompute: bool, cache: int) -> MemoryEstimate:
        return estimate_memory(
            compiled.shape,
            compiled.universe,
            n_parameters=n_parameters,
            batch_size=prompts_at_once,
            seq=seq,
            dtype=str(compiled.dtype).removeprefix("torch."),
            device=device.type,
            share_reached=sum(reached[:prompts_at_once]) / (prompts_at_once * seq),
            n_asked=max(len(asked) for asked in train.predict_positions),
            n_prompts=len(train),
            cache_bytes=cache,
            ablation=ablation,
            recompute=recompute,
            teacher_top_k=teacher_top_k,
        )

    limit, free = settings.memory_bytes, available_bytes(str(device))
    if limit is None and free is not None:
        held = estimate(1, False, 0)
        limit = int(free * _SAFE) + held.weights + held.program  # these are loaded already
    return plan_memory(
        estimate, batch_size=batch_size, seq=seq, limit_bytes=limit, cache_bytes=settings.cache_bytes,
        micro_batch=settings.micro_batch, recompute=settings.recompute,
    )  # fmt: skip


def _reached(compiled: CompiledModel, train: EncodedPairs, ablation: str) -> list[float]:
    """How many tokens of each prompt a difference from its counterfactual reaches, the most first."""
    lengths = train.lengths.tolist()
    if ablation == "counterfactual" and compiled.shape.causal:
        lengths = [length * share_reached(train.subset([index])) for index, length in enumerate(lengths)]
    return sorted(lengths, reverse=True)
