"""A pass's reads and writes as autograd functions, and their order.

`begin`, `read` and `write` pass a scalar token along, whose only use is that autograd takes them backward in exactly
the reverse order. Going back,

1. a read takes the gradient of what it handed out through projections and norm to what its readers saw, and leaves it
   in the stream's buffer, with the gradient of the gates;
2. a write pulls the gradient of its deltas from there;
3. the beginning hands the gates' gradient out.

Mix, norm and projection are one function, so that what is as large as all of a layer's reads stays in the workspace:
nothing of that size is made anew, and nothing of it is kept but what the heads say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from circuitgraph.forward.engine.head_products import multiply_into, pick
from circuitgraph.forward.engine.norms import norm_back, norm_into
from circuitgraph.forward.plan.plan import BlockPlan
from circuitgraph.forward.stream.fused_reads import FusedReads
from circuitgraph.forward.stream.stream import Stream
from circuitgraph.forward.stream.tape import Tape


@dataclass(frozen=True, kw_only=True, eq=False)
class Share:
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

    def project(self, x: Float[Tensor, "reader cell d_model"]) -> Float[Tensor, "reader cell d_head"]:
        """What they say."""
        said = x.new_empty(*x.shape[:2], self.weights.shape[2])
        multiply_into(said, x, self.weights, self.heads)
        if self.bias is not None:
            said += pick(self.bias, self.heads)[:, None]
        return said

    def pull(
        self, gradient: Float[Tensor, "reader cell d_head"], out: Float[Tensor, "reader cell d_model"], *, add: bool
    ) -> None:
        """The gradient of what they read, put into `out` or added to it."""
        weights = self.weights.transpose(1, 2)
        if not add:
            multiply_into(out, gradient, weights, self.heads)
            return
        more = torch.empty_like(out)
        multiply_into(more, gradient, weights, self.heads)
        out += more


class _Begin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, tape: Tape) -> Tensor:
        ctx.tape = tape
        return gates.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *_: Tensor) -> Any:
        ctx.tape.finished = True
        return ctx.tape.gradient, None


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        token: Tensor,
        stream: Stream,
        block: BlockPlan,
        ablated: Callable[[], Tensor],
        norm: nn.Module,
        shares: Sequence[Share] | None,
    ) -> Any:
        room = stream.room(block)
        normed = torch.empty_like(room) if shares is None else room
        fused = _fused(stream, norm)
        if fused is not None:
            moments = fused.read(stream, block, ablated(), norm, normed)
        else:
            moments = norm_into(norm, stream.mix(block, ablated()), normed)
        said = [normed] if shares is None else [share.project(normed[share.rows]) for share in shares]
        ctx.stream, ctx.block = stream, block
        if block.differentiable:
            ctx.ablated, ctx.norm, ctx.moments, ctx.shares = ablated, norm, moments, shares
        else:
            ctx.mark_non_differentiable(*said)
        return token.new_zeros(()), *said

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, token: Tensor, *gradients: Tensor) -> Any:  # type: ignore[override]
        stream, block = ctx.stream, ctx.block
        if not block.differentiable:
            stream.forget(block)
            return token, None, None, None, None, None
        stream.tape.check_unfinished()
        fused = _fused(stream, ctx.norm)
        if fused is not None:
            back = stream.rows(block.rows)
            _pull_projections(ctx.shares, gradients, back)
            fused.pull(stream, block, ctx.ablated(), ctx.norm, ctx.moments, back)
        else:
            seen = stream.seen_again(block, ctx.ablated)
            back = stream.room_back(block)
            _pull_projections(ctx.shares, gradients, back)
            norm_back(ctx.norm, seen, ctx.moments, back, back)
            if stream.keeps_reads:
                seen.copy_(back)
            stream.take_gradient(block)
        ctx.ablated = ctx.moments = None  # autograd keeps this node for as long as the loss
        return token, None, None, None, None, None


def _fused(stream: Stream, norm: nn.Module) -> FusedReads | None:
    """The CPU kernels' reads, where they know the norm."""
    fused = stream.fused
    return fused if fused is not None and fused.take(stream, norm) else None


