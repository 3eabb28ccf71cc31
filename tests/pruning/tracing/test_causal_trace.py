"""Causal tracing of a random model next to hooks on the plain one; what must not depend on order; what is refused."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import ConfigurationError, UnknownNameError
from pruning.prompts.encoding import encode_pairs
from pruning.prompts.pairs import PromptPair
from pruning.tracing.causal_trace import CausalTraceSettings, causal_trace, restored_shares
from pruning.tracing.corruption import noisy_tokens
from pruning.tracing.prompts import TracedBatch, traced_prompts
from pruning.tracing.subjects import subjects_of
from pruning.tracing.windows import windows_of
from tests.pruning.prompts.small_prompts import GlobalRandomState, random_prompts
from tests.pruning.prompts.tiny_tokenizers import word_tokenizer
from tests.pruning.tracing.planted import asked, planted

SUBJECTS = ((1, 2), (3, 3), (1, 3), (0, 0), (2, 4))
"""First and last subject token of each prompt."""


@pytest.fixture(scope="module")
def compiled(tiny_llama):
    return compile_model(tiny_llama(dtype=torch.float64, n_layers=3), verify=False)


def prompts():
    """Prompts of two lengths, some asked at two positions; each counterfactual differs in the subject alone."""
    pairs = random_prompts(lengths=[6, 7, 7, 6, 7], n_asked=(1, 2))
    corrupted = [ids.copy() for ids in pairs.clean_ids]
    for ids, (first, last) in zip(corrupted, SUBJECTS, strict=True):
        ids[first : last + 1] = (ids[first : last + 1] + 1) % 29
    return replace(pairs, corrupted_ids=tuple(corrupted))


def answered(model, pairs):
    """The same, and what the model says first is right, so that hiding costs probability."""
    said = []
    for ids, at, answers in zip(pairs.clean_ids, pairs.predict_positions, pairs.answer_ids, strict=True):
        first = model(input_ids=torch.from_numpy(ids)[None]).logits[0, at[0]].argmax()
        said.append(np.array([int(first), *answers[1:]]))
    return replace(pairs, answer_ids=tuple(said))


def by_hooks(
    model, ids: torch.Tensor, instead: torch.Tensor, subject: slice, kind: str, layers: range, places
) -> tuple:
    """Log-probabilities of one prompt by the plain model: clean, hidden, and restored."""
    is_gpt2, said = hasattr(model, "transformer"), {}
    body = model.transformer if is_gpt2 else model.model
    embedding, blocks = (body.wte, body.h) if is_gpt2 else (body.embed_tokens, body.layers)
    modules = {
        "attention": lambda layer: layer.attn if is_gpt2 else layer.self_attn,
        "mlp": lambda layer: layer.mlp,
        "residual": lambda layer: layer,
    }

    def output(value):
        return value[0] if isinstance(value, tuple) else value

    def listen(place):
        return lambda _m, _i, value: said.__setitem__(place, output(value).detach().clone())

    def restore(place):
        def hook(_m, _i, value):
            output(value)[:, places] = said[place][:, places]
            return value

        return hook

    def hide(_m, _i, value):
        value = value.clone()
        value[:, subject] = instead
        return value

    def run(*hooks):
        with contextlib.ExitStack() as stack, torch.no_grad():
            for module, hook in hooks:
                stack.callback(module.register_forward_hook(hook).remove)
            return model(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)

    parts = [modules[kind](blocks[place]) for place in layers]
    clean = run(*[(part, listen(place)) for part, place in zip(parts, layers, strict=True)])
    hidden = run((embedding, hide))
    restored = run((embedding, hide), *[(part, restore(n)) for part, n in zip(parts, layers, strict=True)])
    return clean, hidden, restored


@pytest.mark.parametrize(("family", "kind"), [("llama", "attention"), ("llama", "mlp"), ("gpt2", "residual")])
def test_every_row_is_that_of_hooks(compiled, tiny_gpt2, family: str, kind: str) -> None:
    pairs = prompts()
    if family == "gpt2":  # positions have embeddings of their own, which stay
        compiled = compile_model(tiny_gpt2(dtype=torch.float64, n_layers=3), verify=False)
    pairs = answered(compiled.model, pairs)
    settings = CausalTraceSettings(
        kinds=(kind,), places=("first_subject", "last_subject", "subject", "last"), widths=(0, 1),
        corruptions=("mean",), known=False, batch_size=2,
    )  # fmt: skip
    found = causal_trace(compiled, pairs, settings=settings)
    assert len(found.table) == 4 * 2 * 3 and found.subject == "differing"
    every = np.concatenate([ids[a : b + 1] for ids, (a, b) in zip(pairs.clean_ids, SUBJECTS, strict=True)])
    mean = compiled.model.get_input_embeddings().weight[torch.from_numpy(every)].mean(0).detach()
    for row in found.table.itertuples():
        layers = range(max(0, row.layer - row.width), min(3, row.layer + row.width + 1))
        values = []
        for index, (first, last) in enumerate(SUBJECTS):
            at, answer = pairs.predict_positions[index][0], pairs.answer_ids[index][0]
            places = {
                "first_subject": [first], "last_subject": [last], "subject": list(range(first, last + 1)), "last": [at],
            }[row.place]  # fmt: skip
            ids = torch.from_numpy(pairs.clean_ids[index])
            runs = by_hooks(compiled.model, ids, mean, slice(first, last + 1), kind, layers, places)
            clean, hidden, restored = (one[at] for one in runs)
            chances = [float(one[answer].exp()) for one in (clean, hidden, restored)]
            values.append([*chances, *(float((clean.exp() * (clean - one)).sum()) for one in (hidden, restored))])
        clean_p, hidden_p, restored_p, hidden_kl, restored_kl = np.mean(values, axis=0)
        assert row.probability == pytest.approx(restored_p, rel=1e-9)
        assert row.kl == pytest.approx(restored_kl, rel=1e-7, abs=1e-12)
        assert row.probability_share == pytest.approx((restored_p - hidden_p) / (clean_p - hidden_p), rel=1e-6)
        assert row.kl_share == pytest.approx(1 - restored_kl / hidden_kl, rel=1e-6, abs=1e-9)
        assert found.corruptions.loc[0, ["probability", "kl"]].tolist() == pytest.approx([hidden_p, hidden_kl])
    assert found.table["kl_share"].std() > 0.01


def test_the_order_of_prompts_does_not_matter(compiled) -> None:
    pairs = answered(compiled.model, prompts())
    settings = CausalTraceSettings(widths=(1,), steps=4, draws=2, batch_size=8)
    state = GlobalRandomState()
    ours = causal_trace(compiled, pairs, settings=settings)
    state.assert_untouched()
    order = [3, 0, 4, 2, 1]
    theirs = causal_trace(compiled, pairs.subset(order), settings=settings)
    columns = ["probability", "kl", "probability_share", "kl_share"]
    assert np.allclose(ours.table[columns], theirs.table[columns], rtol=1e-7, atol=1e-10)
    assert np.allclose(ours.prompts["noise"].to_numpy()[order], theirs.prompts["noise"], rtol=1e-9)
    assert torch.allclose(ours.null_token.value, theirs.null_token.value, atol=1e-7)
    assert len(ours.table) == 3 * 2 * 3 * 3 and ours.null_token.losses["learnt"] <= ours.null_token.losses["mean"]
    other = causal_trace(compiled, pairs, settings=replace(settings, seed=1))
    assert not np.allclose(ours.prompts["noise"], other.prompts["noise"])


def test_traced_on_other_prompts_than_learnt_on(compiled) -> None:
    pairs, settings = prompts(), CausalTraceSettings(widths=(0,), places=("last",), steps=3, known=False, draws=1)
    seen = []
    found = causal_trace(
        compiled, pairs.subset([0, 1, 2]), pairs.subset([3, 4]), settings, tick=lambda *at: seen.append(at)
    )
    alone = causal_trace(compiled, pairs.subset([0, 1, 2]), settings=settings)
    assert len(found.prompts) == 2 and len(alone.prompts) == 3
    assert torch.equal(found.null_token.value, alone.null_token.value)
    own = alone.corruptions.set_index("corruption")
    theirs = found.corruptions.set_index("corruption")
    assert np.allclose(theirs[["train_probability", "train_kl"]], own[["probability", "kl"]])
    assert not np.allclose(theirs["kl"], own["kl"])
    assert seen == [(n, seen[-1][1]) for n in range(1, seen[-1][1] + 1)]


def test_noise_has_three_standard_deviations(compiled) -> None:
    given = traced_prompts(compiled, prompts(), known=False)
    for batch in given.batches:
        drawn = torch.cat([one - batch.run.tokens for one in noisy_tokens(given, batch, 0.5, draws=200, seed=0)])
        assert float(drawn.std()) == pytest.approx(1.5, rel=0.02) and abs(float(drawn.mean())) < 0.02
        assert not torch.equal(drawn[0], drawn[1])


def test_bounds_of_shares() -> None:
    clean, hidden = np.linspace(0.6, 0.9, 12), np.linspace(0.1, 0.3, 12)
    halfway = (clean + hidden) / 2
    found = restored_shares(np.stack([halfway, hidden, clean]), hidden, clean)
    for part in found:
        assert part.tolist() == pytest.approx([0.5, 0, 1])  # of whatever prompts
    assert all(np.isnan(part).all() for part in restored_shares(np.stack([clean]), clean, clean))


def test_no_share_of_what_was_not_lost_and_no_bounds_where_they_would_hold_that() -> None:
    """What hiding brings is no loss; one prompt has no bounds, nor has a loss that one of six prompts makes alone."""
    clean, hidden = np.full(6, 0.5), np.full(6, 0.6)
    assert all(np.isnan(part).all() for part in restored_shares(np.stack([clean]), hidden, clean))
    hidden[:] = 0.5
    hidden[0] = 0.1
    for n in (1, 6):
        share, low, high = restored_shares(np.full((1, n), 0.5), hidden[:n], clean[:n])
        assert share.tolist() == [1] and np.isnan(low).all() and np.isnan(high).all()
    hidden[1:3] = [0.2, 0.1]  # one draw of 256 holds the last of four prompts alone
    share, low, high = restored_shares(np.full((1, 4), 0.5), hidden[:4], clean[:4])
    assert [share.item(), low.item(), high.item()] == pytest.approx([1] * 3)
    nothing = restored_shares(-np.full((1, 6), 0.1), -np.full(6, 0.1), np.zeros(6))[0]
    assert nothing.tolist() == [0] and not np.signbit(nothing).any()


def test_a_prompt_alone_whose_answer_gets_likelier(compiled) -> None:
    """Its KL has shares, its probability none."""
    settings = CausalTraceSettings(
        kinds=("residual",), places=("subject",), widths=(0,), layers=(0,), corruptions=("noise",), known=False
    )
    found = [causal_trace(compiled, prompts().subset([index]), settings=settings) for index in range(5)]
    gains = [bool(one.corruptions.loc[0, "probability"] > one.prompts.loc[0, "clean_probability"]) for one in found]
    assert any(gains) and not all(gains)
    for one, gain in zip(found, gains, strict=True):
        row = one.table.loc[0]
        assert np.isnan(row["probability_share"]) == gain and np.isfinite(row["kl_share"])
        assert np.isnan(row[["kl_share_low", "kl_share_high", "probability_share_low"]].astype(float)).all()


def test_as_many_windows_at_once_as_fit(compiled, monkeypatch) -> None:
    """With a token for each window, embeddings are made for those alone that run."""
    settings = CausalTraceSettings(
        places=("last",), widths=(0,), corruptions=("null_token",), steps=2, known=False, each_window=True
    )
    expected, seen = causal_trace(compiled, prompts(), settings=settings), []
    hidden = TracedBatch.hidden

    def counted(self, tokens):
        seen.append(len(tokens))
        return hidden(self, tokens)

    monkeypatch.setattr(TracedBatch, "hidden", counted)
    monkeypatch.setattr("pruning.tracing.prompts._NUMBERS", 1)
    found = causal_trace(compiled, prompts(), settings=settings)
    assert set(seen) == {1}
    assert np.allclose(found.table["kl"], expected.table["kl"], atol=1e-9)


def test_subjects_by_span_group_and_difference(compiled) -> None:
    pairs = prompts()
    found = subjects_of(compiled, pairs)
    assert list(zip(found.first.tolist(), found.last.tolist(), strict=True)) == list(SUBJECTS)
    spans = tuple((("start", 0), ("subject", 2), ("end", 4)) for _ in range(5))
    found = subjects_of(compiled, replace(pairs, spans=spans))
    assert found.how == "subject" and set(found.first.tolist()) == {2} and set(found.last.tolist()) == {3}
    found = subjects_of(compiled, replace(pairs, spans=spans), "end")
    assert found.first.tolist() == [4] * 5 and found.last.tolist() == [int(at[0]) for at in pairs.predict_positions]
    # Without a tokenizer tokens are their ids as text: a group is looked for in "9101112".
    ids = tuple(np.array([9, 10, 11, 12]) for _ in range(2))
    told = replace(
        pairs.subset([0, 1]), clean_ids=ids, corrupted_ids=ids, predict_positions=(np.array([3]),) * 2,
        answer_ids=(np.array([1]),) * 2, groups=("1112", "101"),
    )  # fmt: skip
    found = subjects_of(compiled, told)
    assert found.how == "group" and found.first.tolist() == [2, 1] and found.last.tolist() == [3, 2]


def test_windows_of_the_same_layers_take_no_room_of_their_own(compiled) -> None:
    windows = windows_of(compiled.universe, kinds=["mlp"], places=["last"], widths=range(2, 9), layers=[0, 1, 2])
    batch = traced_prompts(compiled, prompts(), known=False).batches[0]
    with torch.no_grad():
        ((numbers, back, found),) = batch.samples(batch.run.tokens[None], windows)
    assert sorted(numbers) == list(range(21)) and len(found) == 1 and back == [0] * 21


def test_a_group_is_a_whole_word_where_it_can_be(compiled) -> None:
    """The last that is; and a part of a word only where there is no other."""
    texts = ("Niger is not Nigeria. The capital of Niger, not of Nigeria, is", "The capital of Nigeria is")
    tokenizer = word_tokenizer([*texts, " Niamey"])
    pairs = encode_pairs(
        [
            PromptPair(clean=text, corrupted=text, answer=" Niamey", group=group)
            for text, group in zip(texts, (" Niger ", "Niger"), strict=True)
        ],
        tokenizer,
    )
    found = subjects_of(replace(compiled, tokenizer=tokenizer), pairs, "group")
    assert found.texts == ("Niger", "Nigeria") and found.first.tolist() == found.last.tolist() == [8, 3]


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({"layers": (3,)}, ConfigurationError, "from 0 to 2; got 3"),
        ({"widths": (-1,)}, ConfigurationError, "widths to restore must be a whole number of at least 0; got -1"),
        ({"widths": (True,)}, ConfigurationError, "widths to restore must be a whole number of at least 0; got True"),
        ({"widths": (1, 1)}, ConfigurationError, "widths to restore: expected one or several different ones; got 1, 1"),
        ({"kinds": ()}, ConfigurationError, "kinds to restore: expected one or several different ones; got none"),
        ({"kinds": ("mpl",)}, UnknownNameError, "unknown kind of restoration 'mpl'; did you mean 'mlp'"),
        ({"places": ("first",)}, UnknownNameError, "unknown place 'first'"),
        ({"corruptions": ("nil",)}, UnknownNameError, "unknown corruption 'nil'"),
        ({"corruptions": ()}, ConfigurationError, "corruptions: expected one or several different ones; got none"),
        ({"corruptions": ("mean",), "each_window": True}, ConfigurationError, "needs 'null_token' among them"),
        ({"objective": "mse"}, UnknownNameError, "unknown objective of the null token 'mse'"),
        ({"rate": 0.0}, ConfigurationError, "rate must be a number above 0; got 0.0"),
        ({"steps": True}, ConfigurationError, "steps must be a whole number of at least 0; got True"),
        ({"starts": True}, ConfigurationError, "starts must be a whole number of at least 0; got True"),
        ({"seed": -1}, ConfigurationError, "seed must be a whole number of at least 0; got -1"),
        ({"draws": 0}, ConfigurationError, "draws"),
        ({"subject": "country"}, UnknownNameError, "unknown way to find the subject 'country'"),
        (
            {"subject": "group"},
            ConfigurationError,
            "prompt 'prompt 0' does not hold its group, None, before its answer",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(compiled, settings, error, told: str) -> None:
    with pytest.raises(error, match=told):
        causal_trace(compiled, prompts(), settings=CausalTraceSettings(known=False, **settings))


def test_prompts_that_do_not_fit_are_refused(compiled) -> None:
    pairs, settings = prompts(), CausalTraceSettings(known=False)
    with pytest.raises(ConfigurationError, match="the split has no prompts"):
        causal_trace(compiled, pairs.subset([]), settings=settings)
    alike = replace(pairs, corrupted_ids=pairs.clean_ids)
    with pytest.raises(
        ConfigurationError, match="'prompt 0' does not differ from its counterfactual before its answer"
    ):
        causal_trace(compiled, alike, settings=settings)
    numbers = replace(pairs, answer_ids=None, answer_values=tuple(ids / 2.0 for ids in pairs.answer_ids))
    with pytest.raises(ConfigurationError, match="answers that are tokens, and those of the prompts are numbers"):
        causal_trace(compiled, numbers, settings=settings)
    with pytest.raises(ConfigurationError, match="of 2 prompts there is none whose right answer is the model's first"):
        causal_trace(planted(), asked((0, 1), wrong=(0, 1)))
