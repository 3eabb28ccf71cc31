"""`circuitgraph heads`: what it writes and says, of a model and of a circuit, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import networkx as nx
import pytest

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.models import load_model
from tests.circuitgraph.cli.conftest import call

pytestmark = pytest.mark.slow

INDUCTION = ("heads", "--model", "induction-neox", "--task", "induction", "--prompts", 12)
FILES = ["attention.png", "heads.csv", "heads.json", "rules.csv", "writers.csv"]


@pytest.fixture(scope="module")
def looked(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("heads") / "induction"
    ended = call(*INDUCTION, "--out", folder)
    assert ended.code == 0, ended.err
    assert "induction, mover" in ended.out and "uniform head" in ended.out
    return folder


def rows_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_text())))


def test_the_files_say_the_same(looked: Path) -> None:
    assert sorted(path.name for path in looked.iterdir()) == FILES
    rows = rows_of(looked / "heads.csv")
    found = json.loads((looked / "heads.json").read_text())
    assert [row["roles"] for row in rows] == [row["roles"] for row in found["heads"]]
    assert {row["head"] for row in rows if "induction" in row["roles"]} == {f"a1.h{head}" for head in range(4)}
    assert (found["n_prompts"], found["share"], len(found["examples"])) == (12, 0.5, 3)
    tokens, attention = found["examples"][0]["tokens"], found["examples"][0]["attention"]["a1.h0"]
    assert len(tokens) == len(attention) == len(attention[0]) and sum(attention[-1]) == pytest.approx(1, abs=1e-2)
    writers = {row["node"]: float(row["direct"]) for row in rows_of(looked / "writers.csv")}
    assert len(writers) == 12 and writers["a1.h2"] > 1 > writers["m1"] and "bias" in writers


def test_one_circuit_at_a_time(tmp_path: Path) -> None:
    ended = call("heads", "a.json", "--circuit", "b.json", "--out", tmp_path / "heads")
    assert ended.code == 2 and "two circuits were given, a.json and b.json; give one" in ended.err


def test_of_a_circuit_its_own_heads_and_its_graph(tmp_path: Path) -> None:
    compiled = compile_model(load_model("induction-neox"), verify=False)
    edges = ["input->a1.h2<v>", "a1.h2->logits", "input->a0.h1<v>", "a0.h1->a1.h2<k>"]
    about = {**compiled.identity, "task": "induction", "seed": 0}
    circuit = Circuit.from_edges(compiled.universe, edges, provenance=about)
    file = circuit.save(tmp_path / "circuit.json")
    ended = call("heads", file, "--out", tmp_path / "heads", "--prompts", 8, "--before", "induction", "--json")
    assert ended.code == 0, ended.err
    assert [(row["head"], row["roles"]) for row in ended.json["heads"]] == [
        ("a0.h1", "previous-token"), ("a1.h2", "induction, mover"),
    ]  # fmt: skip
    assert ended.json["circuit"] == circuit.digest
    assert not any(row["appears"] for row in ended.json["appearing"])  # the same prompts twice
    page = tmp_path / "circuit.html"
    drawn = call("draw", file, "--out", page, "--heads", tmp_path / "heads")
    assert drawn.code == 0, drawn.err
    found = re.search(r'<script type="application/json" id="contents">(.*?)</script>', page.read_text())
    assert found is not None
    told = json.loads(found[1])["heads"]
    assert told["about"] == "8 test prompts of induction" and len(told["prompts"]) == 3
    assert (told["of"]["a1.h2"]["roles"], told["of"]["a1.h2"]["rank"]) == (["induction", "mover"], 1)
    assert told["of"]["a1.h2"]["says"][0][0][0][1] > 1
    refused = call("draw", file, "--out", tmp_path / "c.svg", "--heads", tmp_path / "heads")
    assert refused.code == 2 and "--heads is for pages" in refused.err
    graph = nx.node_link_graph(json.loads((tmp_path / "heads" / "graph.json").read_text()), edges="edges")
    assert graph.nodes["a1.h2"]["roles"] == ["induction", "mover"] and graph.nodes["a1.h2"]["induction"] > 0.5
    assert "roles" not in graph.nodes["input"] and graph.edges["a0.h1", "a1.h2<k>"]["kind"] == "k"


def test_refused(looked: Path, tmp_path: Path) -> None:
    assert "exists" in call(*INDUCTION, "--out", looked).err
    assert call("heads", "--model", "induction-neox", "--out", tmp_path / "a").code == 2
    told = call(*INDUCTION, "--out", tmp_path / "b", "--span", "relation=capital of")
    assert told.code == 2 and "no prompt holds" in told.err and "looking at" not in told.err
    twice = ("--span", "relation=a", "--span", "relation=b")
    assert "'relation' is given twice" in call(*INDUCTION, "--out", tmp_path / "d", *twice).err
    assert "expected NAME=VALUE" in call(*INDUCTION, "--out", tmp_path / "c", "--span", "relation").err
    told = call(*INDUCTION, "--out", tmp_path / "d", "--share", "1.5")
    assert "share must be" in told.err and "loading" not in told.err
    assert not any((tmp_path / name).exists() for name in "abcd")
