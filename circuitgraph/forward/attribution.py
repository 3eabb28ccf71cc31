"""What every edge carries, times what its reader's gradient is: `⟨Δ_w, ∂L/∂x_r⟩` for all edges from one plain run.

The one product behind edge attribution patching and its kin: they differ in the run that gradients are taken in
(`circuitgraph.forward.full_run`) and in the change Δ of what a writer says. Steps, for one batch:

1. `writer_changes` puts the changes of all writers into one matrix, `[writer position d_model]`; a head's is the change
   of what it gathered, through its part of the output projection. The positions are those where a change can be other
   than 0 and still matter, see `circuitgraph.forward.plan.positions`.
2. Autograd gives the gradients at the taps of a `FullRun`, all from one backward pass.
3. `edge_products` takes each reader's own gradient from its tap to the residual stream before the norm, and all edges
   into the readers of several layers are one product of matrices,
   `[reader, position·d_model] × [position·d_model, writer]`.

Back through projection and norm. With the norm `n(x) = s (x − m) ∘ w + b` (an RMS norm has m = 0) and the query of a
head `q = n(x) W`, a gradient g at q is at x

    s (W' g − x̂ ⟨x̂, W' g⟩ / d),      W' = w ∘ W, its columns less their means where there is an m,   x̂ = s (x − m).

s is put into g, which is d_head wide, and `⟨x̂, W' g⟩ = ⟨q − q₀, g⟩` with `q₀ = b W + bias` is taken there too, so that
of the arrays `[reader position d_model]` only one is made, in one product and one subtraction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.architectures.family import BoundBlock, Projection
from circuitgraph.architectures.norm import Norm
from circuitgraph.batch import TokenBatch
from circuitgraph.forward.backward_rules import statistics
from circuitgraph.forward.full_run import FullRun, Read
from circuitgraph.forward.pass_plan import Runnable
from circuitgraph.forward.plan.positions import Positions, PositionSets, position_sets
from circuitgraph.forward.plan.spans import checked_span_ids, stream_name
from circuitgraph.forward.vectors import vector_places, where_any
from circuitgraph.graph.block import Block
from circuitgraph.transfer import to_device, to_host

ROWS = 64
"""Readers whose edges are one product: more make fewer, larger products, and more that is computed and not used."""


@runtime_checkable
class Said(Protocol):
    """What every writer says: a `FullRun` or `AblationValues`; axes of size 1 broadcast."""

    @property
    def embeddings(self) -> Sequence[Tensor]:
        """A tensor an embedding of the model, `[batch seq d_model]`."""
        ...

    @property
    def heads(self) -> Sequence[Tensor]:
        """A tensor a layer, `[head batch seq d_head]`, before the output projection."""
        ...

    @property
    def mlps(self) -> Sequence[Tensor]:
        """A tensor a layer, `[batch seq d_model]`."""
        ...

    @property
    def vectors(self) -> Sequence[Tensor]:
        """A tensor a vector that is added to the model, `[batch seq d_model]`; empty where none was added."""
        ...


def positions_that_matter(model: Runnable, batch: TokenBatch, other: TokenBatch | None) -> PositionSets:
    """The positions at which a writer can differ from its ablation value and still change an asked output.

    Args:
        model: The model.
        batch: Prompts.
        other: The counterfactuals, position by position; None where ablation values are constants.
    """
    prompts, others = batch.to_look_at, None if other is None else other.to_look_at
    real, asked, ids, other_ids, span_ids = to_host(
        prompts.attention_mask, prompts.predict_index, prompts.input_ids,
        None if others is None else others.input_ids, prompts.span_ids,
    )  # fmt: skip
    assert real is not None and asked is not None
    differs = None if other_ids is None else where_any(ids != other_ids, vector_places(model.vectors, batch))
    real = real.astype(bool)
    found = position_sets(
        batch, causal=model.shape.causal, real=real, asked=asked, differs=differs, separate_local=False
    )
    if not model.universe.spans:
        return found
    names = [stream_name(span) for span in model.universe.spans]
    return found.divided(checked_span_ids(model.universe, span_ids, real, asked), names)


@torch.no_grad()
def writer_changes(
    model: Runnable, said: Said, ablated: Said, positions: Positions, *, out: Tensor | None = None
) -> Float[Tensor, "writer position d_model"]:
    """How what each writer says changes when it is ablated.

    Args:
        model: The model.
        said: What writers say.
        ablated: What they say instead.
        positions: Where.
        out: A buffer for the result, of enough numbers; a new one by default.

    Returns:
        `ablated − said`, in float32 at least.
    """
    universe, width = model.universe.without_spans, model.shape.d_model
    output = model.bound.blocks[0].raw_output
    dtype = _wide(output.dtype)
    size = (universe.n_writers, len(positions), width)
    changes = output.new_empty(size, dtype=dtype) if out is None else out[: np.prod(size)].view(size)
    embeddings = [
        positions.of(theirs) - positions.of(ours)
        for ours, theirs in zip(said.embeddings, ablated.embeddings, strict=True)
    ]
    if universe.embeddings == "joint":
        embeddings = [sum(embeddings[1:], embeddings[0])]
    for writer, change in enumerate(embeddings):
        changes[writer] = change
    for vector, writer in enumerate(universe.vector_writers.tolist()):
        ours, theirs = (positions.of(one.vectors[vector]) if one.vectors else 0.0 for one in (said, ablated))
        changes[writer] = theirs - ours
    for block in universe.blocks:
        own, written = changes[block.written], block.layer
        if block.kind == "attention":
            gathered = (positions.of(ablated.heads[written]) - positions.of(said.heads[written])).to(dtype)
            weights = model.bound.blocks[written].output.unflatten(0, (model.shape.n_heads, -1)).to(dtype)
            torch.bmm(gathered.expand(-1, len(positions), -1), weights, out=own)
        elif block.kind == "mlp":
            own[0] = positions.of(ablated.mlps[written]) - positions.of(said.mlps[written])
    return changes


def edge_products(
    model: Runnable,
    run: FullRun,
    loss: Tensor,
    changes: Float[Tensor, "writer position d_model"],
    positions: PositionSets,
) -> Float[Tensor, " edge"]:
    """The product of every edge's change and its reader's gradient, summed over positions, with spans over its span's.

    Args:
        model: The model.
        run: The run that gradients are taken in; its graph is used up.
        loss: A number made of the run's logits.
        changes: How what each writer says changes, at the reached positions.
        positions: The positions.

    Returns:
        To first order, what the change does to the loss along each edge alone; float64, on the host.
    """
    taps = [tap for read in run.reads for tap in read.taps]
    found = torch.autograd.grad(loss, taps, allow_unused=True)
    # What was exchanged for something given has no gradient, nor has what only it was made of.
    known = zip(taps, found, strict=True)
    gradients = iter([torch.zeros_like(tap) if gradient is None else gradient for tap, gradient in known])
    with torch.no_grad():
        products = _Products(model, run, changes, positions)
        by_part = [list(part) for part in zip(
            *products.of([[next(gradients) for _ in r.taps] for r in run.reads]), strict=True,
        )]  # fmt: skip
        kept = [
            own[: len(part.blocks)] for own, part in zip(by_part, model.universe.parts, strict=True)
        ]  # no logits are read where nothing is asked
        return torch.cat([one for own in kept for one in own]).double().cpu()


class _Products:
    """The products of one batch."""

    def __init__(self, model: Runnable, run: FullRun, changes: Tensor, positions: PositionSets) -> None:
        self.model, self.run, self.changes, self.positions = model, run, changes, positions
        self.frozen = run.rule.frozen_norms
        self.rows = changes.new_empty(0)
        spans = positions.spans.values()
        self.at = [_among(positions.reached, span) for span in spans] or [slice(None)]
        self.asked_at = [_among(positions.asked, span) for span in spans] or [slice(None)]

    def of(self, gradients: Sequence[Sequence[Tensor]]) -> Iterator[list[Tensor]]:
        """The products of all edges into a block, for one block after the other: of each span, or in all.

        Args:
            gradients: At the taps, block by block.
        """
        blocks = self.model.universe.without_spans.blocks
        for group in _groups(blocks[:-1]):
            n_rows, n_writers = sum(block.n_readers for block in group), max(block.n_writers for block in group)
            rows = self._room(n_rows)
            first = group[0].first_reader
            for block in group:
                index = 2 * block.layer + (block.kind == "mlp")
                own = rows[block.first_reader - first :][: block.n_readers]
                self._fill(block, self.run.reads[index], gradients[index], own)
            changes = self.changes[:n_writers]
            products = [rows[:, at].flatten(1) @ changes[:, at].flatten(1).T for at in self.at]
            for block in group:
                mine = slice(block.first_reader - first, block.first_reader - first + block.n_readers)
                yield [own[mine, : block.n_writers].flatten() for own in products]
        asked = self.positions.reached.move(self.changes, self.positions.asked)
        own = self._back_through(self.model.bound.final_norm, self.run.reads[-1].residual, gradients[-1][0])
        yield [asked[:, at].flatten(1) @ own[at].flatten() for at in self.asked_at]

    def _room(self, n_rows: int) -> Tensor:
        """Room for the gradients of so many readers `[reader position d_model]`."""
        size = (n_rows, *self.changes.shape[1:])
        if self.rows.shape[0] < n_rows:
            self.rows = self.changes.new_empty(size)
        return self.rows[:n_rows]

    def _fill(self, block: Block, read: Read, gradients: Sequence[Tensor], out: Tensor) -> None:
        """Put the gradient of every reader of a block, before the norm, into `out` `[reader position d_model]`."""
        positions, own = self.positions.reached, self.model.bound.blocks[block.layer]
        if block.kind == "mlp":
            out[0] = self._back_through(own.mlp_norm, positions.of(read.residual), positions.of(gradients[0]))
        else:
            self._fill_attention(own, read, gradients, out)

    def _fill_attention(self, own: BoundBlock, read: Read, gradients: Sequence[Tensor], out: Tensor) -> None:
        positions, norm, dtype = self.positions.reached, own.attention_norm, out.dtype
        joint = not self.model.universe.n_kv_readers
        normed, scale = _normed(norm, positions.of(read.residual).to(dtype))
        along = out.new_zeros(*out.shape[:2], 1)
        first = 0
        for projection, tap, gradient in zip((own.query, own.key, own.value), read.taps, gradients, strict=True):
            back = positions.of(gradient).to(dtype)
            back = back if scale is None else back * scale
            weights, origin = _folded(projection, norm, n_rows=len(back), dtype=dtype)
            rows = out[first : first + len(back)]
            if joint and projection is not own.query:
                rows.baddbmm_(back, weights)
            else:
                torch.bmm(back, weights, out=rows)
            if normed is not None and not self.frozen:
                read_ = positions.of(tap.detach()).to(dtype)
                along[first : first + len(back)] += ((read_ - origin) * back).sum(-1, keepdim=True)
            first += 0 if joint else len(back)
        if normed is not None and not self.frozen:
            out.addcmul_(along, normed, value=-1 / out.shape[-1])

    def _back_through(self, norm: Norm, x: Float[Tensor, "position d_model"], gradient: Tensor) -> Tensor:
        """A gradient of normed rows as one of the rows."""
        dtype = self.changes.dtype
        normed, scale = _normed(norm, x.to(dtype))
        gradient = gradient.to(dtype)
        if normed is None or scale is None:
            return gradient
        gradient = gradient if norm.factor is None else gradient * norm.factor.to(dtype)
        if norm.kind == "layer":
            gradient = gradient - gradient.mean(-1, keepdim=True)
        if not self.frozen:
            gradient = gradient - normed * (normed * gradient).mean(-1, keepdim=True)
        return gradient * scale


def _among(positions: Positions, span: Positions) -> Tensor:
    """Places of the positions that are at a span."""
    places = np.flatnonzero(np.isin(positions.host, span.host))
    return to_device(places, positions.device)


def _groups(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Neighbouring blocks whose readers are together about `ROWS`, at least one."""
    group: list[Block] = []
    for block in blocks:
        if group and sum(one.n_readers for one in group) + block.n_readers > ROWS:
            yield group
            group = []
        group.append(block)
    if group:
        yield group


