"""A whole masked pass: embeddings, blocks, logits at the asked positions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from circuitgraph.architectures.family import BoundBlock, BoundModel, ModelShape, Rotaries
from circuitgraph.architectures.norm import Norm
from circuitgraph.architectures.rotary import rotaries_of
from circuitgraph.batch import TokenBatch
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.ablation_values import AblationValues, check_fits, check_layer, check_same_prompts
from circuitgraph.forward.attention import attention_mask
from circuitgraph.forward.engine.choose import engine_for
from circuitgraph.forward.engine.rows import pick
from circuitgraph.forward.heads import AskedGrid, LayerHeads, among, asked_grid
from circuitgraph.forward.plan.fixed import FixedPlan
from circuitgraph.forward.plan.plan import StepPlan, plan_step
from circuitgraph.forward.plan.positions import Positions, PositionSets, position_sets
from circuitgraph.forward.reference import embed
from circuitgraph.forward.stream.base import Base
from circuitgraph.forward.stream.passing import begin, read, read_projected, write_embedding, write_heads, write_mlp
from circuitgraph.forward.stream.prefix_sums import PrefixSums
from circuitgraph.forward.stream.stream import Stream
from circuitgraph.forward.stream.tape import Tape
from circuitgraph.forward.stream.workspace import Workspace
from circuitgraph.graph.universe import Universe
from circuitgraph.transfer import to_device, to_host


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Runnable:
    """A model as a pass takes it.

    Attributes:
        bound: Its weights.
        shape: Its sizes.
        universe: What gates belong to.
    """

    bound: BoundModel
    shape: ModelShape
    universe: Universe


@dataclass(frozen=True, kw_only=True, eq=False)
class PassPlan:
    """What one pass runs, decided on the host.

    Attributes:
        step: The nodes that run, and at which positions.
        positions: The positions.
        real: Booleans `[batch seq]`: no padding.
        gates: All gates on the host; 1 where they may be other than 0, in a plan that was made beforehand.
        wanted: Booleans `[edge]`: gates whose gradient is required.
        goes_back: Whether a backward pass may follow.
        fixed: Whether the plan was made beforehand, so that no gate's value is read on the host.
    """

    step: StepPlan
    positions: PositionSets
    real: np.ndarray
    gates: np.ndarray
    wanted: np.ndarray
    goes_back: bool = True
    fixed: bool = False


def plan_pass(
    model: Runnable,
    gates: Float[Tensor, " edge"],
    batch: TokenBatch,
    values: AblationValues,
    *,
    wanted: Bool[Tensor, " edge"] | None = None,
) -> PassPlan:
    """Decide what runs with some gates.

    Args:
        model: The model.
        gates: 1 keeps an edge, 0 ablates it. Where they lie on the host, as `wanted` then should, and the batch came
            from there, no value is read from a device.
        batch: Prompts.
        values: Outputs of ablated writers; where they are those of a run, a node without live inputs is skipped. Where
            they take a gradient, every reader is on the way back.
        wanted: Gates whose gradient is required; by default those strictly between 0 and 1, if `gates`
            requires a gradient.

    Raises:
        ConfigurationError: The values are of other prompts.
    """
    gates_learn = torch.is_grad_enabled() and gates.requires_grad
    base_learns = torch.is_grad_enabled() and values.learnt
    prompts = batch.to_look_at
    gates_host, wanted_given, real, asked, ids, other_ids, other_real = to_host(
        gates, wanted if gates_learn else None, prompts.attention_mask, prompts.predict_index, prompts.input_ids,
        values.input_ids, values.attention_mask,
    )  # fmt: skip
    assert gates_host is not None and real is not None and asked is not None
    gates_host, real = gates_host.astype(np.float64), real.astype(bool)
    check_same_prompts(values, real.shape, other_real, real)
    differs = None if other_ids is None else ids != other_ids
    if not gates_learn:
        wanted_host = np.zeros(gates_host.shape, dtype=bool)
    elif wanted_given is None:
        wanted_host = (gates_host > 0) & (gates_host < 1)
    else:
        wanted_host = wanted_given
    positions = position_sets(batch, causal=model.shape.causal, real=real, asked=asked, differs=differs)
    step = plan_step(
        model.universe, (gates_host != 0) | wanted_host, wanted_host,
        constant_when_dead=not values.per_prompt,
        run_dead_readers=not values.query,
        local=positions.local is not None,
        learnt_base=base_learns,
    )  # fmt: skip
    return PassPlan(
        step=step, positions=positions, real=real, gates=gates_host, wanted=wanted_host,
        goes_back=gates_learn or base_learns,
    )  # fmt: skip


def plan_fixed_pass(
    model: Runnable, batch: TokenBatch, values: AblationValues, fixed: FixedPlan, *, first_differing: int = 0
) -> PassPlan:
    """What runs by a plan that was made beforehand; nothing is read from the gates.

    Args:
        model: The model.
        batch: Prompts of one length, without padding, which knows what it was on the host.
        values: Outputs of ablated writers.
        fixed: The plan, for values of this kind; see `FixedPlan.missed` for which gates it is right.
        first_differing: No prompt differs from its counterfactual before this position.

    Raises:
        ConfigurationError: The plan is for another ablation than the values are of, or they are of other prompts.
    """
    if fixed.ablation != values.ablation:
        raise ConfigurationError(
            f"the plan is for {fixed.ablation} ablation, the values are of kind {values.ablation!r}; make another plan"
        )
    prompts = batch.to_look_at
    real, asked = prompts.attention_mask.numpy().astype(bool), prompts.predict_index.numpy()
    check_same_prompts(values, real.shape)
    differs = np.zeros_like(real)
    differs[:, first_differing] = True
    positions = position_sets(
        batch, causal=model.shape.causal, real=real, asked=asked, differs=differs, separate_local=False
    )
    flags = fixed.open_edges
    return PassPlan(step=fixed.plan, positions=positions, real=real, gates=flags, wanted=flags, fixed=True)


def run_pass(
    model: Runnable,
    plan: PassPlan,
    gates: Float[Tensor, " edge"],
    batch: TokenBatch,
    values: AblationValues,
    *,
    workspace: Workspace | None = None,
    recompute: bool = False,
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
    logits = _Pass(model, plan, batch, values, tape, recompute).logits()
    step = plan.step
    return MaskedPass(logits=logits, live_heads=step.live_heads, live_mlps=step.live_mlps, gates=gates)


class _Pass:
    """The state of one pass: its streams, and the token that orders the backward pass."""

    def __init__(
        self, model: Runnable, plan: PassPlan, batch: TokenBatch, values: AblationValues, tape: Tape, recompute: bool
    ) -> None:
        self.recompute = recompute
        self.bound, self.shape, self.universe, self.batch = model.bound, model.shape, model.universe, batch
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
        self.ablated = PrefixSums(start, partial(_with_block, fixed))
        for layer, block in enumerate(self.bound.blocks):
            delta = None
            # A parallel MLP reads before its layer's heads write, so that the running sum has no heads of its own.
            if self.shape.block_order == "parallel":
                delta = self._mlp(layer, block, 2 * layer)
            self._heads(layer, block)
            if self.shape.block_order == "sequential":
                delta = self._mlp(layer, block, 2 * layer + 1)
            if delta is not None:
                self._write_mlp(layer, delta)
        last = len(self.universe.blocks) - 1
        return self.bound.unembed(self._read("asked", last, last, self.bound.final_norm)[0])

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

    def _read(self, name: str, index: int, n_before: int, norm: Norm) -> Tensor:
        """What the readers of a block see in a stream, with so many blocks before them, normed."""
        stream = self.streams[name]
        at = partial(_ablated_at, self.positions[name], self.ablated, n_before)
        normed, self.token = read(self.token, stream, stream.plan.blocks[index], at, norm, n_before)
        return normed

    def _mlp(self, layer: int, block: BoundBlock, n_before: int) -> Tensor | None:
        """The MLP's output beyond its ablation value, at the positions of the stream it reads, after so many blocks."""
        own = self.plan.mlps[layer]
        if own is None:
            return None
        normed = self._read(own, 2 * layer + 1, n_before, block.mlp_norm)
        if self.recompute and normed.requires_grad:
            output = checkpoint(block.mlp, normed, use_reentrant=False, preserve_rng_state=False)[0]
        else:
            output = block.mlp(normed)[0]
        ablated = self.values.mlps[layer]
        check_layer(ablated, (self.shape.d_model,), layer, "MLP")
        return output - self.positions[own].of(ablated)

    def _write_mlp(self, layer: int, delta: Tensor) -> None:
        own = self.plan.mlps[layer]
        assert own is not None
        for name, stream in self.streams.items():
            plan = stream.plan.blocks[2 * layer + 1]
            if len(plan.writers):
                moved = self.positions[own].move(delta, self.positions[name])
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
        running = np.sort(np.concatenate(list(by_stream.values())))
        gathered, ablated = {}, self.values.heads[layer]
        check_layer(ablated, (self.shape.n_heads, self.shape.d_head), layer, "heads")
        for name, heads in by_stream.items():
            mixed = layer_heads.gather(
                heads, all_heads=running, mask=self.mask, rotaries=self.rotaries,
                asked=self.asked if name == "asked" else None,
            )  # fmt: skip
            theirs = self.positions[name].of(pick(ablated, heads))
            gathered[name] = (heads, mixed - theirs)
        output = block.output.unflatten(0, (self.shape.n_heads, -1))
        for name, stream in self.streams.items():
            plan = stream.plan.blocks[2 * layer]
            if len(plan.writers):
                moved = self._moved(gathered, plan.writers, name)
                self.token = write_heads(self.token, moved, output, stream, plan)

    def _moved(self, gathered: dict[str, tuple[np.ndarray, Tensor]], writers: np.ndarray, name: str) -> Tensor:
        """What some heads gathered beyond their ablation value, at the positions of a stream."""
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


def _with_block(values: AblationValues, residual: Tensor | None, n_before: int) -> Tensor:
    """The ablated residual stream after one block more."""
    assert residual is not None
    layer, is_mlp = divmod(n_before, 2)
    return residual + (values.mlps if is_mlp else values.attention)[layer]


def _ablated_at(positions: Positions, ablated: PrefixSums, n_before: int) -> Tensor:
    """The ablated residual stream after so many blocks, at some positions."""
    residual = ablated.of(n_before)
    assert residual is not None
    return positions.of(residual)
