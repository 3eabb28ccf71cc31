"""Outputs and reads in a circuit that is pruned from behind so far, kept while a search goes from reader to reader.

What lies before the reader that is looked at is the full model, run once (`circuitgraph.forward.uncut`). What lies
behind it changes whenever a reader is done with, and is then put right by `circuitgraph.forward.tail`.

Axes: `cell` a position of a prompt, from the first one on that can change, or only the asked ones.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.architectures.family import BoundModel, ModelShape
from circuitgraph.batch import TokenBatch
from circuitgraph.errors import UnsupportedModelError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.uncut import UncutRun
from circuitgraph.graph.universe import Universe

EVERYWHERE, ASKED = "everywhere", "asked"
"""Levels: cells at which readers and writers are run."""


class PrunedBehind:
    """Outputs and reads in a circuit as it is, pruned so far from behind.

    Args:
        bound: The model's weights.
        shape: The model's sizes.
        universe: Which edges there are.
        batch: Prompts of one length, without padding.
        values: Outputs of ablated writers.

    Attributes:
        logits: The full model's `[asked d_vocab]`.
        deltas: Every writer's output less its ablation value, by where it is wanted `[writer cell d_model]`; of
            a writer that only matters at the asked positions, those alone are kept up to date.

    Raises:
        ConfigurationError: Prompts with padding.
        UnsupportedModelError: Queries or keys of a layer are normed together.
    """

    @torch.no_grad()
    def __init__(
        self, bound: BoundModel, shape: ModelShape, universe: Universe, batch: TokenBatch, values: AblationValues
    ) -> None:
        require_prunable(shape, universe)
        self.run = run = UncutRun(bound, shape, universe, batch, values, kept=None)
        self.bound, self.universe, self.values = bound, universe, values
        self.logits = run.logits
        self.n_prompts, self.n_later = run.n_prompts, run.n_seq - run.first
        prompt, position = run.asked // run.n_seq, run.asked % run.n_seq - run.first
        self.asked_prompt, self.asked_at = prompt, position
        self.asked = prompt * self.n_later + position
        every = torch.stack([run.deltas.pop(writer).flatten(0, 1) for writer in range(universe.n_writers)])
        self.deltas = {EVERYWHERE: every, ASKED: every[:, self.asked]}
        self._ablated = self._residuals()
        self._rooms: dict[str, Tensor] = {}

    def _residuals(self) -> list[Tensor]:
        """The ablated residual stream that each block reads `[cell d_model]`."""
        values, found = self.values, []
        attention, mlps = tuple(values.attention), tuple(values.mlps)
        given = tuple(values.embeddings)
        residual = sum(given[1:], given[0])
        after = residual
        for block in self.universe.blocks:
            reads_heads = block.kind == "mlp" and self.universe.block_order == "sequential"
            found.append(self.grid(after if reads_heads else residual))
            if block.kind == "attention":
                after = residual + attention[block.layer]
            elif block.kind == "mlp":
                residual = after + mlps[block.layer]
        return found

    def grid(self, value: Float[Tensor, "*of #prompt #seq width"]) -> Float[Tensor, "*of cell width"]:
        """Values of all positions, or the same for all, by cell.

        Args:
            value: At all positions.
        """
        whole = value.expand(*value.shape[:-3], self.n_prompts, self.run.n_seq, value.shape[-1])
        return whole[..., self.run.first :, :].flatten(-3, -2)

    def at(self, level: str, value: Tensor) -> Tensor:
        """What is known of every cell `[cell width]`, at the cells of a level."""
        return value if level == EVERYWHERE else value[..., self.asked, :]

    def n_cells(self, level: str) -> int:
        """How many cells a level has."""
        return self.n_prompts * self.n_later if level == EVERYWHERE else len(self.asked)

    def ablated(self, index: int, level: str) -> Float[Tensor, "cell d_model"]:
        """The ablated residual stream that a block reads."""
        return self.at(level, self._ablated[index])

    def ablated_heads(self, layer: int, heads: np.ndarray, level: str) -> Float[Tensor, "head cell d_head"]:
        """What heads gather when they are ablated."""
        ablated = tuple(self.values.heads)[layer]
        return self.at(level, self.grid(ablated[torch.from_numpy(heads).to(ablated.device)]))

    def room(self, name: str, *size: int) -> Tensor:
        """A tensor to write to, valid until the next of that name: large ones are not to be asked for each time."""
        n = int(np.prod(size))
        like = self.deltas[ASKED]
        held = self._rooms.get(name)
        if held is None or len(held) < n:
            held = self._rooms[name] = like.new_empty(n)
        return held[:n].view(size)

    @torch.no_grad()
    def unembed(self, seen: Float[Tensor, "given asked d_model"]) -> Float[Tensor, "given asked d_vocab"]:
        """Logits from what they read."""
        return self.bound.unembed(self.bound.final_norm(seen))


def require_prunable(shape: ModelShape, universe: Universe) -> None:
    """Refuse a model that cannot be pruned from behind.

    Args:
        shape: The model's sizes.
        universe: Which edges there are.

    Raises:
        UnsupportedModelError: Queries or keys of a layer are normed together.
    """
    if shape.normed_together:
        raise UnsupportedModelError(
            f"{universe.family}: queries and keys of a layer's heads are normed together, so that a search reader "
            "by reader would have to run all of them for each; this search does not"
        )
