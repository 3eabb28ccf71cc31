"""Constants of a run under optimal ablation: trained with the gates, learnt on, and the same after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.constants import constants_file, load_constants
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import IncompleteResultWarning
from circuitgraph.models import load_model
from pruning.evaluation.evaluate import evaluate
from pruning.runs.discover import discover
from pruning.tasks import TaskData, load_task
from tests.pruning.runs.test_resume import stops_after

pytestmark = pytest.mark.slow

HOW: dict[str, Any] = {
    "recipe": "nested", "ablation": "optimal", "steps": 8, "refine_steps": 6, "target_sparsity": 0.95, "n_random": 0,
    "n_effects": 0, "splits": ("test",), "front": (0.9,), "progress": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def compiled() -> CompiledModel:
    return compile_model(load_model("tracr:reverse"), embeddings="split", verify=False)


@pytest.fixture(scope="module")
def task(compiled: CompiledModel) -> TaskData:
    return load_task("tracr-reverse", compiled.tokenizer, options={"max_length": 3})


def test_a_resumed_run_ends_with_the_same_constants(compiled: CompiledModel, task: TaskData, tmp_path: Path) -> None:
    whole = discover(compiled, task, **HOW)
    how = {**HOW, "progress": None}
    with pytest.warns(IncompleteResultWarning):
        ended = discover(compiled, task, out=tmp_path / "x", watch=stops_after(4), **how)
    assert ended.run is not None and ended.run.goes_on and len(ended.run.records) == 4
    found = discover(compiled, task, out=tmp_path / "x", resume=True, **HOW)
    assert found.constants is not None and whole.constants is not None and found.circuit == whole.circuit
    for ours, theirs in zip(found.constants.tensors, whole.constants.tensors, strict=True):
        assert torch.equal(ours, theirs)
    kept = load_constants(compiled, tmp_path / "x" / constants_file(found.circuit))
    assert all(torch.equal(a, b) for a, b in zip(kept.tensors, found.constants.tensors, strict=True))
    measured = evaluate(compiled, found.circuit, task.split("test"), ablation_data=kept, n_random=0).metrics
    assert measured["circuit"]["kl"] == pytest.approx(found.metrics["splits"]["test"]["circuit"]["kl"], rel=1e-9)
    # A further circuit of the ranking has those that were trained with the gates.
    assert found.run is not None and found.run.constants is not None
    other = load_constants(compiled, tmp_path / "x" / constants_file(found.circuits[0.9]))
    assert all(torch.equal(a, b) for a, b in zip(other.tensors, found.run.constants.tensors, strict=True))


def test_what_ends_the_learning_on_leaves_the_trained_ones(
    compiled: CompiledModel, task: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no more")

    monkeypatch.setattr("pruning.runs.circuit_constants.learn_constants", fails)
    said: list[str] = []
    how = {**HOW, "progress": None}
    found = discover(compiled, task, say=said.append, **how)
    assert any("were not learnt on: RuntimeError: no more" in line for line in said)
    assert found.run is not None and found.run.constants is not None and found.constants is found.run.constants
