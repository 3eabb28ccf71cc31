"""Interventions run: next to hooks on the model's own modules."""

from __future__ import annotations

import pytest
import torch

from circuitgraph import Circuit, CompiledModel, compile_model
from circuitgraph.errors import ConfigurationError, GraphMismatchError
from circuitgraph.interventions.applied import intervene
from circuitgraph.interventions.intervention import Intervention
from tests.pruning.prompts.small_prompts import random_prompts

PROMPTS = random_prompts(lengths=[6, 6, 6], n_asked=(2,))


@pytest.fixture(scope="module")
def compiled(tiny_llama) -> CompiledModel:
    return compile_model(tiny_llama(dtype=torch.float64), verify=False)


def batch():
    import numpy as np

    return PROMPTS.batch(np.arange(3)).clean


def hooked(compiled: CompiledModel, factors: dict[str, float]) -> torch.Tensor:
    """The model's own forward pass, what heads and MLPs say multiplied by hooks."""
    model, hooks = compiled.model, []
    d_head = model.config.head_dim
    for name, factor in factors.items():
        layer = model.model.layers[int(name.split(".")[0][1:])]
        if name.startswith("m"):
            hooks.append(layer.mlp.register_forward_hook(lambda _m, _i, output, by=factor: output * by))
            continue
        head = int(name.split(".h")[1])

        def scale(_module, inputs, head=head, by=factor):
            changed = inputs[0].clone()
            changed[..., head * d_head : (head + 1) * d_head] *= by
            return (changed,)

        hooks.append(layer.self_attn.o_proj.register_forward_pre_hook(scale))
    tokens = batch()
    try:
        with torch.no_grad():
            logits = model(input_ids=tokens.input_ids).logits
    finally:
        for hook in hooks:
            hook.remove()
    return logits.flatten(0, 1)[tokens.predict_index]


@pytest.mark.parametrize("strength", [1.0, -1.0, 2.5])
def test_scaled_writers_are_hooks_on_their_modules(compiled: CompiledModel, strength: float) -> None:
    changes = {"a0.h1": -1.0, "a1.h2": 0.7, "m0": -0.4, "m1": 0.3}
    intervention = Intervention.from_writers(compiled.universe, changes)
    ours = intervene(compiled, intervention, strength=strength).logits(batch())
    theirs = hooked(compiled, {name: 1 + strength * change for name, change in changes.items()})
    assert (ours - theirs).abs().max() < 1e-9 < (ours - compiled.logits(batch())).abs().max()


def test_the_model_is_left_as_it_is(compiled: CompiledModel) -> None:
    before, weights = compiled.logits(batch()), [p.clone() for p in compiled.model.parameters()]
    intervene(compiled, Intervention.from_writers(compiled.universe, {"m0": -1})).logits(batch())
    assert torch.equal(before, compiled.logits(batch()))
    assert all(torch.equal(a, b) for a, b in zip(weights, compiled.model.parameters(), strict=True))


def test_on_a_circuit_its_own_edges_alone_are_there(compiled: CompiledModel) -> None:
    """With everything turned off but for the circuit's edges, changes elsewhere do nothing."""
    universe = compiled.universe
    circuit = Circuit.from_edges(universe, ["input->m0", "m0->logits", "input->logits"], ablation="zero")
    alone = intervene(compiled, Intervention.from_writers(universe, {}), circuit=circuit).logits(batch())
    elsewhere = Intervention.from_writers(universe, {"a0.h0": 5.0, "m1": -3.0})
    assert torch.equal(intervene(compiled, elsewhere, circuit=circuit).logits(batch()), alone)
    inside = Intervention.from_writers(universe, {"m0": 1.0})
    assert not torch.equal(intervene(compiled, inside, circuit=circuit).logits(batch()), alone)


def test_what_does_not_fit_is_refused(compiled: CompiledModel, tiny_llama) -> None:
    universe = compiled.universe
    other = compile_model(tiny_llama(n_layers=3), verify=False)
    with pytest.raises(GraphMismatchError, match="n_layers"):
        intervene(other, Intervention.from_writers(universe, {"m0": 1}))
    found = Circuit.from_edges(universe, ["input->logits"], ablation="counterfactual")
    with pytest.raises(ConfigurationError, match="found under counterfactual ablation and the interv"):
        intervene(compiled, Intervention.from_writers(universe, {"m0": 1}), circuit=found)
    cut = Intervention.from_writers(universe, {"m0": -1}, ablation="counterfactual")
    with pytest.raises(ConfigurationError, match="pass `values`"):
        intervene(compiled, cut).logits(batch())
    with pytest.raises(ConfigurationError, match="of zero ablation, expected counterfactual"):
        intervene(compiled, cut).logits(batch(), compiled.ablation_values("zero"))
