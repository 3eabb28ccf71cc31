"""How much memory a training run will take, from sizes alone: no weights, no graph.

A rough estimate, of the dearest moment: the start, when every gate is undecided and every reader runs. In
bytes, with B prompts of S tokens, d = d_model, b bytes a number:

* weights: parameters × b;
* deltas: what every writer adds, writers × B × S × d × b;
* row gradients: kept for the backward pass, readers × B × S × d × b;
* activations: what autograd saves: what each attention reader saw (in float32, for its norm), queries, keys,
  values and outputs of the heads, and four times the MLP's inner width, a layer;
* logits: six matrices [asked, vocabulary] in float32 (teacher, circuit, their log-probabilities, gradients);
* cache: the ablated run of every prompt and the full model's logits, up to the cache's budget; a batch of
  it is copied each step;
* gates: α, its gradient, the optimiser's two moments, a draw, and the host's copies, 80 bytes an edge;
* program: what Python and the libraries take before any of this.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from circuitgraph.architectures.family import ModelShape
from circuitgraph.universe import Universe

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
_PROGRAM = 450 << 20
_GATE = 80


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes by what they hold; see the module."""

    weights: int
    deltas: int
    row_gradients: int
    activations: int
    logits: int
    cache: int
    gates: int
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
    n_asked: int = 1,
    n_prompts: int = 200,
    cache_bytes: int = 2 << 30,
    ablation: str = "counterfactual",
) -> MemoryEstimate:
    """Estimate what a training run holds at its dearest moment.

    Args:
        shape: The model's sizes.
        universe: Its graph's universe.
        n_parameters: Its parameters, see `count_parameters`.
        batch_size: Prompts a step.
        seq: Tokens a prompt.
        dtype: The model's number format, a key of `BYTES`.
        n_asked: Answer tokens a prompt.
        n_prompts: Training prompts.
        cache_bytes: The cache's budget.
        ablation: Only counterfactual values differ from prompt to prompt and fill the cache.

    Returns:
        The estimate.

    Examples:
        >>> shape = ModelShape(n_layers=12, n_heads=12, n_kv_heads=12, d_model=768, d_head=64, d_mlp=3072,
        ...     d_vocab=50257, n_positions=1024, learned_positions=True)
        >>> gpt2 = Universe(family="gpt2", n_layers=12, n_heads=12, n_kv_heads=12)
        >>> estimate = estimate_memory(shape, gpt2, n_parameters=124_439_808, batch_size=8, seq=32)
        >>> estimate.weights, estimate.deltas == 157 * 8 * 32 * 768 * 4
        (497759232, True)
    """
    b = BYTES[dtype]
    wide = max(b, 4)
    tokens = batch_size * seq
    stream = tokens * shape.d_model
    heads = shape.n_heads * shape.d_head * tokens
    layer = (universe.n_attention_readers + 1) * stream * wide + (4 * heads + 4 * shape.d_mlp * tokens) * b
    frozen_prompt = n_asked * shape.d_vocab * b
    frozen_batch = 0
    if ablation == "counterfactual":
        values = universe.n_embeddings * shape.d_model
        values += shape.n_layers * (2 * shape.d_model + shape.n_heads * shape.d_head)
        frozen_prompt += values * seq * b
        frozen_batch = values * tokens * b
    return MemoryEstimate(
        weights=n_parameters * b,
        deltas=universe.n_writers * stream * b,
        row_gradients=universe.n_readers * stream * b,
        activations=shape.n_layers * layer,
        logits=6 * batch_size * n_asked * shape.d_vocab * wide,
        cache=min(cache_bytes, n_prompts * frozen_prompt) + frozen_batch,
        gates=_GATE * universe.n_edges,
        program=_PROGRAM,
    )


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
