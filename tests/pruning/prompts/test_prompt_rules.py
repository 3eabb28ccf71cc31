"""Prompts of the same tokens: never in two splits, whatever the words, and never a prompt's own counterfactual."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from jaxtyping import config as checks
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from circuitgraph.errors import ConfigurationError, PromptFormatError, UnknownNameError
from pruning.prompts.encoding import EncodedPairs, encode_pairs
from pruning.prompts.pairs import PromptPair
from pruning.prompts.prompt_rules import refuse_equal_sides, units
from pruning.regimes.alignment import require_aligned
from pruning.tasks import load_task, task_from_pairs
from pruning.tasks.registry import register_task, unregister_task

WORDS = ("<unk>", "capital", "of", "is", "sao", "peru", "cuba", "é", "lima", "paris")


@pytest.fixture(scope="module")
def tokenizer():
    """One id a word; spaces, case and Unicode form make no difference, other words are all `<unk>`."""
    plain = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    plain.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>")


def pair(clean: str, split: str | None = None, group: str | None = None) -> PromptPair:
    return PromptPair(clean=clean, corrupted="capital of cuba is", answer=" lima", split=split, group=group)


ALIKE = [
    ("capital of peru is", "capital of peru is "),
    ("capital of peru is", "capital of  peru is"),
    ("capital of peru is", "Capital of Peru is"),
    ("capital of \u00e9 is", "capital of e\u0301 is"),
    ("capital of Chad is", "capital of Mali is"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_the_same_tokens_in_two_splits_are_refused_in_a_file_and_in_memory(tmp_path, tokenizer, one, other):
    filler = pair("capital of sao is", "train")
    message = "this prompt is in split 'test' and has the same tokens as .*, which is in 'train'"
    if one.strip() != other.strip():
        message += ".*differ only in what the tokenizer does not tell apart"
        with pytest.raises(PromptFormatError, match=f"{message}.*remove one of the two$"):
            task_from_pairs([filler, pair(one, "train"), pair(other, "test")], tokenizer)
    path = tmp_path / "prompts.jsonl"
    lines = [{"clean": f"{text}<predict> lima</predict>", "corrupted": "capital of cuba is"} for text in (one, other)]
    path.write_text("\n".join(json.dumps({**lines[at], "split": split}) for at, split in ((0, "train"), (1, "test"))))
    with pytest.raises(PromptFormatError, match=r"prompts\.jsonl, line 2: .*prompts\.jsonl, line 1"):
        load_task(f"jsonl:{path}", tokenizer)


def test_prompts_of_the_same_tokens_are_dealt_to_the_same_split(tokenizer):
    words = [word for word in WORDS if word != "<unk>"]
    pairs = [pair(form.format(word)) for form in ("capital of {} is", "Capital  OF {} is") for word in words]
    for seed in range(5):
        task = task_from_pairs(pairs, tokenizer, seed=seed)
        assert sum(map(len, task.splits.values())) == 18
        keys = [set(split.prompt_keys) for split in task.splits.values()]
        assert sum(map(len, keys)) == len(set.union(*keys)) == 9


def test_a_group_is_dealt_to_one_split_in_any_spelling():
    groups = ["São Tomé", "Sa\u0303o  Tome\u0301", "são tomé ", None, None]
    assert units(["a", "b", "c", "d", "d"], groups) == [[0, 1, 2], [3, 4]]
    # One prompt may tie two units together.
    assert units(["a", "b", "a"], ["g", "h", "h"]) == [[0, 1, 2]]


def test_a_generators_prompts_of_the_same_tokens_are_left_out_and_noted(tokenizer):
    @register_task("spelled", description="Each twice.", sizes={"train": 2, "validation": 1, "test": 1})
    def spelled(context):
        for word in ("Peru", "peru", "cuba", "sao", "Chad", "Mali", "é"):
            yield pair(f"capital of {word} is")

    try:
        task = load_task("spelled", tokenizer)
        texts = [text for split in ("test", "validation", "train") for text in task.splits[split].texts]
        assert texts == [f"capital of {word} is" for word in ("Peru", "cuba", "sao", "Chad")]
        with pytest.raises(ConfigurationError, match="has 5 distinct prompts with this tokenizer, but 6"):
            load_task("spelled", tokenizer, sizes={"train": 4})
        notes = load_task("spelled", tokenizer, sizes={"train": 3}).notes
        assert any("2 generated prompts have the same tokens" in note for note in notes)
    finally:
        unregister_task("spelled")


def test_ids_that_another_package_made_are_checked_unless_it_says_that_they_are_shared(tokenizer):
    ids = (np.array([1, 2]), np.array([1, 3]))
    data = EncodedPairs(clean_ids=ids, corrupted_ids=ids, predict_positions=(np.array([1]),) * 2)

    def register(splits, **options):
        register_task("made", description="Ids.", sizes=None, **options)(lambda context: splits)

    try:
        register({"train": data, "test": data.subset([1])})
        with pytest.raises(PromptFormatError, match="prompt 0: .*'test' and has the same tokens as prompt 1.*'train'"):
            load_task("made", tokenizer)
        unregister_task("made")
        register({"train": data, "test": data}, shares_prompts=True)
        assert load_task("made", tokenizer).shares_prompts
        unregister_task("made")
        register({"tests": data})
        with pytest.raises(UnknownNameError, match="unknown split made by task 'made' 'tests'; did you mean 'test'"):
            load_task("made", tokenizer)
    finally:
        unregister_task("made")


def test_regimes_may_not_test_on_what_another_was_trained_on(tokenizer):
    def task(*prompts):
        return task_from_pairs([pair(*prompt) for prompt in prompts], tokenizer)

    one = task(("capital of peru is", "train", "Peru"), ("capital of cuba is", "test", "Cuba"))
    assert require_aligned({"one": one, "two": one}) == []
    crossed = task(("is of cuba is", "train", "Peru"), ("Capital of  PERU is", "test", "Cuba"))
    with pytest.raises(PromptFormatError, match="in split 'test of regime two' .* which is in 'train of regime one'"):
        require_aligned({"one": one, "two": crossed})
    spelled = task(("is of peru is", "train", "Peru "), ("is of cuba is", "test", "Cuba"))
    with pytest.raises(PromptFormatError, match="'Peru' and 'Peru ' differ in spaces or Unicode form only"):
        require_aligned({"one": one, "two": spelled})
    moved = task(("is of peru is", "train", "Cuba "), ("is of cuba is", "test", "Peru"))
    with pytest.raises(PromptFormatError, match="item 'Cuba ' is in split 'train' of regime 'two'"):
        require_aligned({"one": one, "two": moved})


def test_prompts_that_are_all_their_own_counterfactual_are_refused(tokenizer):
    same = [PromptPair(clean="capital of Chad is", corrupted="capital of  Mali is", answer=" lima")]
    alike = encode_pairs(same * 2, tokenizer)
    with pytest.raises(PromptFormatError, match=r"all 2 prompts have the same .*'capital of Chad is' and 'c"):
        refuse_equal_sides(alike)
    with pytest.raises(PromptFormatError, match="it has the tokens of its counterfactual"):
        refuse_equal_sides(alike.subset([0]))
    refuse_equal_sides(encode_pairs([*same, replace(same[0], clean="capital of peru is")], tokenizer))
    refuse_equal_sides(alike.subset([]))


def test_sizes_and_seeds_are_whole_numbers(tokenizer):
    pairs = [pair("capital of peru is", "train")]
    checks.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ConfigurationError, match="the size of split 'train' must be a whole number, got 1.5"):
            task_from_pairs(pairs, tokenizer, sizes={"train": 1.5})  # pyright: ignore[reportArgumentType]
        with pytest.raises(ConfigurationError, match="seed must be a whole number, got 1.5"):
            task_from_pairs(pairs, tokenizer, seed=1.5)  # pyright: ignore[reportArgumentType]
    finally:
        checks.update("jaxtyping_disable", False)
