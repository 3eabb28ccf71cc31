"""Gradients of a masked pass in learnt constants, against autograd through the definition; constants by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Gemma2Config, Gemma2ForCausalLM

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.constants import (
    constant_widths,
    constants_of_names,
    constants_of_values,
    named_constants,
    values_of_constants,
)
from circuitgraph.forward.plan.fixed import FixedPlan
from tests.circuitgraph.forward.situations import BothWays, Situation, mix_by
from tests.oracles import definition as oracle
from tests.oracles.cases import ModelMakers, asked_places, in_parallel, pair_of_batches, prompt_rows

MIXED = Situation("mixture", 0.4, 0.5, "optimal", "left", (5, 3), 2, 3)


def compile_case(case: str, tiny_gpt2, tiny_llama) -> tuple[CompiledModel, oracle.PlainModel]:
    name, _, parallel = case.partition("|")
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(name, dtype=torch.float64)
    plain = oracle.plain_model(compiled.model)
    return (in_parallel(compiled) if parallel else compiled), plain


def drawn(compiled: CompiledModel, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    n = sum(constant_widths(compiled.runnable).values())
    return torch.randn(n, generator=generator, dtype=torch.float64).mul(0.5).requires_grad_()


def said_by(plain: oracle.PlainModel, compiled: CompiledModel, numbers: Tensor) -> oracle.Said:
    """The definition's ablated writers: each constant, of a head through its rows of the output projection."""
    said: oracle.Said = {}
    for name, part in zip(
        compiled.universe.writers, numbers.split(list(constant_widths(compiled.runnable).values())), strict=True
    ):
        if name.startswith("a"):
            layer, head = name[1:].split(".h")
            part = part @ plain.layers[int(layer)].outputs[int(head)]
        said[name] = part
    return said


def both_gradients(both: BothWays, gates: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Of a random projection of the logits, in gates and constants: the executor's and the definition's."""
    compiled, numbers = both.compiled, drawn(both.compiled)
    gates = gates.clone().requires_grad_()
    every = torch.ones(len(gates), dtype=torch.bool)
    ours = compiled.masked(gates, both.batches[0], values_of_constants(compiled.runnable, numbers), wanted=every)
    said = said_by(both.plain, compiled, numbers)
    rows = [oracle.run(both.plain, compiled.universe, gates, ids, said)[0] for ids in prompt_rows(both.batches[0])]
    truth = torch.stack([rows[prompt][place] for prompt, place in asked_places(both.batches[0])])
    torch.testing.assert_close(ours.logits, truth, atol=1e-9, rtol=1e-9)
    weights = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (
        torch.autograd.grad((ours.logits * weights).sum(), [gates, numbers]),
        torch.autograd.grad((truth * weights).sum(), [gates, numbers]),
    )


@pytest.mark.parametrize("situation", [MIXED, replace(MIXED, kept=0.05, undecided=0.05), replace(MIXED, kept=0.95)])
@pytest.mark.parametrize("case", ["gpt2", "gpt2-split-embeddings", "llama-gqa", "gpt2|parallel"])
def test_constants_gradients_equal_the_definitions(case: str, situation: Situation, tiny_gpt2, tiny_llama) -> None:
    compiled, plain = compile_case(case, tiny_gpt2, tiny_llama)
    both = BothWays(compiled, plain, situation)
    for ours, truth in zip(*both_gradients(both, both.gates), strict=True):
        assert (ours - truth).abs().max() <= 1e-9 * truth.abs().max().clamp(min=1)
        assert truth.abs().max() > 1e-3


@pytest.mark.parametrize("way", ["rows", "gathered", "tiled"])
def test_every_way_of_mixing(way: str, tiny_gpt2, tiny_llama, monkeypatch: pytest.MonkeyPatch) -> None:
    mix_by(way, monkeypatch)
    test_constants_gradients_equal_the_definitions("gpt2", MIXED, tiny_gpt2, tiny_llama)


def test_gates_that_take_no_gradient(tiny_gpt2, tiny_llama) -> None:
    """A circuit's own constants, gates 0 and 1: a step of each number alone, by central differences."""
    compiled, plain = compile_case("gpt2", tiny_gpt2, tiny_llama)
    both = BothWays(compiled, plain, MIXED)
    gates = both.gates.round()

    def loss(numbers: Tensor) -> Tensor:
        ran = compiled.masked(gates, both.batches[0], values_of_constants(compiled.runnable, numbers))
        return ran.logits.square().mean()

    numbers = drawn(compiled)
    (gradient,) = torch.autograd.grad(loss(numbers), numbers)
    assert not gates.requires_grad and gradient.any()
    for place in np.random.default_rng(0).choice(len(numbers), 25, replace=False):
        step = torch.zeros_like(numbers).detach()
        step[place] = 1e-5
        with torch.no_grad():
            slope = (loss(numbers + step) - loss(numbers - step)) / 2e-5
        assert abs(slope - gradient[place]) <= 1e-6 * gradient.abs().max()


def test_heads_that_share_a_scale() -> None:
    """Gemma 2, whose norms behind attention and MLP act on their sum, by central differences.

    Its norms compute in float32 whatever the model's format, so a difference over a step of 0.01 has four digits.
    """
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=32, attn_implementation="eager",
    )  # fmt: skip
    compiled = compile_model(Gemma2ForCausalLM(config).double().eval(), verify=False)
    batch = pair_of_batches(lengths=[5, 3], side="left", n_asked=2, n_tokens=32, seed=0)[0]
    gates = MIXED.gate_vector(compiled.universe.n_edges)

    def loss(numbers: Tensor) -> Tensor:
        return compiled.masked(gates, batch, values_of_constants(compiled.runnable, numbers)).logits.square().mean()

    numbers = drawn(compiled)
    (gradient,) = torch.autograd.grad(loss(numbers), numbers)
    for place in np.random.default_rng(0).choice(len(numbers), 25, replace=False):
        step = torch.zeros_like(numbers).detach()
        step[place] = 1e-2
        with torch.no_grad():
            slope = (loss(numbers + step) - loss(numbers - step)) / 2e-2
        assert abs(slope - gradient[place]) <= 1e-3 * gradient.abs().max()


