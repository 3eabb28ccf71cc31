"""The parity gate: all gates 1 is the untouched model, all gates 0 its run on the corrupted prompts."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from transformers import LlamaForCausalLM

from circuitgraph.batch import TokenBatch
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.parity import check_parity, parity_differences
from circuitgraph.tracr import load_tracr
from tests.oracles.cases import BATTERY, ModelMakers, pair_of_batches
from tests.oracles.hooks import call


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("case", BATTERY)
def test_every_family_and_choice(case: str, dtype: torch.dtype, tiny_gpt2, tiny_llama) -> None:
    found = parity_differences(ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=dtype))
    assert set(found) == {f"all gates {gate}, padding {side}" for gate in (0, 1) for side in ("none", "left", "right")}
    # A few dozen roundings of the largest number on the way, relative to the logits' spread.
    assert max(found.values()) < 200 * torch.finfo(dtype).eps


@pytest.mark.parametrize("case", ["gpt2", "llama-mha", "llama-gqa", "llama-mqa"])
def test_bfloat16_rounds_no_worse_than_the_model_does(case: str, tiny_gpt2, tiny_llama) -> None:
    """Both differ from the same weights in float64; the executor by at most 2.5 times as much as the model.

    Where the model rounds a writer's vector once, the delta form rounds y, ỹ, their difference and r̃: twice
    the error if they are alike and independent. Root mean squares over all logits, since the largest of a few
    hundred differences is a matter of luck.
    """
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=torch.bfloat16)
    clean, corrupted = pair_of_batches(lengths=[7, 3], side="left", n_asked=3, n_tokens=29, seed=9)
    exact = call(copy.deepcopy(compiled.model).double(), clean)
    values = compiled.run_with_values(corrupted)[1]
    ours = compiled.masked(torch.ones(compiled.universe.n_edges), clean, values).logits
    theirs = call(compiled.model, clean)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    errors = [(logits.double() - exact).square().mean().sqrt() for logits in (ours, theirs)]
    assert 0 < errors[0] < 2.5 * errors[1]
    check_parity(compiled)


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("case", BATTERY)
def test_without_the_gates_own_code(case: str, side: str, tiny_gpt2, tiny_llama) -> None:
    """The same two checks with other lengths, other asked positions and the model called from here."""
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=torch.float64)
    lengths = [7, 7] if side == "none" else [7, 1, 4]
    clean, corrupted = pair_of_batches(
        lengths=lengths, side=side, n_asked=3, n_tokens=compiled.model.config.vocab_size, seed=9
    )
    logits, values = compiled.run_with_values(corrupted)
    for gate, source in ((1.0, clean), (0.0, corrupted)):
        gates = torch.full((compiled.universe.n_edges,), gate, dtype=torch.float64)
        ours = compiled.masked(gates, clean, values).logits
        torch.testing.assert_close(ours, call(compiled.model, source), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(logits, call(compiled.model, corrupted), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(compiled.logits(clean), call(compiled.model, clean), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("program", ["reverse", "xproportion"])
@pytest.mark.parametrize("embeddings", ["joint", "split"])
def test_the_shipped_tracr_programs(program: str, embeddings: str) -> None:
    compile_model(load_tracr(f"tracr:{program}").model, embeddings=embeddings)


ROPE = {
    "default": {},
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 8},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8,
    },
}


@torch.no_grad()
def _alone(make: Callable[[], LlamaForCausalLM], batch: TokenBatch) -> torch.Tensor:
    """Logits at the asked positions, each prompt without padding in a model that has run nothing."""
    flat = torch.full((batch.input_ids.numel(), 29), torch.nan)
    for row, (ids, mask) in enumerate(zip(batch.input_ids, batch.attention_mask.bool(), strict=True)):
        places = row * len(ids) + mask.nonzero()[:, 0]
        flat[places] = make()(input_ids=ids[mask][None]).logits[0]
    return flat[batch.predict_index]


@pytest.mark.parametrize("rope_type", ROPE)
def test_rope_scaling_is_the_models_own(rope_type: str, tiny_llama) -> None:
    """Twelve tokens where the model was made for eight, so that scaling that depends on length is at work."""
    parameters = {"rope_type": rope_type, "rope_theta": 100.0, **ROPE[rope_type]}
    # Dynamic scaling begins past `max_position_embeddings`; the others take the original length from the config.
    longest = 8 if rope_type == "dynamic" else 32
    model = tiny_llama(rope_parameters=parameters, n_positions=longest, d_head=8)
    plain = tiny_llama(n_positions=longest, d_head=8, rope_parameters={"rope_type": "default", "rope_theta": 100.0})
    compiled = compile_model(model)
    frequencies = model.model.rotary_emb.inv_freq.clone()
    clean, corrupted = pair_of_batches(lengths=[12, 7], side="left", n_asked=3, n_tokens=29, seed=3)
    values = compiled.run_with_values(corrupted)[1]
    for gate, source in ((1.0, clean), (0.0, corrupted)):
        ours = compiled.masked(torch.full((compiled.universe.n_edges,), gate), clean, values).logits
        assert torch.equal(model.model.rotary_emb.inv_freq, frequencies)
        theirs = _alone(lambda: tiny_llama(rope_parameters=parameters, n_positions=longest, d_head=8), source)
        torch.testing.assert_close(ours, theirs, atol=5e-6, rtol=5e-6)
        # Scaling has to matter for this to mean anything.
        assert rope_type == "default" or (theirs - _alone(lambda: plain, source)).abs().max() > 1e-3


def test_the_gate_moves_no_global_random_state(tiny_gpt2) -> None:
    before = torch.get_rng_state()
    check_parity(compile_model(tiny_gpt2(), verify=False))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_gate_fits_models_of_few_positions(tiny_gpt2) -> None:
    compile_model(tiny_gpt2(n_positions=3))


def test_sums_are_kept_in_float32_when_the_model_is_bfloat16(tiny_gpt2) -> None:
    """One writer says 4096, and its opposite later; what the others said in between must survive.

    In bfloat16 4096 + 1 is 4096, so a running sum of that width would lose them.
    """
    model = tiny_gpt2(dtype=torch.bfloat16, n_layers=1)
    compiled = compile_model(model, verify=False)
    batch = TokenBatch(
        input_ids=torch.tensor([[1, 2, 3]]),
        attention_mask=torch.ones(1, 3, dtype=torch.long),
        predict_index=torch.tensor([2]),
        predict_prompt=torch.tensor([0]),
    )
    unembed = torch.randn(29, 12, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        model.transformer.wte.weight.zero_()
        model.transformer.wpe.weight.fill_(4096)
        model.transformer.h[0].mlp.c_proj.weight.zero_()
        model.transformer.h[0].mlp.c_proj.bias.fill_(-4096)
        model.lm_head.weight = torch.nn.Parameter(unembed)
    values = compiled.ablation_values("zero")
    gates = torch.ones(compiled.universe.n_edges)
    logits = compiled.masked(gates, batch, values).logits
    # Left are the heads, which see constant embeddings: their values' biases, through the output projection.
    attention = model.transformer.h[0].attn
    normed = model.transformer.h[0].ln_1.bias.double()
    value = normed @ attention.c_attn.weight[:, 24:].double() + attention.c_attn.bias[24:].double()
    heads = value @ attention.c_proj.weight.double() + attention.c_proj.bias.double()
    norm = model.transformer.ln_f
    normed = torch.nn.functional.layer_norm(heads, (12,), norm.weight.double(), norm.bias.double(), norm.eps)
    expected = normed @ model.lm_head.weight.double().T
    # Three roundings to 8 bits on the way, of numbers about as large as the logits.
    assert (logits[0].double() - expected).abs().max() < 0.05 * expected.abs().max()
