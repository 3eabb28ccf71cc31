"""Task vectors against sums over hooks, and a run with vectors from beginning to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.vector_files import load_vectors, save_vectors, vectors_beside
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.vectors import Vector
from circuitgraph.graph.virtual import VECTOR_FILE
from circuitgraph.models import load_model
from pruning.execution.batch_run import BatchRunner
from pruning.execution.objectives import objective_named
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.checkpoint import first_difference
from pruning.methods.edge_pruning.recipes import recipe_named
from pruning.runs.checkpoints import run_identity
from pruning.runs.discover import discover
from pruning.runs.load import plan_run, read_run
from pruning.runs.run import run_of
from pruning.runs.sweep import discover_seeds
from pruning.steering.task_vectors import task_vector
from pruning.tasks import load_task


@pytest.fixture(scope="module")
def loaded():
    return load_model("induction-neox")


@pytest.fixture(scope="module")
def compiled(loaded):
    return compile_model(loaded, verify=False)


@pytest.fixture(scope="module")
def task(loaded):
    return load_task("induction", loaded.tokenizer, sizes={"train": 6, "validation": 4, "test": 4})


@pytest.mark.parametrize("at", ["asked", "all", 1])
def test_the_mean_is_that_of_the_hooked_layers_input(compiled, task, at: str | int) -> None:
    pairs, seen = task.split("train"), []
    layer = compiled.model.gpt_neox.layers[1]
    handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    rows = []
    for place, ids in enumerate(pairs.clean_ids):
        compiled.model(input_ids=torch.from_numpy(ids)[None])
        known: dict[str | int, Any] = {"all": slice(None), "asked": torch.from_numpy(pairs.predict_positions[place])}
        positions = known.get(at, [at])
        rows.append(seen.pop()[0][positions])
    handle.remove()
    found = task_vector(compiled, pairs, layer=1, name="t", at=at, batch_size=4)
    assert (found.name, found.at) == ("t@1", at)
    torch.testing.assert_close(found.value, torch.cat(rows).mean(0), atol=2e-5, rtol=1e-4)
    less = task_vector(compiled, pairs, layer=1, at=at, less=task.split("test"))
    other = task_vector(compiled, task.split("test"), layer=1, at=at)
    torch.testing.assert_close(less.value, found.value - other.value, atol=1e-5, rtol=1e-4)


def test_layers_that_there_are_not_are_refused(compiled, task) -> None:
    with pytest.raises(ConfigurationError, match="a layer of 0 to 1; got 2"):
        task_vector(compiled, task.split("train"), layer=2)


def test_steps_with_vectors_are_not_recorded(compiled, task) -> None:
    """A recorded pass would keep where they are added."""
    vector = task_vector(compiled, task.split("train"), layer=1, name="t")
    for model, recorded in ((compiled, True), (compiled.with_vectors([vector]), False)):
        frozen = FrozenRuns(model, task.split("train"), ablation="zero")
        runner = BatchRunner(model, frozen, objective_named("kl"), micro_batch=4, replay=True)
        assert (runner._replays is not None) == recorded


@pytest.mark.slow
def test_a_run_with_vectors_keeps_them_beside_its_circuit(compiled, task, tmp_path: Path) -> None:
    vector = task_vector(compiled, task.split("train"), layer=1, name="t")
    with_vector = compiled.with_vectors([vector])
    recipe = recipe_named("quick").changed(steps=3, target_sparsity=0.2)
    found = discover(with_vector, task, recipe, n_random=1, n_effects=4, out=tmp_path / "run", progress=False)
    assert found.circuit.universe.virtual == ("t@1",) and not found.errors
    assert found.circuit.provenance["vectors"] == {"t@1": vector.digest}
    path = tmp_path / "run" / "circuit.json"
    circuit = Circuit.load(path)
    file = vectors_beside(circuit, path)
    assert file is not None and file == tmp_path / "run" / VECTOR_FILE
    assert [one.digest for one in load_vectors(file)] == [vector.digest]
    complement = circuit.complement().save(tmp_path / "run" / "complement.json")
    assert vectors_beside(Circuit.load(complement), complement) == file
    told = (tmp_path / "run" / "run.toml").read_text()
    assert "vectors were added" in told.splitlines()[0] and read_run(tmp_path / "run").universe.virtual == ()


def test_a_run_goes_on_with_the_same_vectors_alone(compiled, task) -> None:
    """Other numbers under the same names are another model, which no name in the universe tells."""
    found = []
    for scale in (1.0, 3.0):
        vector = Vector(name="v@1", value=torch.full((compiled.shape.d_model,), scale))
        found.append(run_identity(run_of(compiled.with_vectors([vector]), task, None, {})))
    assert first_difference(found[0], found[1]).startswith("vectors.v@1 is")
    assert first_difference(found[0], found[0]) == ""
    assert "vectors" not in run_identity(run_of(compiled, task, None, {}))


@pytest.mark.slow
def test_circuits_of_all_seeds_have_the_vectors_beside_them(compiled, task, tmp_path: Path) -> None:
    steered = compiled.with_vectors([Vector(name="v@1", value=torch.ones(compiled.shape.d_model))])
    for _ in range(2):  # the second call finds everything there
        discover_seeds(
            steered, task, seeds=(0, 1), sparsities=(0.5,), steps=2, n_random=0, n_effects=0, out=tmp_path / "seeds",
            progress=False,
        )  # fmt: skip
    for name in ("consensus-0.5.json", "averaged-0.5.json"):
        circuit = Circuit.load(tmp_path / "seeds" / name)
        assert circuit.provenance["vectors"] == steered.told_vectors["vectors"]
        assert vectors_beside(circuit, tmp_path / "seeds" / name) == tmp_path / "seeds" / VECTOR_FILE


def test_a_plan_has_the_writers_of_its_file(compiled, task, tmp_path: Path) -> None:
    vector = task_vector(compiled, task.split("train"), layer=0, name="t")
    file = save_vectors([vector], tmp_path / "t.safetensors")
    plan = plan_run({"model.name": "induction-neox", "model.vectors": str(file), "task.name": "induction"})
    assert plan.universe.virtual == ("t@0",)
    assert plan.universe.n_edges == compiled.universe.n_edges + sum(
        block.n_readers for block in compiled.universe.blocks
    )
