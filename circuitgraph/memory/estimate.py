"""How much memory a training run will take, by part: from sizes alone, no weights, no graph.

The estimate is of the peak: a step in which every gate is undecided and every reader runs, about where the
way forward ends and the way back begins. In bytes, with B prompts of S tokens at once, of which a share is reached by
any difference between a prompt and its counterfactual, d = d_model, b bytes per number, and a row for the residual
stream of all reached tokens, B × S × share × d × b:

* weights: parameters × b;
* stream: the buffer of what writers add and of the gradients of what readers saw, in rows: as many as
  `circuitgraph.forward.stream.buffer` folds them into.
  Readers of which only the asked positions are looked at, the last layer's queries and MLP and the logits, have a
  buffer of their own, with the writers again, at these positions;
* scratch: one row per reader of the largest block;
* activations: what autograd keeps: queries, keys, values and outputs of the heads at every token, and as many times
  the inner width of the MLP as the family keeps, for every layer; where MLPs are run again in the backward pass, that
  of one layer, and what each of them read. A few numbers per reader and token that norms keep are left out;
* sums: of the residual streams before each block, the ablated one and the running one (in float32 at least), every
  eighth for the way back, and those from one to the next, made again;
* working: the largest of what passes within a layer: the gradients of what the heads wrote, or four times the MLP's
  inner width; without the CPU's kernels also the gradients of those readers that took the complement, half of the
  block's when gates are undecided;
* logits: six matrices [asked, vocabulary] in float32 (teacher, circuit, their log-probabilities, gradients);
* cache: the ablated run of every prompt and the full model's logits, up to the cache's budget; where it does not
  hold everything of every prompt, a batch is made whole each step;
* filling: where the cache is filled with runs of 16 prompts, and these take more than all that a step holds from
  `stream` to `logits`, how much more;
* gates: α, its gradient, the optimiser's two moments, a draw, the host's copies and the step's plan, 140 bytes
  an edge; on CUDA what is sent there of it, 20;
* heap: on a CPU, what the C library's heap holds free. A layer's passing tensors leave a hole behind, in which smaller
  ones come to lie that are kept; the next layer's find no room there, and the heap grows by as much. So it is counted
  once a layer, as the largest of them that is below 32 MiB: from there on glibc maps a tensor by itself and hands it
  back. This is the part that is known least: 0.6 to 1.5 times as
  much was measured, and three times as much in a batch of 2,048 tokens (docs/performance.md);
* program: what Python and the libraries take before any of this, Numba's compiler for the CPU's kernels among them; it
  lies on the host.

On CUDA the estimate is of what torch's allocator hands out on the device, its context and what it keeps for later not
counted. Norms are taken to be one kernel each way, which makes no copies.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from circuitgraph.architectures.family import ModelShape
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.forward.engine.choose import cpu_kernels_installed
from circuitgraph.graph.universe import Universe
from circuitgraph.memory.cache import CacheMemory
from circuitgraph.memory.numbers import BYTES
from circuitgraph.memory.step import StepMemory

DEVICES = ("cpu", "cuda", "mps")
_PROGRAM = 480 << 20  # 410 to 510 were measured, by how much of the libraries' files is resident
_COMPILER = 160 << 20  # 170 were measured
_GATE, _GATE_ON_DEVICE = 140, 20


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes by what they hold; see the module.

    Examples:
        >>> from circuitgraph import model_sizes
        >>> found = model_sizes("smollm2-135m").estimate(batch_size=8, seq=32)
        >>> 1 << 30 < found.total < 4 << 30
        True
    """

    weights: int
    stream: int
    scratch: int
    activations: int
    sums: int
    working: int
    logits: int
    cache: int
    filling: int
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
    teacher_top_k: int | None = None,
    cpu_kernels: bool | None = None,
) -> MemoryEstimate:
    """Estimate what a training run holds at its peak.

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
    step = StepMemory(
        shape=shape, universe=universe.without_spans, divided=bool(universe.spans), batch_size=batch_size,
        seq=seq, dtype=dtype, device=kind, n_asked=n_asked,
        share_reached=share_reached, recompute=recompute,
        counterfactual=ablation == "counterfactual",
        cpu_kernels=kind == "cpu" and dtype in ("float32", "float64")
        and (cpu_kernels_installed() if cpu_kernels is None else cpu_kernels),
    )  # fmt: skip
    cache = CacheMemory(step=step, n_prompts=n_prompts, budget=cache_bytes, top_k=teacher_top_k, ablation=ablation)
    on_cuda = kind == "cuda"
    passing = {
        "stream": step.stream, "scratch": step.scratch, "activations": step.activations, "sums": step.sums,
        "working": step.working, "logits": step.logits,
    }  # fmt: skip
    return MemoryEstimate(
        weights=n_parameters * step.b,
        **passing,
        cache=cache.held,
        filling=max(0, cache.filling - sum(passing.values())),
        gates=(_GATE_ON_DEVICE if on_cuda else _GATE) * universe.n_edges,
        heap=step.heap,
        program=0 if on_cuda else _PROGRAM + (_COMPILER if step.cpu_kernels else 0),
    )
