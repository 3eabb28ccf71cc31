"""How much memory a training run will take, and what to do about it: from sizes alone, no weights, no graph.

The estimate is of the dearest moment: a step in which every gate is undecided and every reader runs, about where the
way forward ends and the way back begins. In bytes, with B prompts of S tokens at once, of which a share is reached by
any difference between a prompt and its counterfactual, d = d_model, b bytes a number, and a row for the residual
stream of all reached tokens, B × S × share × d × b:

* weights: parameters × b;
* stream: the buffer of what writers add and of the gradients of what readers saw, in rows: as many as
  `circuitgraph.forward.stream_layout` folds them into, or, without the CPU's kernels, for writers and readers both
  where the readers' take no more than 64 MiB.
  Readers of which only the asked positions are looked at, the last layer's queries and MLP and the logits, have a
  buffer of their own, with the writers again, at these positions;
* scratch: a row a reader of the largest block;
* activations: what autograd keeps: queries, keys, values and outputs of the heads at every token, and so many times the
  inner width of the MLP as its family says, a layer; where MLPs are run again in the backward pass, that of one layer,
  and what each of them read. A few numbers a reader and token that norms keep are left out;
* sums: of the residual streams before each block, the ablated one and the running one (in float32 at least), every
  eighth for the way back, and those from one to the next, made again;
* working: the largest of what passes within a layer: the gradients of what the heads wrote, or four times the MLP's
  inner width; without the CPU's kernels also the gradients of those readers that took the complement, half of the
  block's when gates are undecided, and there in float32 on a CPU products are oneDNN's, which are tensors of their own:
  a row a reader when a block is mixed, and the gradients of what the heads wrote twice;
* logits: six matrices [asked, vocabulary] in float32 (teacher, circuit, their log-probabilities, gradients);
* cache: the ablated run of every prompt and the full model's logits, up to the cache's budget; where it does not
  hold everything of every prompt, a batch is made whole each step;
* filling: where the cache is filled with runs of 16 prompts, and these take more than all that a step holds from
  `stream` to `logits`, how much more. The run before is held while the next one is made;
* packed: copies of the MLPs' weights, one a direction, where small products take them packed (see
  `circuitgraph.forward.frozen_linear`); none from 112 tokens at once on, of which 96 are reached in most tasks;
* gates: α, its gradient, the optimiser's two moments, a draw, the host's copies and the step's plan, 140 bytes
  an edge; on CUDA what is sent there of it, 20;
* heap: on a CPU, what the C library's heap holds free. A layer's passing tensors leave a hole behind, in which smaller
  ones come to lie that are kept; the next layer's find no room there, and the heap grows by as much. So it is counted
  once a layer, as the largest of them that is below 32 MiB: from there on glibc maps a tensor by itself and hands it
  back. Each of the lanes that run side by side has its own. This is the part that is known least: 0.6 to 1.5 times as
  much was measured, and three times as much in a batch of 2,048 tokens (docs/performance.md);
* program: what Python and the libraries take before any of this, Numba's compiler for the CPU's kernels among them; it
  lies on the host.

On CUDA the estimate is of what torch's allocator hands out on the device, its context and what it keeps for later not
counted. Norms are taken to be one kernel each way, which makes no copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import ceil
from typing import Any

from circuitgraph.architectures.family import ModelShape
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.forward.kernels import cpu_kernels_installed
from circuitgraph.forward.prefix_sums import KEPT_EVERY
from circuitgraph.forward.stream import KEPT_BYTES
from circuitgraph.forward.stream_layout import overlapping, side_by_side
from circuitgraph.universe import Universe

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
DEVICES = ("cpu", "cuda", "mps")
_PROGRAM = 480 << 20  # 410 to 510 were measured, by how much of the libraries' files is resident
_COMPILER = 160 << 20  # 170 were measured
_GATE, _GATE_ON_DEVICE = 140, 20
_PACKED_BELOW_TOKENS = 112
_FILLED_AT_ONCE = 16  # prompts, see `pruning.frozen_runs.FrozenRuns`
_MAPPED_FROM = 32 << 20  # DEFAULT_MMAP_THRESHOLD_MAX of glibc's malloc.c, on 64 bits
SMALL_BATCH_TOKENS = 512
"""Micro-batches are halved down to this many tokens before MLPs are run again instead."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes by what they hold; see the module."""

    weights: int
    stream: int
    scratch: int
    activations: int
    sums: int
    working: int
    logits: int
    cache: int
    filling: int
    packed: int
    gates: int
    heap: int
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
    device: str = "cpu",
    n_asked: int = 1,
    share_reached: float = 1.0,
    n_prompts: int = 200,
    cache_bytes: int = 2 << 30,
    ablation: str = "counterfactual",
    recompute: bool = False,
    kernels: str = "plain",
    lanes: int = 1,
    teacher_top_k: int | None = None,
    cpu_kernels: bool | None = None,
) -> MemoryEstimate:
    """Estimate what a training run holds at its dearest moment.

    Args:
        shape: The model's sizes.
        universe: Its graph's universe.
        n_parameters: Its parameters, see `count_parameters`.
        batch_size: Prompts run at once.
        seq: Tokens a prompt.
        dtype: The model's number format, a key of `BYTES`.
        device: Where the model lies: `cpu`, `cuda`, `cuda:N` or `mps`. On CUDA only the device's memory is estimated.
        n_asked: Answer tokens a prompt.
        share_reached: The share of tokens from the first in which a prompt differs from its counterfactual to the last
            one asked; 1 where prompts are not known.
        n_prompts: Training prompts.
        cache_bytes: The cache's budget.
        ablation: Only counterfactual values differ from prompt to prompt and fill the cache.
        recompute: Whether MLPs are run again in the backward pass.
        kernels: How MLPs multiply; `packed` has another copy of their weights a direction for small batches.
        lanes: Parts of a batch that run side by side on a CPU, see `pruning.lanes`; one a thread at most.
        teacher_top_k: How many of the full model's likeliest tokens are kept; None keeps the whole vocabulary.
        cpu_kernels: Whether products and norms are the CPU's kernels', as they are in float32 and float64 on a CPU
            where Numba is installed; None for what is installed here.

    Returns:
        The estimate.

    Raises:
        ConfigurationError: A share that is not from 0 to 1.
        UnknownNameError: No such dtype or device.

    Examples:
        302 rows of 8 × 32 tokens for all but the 14 readers at the asked positions; there 158, of 8.

        >>> shape = ModelShape(n_layers=12, n_heads=12, n_kv_heads=12, d_model=768, d_head=64, d_mlp=3072,
        ...     d_vocab=50257, n_positions=1024, learned_positions=True)
        >>> gpt2 = Universe(family="gpt2", n_layers=12, n_heads=12, n_kv_heads=12)
        >>> estimate = estimate_memory(shape, gpt2, n_parameters=124_439_808, batch_size=8, seq=32, cpu_kernels=True)
        >>> estimate.weights, estimate.stream == (302 * 8 * 32 + 158 * 8) * 768 * 4
        (497759232, True)
    """
    if dtype not in BYTES:
        raise UnknownNameError.of("dtype", dtype, BYTES)
    if not 0 <= share_reached <= 1:
        raise ConfigurationError(f"share_reached must be from 0 to 1; got {share_reached}")
    kind = device.partition(":")[0]
    if kind not in DEVICES:
        raise UnknownNameError.of("device", kind, DEVICES)
    step = _Step(
        shape=shape, universe=universe, batch_size=batch_size, seq=seq, dtype=dtype, device=kind, n_asked=n_asked,
        share_reached=share_reached, recompute=recompute, lanes=lanes if kind == "cpu" else 1,
        counterfactual=ablation == "counterfactual",
        cpu_kernels=kind == "cpu" and dtype in ("float32", "float64")
        and (cpu_kernels_installed() if cpu_kernels is None else cpu_kernels),
    )  # fmt: skip
    cache = _Cache(step=step, n_prompts=n_prompts, budget=cache_bytes, top_k=teacher_top_k, ablation=ablation)
    on_cuda = kind == "cuda"
    passing = {
        "stream": step.stream, "scratch": step.scratch, "activations": step.activations, "sums": step.sums,
        "working": step.working, "logits": step.logits,
    }  # fmt: skip
    packs = kernels == "packed" and step.tokens < _PACKED_BELOW_TOKENS
    return MemoryEstimate(
        weights=n_parameters * step.b,
        **passing,
        cache=cache.held,
        filling=max(0, cache.filling - sum(passing.values())),
        packed=packed_bytes(shape) if packs else 0,
        gates=(_GATE_ON_DEVICE if on_cuda else _GATE) * universe.n_edges,
        heap=step.heap,
        program=0 if on_cuda else _PROGRAM + (_COMPILER if step.cpu_kernels else 0),
    )


