"""`circuitgraph rank`: its files, its JSON, and what it refuses before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from tests.circuitgraph.cli.conftest import call

TRACR = ("rank", "--model", "tracr:reverse", "--task", "tracr-reverse", "--task-option", "max_length=3")


@pytest.fixture(scope="module")
def ranked(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rank") / "reverse"
    ended = call(*TRACR, "--out", folder, "--top", 30)
    assert ended.code == 0, ended.err
    assert "The strongest edges" in ended.out and "rise of the objective" in ended.out
    return folder


def test_a_result_can_be_read_and_evaluated(ranked: Path) -> None:
    assert sorted(path.name for path in ranked.iterdir()) == ["circuit.json", "scores.json", "scores.safetensors"]
    scores, circuit = EdgeScores.load(ranked), Circuit.load(ranked / "circuit.json")
    assert circuit.n_raw == 30 and circuit.provenance["selection"]["scores"] == scores.digest
    ended = call("evaluate", ranked / "circuit.json", "--n-random", 1, "--json")
    assert ended.code == 0 and ended.json["metrics"]["circuit"]["exact_match"] == 1.0


def test_json_says_what_the_files_say(ranked: Path) -> None:
    again = call(*TRACR, "--out", ranked, "--overwrite", "--json")
    scores = EdgeScores.load(ranked)
    assert again.json["sha256"] == scores.digest and again.json["n_edges"] == len(scores)
    assert again.json["files"] == ["scores.json", "scores.safetensors"] == sorted(p.name for p in ranked.iterdir())
    assert again.json["strongest"]["tok->a3.h0<v>"] == scores["tok->a3.h0<v>"]
    assert (again.json["method"], again.json["objective"]) == ("eap", "cross-entropy")


def test_scores_alone_in_the_layout_of_eap_ig(ranked: Path, tmp_path: Path) -> None:
    path = tmp_path / "reverse.json"
    refused = call(*TRACR, "--out", path)
    assert refused.code == 2 and "add --embeddings joint --kv-heads native --qkv split" in refused.err
    options = (*TRACR, "--embeddings", "joint", "--out")
    for out, more in ((path, ("--json",)), (tmp_path / "folder", ())):
        ended = call(*options, out, *more)
        assert ended.code == 0, ended.err
    own = EdgeScores.load(tmp_path / "folder")
    np.testing.assert_array_equal(EdgeScores.load(path, universe=own.universe).values, own.values)
    values = json.loads(path.read_text())
    assert set(values) == {"cfg", "nodes", "edges"} and not values["edges"]["input->m0"]["in_graph"]
    assert call(*options, path).code == 2
    assert "holds scores alone" in call(*options, tmp_path / "other.json", "--top", 3).err


def test_edges_at_spans_are_ranked_and_evaluated(tmp_path: Path) -> None:
    command = (
        "rank", "--model", "induction-neox", "--task", "induction", "--train-size", 8, "--spans", "task", "--no-verify"
    )  # fmt: skip
    folder = tmp_path / "spans"
    ended = call(*command, "--top", 20, "--out", folder)
    assert ended.code == 0, ended.err
    scores = EdgeScores.load(folder)
    assert scores.universe.spans == ("letters", "again") and len(scores) == 193
    # Induction: a head of layer 0 says at each letter which stands before it, and keys of layer 1 read that there.
    assert scores["a0.h1@letters->a1.h2<k>@letters"] > scores["a0.h1@again->a1.h2<k>@again"]
    assert Circuit.load(folder / "circuit.json").universe == scores.universe
    for more, said in (
        (("--method", "acdc"), "method 'acdc' does not know spans of token positions; take one of eap, eap-ig"),
        (("--direction", "both"), "--direction both does not know spans"),
        (("--top", 194), "the model's graph has 193 edges"),
    ):
        refused = call(*command, "--out", tmp_path / "other", *more)
        assert refused.code == 2 and said in refused.err


def test_settings_of_a_method(tmp_path: Path) -> None:
    options = (*TRACR, "--method", "gate-gradients", "--out", tmp_path / "out", "--json")
    ended = call(*options, "--set", "levels=0.5", "--set", "batches=1")
    assert ended.code == 0, ended.err
    assert ended.json["settings"] == {"levels": [0.5], "batches": 1, "batch_size": 8}
    assert (ended.json["ablation"], ended.json["direction"]) == ("zero", "between")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "steps=2"), "unknown setting of eap 'steps'"),
        (("--method", "eap-ig", "--set", "steps=two"), "steps must be a whole number of at least 1; got 'two'"),
        (("--method", "random", "--set", "steps=2"), "method 'random' has no settings; got 'steps'"),
        (("--method", "random", "--objective", "kl"), "'random' compares nothing"),
        (("--method", "acd"), "unknown method 'acd'"),
        (("--objective", "kl"), "that of 'kl' is 0"),
        (("--objective", "kll"), "unknown objective 'kll'"),
        (("--top", 10**6), "the model's graph has 94 edges"),
    ],
)
def test_refusals_come_before_the_model(tmp_path: Path, options: tuple[object, ...], message: str) -> None:
    ended = call(*TRACR, "--out", tmp_path / "out", *options)
    assert ended.code == 2 and message in ended.err and "loading" not in ended.err
    assert list(tmp_path.iterdir()) == []


def test_an_older_result_stays(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    for options in ((), ("--overwrite",)):
        ended = call(*TRACR, "--out", tmp_path / "out", *options)
        assert ended.code == 2 and "choose another folder" in ended.err
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
