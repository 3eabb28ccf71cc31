"""Gradients of a masked pass in its gates, against autograd through the definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from torch import Tensor, nn

from tests.circuitgraph.forward.situations import (
    ABLATIONS,
    WAYS,
    BothWays,
    Edits,
    Situation,
    drawn_edits,
    mix_by,
    situations,
    without_kernels,
)
from tests.oracles import definition as oracle
from tests.oracles.cases import BATTERY, ModelMakers, in_parallel

PLAIN = Situation("mixture", 0.4, 0.5, "counterfactual", "left", (5, 3), 2, 3)
EDITS = Edits(removed=0.2, frozen=0.2, ties="random", seed=4)


@pytest.fixture(scope="module", params=BATTERY)
def exact(request: pytest.FixtureRequest, tiny_gpt2: Callable[..., nn.Module], tiny_llama) -> BothWays:
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(request.param, dtype=torch.float64)
    return BothWays(compiled, oracle.plain_model(compiled.model), PLAIN)


@pytest.fixture
def gpt2(tiny_gpt2, tiny_llama) -> BothWays:
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile("gpt2", dtype=torch.float64)
    return BothWays(compiled, oracle.plain_model(compiled.model), PLAIN)


def assert_exact(ours: Tensor, truth: Tensor) -> None:
    """Equal to 1e-9 of the largest gradient, or of 1.

    Under zero ablation a reader may see exactly nothing; an RMS norm's slope is 1e3 there, and two of them
    in a row give gradients of 1e6, of which only relative digits can be asked.
    """
    assert ours.shape == truth.shape
    assert (ours - truth).abs().max() <= 1e-9 * truth.abs().max().clamp(min=1)


def undecided(gates: Tensor) -> Tensor:
    return (gates > 0) & (gates < 1)


def check_gradients(both: BothWays, gates: Tensor | None = None) -> None:
    """Default `wanted`, all gates, and a random half of them; the gates are the situation's unless given."""
    gates = both.gates if gates is None else gates
    logits, truth = both.gradients(both.definition, gates)
    half = torch.rand(len(gates), generator=torch.Generator().manual_seed(both.situation.seed)) < 0.5
    for wanted, expected in (
        (None, undecided(gates)),
        (torch.ones_like(half), torch.ones_like(half)),
        (half, half),
    ):
        ours, gradient = both.gradients(lambda z, wanted=wanted: both.executor(z, wanted), gates)
        torch.testing.assert_close(ours, logits, atol=1e-9, rtol=1e-9)
        assert_exact(gradient, torch.where(expected, truth, 0.0))
        assert not gradient[~expected].any()


@given(situation=situations())
@example(situation=replace(PLAIN, gates="zeros"))
@example(situation=replace(PLAIN, gates="ones"))
@example(situation=replace(PLAIN, gates="undecided"))
@example(situation=replace(PLAIN, gates="single", side="right"))
@example(situation=replace(PLAIN, gates="zeros", ablation="zero"))
@example(situation=replace(PLAIN, gates="ones", ablation="mean"))
@example(situation=replace(PLAIN, kept=0.05, ablation="optimal"))
@settings(max_examples=6, deadline=None, derandomize=True, database=None)
def test_gate_gradients_equal_the_definitions(exact: BothWays, situation: Situation) -> None:
    check_gradients(replace(exact, situation=situation))


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_heads_of_two_layers_that_read_nothing(gpt2: BothWays, ablation: str) -> None:
    """They say constants, so the later one's gradient has no earlier writer to be mixed onto."""
    universe = gpt2.compiled.universe
    gates = torch.zeros(universe.n_edges, dtype=torch.float64)
    gates[[universe.edge_index(head, "logits") for head in ("a0.h0", "a1.h0")]] = 0.5
    check_gradients(replace(gpt2, situation=replace(PLAIN, ablation=ablation)), gates)


def hard_concrete(log_alpha: Tensor, noise: Tensor) -> Tensor:
    """Gates by the formula, given the logits of uniform draws."""
    return (torch.sigmoid((noise + log_alpha) * 1.5) * 1.2 - 0.1).clamp(0, 1)


def draw_noise(n: int, seed: int) -> Tensor:
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (1e-6 + (1 - 2e-6) * uniform).logit()


