"""What cannot be extracted, and what the message says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, GraphMismatchError, ParityError, UnknownNameError
from circuitgraph.extract import extract_circuit, parts
from circuitgraph.graph.universe import Universe
from tests.circuitgraph.extract.extract_cases import Bench, circuit_of


@pytest.fixture(scope="module")
def compiled(tiny_gpt2) -> CompiledModel:
    return compile_model(tiny_gpt2(), verify=False)


@pytest.mark.parametrize("asked", [None, "counterfactual"])
def test_counterfactuals_are_no_constants(compiled: CompiledModel, asked: str | None) -> None:
    found = "counterfactual" if asked is None else "mean"
    circuit, values = circuit_of(compiled, 0.5, 0, found), None
    if asked is not None:
        values = compiled.run_with_values(Bench(compiled).batch)[1]
    with pytest.raises(ConfigurationError) as caught:
        extract_circuit(circuit, compiled, values=values)
    said = str(caught.value)
    assert "zero, mean, mean-positional, optimal" in said
    assert 'pruning.evaluate(compiled, circuit, pairs, ablation="mean")' in said
    assert 'extract_circuit(circuit, compiled, values=compiled.ablation_values("mean", batches))' in said


def test_a_counterfactual_circuit_under_another_ablation(compiled: CompiledModel) -> None:
    bench = Bench(compiled)
    circuit, values = circuit_of(compiled, 0.5, 0, "counterfactual"), bench.values("mean")
    module = extract_circuit(circuit, compiled, values=values)
    assert module.ablation == "mean"
    wanted = bench.masked(circuit, values)
    with torch.no_grad():
        torch.testing.assert_close(bench.everywhere(module), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("ablation", "said"),
    [("mean", "ablation_values('mean', batches)"), ("mean-positional", "batches"), ("optimal", "learnt together")],
)
def test_values_that_are_missing(compiled: CompiledModel, ablation: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        extract_circuit(circuit_of(compiled, 0.5, 0, ablation), compiled)
    assert said in str(caught.value)


def test_values_that_do_not_fit(compiled: CompiledModel) -> None:
    circuit, bench = circuit_of(compiled, 0.5, 0, "mean"), Bench(compiled, side="none")
    values = bench.values("mean")
    prompts = compiled.run_with_values(bench.batch)[1].constant("mean")
    with pytest.raises(ConfigurationError, match="3 prompts, so they differ from prompt to prompt"):
        extract_circuit(circuit, compiled, values=prompts)
    with pytest.raises(ConfigurationError, match=r"mlps must have the shape \[1, seq or 1, 12\]; got \[12\]"):
        extract_circuit(circuit, compiled, values=replace(values, mlps=tuple(v[0, 0] for v in values.mlps)))
    with pytest.raises(ConfigurationError, match="expected 2 tensors of heads; got 1"):
        extract_circuit(circuit, compiled, values=replace(values, heads=values.heads[:1]))
    by_position = tuple(value.expand(-1, 3 + i, -1) for i, value in enumerate(values.mlps))
    with pytest.raises(ConfigurationError, match=r"one number of positions; got \[3, 4\]"):
        extract_circuit(circuit, compiled, values=replace(values, mlps=by_position))


def test_names_and_graphs(compiled: CompiledModel) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'mean'"):
        compiled.ablation_values("zero").constant("meen")
    other = Universe(family="gpt2", n_layers=2, n_heads=3, n_kv_heads=3, qkv="joint")
    stranger = Circuit.from_edges(other, ["input->logits"], ablation="zero")
    with pytest.raises(GraphMismatchError, match="qkv: 'joint' against 'split'"):
        extract_circuit(stranger, compiled)
    # A model that is not compiled is compiled with the circuit's own choices.
    assert extract_circuit(stranger, compiled.model).layout.universe == other


def test_prompts_of_another_length_than_the_constants(compiled: CompiledModel) -> None:
    bench = Bench(compiled, side="none")
    circuit, values = circuit_of(compiled, 0.5, 0, "mean-positional"), bench.values("mean-positional")
    module = extract_circuit(circuit, compiled, values=values)
    with pytest.raises(ConfigurationError, match="for prompts of 4 tokens; got 3"):
        module(torch.zeros(1, 3, dtype=torch.int64))


def test_a_module_that_says_something_else_is_refused(compiled: CompiledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it would in a family whose attention does what extraction does not know of."""
    circuit, attend = circuit_of(compiled, 0.7, 0, "zero"), parts.attend

    def louder(*given, attention, **settings):
        return attend(*given, attention=replace(attention, scale=1.5 * attention.scale), **settings)

    monkeypatch.setattr(parts, "attend", louder)
    extract_circuit(circuit, compiled, verify=False)
    with pytest.raises(ParityError, match="differs from the masked run"):
        extract_circuit(circuit, compiled)
