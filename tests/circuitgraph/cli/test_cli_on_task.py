"""`circuitgraph compare --on-task`: against the Python call on the same prompts, and what is refused."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from circuitgraph import Circuit, compile_model, load_model
from pruning import compare_faithfulness, load_task
from tests.circuitgraph.cli.conftest import call
from tests.circuitgraph.cli.saved_circuits import save_all

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(tmp_path_factory, text_model, text_prompts):
    """A large and a small circuit of a model, and what Python says of both."""
    folder = tmp_path_factory.mktemp("two")
    compiled = compile_model(load_model(str(text_model)))
    task = f"jsonl:{text_prompts}"
    about = {**compiled.identity, "dtype": "float32", "task": task}
    circuits = {}
    for name, share in (("large", 0.9), ("small", 0.2)):
        kept = np.random.default_rng(0).random(compiled.universe.n_edges) < share
        circuits[name] = Circuit.from_edges(compiled.universe, kept, provenance=about)
        circuits[name].save(folder / f"{name}.json")
    pairs = load_task(task, compiled.tokenizer).split("test")
    return folder, task, compare_faithfulness(compiled, circuits, pairs)


@pytest.mark.parametrize("place", ["last", "first", "before an option", "named"])
def test_the_same_differences_as_from_python(two, place):
    folder, task, expected = two
    files = (folder / "large.json", folder / "small.json")
    given = {
        "last": (*files, "--json", "--on-task"),
        "first": ("--on-task", *files, "--json"),
        "before an option": (*files, "--on-task", "--json"),
        "named": (*files, "--on-task", task, "--json"),
    }[place]
    ended = call("compare", *given, "--level", "edges", "--null", "hypergeometric")
    assert ended.code == 0, ended.err
    found = ended.json
    assert found["on_task"]["task"] == task and found["on_task"]["dtype"] == "float32"
    assert found["on_task"]["metrics"]["full"]["n"] == 6
    rows = {row["measure"]: row for row in found["differences"]}
    for row in expected.differences.to_dict("records"):
        ours = rows[row["measure"]]
        assert (ours["a"], ours["b"], ours["n"], ours["closer"]) == ("large", "small", 6, row["closer"])
        assert [ours[name] for name in ("mean_a", "difference", "low", "high")] == pytest.approx(
            [row[name] for name in ("mean_a", "difference", "low", "high")], abs=1e-5
        )
    assert rows["kl"]["closer"] == "large"
    assert [row["circuit"] for row in found["faithfulness"]] == ["large", "small", "full"]
    assert found["overlap"], "what they share is told as well"


def test_as_a_table_and_as_csv(two):
    folder, _, expected = two
    given = ("compare", folder / "large.json", folder / "small.json", "--level", "edges", "--null", "hypergeometric")
    out = call(*given, "--on-task").out
    assert "How faithful they are, on 6 test prompts" in out
    assert "How far they are apart, prompt by prompt (95 % interval)" in out
    rows = list(csv.DictReader(io.StringIO(call(*given, "--on-task", "--csv").out)))
    assert [row["measure"] for row in rows] == expected.differences["measure"].tolist()


def test_refusals(two, tmp_path):
    folder, _, _ = two
    large, small = folder / "large.json", folder / "small.json"

    def said(*arguments: object) -> str:
        ended = call("compare", *arguments)
        assert ended.code == 2, ended.err
        return ended.err

    assert "--split says how circuits are measured, which --on-task asks for" in said(large, small, "--split", "test")
    assert "did you mean 'ioi'" in said(large, small, "--on-task", "iio")
    circuit = Circuit.load(small)
    other = circuit.with_provenance({"model": "another"}).save(tmp_path / "other.json")
    assert "choose it with --model" in said(large, other, "--on-task")
    about = {name: value for name, value in circuit.provenance.items() if name not in ("ablation", "sparsity")}
    zero = Circuit.from_edges(circuit.universe, circuit.mask, ablation="zero", provenance=about)
    assert "choose one with --ablation" in said(large, zero.save(tmp_path / "zero.json"), "--on-task")
    assert "family: 'llama' against 'gpt2'" in said(large, save_all(tmp_path) / "a.json", "--on-task")