def log_alpha_of(gates: Tensor, noise: Tensor) -> Tensor:
    """Where hard-concrete gates come out as some gates; those exactly 0 or 1, well beyond."""
    stretched = torch.where(gates <= 0, -0.05, torch.where(gates >= 1, 1.05, gates))
    return ((stretched + 0.1) / 1.2).logit() / 1.5 - noise


def check_log_alpha(both: BothWays, edits: Edits) -> None:
    """Gradients in log_alpha, a number a gate, through an edited graph: by default, and with all gates asked for.

    A gradient in a gate is the sum over the edges that it gates; removed and frozen edges give none.
    """
    universe, seed = both.compiled.universe, both.situation.seed
    edited = edits.made_to(universe)
    gate_map = both.compiled.with_graph(edited.edit(universe, both.compiled.graph)).gate_map
    assert gate_map.n_parameters == len(edited.trained)
    index = torch.from_numpy(gate_map.parameter_of_edge.astype(np.int64))
    noise = draw_noise(universe.n_edges, seed)
    log_alpha = log_alpha_of(both.gates, noise)

    def by_map(log_alpha: Tensor) -> Tensor:
        parameters = hard_concrete(log_alpha, noise)[edited.trained]
        return torch.cat([parameters, parameters.new_tensor([1.0, 0.0])])[index]

    logits, truth = both.gradients(lambda a: both.definition(edited.gates(hard_concrete(a, noise))), log_alpha)
    for wanted in (None, torch.ones(universe.n_edges, dtype=torch.bool)):
        ours, gradient = both.gradients(lambda a, wanted=wanted: both.executor(by_map(a), wanted), log_alpha)
        torch.testing.assert_close(ours, logits, atol=1e-9, rtol=1e-9)
        assert_exact(gradient, truth)


@given(situation=situations(), edits=drawn_edits())
@example(situation=PLAIN, edits=EDITS)
@settings(max_examples=3, deadline=None, derandomize=True, database=None)
def test_tied_frozen_and_removed_edges(exact: BothWays, situation: Situation, edits: Edits) -> None:
    check_log_alpha(replace(exact, situation=situation), edits)


@pytest.mark.full
@given(situation=situations(), edits=drawn_edits())
@settings(max_examples=200, deadline=None, database=None)
def test_edited_graphs_in_many_situations(exact: BothWays, situation: Situation, edits: Edits) -> None:
    check_log_alpha(replace(exact, situation=situation), edits)


@given(situation=situations())
@example(situation=replace(PLAIN, kept=1.0))
@settings(max_examples=6, deadline=None, derandomize=True, database=None)
def test_parallel_blocks(tiny_gpt2, tiny_llama, situation: Situation) -> None:
    """An MLP that does not read its own layer's heads, as in GPT-J; no family here has such blocks yet."""
    for case in ("gpt2", "llama-gqa"):
        compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=torch.float64)
        assert in_parallel(compiled).universe.n_edges < compiled.universe.n_edges
        check_gradients(BothWays(in_parallel(compiled), oracle.plain_model(compiled.model), situation))


@given(situation=situations())
@example(situation=replace(PLAIN, gates="undecided"))
@settings(max_examples=4, deadline=None, derandomize=True, database=None)
@pytest.mark.slow
def test_without_kernels(exact: BothWays, situation: Situation) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        without_kernels(monkeypatch)
        check_gradients(replace(exact, situation=situation))


@pytest.mark.full
@given(situation=situations())
@settings(max_examples=200, deadline=None, database=None)
def test_gate_gradients_equal_the_definitions_in_many_situations(exact: BothWays, situation: Situation) -> None:
    check_gradients(replace(exact, situation=situation))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_mixing(exact: BothWays, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mix_by(way, monkeypatch)
    check_gradients(exact)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("case", ["gpt2", "llama-gqa"])
def test_float32_rounds_no_worse_than_autograd_does(case: str, ablation: str, tiny_gpt2, tiny_llama) -> None:
    """As for the logits: eight times autograd's own float32 error, plus 64 roundings of the largest gradient.

    Gates are undecided or 1 here: at a reader that sees nothing, the slope of an RMS norm magnifies one
    rounding a thousandfold, in autograd or here as chance has it.
    """
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=torch.float32)
    side = "none" if ablation == "mean-positional" else "left"
    lengths = (5, 5) if side == "none" else (6, 3)
    for seed in range(3):
        both = BothWays(
            compiled,
            oracle.plain_model(compiled.model),
            Situation("mixture", 0.4, 1.0, ablation, side, lengths, 2, seed),
        )  # fmt: skip
        narrow = replace(both, plain=oracle.plain_model(compiled.model, torch.float32))
        gates = both.gates
        every = torch.ones(len(gates), dtype=torch.bool)
        truth = both.gradients(both.definition, gates)[1]
        noise = (narrow.gradients(narrow.definition, gates.float())[1].double() - truth).abs().max()
        ours = both.gradients(lambda z: both.executor(z, every), gates.float())[1]  # noqa: B023
        allowed = 8 * noise + 64 * torch.finfo(torch.float32).eps * truth.abs().max()
        assert (ours.double() - truth).abs().max() <= allowed


