"""Prompts of a benchmark: where they differ, how they reach their length, what share of them has to run."""

from __future__ import annotations

import numpy as np
import pytest

from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import ConfigurationError
from pruning.bench.prompts import ioi_prompts, make_prompts, random_prompts
from pruning.bench.settings import BenchSettings
from pruning.prompts.encoding import EncodedPairs
from pruning.prompts.reached import share_reached
from pruning.tasks.ioi import OBJECTS, PLACES, TEMPLATES
from pruning.tasks.names import NAMES
from tests.pruning.prompts.tiny_tokenizers import word_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    """Every word of the task is one token, so a sentence has as many tokens as words and marks."""
    return word_tokenizer([*TEMPLATES, *(f" {word}" for word in (*NAMES, *PLACES, *OBJECTS)), *NAMES])


def differing(pairs: EncodedPairs) -> list[list[int]]:
    return [
        np.flatnonzero(clean != corrupted).tolist()
        for clean, corrupted in zip(pairs.clean_ids, pairs.corrupted_ids, strict=True)
    ]


class TestRandom:
    def test_three_tokens_differ_from_a_quarter_on(self):
        found = random_prompts(20, 32, d_vocab=7, seed=1)
        places = differing(found.pairs)
        assert {len(at) for at in places} == {3}
        assert {at[0] for at in places} == {8}, "the first at a quarter"
        assert max(at[2] for at in places) <= 30, "never the last token"
        assert len({tuple(at) for at in places}) > 10, "other places in other prompts"
        assert found.seq == 32 and "3 tokens, the first of them token 9" in found.told

    @pytest.mark.parametrize(("seq", "n"), [(2, 1), (3, 2), (4, 2), (5, 3), (6, 3)])
    def test_short_prompts_differ_where_there_is_room(self, seq, n):
        found = random_prompts(4, seq, d_vocab=9, seed=0)
        assert {len(at) for at in differing(found.pairs)} == {n}
        assert all(at[-1] < seq - 1 for at in differing(found.pairs))

    def test_all_tokens_differ(self):
        found = random_prompts(6, 5, d_vocab=2, seed=0, differ="all")
        assert differing(found.pairs) == [[0, 1, 2, 3, 4]] * 6
        assert "every token" in found.told
        assert share_reached(found.pairs) == 1

    def test_seed_and_vocabulary(self):
        one, same, other = (random_prompts(4, 8, d_vocab=11, seed=seed).pairs for seed in (0, 0, 1))
        assert one.data_hash == same.data_hash != other.data_hash
        ids = np.concatenate([*one.clean_ids, *one.corrupted_ids, *one.answer_ids])
        assert ids.min() >= 0 and ids.max() < 11
        assert {at.tolist()[0] for at in one.predict_positions} == {7}


class TestShareReached:
    def test_by_hand(self):
        """Reached: tokens 1 to 2 of 4; none, since the only difference lies after the answer; 0 to 4 of 5."""

        def ids(*rows: str) -> tuple[np.ndarray, ...]:
            return tuple(np.array([int(digit) for digit in row]) for row in rows)

        pairs = EncodedPairs(
            clean_ids=ids("1234", "1234", "12345"),
            corrupted_ids=ids("1934", "1239", "92345"),
            predict_positions=(np.array([1, 2]), np.array([1]), np.array([4])),
        )
        assert share_reached(pairs) == pytest.approx((2 + 0 + 5) / 13)


class TestIoi:
    def test_the_commonest_length(self, tokenizer):
        found = ioi_prompts(tokenizer, 5, seq=None, seed=0)
        assert len(found.pairs) == 5 and len(set(found.pairs.lengths.tolist())) == 1
        assert len({tuple(at) for at in found.pairs.predict_positions}) == 1
        assert found.told == f"IOI pairs of {found.seq} tokens, seed 0"
        text = tokenizer.decode(found.pairs.clean_ids[0])
        assert " gave" in text or " handed" in text or " lent" in text or " sent" in text

    def test_a_length_that_sentences_have(self, tokenizer):
        lengths = {len(tokenizer(template.format(a="Ann", b="Bob", s="Ann", place="bank", object="pen"))["input_ids"])
                   for template in TEMPLATES}  # fmt: skip
        shortest = min(lengths)
        found = ioi_prompts(tokenizer, 3, seq=shortest, seed=0)
        assert found.seq == shortest and "repeated" not in found.told

    def test_others_are_repeated_and_cut_at_the_front(self, tokenizer):
        longest = ioi_prompts(tokenizer, 3, seq=100, seed=0)
        plain = ioi_prompts(tokenizer, 3, seq=int(longest.told.split()[3]), seed=0)
        n = plain.seq
        assert longest.seq == 100 and "repeated and cut at the front to 100 (no padding)" in longest.told
        for side in ("clean_ids", "corrupted_ids"):
            for long, short in zip(getattr(longest.pairs, side), getattr(plain.pairs, side), strict=True):
                assert all(long[99 - i] == short[n - 1 - i % n] for i in range(100))
        asked = [int(at[0]) for at in longest.pairs.predict_positions]
        assert asked == [99] * 3
        for ours, theirs in zip(longest.pairs.answer_ids, plain.pairs.answer_ids, strict=True):
            assert (ours == theirs).all()

    def test_too_short(self, tokenizer):
        with pytest.raises(ConfigurationError, match=r"IOI pairs have \d+ to \d+ tokens .* ask for"):
            ioi_prompts(tokenizer, 3, seq=4, seed=0)


def test_a_length_that_the_model_does_not_take(tiny_gpt2):
    compiled = compile_model(tiny_gpt2(n_positions=16), verify=False)
    with pytest.raises(ConfigurationError, match="at most 16 tokens, got 17"):
        make_prompts(BenchSettings(model="x", seq=17), compiled)
    assert make_prompts(BenchSettings(model="x"), compiled).seq == 16, "32, or what it takes"
    assert make_prompts(BenchSettings(model="x", seq=5, batch=2), compiled).pairs.lengths.tolist() == [5, 5]
