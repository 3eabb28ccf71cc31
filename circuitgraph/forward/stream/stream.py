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

**One buffer.** It holds deltas and gradients, and where each lies, `circuitgraph.forward.stream.buffer` says. When a
block's gradients come, no delta that the block does not see is needed any more, so the two overlap; and about halfway
back the gradients that have come are folded into their sums for the earlier writers, `Σ_i c_ij G_i`. What readers saw
is not kept but mixed once more when the norm's way back asks for it, and so are most of the sums that it is mixed into
(see `circuitgraph.forward.stream.prefix_sums`); where that would save little, it is kept in the gradients' place, and
nothing overlaps.

Axes: `slot` a stored writer, `row` a running reader (see `circuitgraph.forward.plan.plan`), `cell` a position of
a prompt (see `circuitgraph.forward.plan.cells`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.forward.engine.choose import cpu_kernels
from circuitgraph.forward.engine.plain import add_mixed, dot_pairs, mix_onto
from circuitgraph.forward.plan.plan import BlockPlan, StreamPlan
from circuitgraph.forward.stream.buffer import StreamLayout, overlapping, side_by_side
from circuitgraph.forward.stream.fused_reads import FusedReads
from circuitgraph.forward.stream.prefix_sums import PrefixSums
from circuitgraph.forward.stream.tape import Tape
from circuitgraph.transfer import to_device

KEPT_BYTES = 64 << 20
"""What readers saw is kept for the way back where it takes no more than this, a stream."""


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
        n_rows, most = len(plan.edges), max(len(block.readers) for block in plan.blocks)
        self.keeps_reads = (
            tape.goes_back
            and cpu_kernels(like) is None
            and n_rows * n_cells * self.width * like.element_size() <= KEPT_BYTES
        )
        self._layout = side_by_side(plan.n_slots, n_rows if tape.goes_back else 0)
        if tape.goes_back and not self.keeps_reads:
            self._layout = _overlapping(plan)
        self._folded = False
        self._buffer = self._take(name, self._layout.size)
        self.deltas = self._buffer[: plan.n_slots]
        # Shared by the streams of a pass, which use it one at a time.
        self._scratch = self._take("scratch", most)
        self._written: list[slice] = []
        self._running = PrefixSums(None, partial(_with_written, self.deltas, self._written))
        self.running_gradient: Tensor | None = None
        self._choose_coefficients()
        self.fused = FusedReads.of(self)

    def _take(self, name: str, rows: int) -> Tensor:
        return self.tape.workspace.take(name, (rows, self.n_cells, self.width), self.like)

    def _choose_coefficients(self) -> None:
        """Pick direct or complement for each row, and lay the coefficients out `[row slot]`."""
        edges, gates = self.plan.edges, self.tape.gates
        visible = edges < gates.numel()
        host = np.append(self.tape.gates_host, 0.0)[edges]
        self.wanted = np.append(self.tape.wanted, False)[edges]
        if self.tape.fixed:
            self.complement, self.host = np.zeros(len(edges), dtype=bool), visible.astype(np.float64)
            padded = torch.cat([gates.detach(), gates.new_zeros(1)])
            self.coefficients = padded[to_device(edges, gates.device)].to(self.like.dtype)
            return
        non_zero = ((host != 0) & visible).sum(1)
        non_one = ((host != 1) & visible).sum(1)
        self.complement = non_one < non_zero
        shift = (self.complement[:, None] & visible).astype(host.dtype)
        self.host = host - shift
        precise = torch.promote_types(gates.dtype, torch.float32)  # numpy has no bfloat16
        self.coefficients = to_device(torch.from_numpy(self.host).to(precise), gates.device).to(self.like.dtype)

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

    def mix(self, block: BlockPlan, ablated: Tensor) -> Float[Tensor, "reader cell d_model"]:
        """What the block's running readers see; valid until the next call, or for the whole pass if reads are kept.

        Args:
            block: The readers.
            ablated: The ablated residual stream, broadcastable to `[cell d_model]`.
        """
        rows, n = block.rows, block.n_slots
        seen = self.rows(rows) if self.keeps_reads else self._scratch[: rows.stop - rows.start]
        mixed = self.coefficients[rows, :n], self.deltas[:n], self.host[rows, :n]
        complement = self.complement[rows]
        if not complement.any():
            mix_onto(seen, ablated, *mixed)
            return seen
        running = self.sum_before(block)
        full = ablated if running is None else (ablated + running).to(ablated.dtype)
        if complement.all():
            mix_onto(seen, full, *mixed)
            return seen
        seen.copy_(ablated)
        if seen.device.type == "cpu":
            for row in np.flatnonzero(complement):
                seen[row].copy_(full)
        else:  # a launch a row would not pay
            whose = to_device(np.flatnonzero(complement), seen.device)
            seen.index_copy_(0, whose, full.expand(len(whose), *seen.shape[1:]))
        add_mixed(seen, *mixed)
        return seen

    def room(self, block: BlockPlan) -> Float[Tensor, "reader cell d_model"]:
        """Where normed rows of a block may go, over what it saw unless reads are kept."""
        return self._scratch[: block.rows.stop - block.rows.start]

    # ---------------------------------------------------------------- backward

    def rows(self, rows: slice) -> Float[Tensor, "reader cell d_model"]:
        """Where the gradients of some readers lie, or what they saw where reads are kept.

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
        coefficients = self.coefficients[late, : layout.n_folded].T
        host = self.host[late, : layout.n_folded].T
        # Both lie in the same rows, so a few cells at a time are taken out, as many as there is scratch for.
        together = len(gradients) + len(folded)
        room = self._scratch.flatten(0, 1)
        at_once = max(1, len(room) // together)
        if len(room) < together:
            room = self.like.new_empty(together, self.width)
        for start in range(0, self.n_cells, at_once):
            part = slice(start, min(start + at_once, self.n_cells))
            size = part.stop - part.start
            source = room[: len(gradients) * size].view(len(gradients), size, self.width)
            into = room[source.numel() // self.width :][: len(folded) * size].view(len(folded), size, self.width)
            source.copy_(gradients[:, part])
            mix_onto(into, None, coefficients, source, host)
            folded[:, part].copy_(into)

    def seen_again(self, block: BlockPlan, ablated: Callable[[], Tensor]) -> Float[Tensor, "reader cell d_model"]:
        """What the block's readers saw, on the way back."""
        kept = self.rows(block.rows)  # before anything is mixed: the fold takes the scratch
        return kept if self.keeps_reads else self.mix(block, ablated())

    def room_back(self, block: BlockPlan) -> Float[Tensor, "reader cell d_model"]:
        """Where a block's gradients may be made: where they stay, unless that is where its reads are."""
        return self.room(block) if self.keeps_reads else self.rows(block.rows)

    def take_gradient(self, block: BlockPlan) -> None:
        """Take the gradient of a block's gates, and that of the running sum, from its rows' gradients."""
        tape, rows, n = self.tape, block.rows, block.n_slots
        gradient = self.rows(rows)
        wanted = self.wanted[rows, :n]
        if wanted.any():
            dots = dot_pairs(gradient, self.deltas[:n], wanted).to(tape.gradient.dtype)
            tape.gradient.index_copy_(0, to_device(self.plan.edges[rows, :n][wanted], dots.device), dots)
        complement = self.complement[rows]
        if complement.any():
            total = gradient
            if not complement.all():
                total = gradient.index_select(0, to_device(np.flatnonzero(complement), gradient.device))
            total = total.sum(0, dtype=torch.float64 if total.dtype == torch.float64 else torch.float32)
            self.running_gradient = total if self.running_gradient is None else self.running_gradient.add_(total)

    def forget(self, block: BlockPlan) -> None:
        """Note that no gradient will come for a block's readers."""
        self.rows(block.rows).zero_()

    def delta_gradient(self, block: BlockPlan) -> Float[Tensor, "slot cell d_model"]:
        """The gradient of what a block wrote."""
        slots = block.slots
        # The first readers that see it. In parallel blocks these are not the next ones: the layer's own MLP
        # does not, and has not put its gradient down yet.
        first = next(other.rows.start for other in self.plan.blocks if other.n_slots >= slots.stop)
        pulled = self.like.new_empty(slots.stop - slots.start, self.n_cells, self.width)
        base = None if self.running_gradient is None else self.running_gradient.to(pulled.dtype)
        stop, folded = self._layout.n_rows, slots.stop <= self._layout.n_folded
        if folded:
            self._fold()
            stop = self._layout.fold_row
        rows = slice(first, max(first, stop))
        mix_onto(pulled, base, self.coefficients[rows, slots].T, self.rows(rows), self.host[rows, slots].T)
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
