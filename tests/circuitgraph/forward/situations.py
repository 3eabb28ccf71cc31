"""Random situations for a masked pass, random edits of its graph, and the executor's and the definition's answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from circuitgraph.batch import TokenBatch
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.forward import masked, uncut
from circuitgraph.forward.engine import plain
from circuitgraph.forward.engine.engine import Engine
from circuitgraph.forward.engine.plain import PlainEngine
from circuitgraph.forward.reference import AblationValues
from circuitgraph.graph.universe import Universe
from tests.circuitgraph.extract.extract_cases import learnt_values
from tests.oracles import definition as oracle
from tests.oracles.cases import asked_places, pair_of_batches, prompt_rows

ABLATIONS = ("counterfactual", "zero", "mean", "mean-positional", "optimal")


@dataclass(frozen=True)
class Situation:
    """One masked pass.

    Attributes:
        gates: `zeros`, `ones`, `undecided`, `single` (one undecided gate, the others 0 or 1), `mixture`.
        undecided: Share of undecided gates in a mixture.
        kept: Share of 1 among the decided gates.
        ablation: Its name.
        side: Where padding lies.
        lengths: Real tokens a prompt.
        n_asked: Asked positions a prompt.
        seed: Of gates, tokens and asked positions.
    """

    gates: str
    undecided: float
    kept: float
    ablation: str
    side: str
    lengths: tuple[int, ...]
    n_asked: int
    seed: int

    def gate_vector(self, n: int) -> Tensor:
        """The gates, float64 but with float32's digits, so that both formats mean the same gates."""
        generator = torch.Generator().manual_seed(self.seed)
        decided = (torch.rand(n, generator=generator) < self.kept).float()
        between = 0.02 + 0.96 * torch.rand(n, generator=generator)
        chance = torch.rand(n, generator=generator)
        if self.gates == "zeros":
            return torch.zeros(n, dtype=torch.float64)
        if self.gates == "ones":
            return torch.ones(n, dtype=torch.float64)
        if self.gates == "undecided":
            return between.double()
        if self.gates == "single":
            return torch.where(chance == chance.min(), between, decided).double()
        return torch.where(chance < self.undecided, between, decided).double()


@st.composite
def situations(draw: st.DrawFn, ablations: tuple[str, ...] = ABLATIONS) -> Situation:
    """Any situation; means per position come without padding, which they do not allow."""
    ablation = draw(st.sampled_from(ablations))
    side = "none" if ablation == "mean-positional" else draw(st.sampled_from(["left", "right", "none"]))
    if side == "none":
        lengths = (draw(st.integers(1, 6)),) * draw(st.integers(1, 3))
    else:
        lengths = tuple(draw(st.lists(st.integers(1, 6), min_size=2, max_size=3)))
    return Situation(
        gates=draw(st.sampled_from(["mixture", "mixture", "mixture", "single", "undecided", "ones", "zeros"])),
        undecided=draw(st.sampled_from([0.0, 0.05, 0.3, 0.8])),
        kept=draw(st.sampled_from([0.05, 0.3, 0.7, 0.95])),
        ablation=ablation,
        side=side,
        lengths=lengths,
        n_asked=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, 10_000)),
    )


@dataclass(frozen=True)
class Edits:
    """What is done to a graph.

    Attributes:
        removed: Share of removed edges.
        frozen: Share of frozen ones, ties whole.
        ties: Which edges share a gate: `none`, those of a `writer` or `reader`, or half of all, at `random` in eights.
        seed: Of the draws.
    """

    removed: float
    frozen: float
    ties: str
    seed: int

    def made_to(self, universe: Universe) -> EditedEdges:
        """The edits, edge by edge; which edge's mask a gate bears is drawn, too."""
        rng = np.random.default_rng(self.seed)
        alone = np.arange(universe.n_edges)
        writers, readers = universe.endpoints(alone)
        at_random = np.where(rng.random(len(alone)) < 0.5, rng.integers(0, min(8, len(alone)), len(alone)), alone)
        tied = {"none": alone, "writer": writers, "reader": readers, "random": at_random}[self.ties]
        mask = rng.permutation(alone)[tied]
        return EditedEdges(
            removed=rng.random(len(alone)) < self.removed,
            frozen=(rng.random(len(alone)) < self.frozen)[mask],
            mask=mask,
        )


def drawn_edits() -> st.SearchStrategy[Edits]:
    """Any edits, none among them."""
    shares = st.sampled_from([0.0, 0.1, 0.4])
    ties = st.sampled_from(["none", "writer", "reader", "random", "random"])
    return st.builds(Edits, removed=shares, frozen=shares, ties=ties, seed=st.integers(0, 10_000))


@dataclass(frozen=True, kw_only=True)
class EditedEdges:
    """Edits, edge by edge, and what they mean: worked out here, without `GateMap`.

    Attributes:
        removed: Booleans `[edge]`.
        frozen: Booleans `[edge]`.
        mask: The number of the gate that each edge asks for `[edge]`.
    """

    removed: np.ndarray
    frozen: np.ndarray
    mask: np.ndarray

    def edit(self, universe: Universe, graph: nx.DiGraph) -> nx.DiGraph:
        """Edit a graph; returns it."""
        for edge, (removed, frozen, mask) in enumerate(zip(self.removed, self.frozen, self.mask, strict=True)):
            source, target = universe.edge_name(edge).split("->")
            if removed:
                graph.remove_edge(source, target)
            else:
                graph.edges[source, target].update(frozen=bool(frozen), mask=int(mask))
        return graph

    @property
    def trained(self) -> list[int]:
        """The masks that are left to train, in the order of their first edges."""
        return list(dict.fromkeys(self.mask[~self.removed & ~self.frozen].tolist()))

    def gates(self, of_mask: Tensor) -> Tensor:
        """A gate an edge, given one a mask."""
        removed, frozen, mask = (torch.from_numpy(part) for part in (self.removed, self.frozen, self.mask))
        return of_mask[mask].masked_fill(frozen, 1.0).masked_fill(removed, 0.0)


