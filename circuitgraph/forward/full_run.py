"""The full model, differentiable, with every place at which an edge ends: what attribution methods take gradients at.

With all gates at 1 nothing has to be mixed, so one plain forward pass is enough. At an attention layer all readers see
one residual stream; what tells them apart is where their gradients come from, so each keeps its own query, key or
value, as it is projected, as a *tap*. MLPs and the logits keep what they see after the norm.
`circuitgraph.forward.attribution` takes gradients at the taps and carries them back through projection and norm, each
reader by itself.

What a writer says can be exchanged for something given (`Instead`): token embeddings on the way from one prompt to
another, or what a layer's heads or an MLP said elsewhere. All that follows is computed from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.architectures.family import BoundBlock, BoundModel, Rotary
from circuitgraph.architectures.rotary import rotaries_of
from circuitgraph.batch import TokenBatch
from circuitgraph.forward.attention import attention_mask, prepared, rotary_for, windowed
from circuitgraph.forward.backward_rules import STANDARD, BackwardRule, attend_by_rule, mlp_by_rule, norm_by_rule
from circuitgraph.forward.pass_plan import Runnable
from circuitgraph.forward.reference import embed, project, to_query_heads
from circuitgraph.forward.vectors import said_by_vectors, sums_by_layer


@dataclass(frozen=True, kw_only=True)
class Instead:
    """What is said instead of what the model would say; by default nothing is exchanged.

    Attributes:
        embeddings: What each embedding says, `[batch seq d_model]` each; None for the model's own.
        heads: What a layer's heads gather, before the output projection `[head batch seq d_head]`, by layer.
        mlps: What a layer's MLP says `[batch seq d_model]`, by layer.
        vectors: What each vector that is added to the model says, `[batch seq d_model]`; None for its own.
    """

    embeddings: tuple[Tensor, ...] | None = None
    vectors: tuple[Tensor, ...] | None = None
    heads: Mapping[int, Tensor] = field(default_factory=dict)
    mlps: Mapping[int, Tensor] = field(default_factory=dict)


NOTHING_INSTEAD = Instead()


@dataclass(frozen=True, kw_only=True, eq=False)
class Read:
    """What the readers of one block saw.

    Attributes:
        residual: The residual stream before the norm, without gradient: `[batch seq d_model]`, at the logits
            `[asked d_model]`.
        taps: Tensors whose gradients the readers' are made of. Attention: queries `[head batch seq d_head]`, keys and
            values `[kv_reader batch seq d_head]`, as they are projected. An MLP and the logits: `residual` after the
            norm.
    """

    residual: Tensor
    taps: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class FullRun:
    """One differentiable run of the full model.

    Attributes:
        logits: At the asked positions, with a gradient.
        reads: What was read, block by block, in the order of `Universe.blocks`.
        embeddings: What each embedding said, `[batch seq d_model]` each; without gradient, as those below.
        heads: What a layer's heads gathered `[head batch seq d_head]`, before the output projection, by layer.
        mlps: What each MLP said `[batch seq d_model]`.
        vectors: What each vector that is added to the model said, `[batch seq d_model]` each.
        rule: How gradients went back.
    """

    logits: Float[Tensor, "asked d_vocab"]
    reads: tuple[Read, ...]
    embeddings: tuple[Tensor, ...]
    heads: tuple[Tensor, ...]
    mlps: tuple[Tensor, ...]
    vectors: tuple[Tensor, ...]
    rule: BackwardRule


def full_run(
    model: Runnable, batch: TokenBatch, *, instead: Instead = NOTHING_INSTEAD, rule: BackwardRule = STANDARD
) -> FullRun:
    """Run the full model with gradients.

    Args:
        model: The model.
        batch: Prompts.
        instead: What some writers say instead of what the model would.
        rule: How gradients go back; the forward pass is the same by all rules.

    Returns:
        Logits, and what was read and said.

    Raises:
        UnsupportedModelError: The rule knows nothing of such an MLP.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> compiled = compile_model(load_model("tracr:reverse"), embeddings="split")
        >>> ids = torch.tensor([[0, 1, 2, 3]])
        >>> batch = TokenBatch(
        ...     input_ids=ids, attention_mask=torch.ones_like(ids), predict_index=torch.tensor([3]),
        ...     predict_prompt=torch.tensor([0]),
        ... )
        >>> model = Runnable(bound=compiled.bound, shape=compiled.shape, universe=compiled.universe)
        >>> run = full_run(model, batch)
        >>> torch.allclose(run.logits, compiled.logits(batch)), len(run.reads) == len(compiled.universe.blocks)
        (True, True)
    """
    with torch.enable_grad():
        return _Run(model, batch, instead, rule).run()


class _Run:
    """What all layers of one run have in common."""

    def __init__(self, model: Runnable, batch: TokenBatch, instead: Instead, rule: BackwardRule) -> None:
        self.bound: BoundModel = model.bound
        self.shape, self.universe = model.shape, model.universe
        self.batch, self.instead, self.rule, self.vectors = batch, instead, rule, model.vectors
        self.mask = attention_mask(batch.attention_mask, self.shape.causal, padded=batch.padded)
        self.reads: list[Read] = []

    def run(self) -> FullRun:
        with torch.no_grad():
            said = embed(self.bound, self.batch) if self.instead.embeddings is None else self.instead.embeddings
            residual = sum(said[1:], said[0]).detach().clone()
        residual.requires_grad_()
        added = self.instead.vectors
        added = said_by_vectors(self.vectors, self.batch, residual) if added is None else added
        by_layer = sums_by_layer(self.vectors, added)
        self.rotaries = rotaries_of(self.bound.rotaries, residual, self.batch)
        heads, mlps = [], []
        for layer, block in enumerate(self.bound.blocks):
            residual = residual + by_layer[layer] if layer in by_layer else residual
            mixed = self._heads(layer, block, residual)
            after = residual + self._through_output(block, mixed)
            mlp = self._mlp(layer, block, after if self.shape.block_order == "sequential" else residual)
            residual = after + mlp
            heads.append(mixed.detach())
            mlps.append(mlp.detach())
        asked = residual.flatten(0, 1)[self.batch.predict_index]
        normed = norm_by_rule(self.bound.final_norm, asked, self.rule)
        self.reads.append(Read(residual=asked.detach(), taps=(normed,)))
        return FullRun(
            logits=self.bound.unembed(normed), reads=tuple(self.reads), embeddings=tuple(one.detach() for one in said),
            heads=tuple(heads), mlps=tuple(mlps), vectors=added, rule=self.rule,
        )  # fmt: skip

    def _heads(self, layer: int, block: BoundBlock, residual: Tensor) -> Tensor:
        """What a layer's heads gather `[head batch seq d_head]`."""
        x = norm_by_rule(block.attention_norm, residual, self.rule)
        query, key, value = project(x, block.query), project(x, block.key), project(x, block.value)
        if not self.universe.grouped:
            key, value = (to_query_heads(one, self.shape.n_heads) for one in (key, value))
        self.reads.append(Read(residual=residual.detach(), taps=(query, key, value)))
        attention, rotary = block.attention, rotary_for(block.attention, self.rotaries)
        query, key, value = (self._prepared(block, kind, x, rotary) for kind, x in enumerate((query, key, value)))
        key, value = to_query_heads(key, self.shape.n_heads), to_query_heads(value, self.shape.n_heads)
        mask = windowed(self.mask, attention, x.shape[1], x.device)
        mixed = attend_by_rule(
            query, key, value, mask, causal=self.shape.causal, attention=attention, rule=self.rule
        )  # fmt: skip
        return self.instead.heads.get(layer, block.settled(mixed))

    def _prepared(self, block: BoundBlock, kind: int, x: Tensor, rotary: Rotary | None) -> Tensor:
        times = len(x) // (block.query, block.key, block.value)[kind].n_heads
        heads = np.arange(len(x)) // times if times > 1 else None
        return prepared(block.attention, kind, x, rotary, heads=heads)

    def _through_output(self, block: BoundBlock, mixed: Tensor) -> Tensor:
        said = mixed.permute(1, 2, 0, 3).flatten(-2) @ block.output
        return said if block.output_bias is None else said + block.output_bias

    def _mlp(self, layer: int, block: BoundBlock, residual: Tensor) -> Tensor:
        normed = norm_by_rule(block.mlp_norm, residual, self.rule)
        self.reads.append(Read(residual=residual.detach(), taps=(normed,)))
        return self.instead.mlps.get(layer, mlp_by_rule(block.mlp, normed, self.rule))
