"""Loading tasks: sizes, splits, seeds, and the names that are looked up."""

from __future__ import annotations

import pytest

from pruning.tasks import load_task
from pruning.tasks.ioi import OBJECTS, PLACES, TEMPLATES
from pruning.tasks.names import NAMES
from tests.pruning.tiny_tokenizers import word_tokenizer

SIZES = {"train": 20, "validation": 10, "test": 30}


@pytest.fixture(scope="module")
def tokenizer():
    words = [*TEMPLATES, *(f" {word}" for word in (*NAMES, *PLACES, *OBJECTS)), "a"]
    return word_tokenizer(words)


def test_ioi_gives_the_asked_sizes_and_the_same_prompts_for_a_seed(tokenizer):
    data = load_task("ioi", tokenizer, sizes=SIZES, seed=3)
    assert {split: len(pairs) for split, pairs in data.splits.items()} == SIZES
    assert load_task("ioi", tokenizer, sizes=SIZES, seed=3).data_hash == data.data_hash
    assert load_task("ioi", tokenizer, sizes=SIZES, seed=4).data_hash != data.data_hash
