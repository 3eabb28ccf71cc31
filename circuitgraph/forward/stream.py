"""The residual stream as a sum of deltas: what writers add, what readers see, and the way back.

For reader i, `x_i = r + Σ_j z_ij Δ_j` with `Δ_j = y_j − ỹ_j` and `r` the ablated residual stream. The sum
`S = Σ_j Δ_j` is kept as it grows, so a reader takes the cheaper of

    direct:      r +     Σ_{z ≠ 0}  z_ij      Δ_j
    complement:  r + S + Σ_{z ≠ 1} (z_ij − 1) Δ_j

and pays for its undecided or minority edges only. The deltas are no autograd tensors: they lie in one
buffer, and three autograd functions (`_Begin`, `_Read`, `_Write`) pass a scalar token along, which puts the
backward pass in exactly the reverse order. Going back,

    1. `_Read` keeps the gradient G_i of each reader, adds it to the gradient of S where the reader took the
       complement, and dots it with Δ_j for the gates whose gradient is wanted;
    2. `_Write` pulls `∂Δ_j = ∂S + Σ_i c_ij G_i` over the later readers, c being the coefficients above;
    3. `_Begin` hands the gates' gradient out.

Axes: `slot` a stored writer, `row` a running reader; see `circuitgraph.forward.plan`.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from circuitgraph.forward.mixing import add_mixed, dot_pairs
from circuitgraph.forward.plan import BlockPlan, StepPlan


class Workspace:
    """Large buffers, kept from one step to the next so that the allocator does not hand them back.

    A buffer is handed to one stream at a time; a second pass while the first still waits for its backward
    gets fresh memory.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._holder: weakref.ref[Stream] | None = None

    def hand_to(self, stream: Stream) -> bool:
        """Whether `stream` may use the kept buffers."""
        holder = self._holder() if self._holder is not None else None
        if holder is not None and holder is not stream and not holder.finished:
            return False
        self._holder = weakref.ref(stream)
        return True

    def take(self, name: str, size: tuple[int, ...], like: Tensor) -> Tensor:
        """An uninitialised tensor of the given size, dtype and device of `like`."""
        wanted = int(np.prod(size))
        kept = self._buffers.get(name)
        if kept is None or kept.numel() < wanted or kept.dtype != like.dtype or kept.device != like.device:
            self._buffers[name] = kept = torch.empty(wanted, dtype=like.dtype, device=like.device)
        return kept[:wanted].view(size)


