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

What a reader saw and its gradient share one buffer: autograd is done with the one when the other arrives.

Axes: `slot` a stored writer, `row` a running reader (see `circuitgraph.forward.plan`), `cell` a position of
a prompt (see `circuitgraph.forward.cells`).
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from circuitgraph.forward.head_products import multiply_into
from circuitgraph.forward.mixing import add_mixed, dot_pairs
from circuitgraph.forward.plan import BlockPlan, StreamPlan
from circuitgraph.transfer import to_device


class Workspace:
    """Large buffers, kept from one step to the next so that the allocator does not hand them back.

    Each thread has buffers of its own, which end with it. They are handed to one pass at a time; a second pass while
    the first still waits for its backward gets fresh memory.
    """

    def __init__(self) -> None:
        self._of_thread: weakref.WeakKeyDictionary[threading.Thread, _Buffers] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def hand_to(self, tape: Tape) -> bool:
        """Whether `tape` may use the kept buffers of this thread."""
        buffers = self._mine()
        holder = buffers.holder() if buffers.holder is not None else None
        if holder is not None and holder is not tape and not holder.finished:
            return False
        buffers.holder = weakref.ref(tape)
        return True

    def clear(self) -> None:
        """Give the memory back, of all threads; no pass may be under way in another."""
        with self._lock:
            for buffers in self._of_thread.values():
                buffers.tensors.clear()

    def take(self, name: str, size: tuple[int, ...], like: Tensor) -> Tensor:
        """An uninitialised tensor of the given size, dtype and device of `like`."""
        wanted, tensors = int(np.prod(size)), self._mine().tensors
        kept = tensors.get(name)
        if kept is None or kept.numel() < wanted or kept.dtype != like.dtype or kept.device != like.device:
            tensors[name] = kept = torch.empty(wanted, dtype=like.dtype, device=like.device)
        return kept[:wanted].view(size)

    def _mine(self) -> _Buffers:
        with self._lock:
            return self._of_thread.setdefault(threading.current_thread(), _Buffers())


