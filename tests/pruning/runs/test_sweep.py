"""Several seeds in one call: each as a run alone, gone on with to the same bits, other settings refused."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from jsonschema import Draft202012Validator

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, OutputError, UnknownNameError
from circuitgraph.models import load_model
from pruning.evaluation.masks import evaluate_masks
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.state import StepRecord
from pruning.runs.discover import discover
from pruning.runs.sweep import Sweep, discover_seeds
from pruning.tasks import TaskData, load_task

pytestmark = pytest.mark.slow
SPARSITIES = (0.5, 0.8)
SCHEMAS = Path(__file__).parents[3] / "docs" / "reference" / "schemas"
HOW: dict[str, Any] = {
    "steps": 4, "start_sparsity": 0.3, "end_sparsity": 0.95, "n_random": 0, "n_effects": 0, "splits": (),
    "checkpoint_every_steps": 1,
}  # fmt: skip
Asked = tuple[CompiledModel, TaskData]


@pytest.fixture(scope="module")
def asked() -> Asked:
    loaded = load_model("tracr:reverse")
    task = load_task("tracr-reverse", loaded.tokenizer, options={"max_length": 2})
    return compile_model(loaded, embeddings="split", verify=False), task


def run(asked: Asked, out: Path | None = None, **how: Any) -> Sweep:
    given = {"seeds": (0, 3), "sparsities": SPARSITIES, "progress": False, **HOW, **how}
    return discover_seeds(*asked, out=out, **given)


@pytest.fixture(scope="module")
def whole(asked: Asked, tmp_path_factory) -> tuple[Sweep, Path, int]:
    """A sweep, its folder, and how often frozen runs were made."""
    made = 0

    class Counted(FrozenRuns):
        def __init__(self, *given: Any, **how: Any) -> None:
            nonlocal made
            made += 1
            super().__init__(*given, **how)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pruning.runs.trained_run.FrozenRuns", Counted)
        place = tmp_path_factory.mktemp("sweep") / "x"
        found = run(asked, place)
    return found, place, made


def gates(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("gates.safetensors"))}


def stops_in(seed_number: int, step: int, end: Callable[[], None]) -> Callable[[StepRecord], None]:
    """Called after every step; ends the training at a step of the n-th seed."""
    begun = -1

    def watch(record: StepRecord) -> None:
        nonlocal begun
        begun += record.step == 0
        if begun == seed_number and record.step == step:
            end()

    return watch


def test_each_seed_is_what_it_is_alone_and_frozen_runs_are_made_once(asked: Asked, whole, tmp_path: Path) -> None:
    found, place, made = whole
    alone = discover(
        *asked, "nested", seed=3, front=SPARSITIES, target_sparsity=0.5, out=tmp_path / "alone", progress=False, **HOW
    )
    assert gates(place)["seed-3/gates.safetensors"] == (tmp_path / "alone" / "gates.safetensors").read_bytes()
    assert gates(place)["seed-0/gates.safetensors"] != gates(place)["seed-3/gates.safetensors"]
    assert {at: one.digest for at, one in found.circuits[3].items()} == {
        at: one.digest for at, one in alone.circuits.items()
    }
    counts = [json.loads((place / f"seed-{seed}" / "metrics.json").read_text())["frozen_runs"] for seed in (0, 3)]
    assert counts[1] == alone.metrics["frozen_runs"] and made == 1
    assert counts[0]["filled"] == counts[1]["filled"]


def test_the_front_has_every_circuit_measured_as_it_is_alone(asked: Asked, whole) -> None:
    found, place, _ = whole
    compiled, task = asked
    kinds = [(row.which, row.sparsity) for row in found.front.itertuples()]
    assert kinds == [(which, at) for which in ("seed", "seed", "consensus", "averaged") for at in SPARSITIES]
    assert found.front["seed"].tolist()[:4] == [0, 0, 3, 3] and found.front["seed"].isna().sum() == 4
    every = [*found.circuits[0].values(), *found.circuits[3].values(), *found.consensus.values()]
    for circuit, row in zip([*every, *found.averaged.values()], found.front.to_dict("records"), strict=True):
        one = evaluate_masks(compiled, {"one": circuit}, task.split("test"))["one"]
        assert row["kl"] == pytest.approx(one["kl"], abs=1e-7) and row["n_edges"] == one["n_edges"] == len(circuit)
    table = pd.read_csv(place / "front.csv")
    assert table["kl"].tolist() == pytest.approx(found.front["kl"].tolist(), rel=1e-6)
    for which, circuits in (("consensus", found.consensus), ("averaged", found.averaged)):
        for at, circuit in circuits.items():
            kept = Circuit.load(place / f"{which}-{at:g}.json")
            assert kept == circuit and kept.provenance["model"] == "tracr:reverse"


def test_the_file_that_tells_of_it_fits_its_schema(whole) -> None:
    _, place, _ = whole
    about = json.loads((place / "sweep.json").read_text())
    schema = json.loads((SCHEMAS / "sweep.schema.json").read_text())
    assert list(Draft202012Validator(schema).iter_errors(about)) == []
    assert about["seeds"] == [0, 3] and [one["steps_taken"] for one in about["trainings"]] == [4, 4]
    del about["seeds"]
    assert list(Draft202012Validator(schema).iter_errors(about))


def test_ended_by_ctrl_c_it_goes_on_to_the_same_bits(asked: Asked, whole, tmp_path: Path) -> None:
    found, place, _ = whole

    def end() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(asked, tmp_path / "x", watch=stops_in(1, 1, end))
    assert json.loads((tmp_path / "x" / "sweep.json").read_text())["finished"] is False
    assert (tmp_path / "x" / "seed-3" / "checkpoint").is_dir() and not (tmp_path / "x" / "front.csv").exists()
    said: list[str] = []
    again = run(asked, tmp_path / "x", say=said.append)
    assert "1 of 2 trainings are there already, of the same settings" in said
    assert "training 1 of 2: seed 0" not in said and "going on after step 2 of 4" in said
    assert gates(tmp_path / "x") == gates(place) and again.front.equals(found.front)
    assert json.loads((tmp_path / "x" / "sweep.json").read_text())["finished"] is True


def test_killed_it_goes_on_to_the_same_bits(asked: Asked, whole, tmp_path: Path) -> None:
    found, place, _ = whole
    child = os.fork()
    if not child:
        try:
            run(asked, tmp_path / "x", watch=stops_in(1, 2, lambda: os.kill(os.getpid(), signal.SIGKILL)))
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    again = run(asked, tmp_path / "x")
    assert gates(tmp_path / "x") == gates(place) and again.front.equals(found.front)
    assert not list((tmp_path / "x").glob(".*")), "nothing half written is left"


def test_other_settings_and_other_folders_are_refused(asked: Asked, whole, tmp_path: Path) -> None:
    _, place, _ = whole
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    for change, said in (
        ({"steps": 5}, "recipe.steps is 4 there and 5 here"),
        ({"sparsities": (0.5, 0.9)}, r"sparsities is \[0.5, 0.8\] there and \[0.5, 0.9\] here"),
        ({"n_random": 1}, "n_random is 0 there and 1 here"),
    ):
        with pytest.raises(OutputError, match=said):
            run(asked, place, **change)
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is no result of several seeds"):
        run(asked, tmp_path / "mine")


def test_a_seed_that_was_put_there_from_elsewhere_is_seen(asked: Asked, tmp_path: Path) -> None:
    run(asked, tmp_path / "x", seeds=(0,))
    (tmp_path / "x" / "seed-0").rename(tmp_path / "x" / "seed-1")
    with pytest.raises(OutputError, match="seed-1 was found with other settings: seed is 0 there and would be 1 now"):
        run(asked, tmp_path / "x", seeds=(0, 1))


def test_other_recipes_take_a_training_for_each_sparsity(asked: Asked, tmp_path: Path) -> None:
    how = {name: value for name, value in HOW.items() if name != "end_sparsity"}
    found = discover_seeds(
        *asked, "quick", seeds=(1, 0), sparsities=(0.5, 0.8), out=tmp_path / "x", progress=False, ablation="zero", **how
    )
    places = [f"seed-{seed}/sparsity-{at:g}" for seed in (1, 0) for at in (0.5, 0.8)]
    assert [one["folder"] for one in found.about["trainings"]] == places
    scores = [Circuit.load(tmp_path / "x" / place / "circuit.json") for place in places]
    assert [one.provenance["recipe"]["target_sparsity"] for one in scores] == [0.5, 0.8, 0.5, 0.8]
    assert [one.n_raw for one in scores] == [47, 19, 47, 19]
    assert found.circuits[1][0.8] == scores[1] and found.averaged[0.8].n_raw == 19
    assert not np.array_equal(found.averaged[0.8].edge_ids, found.averaged[0.5].edge_ids)


def test_what_cannot_be_asked_for(asked: Asked) -> None:
    with pytest.raises(ConfigurationError, match="has no seed; give seeds instead"):
        run(asked, seed=1)
    with pytest.raises(ConfigurationError, match="each once"):
        run(asked, seeds=(1, 1))
    with pytest.raises(ConfigurationError, match="sparsities must be several numbers"):
        run(asked, sparsities=0.9)
    with pytest.raises(UnknownNameError, match="stepz"):
        run(asked, stepz=3)
