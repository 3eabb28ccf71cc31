"""A whole masked pass: embeddings, blocks, logits at the asked positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitgraph.architectures.family import BoundBlock, BoundModel, ModelShape, Projection
from circuitgraph.batch import TokenBatch
from circuitgraph.forward.attention import attend, attention_mask
from circuitgraph.forward.plan import BlockPlan, StepPlan, plan_step
from circuitgraph.forward.reference import AblationValues, embed
from circuitgraph.forward.stream import Stream, Workspace, begin, read, write_heads, write_mlp
from circuitgraph.universe import Universe


@dataclass(frozen=True, kw_only=True)
class MaskedPass:
    """What a masked pass gives back.

    Attributes:
        logits: At the asked positions.
        live_heads: Heads that ran.
        live_mlps: MLPs that ran.
    """

    logits: Float[Tensor, "asked d_vocab"]
    live_heads: int
    live_mlps: int


def masked_pass(
    bound: BoundModel,
    shape: ModelShape,
    universe: Universe,
    gates: Float[Tensor, " edge"],
    batch: TokenBatch,
    values: AblationValues,
    *,
    ablation: str,
    wanted: Bool[Tensor, " edge"] | None = None,
    workspace: Workspace | None = None,
) -> MaskedPass:
    """Run the model with every edge gated.

    Args:
        bound: The model's weights.
        shape: The model's sizes.
        universe: What the gates belong to.
        gates: 1 keeps an edge, 0 ablates it; its gradient is that of the gates in `wanted`, 0 elsewhere.
        batch: Prompts.
        values: What ablated writers say.
        ablation: Where they come from; under `counterfactual` a node without live inputs is skipped.
        wanted: Gates whose gradient is wanted; by default those strictly between 0 and 1, if `gates`
            requires a gradient.
        workspace: Keeps large buffers from one step to the next.

    Returns:
        The logits, and how much of the model ran.
    """
    gates_host = gates.detach().cpu().double().numpy()
    if not (torch.is_grad_enabled() and gates.requires_grad):
        wanted_host = np.zeros(gates_host.shape, dtype=bool)
    elif wanted is None:
        wanted_host = (gates_host > 0) & (gates_host < 1)
    else:
        wanted_host = wanted.cpu().numpy()
    active = (gates_host != 0) | wanted_host
    plan = plan_step(universe, active, constant_when_dead=ablation != "counterfactual")
    said = embed(bound, batch)
    stream = Stream(plan, gates, gates_host, wanted_host, said[0], workspace or Workspace())
    run = _Pass(bound, shape, universe, batch, values, plan, stream)
    logits = run.logits(gates, said)
    return MaskedPass(logits=logits, live_heads=plan.live_heads, live_mlps=plan.live_mlps)


class _Pass:
    """The state of one pass: the ablated residual stream and the token that orders the backward pass."""

    def __init__(
        self,
        bound: BoundModel,
        shape: ModelShape,
        universe: Universe,
        batch: TokenBatch,
        values: AblationValues,
        plan: StepPlan,
        stream: Stream,
    ) -> None:
        self.bound, self.shape, self.universe, self.batch = bound, shape, universe, batch
        self.values, self.plan, self.stream = values, plan, stream
        self.mask = attention_mask(batch.attention_mask, shape.causal)

    def logits(self, gates: Tensor, said: tuple[Tensor, ...]) -> Tensor:
        ablated = self._embeddings(said)
        rotary = (
            self.bound.rotary(said[0], self.batch.position_ids) if self.bound.rotary is not None else None
        )
        token = begin(gates, self.stream)
        plans = iter(self.plan.blocks)
        for layer, block in enumerate(self.bound.blocks):
            attention, mlp = next(plans), next(plans)
            before, after = ablated, ablated + self.values.attention[layer]
            out = None
            # A parallel MLP reads before its layer's heads write, so that the running sum has no heads of its own.
            if self.shape.block_order == "parallel":
                out, token = self._mlp(token, block, mlp, before)
            if len(attention.heads):
                token = self._attention(token, layer, block, attention, before, rotary)
            if self.shape.block_order == "sequential":
                out, token = self._mlp(token, block, mlp, after)
            if out is not None:
                token = write_mlp(token, out, self.values.mlps[layer], self.stream, mlp)
            ablated = after + self.values.mlps[layer]
        seen, _ = read(token, self.stream, next(plans), ablated, at=self.batch.predict_index)
        return self.bound.unembed(self.bound.final_norm(seen[0, 0]))

    def _mlp(
        self, token: Tensor, block: BoundBlock, plan: BlockPlan, ablated: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        if not len(plan.readers):
            return None, token
        seen, token = read(token, self.stream, plan, ablated)
        return block.mlp(block.mlp_norm(seen[0])), token

    def _embeddings(self, said: tuple[Tensor, ...]) -> Tensor:
        """Store the embeddings' deltas; returns the ablated residual stream."""
        ablated = self.values.embeddings
        deltas = [ours - theirs for ours, theirs in zip(said, ablated, strict=True)]
        if self.universe.embeddings == "joint":
            deltas = [sum(deltas[1:], deltas[0])]
        for slot, index in enumerate(self.plan.embeddings):
            self.stream.deltas[slot].copy_(deltas[index])
            self.stream.add(self.stream.deltas[slot])
        return sum(ablated[1:], ablated[0])

    def _attention(
        self,
        token: Tensor,
        layer: int,
        block: BoundBlock,
        plan: BlockPlan,
        ablated: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        seen, token = read(token, self.stream, plan, ablated)
        seen = block.attention_norm(seen)
        heads = torch.from_numpy(plan.heads).to(seen.device)
        query, key, value = self._queries_keys_values(seen, block, plan, heads)
        if rotary is not None and self.bound.rotate is not None:
            query, key = self.bound.rotate(query, key, rotary)
        if len(key) != len(query):
            served = self._kv_of_heads(plan).to(seen.device)
            key, value = key[served], value[served]
        mixed = attend(query, key, value, self.mask, causal=self.shape.causal, scale=block.scale)
        output = block.output.unflatten(0, (self.shape.n_heads, -1))
        ablated_heads = self.values.heads[layer]
        if len(plan.heads) < self.shape.n_heads:
            output, ablated_heads = output[heads], ablated_heads[heads]
        return write_heads(token, mixed, ablated_heads, output, self.stream, plan)

    def _queries_keys_values(
        self, seen: Tensor, block: BoundBlock, plan: BlockPlan, heads: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Project what each running reader sees with its own head's weights."""
        universe, n = self.universe, len(plan.heads)
        if universe.qkv == "joint":
            kv = heads // universe.group_size
            return (
                _project_each(seen, block.query, heads),
                _project_each(seen, block.key, kv),
                _project_each(seen, block.value, kv),
            )
        n_kv = (len(plan.readers) - n) // 2
        first = universe.n_heads
        readers = torch.from_numpy(plan.readers[n : n + n_kv] - first).to(seen.device)
        kv = readers if universe.n_kv_readers == universe.n_kv_heads else readers // universe.group_size
        return (
            _project_each(seen[:n], block.query, heads),
            _project_each(seen[n : n + n_kv], block.key, kv),
            _project_each(seen[n + n_kv :], block.value, kv),
        )

    def _kv_of_heads(self, plan: BlockPlan) -> Tensor:
        """For each running head, where its group stands among the running key-value readers."""
        groups = plan.heads // self.universe.group_size
        return torch.from_numpy(np.searchsorted(np.unique(groups), groups))


def _project_each(
    seen: Float[Tensor, "reader batch seq d_model"], projection: Projection, heads: Tensor
) -> Float[Tensor, "reader batch seq d_head"]:
    """Project reader i with the weights of head `heads[i]`."""
    weights, bias = projection.per_head, projection.bias_per_head
    if len(heads) != projection.n_heads or not torch.equal(heads.cpu(), torch.arange(projection.n_heads)):
        weights = weights[heads]
        bias = None if bias is None else bias[heads]
    flat = seen.flatten(1, 2)
    out = torch.bmm(flat, weights) if bias is None else torch.baddbmm(bias[:, None], flat, weights)
    return out.unflatten(1, seen.shape[1:3])
