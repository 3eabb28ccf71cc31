"""Circuits of several sizes from one ranking: nested in one another, measured like the circuit, kept on disk."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import ConfigurationError
from circuitgraph.models import load_model
from pruning.evaluation.masks import evaluate_masks
from pruning.runs.discover import discover
from pruning.runs.discovery import Discovery
from pruning.runs.front import front_table
from pruning.tasks import load_task

SPARSITIES = (0.5, 0.8, 0.9)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    loaded = load_model("tracr:reverse")
    compiled = compile_model(loaded, embeddings="split", verify=False)
    task = load_task("tracr-reverse", loaded.tokenizer, options={"max_length": 3})
    out = tmp_path_factory.mktemp("front") / "result"
    found = discover(
        compiled, task, "nested", out=out, steps=8, start_sparsity=0.3, end_sparsity=0.95, target_sparsity=0.8,
        front=SPARSITIES, n_random=0, n_effects=0, splits=("test",), progress=False,
    )  # fmt: skip
    return compiled, task, found, out


def test_each_circuit_holds_the_smaller_ones_and_has_its_size(ran) -> None:
    _, _, found, _ = ran
    n_edges = found.run.gates.gate_map.universe.n_edges
    scores = found.run.gates.log_alpha.detach().numpy()
    for sparsity, circuit in found.circuits.items():
        n = round((1 - sparsity) * n_edges)
        best = set(np.argsort(-scores, kind="stable")[:n].tolist())
        assert set(circuit.edge_ids.tolist()) <= best and circuit.sparsity["n_raw"] == n
    assert found.circuits[0.8].edge_ids.tolist() == found.circuit.edge_ids.tolist()


def test_measures_are_those_of_each_circuit_alone(ran) -> None:
    compiled, task, found, _ = ran
    assert found.front["sparsity"].tolist() == list(SPARSITIES)
    for row in found.front.to_dict("records"):
        circuit = found.circuits[row["sparsity"]]
        alone = evaluate_masks(compiled, {"one": circuit}, task.split("test"))["one"]
        assert row["kl"] == pytest.approx(alone["kl"], abs=1e-7) and row["n_edges"] == alone["n_edges"]
        assert [row["kl_low"], row["kl_high"]] == pytest.approx(alone["intervals"]["kl"], abs=1e-7)
        assert (row["n_heads"], row["n_mlps"]) == (len(circuit.heads), len(circuit.mlps))
    at_target = found.front.set_index("sparsity")["kl"][0.8]
    assert at_target == pytest.approx(found.metrics["splits"]["test"]["circuit"]["kl"], abs=1e-7)


def test_files_hold_them(ran) -> None:
    _, _, found, out = ran
    for sparsity in SPARSITIES:
        kept = Circuit.load(out / f"circuit-{sparsity}.json")
        assert kept.edge_ids.tolist() == found.circuits[sparsity].edge_ids.tolist()
        assert kept.provenance["selection"] == {"rule": "target", "sparsity": sparsity}
    table = pd.read_csv(out / "front.csv")
    assert table["kl"].tolist() == pytest.approx(found.front["kl"].tolist(), rel=1e-6)
    state = json.loads((out / "state.json").read_text())
    assert state["evaluation"]["sparsities"] == list(SPARSITIES)


def test_such_a_result_may_be_replaced(ran, tmp_path) -> None:
    compiled, task, _, _ = ran
    how = {"steps": 2, "n_random": 0, "n_effects": 0, "splits": ("test",), "progress": False, "out": tmp_path / "x"}
    nested = {"start_sparsity": 0.3, "end_sparsity": 0.95, "front": (0.5,)}
    discover(compiled, task, "nested", **nested, **how)
    again = discover(compiled, task, "nested", **{**nested, "front": (0.7,)}, **how, overwrite=True)
    assert {path.name for path in (tmp_path / "x").glob("circuit-*.json")} == {"circuit-0.7.json"}
    assert list(again.circuits) == [0.7]


@pytest.mark.parametrize(
    ("front", "words"),
    [((0.9, 97), "did you mean 0.97"), ((float("nan"),), "number"), (("0.9",), "number"), (3, "several")],
)
def test_what_is_no_sparsity_is_refused(ran, front, words) -> None:
    compiled, task, _, _ = ran
    with pytest.raises(ConfigurationError, match=words):
        discover(compiled, task, "nested", front=front, progress=False)


def test_other_recipes_have_further_circuits_only_where_asked(ran) -> None:
    compiled, task, _, _ = ran

    def run(**how) -> Discovery:
        return discover(compiled, task, "tracr", steps=2, n_random=0, splits=(), progress=False, keep="target",
                        target_sparsity=0.8, **how)  # fmt: skip

    assert run().circuits == {} and run().front.empty
    asked = run(front=(0.9, 0.5))
    assert list(asked.circuits) == [0.5, 0.9] and asked.front.empty  # nothing was evaluated


def test_a_table_of_nothing_is_empty() -> None:
    assert front_table([]).empty
