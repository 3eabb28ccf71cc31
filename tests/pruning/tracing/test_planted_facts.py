"""Causal tracing of a planted model: where its facts come from is known, and how good a null token can be."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import TrainingError
from pruning.tracing.causal_trace import CausalTraceSettings, causal_trace
from pruning.tracing.null_token import learn_null_token, learn_window_tokens, token_losses
from pruning.tracing.prompts import traced_prompts
from pruning.tracing.windows import windows_of
from tests.pruning.prompts.small_prompts import random_prompts
from tests.pruning.tracing.planted import FACT_LAYER, READING_LAYER, asked, planted

UNBALANCED = (0, 0, 0, 1, 1, 2)
"""Half of the prompts ask for the first subject."""


@pytest.fixture(scope="module")
def compiled():
    return planted()


@pytest.fixture(scope="module")
def prompts(compiled):
    return traced_prompts(compiled, asked(UNBALANCED), batch_size=16)


@pytest.fixture(scope="module")
def learnt(prompts):
    return learn_null_token(prompts, steps=200, starts=0)


def clean_answers(compiled) -> torch.Tensor:
    """What the model says of each prompt, log-probabilities by the plain model."""
    ids = torch.from_numpy(np.stack(asked(UNBALANCED).clean_ids))
    with torch.no_grad():
        return compiled.model(ids).logits[:, -1].log_softmax(-1)


def test_a_fact_comes_back_where_it_was_planted(compiled) -> None:
    settings = CausalTraceSettings(
        kinds=("attention", "mlp", "residual"), widths=(0,), corruptions=("null_token", "mean"), steps=80,
        batch_size=16, places=("first_subject", "last_subject", "subject", "last"),
    )  # fmt: skip
    found = causal_trace(compiled, asked(UNBALANCED), settings=settings)
    expected = {
        ("mlp", "last_subject", FACT_LAYER), ("mlp", "subject", FACT_LAYER), ("attention", "last", READING_LAYER),
    }  # fmt: skip
    # The residual stream of the subject holds the subject until its fact is read, that of the last token afterwards.
    expected |= {("residual", place, layer) for place in ("last_subject", "subject") for layer in range(READING_LAYER)}
    expected |= {("residual", "last", layer) for layer in range(READING_LAYER, 4)}
    for corruption, rows in found.table.groupby("corruption"):
        for row in rows.itertuples():
            share = 1.0 if (row.kind, row.place, row.layer) in expected else 0.0
            assert row.probability_share == pytest.approx(share, abs=0.02), (corruption, row)
            assert row.kl_share == pytest.approx(share, abs=0.05), (corruption, row)
            assert row.probability_share_low <= row.probability_share <= row.probability_share_high
    assert found.subject == "subject" and found.prompts["n_tokens"].tolist() == [2] * 6
    assert found.corruptions["clean_probability"].tolist() == pytest.approx(
        [float(clean_answers(compiled).exp().max())] * 2
    )


def test_the_null_token_is_as_good_as_any_constant_can_be(compiled, prompts, learnt) -> None:
    """With one vector for all subjects the answers are one distribution; the best is the mean of all prompts' own."""
    expected = clean_answers(compiled)
    best = float((expected.exp() * (expected - expected.exp().mean(0).log())).sum(-1).mean())
    assert best - 1e-9 <= learnt.losses["learnt"] <= best + 2e-3
    assert learnt.kept == "learnt" and learnt.losses["learnt"] < learnt.losses["mean"] - 0.02
    by_answer = learn_null_token(prompts, steps=200, starts=0, objective="answer")
    shares = torch.tensor([3, 2, 1]) / 6
    entropy = float(-(shares * shares.log()).sum())
    assert entropy - 1e-6 <= by_answer.losses["learnt"] <= entropy + 2e-3


def test_learnt_in_half_precision(learnt) -> None:
    """Squares of small gradients are 0 in float16, and so is what keeps a division by 0 away."""
    half = compile_model(planted().model.half(), embeddings="split", verify=False)
    found = learn_null_token(traced_prompts(half, asked(UNBALANCED), batch_size=16), steps=200, starts=0)
    assert found.value.dtype == torch.float16 and found.kept == "learnt"
    assert found.losses["learnt"] == pytest.approx(learnt.losses["learnt"], abs=1e-3)


def test_nothing_is_learnt_in_no_steps(prompts) -> None:
    found = learn_null_token(prompts, steps=0)
    assert sorted(found.losses) == ["mean", "said", "zero"] and found.kept != "learnt"
    again = token_losses(prompts, found.value[None], [None], "kl")
    assert float(again[0]) == min(found.losses.values()) == found.losses[found.kept]


def test_a_rate_without_reason_is_refused(compiled) -> None:
    weights = compiled.model.tok_embed.weight
    model = compile_model(planted().model.float(), embeddings="split", verify=False)
    given = traced_prompts(model, asked(UNBALANCED), batch_size=16)
    with pytest.raises(TrainingError, match="null token, .*not finite; try a smaller rate, or --dtype float32"):
        learn_null_token(given, steps=1, rate=1e39)
    assert torch.equal(weights, compiled.model.tok_embed.weight)


