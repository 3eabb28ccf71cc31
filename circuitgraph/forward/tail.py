"""A circuit that is pruned from behind, run from one reader on, for many inputs of that reader at once.

A search such as ACDC goes through the readers from the last to the first. While it looks at one reader, all edges into
the readers before it are kept, so that what lies before is the full model and never changes; what lies behind is pruned
already, so that few readers there are left to run. `circuitgraph.forward.pruned_behind` holds the outputs of
writers in the circuit as it is; a `Tail` is all that one reader can change in it:

1. writers that the reader feeds, directly or along kept edges, are *changed*; only readers of those are run again, and
   only if they lead to the logits;
2. of what such a reader sees, the part that does not change is added up once, `r̃ + Σ_w Δ_w` over its kept, unchanged
   writers (`Δ_w = y_w − ỹ_w`, see `circuitgraph.forward.stream.stream`);
3. a writer that no key or value depends on is run at the asked positions alone;
4. each input of the reader then costs the changed writers of those readers, and no more.

Prompts are of one length, without padding, as in `circuitgraph.forward.uncut`. Plain torch, without gradients; the
values are those of `CompiledModel.masked` but for rounding.

Axes: `row` a reader of a block, `given` one of the inputs that are run at once, `cell` a position of a prompt (from the
first one on that can change, or only the asked ones), `slot` a changed writer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitgraph.forward.attention import attend, windowed
from circuitgraph.forward.engine.choose import engine_for
from circuitgraph.forward.engine.coefficients import Coefficients
from circuitgraph.forward.pruned_behind import ASKED, EVERYWHERE, PrunedBehind
from circuitgraph.forward.uncut import by_head
from circuitgraph.graph.block import Block
from circuitgraph.graph.liveness import backward_reach, forward_reach, the_logits


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rows:
    """Readers of a block that see a changed writer, run at the same cells.

    Attributes:
        readers: Which, as indices within the block.
        constant: What they see of writers that do not change `[row cell d_model]`.
        slots: Which changed writers of the level each reads `[row slot]`.
    """

    readers: np.ndarray
    constant: Tensor
    slots: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class _Step:
    """What runs at a block.

    Attributes:
        index: Of the block.
        rows: By level; no entry where there are none.
        written: Changed writers of the block by level, as indices within what it writes.
    """

    index: int
    rows: dict[str, _Rows]
    written: dict[str, np.ndarray]


class Tail:
    """All that one reader can change in a circuit.

    Args:
        state: The circuit as it is.
        kept: Booleans `[edge]`: its edges; all of those into readers before this one.
        reader: The reader.

    Attributes:
        level: At which cells the reader is run.
    """

    @torch.no_grad()
    def __init__(self, state: PrunedBehind, kept: Bool[np.ndarray, " edge"], reader: int) -> None:
        self.state, self.universe = state, state.universe
        universe = state.universe
        firsts = [block.first_reader for block in universe.blocks]
        self.index = int(np.searchsorted(firsts, reader, side="right")) - 1
        self.block = universe.blocks[self.index]
        self.row = reader - self.block.first_reader
        used_readers, self._used = backward_reach(universe, kept, readers=the_logits(universe))
        elsewhere = np.concatenate([block.elsewhere for block in universe.blocks]) & used_readers
        everywhere, self._everywhere = backward_reach(universe, kept, readers=elsewhere)
        self.level = EVERYWHERE if everywhere[reader] else ASKED
        own = np.arange(self.block.n_readers) == self.row
        begins = np.zeros(universe.n_writers, dtype=bool)
        begins[self.block.written] = self.block.fed(own)
        reached, changed = forward_reach(universe, kept, writers=begins & self._used)
        self.changed = np.flatnonzero(changed & self._used)
        self._first = _Step(index=self.index, rows={}, written=self._levels(self.block, self.block.fed(own)))
        self._steps = [
            step
            for index in range(self.index + 1, len(universe.blocks))
            if (step := self._step(index, kept, reached & used_readers, everywhere)) is not None
        ]

    def _levels(self, block: Block, fed: np.ndarray) -> dict[str, np.ndarray]:
        """The block's changed writers by level."""
        live = fed & self._used[block.written]
        all_cells = self._everywhere[block.written]
        found = {EVERYWHERE: np.flatnonzero(live & all_cells), ASKED: np.flatnonzero(live & ~all_cells)}
        return {level: writers for level, writers in found.items() if len(writers)}

    def _slots(self, level: str, n_writers: int) -> np.ndarray:
        """Changed writers that are known at a level's cells, of the first writers."""
        writers = self.changed[self.changed < n_writers]
        return writers if level == ASKED else writers[self._everywhere[writers]]

    def _step(self, index: int, kept: np.ndarray, running: np.ndarray, everywhere: np.ndarray) -> _Step | None:
        block, state = self.universe.blocks[index], self.state
        own = running[block.readers]
        if not own.any():
            return None
        gates, rows = block.matrix(kept), {}
        for level in (EVERYWHERE, ASKED):
            readers = np.flatnonzero(own & (everywhere[block.readers] == (level == EVERYWHERE)))
            if not len(readers):
                continue
            slots = self._slots(level, block.n_writers)
            unchanged = gates[readers].copy()
            unchanged[:, slots] = False
            delta = state.deltas[level][: block.n_writers]
            constant = delta.new_empty(len(readers), *delta.shape[1:])
            _mix(constant, state.ablated(index, level), unchanged, delta)
            rows[level] = _Rows(readers=readers, constant=constant, slots=gates[readers][:, slots])
        return _Step(index=index, rows=rows, written=self._levels(block, block.fed(own)))

    # ---------------------------------------------------------------- what the reader sees

    @property
    def seen(self) -> Float[Tensor, "cell d_model"]:
        """What the reader sees where all edges into it are kept."""
        return self.state.at(self.level, self.state.run.reads[self.index].seen[0].flatten(0, 1))

    def of_writers(self, writers: Sequence[int] | np.ndarray) -> Float[Tensor, "writer cell d_model"]:
        """What the reader no longer sees of writers whose edge into it is cut."""
        delta = self.state.deltas[self.level]
        return delta[torch.as_tensor(np.asarray(writers), device=delta.device)]

    # ---------------------------------------------------------------- running

    @torch.no_grad()
    def final(
        self, seen: Float[Tensor, "given cell d_model"], *, settle: bool = False
    ) -> Float[Tensor, "given asked d_model"]:
        """Run the circuit with what the reader sees, several of them at once.

        Args:
            seen: At the cells of the reader's level.
            settle: Whether the circuit is to be so from now on; of a single one.

        Returns:
            What the logits read; see `PrunedBehind.unembed`.
        """
        assert not settle or len(seen) == 1
        state, n = self.state, len(seen)
        if self.block.kind == "logits":
            return seen
        width = seen.shape[-1]
        self._filled: list[int] = []
        self._changes = {
            level: state.room(level, len(self._slots(level, self.universe.n_writers)), n * state.n_cells(level), width)
            for level in (EVERYWHERE, ASKED)
        }
        self._run(self._first, {self.level: (np.array([self.row]), seen[None])}, n, settle)
        for step in self._steps:
            read = {level: (rows.readers, self._read(level, rows, n)) for level, rows in step.rows.items()}
            if self.universe.blocks[step.index].kind == "logits":
                return read[ASKED][1][0]
            self._run(step, read, n, settle)
        raise AssertionError("the reader leads to the logits")

    def _read(self, level: str, rows: _Rows, n: int) -> Float[Tensor, "row given cell d_model"]:
        n_rows, n_cells, width = rows.constant.shape
        seen = self.state.room(f"seen {level}", n_rows, n, n_cells, width)
        seen.copy_(rows.constant[:, None].expand(-1, n, -1, -1))
        into = seen.view(n_rows, n * n_cells, width)
        _mix(into, into, rows.slots, self._changes[level][: rows.slots.shape[1]])
        return seen

    def _run(self, step: _Step, read: dict[str, tuple[np.ndarray, Tensor]], n: int, settle: bool) -> None:
        """Run the changed writers of a block, and keep their outputs."""
        block = self.universe.blocks[step.index]
        if block.kind == "mlp":
            own = self.state.bound.blocks[block.layer]
            (level, (_, seen)) = next(iter(read.items()))
            ablated = self.state.at(level, self.state.grid(tuple(self.state.values.mlps)[block.layer]))
            self._write(block.first_written, level, own.mlp(own.mlp_norm(seen[0])) - ablated, settle)
            return
        for level, heads, delta in _Layer(self.state, block.layer, read, n, settle).deltas(step.written):
            for place, head in enumerate(heads):
                self._write(block.first_written + int(head), level, delta[place], settle)

    def _write(self, writer: int, level: str, delta: Float[Tensor, "given cell d_model"], settle: bool) -> None:
        """Keep a writer's delta."""
        state = self.state
        parts = {ASKED: state.at(ASKED, delta) if level == EVERYWHERE else delta}
        if level == EVERYWHERE:
            parts[level] = delta
        for where, part in parts.items():
            slot = int(np.searchsorted(self._slots(where, self.universe.n_writers), writer))
            self._changes[where][slot] = part.flatten(0, 1)
            if settle:
                state.deltas[where][writer] = part[0]


