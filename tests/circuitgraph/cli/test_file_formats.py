"""The JSON Schemas of `docs/reference/schemas` fit what the tool writes, and refuse what it refuses."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from circuitgraph import Circuit, CircuitGraphError, EdgeScores, Universe
from circuitgraph.graph.spans import with_spans
from pruning import PromptPairs
from tests.circuitgraph.cli.conftest import call

SCHEMAS = Path(__file__).parents[3] / "docs" / "reference" / "schemas"


def schema_of(name: str) -> Draft202012Validator:
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def complaints(name: str, value: object) -> list[str]:
    return [f"{'/'.join(map(str, error.path))}: {error.message}" for error in schema_of(name).iter_errors(value)]


@pytest.fixture(scope="module")
def text_result(text_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("result") / "text"
    ended = call(*text_run, "--out", folder)
    assert ended.code == 0, ended.err
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["circuit", "metrics"])
@pytest.mark.parametrize("result", ["tracr_result", "text_result"])
def test_a_result_folder(name, result, request):
    folder = request.getfixturevalue(result)
    assert complaints(name, json.loads((folder / f"{name}.json").read_text())) == []


@pytest.mark.parametrize(
    "universe",
    [
        Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2, embeddings="split"),
        Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2),
        Universe(family="x", n_layers=2, n_heads=2, n_kv_heads=2, qkv="joint", block_order="parallel"),
        with_spans(Universe(family="x", n_layers=1, n_heads=2, n_kv_heads=1), ("start", "end"), asked=("end",)),
    ],
    ids=str,
)
def test_full_circuits_of_every_kind_of_universe(universe, tmp_path):
    path = Circuit.from_edges(universe, np.arange(universe.n_edges)).save(tmp_path / "circuit.json")
    assert complaints("circuit", json.loads(path.read_text())) == []


BREAKS = {
    "no universe": lambda values: values.pop("universe"),
    "a newer version": lambda values: values.update(format_version=2),
    "an edge without its score": lambda values: values["edges"][0].pop("score"),
    "a universe field that is none": lambda values: values["universe"].update(heads=3),
    "an unknown choice": lambda values: values["universe"].update(qkv="both"),
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_circuit_that_the_schema_refuses_is_refused(how, tmp_path):
    universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
    path = Circuit.from_edges(universe, ["input->logits"]).save(tmp_path / "circuit.json")
    values = json.loads(path.read_text())
    BREAKS[how](values)
    path.write_text(json.dumps(values))
    assert complaints("circuit", values) != []
    with pytest.raises(CircuitGraphError):
        Circuit.load(path)


LINE = {"clean": "a b<predict> c</predict>", "corrupted": "a d", "split": "train", "wrong_answer": [" e"], "group": "g"}
LINES = {
    "as it should be": (LINE, True),
    "the least": ({"clean": "a b<predict> c</predict>", "corrupted": "a d"}, True),
    "no corrupted side": ({"clean": LINE["clean"]}, False),
    "no mark": (LINE | {"clean": "a b c"}, False),
    "text after the mark": (LINE | {"clean": "a<predict> c</predict> d"}, True),
    "spans": (LINE | {"spans": [["first", "a"], ["second", " b"]]}, True),
    "a span without its text": (LINE | {"spans": [["first"]]}, False),
    "an unknown field": (LINE | {"wrong": " e"}, False),
    "an unknown split": (LINE | {"split": "dev"}, False),
    "no wrong answer in the list": (LINE | {"wrong_answer": []}, False),
}


@pytest.mark.parametrize("how", LINES)
def test_a_line_of_prompts_is_judged_as_the_reader_judges_it(how, tmp_path):
    line, is_good = LINES[how]
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(line))
    assert (complaints("prompts", line) == []) == is_good
    if is_good:
        PromptPairs.from_jsonl(path)
    else:
        with pytest.raises(CircuitGraphError):
            PromptPairs.from_jsonl(path)


def test_written_prompts(text_prompts, tmp_path):
    PromptPairs.from_jsonl(text_prompts).to_jsonl(tmp_path / "again.jsonl")
    for line in (tmp_path / "again.jsonl").read_text().splitlines():
        assert complaints("prompts", json.loads(line)) == []


def test_a_benchmark(text_model):
    quick = ("--batch", 2, "--seq", 6, "--rounds", 1, "--threads", 1, "--no-memory")
    ended = call("bench", "--model", text_model, *quick, "--json")
    assert complaints("bench", ended.json) == []
    broken = copy.deepcopy(ended.json)
    del broken["plain"]["ratio"]
    assert complaints("bench", broken) == ["plain: 'ratio' is a required property"]


def test_edge_scores(tmp_path):
    universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
    scores = EdgeScores.of(universe, np.arange(8.0), method="eap", direction="noising", estimates="a rise")
    values = json.loads((scores.save(tmp_path / "scores") / "scores.json").read_text())
    assert complaints("scores", values) == []
    del values["sha256"]
    assert sorted(complaints("scores", values | {"direction": "up"}), reverse=True) == [
        "direction: 'up' is not one of ['noising', 'denoising', 'between', 'none', 'unknown']",
        ": 'sha256' is a required property",
    ]


@pytest.mark.slow
def test_an_extracted_circuit(tracr_result, tmp_path):
    ended = call("extract", tracr_result / "circuit.json", "--ablation", "zero", "--out", tmp_path / "small")
    assert ended.code == 0, ended.err
    assert complaints("extracted", json.loads((tmp_path / "small" / "extracted.json").read_text())) == []


@pytest.mark.slow
def test_a_study(text_model, text_prompts, tmp_path):
    lines = [json.loads(line) | {"group": str(i)} for i, line in enumerate(text_prompts.read_text().splitlines())]
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    regimes = [item for name in ("one", "two") for item in ("--regime", f"{name}={tmp_path / name}.jsonl")]
    quick = ("--seeds", 0, "--steps", 3, "--target-sparsity", 0.5, "--n-random", 1)
    ended = call("study", "--model", text_model, *regimes, *quick, "--out", tmp_path / "study")
    assert ended.code == 0, ended.err
    assert complaints("study", json.loads((tmp_path / "study" / "study.json").read_text())) == []
