"""Many cuts in one circuit: each cut alone, run from where it is on, several of them in one batch.

What lies before a cut is as it was without it, so the circuit runs once, and what each reader saw is kept. Of a cut
only *changes* are computed: for the writers that come after it, what they say now less what they said, `δ_w`; reader i
then sees `x_i + Σ_w z_iw δ_w`. A cut of an edge takes `Δ_w = y_w − ỹ_w` from what its one reader saw; a cut of a
writer sets `δ_w = −Δ_w`, so that it says its ablation value to all its readers. Steps, for several cuts at once:

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

from circuitgraph.architectures.family import BoundBlock, BoundModel, ModelShape, Projection
from circuitgraph.batch import TokenBatch
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.attention import attend
from circuitgraph.forward.mixing import add_mixed
from circuitgraph.forward.reference import embed, project, to_query_heads
from circuitgraph.liveness import readers_reaching, readers_used
from circuitgraph.universe import ReaderBlock, Universe


@dataclass(frozen=True)
class Cut:
    """What is cut.

    Attributes:
        writer: The writer whose edges are cut.
        reader: The one reader that no longer reads it; None for all its readers.
    """

    writer: int
    reader: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reads:
    """What was read at one block in the run without cuts.

    Attributes:
        readers: Which of the block's readers run, as indices within the block.
        seen: What each saw, or what all saw alike, before the norm `[row prompt seq d_model]`.
        gates: Booleans on the host: which writers each reads `[row writer]`; None where each reads all.
    """

    readers: np.ndarray
    seen: Tensor
    gates: np.ndarray | None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Heads:
    """One layer's heads in the run without cuts.

    Attributes:
        heads: Which run.
        query: Rotated `[head prompt seq d_head]`, of the heads that run.
        key: Rotated, at all positions, a key-value reader each.
        value: At all positions, a key-value reader each.
        mixed: What they gathered `[head prompt seq d_head]`.
    """

    heads: np.ndarray
    query: Tensor
    key: Tensor
    value: Tensor
    mixed: Tensor


class CutRuns:
    """A circuit, or the full model, with one cut after the other.

    Args:
        bound: The model's weights.
        shape: The model's sizes.
        universe: Which edges there are.
        batch: Prompts of one length, without padding.
        values: What ablated writers say.
        kept: Booleans `[edge]`: the circuit; None for the full model.

    Attributes:
        logits: Without a cut `[asked d_vocab]`.

    Raises:
        ConfigurationError: Prompts with padding.
    """

    def __init__(
        self,
        bound: BoundModel,
        shape: ModelShape,
        universe: Universe,
        batch: TokenBatch,
        values: AblationValues,
        *,
        kept: np.ndarray | None,
    ) -> None:
        if batch.padded:
            raise ConfigurationError("cuts are run on prompts of one length; these are padded")
        self.bound, self.shape, self.universe, self.values = bound, shape, universe, values
        self.kept = kept
        self.used = None if kept is None else _used(universe, kept)
        self.n_prompts, self.n_seq = batch.input_ids.shape
        self.first = self._first_position(batch)
        embeddings = embed(bound, batch)
        self.rotary = bound.rotary(embeddings[0], batch.position_ids[:1]) if bound.rotary is not None else None
        self.asked = batch.predict_index
        self._said: dict[int, Tensor] = {}
        self._reads: dict[int, _Reads] = {}
        self._heads: dict[int, _Heads] = {}
        self._mlps: dict[int, Tensor] = {}
        self.logits = self._run(embeddings)

    def _first_position(self, batch: TokenBatch) -> int:
        """The first position at which any prompt may differ from its ablated run."""
        ids = self.values.input_ids
        if ids is None or not self.shape.causal:
            return 0
        differs = (batch.input_ids != ids.to(batch.input_ids.device)).any(0).nonzero()
        asked = int((batch.predict_index % self.n_seq).min()) if len(batch.predict_index) else 0
        return min(int(differs[0]) if len(differs) else asked, asked)

    # ---------------------------------------------------------------- without cuts

    def _run(self, embeddings: tuple[Tensor, ...]) -> Tensor:
        """Run the circuit, or the model, and keep what is read and said."""
        universe, values = self.universe, self.values
        given = tuple(values.embeddings)
        changes = [ours - theirs for ours, theirs in zip(embeddings, given, strict=True)]
        if universe.embeddings == "joint":
            changes = [sum(changes[1:], changes[0])]
        deltas: dict[int, Tensor] = {
            writer: self._whole(delta) for writer, delta in enumerate(changes) if self._is_used(writer)
        }
        residual = self._whole(sum(given[1:], given[0])).clone()
        if self.kept is None:
            residual = sum(embeddings[1:], embeddings[0])
        attention, mlps, heads_said = tuple(values.attention), tuple(values.mlps), tuple(values.heads)
        logits: Tensor | None = None
        after = residual
        for index, block in enumerate(universe.blocks):
            if block.kind == "attention":
                after = residual + self._run_heads(index, block, residual, deltas, heads_said[block.layer], attention)
                if universe.block_order == "sequential":
                    residual = after
            elif block.kind == "mlp":
                said = self._run_mlp(index, block, residual, deltas, mlps[block.layer])
                residual = (after if universe.block_order == "parallel" else residual) + said
            else:
                reads = self._read(index, block, residual, deltas)
                logits = self._logits(reads.seen[:1])[0]
        self._said = {writer: delta[:, self.first :] for writer, delta in deltas.items()}
        assert logits is not None
        return logits

    def _whole(self, value: Tensor) -> Tensor:
        """A value at every position of every prompt."""
        return value.expand(*value.shape[:-3], self.n_prompts, self.n_seq, value.shape[-1])

    def _is_used(self, writer: int) -> bool:
        return self.used is None or bool(self.used[writer])

    def _read(self, index: int, block: ReaderBlock, residual: Tensor, deltas: dict[int, Tensor]) -> _Reads:
        """What the block's readers see, kept from the first position on that can change; at all positions here."""
        if self.kept is None:
            readers, gates, seen = np.arange(block.n_readers), None, residual[None]
        else:
            readers = self._readers(block)
            gates = self.kept[block.edges].reshape(block.n_readers, block.n_writers)[readers]
            live = [writer for writer in deltas if writer < block.n_writers and gates[:, writer].any()]
            seen = residual.repeat(len(readers), 1, 1, 1)
            if live:
                _add(seen, gates[:, live], torch.stack([deltas[writer] for writer in live]))
        self._reads[index] = _Reads(readers=readers, seen=seen[:, :, self.first :], gates=gates)
        return _Reads(readers=readers, seen=seen, gates=gates)

    def _readers(self, block: ReaderBlock) -> np.ndarray:
        """The block's readers that run, as indices within it."""
        if self.used is None:
            return np.arange(block.n_readers)
        if block.kind == "logits":
            return np.array([0])
        if block.kind == "mlp":
            return np.flatnonzero(self.used[[self.universe.mlp_writer(block.layer)]])
        first = self.universe.first_head(block.layer)
        return np.flatnonzero(readers_used(self.universe, self.used[first : first + self.universe.n_heads]))

    def _run_heads(
        self,
        index: int,
        block: ReaderBlock,
        residual: Tensor,
        deltas: dict[int, Tensor],
        ablated: Tensor,
        attention: tuple[Tensor, ...],
    ) -> Tensor:
        """Run a layer's heads; gives back what is added to the residual stream, ablated or not as that stream is."""
        layer, universe = block.layer, self.universe
        own, first = self.bound.blocks[layer], universe.first_head(layer)
        reads = self._read(index, block, residual, deltas)
        if self.used is None:
            heads = np.arange(universe.n_heads)
        else:
            heads = np.flatnonzero(self.used[first : first + universe.n_heads])
        if len(heads):
            query, key, value = self._project(own, reads.readers, own.attention_norm(reads.seen))
            query, key = self._rotate(query, slice(None)), self._rotate(key, slice(None))
            mixed = self._attend(own, heads, query, key, value, 0)
            later = slice(self.first, None)
            self._heads[layer] = _Heads(
                heads=heads, query=query[:, :, later], key=key, value=value, mixed=mixed[:, :, later]
            )
            weights = self._output(own, heads)
            moved = mixed - self._whole(ablated)[torch.from_numpy(heads).to(mixed.device)]
            for place, head in enumerate(heads):
                deltas[first + int(head)] = moved[place] @ weights[place]
        if self.kept is not None:
            return self._whole(attention[layer])
        said = mixed.permute(1, 2, 0, 3).flatten(-2) @ own.output
        return said if own.output_bias is None else said + own.output_bias

    def _run_mlp(
        self, index: int, block: ReaderBlock, residual: Tensor, deltas: dict[int, Tensor], ablated: Tensor
    ) -> Tensor:
        own, writer = self.bound.blocks[block.layer], self.universe.mlp_writer(block.layer)
        reads = self._read(index, block, residual, deltas)
        said = None
        if len(reads.readers):
            said = own.mlp(own.mlp_norm(reads.seen[0]))
            self._mlps[block.layer] = said[:, self.first :]
            deltas[writer] = said - self._whole(ablated)
        return self._whole(ablated) if self.kept is not None or said is None else said

    # ---------------------------------------------------------------- parts of a layer

    def _kinds(self, readers: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """For queries, keys and values: rows of the block's running readers, and which reader of the kind each is."""
        n_heads, n_kv = self.universe.n_heads, self.universe.n_kv_readers
        if not n_kv:
            return [(kind, np.arange(len(readers)), readers) for kind in (0, 1, 2)]
        starts = (0, n_heads, n_heads + n_kv, n_heads + 2 * n_kv)
        found = []
        for kind in (0, 1, 2):
            rows = np.flatnonzero((readers >= starts[kind]) & (readers < starts[kind + 1]))
            found.append((kind, rows, readers[rows] - starts[kind]))
        return found

    @property
    def _n_kv(self) -> int:
        return self.universe.n_kv_readers or self.universe.n_heads

    def _project(self, own: BoundBlock, readers: np.ndarray, normed: Tensor) -> list[Tensor]:
        """Queries, keys and values before rotation, by running reader `[reader … seq d_head]`."""
        projections = (own.query, own.key, own.value)
        if self.kept is None:
            flat = normed[0].flatten(0, -3)
            found = [project(flat, projection) for projection in projections]
            found[1:] = [to_query_heads(part, self._n_kv) for part in found[1:]]
            return [part.unflatten(1, normed.shape[1:-2]) for part in found]
        return [
            _by_head(normed[rows], projections[kind], which, self.universe.n_heads if kind == 0 else self._n_kv)
            for kind, rows, which in self._kinds(readers)
        ]

    def _rotate(self, x: Tensor, positions: slice) -> Tensor:
        if self.rotary is None or self.bound.rotate is None:
            return x
        at = (self.rotary[0][:, positions], self.rotary[1][:, positions])
        flat = x.flatten(1, -3)
        return self.bound.rotate(flat, flat[:0], at)[0].view(x.shape)

    def _attend(
        self, own: BoundBlock, heads: np.ndarray, query: Tensor, key: Tensor, value: Tensor, first: int
    ) -> Tensor:
        """What heads gather from the position `first` on; keys and values by running key-value reader."""
        group = self.universe.n_heads // self._n_kv
        every = np.arange(self._n_kv) if self.kept is None else np.unique(heads // group)
        served = torch.from_numpy(np.searchsorted(every, heads // group)).to(key.device)
        shape = query.shape
        query, key, value = (part.flatten(1, -3) for part in (query, key[served], value[served]))
        mask = None
        if self.shape.causal and first:
            mask = torch.ones(self.n_seq, self.n_seq, dtype=torch.bool, device=key.device).tril()[None, None, first:]
        mixed = attend(query, key, value, mask, causal=self.shape.causal, scale=own.scale)
        return mixed.view(shape)

    def _output(self, own: BoundBlock, heads: np.ndarray) -> Float[Tensor, "head d_head d_model"]:
        output = own.output.unflatten(0, (self.shape.n_heads, -1))
        return output[torch.from_numpy(heads).to(output.device)]

    def _logits(self, seen: Float[Tensor, "cut prompt seq d_model"]) -> Float[Tensor, "cut asked d_vocab"]:
        """Logits at the asked positions, from what is seen at the last positions or at all."""
        n_seq = seen.shape[-2]
        prompt, position = self.asked // self.n_seq, self.asked % self.n_seq - (self.n_seq - n_seq)
        at = seen.flatten(1, 2).index_select(1, prompt * n_seq + position)
        return self.bound.unembed(self.bound.final_norm(at))

    # ---------------------------------------------------------------- with cuts

    @torch.no_grad()
    def with_cuts(self, cuts: Sequence[Cut]) -> Float[Tensor, "cut asked d_vocab"]:
        """Run with each cut alone, all of them in one batch.

        Args:
            cuts: Of kept edges, or of writers with kept edges; near each other they share the most.

        Returns:
            The logits at the asked positions, cut by cut.
        """
        return _CutPass(self, cuts).logits()


class _CutPass:
    """Changes that some cuts make, block after block."""

    def __init__(self, runs: CutRuns, cuts: Sequence[Cut]) -> None:
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
                said = self._mlp(index, block)
                if universe.block_order == "parallel":
                    self.total = held
                if said is not None:
                    self._add(universe.mlp_writer(block.layer), said)
            else:
                reads = self.runs._reads[index]
                rows, seen = self._seen(index, block, reads)
                if not len(rows):
                    return self.runs.logits.expand(len(self.cuts), *self.runs.logits.shape)
                return self.runs._logits(seen[0])
        raise AssertionError("no block of logits")

    # ---------------------------------------------------------------- reading

    def _of_edges(self, block: ReaderBlock) -> list[tuple[int, int, Tensor]]:
        """Cut edges into the block: which cut, which reader within the block, and what it no longer sees."""
        found = []
        for place, cut in enumerate(self.cuts):
            if cut.reader is not None and block.first_reader <= cut.reader < block.first_reader + block.n_readers:
                found.append((place, cut.reader - block.first_reader, self.runs._said[cut.writer]))
        return found

    def _moved_rows(self, block: ReaderBlock, reads: _Reads) -> np.ndarray:
        """Rows that see a change."""
        cut = [reader for _, reader, _ in self._of_edges(block)]
        if reads.gates is None:
            return np.arange(len(reads.readers)) if self.total is not None or cut else np.empty(0, dtype=int)
        moved = np.isin(reads.readers, cut)
        writers = [writer for writer in self.slots if writer < block.n_writers]
        if writers:
            moved |= reads.gates[:, writers].any(1)
        return np.flatnonzero(moved)

    def _seen(self, index: int, block: ReaderBlock, reads: _Reads) -> tuple[np.ndarray, Tensor]:
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
                _add(seen, reads.gates[rows][:, self.slots[:n_slots]], self.changes[:n_slots])
        cuts = self._of_edges(block)
        if cuts and (reads.gates is not None or block.kind != "attention"):
            seen = seen.clone() if reads.gates is None else seen
            place_of = {int(reads.readers[row]): place for place, row in enumerate(rows)}
            for place, reader, delta in cuts:
                seen[place_of[reader], place] -= delta
        return rows, seen

    # ---------------------------------------------------------------- blocks

    def _heads(self, index: int, block: ReaderBlock) -> None:
        runs, layer = self.runs, block.layer
        kept, own = runs._heads.get(layer), runs.bound.blocks[layer]
        first = runs.universe.first_head(layer)
        if kept is not None:
            reads = runs._reads[index]
            rows, seen = self._seen(index, block, reads)
            if len(rows):
                query, key, value, moved = self._projected(block, reads, rows, seen, kept)
                heads = np.flatnonzero(moved)
                picked = torch.from_numpy(heads).to(query.device)
                mixed = runs._attend(own, kept.heads, query, key, value, runs.first)
                changed = mixed[picked] - kept.mixed[picked][:, None]
                if reads.gates is None:
                    said = changed.permute(1, 2, 3, 0, 4).flatten(-2) @ own.output
                    self.total = said if self.total is None else self.total + said
                else:
                    weights = runs._output(own, kept.heads[heads])
                    said = (changed.flatten(1, -2) @ weights).view(len(heads), *self.size)
                    for place, head in enumerate(kept.heads[heads]):
                        self._add(first + int(head), said[place])
        for place, cut in enumerate(self.cuts):
            if cut.reader is None and first <= cut.writer < first + runs.universe.n_heads:
                self._silence(place, cut.writer)

    def _projected(
        self, block: ReaderBlock, reads: _Reads, rows: np.ndarray, seen: Tensor, kept: _Heads
    ) -> tuple[Tensor, Tensor, Tensor, np.ndarray]:
        """Queries from the first position on, keys and values at all; and which heads see a change `[head]`."""
        runs, own, later = self.runs, self.runs.bound.blocks[block.layer], slice(self.runs.first, None)
        normed = own.attention_norm(seen)
        n_cuts = len(self.cuts)
        if reads.gates is None:
            made = runs._project(own, reads.readers, normed)
            self._cut_single_readers(block, seen, made)
            query, key, value = made
            moved = np.ones(len(kept.heads), dtype=bool)
            query, key = runs._rotate(query, later), runs._rotate(key, later)
            return query, _joined(kept.key, key, runs.first), _joined(kept.value, value, runs.first), moved
        made = runs._project(own, reads.readers[rows], normed)
        kinds = runs._kinds(reads.readers[rows])
        group = runs.universe.n_heads // runs._n_kv
        kv_readers = np.unique(kept.heads // group)
        moved = np.isin(kept.heads, kinds[0][2])
        moved |= np.isin(kept.heads // group, np.concatenate([kinds[1][2], kinds[2][2]]))
        found = []
        for (kind, _, which), base, own_part in zip(kinds, (kept.query, kept.key, kept.value), made, strict=True):
            part = base[:, None].expand(base.shape[0], n_cuts, *base.shape[1:])
            if len(which):
                turned = own_part if kind == 2 else runs._rotate(own_part, later)
                places = np.searchsorted(kept.heads if kind == 0 else kv_readers, which)
                part = part.clone()
                part[torch.from_numpy(places).to(part.device), ..., part.shape[-2] - turned.shape[-2] :, :] = turned
            found.append(part)
        return found[0], found[1], found[2], moved

    def _cut_single_readers(self, block: ReaderBlock, seen: Tensor, made: list[Tensor]) -> None:
        """In the full model: readers of a cut edge see the shared sum without its writer."""
        runs, own = self.runs, self.runs.bound.blocks[block.layer]
        for place, reader, delta in self._of_edges(block):
            normed = own.attention_norm(seen[0, place] - delta)[None]
            for kind, _, which in runs._kinds(np.array([reader])):
                if len(which):
                    projection = (own.query, own.key, own.value)[kind]
                    n_readers = runs.universe.n_heads if kind == 0 else runs._n_kv
                    made[kind][int(which[0]), place] = _by_head(normed, projection, which, n_readers)[0]

    def _mlp(self, index: int, block: ReaderBlock) -> Tensor | None:
        """What the MLP says beyond what it said, for the cuts that it sees; None where it sees none."""
        runs, own = self.runs, self.runs.bound.blocks[block.layer]
        writer = runs.universe.mlp_writer(block.layer)
        silenced = [p for p, cut in enumerate(self.cuts) if cut.reader is None and cut.writer == writer]
        reads = runs._reads[index]
        if not len(reads.readers):
            return None
        rows, seen = self._seen(index, block, reads)
        change: Tensor | None = None
        if len(rows):
            change = own.mlp(own.mlp_norm(seen[0].flatten(0, 1))).view(self.size) - runs._mlps[block.layer]
        if silenced:
            change = reads.seen.new_zeros(self.size) if change is None else change
            for place in silenced:
                change[place] = -runs._said[writer]
        return change

    # ---------------------------------------------------------------- writing

    def _add(self, writer: int, change: Tensor) -> None:
        """Note what a writer says beyond what it said; writers come in their order."""
        if self.runs.kept is None:
            self.total = change if self.total is None else self.total + change
            return
        if self.changes is None:
            assert self.runs.used is not None
            first = self.runs.universe.first_head(max(0, int(self.runs.universe.writer_layers[writer])))
            self.changes = change.new_empty(int(self.runs.used[first:].sum()), *self.size)
        self.changes[len(self.slots)] = change
        self.slots.append(writer)

    def _silence(self, place: int, writer: int) -> None:
        """Let a head say its ablation value in one cut's rows, in which nothing has changed yet."""
        runs = self.runs
        if writer not in runs._said:
            return
        gone = -runs._said[writer]
        if runs.kept is None:
            self.total = gone.new_zeros(self.size) if self.total is None else self.total.clone()
            self.total[place] = gone
            return
        if writer not in self.slots:
            self._add(writer, gone.new_zeros(self.size))
        assert self.changes is not None
        self.changes[self.slots.index(writer)][place] = gone


def _used(universe: Universe, kept: np.ndarray) -> np.ndarray:
    """Writers with a kept edge into a reader that leads to the logits `[writer]`."""
    reaching = readers_reaching(universe, kept)
    used = np.zeros(universe.n_writers, dtype=bool)
    for block in universe.blocks:
        rows = kept[block.edges].reshape(block.n_readers, block.n_writers)
        used[: block.n_writers] |= rows[reaching[block.first_reader : block.first_reader + block.n_readers]].any(0)
    return used


def _add(seen: Tensor, gates: np.ndarray, changes: Tensor) -> None:
    """Add what rows read of some writers to what they see, in place `[row …]`, `[row writer]` and `[writer …]`."""
    coefficients = torch.from_numpy(gates).to(seen.device, seen.dtype)
    add_mixed(seen.flatten(1, -2), coefficients, changes.flatten(1, -2), gates.astype(np.float64))


def _by_head(normed: Tensor, projection: Projection, which: np.ndarray, n_readers: int) -> Tensor:
    """Each row through the weights of the head that it is of `[row … d_head]`."""
    heads = torch.from_numpy(which // (n_readers // projection.n_heads)).to(normed.device)
    said = torch.bmm(normed.flatten(1, -2), projection.per_head[heads])
    if projection.bias_per_head is not None:
        said = said + projection.bias_per_head[heads][:, None]
    return said.view(*normed.shape[:-1], said.shape[-1])


def _joined(base: Tensor, new: Tensor, first: int) -> Tensor:
    """What was said before the first position that can change, then what is said now `[reader cut prompt seq …]`."""
    if not first:
        return new
    before = base[:, None, :, :first].expand(base.shape[0], new.shape[1], *base.shape[1:2], first, base.shape[-1])
    return torch.cat([before, new], -2)
