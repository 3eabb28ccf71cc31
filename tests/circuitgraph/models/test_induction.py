"""The packaged GPT-NeoX: what it was trained on, that it does it, and that its graph is it."""

from __future__ import annotations

import hashlib

import pytest
import torch

from circuitgraph import LoadedModel, compile_model, load_model
from circuitgraph.models import induction
from circuitgraph.models.induction.train import draw


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(induction.NAME)


def test_the_second_time_is_the_first_again() -> None:
    """BOS, some letters, the same letters; asked for is the second time but for its first letter."""
    ids, asked = draw(20, torch.Generator().manual_seed(3))
    sizes = set()
    for row, wanted in zip(ids.tolist(), asked.tolist(), strict=True):
        letters = [token for token in row[1:] if token]
        half = len(letters) // 2
        sizes.add(half)
        assert row[0] == 1
        assert letters[:half] == letters[half:]
        assert len(set(letters)) == half
        assert [place for place, flag in enumerate(wanted) if flag] == list(range(2 + half, 1 + 2 * half))
    assert len(sizes) > 3


def test_it_says_what_came_after(loaded: LoadedModel) -> None:
    ids, asked = draw(300, torch.Generator().manual_seed(11))
    with torch.no_grad():
        said = loaded.model(ids).logits[:, :-1].argmax(-1)
    assert float((said[asked[:, 1:]] == ids[:, 1:][asked[:, 1:]]).float().mean()) > 0.98


def test_a_letter_is_a_token(loaded: LoadedModel) -> None:
    assert loaded.tokenizer("a c z A").input_ids == [1, 2, 4, 27, 28]


def test_its_graph_is_it(loaded: LoadedModel) -> None:
    compiled = compile_model(loaded)
    assert (compiled.universe.block_order, compiled.universe.n_edges) == ("parallel", 12 + 1 + 12 * 6 + 6 + 11)
    assert loaded.revision == hashlib.sha256((induction.FOLDER / "model.safetensors").read_bytes()).hexdigest()
    assert sum(file.stat().st_size for file in induction.FOLDER.iterdir()) < 5e6
