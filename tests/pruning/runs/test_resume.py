"""A run that was ended goes on in its folder, to the circuit of one that was not; what is another run is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import CheckpointError, ConfigurationError, IncompleteResultWarning, OutputError
from circuitgraph.models import load_model
from pruning.methods.edge_pruning.checkpoint import Checkpoints
from pruning.methods.edge_pruning.state import StepRecord
from pruning.runs.discover import discover
from pruning.runs.discovery import Discovery
from pruning.runs.resume import resume
from pruning.tasks import TaskData, load_task

HOW: dict[str, Any] = {"steps": 9, "n_random": 0, "n_effects": 0, "splits": ()}


@pytest.fixture(scope="module")
def compiled() -> CompiledModel:
    return compile_model(load_model("tracr:xproportion"), embeddings="split", verify=False)


@pytest.fixture(scope="module")
def task(compiled: CompiledModel) -> TaskData:
    return load_task("tracr-xproportion", compiled.tokenizer, options={"max_length": 3})


@pytest.fixture(scope="module")
def whole(compiled: CompiledModel, task: TaskData) -> Discovery:
    return discover(compiled, task, **HOW)


def stops_after(n: int, error: type[BaseException] = KeyboardInterrupt) -> Callable[[StepRecord], None]:
    def watch(record: StepRecord) -> None:
        if record.step == n - 1:
            raise error

    return watch


@pytest.fixture
def ended(tmp_path: Path, compiled: CompiledModel, task: TaskData) -> Path:
    """The folder of a run that Ctrl-C ended after 4 steps."""
    found = discover(compiled, task, out=tmp_path / "x", watch=stops_after(4), **HOW)
    assert found.run.interrupted and found.run.goes_on and len(found.run.records) == 4
    return tmp_path / "x"


def same(found: Discovery, whole: Discovery) -> bool:
    gates = zip(found.run.gates.parameters, whole.run.gates.parameters, strict=True)
    curves = found.curve.drop(columns="seconds"), whole.curve.drop(columns="seconds")
    frozen = [one.metrics["frozen_runs"] for one in (found, whole)]
    return (
        all(torch.equal(one, other) for one, other in gates) and curves[0].equals(curves[1])
        and found.circuit == whole.circuit and found.circuit.digest == whole.circuit.digest and frozen[0] == frozen[1]
    )  # fmt: skip


def state(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "state.json").read_text())


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_it_goes_on_to_the_same_circuit_and_removes_its_checkpoints(
    ended: Path, whole: Discovery, compiled: CompiledModel, task: TaskData
) -> None:
    assert names(ended / "checkpoint") == {"run.toml", "step-00000004.json", "step-00000004.safetensors"}
    assert state(ended)["resume"] == f"circuitgraph discover --resume {ended}" and (ended / "circuit.json").exists()
    said: list[str] = []
    found = discover(compiled, task, out=ended, resume=True, say=said.append, **HOW)
    assert same(found, whole) and not found.run.goes_on and "going on after step 4 of 9" in said
    assert names(ended) == {"run.toml", "circuit.json", "curve.csv", "gates.safetensors", "metrics.json", "state.json"}
    assert state(ended)["resume"] is None and len((ended / "curve.csv").read_text().splitlines()) == 10
    assert names(ended.parent) == {"x"}
    with pytest.raises(CheckpointError, match="has no checkpoint to go on from: its run is finished"):
        discover(compiled, task, out=ended, resume=True, **HOW)
    with pytest.raises(OutputError, match="exists; choose another --out") as refused:
        discover(compiled, task, out=ended, **HOW)
    assert "goes on" not in str(refused.value)


@pytest.mark.slow
def test_by_the_name_of_its_folder_alone(ended: Path, whole: Discovery) -> None:
    assert same(resume(ended, progress=False), whole)
    with pytest.raises(CheckpointError, match="has no run to go on with: expected the folder"):
        resume(ended)


@pytest.mark.slow
def test_twice_ended_and_by_errors(tmp_path: Path, whole: Discovery, compiled: CompiledModel, task: TaskData) -> None:
    for n, error in ((2, RuntimeError), (3, KeyboardInterrupt), (7, OSError)):
        found = discover(compiled, task, out=tmp_path / "x", resume=True, watch=stops_after(n, error), **HOW)
        assert len(found.run.records) == n and found.run.goes_on and state(tmp_path / "x")["resume"]
    assert same(discover(compiled, task, out=tmp_path / "x", resume=True, **HOW), whole)


def test_a_folder_that_is_not_there_begins(tmp_path: Path, compiled: CompiledModel, task: TaskData) -> None:
    found = discover(compiled, task, out=tmp_path / "x", resume=True, **{**HOW, "steps": 1})
    assert len(found.run.records) == 1 and not (tmp_path / "x" / "checkpoint").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"steps": 10}, "recipe.steps is 9 there and 10 here"),
        ({"recipe": "quick"}, "recipe.name is 'tracr' there and 'quick' here"),
    ],
)
def test_other_settings_are_refused_and_nothing_is_lost(
    ended: Path, change: dict, said: str, compiled: CompiledModel, task: TaskData
) -> None:
    before = {path: path.stat().st_mtime_ns for path in ended.rglob("*")}
    with pytest.raises(CheckpointError, match=f"is of another run: {said}"):
        discover(compiled, task, out=ended, resume=True, **{**HOW, **change})
    assert {path: path.stat().st_mtime_ns for path in ended.rglob("*")} == before


def test_another_model_graph_or_prompts_are_refused(ended: Path, compiled: CompiledModel, task: TaskData) -> None:
    graph = nx.DiGraph(compiled.graph)
    graph.remove_edge(*next(iter(graph.edges)))
    for other, prompts, said in (
        (compiled.with_graph(graph), task, "edits"),
        (compiled, load_task("tracr-xproportion", compiled.tokenizer, options={"max_length": 2}), "data_hash"),
    ):
        with pytest.raises(CheckpointError, match=rf"is of another run: {said}"):
            discover(other, prompts, out=ended, resume=True, **HOW)


def test_it_is_not_written_over_by_accident(ended: Path, compiled: CompiledModel, task: TaskData) -> None:
    with pytest.raises(OutputError, match="Its run was ended: `circuitgraph discover --resume .* goes on"):
        discover(compiled, task, out=ended, **HOW)
    with pytest.raises(ConfigurationError, match="resume=True goes on in a folder"):
        discover(compiled, task, out=ended, resume=True, overwrite=True, **HOW)
    with pytest.raises(ConfigurationError, match="resume=True goes on in a folder"):
        discover(compiled, task, resume=True, **HOW)


@pytest.mark.slow
def test_a_new_run_in_its_place_begins_anew(ended: Path, compiled: CompiledModel, task: TaskData) -> None:
    found = discover(compiled, task, out=ended, overwrite=True, watch=stops_after(2), **{**HOW, "seed": 5})
    assert len(found.run.records) == 2 and "step-00000002.json" in names(ended / "checkpoint")
    assert "step-00000004.json" not in names(ended / "checkpoint")
    again = discover(compiled, task, out=ended, resume=True, **{**HOW, "seed": 5})
    assert same(again, discover(compiled, task, **{**HOW, "seed": 5}))


def test_ended_before_the_first_step_nothing_is_left(
    tmp_path: Path, compiled: CompiledModel, task: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        assert (tmp_path / "x" / "checkpoint" / "run.toml").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr("pruning.runs.trained_run.FrozenRuns", fail)
    with pytest.raises(KeyboardInterrupt):
        discover(compiled, task, out=tmp_path / "x", **HOW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_evaluation_that_was_ended_is_made_again(
    tmp_path: Path, whole: Discovery, compiled: CompiledModel, task: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {**HOW, "splits": ("test",)}

    def fail(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.warns(IncompleteResultWarning):
        patched.setattr("pruning.runs.measuring.evaluate", fail)
        discover(compiled, task, out=tmp_path / "x", **how)
    assert "step-00000009.json" in names(tmp_path / "x" / "checkpoint")
    found = discover(compiled, task, out=tmp_path / "x", resume=True, **how)
    assert same(found, whole) and set(found.metrics["splits"]) == {"test"}
    assert not (tmp_path / "x" / "checkpoint").exists()


@pytest.mark.slow
def test_edges_whose_choice_was_ended_are_chosen_again(
    tmp_path: Path, whole: Discovery, compiled: CompiledModel, task: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pruning.runs.trained_run.keep_faithful", fail)
        discover(compiled, task, out=tmp_path / "x", **HOW)
    assert state(tmp_path / "x")["finished"] and state(tmp_path / "x")["resume"]
    assert same(discover(compiled, task, out=tmp_path / "x", resume=True, **HOW), whole)


def test_checkpoints_as_often_as_asked(
    tmp_path: Path, compiled: CompiledModel, task: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    write = Checkpoints._write
    monkeypatch.setattr(Checkpoints, "_write", lambda self, kept: (written.append(kept.steps), write(self, kept)))
    how = {**HOW, "checkpoint_every_steps": 4, "checkpoint_every_seconds": 0}
    discover(compiled, task, out=tmp_path / "x", **how)
    assert written == [4, 8, 9]
    written.clear()
    discover(compiled, task, **how)
    assert written == [], "there is no folder"


@pytest.mark.slow
def test_a_time_limit_also_where_no_signal_is_heard(
    tmp_path: Path, compiled: CompiledModel, task: TaskData, whole: Discovery
) -> None:
    found: list[Discovery] = []

    def run() -> None:
        slow = threading.Event()
        how = {**HOW, "time_limit_seconds": 2, "watch": lambda record: slow.wait(0.5)}
        found.append(discover(compiled, task, out=tmp_path / "x", **how))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    run_ = found[0].run
    assert run_.goes_on and 0 < len(run_.records) < 9
    assert run_.stopped_by == f"interrupted by the time limit after {len(run_.records)} steps"
    assert state(tmp_path / "x")["stopped_by"] == "the time limit"
    assert same(discover(compiled, task, out=tmp_path / "x", resume=True, **HOW), whole)