def test_a_plan_made_beforehand(tiny_gpt2, tiny_llama) -> None:
    """One head of the last layer alone is kept, so its readers have no edge at all and see constants."""
    compiled, plain = compile_case("gpt2", tiny_gpt2, tiny_llama)
    both = BothWays(compiled, plain, replace(MIXED, side="none", lengths=(4, 4)))
    gates, numbers = torch.zeros_like(both.gates), drawn(compiled)
    gates[compiled.universe.edge_index("a1.h0", "logits")] = 0.5
    gates.requires_grad_()
    plan = FixedPlan.of(compiled.universe, (gates.detach() != 0).numpy(), ablation="optimal")
    batch, found = both.batches[0], []
    batch.look_at(batch)
    for run in (compiled.masked, lambda *given: compiled.masked_by_plan(*given, plan)):
        ran = run(gates, batch, values_of_constants(compiled.runnable, numbers))
        found.append(torch.autograd.grad(ran.logits.square().sum(), numbers)[0])
    torch.testing.assert_close(found[1], found[0], atol=1e-9, rtol=1e-9)


def test_values_that_differ_by_position_take_no_gradient(tiny_gpt2, tiny_llama) -> None:
    compiled, plain = compile_case("gpt2", tiny_gpt2, tiny_llama)
    both = BothWays(compiled, plain, replace(MIXED, side="none", lengths=(4, 4)))
    means = compiled.ablation_values("mean-positional", both.batches)
    learnt = means.changed(lambda value, _: value.clone().requires_grad_())
    with pytest.raises(ConfigurationError, match=r"same for all prompts and positions; got the shape \(1, 4, "):
        compiled.masked(both.gates, both.batches[0], learnt)
    with pytest.raises(ConfigurationError, match="one vector per writer"):
        constants_of_values(compiled.runnable, means)


@pytest.mark.parametrize("case", ["gpt2", "gpt2-split-embeddings", "llama-gqa"])
def test_constants_of_means_give_the_means_logits(case: str, tiny_gpt2, tiny_llama) -> None:
    compiled, plain = compile_case(case, tiny_gpt2, tiny_llama)
    both = BothWays(compiled, plain, replace(MIXED, ablation="mean"))
    means = both.values()
    numbers = constants_of_values(compiled.runnable, means)
    again = constants_of_names(compiled.runnable, named_constants(compiled.runnable, numbers))
    assert torch.equal(again, numbers)
    values = values_of_constants(compiled.runnable, again)
    torch.testing.assert_close(
        compiled.masked(both.gates, both.batches[0], values).logits,
        compiled.masked(both.gates, both.batches[0], means).logits,
        atol=1e-9, rtol=1e-9,
    )  # fmt: skip


def test_names_that_do_not_fit_are_refused(tiny_gpt2, tiny_llama) -> None:
    compiled, _ = compile_case("gpt2", tiny_gpt2, tiny_llama)
    named = named_constants(compiled.runnable, drawn(compiled))
    narrow = {**named, "m0": named["m0"][:-1]}
    for wrong, words in (
        ({name: part for name, part in named.items() if name != "m0"}, "1 writers have none, such as m0"),
        ({**named, "m9": named["m0"]}, "it has no writer 'm9'"),
        (narrow, "m0 has the shape"),
        ({**named, "m0": named["m0"] * float("nan")}, "NaN or infinite"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            constants_of_names(compiled.runnable, wrong)
    with pytest.raises(ConfigurationError, match="of another model: expected"):
        values_of_constants(compiled.runnable, torch.zeros(3))