class _Buffers:
    """What a thread keeps, and the pass that has it."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.holder: weakref.ref[Tape] | None = None


class Tape:
    """What the streams of one pass share.

    Args:
        gates: All gates `[edge]`; 1 keeps an edge.
        gates_host: The same on the host, float64.
        wanted: Booleans `[edge]` on the host: gates whose gradient is wanted.
        workspace: Where large buffers are kept between steps.
        goes_back: Whether a backward pass may follow; without one, what readers saw is not kept.
    """

    def __init__(
        self,
        gates: Tensor,
        gates_host: np.ndarray,
        wanted: np.ndarray,
        workspace: Workspace,
        *,
        goes_back: bool = True,
    ) -> None:
        self.gates, self.gates_host, self.wanted = gates, gates_host, wanted
        self.goes_back = goes_back
        self.finished = False
        self.workspace = workspace if workspace.hand_to(self) else Workspace()
        self.gradient = torch.zeros_like(gates)


class Stream:
    """The deltas that the readers of one level read.

    Args:
        name: The level; names the buffers.
        plan: What runs.
        tape: The pass.
        n_cells: How many cells the stream has.
        like: An activation `[… d_model]`; gives width, dtype and device.
    """

    def __init__(self, name: str, plan: StreamPlan, tape: Tape, n_cells: int, like: Tensor) -> None:
        self.plan, self.tape, self.like = plan, tape, like
        self.n_cells, self.width = n_cells, like.shape[-1]
        take = tape.workspace.take
        self.deltas = take(f"{name} deltas", (plan.n_slots, n_cells, self.width), like)
        # Holds what readers see on the way forward, and its gradient on the way back.
        n_rows = len(plan.edges) if tape.goes_back else max(len(block.readers) for block in plan.blocks)
        self.rows = take(f"{name} rows", (n_rows, n_cells, self.width), like)
        self.running: Tensor | None = None
        self.running_gradient: Tensor | None = None
        self._choose_coefficients()

    def _choose_coefficients(self) -> None:
        """Pick direct or complement for each row, and lay the coefficients out `[row slot]`."""
        edges, gates = self.plan.edges, self.tape.gates
        visible = edges < gates.numel()
        host = np.append(self.tape.gates_host, 0.0)[edges]
        self.wanted = np.append(self.tape.wanted, False)[edges]
        non_zero = ((host != 0) & visible).sum(1)
        non_one = ((host != 1) & visible).sum(1)
        self.complement = non_one < non_zero
        self.takes_sum = bool(self.complement.any())
        shift = (self.complement[:, None] & visible).astype(host.dtype)
        self.host = host - shift
        precise = torch.promote_types(gates.dtype, torch.float32)  # numpy has no bfloat16
        self.coefficients = to_device(torch.from_numpy(self.host).to(precise), gates.device).to(self.like.dtype)

    # ---------------------------------------------------------------- forward

    def add(self, deltas: Float[Tensor, "slot cell d_model"]) -> None:
        """Add to the running sum, in float32 when the model runs in less; nothing where no reader takes it."""
        if not self.takes_sum:
            return
        delta = deltas[0] if len(deltas) == 1 else deltas.sum(0)
        wide = delta if delta.dtype == torch.float64 else delta.float()
        self.running = wide.clone() if self.running is None else self.running.add_(wide)

    def mix(self, block: BlockPlan, ablated: Tensor) -> Float[Tensor, "reader cell d_model"]:
        """What the block's running readers see.

        Args:
            block: The readers.
            ablated: The ablated residual stream, broadcastable to `[cell d_model]`.
        """
        rows, n = block.rows, block.n_slots
        # `data` has a version counter of its own: filling later rows must not look like a change of these.
        seen = self.rows[rows].data if self.tape.goes_back else self.rows[: rows.stop - rows.start]
        complement = self.complement[rows]
        if not complement.any():
            seen.copy_(ablated)
        else:
            full = ablated if self.running is None else (ablated + self.running).to(ablated.dtype)
            for row, takes_complement in enumerate(complement):
                seen[row].copy_(full if takes_complement else ablated)
        add_mixed(seen, self.coefficients[rows, :n], self.deltas[:n], self.host[rows, :n])
        return seen

    # ---------------------------------------------------------------- backward

    def take_gradient(self, block: BlockPlan, gradient: Tensor) -> None:
        """Keep the gradient of what a block's readers saw, and that of their gates."""
        tape, rows, n = self.tape, block.rows, block.n_slots
        if tape.finished:
            raise RuntimeError("a masked pass can be taken backward once; run the masked pass again")
        wanted = self.wanted[rows, :n]
        if wanted.any():
            dots = dot_pairs(gradient, self.deltas[:n], wanted).to(tape.gradient.dtype)
            tape.gradient.index_copy_(0, to_device(self.plan.edges[rows, :n][wanted], dots.device), dots)
        self.rows[rows].copy_(gradient)
        complement = self.complement[rows]
        if complement.any():
            total = gradient
            if not complement.all():
                total = gradient.index_select(0, to_device(np.flatnonzero(complement), gradient.device))
            total = total.sum(0, dtype=torch.float64 if total.dtype == torch.float64 else torch.float32)
            self.running_gradient = total if self.running_gradient is None else self.running_gradient.add_(total)

    def forget(self, block: BlockPlan) -> None:
        """Note that no gradient will come for a block's readers."""
        self.rows[block.rows].zero_()

    def delta_gradient(self, block: BlockPlan) -> Float[Tensor, "slot cell d_model"]:
        """The gradient of what a block wrote."""
        slots = block.slots
        # The first readers that see it. In parallel blocks these are not the next ones: the layer's own MLP
        # does not, and has not put its gradient down yet.
        first = next(other.rows.start for other in self.plan.blocks if other.n_slots >= slots.stop)
        pulled = torch.zeros(
            slots.stop - slots.start, self.n_cells, self.width, dtype=self.like.dtype, device=self.like.device
        )
        if self.running_gradient is not None:
            pulled += self.running_gradient.to(pulled.dtype)
        add_mixed(pulled, self.coefficients[first:, slots].T, self.rows[first:], self.host[first:, slots].T)
        return pulled


# The three autograd functions. `_Begin` and the others exchange a scalar token whose only use is order.


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
    def forward(ctx: Any, token: Tensor, stream: Stream, block: BlockPlan, ablated: Tensor) -> Any:
        ctx.stream, ctx.block = stream, block
        seen = stream.mix(block, ablated)
        if not block.differentiable:
            ctx.mark_non_differentiable(seen)
        return seen, token.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, token: Tensor) -> Any:  # type: ignore[override]
        if ctx.block.differentiable:
            ctx.stream.take_gradient(ctx.block, gradient)
        else:
            ctx.stream.forget(ctx.block)
        return token, None, None, None


class _WriteHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token: Tensor, moved: Tensor, output: Tensor, stream: Stream, block: BlockPlan) -> Tensor:
        ctx.stream, ctx.block = stream, block
        ctx.save_for_backward(output)
        said = stream.deltas[block.slots]
        multiply_into(said, moved, output, block.writers)
        stream.add(said)
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
        stream.add(said)
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
    token: Tensor, stream: Stream, block: BlockPlan, ablated: Tensor
) -> tuple[Float[Tensor, "reader cell d_model"], Tensor]:
    """What the readers of a block see, and the next token."""
    return _Read.apply(token, stream, block, ablated)  # type: ignore[return-value]


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