@dataclass(frozen=True, kw_only=True)
class _Level:
    """The readers that run at the same tokens, when every gate is undecided; see `circuitgraph.forward.plan`.

    Attributes:
        readers: How many of each reader block.
        n_slots: Writers that they see.
        n_cells: Tokens at which they run.
    """

    readers: Sequence[int]
    n_slots: int
    n_cells: int

    def rows(self, universe: Universe, row_bytes: float | None) -> int:
        """Rows of the buffer of deltas and gradients, each of so many bytes a token in a lane; None keeps no reads."""
        n_rows = sum(self.readers)
        if row_bytes is not None and n_rows * self.n_cells * row_bytes <= KEPT_BYTES:
            return side_by_side(self.n_slots, n_rows).size
        starts = [sum(self.readers[:place]) for place in range(len(self.readers))]
        seen = [min(block.n_writers, self.n_slots) for block in universe.blocks]
        return overlapping(starts, seen, n_rows, self.n_slots).size


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One step's sizes, and what it holds, in bytes; the fields are arguments of `estimate_memory`."""

    shape: ModelShape
    universe: Universe
    batch_size: int
    seq: int
    dtype: str
    device: str
    n_asked: int
    share_reached: float
    recompute: bool
    lanes: int
    counterfactual: bool
    cpu_kernels: bool

    @property
    def b(self) -> int:
        """Bytes a number."""
        return BYTES[self.dtype]

    @property
    def wide(self) -> int:
        """Bytes a number where it is float32 at least."""
        return max(self.b, 4)

    @property
    def tokens(self) -> int:
        """Tokens at once."""
        return self.batch_size * self.seq

    @property
    def asked(self) -> int:
        """Asked positions at once."""
        return self.batch_size * self.n_asked

    @property
    def cells(self) -> int:
        """Tokens that are reached."""
        return max(self.asked, ceil(self.tokens * self.share_reached))

    @property
    def row(self) -> int:
        """One residual stream of the reached tokens."""
        return self.cells * self.shape.d_model * self.b

    @cached_property
    def levels(self) -> tuple[_Level, _Level]:
        """Readers at the reached tokens, and at the asked positions alone: no key and no value depends on these."""
        universe = self.universe
        last = universe.n_layers - 1
        keys_and_values = 2 * universe.n_kv_readers or universe.n_attention_readers
        wide = [
            block.n_readers if block.layer < last else keys_and_values if block.kind == "attention" else 0
            for block in universe.blocks
        ]
        narrow = [block.n_readers - reached for block, reached in zip(universe.blocks, wide, strict=True)]
        return (
            _Level(readers=wide, n_slots=universe.first_head(last), n_cells=self.cells),
            _Level(readers=narrow, n_slots=universe.n_writers, n_cells=self.asked),
        )

    @property
    def stream(self) -> int:
        """The buffers of deltas and gradients."""
        width = self.shape.d_model * self.b
        kept = None if self.cpu_kernels else width / self.lanes
        return sum(level.rows(self.universe, kept) * level.n_cells * width for level in self.levels)

    @property
    def scratch(self) -> int:
        """The largest block's readers."""
        return max(max(level.readers) * level.n_cells for level in self.levels) * self.shape.d_model * self.b

    @property
    def activations(self) -> int:
        """What autograd keeps; queries, outputs and the MLP of the last layer are at the asked positions alone."""
        shape, earlier = self.shape, self.shape.n_layers - 1
        keys_and_values = 2 * shape.n_layers * self.tokens
        queries_and_outputs = 2 * (earlier * self.tokens + self.asked)
        heads = (keys_and_values + queries_and_outputs) * shape.n_heads * shape.d_head
        read = earlier * self.cells + self.asked  # by all MLPs
        narrow = shape.mlp_saved_narrow if self.b < 4 else None
        inside = (narrow or shape.mlp_saved) * shape.d_mlp
        mlps = self.cells * inside + read * shape.d_model if self.recompute else read * inside
        return (heads + mlps) * self.b

    @property
    def sums(self) -> int:
        """Residual streams before each block, those that are kept; constant values say the same at every token."""
        n_blocks = 2 * self.shape.n_layers
        ablated = (1 + _sums_of(n_blocks)) * self.tokens * self.b if self.counterfactual else 0
        running = _sums_of(n_blocks + self.universe.n_embeddings) * self.cells * self.wide
        return (ablated + running) * self.shape.d_model

    @cached_property
    def passing(self) -> tuple[int, int, int, int, int]:
        """Tensors that pass within a layer.

        Of a block's readers (products by oneDNN alone), of those of them that took the complement (not by kernels), of
        what its heads wrote, inside of its MLP, and of one residual stream.
        """
        readers = self.universe.n_attention_readers * self.row
        inside = self.shape.d_mlp * self.cells * self.b
        products = readers if self._takes_onednn else 0
        complement = 0 if self.cpu_kernels else readers // 2
        return products, complement, self.shape.n_heads * self.row, inside, self.row

    @property
    def _takes_onednn(self) -> bool:
        """Whether products of the stream are oneDNN's, see `circuitgraph.forward.mixing`."""
        return self.device == "cpu" and self.dtype == "float32" and not self.cpu_kernels

    @property
    def working(self) -> int:
        """The largest of what passes within a layer."""
        products, complement, written, inside, _ = self.passing
        return max(products, complement, 2 * written if self._takes_onednn else written, 4 * inside)

    @property
    def heap(self) -> int:
        """What the heap holds free: a hole a layer and lane."""
        if self.device != "cpu":
            return 0
        in_a_lane = [size // self.lanes for size in self.passing]
        return self.shape.n_layers * self.lanes * max((size for size in in_a_lane if size < _MAPPED_FROM), default=0)

    @property
    def logits(self) -> int:
        """Of teacher and circuit, what is made of them, and gradients."""
        return 6 * self.asked * self.shape.d_vocab * self.wide


def _sums_of(n_terms: int) -> int:
    """How many sums of so many terms are there at once, see `circuitgraph.forward.prefix_sums`."""
    return n_terms // KEPT_EVERY + min(n_terms, KEPT_EVERY - 1)


@dataclass(frozen=True, kw_only=True)
class _Cache:
    """What is kept of runs that never change, and what making them takes, in bytes."""

    step: _Step
    n_prompts: int
    budget: int
    top_k: int | None
    ablation: str

    @property
    def _teacher(self) -> int:
        """A prompt's share of the full model's outputs."""
        step, top = self.step, self.top_k
        if top is None or top >= step.shape.d_vocab:
            return step.n_asked * step.shape.d_vocab * step.b
        # An id and a log-probability each, and the log of what is left.
        return step.n_asked * (top * (4 + step.wide) + step.wide)

    def _values(self, *, short: bool = False) -> int:
        """A token's ablation values."""
        return values_a_token(self.step.shape, short=short) * self.step.b

    @property
    def _fits(self) -> bool:
        return self.n_prompts * (self._teacher + self._values() * self.step.seq) <= self.budget

    @property
    def held(self) -> int:
        """What is kept of all prompts; a batch's values where it is made whole each step."""
        if not self.step.counterfactual:
            return min(self.budget, self.n_prompts * self._teacher)
        prompt = self._teacher + self._values(short=not self._fits) * self.step.seq
        batch = 0 if self._fits else self._values() * self.step.tokens
        return min(self.budget, self.n_prompts * prompt) + batch

    @property
    def filling(self) -> int:
        """The runs that are made at once, and the ones before."""
        if self.ablation == "zero" or (self.step.counterfactual and not self.budget):
            return 0
        before = min(max(self.n_prompts - _FILLED_AT_ONCE, 0), _FILLED_AT_ONCE)
        kept = self._values(short=not self._fits) if self.step.counterfactual else 0
        return self.step.seq * (min(self.n_prompts, _FILLED_AT_ONCE) * self._values() + before * kept)


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