def test_learning_does_not_begin_at_zero(tiny_llama) -> None:
    """Norms of zeros alone have gradients beyond float32; zero is kept all the same where nothing is better."""
    model = tiny_llama(n_layers=10)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "layernorm" in name:
                weight.mul_(100)
    pairs = random_prompts(lengths=[3, 3, 3])
    whole = replace(pairs, spans=((("subject", 0),),) * 3)
    given = traced_prompts(compile_model(model, verify=False), whole, known=False)
    first = learn_null_token(given, steps=0, starts=0)
    assert first.kept == "zero" and not first.value.any() and first.losses["zero"] < first.losses["mean"]
    found = learn_null_token(given, steps=20, starts=0)
    assert bool(found.value.isfinite().all()) and found.losses[found.kept] <= first.losses["zero"]


def test_the_null_token_against_all_points_of_a_grid(compiled, prompts, learnt) -> None:
    """Brute force by the plain model: what stands for the subject writes facts, 9 values in each direction."""
    grid = torch.zeros(9**3, 12, dtype=torch.float64)
    grid[:, 4:7] = torch.tensor(list(itertools.product(np.linspace(-0.5, 0.5, 9), repeat=3)))
    ids = torch.from_numpy(np.stack(asked(UNBALANCED).clean_ids))[:1].repeat(
        len(grid), 1
    )  # all prompts are the same now

    def instead(_module, _inputs, output):
        return torch.where(torch.tensor([False, True, True, False])[:, None], grid[:, None], output)

    handle = compiled.model.tok_embed.register_forward_hook(instead)
    with torch.no_grad():
        said = compiled.model(ids).logits[:, -1].log_softmax(-1)
    handle.remove()
    expected = clean_answers(compiled)
    losses = (expected.exp() * (expected - said[:, None])).sum(-1).mean(1)
    ours = token_losses(prompts, grid, [None] * len(grid), "kl")
    assert torch.allclose(ours, losses, atol=1e-9)
    assert learnt.losses["learnt"] < float(losses.min()) + 1e-3
    assert float(losses.min()) < learnt.losses["learnt"] + 0.05  # the grid comes near it


def test_noise_and_mean_cost_more_than_the_null_token(compiled) -> None:
    settings = CausalTraceSettings(
        kinds=("mlp",), places=("last",), widths=(0,), layers=(0,), steps=80, batch_size=16, draws=20
    )
    found = causal_trace(compiled, asked(UNBALANCED), settings=settings).corruptions.set_index("corruption")["kl"]
    assert found["null_token"] < min(found["mean"], found["noise"])


def test_a_token_for_each_window_is_never_worse(compiled, prompts) -> None:
    windows = [*windows_of(compiled.universe, places=("last_subject", "last"), widths=(0,)), None]
    start = torch.full((12,), 0.2, dtype=torch.float64)
    before = token_losses(prompts, start[None].repeat(len(windows), 1), windows, "kl")
    for steps in (0, 40):
        tokens = learn_window_tokens(prompts, start, windows, steps=steps)
        after = token_losses(prompts, tokens, windows, "kl")
        assert (after <= before + 1e-12).all()
        assert bool((after < before - 0.01).any()) == bool(steps)
    alone = learn_window_tokens(prompts, start, windows[3:4], steps=40)
    assert torch.allclose(alone[0], tokens[3], atol=1e-9)  # they are learnt side by side and do not meet


def test_traced_with_tokens_for_each_window(compiled) -> None:
    """Each window is set against hiding alone, learnt as long."""
    settings = CausalTraceSettings(
        kinds=("mlp",), places=("last_subject",), widths=(0,), corruptions=("null_token",), steps=60, batch_size=16,
        each_window=True,
    )  # fmt: skip
    found = causal_trace(compiled, asked(UNBALANCED), settings=settings)
    shares = found.table.set_index("layer")["kl_share"]
    assert found.each_window and shares[FACT_LAYER] > 0.99 and shares.drop(FACT_LAYER).abs().max() < 0.02
    assert found.corruptions.loc[0, "kl"] == pytest.approx(found.null_token.losses["learnt further"])
    assert found.null_token.losses["learnt further"] <= found.null_token.losses["learnt"] + 1e-12
    elsewhere = causal_trace(compiled, asked((0, 0)), asked((1, 2)), settings)  # learnt where one fact is all there is
    assert elsewhere.corruptions.loc[0, "train_kl"] < 0.05 and elsewhere.corruptions.loc[0, "kl"] > 1


def test_prompts_that_the_model_does_not_know_are_left_out(compiled) -> None:
    pairs = asked((0, 1, 2, 1), wrong=(1,))
    settings = CausalTraceSettings(kinds=("mlp",), places=("last",), widths=(0,), layers=(0,), corruptions=("mean",))
    assert causal_trace(compiled, pairs, settings=settings).prompts["text"].tolist() == [
        "prompt 0",
        "prompt 2",
        "prompt 1",
    ]
    every = CausalTraceSettings(
        kinds=("mlp",), places=("last",), widths=(0,), layers=(0,), corruptions=("mean",), known=False
    )  # fmt: skip
    found = causal_trace(compiled, pairs, settings=every)
    assert len(found.prompts) == 4 and found.prompts["clean_probability"].round(2).tolist() == [1, 0, 1, 1]
