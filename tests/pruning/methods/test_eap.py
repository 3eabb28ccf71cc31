"""EAP scores against gates' gradients in a masked pass, and finite differences in plain Hugging Face models.

`test_attribution_by_hooks.py` compares them with the published formula.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, NotFiniteError
from pruning.execution import pair_runs
from pruning.execution.probe import Probe
from pruning.methods.eap import EAP
from pruning.methods.eap_ig import EAPIG
from pruning.methods.gate_gradients import GateGradients, GateImportance, GatePath, gate_gradients, gate_importance
from pruning.prompts.encoding import EncodedPairs
from tests.oracles.cases import BATTERY, CASES, ModelMakers, in_parallel
from tests.oracles.hooks import cut_edge, landmarks, said_by
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


def by_masked_pass(probe: Probe) -> np.ndarray:
    """Minus the gates' gradients in a masked pass with all gates at 1: another way to the same scores."""
    total = sum(probe.gradient(prompts, probe.full_gates) for prompts in probe.batches())
    return -np.asarray(total) / len(probe.pairs)


@pytest.mark.parametrize("ablation", ["counterfactual", "zero", "mean"])
@pytest.mark.parametrize("case", BATTERY)
def test_gates_gradients_at_1(tiny_gpt2, tiny_llama, case: str, ablation: str) -> None:
    # Rounding grows with the products, which are sums over all cells; float64 shows that it is no more than that.
    dtype, tolerance = (torch.float32, 1e-5) if ablation == "mean" else (torch.float64, 1e-12)
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=dtype)
    prompts = random_prompts(lengths=[5, 4, 5], n_asked=(1, 2), n_tokens=6 if case.startswith("tracr") else 29)
    probe = Probe(compiled=compiled, pairs=prompts, objective="cross-entropy", ablation=ablation, batch_size=2)
    expected = by_masked_pass(probe)
    np.testing.assert_allclose(EAP().score(probe), expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_gates_gradients_where_mlps_do_not_read_their_layer(tiny_gpt2, tiny_llama) -> None:
    compiled = in_parallel(ModelMakers(tiny_gpt2, tiny_llama).compile("llama-gqa", dtype=torch.float64))
    probe = Probe(compiled=compiled, pairs=PROMPTS, objective="cross-entropy")
    expected = by_masked_pass(probe)
    np.testing.assert_allclose(EAP().score(probe), expected, rtol=0, atol=1e-12 * np.abs(expected).max())


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

    def counted(module, name: str) -> None:
        plain = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: (ran.append(name), plain(*a, **k))[1])

    compiled = compile_model(tiny_gpt2(), verify=False)
    for name in ("masked", "run_with_values", "logits"):
        counted(CompiledModel, name)
    counted(pair_runs, "full_run")
    EAP().score(Probe(compiled=compiled, pairs=PROMPTS, objective="cross-entropy", batch_size=2))
    assert sorted(ran) == ["full_run"] * 3 + ["run_with_values"] * 3  # lengths 4, 5, 5
    ran.clear()
    EAPIG(steps=4).score(Probe(compiled=compiled, pairs=PROMPTS, objective="cross-entropy", batch_size=4))
    assert sorted(ran) == ["full_run"] * 8 + ["run_with_values"] * 2  # the first step is the corrupted run


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
