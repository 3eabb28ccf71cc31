"""Which parts of a circuit have to run, and the constants that stand for everything else.

With every gate 0 or 1 and constant ablation values ỹ, reader i sees

    x_i  =  s̃_i − Σ ỹ_j  +  Σ y_j         (both sums over its kept writers j),

where s̃_i is the ablated residual stream at that place. The first two terms are one constant. It grows:

1. A kept MLP whose kept writers are all constant says a constant itself, which joins its readers' constants.
2. So does a kept head whose *value* reader sees a constant that is the same at every position: its weights add
   up to 1, so it says that value whatever its queries and keys are. (With constants per position it does not,
   since the weights depend on padding; nor with an attention sink, which takes a share of them, nor where heads
   share a scale; it then runs.)
3. A query, key or value reader of a running head that sees a constant is projected once, here.
4. What cannot reach the logits through the edges that are left neither runs nor is kept.

Sums are in float64; norms, MLPs and projections are the model's own, in its own number format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.architectures.family import Projection
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.extract.layout import (
    AttentionLayout,
    CircuitLayout,
    LayerLayout,
    ProjectionLayout,
    ReadLayout,
)
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.attention import prepared
from circuitgraph.graph.block import Block
from circuitgraph.graph.liveness import backward_reach, the_logits
from circuitgraph.graph.universe import Universe


@dataclass(frozen=True, kw_only=True)
class Folded:
    """What runs, and the constants.

    Attributes:
        layout: What runs.
        constants: The constants `[… column width]` by their names in the module's state dict.
    """

    layout: CircuitLayout
    constants: dict[str, Tensor]


@torch.no_grad()
def fold(compiled: CompiledModel, kept: np.ndarray, values: AblationValues, *, n_columns: int) -> Folded:
    """Decide what runs and fold the rest.

    Args:
        compiled: The model.
        kept: Booleans over the edges `[edge]`.
        values: What ablated writers say, the same for every prompt.
        n_columns: 1, or the number of positions that `values` are for.
    """
    return _Folding(compiled, kept, values, n_columns).folded()


class _Folding:
    """The state of one walk through the model: which writers say a constant, and which."""

    def __init__(self, compiled: CompiledModel, kept: np.ndarray, values: AblationValues, n_columns: int) -> None:
        self.universe, self.bound, self.dtype = compiled.universe, compiled.bound, compiled.dtype
        self.compiled, self.values, self.n_columns = compiled, values, n_columns
        self.kept = kept
        self.streams = _ablated_streams(self.universe, values)
        self.is_constant = np.zeros(self.universe.n_writers, dtype=bool)
        self.said: dict[int, Tensor] = {}
        self.shifts: dict[int, Tensor] = {}
        self.constants: dict[str, Tensor] = {}

    def folded(self) -> Folded:
        universe = self.universe
        mattering = self._reaching_logits(self.kept)
        for index in range(2 * universe.n_layers):
            self._find_constants(index, mattering)
        edges = self.kept.copy()
        for block in universe.blocks:
            block.matrix(edges)[:, self.is_constant[: block.n_writers]] = False
        self.runs = self._reaching_logits(edges)
        self.keeps_total = self._total_pays()
        layers: list[LayerLayout] = []
        for layer in range(universe.n_layers):
            part = self._layer(layer, f"layers.{len(layers)}")
            if part.attention is not None or part.mlp is not None:
                layers.append(part)
        shape, config = self.compiled.shape, cast(Any, self.compiled.model.config)
        embeddings = np.flatnonzero(self.runs[: universe.n_embeddings])
        layout = CircuitLayout(
            universe=universe,
            causal=shape.causal,
            n_tokens=int(config.vocab_size),
            n_positions=(shape.n_positions or 0) if shape.learned_positions else 0,
            n_columns=self.n_columns,
            embeddings=tuple(universe.writers[writer] for writer in embeddings),
            layers=tuple(layers),
            logits=self._read(len(universe.blocks) - 1, 0, "unembedding.read"),
            folded=tuple(universe.writers[writer] for writer in np.flatnonzero(self.is_constant)),
        )
        return Folded(layout=layout, constants=self.constants)

    # ---------------------------------------------------------------- what matters, what is constant

    def _reaching_logits(self, edges: np.ndarray) -> np.ndarray:
        """Writers on a path of some edges to the logits `[writer]`."""
        return backward_reach(self.universe, edges, readers=the_logits(self.universe))[1]

    def _readers(self, block: Block, writers: np.ndarray) -> np.ndarray:
        """Readers of a block that feed one of some writers, or the logits, as indices within the block."""
        return np.flatnonzero([True] if block.kind == "logits" else block.serving(writers[block.written]))

    def _find_constants(self, index: int, mattering: np.ndarray) -> None:
        """Find what a block writes that is constant, and what it says."""
        block, universe = self.universe.blocks[index], self.universe
        bound = self.bound.blocks[block.layer]
        if block.kind == "mlp":
            writer = block.first_written
            if mattering[writer] and not self._sees_running(block, 0):
                said = bound.mlp(bound.mlp_norm(self._seen_constant(index, 0)))
                self._is_constant(writer, said)
        elif self.n_columns == 1 and not block.shares_scale and bound.attention.sinks is None:
            output = bound.output.unflatten(0, (universe.n_heads, -1))
            for head in np.flatnonzero(mattering[block.written]).tolist():
                reader = int(block.readers_of[head, -1])  # of its value, or of all
                if not self._sees_running(block, reader):
                    seen = bound.attention_norm(self._seen_constant(index, reader))
                    value = _project(seen, bound.value, head // universe.group_size)
                    value = prepared(bound.attention, 2, value[None], None)[0]
                    self._is_constant(block.first_written + head, value @ output[head])

    def _is_constant(self, writer: int, said: Tensor) -> None:
        self.is_constant[writer] = True
        self.said[writer] = said.double()

    def _kept(self, block: Block, reader: int) -> np.ndarray:
        """Whether each writer is kept by a reader `[writer]`."""
        return block.matrix(self.kept)[reader]

    def _sees_running(self, block: Block, reader: int) -> bool:
        return bool((self._kept(block, reader) & ~self.is_constant[: block.n_writers]).any())

    # ---------------------------------------------------------------- constants

    def _constant(self, index: int, reader: int) -> Float[Tensor, "1 column d_model"]:
        """The constant part of what a reader sees, in float64."""
        kept = np.flatnonzero(self._kept(self.universe.blocks[index], reader)).tolist()
        constant = self.streams[index].clone()
        for writer in kept:
            constant = constant + self._shift(writer)
        return constant.expand(1, self.n_columns, -1)

    def _seen_constant(self, index: int, reader: int) -> Float[Tensor, "1 column d_model"]:
        """All that a reader sees where nothing that it reads runs, in the model's number format."""
        return self._constant(index, reader).to(self.dtype)

    def _shift(self, writer: int) -> Tensor:
        """What keeping a writer adds to a constant: what it always says, if so, less its ablation value."""
        if writer not in self.shifts:
            shift = -self._ablation_value(writer).double()
            if writer in self.said:
                shift = shift + self.said[writer]
            self.shifts[writer] = shift
        return self.shifts[writer]

    def _ablation_value(self, writer: int) -> Float[Tensor, "1 column d_model"]:
        """What a writer says when it is ablated, in the residual stream."""
        universe, values = self.universe, self.values
        kind, layer = universe.writer_kinds[writer], int(universe.writer_layers[writer])
        if kind == "embedding":
            if universe.embeddings == "split":
                return values.embeddings[writer]
            return sum(values.embeddings[1:], values.embeddings[0])
        if kind == "mlp":
            return values.mlps[layer]
        head = writer - universe.blocks[2 * layer].first_written
        rows = self.bound.blocks[layer].output.unflatten(0, (universe.n_heads, -1))[head]
        return values.heads[layer][head].double() @ rows.double()

    # ---------------------------------------------------------------- what runs

    def _layer(self, layer: int, name: str) -> LayerLayout:
        attention, mlp_block = self.universe.blocks[2 * layer : 2 * layer + 2]
        heads = np.flatnonzero(self.runs[attention.written])
        mlp = bool(self.runs[mlp_block.first_written])
        return LayerLayout(
            layer=layer,
            attention=self._attention(layer, heads, f"{name}.heads") if len(heads) else None,
            mlp=self._read(2 * layer + 1, 0, f"{name}.mlp.read") if mlp else None,
        )

    def _read(self, index: int, reader: int, name: str) -> ReadLayout:
        """What a reader sees, its constant put away under the read's name."""
        block = self.universe.blocks[index]
        self.constants[f"{name}.constant"] = self._constant(index, reader).to(self.dtype).contiguous()
        running = self.runs[: block.n_writers]
        added = self._kept(block, reader) & running
        left_out = running & ~added
        all_but = self.keeps_total and 1 + int(left_out.sum()) < int(added.sum())
        writers = np.flatnonzero(left_out if all_but else added)
        return ReadLayout(writers=tuple(self.universe.writers[writer] for writer in writers), all_but=all_but)

    def _total_pays(self) -> bool:
        """Whether keeping the sum of all writers, and taking from it what is cut, makes for fewer additions."""
        saved = 0
        for block in self.universe.blocks:
            running = self.runs[: block.n_writers]
            views = {self._kept(block, reader).tobytes() for reader in self._readers(block, self.runs).tolist()}
            for view in views:
                added = int((np.frombuffer(view, dtype=bool) & running).sum())
                saved += max(0, added - (1 + int(running.sum()) - added))
        return saved > int(self.runs.sum())

    def _attention(self, layer: int, heads: np.ndarray, name: str) -> AttentionLayout:
        block = self.universe.blocks[2 * layer]
        used = self._readers(block, self.runs)
        reads: dict[bytes, int] = {}
        layouts: list[ReadLayout] = []
        read_of: dict[int, int] = {}
        for reader in used[[self._sees_running(block, int(reader)) for reader in used]].tolist():
            same = self._kept(block, reader).tobytes()
            if same not in reads:
                reads[same] = len(layouts)
                layouts.append(self._read(2 * layer, reader, f"{name}.reads.{len(layouts)}"))
            read_of[reader] = reads[same]
        parts = {
            role: self._projection(layer, heads, place, read_of, f"{name}.{role}")
            for place, role in enumerate(("query", "key", "value"))
        }
        return AttentionLayout(heads=tuple(heads.tolist()), reads=tuple(layouts), **parts)

    def _projection(
        self, layer: int, heads: np.ndarray, place: int, read_of: dict[int, int], name: str
    ) -> ProjectionLayout:
        """The readers of one role, those that see a constant projected and put away."""
        universe, bound = self.universe, self.bound.blocks[layer]
        projection = (bound.query, bound.key, bound.value)[place]
        readers_of = universe.blocks[2 * layer].readers_of
        readers_of = readers_of[:, min(place, readers_of.shape[1] - 1)]
        head_of = {int(readers_of[head]): int(head) for head in reversed(heads)}
        weights = {r: h if place == 0 else h // universe.group_size for r, h in head_of.items()}
        running = [reader for reader in sorted(head_of) if reader in read_of]
        constant = [reader for reader in sorted(head_of) if reader not in read_of]
        if constant:
            rows = [
                _project(bound.attention_norm(self._seen_constant(2 * layer, r)), projection, weights[r])
                for r in constant
            ]
            self.constants[f"{name}.constant"] = torch.stack(rows)
        readers = running + constant
        names = universe.attention_readers(layer)
        return ProjectionLayout(
            readers=tuple(names[reader] for reader in readers),
            reads=tuple(read_of[reader] for reader in running),
            weights=tuple(weights[reader] for reader in running),
            row_of_head=tuple(readers.index(reader) for reader in readers_of[heads].tolist()),
        )


def _project(
    seen: Float[Tensor, "1 column d_model"], projection: Projection, head: int
) -> Float[Tensor, "1 column d_head"]:
    """Project with one head's weights."""
    bias = projection.bias_per_head
    said = seen @ projection.per_head[head]
    return said if bias is None else said + bias[head]


def _ablated_streams(universe: Universe, values: AblationValues) -> list[Float[Tensor, "1 column d_model"]]:
    """The ablated residual stream where each block reads, in float64."""
    stream = sum(values.embeddings[1:], values.embeddings[0]).double()
    found: list[Tensor] = []
    for layer in range(universe.n_layers):
        after = stream + values.attention[layer].double()
        found += [stream, after if universe.block_order == "sequential" else stream]
        stream = after + values.mlps[layer].double()
    return [*found, stream]
