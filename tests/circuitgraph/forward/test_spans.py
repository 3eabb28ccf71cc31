"""Gates that differ by span of positions, against hooks in the untouched model; and spans that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from circuitgraph.batch import TokenBatch
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.graph.gate_map import GateMap
from circuitgraph.graph.spans import SpannedUniverse, with_spans
from tests.circuitgraph.extract.extract_cases import learnt_values
from tests.oracles.cases import ModelMakers, pair_of_batches
from tests.oracles.hooks import all_said, run_gated

NAMES = ("start", "name", "end")
CASES = ["gpt2", "llama-gqa", pytest.param("gpt2-joint-qkv", marks=pytest.mark.slow)]


def spanned(compiled: CompiledModel, asked: tuple[str, ...] = NAMES) -> CompiledModel:
    universe = with_spans(compiled.universe, NAMES, asked=asked)
    return replace(compiled, universe=universe, gate_map=GateMap.identity(universe))


@pytest.fixture(params=CASES)
def compiled(request: pytest.FixtureRequest, tiny_gpt2, tiny_llama) -> CompiledModel:
    return spanned(ModelMakers(tiny_gpt2, tiny_llama).compile(request.param, dtype=torch.float64))


def labelled(batch: TokenBatch, seed: int) -> TokenBatch:
    """Spans of random lengths, some of them empty, in every prompt."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(NAMES), batch.input_ids.shape, generator=generator).sort(1).values
    return replace(batch, span_ids=torch.where(batch.attention_mask > 0, labels, -7))


def batches(compiled: CompiledModel, seed: int, side: str = "left") -> tuple[TokenBatch, TokenBatch]:
    vocabulary = compiled.shape.d_vocab
    clean, corrupted = pair_of_batches(lengths=[7, 4, 7], side=side, n_asked=2, n_tokens=vocabulary, seed=seed)
    return labelled(clean, seed), corrupted


def ablated(compiled: CompiledModel, ablation: str, corrupted: TokenBatch) -> tuple[AblationValues, dict[str, Tensor]]:
    """The values, and what each writer of the universe without spans says when it is ablated."""
    plain = compiled.universe.without_spans
    if ablation == "counterfactual":
        return compiled.run_with_values(corrupted)[1], all_said(compiled.model, plain, corrupted)
    if ablation == "zero":
        return compiled.ablation_values("zero"), dict.fromkeys(plain.writers, torch.zeros((), dtype=torch.float64))
    said = all_said(compiled.model, plain, corrupted)
    real = corrupted.attention_mask.bool()
    return compiled.ablation_values("mean", [corrupted]), {name: said[name][real].mean(0) for name in plain.writers}


def by_position(universe: SpannedUniverse, gates: Tensor, batch: TokenBatch) -> Tensor:
    """Every position's gate of every edge `[batch seq edge]`, by the edges' names; 1 at padding."""
    plain = universe.without_spans
    rows = [torch.ones(plain.n_edges, dtype=gates.dtype)]
    for span in universe.spans:
        names = [universe.writers.index(f"{writer}@{span}") for writer in plain.writers]
        assert names == sorted(names)
        edges = []
        for edge in range(plain.n_edges):
            writer, reader = plain.edge_name(edge).split("->")
            edges.append(universe.edge_index(f"{writer}@{span}", f"{reader}@{span}"))
        rows.append(gates[edges])
    assert batch.span_ids is not None
    return torch.stack(rows)[torch.where(batch.attention_mask > 0, batch.span_ids + 1, 0)]


