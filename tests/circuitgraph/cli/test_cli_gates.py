"""`circuitgraph gates`: a toy whose gates are known, from saved effects to tables, drawing, graph and circuits."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import networkx as nx
import pytest

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.compiled.compile import compile_model
from circuitgraph.models.gate_toys import gate_toy
from pruning import rank_edges
from pruning.tasks.gate_toys import gate_prompts
from tests.circuitgraph.cli.conftest import call

# An AND of two heads and an OR of two others, by construction.
TRUE = {"a0.h0->m0": "AND", "a0.h1->m0": "AND", "a0.h2->m0": "OR", "a0.h3->m0": "OR", "m0->logits": "ADDER"}


@pytest.fixture(scope="module")
def effects(tmp_path_factory) -> Path:
    folder, toy = tmp_path_factory.mktemp("effects"), gate_toy("nested")
    compiled, pairs = compile_model(toy, embeddings="joint", verify=False), gate_prompts(toy, 4)
    for way in ("noising", "denoising"):
        found = rank_edges(compiled, pairs, "exact", direction=way, ablation="counterfactual", objective="mse")
        found.save(folder / way)
    return folder


def test_labels_in_every_form(effects: Path, tmp_path: Path) -> None:
    both = (effects / "noising", effects / "denoising")
    told = call("gates", *both)
    assert told.code == 0, told.err
    assert told.out.startswith("9 edges: 4 AND, 4 OR, 1 ADDER\n")
    assert [line.split() for line in told.out.splitlines() if line.startswith("m0 ")] == [
        ["m0", "AND", "2", "a0.h0", "a0.h1"], ["m0", "OR", "2", "a0.h2", "a0.h3"],
    ]  # fmt: skip
    found = call("gates", *both, "--json").json
    assert {row["edge"]: row["gate"] for row in found["edges"] if row["edge"] in TRUE} == TRUE
    assert found["n"] == {"AND": 4, "OR": 4, "ADDER": 1, "none": 0}
    assert found["scores"]["denoising"]["sha256"] == EdgeScores.load(both[1]).digest
    rows = list(csv.DictReader(io.StringIO(call("gates", *both, "--csv").out)))
    assert [row["gate"] for row in rows] == [row["gate"] for row in found["edges"]]
    for form, mark in (("--latex", r"\toprule"), ("--markdown", "| reader | gate |")):
        assert mark in call("gates", *both, form).out
    call("gates", *both, "--out", tmp_path / "gates.csv")
    assert (tmp_path / "gates.csv").read_text().startswith("edge,writer,reader,noising,denoising,gate")


def test_a_circuit_of_gates_says_which_model_it_is_of_and_replaces_no_scores(effects: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    assert call("gates", effects, "--faithful", kept).code == 0
    scores = EdgeScores.load(effects / "noising").provenance
    found = Circuit.load(kept).provenance
    assert {name: found[name] for name in ("model", "config_hash", "weights")} == {
        name: scores[name] for name in ("model", "config_hash", "weights")
    }
    file = effects / "noising" / "scores.json"
    before = file.read_bytes()
    refused = call("gates", effects, "--faithful", file)
    assert refused.code == 2 and "would replace a file of" in refused.err and file.read_bytes() == before


def test_files_beside_the_tables(effects: Path, tmp_path: Path) -> None:
    whole = Circuit.from_edges(
        EdgeScores.load(effects / "noising").universe, [*TRUE, *(f"input->a0.h{h}<v>" for h in range(4))]
    )
    own = whole.save(tmp_path / "own.json")
    places = {name: tmp_path / name for name in ("gates.dot", "gates.graphml", "faithful.json", "complete.json")}
    options = [
        part
        for name, path in zip(("draw", "graph", "faithful", "complete"), places.values(), strict=True)
        for part in (f"--{name}", path)
    ]
    ended = call("gates", effects / "noising", effects / "denoising", "--circuit", own, *options, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["files"] == dict(
        zip(("draw", "graph", "faithful", "complete"), map(str, places.values()), strict=True)
    )
    assert "OR (denoising only): 4 edges" in places["gates.dot"].read_text()
    graph = nx.read_graphml(places["gates.graphml"])
    assert {f"{u}->{v}": gate for u, v, gate in graph.edges(data="gate") if f"{u}->{v}" in TRUE} == TRUE
    # Of each OR one edge is enough for noising; of each AND one is enough to break it.
    for name, alone, all_of in (("faithful.json", (2, 3), (0, 1)), ("complete.json", (0, 1), (2, 3))):
        kept = {edge for edge in Circuit.load(places[name]) if edge.endswith("->m0")}
        assert all(f"a0.h{head}->m0" in kept for head in all_of)
        assert sum(f"a0.h{head}->m0" in kept for head in alone) == 1


def test_refused_before_anything_is_written(effects: Path, tmp_path: Path) -> None:
    both = (effects / "noising", effects / "denoising")
    turned = call("gates", *reversed(both))
    assert turned.code == 2 and "the noising scores are by 'exact', direction 'denoising'" in turned.err
    assert "a share from 0 up to 1" in call("gates", *both, "--threshold", 1.5).err
    assert "did you mean '.svg'" in call("gates", *both, "--draw", tmp_path / "x.svgg").err
    assert "unknown graph format '.gml'" in call("gates", *both, "--graph", tmp_path / "x.gml").err
    assert "two results would go into one file" in call(
        "gates", *both, "--faithful", tmp_path / "c.json", "--complete", tmp_path / "c.json"
    ).err  # fmt: skip
    other = EdgeScores.load(both[1])
    about = json.loads((both[1] / "scores.json").read_text())["provenance"]
    changed = EdgeScores.of(
        other.universe, other.values, method=other.method, direction="denoising", estimates=other.estimates,
        ablation=other.ablation, provenance={**about, "config_hash": "another"},
    )  # fmt: skip
    changed.save(tmp_path / "other")
    assert "of different models: config_hash" in call("gates", both[0], tmp_path / "other").err
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
