"""Exact patching against single edges cut in untouched models; information flow and magnitudes by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from pruning.execution.probe import Probe
from pruning.methods.exact import Exact
from pruning.methods.information_flow import ActivationMagnitude, InformationFlow
from pruning.methods.random_scores import RandomScores
from pruning.runs.rank import rank_edges
from tests.oracles.attribution import run_with_hooks
from tests.oracles.hooks import cut_edge, said_by
from tests.pruning.prompts.small_prompts import GlobalRandomState, random_prompts

PROMPTS = random_prompts(lengths=[4, 3, 4], n_asked=(1, 2))


@pytest.fixture(scope="module")
def compiled(tiny_llama) -> CompiledModel:
    return compile_model(tiny_llama(n_heads=4, n_kv_heads=2).double(), verify=False)


@pytest.fixture(scope="module")
def micro(tiny_gpt2) -> CompiledModel:
    return compile_model(tiny_gpt2(n_layers=1, n_heads=2, d_head=2).double(), verify=False)


def cross_entropy(logits: torch.Tensor, prompt: int) -> float:
    answers = torch.from_numpy(PROMPTS.answer_ids[prompt])
    return -float(logits.log_softmax(-1)[torch.arange(len(answers)), answers].mean())


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_exact_is_one_edge_cut_in_the_untouched_model(compiled: CompiledModel, direction: str) -> None:
    universe, model = compiled.universe, compiled.model
    probe = Probe(compiled=compiled, pairs=PROMPTS, objective="cross-entropy", batch_size=2)
    found = Exact(direction=direction).score(probe)
    edges = [*range(0, universe.n_edges, 17), universe.n_edges - 1]
    for edge in edges:
        writer, reader = universe.edge_name(edge).split("->")
        expected = 0.0
        for prompt in range(len(PROMPTS)):
            batch = PROMPTS.batch([prompt])
            live, other = batch.clean, batch.corrupted
            if direction == "denoising":
                live, other = other, live
            cut = cross_entropy(cut_edge(model, writer, reader, live, said_by(model, writer, other)), prompt)
            expected += (cut - cross_entropy(compiled.logits(live), prompt)) / len(PROMPTS)
        expected = expected if direction == "noising" else -expected
        assert found[edge] == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_exact_says_how_long_it_takes(micro: CompiledModel) -> None:
    said: list[str] = []
    probe = Probe(compiled=micro, pairs=PROMPTS, objective="kl", ablation="zero", batch_size=1, say=said.append)
    scores = Exact().score(probe)
    assert len(said) == 1 and said[0].startswith(f"exact edge patching: {micro.universe.n_edges} edges on 3 prompts")
    assert scores.min() >= -1e-12  # a divergence is least at the full model
    assert scores.max() > 1e-3


def test_information_flow_and_magnitude_by_the_formula(micro: CompiledModel) -> None:
    universe = micro.universe
    flow, size = np.zeros(universe.n_edges), np.zeros(universe.n_edges)
    for prompt in range(len(PROMPTS)):
        said = run_with_hooks(micro.model, universe, torch.from_numpy(PROMPTS.clean_ids[prompt])[None]).said
        bias = micro.model.transformer.h[0].attn.c_proj.bias.detach()
        n_tokens = len(PROMPTS.clean_ids[prompt])
        for edge in range(universe.n_edges):
            writer, reader = universe.edge_name(edge).split("->")
            seen_by = {"a": ["input"], "m": ["input", "a0.h0", "a0.h1"], "l": ["input", "a0.h0", "a0.h1", "m0"]}
            writers = seen_by[reader[0]]
            for at in range(n_tokens):
                x = sum(said[name][0, at] for name in writers) + (0 if reader[0] == "a" else bias)
                near = {name: max(0.0, float(x.abs().sum() - (said[name][0, at] - x).abs().sum())) for name in writers}
                total = sum(near.values())
                flow[edge] += (near[writer] / total if total else 0) / n_tokens / len(PROMPTS)
                size[edge] += float(said[writer][0, at].norm() / x.norm()) / n_tokens / len(PROMPTS)
    probe = Probe(compiled=micro, pairs=PROMPTS, objective=None, batch_size=2)
    np.testing.assert_allclose(InformationFlow().score(probe), flow, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(ActivationMagnitude().score(probe), size, rtol=1e-6)


def test_random_is_decided_by_the_seed(micro: CompiledModel) -> None:
    state = GlobalRandomState()
    one, again, other = (rank_edges(micro, PROMPTS, RandomScores(), seed=seed) for seed in (1, 1, 2))
    state.assert_untouched()
    assert (one.values == again.values).all() and (one.values != other.values).all()
    assert one.direction == "none" and one.provenance["objective"] is None


def test_what_compares_nothing_takes_no_objective(micro: CompiledModel) -> None:
    for name in ("information-flow", "activation-magnitude", "random"):
        with pytest.raises(ConfigurationError, match=f"'{name}' compares nothing, so no objective can be chosen"):
            rank_edges(micro, PROMPTS, name, objective="kl")
