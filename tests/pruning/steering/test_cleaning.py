"""A vector that is planted: three atoms that the answers need, and others that no logit sees."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.dictionaries.dictionary import Dictionary
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.vectors import Vector
from pruning.steering.cleaning import CleaningSettings, answer_nll, clean_vector
from tests.oracles.cases import random_tracr
from tests.pruning.prompts.small_prompts import random_prompts

WIDTH, SYMBOLS = 8, 6
NEEDED, UNSEEN = 3, 4
"""Latents 0 to 2 each raise the logit of one answer; 3 to 6 are in directions that the output does not read."""


@pytest.fixture(scope="module")
def model():
    """No norm, and nothing said in layer 1, so that what is added before it goes straight to the output."""
    model = random_tracr(dtype=torch.float64, causal=True, n_layers=2, n_heads=2, seed=3)
    with torch.no_grad():
        for part in (model.blocks[1].attn.o, model.blocks[1].mlp.fc_out):
            part.weight.zero_()
            part.bias.zero_()
    return model


@pytest.fixture(scope="module")
def compiled(model):
    return compile_model(model, verify=False)


@pytest.fixture(scope="module")
def pairs():
    """Each prompt asks for one of three symbols."""
    some = random_prompts(lengths=[5] * 9 + [4] * 3, n_tokens=10)
    return replace(some, answer_ids=tuple(np.array([prompt % NEEDED]) for prompt in range(12)))


@pytest.fixture(scope="module")
def dictionary(model) -> Dictionary:
    """Its decoder is the planted atoms; its encoder reads each of them off, where they are independent."""
    weights = model.unembed.weight.detach()
    raises = torch.linalg.pinv(weights)[:, :NEEDED].T
    nowhere = torch.linalg.svd(weights).Vh[SYMBOLS:]
    turns = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    decoder = torch.cat([raises, turns @ nowhere])
    assert torch.allclose(weights @ decoder[NEEDED:].T, torch.zeros(SYMBOLS, UNSEEN, dtype=torch.float64), atol=1e-12)
    return Dictionary(
        kind="standard", encoder=torch.linalg.pinv(decoder), encoder_bias=torch.full((7,), 0.05, dtype=torch.float64),
        decoder=decoder, decoder_bias=torch.zeros(WIDTH, dtype=torch.float64), centred=False, layer=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def planted(dictionary) -> Vector:
    said = torch.tensor([4.0, 4.0, 4.0, 1.0, 0.8, 0.9, 0.3], dtype=torch.float64) @ dictionary.decoder
    return Vector(name="v@1", value=said)


@pytest.fixture(scope="module")
def cleaned(compiled, planted, dictionary, pairs):
    settings = CleaningSettings(steps=400, learning_rate=0.05, patience=150)
    return clean_vector(compiled, planted, dictionary, pairs, settings)


def test_the_three_planted_latents_are_left(cleaned, dictionary, planted):
    assert int((dictionary.encode(planted.value) > 0).sum()) > NEEDED  # else there would be nothing to turn off
    assert sorted(cleaned.latents) == [0, 1, 2]
    assert cleaned.vector.name == "v_clean@1" and cleaned.vector.at == planted.at
    torch.testing.assert_close(cleaned.vector.value, cleaned.activations @ dictionary.decoder)
    assert cleaned.curve["n_active"].iloc[-1] == NEEDED and len(cleaned.curve) < 400  # it ended by itself


def test_they_do_what_the_vector_did(compiled, cleaned, planted, pairs):
    alone, whole, few = (answer_nll(compiled, pairs, vector) for vector in (None, planted, cleaned.vector))
    assert whole < alone - 0.5 and few < whole + 0.05


def test_it_is_trained_in_a_format_that_its_steps_are_not_lost_in(model, planted, dictionary, pairs):
    """At 4 bfloat16 numbers lie 1/32 apart, and a step is 0.01 long."""
    narrow = compile_model(copy.deepcopy(model).bfloat16(), verify=False)
    found = clean_vector(narrow, planted, dictionary, pairs, CleaningSettings(steps=12))
    before = dictionary.encode(planted.value)[:NEEDED]
    assert (found.activations[:NEEDED] - before).abs().max() > 0.05
    assert found.vector.value.dtype == torch.float32


def test_the_nll_is_that_of_the_logits_with_the_vector_added(compiled, model, planted, pairs):
    total = 0.0
    for ids, answer in zip(pairs.clean_ids, pairs.answer_ids, strict=True):
        handle = model.blocks[1].register_forward_pre_hook(
            lambda _, given: (torch.cat([given[0][:, :-1], given[0][:, -1:] + planted.value], 1), *given[1:])
        )
        logits = model(torch.from_numpy(ids)[None]).logits[0, -1]
        handle.remove()
        total -= float(logits.log_softmax(-1)[int(answer[0])].detach())
    assert answer_nll(compiled, pairs, planted, batch_size=4) == pytest.approx(total / len(pairs), abs=1e-9)
    assert answer_nll(compiled, pairs) == pytest.approx(answer_nll(compiled.with_vectors([]), pairs), abs=1e-12)


def test_what_does_not_fit_is_refused(compiled, planted, dictionary, pairs):
    with pytest.raises(ConfigurationError, match="before layer 1, and v@0 is added before layer 0"):
        clean_vector(compiled, replace(planted, name="v@0"), dictionary, pairs)
    with pytest.raises(ConfigurationError, match="encodes 8 numbers; got 3"):
        clean_vector(compiled, replace(planted, value=torch.ones(3)), dictionary, pairs)
    with pytest.raises(ConfigurationError, match="no latent that is on in v@1"):
        clean_vector(compiled, planted, replace(dictionary, encoder_bias=torch.full((7,), -99.0)), pairs)
    with pytest.raises(ConfigurationError, match="cleaning a vector does not know spans"):
        clean_vector(compiled.with_spans(["a", "b"], asked=["b"]), planted, dictionary, pairs)
    with pytest.raises(ConfigurationError, match="cross-entropy"):
        clean_vector(compiled, planted, dictionary, replace(pairs, answer_ids=None))
    for name in ("steps", "batch_size", "patience"):
        with pytest.raises(ConfigurationError, match=f"{name} must be at least 1; got 0"):
            CleaningSettings(**{name: 0})
