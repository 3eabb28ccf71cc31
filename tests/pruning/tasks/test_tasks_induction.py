"""Induction: the rules of its prompts, and that the packaged model's circuit has the known two steps."""

from __future__ import annotations

import pytest
import torch

from circuitgraph import compile_model, load_model
from pruning import discover, load_task
from pruning.tasks.induction import LETTERS
from tests.pruning.prompts.tiny_tokenizers import word_tokenizer

TOKENIZER = word_tokenizer([f" {letter}" for letter in LETTERS], pattern=r" \w")


@pytest.fixture(scope="module")
def task():
    return load_task("induction", TOKENIZER)


def test_the_answer_followed_the_last_letter_before(task) -> None:
    for pairs in task.splits.values():
        for i in range(len(pairs)):
            *letters, asked = pairs.texts[i].split()
            *others, same = pairs.corrupted_texts[i].split()
            assert len(set(letters)) == len(letters)
            assert asked == same
            assert TOKENIZER.decode(pairs.answer_ids[i]) == f" {letters[letters.index(asked) + 1]}"
            assert sum(a != b for a, b in zip(letters, others, strict=True)) == 2
            assert others[others.index(asked) + 1] != letters[letters.index(asked) + 1]


def test_prompts_differ(task) -> None:
    texts = [text for pairs in task.splits.values() for text in pairs.texts]
    assert len(set(texts)) == len(texts) == 500


@pytest.mark.slow
def test_the_circuit_of_the_packaged_model_looks_one_back_first() -> None:
    """Which heads look one back, and at what followed, is read from the model's own attention; the circuit has both.

    At four fifths of the edges cut it is the one of the paper: heads that look one back write what the keys of all
    heads of the second layer read, and these write the answer.
    """
    loaded = load_model("induction-neox")
    task = load_task("induction", loaded.tokenizer, sizes={"train": 100, "validation": 20, "test": 50})
    ids = torch.tensor([[1, *range(2, 22), *range(2, 22)]])
    eager = type(loaded.model).from_pretrained(loaded.model.name_or_path, attn_implementation="eager")
    with torch.no_grad():
        patterns = eager(ids, output_attentions=True).attentions
    first, second = torch.arange(2, 21), torch.arange(22, 41)
    one_back = patterns[0][0][:, first, first - 1].mean(-1) > 0.4
    followed = patterns[1][0][:, second, second - 19].mean(-1) > 0.8
    assert 0 < int(one_back.sum()) < 4
    assert bool(followed.all())
    found = discover(compile_model(loaded), task, "quick", steps=200, target_sparsity=0.8, n_random=0, progress=False)
    names = {f"{source}->{target}" for source, target in found.circuit.edges}
    heads = one_back.nonzero()[:, 0].tolist()
    assert {name for name in names if name.startswith("a0")} == {
        f"a0.h{head}->a1.h{other}<k>" for head in heads for other in range(4)
    }
    assert {name for name in names if name.endswith("logits")} == {f"a1.h{head}->logits" for head in range(4)}
    assert found.metrics["splits"]["test"]["circuit"]["exact_match"] > 0.95
