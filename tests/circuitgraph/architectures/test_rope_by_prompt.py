"""Rope that depends on a prompt's length: each prompt has the numbers that it has alone, in a fresh model."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from circuitgraph.batch import TokenBatch
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.extract import extract_circuit
from pruning.frozen.runs import FrozenRuns
from tests.pruning.prompts.small_prompts import random_prompts

SWITCH = 8
ROPES = {
    "longrope": {
        "rope_type": "longrope", "rope_theta": 10000.0, "factor": 4.0,
        "original_max_position_embeddings": SWITCH, "short_factor": [1.0, 1.5], "long_factor": [3.0, 9.0],
    },
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
}  # fmt: skip
LENGTHS = (SWITCH + 4, 5, SWITCH, SWITCH + 1)


@pytest.fixture(params=ROPES)
def model(request: pytest.FixtureRequest, tiny_llama: Callable[..., LlamaForCausalLM]) -> LlamaForCausalLM:
    n_positions = SWITCH if request.param == "dynamic" else 32
    made = tiny_llama(rope_parameters=dict(ROPES[request.param]), n_positions=n_positions)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim == 2:
                weight.mul_(3)  # so that positions are heard
    return made


def batch_of(lengths: tuple[int, ...], side: str, seed: int = 0) -> TokenBatch:
    """Prompts of any tokens; all real positions are asked."""
    seq = max(lengths)
    ids = torch.randint(0, 29, (len(lengths), seq), generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        mask[row, slice(seq - length, seq) if side == "left" else slice(0, length)] = 1
    index = mask.flatten().nonzero()[:, 0]
    return TokenBatch(input_ids=ids, attention_mask=mask, predict_index=index, predict_prompt=index // seq)


@torch.no_grad()
def alone(model: LlamaForCausalLM, batch: TokenBatch) -> Tensor:
    """Each prompt without padding in a copy of its own, which has run nothing: plain Hugging Face."""
    rows = zip(batch.input_ids, batch.attention_mask.bool(), strict=True)
    return torch.cat([deepcopy(model)(input_ids=ids[real][None]).logits[0] for ids, real in rows])


def gates(compiled: CompiledModel, value: float) -> Tensor:
    return torch.full((compiled.universe.n_edges,), value)


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_prompt_has_the_numbers_that_it_has_alone(model: LlamaForCausalLM, side: str) -> None:
    clean, corrupted = batch_of(LENGTHS, side, 0), batch_of(LENGTHS, side, 1)
    expected, other = alone(model, clean), alone(model, corrupted)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    compiled = compile_model(model)
    values = compiled.run_with_values(corrupted)[1]
    for ours, theirs in (
        (compiled.logits(clean), expected),
        (compiled.masked(gates(compiled, 1.0), clean, values).logits, expected),
        (compiled.masked(gates(compiled, 0.0), clean, values).logits, other),
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    held = dict(model.named_buffers())
    assert held.keys() == before.keys()
    assert all(torch.equal(held[name], buffer) for name, buffer in before.items()), "the given one is left as it was"


def test_what_ran_before_does_not_matter(model: LlamaForCausalLM) -> None:
    """Neither in the user's model nor in the compiled one."""
    short, long = batch_of((5,), "right"), batch_of((SWITCH + 4,), "right", 1)
    expected, compiled = alone(model, short), compile_model(model, verify=False)
    first = compiled.logits(short)
    compiled.logits(long)
    with torch.no_grad():
        model(input_ids=long.input_ids)
    again = compiled.logits(short)
    torch.testing.assert_close(first, expected, atol=1e-4, rtol=0)
    assert torch.equal(first, again)
    compile_model(model)  # the gate agrees, whatever the user's model has run


def test_means_do_not_change_with_the_batch_size(model: LlamaForCausalLM) -> None:
    compiled = compile_model(model, verify=False)
    together = compiled.ablation_values("mean", [batch_of(LENGTHS, "right")])
    whole = batch_of(LENGTHS, "right")
    singly = [
        TokenBatch(
            input_ids=ids[None, :length],
            attention_mask=torch.ones(1, length, dtype=torch.long),
            predict_index=torch.tensor([0]),
            predict_prompt=torch.tensor([0]),
        )
        for ids, length in zip(whole.input_ids, LENGTHS, strict=True)
    ]
    for a, b in zip(together.tensors, compiled.ablation_values("mean", singly).tensors, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_teachers_of_mixed_lengths(model: LlamaForCausalLM) -> None:
    """What training and evaluation compare with, kept by length or drawn together."""
    pairs = random_prompts(lengths=[SWITCH + 3, 5, SWITCH])
    compiled = compile_model(model, verify=False)
    for frozen in (FrozenRuns(compiled, pairs, ablation="counterfactual", budget_bytes=b) for b in (0, 1 << 30)):
        for prompts in ([0], [1], [2]) if frozen.kept().memory else ([0, 1, 2],):
            batch = frozen.batch(np.array(prompts))
            clean = batch.pairs.clean
            asked = clean.attention_mask.flatten().cumsum(0)[clean.predict_index] - 1  # among real tokens
            rows = alone(model, clean)[asked]
            torch.testing.assert_close(batch.teacher_logits, rows, atol=1e-4, rtol=0)


def test_a_gradient_is_that_of_the_prompt_alone(model: LlamaForCausalLM) -> None:
    compiled = compile_model(model, verify=False)
    clean, corrupted = batch_of((SWITCH + 2, 4), "left", 2), batch_of((SWITCH + 2, 4), "left", 3)

    def gradient(lengths: tuple[int, ...], rows: list[int]) -> Tensor:
        seq = max(lengths)
        picked = [
            TokenBatch(
                input_ids=batch.input_ids[rows, -seq:],
                attention_mask=batch.attention_mask[rows, -seq:],
                predict_index=torch.arange(len(rows)) * seq + seq - 1,
                predict_prompt=torch.arange(len(rows)),
            )
            for batch in (clean, corrupted)
        ]
        z = gates(compiled, 0.5).requires_grad_()
        logits = compiled.masked(z, picked[0], compiled.run_with_values(picked[1])[1]).logits
        return torch.autograd.grad(logits.square().sum(), z)[0]

    together, singly = gradient((SWITCH + 2, 4), [0, 1]), gradient((SWITCH + 2,), [0]) + gradient((4,), [1])
    torch.testing.assert_close(together, singly, atol=1e-4 * float(singly.abs().max()), rtol=0)


def test_an_extracted_circuit_is_the_model_prompt_by_prompt(model: LlamaForCausalLM, tmp_path) -> None:
    from circuitgraph.extract.saving import load_extracted, save_extracted

    compiled = compile_model(model, verify=False)
    everything = Circuit.from_edges(compiled.universe, np.ones(compiled.universe.n_edges, dtype=bool), ablation="zero")
    small, batch = extract_circuit(everything, compiled), batch_of(LENGTHS, "left")
    for module in (small, load_extracted(save_extracted(small, tmp_path / "small"))):
        with torch.no_grad():
            ours = module(batch.input_ids, batch.attention_mask, at=batch.predict_index)
        torch.testing.assert_close(ours, alone(model, batch), atol=1e-4, rtol=0)