def some_gates(n: int, seed: int, undecided: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    decided = (torch.rand(n, generator=generator) < 0.5).double()
    between = torch.rand(n, generator=generator, dtype=torch.float64)
    return torch.where(torch.rand(n, generator=generator) < undecided, between, decided)


@pytest.mark.parametrize("ablation", ["counterfactual", "zero", pytest.param("mean", marks=pytest.mark.slow)])
def test_gates_of_each_span_equal_hooks_at_its_positions(compiled: CompiledModel, ablation: str) -> None:
    universe = compiled.universe
    assert isinstance(universe, SpannedUniverse)
    for seed, undecided in enumerate((0.3, 1.0)):
        clean, corrupted = batches(compiled, seed, ("left", "right")[seed])
        values, said = ablated(compiled, ablation, corrupted)
        gates = some_gates(universe.n_edges, seed, undecided).requires_grad_()
        theirs = run_gated(compiled.model, universe.without_spans, by_position(universe, gates, clean), clean, said)
        weights = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        (expected,) = torch.autograd.grad((theirs * weights).sum(), gates)
        ran = compiled.masked(gates, clean, values, wanted=torch.ones(universe.n_edges, dtype=torch.bool))
        # float64 sums in another order.
        torch.testing.assert_close(ran.logits, theirs, atol=1e-9, rtol=1e-9)
        (found,) = torch.autograd.grad((ran.logits * weights).sum(), gates)
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
        assert (expected.abs() > 1e-6).any()


def test_sparse_gates_that_cannot_matter_are_not_run(compiled: CompiledModel) -> None:
    universe = compiled.universe
    for seed in range(6):
        clean, corrupted = batches(compiled, seed)
        values, said = ablated(compiled, ("counterfactual", "zero")[seed % 2], corrupted)
        gates = (torch.rand(universe.n_edges, generator=torch.Generator().manual_seed(seed)) < 0.12).double()
        theirs = run_gated(compiled.model, universe.without_spans, by_position(universe, gates, clean), clean, said)
        ran = compiled.masked(gates, clean, values)
        torch.testing.assert_close(ran.logits, theirs, atol=1e-9, rtol=1e-9)
    assert ran.live_heads < 3 * compiled.shape.n_layers * compiled.shape.n_heads


@pytest.mark.parametrize("ablation", ["counterfactual", "zero"])
def test_equal_gates_at_all_spans_are_gates_without_spans(compiled: CompiledModel, ablation: str) -> None:
    universe = compiled.universe
    plain = replace(compiled, universe=universe.without_spans, gate_map=GateMap.identity(universe.without_spans))
    clean, corrupted = batches(compiled, 3)
    values, _ = ablated(compiled, ablation, corrupted)
    gates = some_gates(plain.universe.n_edges, 3, 0.4)
    ours = compiled.masked(torch.cat([gates] * 3), clean, values).logits
    torch.testing.assert_close(ours, plain.masked(gates, clean, values).logits, atol=1e-11, rtol=1e-11)
    everything = compiled.masked(torch.ones(universe.n_edges, dtype=torch.float64), clean, values).logits
    torch.testing.assert_close(everything, compiled.logits(clean), atol=1e-11, rtol=1e-11)


def test_learnt_constants_take_the_gradient_that_differences_show(compiled: CompiledModel) -> None:
    clean, _ = batches(compiled, 4)
    values = learnt_values(compiled, seed=5)
    leaves = [values.embeddings[0], values.heads[1], values.attention[0], values.mlps[0]]
    for leaf in leaves:
        leaf.requires_grad_()
    gates = some_gates(compiled.universe.n_edges, 5, 0.3)

    def total() -> Tensor:
        return compiled.masked(gates, clean, values).logits.square().sum()

    gradients = torch.autograd.grad(total(), leaves)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        place = int(gradient.abs().argmax())
        with torch.no_grad():
            leaf.view(-1)[place] += 1e-5
            up = float(total())
            leaf.view(-1)[place] -= 2e-5
            down = float(total())
        assert float(gradient.view(-1)[place]) == pytest.approx((up - down) / 2e-5, rel=1e-4)


def _no_labels(batch: TokenBatch) -> TokenBatch:
    return replace(batch, span_ids=None)


def _unknown(batch: TokenBatch) -> TokenBatch:
    return replace(batch, span_ids=torch.full_like(batch.input_ids, 3))


def _backward(batch: TokenBatch) -> TokenBatch:
    assert batch.span_ids is not None
    labels = torch.zeros_like(batch.span_ids)
    labels[:, -2] = 2
    return replace(batch, span_ids=labels)


@pytest.mark.parametrize(
    ("change", "asked", "words"),
    [
        (_no_labels, NAMES, "the batch does not say which position is in which"),
        (_unknown, NAMES, r"expected the number of a span, 0 to 2 \(start, name, end\); got 3"),
        (_backward, NAMES, "it is in span 'start', but a token before it is in 'end'"),
        (lambda batch: batch, ("name",), "something is asked at span"),
    ],
)
def test_spans_that_do_not_fit_are_refused(
    change: Callable[[TokenBatch], TokenBatch], asked: tuple[str, ...], words: str, tiny_gpt2, tiny_llama
) -> None:
    compiled = spanned(ModelMakers(tiny_gpt2, tiny_llama).compile("gpt2", dtype=torch.float64), asked)
    clean, _ = batches(compiled, 0)
    gates = torch.ones(compiled.universe.n_edges, dtype=torch.float64)
    with pytest.raises(ConfigurationError, match=words):
        compiled.masked(gates, change(clean), compiled.ablation_values("zero"))


def test_a_model_that_sees_both_sides_is_refused(tiny_gpt2, tiny_llama) -> None:
    compiled = spanned(ModelMakers(tiny_gpt2, tiny_llama).compile("tracr-both-ways", dtype=torch.float64))
    clean, _ = batches(compiled, 0)
    gates = torch.ones(compiled.universe.n_edges, dtype=torch.float64)
    with pytest.raises(ConfigurationError, match="sees tokens on both sides"):
        compiled.masked(gates, clean, compiled.ablation_values("zero"))