@dataclass(frozen=True)
class BothWays:
    """A compiled model beside the definition, in one situation."""

    compiled: CompiledModel
    plain: oracle.PlainModel
    situation: Situation

    @cached_property
    def batches(self) -> tuple[TokenBatch, TokenBatch]:
        """Clean and corrupted prompts."""
        lengths, side, n_asked = list(self.situation.lengths), self.situation.side, self.situation.n_asked
        n_tokens = self.compiled.model.config.vocab_size
        return pair_of_batches(lengths=lengths, side=side, n_asked=n_asked, n_tokens=n_tokens, seed=self.situation.seed)

    @property
    def gates(self) -> Tensor:
        """The situation's gates, float64."""
        return self.situation.gate_vector(self.compiled.universe.n_edges)

    def values(self) -> AblationValues:
        """The executor's ablation values; means are over both batches."""
        if self.situation.ablation == "counterfactual":
            return self.compiled.run_with_values(self.batches[1])[1]
        if self.situation.ablation == "optimal":
            return learnt_values(self.compiled, self.situation.seed)
        return self.compiled.ablation_values(self.situation.ablation, self.batches)

    def definition_values(self) -> list[oracle.Said]:
        """The definition's, for each prompt."""
        universe, ablation = self.compiled.universe, self.situation.ablation
        clean, corrupted = (prompt_rows(batch) for batch in self.batches)
        if ablation == "counterfactual":
            return [oracle.plain_run(self.plain, universe, ids)[1] for ids in corrupted]
        if ablation == "zero":
            nothing = torch.zeros((), dtype=self.plain.layers[0].output_bias.dtype)
            return [dict.fromkeys(universe.writers, nothing)] * len(clean)
        if ablation == "optimal":
            return [self._constants(self.values())] * len(clean)
        prompts, per_position = clean + corrupted, ablation == "mean-positional"
        return [oracle.mean_said(self.plain, universe, prompts, per_position=per_position)] * len(clean)

    def _constants(self, values: AblationValues) -> oracle.Said:
        """Values that are the same everywhere, as the definition has them: of a head what it adds to the stream."""
        dtype = self.plain.layers[0].output_bias.dtype
        embeddings = [value[0, 0].to(dtype) for value in values.embeddings]
        if self.compiled.universe.embeddings == "joint":
            embeddings = [torch.stack(embeddings).sum(0)]
        said: oracle.Said = dict(zip(self.compiled.universe.writers, embeddings, strict=False))
        for number, layer in enumerate(self.plain.layers):
            for head, output in enumerate(layer.outputs):
                said[f"a{number}.h{head}"] = values.heads[number][head, 0, 0].to(dtype) @ output
            said[f"m{number}"] = values.mlps[number][0, 0].to(dtype)
        return said

    def executor(self, gates: Tensor, wanted: Tensor | None = None) -> Tensor:
        """The executor's logits at the asked positions."""
        return self.compiled.masked(gates, self.batches[0], self.values(), wanted=wanted).logits

    def definition(self, gates: Tensor) -> Tensor:
        """The definition's."""
        rows = [
            oracle.run(self.plain, self.compiled.universe, gates, ids, ablated)[0]
            for ids, ablated in zip(prompt_rows(self.batches[0]), self.definition_values(), strict=True)
        ]
        return torch.stack([rows[prompt][place] for prompt, place in asked_places(self.batches[0])])

    def gradients(self, run: Callable[[Tensor], Tensor], gates: Tensor, *, seed: int = 1) -> tuple[Tensor, Tensor]:
        """Logits, and the gradient in the gates of a random projection of them."""
        gates = gates.clone().requires_grad_()
        logits = run(gates)
        generator = torch.Generator().manual_seed(seed)
        direction = torch.randn(logits.shape, generator=generator, dtype=torch.float64)
        (gradient,) = torch.autograd.grad((logits * direction.to(logits.dtype)).sum(), gates)
        return logits.detach(), gradient


WAYS = ("rows", "dense", "gathered", "tiled")
"""How the products of the stream can be taken on a CPU: the first two by torch, the others by kernels."""


def mix_by(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every product of the stream go one way of `WAYS`."""
    if way in ("gathered", "tiled"):
        pytest.importorskip("numba")
        from circuitgraph.forward.engine.cpu import engine

        monkeypatch.setattr(engine, "DENSE_FROM", 2.0 if way == "gathered" else 0.0)
        monkeypatch.setattr(engine, "DOTS_BELOW", 2.0 if way == "gathered" else 0.0)
        return
    take_engine(PlainEngine(), monkeypatch)
    monkeypatch.setattr(plain, "GATHER_BELOW", 2.0 if way == "rows" else 0.0)


def take_engine(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have one engine compute everything, whatever device and number format there are."""
    for module in (masked, uncut):
        monkeypatch.setattr(module, "engine_for", lambda device, dtype: engine)


def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do everything by torch's own operators, as without Numba."""
    take_engine(PlainEngine(), monkeypatch)
