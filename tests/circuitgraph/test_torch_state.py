"""What a caller has set in torch changes no number and makes no call fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest
import torch

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.extract import extract_circuit
from circuitgraph.models import load_model
from circuitgraph.torch_state import settled
from circuitgraph.tracr import ground_truth_edges
from pruning.evaluation.effects import measure_effects
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.recipes import recipe_named
from pruning.methods.edge_pruning.train import Trainer
from pruning.methods.gate_gradients import gate_gradients
from pruning.runs.checking.behaviour import behaviour
from pruning.runs.discover import discover
from pruning.tasks import load_task
from tests.oracles.cases import pair_of_batches

CLEAN, CORRUPTED = pair_of_batches(lengths=[5, 3], side="left", n_asked=2, n_tokens=29, seed=1)


@contextmanager
def float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


STATES: dict[str, Callable[[], AbstractContextManager]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": float64_by_default,
    "meta": lambda: torch.device("meta"),
}


def logits(model) -> list[torch.Tensor]:
    compiled = compile_model(model)
    values = compiled.run_with_values(CORRUPTED)[1]
    gates = torch.full((compiled.universe.n_edges,), 0.5, dtype=torch.float32, device="cpu")
    means = compiled.ablation_values("mean", [CLEAN])
    return [compiled.logits(CLEAN), *(compiled.masked(gates, CLEAN, given).logits for given in (values, means))]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_same_bits_under_every_state(state: str, family: str, tiny_gpt2, tiny_llama) -> None:
    model = {"gpt2": tiny_gpt2, "llama": tiny_llama}[family]()
    expected = logits(model)
    with STATES[state]():
        found = logits(model)
        kept = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
        with settled(gradients=True):
            assert torch.is_grad_enabled() and torch.zeros(1).dtype == torch.float32
        assert kept == (torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled())
    for ours, theirs in zip(found, expected, strict=True):
        assert not ours.is_inference() and ours.dtype == theirs.dtype and torch.equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
def test_each_step_by_itself_under_every_state(state: str) -> None:
    """Loading, kept runs, effects, gradients, training steps and extraction, called one by one."""

    def steps() -> dict[str, object]:
        compiled = compile_model(load_model("tracr:reverse"), embeddings="split", verify=False)
        pairs = load_task("tracr-reverse", compiled.tokenizer, options={"max_length": 3}).split("train")
        truth = Circuit.from_edges(compiled.universe, ground_truth_edges("reverse"), ablation="zero")
        frozen = FrozenRuns(compiled, pairs, ablation="zero")
        recipe = recipe_named("tracr").changed(steps=2, target_sparsity=0.5)
        trainer = Trainer(compiled, frozen, recipe, objective="mse", seed=1)
        records = [trainer.step(index) for index in range(2)]
        batch = frozen.batch(np.array([0, 1]))
        return {
            "effects": measure_effects(compiled, truth, pairs, top=3, n=3).rows,
            "objective": [record.objective for record in records],
            "scores": trainer.gates.log_alpha.tolist(),
            "teacher": batch.teacher_logits.tolist(),
            "small": extract_circuit(truth, compiled).live_heads,
            "gradients": gate_gradients(trainer.runner).tolist(),
            "behaviour": behaviour(compiled, {"train": pairs}, ablation="zero"),
        }

    expected = steps()
    with STATES[state]():
        found = steps()
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
def test_the_same_circuit_under_every_state(state: str) -> None:
    compiled = compile_model(load_model("tracr:xproportion"), embeddings="split", verify=False)
    task = load_task("tracr-xproportion", compiled.tokenizer, options={"max_length": 3})
    recipe = recipe_named("tracr").changed(steps=6, target_sparsity=0.5)
    expected = discover(compiled, task, recipe, seed=3, n_random=1)
    with STATES[state]():
        found = discover(compiled, task, recipe, seed=3, n_random=1)
    assert found.circuit == expected.circuit
    assert found.circuit.scores.tolist() == expected.circuit.scores.tolist()
    assert found.metrics["splits"]["test"]["circuit"]["n"] == expected.metrics["splits"]["test"]["circuit"]["n"]