def _normed(norm: Norm, x: Float[Tensor, "position d_model"]) -> tuple[Tensor | None, Tensor | None]:
    """Rows as the norm scales them, before its weights, and the scale; None where there is no norm."""
    if norm.kind == "none":
        return None, None
    centred, scale = statistics(norm, x)
    return centred * scale, scale


def _folded(projection: Projection, norm: Norm, *, n_rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A projection with the norm's weights in it, transposed, and what it says to rows that the norm makes 0.

    Returns:
        `[row d_head d_model]` and `[row 1 d_head]`, a row a reader; heads stand several times where readers share them.
    """
    matrix = projection.matrix.to(dtype)
    if norm.factor is not None:
        matrix = matrix * norm.factor.to(dtype)[:, None]
    if norm.kind == "layer":
        matrix = matrix - matrix.mean(0)
    origin = matrix.new_zeros(matrix.shape[1]) if projection.bias is None else projection.bias.to(dtype)
    if norm.bias is not None:
        origin = origin + norm.bias.to(dtype) @ projection.matrix.to(dtype)
    weights = matrix.unflatten(1, (projection.n_heads, -1)).permute(1, 2, 0)
    origin = origin.unflatten(0, (projection.n_heads, 1, -1))
    times = n_rows // projection.n_heads
    if times == 1:
        return weights, origin
    return weights.repeat_interleave(times, 0), origin.repeat_interleave(times, 0)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Float32, or float64 where the model is in it."""
    return torch.float64 if dtype == torch.float64 else torch.float32
