"""A whole masked pass: embeddings, blocks, logits at the asked positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from circuitgraph.architectures.family import BoundBlock, Rotaries
from circuitgraph.architectures.norm import Norm
from circuitgraph.architectures.rotary import rotaries_of
from circuitgraph.batch import TokenBatch
from circuitgraph.forward.ablation_values import AblationValues, check_fits, check_layer
from circuitgraph.forward.attention import attention_mask
from circuitgraph.forward.coordinates import CoordinateGates
from circuitgraph.forward.engine.choose import engine_for
from circuitgraph.forward.engine.rows import pick
from circuitgraph.forward.heads import AskedGrid, LayerHeads, among, asked_grid
from circuitgraph.forward.pass_plan import PassPlan, Runnable
from circuitgraph.forward.plan.positions import Positions
from circuitgraph.forward.reference import embed
from circuitgraph.forward.stream.base import Base
from circuitgraph.forward.stream.passing import begin, read, read_projected, write_embedding, write_heads, write_mlp
from circuitgraph.forward.stream.prefix_sums import PrefixSums
from circuitgraph.forward.stream.stream import Stream
from circuitgraph.forward.stream.tape import Tape
from circuitgraph.forward.stream.workspace import Workspace
from circuitgraph.forward.vectors import said_by_vectors, sums_by_layer
from circuitgraph.transfer import to_device

ALL_COORDINATES = CoordinateGates()


@dataclass(frozen=True, kw_only=True)
class MaskedPass:
    """What a masked pass gives back.

    Attributes:
        logits: At the asked positions.
        live_heads: Heads that ran.
        live_mlps: MLPs that ran.
        gates: The gates as the model had them: those given, or a copy where the model lies. A gradient in these stays
            on that device; one in gates that lie on the host makes the host wait for it.
    """

    logits: Float[Tensor, "asked d_vocab"]
    live_heads: int
    live_mlps: int
    gates: Float[Tensor, " edge"]


def run_pass(
    model: Runnable,
    plan: PassPlan,
    gates: Float[Tensor, " edge"],
    batch: TokenBatch,
    values: AblationValues,
    *,
    workspace: Workspace | None = None,
    recompute: bool = False,
    coordinates: CoordinateGates = ALL_COORDINATES,
) -> MaskedPass:
    """Run the model with every edge gated.

    Args:
        model: The model.
        plan: What runs.
        gates: 1 keeps an edge, 0 ablates it; its gradient is that of the gates that require one, 0 elsewhere.
        batch: Prompts.
        values: Outputs of ablated writers; constants may take a gradient.
        workspace: Keeps large buffers from one step to the next.
        recompute: Run MLPs once more in the backward pass instead of keeping what is inside them.
        coordinates: Gates of coordinates of heads and MLPs.

    Returns:
        The logits, and how much of the model ran.

    Raises:
        ConfigurationError: The values are of another model, or take a gradient and differ by position.
    """
    gates = to_device(gates, batch.input_ids.device)
    base = _base_of(values) if torch.is_grad_enabled() and values.learnt else None
    tape = Tape(
        gates, plan.gates, plan.wanted, workspace or Workspace(), goes_back=plan.goes_back, fixed=plan.fixed, base=base
    )
    coordinates.check(model.bound, model.shape, values)
    logits = _Pass(model, plan, batch, values, tape, recompute, coordinates).logits()
    step = plan.step
    return MaskedPass(logits=logits, live_heads=step.live_heads, live_mlps=step.live_mlps, gates=gates)


class _Pass:
    """The state of one pass: its streams, and the token that orders the backward pass."""

    def __init__(
        self,
        model: Runnable,
        plan: PassPlan,
        batch: TokenBatch,
        values: AblationValues,
        tape: Tape,
        recompute: bool,
        coordinates: CoordinateGates,
    ) -> None:
        self.recompute, self.coordinates = recompute, coordinates
        self.bound, self.shape, self.universe, self.batch = model.bound, model.shape, model.universe, batch
        self.vectors = model.vectors
        self.values, self.plan, self.positions, self.tape, self.real = (
            values,
            plan.step,
            plan.positions,
            tape,
            plan.real,
        )
        self.mask = attention_mask(batch.attention_mask, model.shape.causal, padded=not plan.real.all())
        self.rotaries: Rotaries = ()
        self.asked: AskedGrid | None = None

    def logits(self) -> Tensor:
        """Run everything."""
        embedded = embed(self.bound, self.batch)
        self.rotaries = rotaries_of(self.bound.rotaries, embedded[0], self.batch)
        if any("asked" in heads for heads in self.plan.heads):
            self.asked = asked_grid(self.positions.asked, self.real, causal=self.shape.causal, rotaries=self.rotaries)
        engine = engine_for(embedded[0].device, embedded[0].dtype)
        self.streams = {
            name: Stream(name, plan, self.tape, len(self.positions[name]), embedded[0], engine)
            for name, plan in self.plan.streams.items()
        }
        self.token = begin(self.tape)
        start = self._embeddings(embedded)
        fixed = self.values if self.tape.base is None else self.values.changed(lambda value, _: value.detach())
        ablated_vectors = sums_by_layer(self.vectors, fixed.vectors)
        start = start + ablated_vectors[0] if 0 in ablated_vectors else start
        self.ablated = PrefixSums(start, partial(_with_block, fixed, ablated_vectors))
        said = said_by_vectors(self.vectors, self.batch, embedded[0])
        for layer, block in enumerate(self.bound.blocks):
            self._write_vectors(layer, said)
            deltas = {}
            # A parallel MLP reads before its layer's heads write, so that the running sum has no heads of its own.
            if self.shape.block_order == "parallel":
                deltas = self._mlp(layer, block, 2 * layer)
            self._heads(layer, block)
            if self.shape.block_order == "sequential":
                deltas = self._mlp(layer, block, 2 * layer + 1)
            self._write_mlp(layer, deltas)
        return self.bound.unembed(self._asked_residual())

    def _asked_residual(self) -> Tensor:
        """What the logits read at the asked positions, normed."""
        last, norm, asked = 2 * self.shape.n_layers, self.bound.final_norm, self.positions.asked
        if not self.positions.spans:
            return self._read("asked", last, last, norm)[0]
        names = [name for name, stream in self.streams.items() if len(stream.plan.blocks) > last]
        found = [self._read(name, last, last, norm)[0] for name in names]
        return self.positions.joined(names).move(torch.cat(found), asked)

    def _embeddings(self, embedded: tuple[Tensor, ...]) -> Tensor:
        """Store the embeddings' deltas; returns the ablated residual stream."""
        ablated = tuple(self.values.embeddings)
        check_fits(self.values, ablated, embedded, n_layers=self.shape.n_layers, padded=not self.real.all())
        deltas = [ours - theirs for ours, theirs in zip(embedded, ablated, strict=True)]
        if self.universe.embeddings == "joint":
            deltas = [sum(deltas[1:], deltas[0])]
        for name, stream in self.streams.items():
            for slot, index in enumerate(stream.plan.embeddings):
                self.token = write_embedding(self.token, self.positions[name].of(deltas[index]), stream, slot)
        return sum(ablated[1:], ablated[0]).detach()

    def _write_vectors(self, layer: int, said: tuple[Tensor, ...]) -> None:
        """Store what a layer's vectors say beyond their ablation values."""
        for name, stream in self.streams.items():
            for vector, slot in stream.plan.vectors[layer]:
                ablated = self.values.vectors[vector] if self.values.vectors else 0.0
                delta = self.positions[name].of(said[vector] - ablated)
                self.token = write_embedding(self.token, delta, stream, slot)

    def _read(self, name: str, index: int, n_before: int, norm: Norm) -> Tensor:
        """What the readers of a block see in a stream, with so many blocks before them, normed."""
        stream = self.streams[name]
        at = partial(_ablated_at, self.positions[name], self.ablated, n_before)
        normed, self.token = read(self.token, stream, stream.plan.blocks[index], at, norm, n_before)
        return normed

    def _mlp(self, layer: int, block: BoundBlock, n_before: int) -> dict[str, Tensor]:
        """The MLP's output beyond its ablation value, by the streams that it reads, after so many blocks."""
        names = self.plan.mlps[layer]
        if not names:
            return {}
        seen = [self._read(name, 2 * layer + 1, n_before, block.mlp_norm) for name in names]
        normed = seen[0] if len(seen) == 1 else torch.cat(seen, 1)
        if layer in self.coordinates.mlps:
            output = self._gated_mlp(layer, block, normed, names, n_before)
        elif self.recompute and normed.requires_grad:
            output = checkpoint(block.mlp, normed, use_reentrant=False, preserve_rng_state=False)[0]
        else:
            output = block.mlp(normed)[0]
        ablated = self.values.mlps[layer]
        check_layer(ablated, (self.shape.d_model,), layer, "MLP")
        parts = [output] if len(names) == 1 else output.split([len(self.positions[name]) for name in names])
        return {name: part - self.positions[name].of(ablated) for name, part in zip(names, parts, strict=True)}

    def _gated_mlp(self, layer: int, block: BoundBlock, normed: Tensor, names: Sequence[str], n_before: int) -> Tensor:
        """What an MLP says whose neurons have gates."""
        ablated = None
        if self.values.per_prompt:
            seen = [_ablated_at(self.positions[name], self.ablated, n_before) for name in names]
            ablated = block.mlp_norm(torch.cat(seen))
        return self.coordinates.mlp_output(layer, block.mlp, normed[0], ablated)

    def _write_mlp(self, layer: int, deltas: dict[str, Tensor]) -> None:
        for name, stream in self.streams.items():
            plan = stream.plan.blocks[2 * layer + 1]
            if len(plan.writers):
                own = name if name in deltas else self.plan.mlps[layer][0]
                moved = self.positions[own].move(deltas[own], self.positions[name])
                self.token = write_mlp(self.token, moved, stream, plan)

    def _heads(self, layer: int, block: BoundBlock) -> None:
        """Run the layer's heads and store their outputs."""
        by_stream = self.plan.heads[layer]
        if not by_stream:
            return
        layer_heads = LayerHeads(self.bound, block, self.shape, self.universe, self.positions, self.values, layer)
        for name, stream in self.streams.items():
            plan = stream.plan.blocks[2 * layer]
            if len(plan.readers):
                groups = layer_heads.groups(plan.readers)
                at = partial(_ablated_at, self.positions[name], self.ablated, 2 * layer)
                projected, self.token = read_projected(
                    self.token, stream, plan, at, block.attention_norm, groups, 2 * layer
                )
                layer_heads.take(groups, projected, self.positions[name])
        running = np.unique(np.concatenate(list(by_stream.values())))
        gathered, ablated = {}, self.values.heads[layer]
        check_layer(ablated, (self.shape.n_heads, self.shape.d_head), layer, "heads")
        mixed_at_spans = {}
        if self.positions.spans:
            mixed_at_spans = layer_heads.gather_at_spans(by_stream, running, self.mask, self.rotaries)
        for name, heads in by_stream.items():
            mixed = mixed_at_spans[name] if mixed_at_spans else layer_heads.gather(
                heads, all_heads=running, mask=self.mask, rotaries=self.rotaries,
                asked=self.asked if name == "asked" else None,
            )  # fmt: skip
            moved = mixed - self.positions[name].of(pick(ablated, heads))
            if layer in self.coordinates.heads:
                moved = moved * pick(self.coordinates.heads[layer].to(moved), heads)[:, None]
            gathered[name] = (heads, moved)
        output = block.output.unflatten(0, (self.shape.n_heads, -1))
        for name, stream in self.streams.items():
            plan = stream.plan.blocks[2 * layer]
            if len(plan.writers):
                moved = self._moved(gathered, plan.writers, name)
                self.token = write_heads(self.token, moved, output, stream, plan)

    def _moved(self, gathered: dict[str, tuple[np.ndarray, Tensor]], writers: np.ndarray, name: str) -> Tensor:
        """What some heads gathered beyond their ablation value, at the positions of a stream."""
        if name in gathered and self.positions.spans:
            heads, moved = gathered[name]
            return pick(moved, among(heads, writers))
        order, parts = [], []
        for own, (heads, moved) in gathered.items():
            rows = among(heads, writers)
            if len(rows):
                order.append(heads[rows])
                parts.append(self.positions[own].move(pick(moved, rows), self.positions[name]))
        if len(parts) == 1:
            return parts[0]
        return pick(torch.cat(parts), np.argsort(np.concatenate(order)))


def _base_of(values: AblationValues) -> Base:
    """The terms of the ablated residual stream."""
    embeddings = tuple(values.embeddings)
    blocks = (part for layer in zip(values.attention, values.mlps, strict=True) for part in layer)
    return Base([sum(embeddings[1:], embeddings[0]), *blocks])


def _with_block(
    values: AblationValues, vectors: Mapping[int, Tensor], residual: Tensor | None, n_before: int
) -> Tensor:
    """The ablated residual stream after one block more, and after the vectors that are added before the next layer."""
    assert residual is not None
    layer, is_mlp = divmod(n_before, 2)
    if not is_mlp:
        return residual + values.attention[layer]
    after = residual + values.mlps[layer]
    return after + vectors[layer + 1] if layer + 1 in vectors else after


def _ablated_at(positions: Positions, ablated: PrefixSums, n_before: int) -> Tensor:
    """The ablated residual stream after so many blocks, at some positions."""
    residual = ablated.of(n_before)
    assert residual is not None
    return positions.of(residual)
