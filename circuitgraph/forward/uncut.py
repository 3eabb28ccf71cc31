"""A circuit, or the full model, run once with what its readers saw kept, for `circuitgraph.forward.cuts`.

Only what can change in a cut is kept: positions from the first one on at which a prompt differs from its
counterfactual. In the full model all readers see the same residual stream, so one row stands for them all.

Prompts are of one length, without padding. Plain torch, without gradients; the values are those of
`CompiledModel.masked` but for rounding.

Axes: `row` a reader of a block, `cut` (one, where nothing is cut), `prompt`, `seq` from the first position on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.architectures.family import BoundBlock, BoundModel, ModelShape, Projection, Rotary
from circuitgraph.batch import TokenBatch
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.attention import attend, prepared, rotary_for, windowed
from circuitgraph.forward.engine.choose import engine_for
from circuitgraph.forward.engine.coefficients import Coefficients
from circuitgraph.forward.reference import embed, project, to_query_heads
from circuitgraph.forward.vectors import Vector, said_by_vectors
from circuitgraph.graph.block import Block
from circuitgraph.graph.liveness import backward_reach, the_logits
from circuitgraph.graph.universe import Universe


@dataclass(frozen=True, kw_only=True, eq=False)
class Reads:
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
class Heads:
    """One layer's heads in the run without cuts.

    Attributes:
        heads: Which run.
        query: Prepared `[head prompt seq d_head]`, of the heads that run.
        key: Prepared, at all positions, one per key-value reader.
        value: Likewise.
        mixed: What they gathered `[head prompt seq d_head]`.
    """

    heads: np.ndarray
    query: Tensor
    key: Tensor
    value: Tensor
    mixed: Tensor


class UncutRun:
    """A circuit, or the full model, run without cuts.

    Args:
        bound: The model's weights.
        shape: The model's sizes.
        universe: Which edges there are.
        batch: Prompts of one length, without padding.
        values: Outputs of ablated writers.
        kept: Booleans `[edge]`: the circuit; None for the full model.
        vectors: What is added to the model, in the order of the universe.

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
        vectors: tuple[Vector, ...] = (),
    ) -> None:
        if batch.padded:
            raise ConfigurationError("cuts are run on prompts of one length; these are padded")
        self.bound, self.shape, self.universe, self.values = bound, shape, universe, values
        self.vectors, self._added = vectors, said_by_vectors(vectors, batch, bound.blocks[0].raw_output)
        self.kept = kept
        self.used = None if kept is None else _used(universe, kept)
        self.n_prompts, self.n_seq = batch.input_ids.shape
        self.first = self._first_position(batch)
        embeddings = embed(bound, batch)
        self.rotaries = tuple(rotary(embeddings[0], batch.position_ids[:1]) for rotary in bound.rotaries)
        self.asked = batch.predict_index
        self.deltas: dict[int, Tensor] = {}
        self.reads: dict[int, Reads] = {}
        self.heads: dict[int, Heads] = {}
        self.mlps: dict[int, Tensor] = {}
        self.logits = self._run(embeddings)

    def _first_position(self, batch: TokenBatch) -> int:
        """The first position at which any prompt may differ from its ablated run."""
        ids = self.values.input_ids
        if ids is None or not self.shape.causal:
            return 0
        differs = (batch.input_ids != ids.to(batch.input_ids.device)).any(0)
        for said in self._added:
            differs = differs | said.any(-1).any(0)
        differs = differs.nonzero()
        asked = int((batch.predict_index % self.n_seq).min()) if len(batch.predict_index) else 0
        return min(int(differs[0]) if len(differs) else asked, asked)

    # ---------------------------------------------------------------- without cuts

    def _run(self, embeddings: tuple[Tensor, ...]) -> Tensor:
        """Run the circuit, or the model, and keep what is read and written."""
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
        attention, mlps, heads_ablated = tuple(values.attention), tuple(values.mlps), tuple(values.heads)
        logits: Tensor | None = None
        after = residual
        for index, block in enumerate(universe.blocks):
            if block.kind == "attention":
                residual = self._with_vectors(block.layer, residual, deltas)
                after = residual + self._run_heads(
                    index, block, residual, deltas, heads_ablated[block.layer], attention
                )
                if universe.block_order == "sequential":
                    residual = after
            elif block.kind == "mlp":
                output = self._run_mlp(index, block, residual, deltas, mlps[block.layer])
                residual = (after if universe.block_order == "parallel" else residual) + output
            else:
                reads = self._read(index, block, residual, deltas)
                logits = self.logits_from(reads.seen[:1])[0]
        self.deltas = {writer: delta[:, self.first :] for writer, delta in deltas.items()}
        assert logits is not None
        return logits

    def _with_vectors(self, layer: int, residual: Tensor, deltas: dict[int, Tensor]) -> Tensor:
        """The residual stream with what a layer's vectors say, ablated or not as that stream is; notes their deltas."""
        for place, (writer, own) in enumerate(
            zip(self.universe.vector_writers.tolist(), self.universe.vector_layers, strict=True)
        ):
            if own != layer:
                continue
            said = self._added[place]
            ablated = self._whole(self.values.vectors[place]) if self.values.vectors else torch.zeros_like(said)
            if self._is_used(writer):
                deltas[writer] = said - ablated
            residual = residual + (said if self.kept is None else ablated)
        return residual

    def _whole(self, value: Tensor) -> Tensor:
        """A value at every position of every prompt."""
        return value.expand(*value.shape[:-3], self.n_prompts, self.n_seq, value.shape[-1])

    def _is_used(self, writer: int) -> bool:
        return self.used is None or bool(self.used[writer])

    def _read(self, index: int, block: Block, residual: Tensor, deltas: dict[int, Tensor]) -> Reads:
        """What the block's readers see, kept from the first position on that can change; at all positions here."""
        if self.kept is None:
            readers, gates, seen = np.arange(block.n_readers), None, residual[None]
        else:
            readers = self._readers(block)
            gates = self.kept[block.edges].reshape(block.n_readers, block.n_writers)[readers]
            live = [writer for writer in deltas if writer < block.n_writers and gates[:, writer].any()]
            seen = residual.repeat(len(readers), 1, 1, 1)
            if live:
                add_read(seen, gates[:, live], torch.stack([deltas[writer] for writer in live]))
        self.reads[index] = Reads(readers=readers, seen=seen[:, :, self.first :], gates=gates)
        return Reads(readers=readers, seen=seen, gates=gates)

    def _readers(self, block: Block) -> np.ndarray:
        """The block's readers that run, as indices within it."""
        if self.used is None:
            return np.arange(block.n_readers)
        if block.kind == "logits":
            return np.array([0])
        return np.flatnonzero(block.serving(self.used[block.written]))

    def _run_heads(
        self,
        index: int,
        block: Block,
        residual: Tensor,
        deltas: dict[int, Tensor],
        ablated: Tensor,
        attention: tuple[Tensor, ...],
    ) -> Tensor:
        """Run a layer's heads; gives back what is added to the residual stream, ablated or not as that stream is."""
        layer, universe = block.layer, self.universe
        own, first = self.bound.blocks[layer], block.first_written
        reads = self._read(index, block, residual, deltas)
        heads = np.arange(universe.n_heads) if self.used is None else np.flatnonzero(self.used[block.written])
        if len(heads):
            projected = self.project(own, reads.readers, own.attention_norm(reads.seen))
            kinds = [which for _, _, which in self.kinds(reads.readers)]
            query, key, value = (
                self.prepare(own, kind, which, part, slice(None))
                for kind, (which, part) in enumerate(zip(kinds, projected, strict=True))
            )
            mixed = self.attend(own, heads, query, key, value, 0)
            later = slice(self.first, None)
            self.heads[layer] = Heads(
                heads=heads, query=query[:, :, later], key=key, value=value, mixed=mixed[:, :, later]
            )
            weights = self.output_of(own, heads)
            moved = mixed - self._whole(ablated)[torch.from_numpy(heads).to(mixed.device)]
            for place, head in enumerate(heads):
                deltas[first + int(head)] = moved[place] @ weights[place]
        if self.kept is not None:
            return self._whole(attention[layer])
        output = mixed.permute(1, 2, 0, 3).flatten(-2) @ own.output
        return output if own.output_bias is None else output + own.output_bias

    def _run_mlp(
        self, index: int, block: Block, residual: Tensor, deltas: dict[int, Tensor], ablated: Tensor
    ) -> Tensor:
        own, writer = self.bound.blocks[block.layer], block.first_written
        reads = self._read(index, block, residual, deltas)
        output = None
        if len(reads.readers):
            output = own.mlp(own.mlp_norm(reads.seen[0]))
            self.mlps[block.layer] = output[:, self.first :]
            deltas[writer] = output - self._whole(ablated)
        return self._whole(ablated) if self.kept is not None or output is None else output

    # ---------------------------------------------------------------- parts of a layer

    def kinds(self, readers: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
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
    def n_kv(self) -> int:
        """Key-value readers of a layer."""
        return self.universe.n_kv_readers or self.universe.n_heads

    def project(self, own: BoundBlock, readers: np.ndarray, normed: Tensor) -> list[Tensor]:
        """Queries, keys and values as they are projected, by running reader `[reader … seq d_head]`."""
        projections = (own.query, own.key, own.value)
        if self.kept is None:
            flat = normed[0].flatten(0, -3)
            found = [project(flat, projection) for projection in projections]
            found[1:] = [to_query_heads(part, self.n_kv) for part in found[1:]]
            return [part.unflatten(1, normed.shape[1:-2]) for part in found]
        return [
            by_head(normed[rows], projections[kind], which, self.universe.n_heads if kind == 0 else self.n_kv)
            for kind, rows, which in self.kinds(readers)
        ]

    def prepare(
        self, own: BoundBlock, kind: int, which: np.ndarray, x: Tensor, positions: slice | Tensor
    ) -> Float[Tensor, "reader *row seq d_head"]:
        """Queries, keys or values as scores and sums take them.

        Args:
            own: The layer's weights.
            kind: Queries (0), keys (1) or values (2).
            which: Which readers of the kind they are.
            x: As they are projected `[reader … seq d_head]`.
            positions: Where.
        """
        rotary = rotary_for(own.attention, self.rotaries)
        at: Rotary | None = None if rotary is None else (rotary[0][:, positions], rotary[1][:, positions])
        flat = x.flatten(1, -3)
        n_readers = self.universe.n_heads if kind == 0 else self.n_kv
        times = n_readers // (own.query, own.key, own.value)[kind].n_heads
        return prepared(own.attention, kind, flat, at, heads=which // times).view(x.shape)

    def attend(
        self, own: BoundBlock, heads: np.ndarray, query: Tensor, key: Tensor, value: Tensor, first: int
    ) -> Tensor:
        """What heads gather from the position `first` on; keys and values by running key-value reader."""
        group = self.universe.n_heads // self.n_kv
        every = np.arange(self.n_kv) if self.kept is None else np.unique(heads // group)
        served = torch.from_numpy(np.searchsorted(every, heads // group)).to(key.device)
        shape = query.shape
        query, key, value = (part.flatten(1, -3) for part in (query, key[served], value[served]))
        mask = None
        if self.shape.causal and first:
            mask = torch.ones(self.n_seq, self.n_seq, dtype=torch.bool, device=key.device).tril()[None, None, first:]
        mask = windowed(mask, own.attention, self.n_seq, key.device, at=first)
        mixed = attend(query, key, value, mask, causal=self.shape.causal, attention=own.attention, heads=heads)
        return own.settled(mixed.view(shape))

    def output_of(self, own: BoundBlock, heads: np.ndarray) -> Float[Tensor, "head d_head d_model"]:
        """The output weights of some heads."""
        output = own.output.unflatten(0, (self.shape.n_heads, -1))
        return output[torch.from_numpy(heads).to(output.device)]

    def logits_from(self, seen: Float[Tensor, "cut prompt seq d_model"]) -> Float[Tensor, "cut asked d_vocab"]:
        """Logits at the asked positions, from what is seen at the last positions or at all."""
        n_seq = seen.shape[-2]
        prompt, position = self.asked // self.n_seq, self.asked % self.n_seq - (self.n_seq - n_seq)
        at = seen.flatten(1, 2).index_select(1, prompt * n_seq + position)
        return self.bound.unembed(self.bound.final_norm(at))


def _used(universe: Universe, kept: np.ndarray) -> np.ndarray:
    """Writers with a kept edge into a reader that leads to the logits `[writer]`."""
    return backward_reach(universe, kept, readers=the_logits(universe))[1]


def add_read(seen: Tensor, gates: np.ndarray, changes: Tensor) -> None:
    """Add what rows read of some writers to what they see, in place `[row …]`, `[row writer]` and `[writer …]`."""
    host = gates.astype(np.float64)
    coefficients = Coefficients(matrix=torch.from_numpy(host).to(seen.device, seen.dtype), host=host)
    into = seen.flatten(1, -2)
    engine_for(seen.device, seen.dtype).mix(into, into, coefficients, changes.flatten(1, -2).contiguous())


def by_head(normed: Tensor, projection: Projection, which: np.ndarray, n_readers: int) -> Tensor:
    """Each row through the weights of the head that it is of `[row … d_head]`."""
    heads = torch.from_numpy(which // (n_readers // projection.n_heads)).to(normed.device)
    projected = torch.bmm(normed.flatten(1, -2), projection.per_head[heads])
    if projection.bias_per_head is not None:
        projected = projected + projection.bias_per_head[heads][:, None]
    return projected.view(*normed.shape[:-1], projected.shape[-1])
