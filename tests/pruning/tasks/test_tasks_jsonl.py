"""Prompts of one's own: splits from the file or by seed, sizes, and errors that name the line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from circuitgraph.errors import ConfigurationError, PromptFormatError
from pruning.prompts.pairs import PromptPair, PromptPairs
from pruning.tasks import load_task, task_from_pairs
from tests.pruning.prompts.tiny_tokenizers import piece_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return piece_tokenizer(["cat", "dog", " a b"] * 3)


def write(tmp_path, *, splits=(None,) * 12, groups=None):
    pairs = [
        PromptPair(
            clean=f"cat {number:02}", corrupted="dog 00", answer=" a", wrong_answer=" b", split=split,
            group=groups and groups[number],
        )
        for number, split in enumerate(splits)
    ]  # fmt: skip
    path = tmp_path / "prompts.jsonl"
    PromptPairs(tuple(pairs)).to_jsonl(path)
    return path


def test_the_files_splits_are_kept(tmp_path, tokenizer):
    path = write(tmp_path, splits=["train", "test", "train", "validation"])
    data = load_task(f"jsonl:{path}", tokenizer)
    assert data.splits["train"].texts == ("cat 00", "cat 02")
    assert data.splits["test"].texts == ("cat 01",)
    assert data.notes == ()
    assert data.provenance["task"] == f"jsonl:{path}"
    assert data.provenance["sizes"] == {"train": 2, "validation": 1, "test": 1}
    only = load_task(f"jsonl:{write(tmp_path, splits=['test'])}", tokenizer)
    assert list(only.splits) == ["test"]


def test_without_splits_they_are_dealt_by_seed_and_said(tmp_path, tokenizer):
    path = write(tmp_path)
    data = load_task(f"jsonl:{path}", tokenizer, seed=1)
    assert {split: len(pairs) for split, pairs in data.splits.items()} == {"train": 6, "validation": 3, "test": 3}
    assert data.notes == (f"no split in {path}: half train, a quarter validation, a quarter test, dealt by seed",)
    assert {text for pairs in data.splits.values() for text in pairs.texts} == {f"cat {n:02}" for n in range(12)}
    assert load_task(f"jsonl:{path}", tokenizer, seed=1).data_hash == data.data_hash
    assert load_task(f"jsonl:{path}", tokenizer, seed=2).data_hash != data.data_hash


def test_a_group_stays_together(tmp_path, tokenizer):
    data = load_task(f"jsonl:{write(tmp_path, groups='aabbccddeeff')}", tokenizer)
    groups = [set(pairs.groups) for pairs in data.splits.values()]
    assert sum(map(len, groups)) == 6
    with pytest.raises(PromptFormatError, match="2 separate prompts cannot fill train, validation and test"):
        load_task(f"jsonl:{write(tmp_path, groups='a' * 6 + 'b' * 6)}", tokenizer)


def test_sizes_take_the_first_of_each_split(tmp_path, tokenizer):
    path = write(tmp_path, splits=["train"] * 3 + ["test"] * 3)
    data = load_task(f"jsonl:{path}", tokenizer, sizes={"train": 2})
    assert data.splits["train"].texts == ("cat 00", "cat 01")
    assert len(data.splits["test"]) == 3
    with pytest.raises(ConfigurationError, match="has 3 prompts in split 'test', but 4 were asked for"):
        load_task(f"jsonl:{path}", tokenizer, sizes={"test": 4})


def test_errors_name_the_file_and_the_line(tmp_path, tokenizer):
    with pytest.raises(PromptFormatError, match=r"prompts\.jsonl, line 2: 'split' is missing here"):
        load_task(f"jsonl:{write(tmp_path, splits=['train', None])}", tokenizer)
    path = tmp_path / "uneven.jsonl"
    path.write_text(
        '{"clean": "cat<predict> a</predict>", "corrupted": "dog", "split": "test"}\n'
        '{"clean": "dog<predict> b</predict>", "corrupted": "dog 12", "split": "train"}\n'
    )
    with pytest.raises(PromptFormatError, match=r"uneven\.jsonl, line 2: the clean side has"):
        load_task(f"jsonl:{path}", tokenizer)
    with path.open("a") as file:
        file.write('{"clean": "dog 1<predict> b</predict>", "corrupted": "cat 2", "split": "train"}\n')
    data = load_task(f"jsonl:{path}", tokenizer, options={"align": "drop"})
    assert data.splits["train"].texts == ("dog 1",)
    assert "uneven.jsonl, line 2" in data.notes[0]
    with pytest.raises(ConfigurationError, match=r"needs a file, for example jsonl:prompts\.jsonl"):
        load_task("jsonl:", tokenizer)


# ---------------------------------------------------------------- pairs in memory


@pytest.mark.parametrize("splits", [(None,) * 12, ("train",) * 4 + ("test",) * 3])
def test_pairs_in_memory_are_the_task_of_their_file(tmp_path, tokenizer, splits):
    path = write(tmp_path, splits=splits)
    data, file = (
        task_from_pairs(PromptPairs.from_jsonl(path), tokenizer, seed=3),
        load_task(f"jsonl:{path}", tokenizer, seed=3),
    )
    assert data.data_hash == file.data_hash
    assert list(data.splits) == list(file.splits)
    assert data.objective == file.objective
    assert {**data.provenance, "task": f"jsonl:{path}"} == file.provenance
    assert (data.name, data.provenance["task"]) == ("pairs", "pairs")
    assert data.notes == tuple(note.replace(str(path), "the pairs") for note in file.notes)


def test_pairs_in_memory_are_checked_as_a_file_is(tokenizer):
    pair = PromptPair(clean="cat 01", corrupted="dog 00", answer=" a", split="train")
    longer = PromptPair(clean="cat 02", corrupted="dog 00 00", answer=" a", split="train")
    with pytest.raises(PromptFormatError, match="prompt 'cat 02': the clean side has"):
        task_from_pairs([pair, longer], tokenizer)
    assert len(task_from_pairs([pair, longer], tokenizer, align="drop").split("train")) == 1
    with pytest.raises(PromptFormatError, match=r"split 'test' and also in 'train' \(an earlier pair\)"):
        task_from_pairs([pair, replace(pair, split="test")], tokenizer)
    with pytest.raises(PromptFormatError, match="the pairs: 1 separate prompts cannot fill"):
        task_from_pairs([replace(pair, split=None)], tokenizer)
    with pytest.raises(PromptFormatError, match="at least one prompt pair; got none"):
        task_from_pairs([], tokenizer)
    with pytest.raises(ConfigurationError, match="a task named 'ioi' is already registered"):
        task_from_pairs([pair], tokenizer, name="ioi")
    with pytest.raises(ConfigurationError, match="has 1 prompts in split 'train', but 2 were asked for"):
        task_from_pairs([pair], tokenizer, sizes={"train": 2})
