"""Coordinates of heads and MLPs gated, against hooks on what goes into their last maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from circuitgraph.batch import TokenBatch
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, UnsupportedModelError
from circuitgraph.forward.coordinates import CoordinateGates, inner_of, mean_inner, neurons_of
from circuitgraph.forward.engine.mlps.frozen_linear import FrozenLinear
from tests.circuitgraph.extract.extract_cases import learnt_values
from tests.oracles.cases import ModelMakers, pair_of_batches

CASES = ("gpt2", "llama-gqa")


@pytest.fixture(scope="module", params=CASES)
def compiled(request: pytest.FixtureRequest, tiny_gpt2: Callable[..., nn.Module], tiny_llama) -> CompiledModel:
    return ModelMakers(tiny_gpt2, tiny_llama).compile(request.param, dtype=torch.float64)


@pytest.fixture(scope="module")
def batches(compiled: CompiledModel) -> tuple[TokenBatch, TokenBatch]:
    config: Any = compiled.model.config
    return pair_of_batches(lengths=[5, 5], side="left", n_asked=2, n_tokens=config.vocab_size, seed=1)


def call(model: nn.Module, batch: TokenBatch) -> Tensor:
    """Logits at the asked positions, with gradients."""
    ran = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids)
    return ran.logits.flatten(0, 1)[batch.predict_index]


def last_maps(compiled: CompiledModel) -> dict[str, nn.Module]:
    """The modules whose inputs are coordinates, by what they are of."""
    model: Any = compiled.model
    if compiled.universe.family == "gpt2":
        blocks = model.transformer.h
        return {f"{what}{i}": getattr(b, part).c_proj for i, b in enumerate(blocks) for what, part in PARTS}
    layers = enumerate(model.model.layers)
    return {
        name: module for i, b in layers for name, module in ((f"a{i}", b.self_attn.o_proj), (f"m{i}", b.mlp.down_proj))
    }


PARTS = (("a", "attn"), ("m", "mlp"))


def all_gates(compiled: CompiledModel, *, seed: int = 3) -> dict[str, Tensor]:
    """A gate for every coordinate, drawn; some exactly 0 and 1."""
    generator, shape = torch.Generator().manual_seed(seed), compiled.shape
    found = {}
    for layer in range(shape.n_layers):
        for name, size in ((f"a{layer}", (shape.n_heads, shape.d_head)), (f"m{layer}", (shape.d_mlp,))):
            drawn = 1.6 * torch.rand(size, generator=generator, dtype=torch.float64) - 0.3
            found[name] = drawn.clamp(0, 1).requires_grad_()
    return found


def as_coordinates(gates: dict[str, Tensor], **more: Any) -> CoordinateGates:
    parts = {kind: {int(name[1:]): of for name, of in gates.items() if name[0] == kind} for kind in "am"}
    return CoordinateGates(heads=parts["a"], mlps=parts["m"], **more)


def hooked(compiled: CompiledModel, batch: TokenBatch, gates: dict[str, Tensor], instead: dict[str, Tensor]) -> Tensor:
    """The untouched model with gated inputs of its last maps; a missing value instead is 0."""
    handles = []
    for name, module in last_maps(compiled).items():

        def gated(module: nn.Module, args: tuple, name: str = name) -> tuple:
            own = gates[name].flatten()
            return (own * args[0] + (1 - own) * instead.get(name, torch.zeros(())),)

        handles.append(module.register_forward_pre_hook(gated))
    try:
        return call(compiled.model, batch)
    finally:
        for handle in handles:
            handle.remove()


def captured(compiled: CompiledModel, batch: TokenBatch) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    handles = []
    for name, module in last_maps(compiled).items():

        def kept(module: nn.Module, args: tuple, name: str = name) -> None:
            found[name] = args[0].detach()

        handles.append(module.register_forward_pre_hook(kept))
    with torch.no_grad():
        call(compiled.model, batch)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("ablation", ["counterfactual", "zero", "mean"])
def test_logits_and_gradients_are_the_hooked_models(compiled, batches, ablation: str) -> None:
    clean, corrupted = batches
    theirs, ours = all_gates(compiled), all_gates(compiled)
    said = captured(compiled, corrupted)
    instead, inner = said, {}
    if ablation == "counterfactual":
        values = compiled.run_with_values(corrupted)[1]
    else:
        values = compiled.ablation_values(ablation, [corrupted])
        instead = {name: value.mean((0, 1)) for name, value in said.items()} if ablation == "mean" else {}
        inner = mean_inner(compiled.bound, compiled.shape, [corrupted], range(2)) if ablation == "mean" else {}
    want = hooked(compiled, clean, theirs, instead)
    edges = torch.ones(compiled.universe.n_edges, dtype=torch.float64)
    got = compiled.masked(edges, clean, values, coordinates=as_coordinates(ours, inner=inner)).logits
    torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-9)
    assert (want - compiled.logits(clean)).abs().max() > 1e-2
    weights = torch.linspace(-1, 1, want.numel(), dtype=torch.float64).view(want.shape)
    wanted = torch.autograd.grad((want * weights).sum(), list(theirs.values()))
    found = torch.autograd.grad((got * weights).sum(), list(ours.values()))
    for name, mine, their in zip(theirs, found, wanted, strict=True):
        torch.testing.assert_close(mine, their, atol=1e-9, rtol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("ablation", ["counterfactual", "zero"])
def test_in_a_circuit_gates_of_1_change_nothing_and_of_0_leave_the_ablated_value(compiled, batches, ablation) -> None:
    clean, corrupted = batches
    universe = compiled.universe
    counterfactual = ablation == "counterfactual"
    values = compiled.run_with_values(corrupted)[1] if counterfactual else compiled.ablation_values("zero")
    generator = torch.Generator().manual_seed(2)
    edges = (torch.rand(universe.n_edges, generator=generator) < 0.6).double()
    ones = {name: torch.ones_like(of) for name, of in all_gates(compiled).items()}
    plain = compiled.masked(edges, clean, values).logits
    same = compiled.masked(edges, clean, values, coordinates=as_coordinates(ones)).logits
    torch.testing.assert_close(same, plain, atol=1e-10, rtol=1e-10)
    # A head without any coordinate is a head without edges; an MLP keeps the bias of its last map under zero ablation.
    head = ones | {"a1": ones["a1"].index_fill(0, torch.tensor([2]), 0.0)}
    cut = edges.clone()
    cut[torch.from_numpy(universe.writer_of_edge == universe.writers.index("a1.h2"))] = 0
    got = compiled.masked(edges, clean, values, coordinates=as_coordinates(head)).logits
    torch.testing.assert_close(got, compiled.masked(cut, clean, values).logits, atol=1e-10, rtol=1e-10)
    if counterfactual:
        mlp = ones | {"m0": torch.zeros_like(ones["m0"])}
        cut = edges.clone()
        cut[torch.from_numpy(universe.writer_of_edge == universe.writers.index("m0"))] = 0
        got = compiled.masked(edges, clean, values, coordinates=as_coordinates(mlp)).logits
        torch.testing.assert_close(got, compiled.masked(cut, clean, values).logits, atol=1e-10, rtol=1e-10)


def test_the_neurons_of_maps_by_onednn_are_known() -> None:
    mlp = nn.Module()
    mlp.c_fc, mlp.act = nn.Linear(6, 10, dtype=torch.float64), nn.ReLU()
    for last in (nn.Linear(10, 6, dtype=torch.float64), Conv1D(6, 10).double()):
        mlp.c_proj = last
        assert neurons_of(mlp) == 10
        x = torch.linspace(-1, 1, 6, dtype=torch.float64)
        want = mlp.c_proj(mlp.act(mlp.c_fc(x)))
        mlp.c_proj = FrozenLinear(last)
        assert neurons_of(mlp) == 10
        torch.testing.assert_close(last(inner_of(mlp, x)), want)


def test_what_does_not_fit_is_refused(compiled, batches) -> None:
    clean, corrupted = batches
    edges = torch.ones(compiled.universe.n_edges, dtype=torch.float64)

    def run(gates: CoordinateGates, ablation: str = "zero") -> None:
        values = (
            learnt_values(compiled, 1) if ablation == "optimal" else compiled.ablation_values(ablation, [corrupted])
        )
        compiled.masked(edges, clean, values, coordinates=gates)

    n = compiled.shape.d_mlp
    with pytest.raises(ConfigurationError, match=rf"coordinates of m1: expected one gate for each, \[{n}\]; got \[3\]"):
        run(CoordinateGates(mlps={1: torch.ones(3)}))
    with pytest.raises(ConfigurationError, match="layer 5's heads: the model has layers 0 to 1"):
        run(CoordinateGates(heads={5: torch.ones(1, 1)}))
    with pytest.raises(ConfigurationError, match="m1 under mean ablation need the means of its neurons"):
        run(CoordinateGates(mlps={1: torch.ones(n)}), "mean")
    with pytest.raises(ConfigurationError, match="of kind 'optimal' say nothing of an MLP's neurons"):
        run(CoordinateGates(mlps={1: torch.ones(n)}), "optimal")
    assert neurons_of(compiled.bound.blocks[0].mlp) == n
    with pytest.raises(UnsupportedModelError, match="neurons of MLPs of the kind Linear are not known"):
        inner_of(nn.Linear(2, 2), torch.ones(1, 2))