def test_hard_concrete_gradients_are_exact_in_log_alpha(exact: BothWays) -> None:
    """Clamped samples have no gradient, so asking for the undecided gates alone loses nothing."""
    n = exact.compiled.universe.n_edges
    noise = draw_noise(n, seed=5)
    log_alpha = torch.randn(n, generator=torch.Generator().manual_seed(5), dtype=torch.float64).requires_grad_()
    assert 0 < undecided(hard_concrete(log_alpha, noise)).sum() < n
    grads = []
    for run in (exact.executor, exact.definition):
        grads.append(torch.autograd.grad(run(hard_concrete(log_alpha, noise)).square().sum(), log_alpha)[0])
    assert_exact(*grads)


def test_gates_composed_of_edges_and_writers(exact: BothWays) -> None:
    """An edge is kept if it and its writer are: `z = z_edge · z_writer`, gradients reach both."""
    universe = exact.compiled.universe
    generator = torch.Generator().manual_seed(2)
    writers, _ = universe.endpoints(np.arange(universe.n_edges))

    def hard(n: int) -> Tensor:
        return (1.6 * torch.rand(n, generator=generator, dtype=torch.float64) - 0.3).clamp(0, 1).requires_grad_()

    edge_gates, writer_gates = hard(universe.n_edges), hard(universe.n_writers)
    every = torch.ones(universe.n_edges, dtype=torch.bool)
    truth = torch.autograd.grad(
        exact.definition(edge_gates * writer_gates[writers]).square().sum(), [edge_gates, writer_gates]
    )
    ours = torch.autograd.grad(
        exact.executor(edge_gates * writer_gates[writers], every).square().sum(), [edge_gates, writer_gates]
    )
    for mine, right in zip(ours, truth, strict=True):
        assert_exact(mine, right)
    # By default a product of exactly 0 or 1 passes nothing on; where both factors are undecided so is it.
    composed = edge_gates * writer_gates[writers]
    (by_default,) = torch.autograd.grad(exact.executor(composed).square().sum(), [edge_gates])
    both_undecided = undecided(edge_gates) & undecided(writer_gates[writers])
    assert_exact(by_default[both_undecided], truth[0][both_undecided])


def test_weights_take_no_gradient(gpt2: BothWays) -> None:
    model = gpt2.compiled.model
    model.requires_grad_(True)
    gates = gpt2.gates.requires_grad_()
    gpt2.executor(gates).sum().backward()
    assert gates.grad is not None and gates.grad.any()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_a_position_asked_twice_counts_twice(gpt2: BothWays) -> None:
    clean, corrupted = gpt2.batches
    values = gpt2.compiled.run_with_values(corrupted)[1]

    def gradient(batch, factor: float) -> Tensor:
        gates = gpt2.gates.requires_grad_()
        logits = gpt2.compiled.masked(gates, batch, values).logits
        return torch.autograd.grad(factor * logits.square().sum(), gates)[0]

    once = replace(clean, predict_index=clean.predict_index[:1], predict_prompt=clean.predict_prompt[:1])
    twice = replace(clean, predict_index=clean.predict_index[[0, 0]], predict_prompt=clean.predict_prompt[[0, 0]])
    assert_exact(gradient(twice, 1.0), gradient(once, 2.0))


def test_gates_that_nothing_hangs_on_get_a_zero_gradient(gpt2: BothWays) -> None:
    gates = torch.zeros_like(gpt2.gates).requires_grad_()
    (gradient,) = torch.autograd.grad(gpt2.executor(gates).sum(), gates)
    assert gradient.shape == gates.shape and not gradient.any()
