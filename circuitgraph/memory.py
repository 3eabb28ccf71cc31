"""How much memory a training run will take, and what to do about it: from sizes alone, no weights, no graph.

The estimate is of the dearest moment: the start, when every gate is undecided and every reader runs. In
bytes, with B prompts of S tokens at once, d = d_model, b bytes a number:

* weights: parameters × b;
* deltas: what every writer adds, writers × (B × S + asked) × d × b;
* rows: what every reader saw, and on the way back its gradient in the same place, readers × B × S × d × b; in a
  model that runs in less than float32 its norms keep a float32 copy;
* activations: what autograd keeps: queries, keys, values and outputs of the heads, and a few multiples of the
  MLP's inner width, a layer; of one layer only where MLPs are run again in the backward pass;
* working: one layer's passing tensors, three times what its readers see, and the gradient of what it wrote;
* logits: six matrices [asked, vocabulary] in float32 (teacher, circuit, their log-probabilities, gradients);
* cache: the ablated run of every prompt and the full model's logits, up to the cache's budget; where it does not
  hold everything of every prompt, a batch is made whole each step;
* packed: copies of the MLPs' weights, one a direction, where small products take them packed (see
  `circuitgraph.forward.frozen_linear`); none from 112 tokens at once on, of which 96 are reached in most tasks;
* gates: α, its gradient, the optimiser's two moments, a draw, the host's copies and the step's plan, 140 bytes
  an edge;
* program: what Python and the libraries take before any of this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from circuitgraph.architectures.family import ModelShape
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.universe import Universe

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
_PROGRAM = 450 << 20
_GATE = 140
_PACKED_BELOW_TOKENS = 112
SMALL_BATCH_TOKENS = 512
"""Micro-batches are halved down to this many tokens before MLPs are run again instead."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes by what they hold; see the module."""

    weights: int
    deltas: int
    rows: int
    activations: int
    working: int
    logits: int
    cache: int
    packed: int
    gates: int
    program: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(asdict(self).values())

    def to_dict(self) -> dict[str, int]:
        """Every part and the total."""
        return {**asdict(self), "total": self.total}


def values_a_token(shape: ModelShape, *, short: bool = False) -> int:
    """How many numbers one run's ablation values are, a token.

    Args:
        shape: The model's sizes.
        short: Only what writers say, see `circuitgraph.forward.reference.AblationValues.only_said`.

    Examples:
        >>> shape = ModelShape(n_layers=2, n_heads=4, n_kv_heads=2, d_model=8, d_head=2, d_mlp=16,
        ...     d_vocab=9, n_positions=9, learned_positions=False)
        >>> values_a_token(shape), values_a_token(shape, short=True)
        (88, 40)
    """
    embeddings = 2 if shape.learned_positions else 1
    said = shape.n_heads * shape.d_head + shape.d_model
    others = shape.d_model + (shape.n_heads + 2 * shape.n_kv_heads) * shape.d_head
    return embeddings * shape.d_model + shape.n_layers * (said if short else said + others)


def packed_bytes(shape: ModelShape) -> int:
    """Bytes that packed copies of the MLPs' weights take, both directions, float32.

    Args:
        shape: The model's sizes.

    Examples:
        >>> packed_bytes(ModelShape(n_layers=2, n_heads=4, n_kv_heads=2, d_model=8, d_head=2, d_mlp=16,
        ...     d_vocab=9, n_positions=9, learned_positions=False))
        4096
    """
    return 2 * shape.n_layers * shape.mlp_matrices * shape.d_model * shape.d_mlp * BYTES["float32"]


