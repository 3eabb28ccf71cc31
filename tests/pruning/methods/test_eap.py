"""EAP scores against plain Hugging Face models: activation differences times gradients, and finite differences."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, NotFiniteError
from pruning.execution.probe import Probe
from pruning.methods.eap import EAP
from pruning.methods.gate_gradients import GateGradients, GateImportance, GatePath, gate_gradients, gate_importance
from pruning.prompts.encoding import EncodedPairs
from tests.oracles.cases import CASES, ModelMakers
from tests.oracles.hooks import cut_edge, hooked, landmarks, said_by
from tests.pruning.prompts.small_prompts import GlobalRandomState, random_prompts

# Two lengths, so that the mean is over prompts and not over batches.
PROMPTS = random_prompts(lengths=[5, 4, 5, 5], n_asked=(1, 2), wrong=True)


def loss_of(logits: Tensor, pairs: EncodedPairs, prompt: int, objective: str) -> Tensor:
    """The objective of one prompt by hand, from its logits `[asked d_vocab]`."""
    if objective == "cross-entropy":
        answers = torch.from_numpy(pairs.answer_ids[prompt])
        return -logits.log_softmax(-1)[torch.arange(len(answers)), answers].mean()
    assert pairs.correct_ids is not None and pairs.wrong_ids is not None
    right, wrong = pairs.correct_ids[prompt], pairs.wrong_ids[prompt]
    return logits[0, wrong].mean() - logits[0, right].mean()


def one_by_one(pairs: EncodedPairs) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """A prompt's number, its tokens, its counterfactual's tokens `[1 seq]`, and its asked positions."""
    for prompt in range(len(pairs)):
        clean, other = (torch.from_numpy(ids[prompt])[None] for ids in (pairs.clean_ids, pairs.corrupted_ids))
        yield prompt, clean, other, torch.from_numpy(pairs.predict_positions[prompt])


@torch.no_grad()
def said_by_all(model: GPT2LMHeadModel, writers: tuple[str, ...], ids: Tensor) -> dict[str, Tensor]:
    """What every writer of a plain GPT-2 says `[1 seq d_model]`, heads as their part of the output projection."""
    body, size = model.transformer, model.config.n_embd // model.config.n_head
    said: dict[str, Tensor] = {"input": body.wte(ids) + body.wpe(torch.arange(ids.shape[1]))}
    mixed: dict[int, Tensor] = {}
    handles = []
    for layer, block in enumerate(body.h):
        handles += [
            block.attn.c_proj.register_forward_pre_hook(lambda _m, x, layer=layer: mixed.update({layer: x[0]})),
            block.mlp.register_forward_hook(lambda _m, _x, y, layer=layer: said.update({f"m{layer}": y})),
        ]
    with hooked(handles):
        model(ids)
    for layer, heads in mixed.items():
        weight = body.h[layer].attn.c_proj.weight
        for head in range(model.config.n_head):
            rows = slice(head * size, (head + 1) * size)
            said[f"a{layer}.h{head}"] = heads[..., rows] @ weight[rows]
    return {writer: said[writer] for writer in writers}


def gradients_by_reader(model: GPT2LMHeadModel, readers: tuple[str, ...], ids: Tensor, loss) -> dict[str, Tensor]:
    """The gradient of a loss in what each reader alone sees `[1 seq d_model]`, from one plain backward pass.

    A head's query, key and value read one stream; what each of them alone passes back is found by taking the gradient
    of its columns of the projection once more through projection and norm.
    """
    body, size = model.transformer, model.config.n_embd // model.config.n_head
    seen: dict[str, Tensor] = {}
    out: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> list:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name], out[name] = inputs[0], output

        return [module.register_forward_hook(hook)]

    handles = []
    for layer, block in enumerate(body.h):
        handles += keep(f"ln_1 {layer}", block.ln_1) + keep(f"c_attn {layer}", block.attn.c_attn)
        handles += keep(f"ln_2 {layer}", block.ln_2) + keep(f"mlp {layer}", block.mlp)
    handles += keep("ln_f", body.ln_f)
    with hooked(handles):
        total = loss(model(ids).logits[0])
    names = sorted(out)
    back = dict(zip(names, torch.autograd.grad(total, [out[name] for name in names]), strict=True))

    def through(module, x: Tensor, gradient: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(module(x), x, gradient)[0]

    found = {}
    for reader in readers:
        if reader == "logits":
            found[reader] = through(body.ln_f, seen["ln_f"], back["ln_f"])
            continue
        layer, *head = map(int, re.findall(r"\d+", reader))
        block = body.h[layer]
        if not head:
            found[reader] = through(lambda x, b=block: b.mlp(b.ln_2(x)), seen[f"ln_2 {layer}"], back[f"mlp {layer}"])
            continue
        first = "qkv".index(reader[-2]) * model.config.n_embd + head[0] * size
        alone = torch.zeros_like(back[f"c_attn {layer}"])
        alone[..., first : first + size] = back[f"c_attn {layer}"][..., first : first + size]
        found[reader] = through(lambda x, b=block: b.attn.c_attn(b.ln_1(x)), seen[f"ln_1 {layer}"], alone)
    return found


@pytest.mark.parametrize("objective", ["negative-logit-diff", "cross-entropy"])
def test_activation_differences_times_gradients_in_a_plain_gpt2(tiny_gpt2, objective: str) -> None:
    """All 262 edges, as the published method computes them, from hooks on the untouched model."""
    model = tiny_gpt2(n_layers=3, n_heads=4, dtype=torch.float64)
    compiled = compile_model(model, verify=False)
    universe = compiled.universe
    expected = np.zeros(universe.n_edges)
    for prompt, clean, other, asked in one_by_one(PROMPTS):
        live, ablated = (said_by_all(model, universe.writers, ids) for ids in (clean, other))
        gradients = gradients_by_reader(
            model,
            universe.readers,
            clean,
            lambda logits, p=prompt, at=asked: loss_of(logits[at], PROMPTS, p, objective),
        )
        for edge, (w, r) in enumerate(zip(*universe.endpoints(np.arange(universe.n_edges)), strict=True)):
            writer, reader = universe.writers[w], universe.readers[r]
            expected[edge] += float(((ablated[writer] - live[writer]) * gradients[reader]).sum()) / len(PROMPTS)
    found = EAP().score(Probe(compiled=compiled, pairs=PROMPTS, objective=objective, batch_size=2))
    assert universe.n_edges == 262
    # The logit difference is taken in float32, whatever the model's format.
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())


def by_finite_differences(compiled: CompiledModel, model: nn.Module, edges: list[int], ablation: str) -> list[float]:
    """What one edge's gate does to the loss of the untouched model, per unit."""
    universe, step, found = compiled.universe, 1e-4, []
    for edge in edges:
        writer, reader = universe.edge_name(edge).split("->")
        total = 0.0
        for prompt in range(len(PROMPTS)):
            batch = PROMPTS.batch([prompt])
            ablated = said_by(model, writer, batch.corrupted) if ablation == "counterfactual" else torch.zeros(())
            sides = [cut_edge(model, writer, reader, batch.clean, ablated, 1 + side * step) for side in (-1, 1)]
            less, more = (float(loss_of(logits, PROMPTS, prompt, "negative-logit-diff")) for logits in sides)
            total += (less - more) / (2 * step)
        found.append(total / len(PROMPTS))
    return found


