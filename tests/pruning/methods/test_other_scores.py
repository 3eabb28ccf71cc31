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
from pruning.methods.weight_magnitude import WeightMagnitude
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


@torch.no_grad()
def test_weight_magnitude_in_a_gpt2(micro: CompiledModel) -> None:
    """All edges, from the matrices as Hugging Face keeps them."""
    body, head = micro.model.transformer, micro.model.lm_head
    block = body.h[0]
    last = {"input": torch.cat([body.wte.weight, body.wpe.weight]), "m0": block.mlp.c_proj.weight}
    first = {
        "m0": block.ln_2.weight[:, None] * block.mlp.c_fc.weight,
        "logits": body.ln_f.weight[:, None] * head.weight.T,
    }
    for h in range(2):
        last[f"a0.h{h}"] = block.attn.c_proj.weight[2 * h : 2 * h + 2]
        for place, port in enumerate("qkv"):
            columns = slice(4 * place + 2 * h, 4 * place + 2 * h + 2)
            first[f"a0.h{h}<{port}>"] = block.ln_1.weight[:, None] * block.attn.c_attn.weight[:, columns]
    found = WeightMagnitude().score(Probe(compiled=micro, pairs=PROMPTS, objective=None))
    for edge in range(micro.universe.n_edges):
        writer, reader = micro.universe.edge_name(edge).split("->")
        expected = (last[writer] @ (first[reader] - first[reader].mean(0))).norm()
        assert found[edge] == pytest.approx(float(expected), rel=1e-9)


@torch.no_grad()
def test_weight_magnitude_in_a_llama_of_grouped_heads(compiled: CompiledModel) -> None:
    layer, universe, size = compiled.model.model.layers[1], compiled.universe, compiled.shape.d_head
    scores = dict(
        zip(
            map(universe.edge_name, range(universe.n_edges)),
            WeightMagnitude().score(Probe(compiled=compiled, pairs=PROMPTS, objective=None)),
            strict=True,
        )
    )
    key = layer.self_attn.k_proj.weight[size : 2 * size].T * layer.input_layernorm.weight[:, None]
    down = compiled.model.model.layers[0].mlp.down_proj.weight.T
    assert scores["m0->a1.kv1<k>"] == pytest.approx(float((down @ key).norm()), rel=1e-6)
    inner = torch.cat([layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight]).T
    inner = inner * layer.post_attention_layernorm.weight[:, None]
    said = layer.self_attn.o_proj.weight.T[2 * size : 3 * size]
    assert scores["a1.h2->m1"] == pytest.approx(float((said @ inner).norm()), rel=1e-6)


def test_random_is_decided_by_the_seed(micro: CompiledModel) -> None:
    state = GlobalRandomState()
    one, again, other = (rank_edges(micro, PROMPTS, RandomScores(), seed=seed) for seed in (1, 1, 2))
    state.assert_untouched()
    assert (one.values == again.values).all() and (one.values != other.values).all()
    assert one.direction == "none" and one.provenance["objective"] is None


def test_what_compares_nothing_takes_no_objective(micro: CompiledModel) -> None:
    for name in ("information-flow", "activation-magnitude", "weight-magnitude", "random"):
        with pytest.raises(ConfigurationError, match=f"'{name}' compares nothing, so no objective can be chosen"):
            rank_edges(micro, PROMPTS, name, objective="kl")
