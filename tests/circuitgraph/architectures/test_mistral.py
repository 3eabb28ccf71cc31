"""Mistral: sliding windows, against transformers' own logits and against the mask written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import MistralConfig

from circuitgraph.architectures import family_of
from circuitgraph.architectures.attention import Attention
from circuitgraph.compiled.binding import Binding
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.compiled.parity import check_parity, parity_differences
from circuitgraph.errors import ParityError, UnsupportedModelError
from circuitgraph.forward.attention import attend, attention_mask, windowed
from circuitgraph.forward.heads import asked_grid
from circuitgraph.forward.plan.positions import Positions
from tests.oracles.cases import as_mistral, pair_of_batches
from tests.oracles.hooks import call


def ones(compiled: CompiledModel) -> Tensor:
    return torch.ones(compiled.universe.n_edges)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("window", [1, 2, 5, None])
@pytest.mark.parametrize(("lengths", "side"), [([9, 9], "none"), ([9, 2, 6], "left"), ([9, 2, 6], "right")])
def test_all_gates_1_is_transformers_own(tiny_llama, attention: str, window: int | None, lengths, side: str) -> None:
    """Prompts longer than the window, and one that is not; every position is asked."""
    model = as_mistral(tiny_llama(n_layers=3, n_heads=6), window=window, attn_implementation=attention)
    compiled = compile_model(model, verify=False)
    clean, corrupted = pair_of_batches(lengths=lengths, side=side, n_asked=9, n_tokens=29, seed=3)
    values = compiled.run_with_values(corrupted)[1]
    theirs = call(model, clean)
    torch.testing.assert_close(compiled.masked(ones(compiled), clean, values).logits, theirs, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(compiled.logits(clean), theirs, atol=2e-5, rtol=1e-4)


def test_a_window_hides_and_null_does_not(tiny_llama) -> None:
    llama = tiny_llama()
    clean, _ = pair_of_batches(lengths=[9], side="none", n_asked=9, n_tokens=29, seed=3)
    plain = compile_model(llama, verify=False).logits(clean)
    by_window = {
        window: compile_model(as_mistral(llama, window=window), verify=False).logits(clean) for window in (3, 9, None)
    }
    assert torch.equal(by_window[None], plain) and torch.equal(by_window[9], plain)
    differs = (by_window[3] - plain).abs().amax(-1)
    assert bool((differs[:3] == 0).all()) and bool((differs[3:] > 1e-3).all())  # nothing is hidden from the first 3


@pytest.mark.parametrize("window", [1, 3, 7, 8, None])
@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("ahead", [False, True])
def test_the_mask_position_by_position(window: int | None, side: str, ahead: bool) -> None:
    """Of causal attention, or of one that sees as far ahead as behind."""
    lengths = [7, 7] if side == "none" else [7, 3]
    batch, _ = pair_of_batches(lengths=lengths, side=side, n_asked=2, n_tokens=9, seed=0)
    real = batch.attention_mask.bool()
    seq = real.shape[1]
    cpu = torch.device("cpu")
    attention = Attention(scale=1.0, window=window, ahead=ahead)
    mask = windowed(attention_mask(batch.attention_mask, not ahead, padded=side != "none"), attention, seq, cpu)
    places = Positions(batch.predict_index.numpy(), (len(real), seq), batch.input_ids.device)
    asked = asked_grid(places, real.numpy(), causal=not ahead, rotaries=())
    at = torch.from_numpy(asked.at)
    of_asked = windowed(asked.mask, attention, seq, cpu, at=at)
    assert of_asked is not None
    for prompt in range(len(real)):
        for query in range(seq):
            near = [(ahead or key <= query) and (window is None or abs(query - key) < window) for key in range(seq)]
            expected = [key == query or (bool(real[prompt, key]) and near[key]) for key in range(seq)]
            # Without a mask `attend` is causal or sees all, and there is no padding.
            row = (
                (torch.arange(seq) <= query) | ahead
                if mask is None
                else mask[0].expand(len(real), -1, -1)[prompt, query]
            )
            assert row.tolist() == expected
            for place in (at[prompt] == query).nonzero()[:, 0].tolist():
                assert of_asked[0, prompt, place].tolist() == expected


def test_nothing_of_ones_own_is_hidden() -> None:
    """A window of 1: each position gathers its own value."""
    query, key, value = torch.randn(3, 2, 1, 5, 4, generator=torch.Generator().manual_seed(0))
    mask = windowed(None, Attention(scale=0.5, window=1), 5, torch.device("cpu"))
    torch.testing.assert_close(attend(query, key, value, mask, causal=True, attention=Attention(scale=0.5)), value)


@pytest.mark.parametrize("window", [4, 20])
def test_the_parity_gate_sees_a_wrong_window(tiny_llama, monkeypatch, window: int) -> None:
    """Its prompts are longer than a window of up to 63, so that one off by one is seen."""
    compiled = compile_model(as_mistral(tiny_llama(n_positions=64), window=window))
    assert max(parity_differences(compiled).values()) < 2e-5
    plain = Binding.bound

    def off_by_one(self):
        bound = plain(self)
        return replace(
            bound,
            blocks=tuple(
                replace(block, attention=replace(block.attention, window=window + 1)) for block in bound.blocks
            ),
        )

    monkeypatch.setattr(Binding, "bound", off_by_one)
    with pytest.raises(ParityError, match="all gates 1.*differs from the model"):
        check_parity(compiled)


WRONG = {
    "no position": ({"sliding_window": 0}, "sliding_window=0: expected a whole number of at least 1 or null"),
    "below 0": ({"sliding_window": -4}, "sliding_window=-4"),
    "a text": ({"sliding_window": "4096"}, "sliding_window='4096'"),
    "heads": ({"num_key_value_heads": 3}, "num_attention_heads=32: expected a multiple of num_key_value_heads=3"),
    "a bias": ({"attention_bias": True}, "attention_bias=True is not understood"),
    "layers of several kinds": ({"layer_types": ["full_attention"]}, "layer_types=.* is not understood"),
}


@pytest.mark.parametrize("name", WRONG)
def test_configs_that_are_refused(name: str) -> None:
    changes, message = WRONG[name]
    config = MistralConfig()
    for field, value in changes.items():
        object.__setattr__(config, field, value)
    with pytest.raises(UnsupportedModelError, match=f"mistral: .*{message}"):
        family_of("mistral").check_config(config)


def test_every_position_that_a_window_hides_is_out_of_reach(tiny_llama) -> None:
    """In one layer, a token that the asked position's window hides changes nothing, and one within it does."""
    compiled = compile_model(as_mistral(tiny_llama(n_layers=1), window=3), verify=False)
    clean, _ = pair_of_batches(lengths=[8], side="none", n_asked=8, n_tokens=29, seed=1)
    for place in range(8):
        ids = clean.input_ids.clone()
        ids[0, place] = (ids[0, place] + 1) % 29
        values = compiled.run_with_values(replace(clean, input_ids=ids))[1]
        moved = (compiled.masked(0 * ones(compiled), clean, values).logits - compiled.logits(clean)).abs().amax(-1)
        assert np.flatnonzero(moved.numpy() > 1e-6).tolist() == list(range(place, min(place + 3, 8)))
