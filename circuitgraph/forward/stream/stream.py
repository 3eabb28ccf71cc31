"""The residual stream as a sum of deltas: what writers add, what readers see, and the way back.

For reader i, `x_i = r + Σ_j z_ij Δ_j` with `Δ_j = y_j − ỹ_j` and `r` the ablated residual stream. The sum
`S = Σ_j Δ_j` is kept as it grows, so a reader takes the cheaper of

    direct:      r +     Σ_{z ≠ 0}  z_ij      Δ_j
    complement:  r + S + Σ_{z ≠ 1} (z_ij − 1) Δ_j

and pays for its undecided or minority edges only. Going back, with c the coefficients above and G_i the gradient of
what a reader saw,

    ∂z_ij = G_i · Δ_j
    ∂S   += G_i, where the reader took the complement
    ∂Δ_j  = ∂S + Σ_i c_ij G_i, over the later readers.

The deltas are no autograd tensors; `circuitgraph.forward.stream.passing` puts the two directions in order.

**One buffer.** It holds deltas and gradients, laid out by `circuitgraph.forward.stream.buffer`. When a
block's gradients come, no delta that the block does not see is needed any more, so the two overlap; and about halfway
back the gradients that have come are folded into their sums for the earlier writers, `Σ_i c_ij G_i`. What readers saw
is not kept but mixed once more when the norm's way back needs it, and so are most of the sums that it is mixed into
(see `circuitgraph.forward.stream.prefix_sums`); where that would save little, it is kept in the gradients' place, and
nothing overlaps.

Axes: `slot` a stored writer, `row` a running reader (see `circuitgraph.forward.plan.plan`), `position` a token of a
prompt (see `circuitgraph.forward.plan.positions`).
"""

from __future__ import annotations

from bisect import bisect_right
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.architectures.norm import Norm
from circuitgraph.forward.engine.coefficients import Coefficients, Pairs
from circuitgraph.forward.engine.engine import Engine, Moments, Sums
from circuitgraph.forward.plan.plan import BlockPlan, StreamPlan
from circuitgraph.forward.stream.buffer import StreamLayout, overlapping
from circuitgraph.forward.stream.prefix_sums import PrefixSums
from circuitgraph.forward.stream.tape import Tape
from circuitgraph.transfer import to_device