@pytest.mark.parametrize("ablation", ["counterfactual", "zero"])
@pytest.mark.parametrize("case", ["gpt2-split-embeddings", "llama-gqa", "llama-gqa-joint"])
def test_finite_differences_in_the_untouched_model(tiny_gpt2, tiny_llama, case: str, ablation: str) -> None:
    makers = ModelMakers(tiny_gpt2, tiny_llama)
    compiled = makers.compile(case, dtype=torch.float64)
    model = compiled.model
    if CASES[case][2].get("kv_heads") == "per_query":
        from tests.oracles.hooks import with_a_key_and_value_head_for_each_query

        model = with_a_key_and_value_head_for_each_query(model)
    assert landmarks(model).d_head > 0
    edges = [*range(0, compiled.universe.n_edges, 7), compiled.universe.n_edges - 1]
    probe = Probe(compiled=compiled, pairs=PROMPTS, objective="negative-logit-diff", ablation=ablation)
    found = EAP().score(probe)[edges]
    expected = np.array(by_finite_differences(compiled, model, edges, ablation))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


def test_batches_do_not_matter_and_nothing_global_moves(tiny_gpt2) -> None:
    compiled = compile_model(tiny_gpt2(), verify=False)
    state = GlobalRandomState()
    probes = [Probe(compiled=compiled, pairs=PROMPTS, objective="cross-entropy", batch_size=n) for n in (1, 8)]
    one, all_at_once = (EAP().score(probe) for probe in probes)
    state.assert_untouched()
    np.testing.assert_allclose(one, all_at_once, rtol=1e-4, atol=1e-6)