class _Layer:
    """One layer's heads, of which some readers see something else.

    Args:
        state: The circuit as it is.
        layer: The layer.
        read: By level, readers within the block and what they see `[row given cell d_model]`.
        n: How many are run at once.
        settle: Whether the circuit is to be so from now on.
    """

    def __init__(
        self, state: PrunedBehind, layer: int, read: dict[str, tuple[np.ndarray, Tensor]], n: int, settle: bool
    ) -> None:
        self.state, self.run, self.layer, self.n = state, state.run, layer, n
        self.own = own = state.bound.blocks[layer]
        self.kept = state.run.heads[layer]
        n_heads, n_kv = state.universe.n_heads, self.run.n_kv
        self.new: list[dict[str, tuple[np.ndarray, Tensor]]] = [{}, {}, {}]
        for level, (readers, seen) in read.items():
            normed = own.attention_norm(seen)
            for kind, rows, which in self.run.kinds(readers):
                if not len(rows):
                    continue
                projection, of = (own.query, own.key, own.value)[kind], (n_heads if kind == 0 else n_kv)
                made = by_head(normed[torch.from_numpy(rows).to(normed.device)], projection, which, of)
                self.new[kind][level] = (which, self._prepared(kind, which, made, level))
        if settle:
            self._settle()

    def _prepared(
        self, kind: int, which: np.ndarray, x: Float[Tensor, "row given cell d_head"], level: str
    ) -> Float[Tensor, "row given cell d_head"]:
        state, first = self.state, self.run.first
        if level == ASKED:
            return self.run.prepare(self.own, kind, which, x, state.asked_at + first)
        grid = x.unflatten(2, (state.n_prompts, state.n_later))
        return self.run.prepare(self.own, kind, which, grid, slice(first, None)).flatten(2, 3)

    def _settle(self) -> None:
        """Keep queries, keys and values."""
        later = slice(self.run.first, None)
        for kind, held in enumerate((self.kept.query, self.kept.key, self.kept.value)):
            for level, (which, made) in self.new[kind].items():
                for place, reader in enumerate(which):
                    if level == ASKED:
                        held[reader, self.state.asked_prompt, self.state.asked_at] = made[place, 0]
                    else:
                        part = made[place, 0].unflatten(0, (self.state.n_prompts, self.state.n_later))
                        held[reader, :, later if kind else slice(None)] = part

    def deltas(self, written: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray, Tensor]]:
        """The deltas of heads, by level `[head given cell d_model]`."""
        found = []
        for level, heads in written.items():
            mixed = self._gathered(level, heads)
            moved = mixed - self.state.ablated_heads(self.layer, heads, level)[:, None]
            weights = self.run.output_of(self.own, heads)
            delta = torch.bmm(moved.flatten(1, 2), weights)
            found.append((level, heads, delta.view(*moved.shape[:-1], delta.shape[-1])))
        return found

    def _gathered(self, level: str, heads: np.ndarray) -> Float[Tensor, "head given cell d_head"]:
        """What heads gather at the cells of a level."""
        state, run = self.state, self.run
        kv = heads // (state.universe.n_heads // run.n_kv)
        query = self._taken(0, heads, level)
        key, value = (self._taken(kind, kv, level) for kind in (1, 2))
        same = max(query.shape[1], key.shape[1], value.shape[1])
        if level == EVERYWHERE:
            query = query.unflatten(2, (state.n_prompts, state.n_later))
            mask = self._mask(torch.arange(run.first, run.n_seq, device=query.device))
        else:
            query = query[..., None, :]
            key, value = (part[:, :, state.asked_prompt] for part in (key, value))
            mask = self._mask(state.asked_at + run.first)
            mask = None if mask is None else mask[:, None].repeat(same, 1, 1)
        query, key, value = (part.expand(-1, same, -1, -1, -1).flatten(1, 2) for part in (query, key, value))
        if mask is not None:
            mask = mask[None] if level == ASKED else mask[None, None]
        mixed = attend(query, key, value, mask, causal=False, attention=self.own.attention, heads=heads)
        mixed = self.own.settled(mixed.view(len(heads), same, -1, mixed.shape[-1]))
        return mixed.expand(-1, self.n, -1, -1)

    def _mask(self, at: Tensor) -> Bool[Tensor, "asking seq"] | None:
        """Which positions are seen from some; None where all are."""
        seen = None
        if self.run.shape.causal:
            seen = (torch.arange(self.run.n_seq, device=at.device) <= at[:, None])[None, None]
        seen = windowed(seen, self.own.attention, self.run.n_seq, at.device, at=at[None])
        return None if seen is None else seen[0, 0]

    def _taken(self, kind: int, which: np.ndarray, level: str) -> Tensor:
        """Queries at a level's cells, or keys or values at all positions; of all that are run, or one for all."""
        held = (self.kept.query, self.kept.key, self.kept.value)[kind][torch.from_numpy(which)]
        if kind == 0:
            held = self.state.at(level, held.flatten(1, 2))
        held = held[:, None]
        for made_level, (readers, made) in self.new[kind].items():
            if not np.isin(which, readers).any():
                continue
            if kind == 0 and made_level != level:  # a query, key and value in one reader, of a head at asked positions
                made = made[:, :, self.state.asked]
            held = held.expand(-1, self.n, *held.shape[2:]).clone()
            for place, reader in enumerate(which):
                found = np.flatnonzero(readers == reader)
                if len(found) and kind == 0:
                    held[place] = made[found[0]]
                elif len(found):
                    grid = made[found[0]].unflatten(1, (self.state.n_prompts, self.state.n_later))
                    held[place, :, :, self.run.first :] = grid
        return held


def _mix(out: Tensor, base: Tensor, gates: np.ndarray, rows: Tensor) -> None:
    """`out = base + gates @ rows`, of gates that are 0 or 1."""
    host = gates.astype(np.float64)
    coefficients = Coefficients(matrix=torch.from_numpy(host).to(out.device, out.dtype), host=host)
    engine_for(out.device, out.dtype).mix(out, base, coefficients, rows)
