"""Which positions of a batch have to run at all.

A position of a batch is one real token of one prompt, as the flat index `prompt * seq + place`. Three sets matter:

- `reached`: where a writer can differ from its ablation value and still change an asked output. Under
  counterfactual ablation and causal attention that is from the first token in which a prompt differs from
  its counterfactual to its last asked position; elsewhere every delta is exactly 0, or cannot be seen.
- `local`: where the tokens themselves differ. Writers fed by no attention differ nowhere else.
- `asked`: the positions whose logits are asked.

Padding is in none of them, so it is not computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from circuitgraph.batch import TokenBatch
from circuitgraph.transfer import to_device

LOCAL_BELOW = 0.8
"""Local positions are a set of their own where they are fewer than this share of the reached ones."""


class Positions:
    """A set of positions, in a fixed order.

    Args:
        host: Flat indices.
        shape: Prompts and tokens of the batch.
        device: Where activations lie.
    """

    def __init__(self, host: np.ndarray, shape: tuple[int, int], device: torch.device) -> None:
        self.host, self.shape, self.device = host, shape, device
        n = shape[0] * shape[1]
        self.is_grid = len(host) == n and bool((host == np.arange(n)).all())
        self._places: dict[int, tuple[Tensor | None, Tensor | None]] = {}

    def __len__(self) -> int:
        return len(self.host)

    @cached_property
    def index(self) -> Int[Tensor, " position"]:
        """The flat indices on the device."""
        return to_device(self.host, self.device)

    def of(self, value: Tensor) -> Tensor:
        """A value at these positions.

        Args:
            value: `[… batch seq width]`; axes of size 1 broadcast.

        Returns:
            `[… position width]`, or `[… 1 width]` where the value is the same everywhere.
        """
        batch, seq = value.shape[-3:-1]
        if batch == seq == 1 and self.shape != (1, 1):
            return value[..., 0, :]
        grid = value.expand(*value.shape[:-3], *self.shape, value.shape[-1]).flatten(-3, -2)
        return grid if self.is_grid else grid.index_select(-2, self.index)

    def places(self, target: Positions) -> tuple[Tensor | None, Tensor | None]:
        """Where the positions of `target` are found among these.

        Returns:
            Where each found position stands here, None if all do in this order; and where it stands in
            `target`, None if every one of its positions was found.
        """
        if target is self:
            return None, None
        if id(target) not in self._places:
            order = np.argsort(self.host, kind="stable")
            at = np.searchsorted(self.host, target.host, sorter=order).clip(max=max(len(self) - 1, 0))
            found = self.host[order[at]] == target.host if len(self) else np.zeros(len(target), dtype=bool)
            source = order[at][found] if len(self) else np.zeros(0, dtype=np.int64)
            here = to_device(source, self.device)
            there = None if found.all() else to_device(np.flatnonzero(found), self.device)
            self._places[id(target)] = (here, there)
        return self._places[id(target)]

    def move(self, value: Tensor, target: Positions) -> Tensor:
        """Take a value over to other positions; 0 where it has none.

        Args:
            value: `[… position width]` at these positions.
            target: The positions to take it to.

        Returns:
            `[… target_position width]`.
        """
        source, where = self.places(target)
        picked = value if source is None else value.index_select(-2, source)
        if where is None:
            return picked
        zeros = picked.new_zeros(*picked.shape[:-2], len(target), picked.shape[-1])
        return zeros.index_copy(-2, where, picked)


@dataclass(frozen=True, kw_only=True, eq=False)
class PositionSets:
    """The positions of one pass.

    Attributes:
        grid: All positions, padding included.
        reached: See the module.
        local: See the module; None where it would save little.
        asked: The asked positions, in the order asked.
        spans: The reached and asked positions of each span, by the name of its stream; none without spans.
    """

    grid: Positions
    reached: Positions
    local: Positions | None
    asked: Positions
    spans: Mapping[str, Positions] = field(default_factory=dict)

    def __getitem__(self, stream: str) -> Positions:
        return self.spans[stream] if stream in self.spans else getattr(self, stream)

    def joined(self, names: Sequence[str]) -> Positions:
        """The positions of several spans, one span after the other."""
        hosts = [self.spans[name].host for name in names]
        return Positions(np.concatenate(hosts), self.grid.shape, self.grid.device)

    def divided(self, span_ids: np.ndarray, names: Sequence[str]) -> PositionSets:
        """The same with the positions of each span.

        Args:
            span_ids: The span of every position `[batch seq]`, -1 at padding.
            names: The spans' streams, in their order.
        """
        needed = np.union1d(self.reached.host, self.asked.host)
        at = span_ids.ravel()[needed]
        shape, device = self.grid.shape, self.grid.device
        spans = {name: Positions(needed[at == place], shape, device) for place, name in enumerate(names)}
        return replace(self, spans=spans)


def position_sets(
    batch: TokenBatch,
    *,
    causal: bool,
    real: np.ndarray,
    asked: np.ndarray,
    differs: np.ndarray | None,
    separate_local: bool = True,
) -> PositionSets:
    """Find the positions of a batch.

    Args:
        batch: The prompts.
        causal: Whether a position sees only earlier ones.
        real: Booleans `[batch seq]`: no padding.
        asked: Flat indices of the asked positions.
        differs: Booleans `[batch seq]`: where the tokens differ from those of the ablated run; None if the
            ablation is no run on other tokens.
        separate_local: Whether local positions may be a set of their own.

    Returns:
        The sets.
    """
    n_prompts, seq = real.shape
    reached = real.copy()
    if causal:
        last = np.full(n_prompts, -1)
        np.maximum.at(last, asked // seq, asked % seq)
        reached &= np.arange(seq) <= last[:, None]
        if differs is not None:
            reached &= np.logical_or.accumulate(differs & real, axis=1)
    elif differs is not None:
        reached &= (differs & real).any(1, keepdims=True)

    def positions(flags: np.ndarray) -> Positions:
        return Positions(np.flatnonzero(flags), (n_prompts, seq), batch.input_ids.device)

    asked_positions = Positions(asked, (n_prompts, seq), batch.input_ids.device)
    found = positions(reached) if reached.any() else asked_positions
    local = None
    if differs is not None and separate_local:
        same_token = positions(reached & differs)
        if 0 < len(same_token) < LOCAL_BELOW * len(found):
            local = same_token
    return PositionSets(grid=positions(np.ones_like(real)), reached=found, local=local, asked=asked_positions)