class Stream:
    """The deltas that the readers of one stream read.

    Args:
        name: Which stream; names the buffers.
        plan: What runs.
        tape: The pass.
        n_positions: How many positions the stream has.
        like: An activation `[… d_model]`; gives width, dtype and device.
        engine: How sums are computed there.
    """

    def __init__(self, name: str, plan: StreamPlan, tape: Tape, n_positions: int, like: Tensor, engine: Engine) -> None:
        self.plan, self.tape, self.like, self.engine = plan, tape, like, engine
        self.n_positions, self.width = n_positions, like.shape[-1]
        most = max(len(block.readers) for block in plan.blocks)
        self._layout = _overlapping(plan) if tape.goes_back else StreamLayout(size=plan.n_slots, n_rows=0)
        self._folded = False
        self._buffer = self._take(name, self._layout.size)
        self.deltas = self._buffer[: plan.n_slots]
        # Shared by the streams of a pass, which use it one at a time.
        self._scratch = self._take("scratch", most)
        self._written: list[slice] = []
        self._running = PrefixSums(None, partial(_with_written, self.deltas, self._written))
        self.running_gradient: Tensor | None = None
        self._choose_coefficients()

    def _take(self, name: str, rows: int) -> Tensor:
        return self.tape.workspace.take(name, (rows, self.n_positions, self.width), self.like)

    def _choose_coefficients(self) -> None:
        """Pick direct or complement for each row, and lay the coefficients out `[row slot]`."""
        edges, gates = self.plan.edges, self.tape.gates
        visible = edges < gates.numel()
        wanted = np.append(self.tape.wanted, False)[edges]
        self.pairs, self._wanted_edges = Pairs(wanted=wanted), edges[wanted]
        if self.tape.fixed:
            self.complement, host = np.zeros(len(edges), dtype=bool), visible.astype(np.float64)
            padded = torch.cat([gates.detach(), gates.new_zeros(1)])
            matrix = padded[to_device(edges, gates.device)].to(self.like.dtype)
        else:
            host = np.append(self.tape.gates_host, 0.0)[edges]
            non_zero = ((host != 0) & visible).sum(1)
            non_one = ((host != 1) & visible).sum(1)
            self.complement = non_one < non_zero
            host = host - (self.complement[:, None] & visible).astype(host.dtype)
            precise = torch.promote_types(gates.dtype, torch.float32)  # numpy has no bfloat16
            matrix = to_device(torch.from_numpy(host).to(precise), gates.device).to(self.like.dtype)
        self.coefficients = Coefficients(matrix=matrix, host=host)

    # ---------------------------------------------------------------- forward

    def add(self, slots: slice) -> None:
        """Note that deltas have been written, in the order of their slots."""
        self._written.append(slots)

    def sum_before(self, block: BlockPlan) -> Tensor | None:
        """The sum of all deltas that a block sees; None where it sees none.

        Args:
            block: The block.
        """
        return self._running.of(bisect_right(self._written, block.n_slots, key=lambda slots: slots.stop))

    def sums(self, block: BlockPlan, ablated: Tensor) -> Sums:
        """What the block's running readers see.

        Args:
            block: The readers.
            ablated: The ablated residual stream, broadcastable to `[position d_model]`.
        """
        takes = self.complement[block.rows]
        return Sums(
            base=ablated.expand(-1, self.width),
            running=self.sum_before(block) if takes.any() else None,
            takes_running=takes,
            coefficients=self.coefficients.of_rows(block.rows, block.n_slots),
            deltas=self.deltas[: block.n_slots],
        )

    def room(self, block: BlockPlan) -> Float[Tensor, "reader position d_model"]:
        """Where what a block sees may be mixed, and its normed rows may go."""
        return self._scratch[: block.rows.stop - block.rows.start]

    # ---------------------------------------------------------------- backward

    def rows(self, rows: slice) -> Float[Tensor, "reader position d_model"]:
        """Where the gradients of some readers lie.

        Args:
            rows: The readers, all of them before the fold or all behind it; the first before it calls for the fold.
        """
        if rows.start < self._layout.fold_row:
            self._fold()
        return self._buffer[self._layout.place(rows)]

    def _fold(self) -> None:
        """Put what the later readers' gradients give the earlier writers in the place of these gradients."""
        if self._folded:
            return
        self._folded = True
        layout = self._layout
        late = slice(layout.fold_row, layout.n_rows)
        gradients, folded = self._buffer[layout.place(late)], self._buffer[layout.folded]
        coefficients = self.coefficients.turned(late, slice(0, layout.n_folded))
        # Both lie in the same rows, so a few positions at a time are taken out, as many as there is scratch for.
        together = len(gradients) + len(folded)
        room = self._scratch.flatten(0, 1)
        at_once = max(1, len(room) // together)
        if len(room) < together:
            room = self.like.new_empty(together, self.width)
        for start in range(0, self.n_positions, at_once):
            part = slice(start, min(start + at_once, self.n_positions))
            size = part.stop - part.start
            source = room[: len(gradients) * size].view(len(gradients), size, self.width)
            into = room[source.numel() // self.width :][: len(folded) * size].view(len(folded), size, self.width)
            source.copy_(gradients[:, part])
            self.engine.mix(into, None, coefficients, source)
            folded[:, part].copy_(into)

    def pull(self, block: BlockPlan, ablated: Tensor, norm: Norm, moments: Moments | None) -> None:
        """Take a block's gradients, which lie in `rows`, through its norm, and the gates' and running sum's from there.

        Args:
            block: The readers.
            ablated: As of `sums`.
            norm: The readers' norm.
            moments: What the engine's `read` gave.
        """
        tape, gradients = self.tape, self.rows(block.rows)
        sums, pairs = self.sums(block, ablated), self.pairs.of_rows(block.rows, block.n_slots)
        if sums.takes_running.any() and self.running_gradient is None:
            wide = torch.promote_types(gradients.dtype, torch.float32)
            self.running_gradient = torch.zeros_like(gradients[0], dtype=wide)
        room = self.room(block)
        dots = self.engine.pull(sums, norm, moments, gradients, pairs, self.running_gradient, room)
        if len(pairs):
            starts = self.pairs.entries.starts
            edges = self._wanted_edges[starts[block.rows.start] : starts[block.rows.stop]]
            tape.gradient.index_copy_(0, to_device(edges, dots.device), dots.to(tape.gradient.dtype))

    def forget(self, block: BlockPlan) -> None:
        """Note that no gradient will come for a block's readers."""
        self.rows(block.rows).zero_()

    def delta_gradient(self, slots: slice) -> Float[Tensor, "slot position d_model"]:
        """The gradient of what was written.

        Args:
            slots: The slots of one block, or of embeddings.
        """
        # The first readers that see it. In parallel blocks these are not the next ones: the layer's own MLP
        # does not, and has not put its gradient down yet.
        first = next(other.rows.start for other in self.plan.blocks if other.n_slots >= slots.stop)
        pulled = self.like.new_empty(slots.stop - slots.start, self.n_positions, self.width)
        base = None if self.running_gradient is None else self.running_gradient.to(pulled.dtype)
        stop, folded = self._layout.n_rows, slots.stop <= self._layout.n_folded
        if folded:
            self._fold()
            stop = self._layout.fold_row
        rows = slice(first, max(first, stop))
        self.engine.mix(pulled, base, self.coefficients.turned(rows, slots), self.rows(rows))
        if folded:
            pulled += self._buffer[self._layout.folded][slots]
        return pulled


def _with_written(deltas: Tensor, written: list[slice], total: Tensor | None, place: int) -> Tensor:
    """The running sum with what was written next, in float32 when the model runs in less."""
    new = deltas[written[place]]
    delta = new[0] if len(new) == 1 else new.sum(0)
    wide = delta if delta.dtype == torch.float64 else delta.float()
    return wide.clone() if total is None else total + wide


def _overlapping(plan: StreamPlan) -> StreamLayout:
    starts, seen = [block.rows.start for block in plan.blocks], [block.n_slots for block in plan.blocks]
    return overlapping(starts, seen, len(plan.edges), plan.n_slots)
