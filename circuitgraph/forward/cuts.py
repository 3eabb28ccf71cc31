"""Many cuts in one circuit: each cut alone, run from where it is on, several of them in one batch.

What lies before a cut is as it was without it, so the circuit runs once, and what each reader saw is kept, see
`circuitgraph.forward.uncut`. Of a cut only *changes* are computed: for the writers that come after it, their output
now less their output before, `δ_w`; reader i then sees `x_i + Σ_w z_iw δ_w`. A cut of an edge takes `Δ_w = y_w − ỹ_w`
from what its one reader saw; a cut of a writer sets `δ_w = −Δ_w`, so that all its readers see its ablation value.
Steps, for several cuts at once:

1. blocks are gone through in order, from the first that any of the cuts touches;
2. a reader runs if a changed writer has a live edge into it, or if a cut edge is its own; the others are as they were;
3. at the end the logits at the asked positions come from what the final norm sees.

In the full model all readers see the same residual stream, so one sum of changes serves them all.

Prompts are of one length, without padding. Positions before the first one at which a prompt differs from its
counterfactual are not run: nothing can change there. Plain torch, without gradients; the values are those of
`CompiledModel.masked` but for rounding.

Axes: `row` a reader of a block, `cut`, `prompt`, `seq` from the first differing position on, `slot` a changed writer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.forward.uncut import Heads, Reads, UncutRun, add_read, by_head
from circuitgraph.graph.block import Block


@dataclass(frozen=True)
class Cut:
    """What is cut.

    Attributes:
        writer: The writer whose edges are cut.
        reader: The one reader that no longer reads it; None for all its readers.
    """

    writer: int
    reader: int | None = None


@torch.no_grad()
def run_cuts(run: UncutRun, cuts: Sequence[Cut]) -> Float[Tensor, "cut asked d_vocab"]:
    """Run with each cut alone, all of them in one batch.

    Args:
        run: The circuit, or the model, without cuts.
        cuts: Of kept edges, or of writers with kept edges; near each other they share the most.

    Returns:
        The logits at the asked positions, cut by cut.
    """
    return _CutPass(run, cuts).logits()


class _CutPass:
    """Changes that some cuts make, block after block."""

    def __init__(self, runs: UncutRun, cuts: Sequence[Cut]) -> None:
        self.runs, self.cuts = runs, cuts
        self.size = (len(cuts), runs.n_prompts, runs.n_seq - runs.first, runs.shape.d_model)
        self.slots: list[int] = []
        self.changes: Tensor | None = None
        """Changes by slot; kept in a circuit alone."""
        self.total: Tensor | None = None
        """The sum of all changes; kept in the full model alone."""

    def logits(self) -> Tensor:
        universe = self.runs.universe
        held: Tensor | None = None
        for index, block in enumerate(universe.blocks):
            if block.kind == "attention":
                before = self.total
                self._heads(index, block)
                if universe.block_order == "parallel":
                    held, self.total = self.total, before
            elif block.kind == "mlp":
                change = self._mlp(index, block)
                if universe.block_order == "parallel":
                    self.total = held
                if change is not None:
                    self._add(block.first_written, change)
            else:
                reads = self.runs.reads[index]
                rows, seen = self._seen(index, block, reads)
                if not len(rows):
                    return self.runs.logits.expand(len(self.cuts), *self.runs.logits.shape)
                return self.runs.logits_from(seen[0])
        raise AssertionError("no block of logits")

    # ---------------------------------------------------------------- reading

    def _of_edges(self, block: Block) -> list[tuple[int, int, Tensor]]:
        """Cut edges into the block: which cut, which reader within the block, and what it no longer sees."""
        found = []
        for place, cut in enumerate(self.cuts):
            if cut.reader is not None and block.first_reader <= cut.reader < block.first_reader + block.n_readers:
                found.append((place, cut.reader - block.first_reader, self.runs.deltas[cut.writer]))
        return found

    def _moved_rows(self, block: Block, reads: Reads) -> np.ndarray:
        """Rows that see a change."""
        cut = [reader for _, reader, _ in self._of_edges(block)]
        if reads.gates is None:
            return np.arange(len(reads.readers)) if self.total is not None or cut else np.empty(0, dtype=int)
        moved = np.isin(reads.readers, cut)
        writers = [writer for writer in self.slots if writer < block.n_writers]
        if writers:
            moved |= reads.gates[:, writers].any(1)
        if block.kind == "attention" and self.runs.bound.blocks[block.layer].attention.mixes_heads:
            moved[:] = moved.any()  # a query or key depends on all others of the layer
        return np.flatnonzero(moved)

    def _seen(self, index: int, block: Block, reads: Reads) -> tuple[np.ndarray, Tensor]:
        """Rows of a block that see a change, and what they see now `[row cut prompt seq d_model]`.

        In the full model an MLP and the logits have one row; an attention's readers share one, without the cut edges
        of single readers, for which see `_heads`.
        """
        rows = self._moved_rows(block, reads)
        if not len(rows):
            return rows, reads.seen[:0]
        if reads.gates is None:
            seen = (
                reads.seen[:, None].expand(-1, *self.size) if self.total is None else reads.seen[:, None] + self.total
            )
        else:
            seen = reads.seen[rows][:, None].expand(-1, *self.size).contiguous()
            n_slots = sum(writer < block.n_writers for writer in self.slots)
            if n_slots:
                assert self.changes is not None
                add_read(seen, reads.gates[rows][:, self.slots[:n_slots]], self.changes[:n_slots])
        cuts = self._of_edges(block)
        if cuts and (reads.gates is not None or block.kind != "attention"):
            seen = seen.clone() if reads.gates is None else seen
            place_of = {int(reads.readers[row]): place for place, row in enumerate(rows)}
            for place, reader, delta in cuts:
                seen[place_of[reader], place] -= delta
        return rows, seen

    # ---------------------------------------------------------------- blocks

    def _heads(self, index: int, block: Block) -> None:
        runs, layer = self.runs, block.layer
        kept, own = runs.heads.get(layer), runs.bound.blocks[layer]
        first = block.first_written
        if kept is not None:
            reads = runs.reads[index]
            rows, seen = self._seen(index, block, reads)
            if len(rows):
                query, key, value, moved = self._projected(block, reads, rows, seen, kept)
                heads = np.flatnonzero(moved)
                picked = torch.from_numpy(heads).to(query.device)
                mixed = runs.attend(own, kept.heads, query, key, value, runs.first)
                changed = mixed[picked] - kept.mixed[picked][:, None]
                if reads.gates is None:
                    output = changed.permute(1, 2, 3, 0, 4).flatten(-2) @ own.output
                    self.total = output if self.total is None else self.total + output
                else:
                    weights = runs.output_of(own, kept.heads[heads])
                    output = (changed.flatten(1, -2) @ weights).view(len(heads), *self.size)
                    for place, head in enumerate(kept.heads[heads]):
                        self._add(first + int(head), output[place])
        for place, cut in enumerate(self.cuts):
            if cut.reader is None and first <= cut.writer < block.written.stop:
                self._silence(place, cut.writer)

    def _projected(
        self, block: Block, reads: Reads, rows: np.ndarray, seen: Tensor, kept: Heads
    ) -> tuple[Tensor, Tensor, Tensor, np.ndarray]:
        """Queries from the first position on, keys and values at all; and which heads see a change `[head]`."""
        runs, own, later = self.runs, self.runs.bound.blocks[block.layer], slice(self.runs.first, None)
        normed = own.attention_norm(seen)
        n_cuts = len(self.cuts)
        if reads.gates is None:
            made = runs.project(own, reads.readers, normed)
            self._cut_single_readers(block, seen, made)
            query, key, value = (
                runs.prepare(own, kind, which, made[kind], later) for kind, _, which in runs.kinds(reads.readers)
            )
            moved = np.ones(len(kept.heads), dtype=bool)
            return query, _joined(kept.key, key, runs.first), _joined(kept.value, value, runs.first), moved
        made = runs.project(own, reads.readers[rows], normed)
        kinds = runs.kinds(reads.readers[rows])
        group = runs.universe.n_heads // runs.n_kv
        kv_readers = np.unique(kept.heads // group)
        moved = np.isin(kept.heads, kinds[0][2])
        moved |= np.isin(kept.heads // group, np.concatenate([kinds[1][2], kinds[2][2]]))
        if own.heads_norm is not None:  # all heads move where one does, by the scale that they share
            moved[:] = moved.any()
        found = []
        for (kind, _, which), base, own_part in zip(kinds, (kept.query, kept.key, kept.value), made, strict=True):
            part = base[:, None].expand(base.shape[0], n_cuts, *base.shape[1:])
            if len(which):
                turned = runs.prepare(own, kind, which, own_part, later)
                places = np.searchsorted(kept.heads if kind == 0 else kv_readers, which)
                part = part.clone()
                part[torch.from_numpy(places).to(part.device), ..., part.shape[-2] - turned.shape[-2] :, :] = turned
            found.append(part)
        return found[0], found[1], found[2], moved

    def _cut_single_readers(self, block: Block, seen: Tensor, made: list[Tensor]) -> None:
        """In the full model: readers of a cut edge see the shared sum without its writer."""
        runs, own = self.runs, self.runs.bound.blocks[block.layer]
        for place, reader, delta in self._of_edges(block):
            normed = own.attention_norm(seen[0, place] - delta)[None]
            for kind, _, which in runs.kinds(np.array([reader])):
                if len(which):
                    projection = (own.query, own.key, own.value)[kind]
                    n_readers = runs.universe.n_heads if kind == 0 else runs.n_kv
                    made[kind][int(which[0]), place] = by_head(normed, projection, which, n_readers)[0]

    def _mlp(self, index: int, block: Block) -> Tensor | None:
        """The change of the MLP's output, for the cuts that it sees; None where it sees none."""
        runs, own = self.runs, self.runs.bound.blocks[block.layer]
        writer = block.first_written
        silenced = [p for p, cut in enumerate(self.cuts) if cut.reader is None and cut.writer == writer]
        reads = runs.reads[index]
        if not len(reads.readers):
            return None
        rows, seen = self._seen(index, block, reads)
        change: Tensor | None = None
        if len(rows):
            change = own.mlp(own.mlp_norm(seen[0].flatten(0, 1))).view(self.size) - runs.mlps[block.layer]
        if silenced:
            change = reads.seen.new_zeros(self.size) if change is None else change
            for place in silenced:
                change[place] = -runs.deltas[writer]
        return change

    # ---------------------------------------------------------------- writing

    def _add(self, writer: int, change: Tensor) -> None:
        """Note the change of a writer's output; writers come in their order."""
        if self.runs.kept is None:
            self.total = change if self.total is None else self.total + change
            return
        if self.changes is None:
            assert self.runs.used is not None
            layers = self.runs.universe.writer_layers
            first = int(np.searchsorted(layers, max(0, layers[writer])))
            self.changes = change.new_empty(int(self.runs.used[first:].sum()), *self.size)
        self.changes[len(self.slots)] = change
        self.slots.append(writer)

    def _silence(self, place: int, writer: int) -> None:
        """Set a head to its ablation value in one cut's rows, in which nothing has changed yet."""
        runs = self.runs
        if writer not in runs.deltas:
            return
        gone = -runs.deltas[writer]
        if runs.kept is None:
            self.total = gone.new_zeros(self.size) if self.total is None else self.total.clone()
            self.total[place] = gone
            return
        if writer not in self.slots:
            self._add(writer, gone.new_zeros(self.size))
        assert self.changes is not None
        self.changes[self.slots.index(writer)][place] = gone


def _joined(base: Tensor, new: Tensor, first: int) -> Tensor:
    """The values before the first position that can change, then the new ones `[reader cut prompt seq …]`."""
    if not first:
        return new
    before = base[:, None, :, :first].expand(base.shape[0], new.shape[1], *base.shape[1:2], first, base.shape[-1])
    return torch.cat([before, new], -2)
