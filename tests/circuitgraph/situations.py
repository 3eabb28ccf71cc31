"""Random situations for a masked pass, and both answers to each: the executor's and the definition's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from circuitgraph.batch import TokenBatch
from circuitgraph.compile import CompiledModel
from circuitgraph.forward import fused_reads, kernels, mixing
from circuitgraph.forward.reference import AblationValues
from tests.circuitgraph import oracle_definition as oracle
from tests.circuitgraph.oracle_cases import asked_places, pair_of_batches, prompt_rows

ABLATIONS = ("counterfactual", "zero", "mean", "mean-positional")


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
        prompts, per_position = clean + corrupted, ablation == "mean-positional"
        return [oracle.mean_said(self.plain, universe, prompts, per_position=per_position)] * len(clean)

    def executor(self, gates: Tensor, wanted: Tensor | None = None) -> Tensor:
        """The executor's logits at the asked positions."""
        clean, ablation = self.batches[0], self.situation.ablation
        return self.compiled.masked(gates, clean, self.values(), ablation=ablation, wanted=wanted).logits

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


WAYS = ("rows", "sparse", "dense", "gathered", "tiled")
"""How the products of the stream can be taken on a CPU: the first three by torch, the others by kernels."""


def mix_by(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every product of the stream go one way of `WAYS`."""
    if way in ("gathered", "tiled"):
        pytest.importorskip("numba")
        monkeypatch.setattr(mixing, "CPU_DENSE_FROM", 2.0 if way == "gathered" else 0.0)
        monkeypatch.setattr(mixing, "CPU_DOTS_BELOW", 2.0)
        monkeypatch.setattr(fused_reads, "CPU_DOTS_BELOW", 2.0 if way == "gathered" else 0.0)
        return
    without_kernels(monkeypatch)
    limits = {"rows": (2.0, 2.0, 2.0), "sparse": (0.0, 2.0, 2.0), "dense": (0.0, 0.0, 0.0)}[way]
    for name, limit in zip(("ROWS_BELOW", "MIX_SPARSE_BELOW", "DOT_SPARSE_BELOW"), limits, strict=True):
        monkeypatch.setattr(mixing, name, limit)
    monkeypatch.setattr(mixing, "FEW_DOTS", 0)


def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do everything by torch's own operators, as without Numba."""
    monkeypatch.setattr(kernels, "_cpu_package", lambda: None)