def test_one_clean_and_one_corrupted_run_per_batch(tiny_gpt2, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    for name in ("masked", "run_with_values", "logits"):
        plain = getattr(CompiledModel, name)
        monkeypatch.setattr(
            CompiledModel, name, lambda self, *a, _n=name, _p=plain, **k: (ran.append(_n), _p(self, *a, **k))[1]
        )
    compiled = compile_model(tiny_gpt2(), verify=False)
    ran.clear()
    EAP().score(Probe(compiled=compiled, pairs=PROMPTS, objective="cross-entropy", batch_size=2))
    assert sorted(ran) == ["masked"] * 3 + ["run_with_values"] * 3  # lengths 4, 5, 5


@pytest.mark.parametrize("objective", ["kl", "logit-diff", "mse", "position-kl"])
def test_flat_objectives_are_refused(objective: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{objective}' is 0.*use negative-logit-diff or cross-entropy"):
        EAP().require(objective)
    GateGradients().require(objective)


def test_what_is_refused_is_flat(tiny_gpt2) -> None:
    """That is why: the gradient of a divergence at the full model is 0."""
    compiled = compile_model(tiny_gpt2(dtype=torch.float64), verify=False)
    for objective in ("kl", "logit-diff"):
        flat = EAP().score(Probe(compiled=compiled, pairs=PROMPTS, objective=objective))
        assert np.abs(flat).max() < 1e-6
    assert np.abs(EAP().score(Probe(compiled=compiled, pairs=PROMPTS, objective="kl-top1"))).max() > 1e-3


def test_default_objectives() -> None:
    plain = random_prompts(lengths=[4, 4])
    assert EAP().default_objective(PROMPTS, "kl") == "negative-logit-diff"
    assert EAP().default_objective(plain, "kl") == "cross-entropy"
    assert GateGradients().default_objective(plain, "kl-top1") == "kl-top1"
    assert GateGradients().default_objective(plain, None) == "kl"


def test_a_model_that_says_no_numbers(tiny_gpt2) -> None:
    model = tiny_gpt2()
    model.transformer.wpe.weight.data[4] = float("nan")
    probe = Probe(compiled=compile_model(model, verify=False), pairs=PROMPTS, objective="cross-entropy")
    with pytest.raises(NotFiniteError, match="3 of 4 prompts: prompts 0 .*, 2 .*, 3 "):
        EAP().score(probe)


def test_gate_gradients_are_methods_too(tiny_gpt2) -> None:
    """The methods are the functions that training starts from, the first with the sign of a need."""
    compiled = compile_model(tiny_gpt2(), verify=False)
    probe = Probe(compiled=compiled, pairs=PROMPTS, objective="kl")
    path = GatePath(levels=(0.3, 0.8), batches=2, batch_size=2)
    settings = {"levels": path.levels, "batches": path.batches, "batch_size": path.batch_size}
    signed, size = (method(**settings).score(probe, seed=3) for method in (GateGradients, GateImportance))
    np.testing.assert_array_equal(signed, -gate_gradients(probe.runner, path, seed=3).double().numpy())
    np.testing.assert_array_equal(size, gate_importance(probe.runner, path, seed=3).double().numpy())