class Stream:
    """The deltas of one masked pass.

    Args:
        plan: What runs.
        gates: All gates `[edge]`; 1 keeps an edge.
        wanted: Booleans `[edge]` on the host: gates whose gradient is wanted.
        like: An activation `[batch seq d_model]`; gives size, dtype and device.
        workspace: Where large buffers are kept between steps.
    """

    def __init__(
        self,
        plan: StepPlan,
        gates: Tensor,
        gates_host: np.ndarray,
        wanted: np.ndarray,
        like: Tensor,
        workspace: Workspace,
    ) -> None:
        self.plan = plan
        self.finished = False
        self.like = like
        self.batch, self.seq, self.width = like.shape
        self._workspace = workspace if workspace.hand_to(self) else Workspace()
        self.deltas = self._workspace.take("deltas", (plan.n_slots, *like.shape), like)
        self.running: Tensor | None = None
        self._choose_coefficients(gates, gates_host, wanted)
        self._n_edges = gates.numel()
        self.gate_gradient = torch.zeros(gates.numel() + 1, dtype=gates.dtype, device=gates.device)
        self.running_gradient: Tensor | None = None
        self._row_gradients: Tensor | None = None

    def _choose_coefficients(self, gates: Tensor, gates_host: np.ndarray, wanted: np.ndarray) -> None:
        """Pick direct or complement for each row, and lay the coefficients out `[row slot]`."""
        edges = self.plan.edges
        visible = edges < gates.numel()
        host = np.append(gates_host, 0.0)[edges]
        self.wanted = np.append(wanted, False)[edges]
        non_zero = ((host != 0) & visible).sum(1)
        non_one = ((host != 1) & visible).sum(1)
        self.complement = non_one < non_zero
        shift = (self.complement[:, None] & visible).astype(host.dtype)
        self.host = host - shift
        index = torch.from_numpy(edges).to(gates.device)
        values = torch.cat([gates.detach(), gates.new_zeros(1)])[index]
        values = values - torch.from_numpy(shift).to(gates.device, gates.dtype)
        self.coefficients = values.to(self.like.dtype)

    # ---------------------------------------------------------------- forward

    def add(self, delta: Float[Tensor, "batch seq d_model"]) -> None:
        """Add to the running sum, in float32 when the model runs in less."""
        wide = delta if delta.dtype == torch.float64 else delta.float()
        self.running = wide.clone() if self.running is None else self.running.add_(wide)

    def mix(
        self, block: BlockPlan, ablated: Tensor, at: Tensor | None
    ) -> Float[Tensor, "reader batch seq d_model"]:
        """What the block's running readers see.

        Args:
            block: The readers.
            ablated: The ablated residual stream, broadcastable to `[batch seq d_model]`.
            at: Flat positions to compute, as one row of length `asked`; None for all.
        """
        rows, n = block.rows, block.n_slots
        ablated = ablated.expand(self.batch, self.seq, self.width)
        deltas, running = self.deltas[:n], self.running
        if at is not None:
            ablated = ablated.flatten(0, 1)[at][None]
            deltas = deltas.flatten(1, 2)[:, at][:, None]
            running = None if running is None else running.flatten(0, 1)[at][None]
        full = ablated
        if running is not None and self.complement[rows].any():
            full = (ablated + running).to(ablated.dtype)
        seen = torch.empty(rows.stop - rows.start, *ablated.shape, dtype=ablated.dtype, device=ablated.device)
        for row, takes_complement in enumerate(self.complement[rows]):
            seen[row].copy_(full if takes_complement else ablated)
        add_mixed(seen, self.coefficients[rows, :n], deltas, self.host[rows, :n])
        return seen

    # ---------------------------------------------------------------- backward

    def take_gradient(self, block: BlockPlan, gradient: Tensor, at: Tensor | None) -> None:
        """Keep the gradient of what a block's readers saw, and that of their gates."""
        if self.finished:
            raise RuntimeError("a masked pass can be taken backward once; run the masked pass again")
        rows, n = block.rows, block.n_slots
        deltas = self.deltas[:n]
        if at is not None:
            deltas = deltas.flatten(1, 2)[:, at][:, None]
        wanted = self.wanted[rows, :n]
        if wanted.any():
            dots = dot_pairs(gradient, deltas, wanted).to(self.gate_gradient.dtype)
            index = torch.from_numpy(np.where(wanted, self.plan.edges[rows, :n], self._n_edges))
            self.gate_gradient.index_put_((index.to(dots.device),), dots, accumulate=False)
        if self._row_gradients is None:
            size = (len(self.host), self.batch, self.seq, self.width)
            self._row_gradients = self._workspace.take("row_gradients", size, self.like)
        kept = self._row_gradients[rows]
        if at is None:
            kept.copy_(gradient)
        else:
            kept.zero_().flatten(1, 2).index_add_(1, at, gradient[:, 0])
        complement = self.complement[rows]
        if complement.any():
            total = (
                kept
                if complement.all()
                else kept[torch.from_numpy(np.flatnonzero(complement)).to(kept.device)]
            )
            total = total.sum(0, dtype=torch.float64 if kept.dtype == torch.float64 else torch.float32)
            self.running_gradient = (
                total if self.running_gradient is None else self.running_gradient.add_(total)
            )

    def delta_gradient(self, block: BlockPlan) -> Float[Tensor, "slot batch seq d_model"]:
        """The gradient of what a block wrote."""
        slots = block.slots
        # The first readers that see it. In parallel blocks these are not the next ones: the layer's own MLP
        # does not, and has not put its gradient down yet.
        first = next(other.rows.start for other in self.plan.blocks if other.n_slots >= slots.stop)
        later = slice(first, len(self.host))
        pulled = torch.zeros(
            slots.stop - slots.start, *self.like.shape, dtype=self.like.dtype, device=self.like.device
        )
        if self.running_gradient is not None:
            pulled += self.running_gradient.to(pulled.dtype)
        if self._row_gradients is not None:
            add_mixed(
                pulled,
                self.coefficients[later, slots].T,
                self._row_gradients[later],
                self.host[later, slots].T,
            )
        return pulled


