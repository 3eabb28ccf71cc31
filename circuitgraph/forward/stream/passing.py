"""A pass's reads and writes as autograd functions, and their order.

`begin`, `read` and `write` pass a scalar token along, whose only use is that autograd takes them backward in exactly
the reverse order. Going back,

1. a read takes the gradient of what it handed out through projections and norm to what its readers saw, and leaves it
   in the stream's buffer, with the gradient of the gates;
2. a write pulls the gradient of its deltas from there;
3. the beginning hands the gates' gradient out.

Mix, norm and projection are one function, so that what is as large as all of a layer's reads stays in the workspace:
nothing of that size is made anew, and nothing of it is kept but the heads' outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from circuitgraph.architectures.norm import Norm
from circuitgraph.forward.engine.engine import Engine
from circuitgraph.forward.engine.rows import pick
from circuitgraph.forward.plan.plan import BlockPlan
from circuitgraph.forward.stream.stream import Stream
from circuitgraph.forward.stream.tape import Tape


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadGroup:
    """Some readers of an attention block that are projected alike.

    Attributes:
        kind: Whether they make queries (0), keys (1) or values (2).
        rows: Where they stand among the block's running readers.
        readers: Which, as heads or key-value readers.
        weights: Every head's; a view of the model's.
        heads: Whose weights each of them takes.
        bias: Every head's, or None.
    """

    kind: int
    rows: slice
    readers: np.ndarray
    weights: Float[Tensor, "head d_model d_head"]
    heads: np.ndarray
    bias: Float[Tensor, "head d_head"] | None

    def project(
        self, engine: Engine, x: Float[Tensor, "reader position d_model"]
    ) -> Float[Tensor, "reader position d_head"]:
        """Their projections."""
        projected = x.new_empty(*x.shape[:2], self.weights.shape[2])
        engine.project(projected, x, self.weights, self.heads)
        if self.bias is not None:
            projected += pick(self.bias, self.heads)[:, None]
        return projected

    def pull(
        self,
        engine: Engine,
        gradient: Float[Tensor, "reader position d_head"],
        out: Float[Tensor, "reader position d_model"],
        *,
        add: bool,
    ) -> None:
        """The gradient of what they read, put into `out` or added to it."""
        weights = self.weights.transpose(1, 2)
        if not add:
            engine.project(out, gradient, weights, self.heads)
            return
        more = torch.empty_like(out)
        engine.project(more, gradient, weights, self.heads)
        out += more


class _Begin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, tape: Tape, *terms: Tensor) -> Tensor:
        del terms  # they are in what readers see; here is where their gradient goes
        ctx.tape = tape
        return gates.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *_: Tensor) -> Any:
        tape = ctx.tape
        tape.finished = True
        return tape.gradient, None, *(() if tape.base is None else tape.base.gradients())


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        token: Tensor,
        stream: Stream,
        block: BlockPlan,
        ablated: Callable[[], Tensor],
        norm: Norm,
        groups: Sequence[HeadGroup] | None,
        n_before: int,
    ) -> Any:
        room = stream.room(block)
        normed = torch.empty_like(room) if groups is None else room
        moments = stream.engine.read(stream.sums(block, ablated()), norm, normed, room)
        outputs = [normed] if groups is None else [group.project(stream.engine, normed[group.rows]) for group in groups]
        ctx.stream, ctx.block, ctx.n_before = stream, block, n_before
        if block.differentiable:
            ctx.ablated, ctx.norm, ctx.moments, ctx.groups = ablated, norm, moments, groups
        else:
            ctx.mark_non_differentiable(*outputs)
        return token.new_zeros(()), *outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, token: Tensor, *gradients: Tensor) -> Any:  # type: ignore[override]
        stream, block = ctx.stream, ctx.block
        if not block.differentiable:
            stream.forget(block)
            return token, None, None, None, None, None, None
        stream.tape.check_unfinished()
        back = stream.rows(block.rows)
        _pull_projections(stream.engine, ctx.groups, gradients, back)
        stream.pull(block, ctx.ablated(), ctx.norm, ctx.moments)
        if stream.tape.base is not None:
            stream.tape.base.add(ctx.n_before, back)
        ctx.ablated = ctx.moments = None  # autograd keeps this node for as long as the loss
        return token, None, None, None, None, None, None


def _pull_projections(
    engine: Engine, groups: Sequence[HeadGroup] | None, gradients: Sequence[Tensor], out: Tensor
) -> None:
    """The gradient of the normed rows from that of what was handed out."""
    if groups is None:
        out.copy_(gradients[0])
        return
    filled = 0  # groups follow each other, or each is of all rows
    for group, gradient in zip(groups, gradients, strict=True):
        group.pull(engine, gradient, out[group.rows], add=group.rows.start < filled)
        filled = group.rows.stop


class _WriteHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token: Tensor, moved: Tensor, output: Tensor, stream: Stream, block: BlockPlan) -> Tensor:
        ctx.stream, ctx.block = stream, block
        ctx.save_for_backward(output)
        stored = stream.deltas[block.slots]
        stream.engine.project(stored, moved, output, block.writers)
        stream.add(block.slots)
        return token.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, token: Tensor) -> Any:  # type: ignore[override]
        if not ctx.needs_input_grad[1]:
            return token, None, None, None, None
        (output,) = ctx.saved_tensors
        pulled = ctx.stream.delta_gradient(ctx.block.slots)
        moved = pulled.new_empty(*pulled.shape[:2], output.shape[1])
        ctx.stream.engine.project(moved, pulled, output.transpose(1, 2), ctx.block.writers)
        return token, moved, None, None, None


class _Write(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token: Tensor, delta: Tensor, stream: Stream, slots: slice) -> Tensor:
        ctx.stream, ctx.slots = stream, slots
        stream.deltas[slots].copy_(delta)
        stream.add(slots)
        return token.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, token: Tensor) -> Any:  # type: ignore[override]
        pulled = ctx.stream.delta_gradient(ctx.slots)[0] if ctx.needs_input_grad[1] else None
        return token, pulled, None, None


def begin(tape: Tape) -> Tensor:
    """Start a pass; its gradient goes to the tape's gates, and to the terms of its base where it has one."""
    return _Begin.apply(tape.gates, tape, *(() if tape.base is None else tape.base.terms))  # type: ignore[return-value]


