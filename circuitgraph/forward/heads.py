"""One layer's heads in a masked pass: from what their readers see to what they gather.

Readers run at the positions of their stream, and dead ones not at all. Queries, keys and values are put together
here from those positions and, elsewhere, from the ablated run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitgraph.architectures.family import BoundBlock, BoundModel, ModelShape, Rotaries
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.attention import attend, prepared, rotary_for, windowed
from circuitgraph.forward.engine.rows import pick
from circuitgraph.forward.plan.positions import Positions, PositionSets
from circuitgraph.forward.stream.passing import HeadGroup
from circuitgraph.graph.universe import Universe
from circuitgraph.transfer import to_device


@dataclass(frozen=True, kw_only=True, eq=False)
class AskedGrid:
    """The asked positions, prompt by prompt.

    Attributes:
        rows: Which asked position stands in each place `[batch asked_per_prompt]`; filled up with position 0.
        places: The flat place of each asked position.
        at: Where each place is in its prompt's row `[batch asked_per_prompt]`, on the host.
        mask: Which positions each may see `[1 batch asked_per_prompt seq]`.
        rotaries: Cosines and sines at these places, of each rotary embedding.
    """

    rows: Int[Tensor, "batch most"]
    places: Int[Tensor, " asked"]
    at: np.ndarray
    mask: Bool[Tensor, "1 batch most seq"]
    rotaries: Rotaries


def asked_grid(asked: Positions, real: np.ndarray, *, causal: bool, rotaries: Rotaries) -> AskedGrid:
    """Lay the asked positions out for attention.

    Args:
        asked: The asked positions.
        real: Booleans `[batch seq]`: no padding.
        causal: Whether later positions are hidden.
        rotaries: Cosines and sines at every position `[batch seq rotated]`, of each rotary embedding.
    """
    n_prompts, seq = asked.shape
    prompt, position = asked.host // seq, asked.host % seq
    order = np.argsort(prompt, kind="stable")
    within = np.empty_like(order)
    starts = np.searchsorted(prompt[order], prompt[order])
    within[order] = np.arange(len(order)) - starts
    most = int(within.max(initial=0)) + 1
    rows = np.zeros((n_prompts, most), dtype=np.int64)
    rows[prompt, within] = np.arange(len(order))
    at = np.zeros((n_prompts, most), dtype=np.int64)
    at[prompt, within] = position
    seen = np.broadcast_to(real[:, None, :], (n_prompts, most, seq)).copy()
    if causal:
        seen &= np.arange(seq) <= at[..., None]
    seen |= np.arange(seq) == at[..., None]
    device = asked.device
    turned: Rotaries = ()
    if rotaries:
        flat = to_device(at + seq * np.arange(n_prompts)[:, None], device)
        turned = tuple(
            (cos.expand(n_prompts, seq, -1).flatten(0, 1)[flat], sin.expand(n_prompts, seq, -1).flatten(0, 1)[flat])
            for cos, sin in rotaries
        )
    return AskedGrid(
        rows=to_device(rows, device),
        places=to_device(prompt * most + within, device),
        at=at,
        mask=to_device(seen[None], device),
        rotaries=turned,
    )


def among(rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The places in `rows` of those that are in `chosen`; small non-negative numbers both.

    Examples:
        >>> among(np.array([1, 4, 5]), np.array([5, 1, 0])).tolist()
        [0, 2]
    """
    if not len(rows) or not len(chosen):
        return np.empty(0, dtype=np.int64)
    table = np.zeros(max(int(rows.max()), int(chosen.max())) + 1, dtype=bool)
    table[chosen] = True
    return table[rows].nonzero()[0]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Projections of some readers at some positions.

    Attributes:
        readers: Which heads (or key-value readers) they serve, sorted.
        values: The projections `[reader position d_head]`.
        positions: Where.
    """

    readers: np.ndarray
    values: Float[Tensor, "reader position d_head"]
    positions: Positions


def assemble(
    readers: np.ndarray, target: Positions, parts: list[Part], base: Tensor | None, like: Tensor
) -> Float[Tensor, "reader target d_head"]:
    """Put projections together.

    Args:
        readers: The readers wanted, sorted.
        target: The positions to take them to.
        parts: What was computed; anything for readers that are not wanted is left out.
        base: The ablated run's projections of these readers at these positions, `[reader target d_head]`,
            or None where they are not at hand (then what was not computed is never used).
        like: Gives dtype, device and head size.
    """
    kept = [part for part in (_only(part, readers) for part in parts) if len(part.readers)]
    if len(kept) == 1 and len(kept[0].readers) == len(readers):
        only = kept[0]
        if only.positions.places(target)[1] is None:
            return only.positions.move(only.values, target)
    whole = like.new_zeros(len(readers), len(target), like.shape[-1]) if base is None else base.clone()
    for part in kept:
        source, where = part.positions.places(target)
        values = part.values if source is None else part.values.index_select(1, source)
        if where is None:
            where = torch.arange(len(target), device=whole.device)
        rows = to_device(np.searchsorted(readers, part.readers), whole.device)
        whole = whole.index_put((rows[:, None], where[None]), values)
    return whole


def _only(part: Part, readers: np.ndarray) -> Part:
    rows = among(part.readers, readers)
    return Part(readers=part.readers[rows], values=pick(part.values, rows), positions=part.positions)


class LayerHeads:
    """One layer's heads in one pass.

    Args:
        bound: The model's weights.
        block: The layer's.
        shape: The model's sizes.
        universe: Which readers there are.
        positions: The positions of the pass.
        values: The ablation values; queries, keys and values of an ablated run are used where there are any.
        layer: Which layer.
    """

    def __init__(
        self,
        bound: BoundModel,
        block: BoundBlock,
        shape: ModelShape,
        universe: Universe,
        positions: PositionSets,
        values: AblationValues,
        layer: int,
    ) -> None:
        self.bound, self.block, self.shape, self.universe, self.positions = bound, block, shape, universe, positions
        self.ablated, self.layer = (values.query, values.key, values.value), layer
        self._parts: tuple[list[Part], list[Part], list[Part]] = ([], [], [])
        self._kv: tuple[np.ndarray, Tensor, Tensor] | None = None

    def groups(self, readers: np.ndarray) -> list[HeadGroup]:
        """Which readers of the layer are projected by which weights.

        Args:
            readers: Running readers, as indices within the block.
        """
        n_heads, n_kv = self.universe.n_heads, self.universe.n_kv_readers
        if not n_kv:
            return [self._group(kind, slice(0, len(readers)), readers) for kind in (0, 1, 2)]
        bounds = np.searchsorted(readers, [0, n_heads, n_heads + n_kv, n_heads + 2 * n_kv]).tolist()
        groups = []
        for kind, first in enumerate((0, n_heads, n_heads + n_kv)):
            rows = slice(bounds[kind], bounds[kind + 1])
            if rows.stop > rows.start:
                groups.append(self._group(kind, rows, readers[rows] - first))
        return groups

    def _group(self, kind: int, rows: slice, readers: np.ndarray) -> HeadGroup:
        """Some readers, each projected with its own head's weights."""
        projection = (self.block.query, self.block.key, self.block.value)[kind]
        serves_each = self._n_kv_readers if kind else self.universe.n_heads
        return HeadGroup(
            kind=kind,
            rows=rows,
            readers=readers,
            weights=projection.per_head,
            heads=readers // (serves_each // projection.n_heads),
            bias=projection.bias_per_head,
        )

    def take(self, groups: list[HeadGroup], projected: Sequence[Tensor], positions: Positions) -> None:
        """Take the projections of some readers of the layer.

        Args:
            groups: From `groups`.
            projected: Those of each group's readers `[reader position d_head]`.
            positions: Where.
        """
        for group, values in zip(groups, projected, strict=True):
            self._parts[group.kind].append(Part(readers=group.readers, values=values, positions=positions))

    @property
    def _n_kv_readers(self) -> int:
        return self.universe.n_kv_readers or self.universe.n_heads

    def gather(
        self,
        heads: np.ndarray,
        *,
        all_heads: np.ndarray,
        mask: Tensor | None,
        rotaries: Rotaries,
        asked: AskedGrid | None,
    ) -> Float[Tensor, "head position d_head"]:
        """What some heads gather, before the output projection.

        Args:
            heads: Which, sorted; all of the layer where a norm behind them has them share its scale.
            all_heads: All heads of the layer that run, sorted; keys and values are made once for all.
            mask: From `attention_mask`, for all positions.
            rotaries: Cosines and sines at all positions.
            asked: Where the heads run at the asked positions only, those; None for the reached positions.

        Returns:
            At the reached positions, or at the asked ones.
        """
        if asked is None:
            mixed = self._attended(heads, all_heads, mask, rotaries)
            return self.block.settled(self.positions.grid.move(mixed.flatten(1, 2), self.positions.reached))
        key, value = self._served(heads, all_heads, rotaries)
        attention, seq = self.block.attention, key.shape[2]
        query = assemble(heads, self.positions.asked, self._parts[0], self._base(0, heads, self.positions.asked), key)
        query = self._prepared(0, query[:, asked.rows], asked.rotaries, heads)
        mask = asked.mask
        if attention.window is not None and seq > attention.window:
            mask = windowed(mask, attention, seq, query.device, at=to_device(asked.at, query.device))
        mixed = attend(query, key, value, mask, causal=False, attention=attention, heads=heads)
        return self.block.settled(mixed.flatten(1, 2).index_select(1, asked.places))

    def _served(self, heads: np.ndarray, all_heads: np.ndarray, rotaries: Rotaries) -> tuple[Tensor, Tensor]:
        """Keys and values of some heads, at all positions."""
        key, value = self._keys_and_values(all_heads, rotaries)
        served = np.searchsorted(self._kv[0], heads // (self.universe.n_heads // self._n_kv_readers))  # type: ignore[index]
        return pick(key, served), pick(value, served)

    def _attended(
        self, heads: np.ndarray, all_heads: np.ndarray, mask: Tensor | None, rotaries: Rotaries
    ) -> Float[Tensor, "head batch seq d_head"]:
        """What some heads gather at all positions."""
        key, value = self._served(heads, all_heads, rotaries)
        grid, attention = self.positions.grid, self.block.attention
        query = assemble(heads, grid, self._parts[0], self._base(0, heads, grid), key)
        query = self._prepared(0, query.unflatten(1, grid.shape), rotaries, heads)
        mask = windowed(mask, attention, key.shape[2], query.device)
        return attend(query, key, value, mask, causal=self.shape.causal, attention=attention, heads=heads)

    def gather_at_spans(
        self, heads: Mapping[str, np.ndarray], all_heads: np.ndarray, mask: Tensor | None, rotaries: Rotaries
    ) -> dict[str, Float[Tensor, "head position d_head"]]:
        """What heads gather at several spans, before the output projection.

        Args:
            heads: Which heads run, sorted, by the stream of each span.
            all_heads: All that run anywhere, sorted; they attend once for all spans.
            mask: From `attention_mask`, for all positions.
            rotaries: Cosines and sines at all positions.

        Returns:
            At the positions of each stream.
        """
        grid = self.positions.grid
        mixed = self._attended(all_heads, all_heads, mask, rotaries).flatten(1, 2)
        found = {}
        for name, running in heads.items():
            rows = pick(mixed, among(all_heads, running))
            found[name] = self.block.settled(grid.move(rows, self.positions[name]))
        return found

    def _keys_and_values(self, all_heads: np.ndarray, rotaries: Rotaries) -> tuple[Tensor, Tensor]:
        """Keys and values of every reader that serves a running head, prepared, at all positions."""
        if self._kv is None:
            grid = self.positions.grid
            readers = np.unique(all_heads // (self.universe.n_heads // self._n_kv_readers))
            like = self.block.query.matrix.new_empty(0, self.shape.d_head)
            key, value = (
                assemble(readers, grid, self._parts[kind], self._base(kind, readers, grid), like).unflatten(
                    1, grid.shape
                )
                for kind in (1, 2)
            )
            heads = readers // (self._n_kv_readers // self.block.key.n_heads)
            key, value = (self._prepared(kind, x, rotaries, heads) for kind, x in ((1, key), (2, value)))
            self._kv = (readers, key, value)
        return self._kv[1:]

    def _prepared(self, kind: int, x: Tensor, rotaries: Rotaries, heads: np.ndarray) -> Tensor:
        attention = self.block.attention
        return prepared(attention, kind, x, rotary_for(attention, rotaries), heads=heads)

    def _base(self, kind: int, readers: np.ndarray, target: Positions) -> Tensor | None:
        """The ablated run's projections of some readers."""
        if not self.ablated[kind]:
            return None
        made = self.ablated[kind][self.layer]
        serves_each = self.universe.n_heads if kind == 0 else self._n_kv_readers
        return target.of(pick(made, readers // (serves_each // made.shape[0])))