def estimate_memory(
    shape: ModelShape,
    universe: Universe,
    *,
    n_parameters: int,
    batch_size: int,
    seq: int,
    dtype: str = "float32",
    n_asked: int = 1,
    n_prompts: int = 200,
    cache_bytes: int = 2 << 30,
    ablation: str = "counterfactual",
    recompute: bool = False,
    kernels: str = "plain",
    teacher_top_k: int | None = None,
) -> MemoryEstimate:
    """Estimate what a training run holds at its dearest moment.

    Args:
        shape: The model's sizes.
        universe: Its graph's universe.
        n_parameters: Its parameters, see `count_parameters`.
        batch_size: Prompts run at once.
        seq: Tokens a prompt.
        dtype: The model's number format, a key of `BYTES`.
        n_asked: Answer tokens a prompt.
        n_prompts: Training prompts.
        cache_bytes: The cache's budget.
        ablation: Only counterfactual values differ from prompt to prompt and fill the cache.
        recompute: Whether MLPs are run again in the backward pass.
        kernels: How MLPs multiply; `packed` has another copy of their weights a direction for small batches.
        teacher_top_k: How many of the full model's likeliest tokens are kept; None keeps the whole vocabulary.

    Returns:
        The estimate.

    Raises:
        UnknownNameError: No such dtype.

    Examples:
        >>> shape = ModelShape(n_layers=12, n_heads=12, n_kv_heads=12, d_model=768, d_head=64, d_mlp=3072,
        ...     d_vocab=50257, n_positions=1024, learned_positions=True)
        >>> gpt2 = Universe(family="gpt2", n_layers=12, n_heads=12, n_kv_heads=12)
        >>> estimate = estimate_memory(shape, gpt2, n_parameters=124_439_808, batch_size=8, seq=32)
        >>> estimate.weights, estimate.deltas == 157 * 8 * (32 + 1) * 768 * 4
        (497759232, True)
    """
    if dtype not in BYTES:
        raise UnknownNameError.of("dtype", dtype, BYTES)
    b = BYTES[dtype]
    wide = max(b, 4)
    tokens = batch_size * seq
    stream = tokens * shape.d_model
    heads = 4 * shape.n_heads * shape.d_head * tokens * b
    mlp = shape.mlp_saved * shape.d_mlp * tokens * b
    n_asked_here = batch_size * n_asked
    frozen_prompt = n_asked * shape.d_vocab * b
    if teacher_top_k is not None and teacher_top_k < shape.d_vocab:
        # An id and a log-probability each, and the log of what is left.
        frozen_prompt = n_asked * (teacher_top_k * (4 + wide) + wide)
    frozen_batch = 0
    if ablation == "counterfactual":
        whole, short = (values_a_token(shape, short=short) * b for short in (False, True))
        fits = n_prompts * (frozen_prompt + whole * seq) <= cache_bytes
        frozen_prompt += (whole if fits else short) * seq
        frozen_batch = 0 if fits else whole * tokens
    return MemoryEstimate(
        weights=n_parameters * b,
        deltas=universe.n_writers * (stream + n_asked_here * shape.d_model) * b,
        rows=universe.n_readers * stream * (b + (wide if b < 4 else 0)),
        activations=shape.n_layers * heads + (1 if recompute else shape.n_layers) * mlp,
        working=3 * universe.n_attention_readers * stream * wide + shape.n_heads * stream * wide,
        logits=6 * n_asked_here * shape.d_vocab * wide,
        cache=min(cache_bytes, n_prompts * frozen_prompt) + frozen_batch,
        packed=packed_bytes(shape) if kernels == "packed" and tokens < _PACKED_BELOW_TOKENS else 0,
        gates=_GATE * universe.n_edges,
        program=_PROGRAM,
    )


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


def available_bytes(device: str = "cpu") -> int | None:
    """Memory that is free on a device now.

    Args:
        device: `cpu`, `cuda`, `cuda:N` or `mps`.

    Returns:
        Bytes, or None where it cannot be told.
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(torch.device(device))[0]) if torch.cuda.is_available() else None
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = dict(line.split(":", 1) for line in lines)
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def count_parameters(config: Any) -> int:
    """Parameters of a model, from its config: the model is made without memory for its weights.

    Args:
        config: A Hugging Face config, or a Tracr program's.

    Returns:
        How many numbers its weights are; tied weights count once.
    """
    import torch

    if config.model_type == "tracr":
        from circuitgraph.tracr.model import TracrModel

        model: torch.nn.Module = TracrModel(config)
    else:
        from transformers import AutoModelForCausalLM

        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            model = AutoModelForCausalLM.from_config(config)
    return sum(weights.numel() for weights in model.parameters())