def read(
    token: Tensor, stream: Stream, block: BlockPlan, ablated: Callable[[], Tensor], norm: Norm, n_before: int = 0
) -> tuple[Float[Tensor, "reader position d_model"], Tensor]:
    """What the readers of a block see, normed, and the next token.

    Args:
        token: The last one.
        stream: What they read from.
        block: The readers.
        ablated: Gives the ablated residual stream before the block, broadcastable to `[position d_model]`; called
            again on the way back, so it should not hold the pass.
        norm: Theirs.
        n_before: How many blocks stand before the block.
    """
    token, normed = _Read.apply(token, stream, block, ablated, norm, None, n_before)  # type: ignore[misc]
    return normed, token


def read_projected(
    token: Tensor,
    stream: Stream,
    block: BlockPlan,
    ablated: Callable[[], Tensor],
    norm: Norm,
    groups: Sequence[HeadGroup],
    n_before: int = 0,
) -> tuple[list[Float[Tensor, "reader position d_head"]], Tensor]:
    """What the readers of an attention block see, normed and projected by group, and the next token; see `read`."""
    token, *outputs = _Read.apply(token, stream, block, ablated, norm, groups, n_before)  # type: ignore[misc]
    return outputs, token


def write_heads(
    token: Tensor,
    moved: Float[Tensor, "slot position d_head"],
    output: Float[Tensor, "head d_head d_model"],
    stream: Stream,
    block: BlockPlan,
) -> Tensor:
    """Store heads' outputs less their ablation values, `moved @ output` of each; returns the next token."""
    return _WriteHeads.apply(token, moved, output, stream, block)  # type: ignore[return-value]


def write_mlp(token: Tensor, delta: Float[Tensor, "position d_model"], stream: Stream, block: BlockPlan) -> Tensor:
    """Store an MLP's output less its ablation value; returns the next token."""
    return _Write.apply(token, delta, stream, block.slots)  # type: ignore[return-value]


def write_embedding(token: Tensor, delta: Float[Tensor, "position d_model"], stream: Stream, slot: int) -> Tensor:
    """Store an embedding less its ablation value; returns the next token."""
    return _Write.apply(token, delta, stream, slice(slot, slot + 1))  # type: ignore[return-value]
