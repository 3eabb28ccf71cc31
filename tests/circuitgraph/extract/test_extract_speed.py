"""How speed is measured: in turn, without the first ones, as medians. Not how fast anything is."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.extract import extract_circuit, measure_speed_up, speed
from tests.circuitgraph.extract.extract_cases import Bench, circuit_of


@pytest.fixture(scope="module")
def compiled(tiny_gpt2) -> CompiledModel:
    return compile_model(tiny_gpt2(), verify=False)


def test_medians_of_turns_by_a_clock_of_our_own(compiled: CompiledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each turn takes the model 3, 30 or 300 seconds, the circuit 1, 2 or 50; two turns before are not counted."""
    bench = Bench(compiled)
    module = extract_circuit(circuit_of(compiled, 0.5, 0, "zero"), compiled)
    calls: list[str] = []

    def counted(name: str, forward: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(forward)  # it stays the library's own, by name
        def run(*given: object, **named: object) -> object:
            calls.append(name)
            return forward(*given, **named)

        return run

    for name, one in (("model", type(compiled.model)), ("circuit", type(module))):
        monkeypatch.setattr(one, "forward", counted(name, one.forward))
    warming = [(7, 7, 7, 7)] * 2
    turns = [(30, 2, 5, 1), (3, 50, 5, 4), (300, 1, 5, 2)]
    clock = itertools.chain.from_iterable((0.0, float(taken)) for turn in (*warming, *turns) for taken in turn)
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    found = measure_speed_up(module, compiled, bench.batch, repeats=3)
    assert (found.model_seconds, found.circuit_seconds, found.ratio) == (30, 2, 15)
    assert (found.model_asked_seconds, found.circuit_asked_seconds, found.ratio_asked) == (5, 2, 2.5)
    assert (found.repeats, found.n_prompts, found.n_tokens) == (3, 3, 5)
    # The model at the asked positions is our plain run of it, which has no forward of the library's.
    assert calls == ["model", "circuit", "circuit"] * 5
    assert found.to_dict()["ratio"] == 15


def test_the_model_stays_as_it_was(compiled: CompiledModel) -> None:
    compiled.model.train()
    small = extract_circuit(circuit_of(compiled, 0.5, 0, "zero"), compiled)
    measure_speed_up(small, compiled, Bench(compiled).batch, repeats=1)
    assert compiled.model.training
    compiled.model.eval()
    assert all(weight.requires_grad and weight.grad is None for weight in compiled.model.parameters())


def test_refusals(compiled: CompiledModel) -> None:
    module, batch = extract_circuit(circuit_of(compiled, 0.5, 0, "zero"), compiled), Bench(compiled).batch
    with pytest.raises(ConfigurationError, match="at least 1; got 0"):
        measure_speed_up(module, compiled, batch, repeats=0)
    with pytest.raises(ConfigurationError, match="the circuit is on meta and the model on cpu"):
        measure_speed_up(module.to(torch.device("meta")), compiled, batch)
