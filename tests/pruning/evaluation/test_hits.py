"""Hit@k: by hand, and through `evaluate` against the logits themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuitgraph import Circuit, compile_model, load_model
from circuitgraph.errors import ConfigurationError
from pruning import evaluate, load_task
from pruning.evaluation.scores import score_prompts
from tests.pruning.evaluation.test_evaluate import batch

# Three prompts, asked at two, one and one positions; only the first asked position of each counts.
LOGITS = torch.tensor([[4.0, 3.0, 2.0, 1.0], [9.0, 0, 0, 0], [1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 5.0, 1.0]])
PROMPT = [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1, [0, 0, 1]),  # token 1 is second; token 0 is fourth; the third's three are as likely as each other
        (2, [1, 0, 1]),
        (3, [1, 0, 1]),
        (4, [1, 1, 1]),
    ],
)
def test_the_right_token_is_among_the_k_likeliest(k: int, expected: list[int]) -> None:
    pairs = batch(PROMPT, answer_ids=torch.tensor([1, 3, 0, 2]))
    assert score_prompts(LOGITS, LOGITS, pairs, hit_at=k)[f"hit_at_{k}"].tolist() == expected


def test_any_right_token_counts_and_one_that_is_none_does_not() -> None:
    pairs = batch(PROMPT, answer_ids=torch.tensor([1, 3, 0, 2]), correct_ids=torch.tensor([[3, 2], [0, 3], [3, -1]]))
    assert score_prompts(LOGITS, LOGITS, pairs, hit_at=1)["hit_at_1"].tolist() == [0, 1, 0]
    assert score_prompts(LOGITS, LOGITS, pairs, hit_at=3)["hit_at_3"].tolist() == [1, 1, 0]
    assert not any(name.startswith("hit") for name in score_prompts(LOGITS, LOGITS, pairs))


def test_evaluate_measures_it_for_every_role() -> None:
    loaded = load_model("induction-neox")
    compiled = compile_model(loaded)
    pairs = load_task("induction", loaded.tokenizer, sizes={"train": 1, "validation": 0, "test": 12}).split("test")
    circuit = Circuit.from_edges(compiled.universe, np.ones(compiled.universe.n_edges, dtype=bool))
    metrics = evaluate(compiled, circuit, pairs, n_random=1, hit_at=3).metrics
    right = 0
    for index in range(len(pairs)):
        one = pairs.batch([index])
        first = compiled.logits(one.clean)[0]
        right += int(pairs.answer_ids[index][0]) in first.topk(3).indices.tolist()
    assert metrics["full"]["hit_at_3"] == metrics["circuit"]["hit_at_3"] == right / 12
    assert metrics["empty"]["hit_at_3"] < right / 12
    assert len(metrics["circuit"]["intervals"]["hit_at_3"]) == 2
    assert {"hit_at_3"} < metrics["random"]["difference"].keys()
    with pytest.raises(ConfigurationError, match="hit_at"):
        evaluate(compiled, circuit, replace(pairs, answer_ids=None, correct_ids=None), n_random=0, hit_at=3)
    with pytest.raises(ConfigurationError, match="hit_at"):
        evaluate(compiled, circuit, pairs, n_random=0, hit_at=0)
