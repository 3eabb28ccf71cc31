"""From a task to a small model: what is reported is what the saved parts say when they are asked again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.extract.size import parameters_without_embeddings
from circuitgraph.models import load_model
from pruning.evaluation.evaluate import evaluate
from pruning.prompts.pairs import PromptPair
from pruning.runs.shrink import shrink
from pruning.tasks import load_task, task_from_pairs
from tests.pruning.prompts.tiny_tokenizers import word_tokenizer


@pytest.fixture(scope="module")
def program():
    loaded = load_model("tracr:xproportion")
    compiled = compile_model(loaded, embeddings="split", verify=False)
    return compiled, load_task("tracr-xproportion", loaded.tokenizer, options={"max_length": 4})


def test_a_program_keeps_its_nodes_and_its_answers(program):
    compiled, task = program
    told = []
    small = shrink(compiled, task, threshold=1e-6, repeats=1, say=told.append)
    assert small.extracted.live_heads == ("a1.h0",) and small.extracted.live_mlps == ("m0",)
    assert small.measures["model"]["accuracy"] == small.measures["circuit"]["accuracy"] == 1.0
    assert small.measures["circuit"]["mse"] < 1e-9 and small.largest_difference < 1e-4
    pairs = task.split("test")
    alone = evaluate(compiled, small.circuit, pairs, n_random=0).metrics
    assert alone["circuit"]["mse"] == pytest.approx(small.measures["circuit"]["mse"], abs=1e-9)
    # A layer's weights by hand: one head of two layers, and one MLP of two, are left; the program has no norms.
    blocks = dict(compiled.model.named_parameters())
    count = {name: sum(w.numel() for key, w in blocks.items() if key.startswith(f"blocks.{name}")) for name in "01"}
    assert small.n_parameters_model == count["0"] + count["1"] == parameters_without_embeddings(compiled)
    assert (
        small.share_gone == pytest.approx(1 - small.n_parameters / small.n_parameters_model) and small.share_gone > 0.5
    )
    assert small.to_dict()["speed"]["repeats"] == 1 and len(told) >= 3


@pytest.fixture(scope="module")
def text(tiny_llama):
    names = ("Ann", "Bob", "Cid", "Dan", "Eve")
    pairs = [
        PromptPair(
            clean=f"x {a} saw {b} and {a}", corrupted=f"x {a} saw {b} and {b}", answer=f" {b}", wrong_answer=f" {a}"
        )
        for a in names
        for b in names
        if a != b
    ]
    tokenizer = word_tokenizer(["x saw and", *(f" {name}" for name in names)])
    torch.manual_seed(0)
    compiled = compile_model(tiny_llama(vocab_size=len(tokenizer)), verify=False)
    return compiled, task_from_pairs(pairs, tokenizer, name="sees")


def test_means_per_position_stand_for_what_is_gone(text):
    compiled, task = text
    small = shrink(compiled, task, threshold=0.05, repeats=1)
    assert small.circuit.ablation == "mean-positional" == small.extracted.ablation
    assert 0 < small.n_parameters < small.n_parameters_model
    assert small.largest_difference < 1e-4
    alone = evaluate(compiled, small.circuit, task.split("test"), ablation_data=task.split("train"), n_random=0).metrics
    for name in ("kl", "accuracy", "logit_diff"):
        assert small.measures["circuit"][name] == pytest.approx(alone["circuit"][name], abs=1e-4)
        assert small.measures["model"][name] == pytest.approx(alone["full"][name], abs=1e-4)
    heads = shrink(compiled, task, threshold=0.05, mlps=False, repeats=1)
    assert len(heads.circuit.provenance["selection"]) and heads.circuit.provenance["selection"]["mlps"] is False
    assert np.isclose(heads.share_gone, 1 - heads.n_parameters / heads.n_parameters_model)


def test_refusals_come_before_the_search(text, program, monkeypatch):
    compiled, task = text
    monkeypatch.setattr("pruning.runs.shrink.ranked", lambda *a, **k: pytest.fail("the search ran"))
    for ablation in ("counterfactual", "optimal"):
        with pytest.raises(ConfigurationError, match="has constants in place of what is gone"):
            shrink(compiled, task, ablation=ablation)
    with pytest.raises(ConfigurationError, match="prompts of one length; these have 2 to 5 tokens"):
        shrink(*program, ablation="mean-positional")
    with pytest.raises(UnknownNameError, match="tesst"):
        shrink(compiled, task, split="tesst")
    with pytest.raises(UnknownNameError, match="objective"):
        shrink(compiled, task, objective="kll")
