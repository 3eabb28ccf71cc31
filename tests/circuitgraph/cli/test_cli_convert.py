"""`circuitgraph convert`: there and back, what it says, and what it refuses before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.graph.universe import Universe
from tests.circuitgraph.cli.conftest import call

GROUPED = Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2)


@pytest.fixture
def circuit(tmp_path: Path) -> Path:
    return Circuit.from_edges(GROUPED, {"input->a0.kv1<v>": 2.0, "a0.h2->logits": -1.0}).save(tmp_path / "c.json")


def test_there_and_back(tmp_path: Path, circuit: Path) -> None:
    there = call("convert", circuit, tmp_path / "graph.pt", "--d-model", 16)
    assert there.code == 0, there.err
    assert "2 of 82 edges (circuit, 2.44%) are 3 of 110 edges (eap-ig-pt, 2.73%)" in there.out
    assert "lost: method, ablation and provenance" in there.out and "note: 1 of 3 edges dangle" in there.out
    back = call("convert", tmp_path / "graph.pt", tmp_path / "again.json", "--universe", circuit, "--json")
    assert back.json["n_kept"] == [3, 2] and back.json["n_edges"] == [110, 82] and back.json["lost"] == []
    again = Circuit.load(tmp_path / "again.json")
    assert again == Circuit.load(circuit) and again.scores.tolist() == [2.0, -1.0]


def test_scores_of_a_model(tmp_path: Path) -> None:
    """Its config says the universe and the width."""
    from transformers import GPT2Config

    GPT2Config(n_layer=2, n_head=2, n_embd=24).save_pretrained(tmp_path / "model")
    universe = Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2)
    scores = EdgeScores.of(universe, np.arange(46.0), method="mine", direction="noising", estimates="a rank")
    scores.save(tmp_path / "scores")
    done = call("convert", tmp_path / "scores", tmp_path / "a.json", "--to", "eap-ig", "--model", tmp_path / "model")
    assert done.code == 0 and "scores of 46 edges (scores) are scores of 46 edges (eap-ig)" in done.out
    assert json.loads((tmp_path / "a.json").read_text())["cfg"]["d_model"] == 24
    options = ("--model", tmp_path / "model", "--embeddings", "split", "--method", "mine", "--direction", "noising")
    assert call("convert", tmp_path / "a.json", tmp_path / "back", *options).code == 0
    back = EdgeScores.load(tmp_path / "back")
    assert back["tok->a1.h0<v>"] == back["pos->a1.h0<v>"] == scores["input->a1.h0<v>"]
    assert (back.method, back.direction, back.provenance["model"]) == ("mine", "noising", str(tmp_path / "model"))


def test_refusals_write_nothing(tmp_path: Path, circuit: Path) -> None:
    (tmp_path / "edges.json").write_text(json.dumps([["embeds", "a9.h0.q"]]))
    wrong = [
        ((circuit, tmp_path / "out.json"), "say which format it shall have"),
        ((tmp_path / "edges.json", tmp_path / "out.json"), "--model NAME, or --universe CIRCUIT"),
        ((tmp_path / "edges.json", tmp_path / "out.json", "--universe", circuit), "unknown reader 'a9.h0<q>'"),
        ((circuit, circuit, "--to", "eap-ig"), "is a file that is read"),
        ((circuit, tmp_path / "out.pt", "--kept-if", "most"), "unknown kept_if 'most'"),
        ((circuit, tmp_path / "out.pt", "--model", "gpt2-random", "--universe", circuit), "give one of them"),
    ]
    before = sorted(path.name for path in tmp_path.iterdir())
    for options, message in wrong:
        ended = call("convert", *options)
        assert ended.code == 2 and message in ended.err, ended.err
    assert sorted(path.name for path in tmp_path.iterdir()) == before