def _pull_projections(shares: Sequence[Share] | None, gradients: Sequence[Tensor], out: Tensor) -> None:
    """The gradient of the normed rows from that of what was handed out."""
    if shares is None:
        out.copy_(gradients[0])
        return
    filled = 0  # shares follow each other, or each is of all rows
    for share, gradient in zip(shares, gradients, strict=True):
        share.pull(gradient, out[share.rows], add=share.rows.start < filled)
        filled = share.rows.stop


class _WriteHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token: Tensor, moved: Tensor, output: Tensor, stream: Stream, block: BlockPlan) -> Tensor:
        ctx.stream, ctx.block = stream, block
        ctx.save_for_backward(output)
        said = stream.deltas[block.slots]
        multiply_into(said, moved, output, block.writers)
        stream.add(block.slots)
        return token.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, token: Tensor) -> Any:  # type: ignore[override]
        if not ctx.needs_input_grad[1]:
            return token, None, None, None, None
        (output,) = ctx.saved_tensors
        pulled = ctx.stream.delta_gradient(ctx.block)
        moved = pulled.new_empty(*pulled.shape[:2], output.shape[1])
        multiply_into(moved, pulled, output.transpose(1, 2), ctx.block.writers)
        return token, moved, None, None, None


class _WriteMLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token: Tensor, delta: Tensor, stream: Stream, block: BlockPlan) -> Tensor:
        ctx.stream, ctx.block = stream, block
        said = stream.deltas[block.slots]
        said.copy_(delta)
        stream.add(block.slots)
        return token.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, token: Tensor) -> Any:  # type: ignore[override]
        pulled = ctx.stream.delta_gradient(ctx.block)[0] if ctx.needs_input_grad[1] else None
        return token, pulled, None, None


def begin(tape: Tape) -> Tensor:
    """Start a pass; its gradient goes to the tape's gates."""
    return _Begin.apply(tape.gates, tape)  # type: ignore[return-value]


def read(
    token: Tensor, stream: Stream, block: BlockPlan, ablated: Callable[[], Tensor], norm: nn.Module
) -> tuple[Float[Tensor, "reader cell d_model"], Tensor]:
    """What the readers of a block see, normed, and the next token.

    Args:
        token: The last one.
        stream: What they read from.
        block: The readers.
        ablated: Gives the ablated residual stream before the block, broadcastable to `[cell d_model]`; asked again on
            the way back, so it should not hold the pass.
        norm: Theirs.
    """
    token, normed = _Read.apply(token, stream, block, ablated, norm, None)  # type: ignore[misc]
    return normed, token


def read_projected(
    token: Tensor,
    stream: Stream,
    block: BlockPlan,
    ablated: Callable[[], Tensor],
    norm: nn.Module,
    shares: Sequence[Share],
) -> tuple[list[Float[Tensor, "reader cell d_head"]], Tensor]:
    """What the readers of an attention block see, normed and projected by share, and the next token; see `read`."""
    token, *said = _Read.apply(token, stream, block, ablated, norm, shares)  # type: ignore[misc]
    return said, token


def write_heads(
    token: Tensor,
    moved: Float[Tensor, "slot cell d_head"],
    output: Float[Tensor, "head d_head d_model"],
    stream: Stream,
    block: BlockPlan,
) -> Tensor:
    """Store what heads say beyond their ablation value, `moved @ output` of each; returns the next token."""
    return _WriteHeads.apply(token, moved, output, stream, block)  # type: ignore[return-value]


def write_mlp(token: Tensor, delta: Float[Tensor, "cell d_model"], stream: Stream, block: BlockPlan) -> Tensor:
    """Store what an MLP says beyond its ablation value; returns the next token."""
    return _WriteMLP.apply(token, delta, stream, block)  # type: ignore[return-value]