# The three autograd functions. `_Begin` and the others exchange a scalar token whose only use is order.


class _Begin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, stream: Stream) -> Tensor:
        ctx.stream = stream
        return gates.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *_: Tensor) -> Any:
        stream = ctx.stream
        stream.finished = True
        return stream.gate_gradient[:-1], None


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, token: Tensor, stream: Stream, block: BlockPlan, ablated: Tensor, at: Tensor | None
    ) -> Any:
        ctx.stream, ctx.block, ctx.at = stream, block, at
        return stream.mix(block, ablated, at), token.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, token: Tensor) -> Any:  # type: ignore[override]
        ctx.stream.take_gradient(ctx.block, gradient, ctx.at)
        return token, None, None, None, None


class _WriteHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        token: Tensor,
        heads: Tensor,
        ablated: Tensor,
        output: Tensor,
        stream: Stream,
        block: BlockPlan,
    ) -> Tensor:
        ctx.stream, ctx.block = stream, block
        ctx.save_for_backward(output)
        moved = (heads - ablated).flatten(1, 2)
        said = stream.deltas[block.slots].flatten(1, 2)
        torch.bmm(moved, output, out=said)
        stream.add(said.sum(0).view_as(stream.like))
        return token.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, token: Tensor) -> Any:  # type: ignore[override]
        (output,) = ctx.saved_tensors
        pulled = ctx.stream.delta_gradient(ctx.block)
        heads = torch.bmm(pulled.flatten(1, 2), output.transpose(1, 2))
        return token, heads.unflatten(1, pulled.shape[1:3]), None, None, None, None


class _WriteMLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, token: Tensor, said: Tensor, ablated: Tensor, stream: Stream, block: BlockPlan
    ) -> Tensor:
        ctx.stream, ctx.block = stream, block
        delta = stream.deltas[block.slots.start]
        torch.sub(said, ablated, out=delta)
        stream.add(delta)
        return token.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, token: Tensor) -> Any:  # type: ignore[override]
        return token, ctx.stream.delta_gradient(ctx.block)[0], None, None, None


def begin(gates: Tensor, stream: Stream) -> Tensor:
    """Start a pass; its gradient goes to `gates`."""
    return _Begin.apply(gates, stream)  # type: ignore[return-value]


def read(
    token: Tensor, stream: Stream, block: BlockPlan, ablated: Tensor, at: Tensor | None = None
) -> tuple[Float[Tensor, "reader batch seq d_model"], Tensor]:
    """What the readers of a block see, and the next token."""
    return _Read.apply(token, stream, block, ablated, at)  # type: ignore[return-value]


def write_heads(
    token: Tensor, heads: Tensor, ablated: Tensor, output: Tensor, stream: Stream, block: BlockPlan
) -> Tensor:
    """Store what heads say, `(heads − ablated) @ output`; returns the next token."""
    return _WriteHeads.apply(token, heads, ablated, output, stream, block)  # type: ignore[return-value]


def write_mlp(token: Tensor, said: Tensor, ablated: Tensor, stream: Stream, block: BlockPlan) -> Tensor:
    """Store what an MLP says, `said − ablated`; returns the next token."""
    return _WriteMLP.apply(token, said, ablated, stream, block)  # type: ignore[return-value]
