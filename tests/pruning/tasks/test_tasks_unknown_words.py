"""Tokenizers that know few words: a clear error soon, or fewer names, and never prompts that look the same."""

from __future__ import annotations

import pytest

from circuitgraph.errors import ConfigurationError
from pruning.tasks import load_task
from pruning.tasks.ioi import OBJECTS, PLACES, TEMPLATES
from pruning.tasks.names import NAMES
from tests.pruning.prompts.tiny_tokenizers import word_tokenizer

pytestmark = pytest.mark.slow

TASKS = ("antonyms", "boolean-expressions", "capitals", "gendered-pronoun", "greater-than", "ioi", "ioi-t1")
TEXT = " ".join((*TEMPLATES, *PLACES, *OBJECTS)).replace("{", " {")


@pytest.mark.parametrize("task", [*TASKS, "subject-verb-agreement"])
def test_a_tokenizer_that_knows_no_word_is_refused(task: str) -> None:
    with pytest.raises(ConfigurationError, match=f"task '{task}'"):
        load_task(task, word_tokenizer(["x"]))


def test_names_that_are_all_unknown_are_no_names() -> None:
    with pytest.raises(ConfigurationError, match="needs 5 names of the same token count, this tokenizer knows 0"):
        load_task("ioi", word_tokenizer([TEXT]))


def test_unknown_names_are_left_out_and_noted() -> None:
    known = NAMES[:8]
    tokenizer = word_tokenizer([TEXT + " " + " ".join(known)])
    data = load_task("ioi", tokenizer, sizes={"train": 20, "validation": 0, "test": 0})
    assert any(f"does not know {len(NAMES) - 8} of {len(NAMES)}" in note for note in data.notes)
    split = data.split("train")
    assert len({tuple(ids.tolist()) for ids in split.clean_ids}) == 20
    words = {word.strip(",.") for text in (*split.texts, *split.corrupted_texts) for word in text.split()}
    assert words & set(NAMES) == set(known)


def test_prompts_that_never_fit_end_with_the_first_problem() -> None:
    # The names are known, but " gave" and the like are one unknown token with the quote that follows: no answer fits.
    tokenizer = word_tokenizer([TEXT + " " + " ".join(NAMES)])
    tokenizer.add_tokens([f" to {name}" for name in NAMES])
    with pytest.raises(ConfigurationError, match=r"has 0 distinct prompts .* pairs did not fit the tokenizer; first:"):
        load_task("ioi-t1", tokenizer)
