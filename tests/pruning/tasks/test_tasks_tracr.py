"""Tracr tasks: all inputs, each position after BOS asked, answers by hand and by the compiled model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitgraph.errors import ConfigurationError
from circuitgraph.tracr import load_tracr, program_names
from pruning.tasks import load_task
from tests.pruning.prompts.tiny_tokenizers import piece_tokenizer


def test_reverse_asks_every_position_of_every_input():
    tokenizer = load_tracr("tracr:reverse").tokenizer
    data = load_task("tracr-reverse", tokenizer)
    pairs = data.splits["train"]
    assert len(pairs) == 3 + 9 + 27 + 81 + 243
    assert data.splits["test"] is data.splits["validation"] is pairs
    at = pairs.texts.index("BOS 1 2 2")
    assert [tokenizer.decode_token(int(token)) for token in pairs.clean_ids[at]] == ["BOS", "1", "2", "2"]
    assert pairs.predict_positions[at].tolist() == [1, 2, 3]
    assert [tokenizer.output_symbols[token] for token in pairs.answer_ids[at]] == ["2", "2", "1"]
    assert all(np.array_equal(a, b) for a, b in zip(pairs.clean_ids, pairs.corrupted_ids, strict=True))
    assert (data.objective, pairs.answer_values) == ("kl", None)
    assert data.notes == ("train, validation and test each hold all 363 inputs",)
    assert "bos" not in data.provenance


def test_xproportion_asks_for_the_share_of_x_so_far():
    tokenizer = load_tracr("tracr:xproportion").tokenizer
    data = load_task("tracr-xproportion", tokenizer)
    pairs = data.splits["test"]
    assert len(pairs) == 4 + 16 + 64 + 256 + 1024
    at = pairs.texts.index("BOS x a x x")
    assert pairs.answer_values[at] == pytest.approx([1, 1 / 2, 2 / 3, 3 / 4])
    assert (data.objective, pairs.answer_ids) == ("mse", None)
    batch = pairs.batch([at, 0])
    assert batch.answer_ids is None
    assert batch.answer_values.tolist() == pytest.approx([1, 1 / 2, 2 / 3, 3 / 4, 0])


def test_max_length_is_an_option_with_bounds():
    tokenizer = load_tracr("tracr:reverse").tokenizer
    data = load_task("tracr-reverse", tokenizer, options={"max_length": 2})
    assert len(data.splits["train"]) == 12
    assert data.provenance["options"] == {"max_length": 2}
    for bad in (0, 6, "3"):
        with pytest.raises(ConfigurationError, match="max_length must be a whole number from 1 to 5"):
            load_task("tracr-reverse", tokenizer, options={"max_length": bad})


def test_task_and_model_must_go_together():
    reverse = load_tracr("tracr:reverse").tokenizer
    with pytest.raises(ConfigurationError, match="only for the model 'tracr:xproportion'"):
        load_task("tracr-xproportion", reverse)
    with pytest.raises(ConfigurationError, match="only for the model 'tracr:reverse'"):
        load_task("tracr-reverse", piece_tokenizer(["1 2 3"]))
    with pytest.raises(ConfigurationError, match="only for the model 'tracr:hist'"):
        load_task("tracr-hist", load_tracr("tracr:count").tokenizer)  # the same tokens
    with pytest.raises(ConfigurationError, match="task 'ioi' is made of text, but this model is a Tracr program"):
        load_task("ioi", reverse)
    with pytest.raises(ConfigurationError, match="takes no sizes"):
        load_task("tracr-reverse", reverse, sizes={"test": 3})
    with pytest.raises(ConfigurationError, match="has no chat template"):
        load_task("tracr-reverse", reverse, chat_template=True)


def test_positions_without_an_answer_are_not_asked():
    tokenizer = load_tracr("tracr:induction").tokenizer
    pairs = load_task("tracr-induction", tokenizer).split("test")
    at = pairs.texts.index("BOS a b c a b")
    assert pairs.predict_positions[at].tolist() == [4, 5]  # the second a and b, which b and c came after
    assert [tokenizer.output_symbols[column] for column in pairs.answer_ids[at]] == ["b", "c"]
    at = pairs.texts.index("BOS a b a c a")
    assert pairs.predict_positions[at].tolist() == [3]  # by the last a, both b and c came after one
    assert "BOS a b c" not in pairs.texts


@pytest.mark.parametrize("name", program_names())
def test_the_compiled_model_gives_the_tasks_answers(name):
    loaded = load_tracr(f"tracr:{name}")
    pairs = load_task(f"tracr-{name}", loaded.tokenizer).splits["test"]
    some = pairs.batch(range(0, len(pairs), 7), pad_id=loaded.tokenizer.pad_token_id)
    with torch.no_grad():
        out = loaded.model(some.clean.input_ids, attention_mask=some.clean.attention_mask)
    logits = out if isinstance(out, torch.Tensor) else out.logits
    asked = logits.flatten(0, 1)[some.clean.predict_index]
    if some.answer_values is None:
        assert torch.equal(asked.argmax(-1), some.answer_ids)
    else:
        assert torch.allclose(asked[:, 0], some.answer_values, atol=1e-4)
