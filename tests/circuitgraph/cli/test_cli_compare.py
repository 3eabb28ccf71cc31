"""`circuitgraph compare`: values against sets worked out by hand and scipy, what is tested, and refusals."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import hypergeom

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.graph.universe import Universe
from tests.circuitgraph.cli.conftest import call
from tests.circuitgraph.cli.saved_circuits import save_all


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save_all(tmp_path_factory.mktemp("saved"))


def test_what_two_circuits_share(saved):
    ended = call("compare", saved / "a.json", saved / "b.json", "--json")
    assert ended.code == 0, ended.err
    found = ended.json
    assert [row["name"] for row in found["circuits"]] == ["a", "b"]
    assert found["circuits"][0]["digest"] == Circuit.load(saved / "a.json").digest
    overlap = {row["level"]: row for row in found["overlap"]}
    # By hand: three of five edges; a0.h1<v>, a0.h1, m1, input and logits in both.
    assert [overlap[level]["intersection"] for level in ("edges", "nodes", "heads", "layers")] == [3, 5, 1, 2]
    assert overlap["edges"]["iou"] == 3 / 5
    assert overlap["nodes"]["spearman"] is None
    # Scores of the shared edges: 3, 2, 1 and 1, 2, 4.
    assert overlap["edges"]["spearman"] == pytest.approx(-1)
    tests = {(row["level"], row["null"]): row for row in found["tests"]}
    assert len(tests) == len(found["tests"]) == 3 + 2 + 2 + 1
    edges = tests["edges", "hypergeometric"]
    assert edges["p"] == pytest.approx(hypergeom.sf(2, 46, 4, 4))
    assert edges["expected"] == pytest.approx(16 / 46)
    # Holm over the four levels of that null: the nodes' p is smaller, so the edges' is multiplied by three.
    assert edges["family_size"] == 4
    assert tests["nodes", "hypergeometric"]["p"] < edges["p"] < tests["heads", "hypergeometric"]["p"]
    assert edges["p_adjusted"] == pytest.approx(3 * edges["p"])
    assert tests["edges", "degree-preserving"]["n_samples"] == found["settings"]["n_samples"] == 199


def test_a_row_a_test_as_csv(saved):
    ended = call("compare", saved / "a.json", saved / "b.json", "--csv", "--correct", "none", "--alternative", "less")
    rows = list(csv.DictReader(io.StringIO(ended.out)))
    assert [(row["level"], row["null"]) for row in rows[:3]] == [
        ("edges", null) for null in ("hypergeometric", "stratified", "degree-preserving")
    ]
    assert {row["intersection"] for row in rows[:3]} == {"3"}
    assert float(rows[0]["p"]) == pytest.approx(hypergeom.cdf(3, 46, 4, 4))
    assert "p_adjusted" not in rows[0]


def test_levels_nulls_seeds_and_samples_are_those_asked_for(saved):
    def tests(*arguments: object) -> list[dict]:
        ended = call("compare", saved / "a.json", saved / "b.json", "--json", *arguments)
        assert ended.code == 0, ended.err
        return ended.json["tests"]

    assert {(row["level"], row["null"]) for row in tests("--null", "stratified")} == {
        (level, "stratified") for level in ("edges", "nodes", "heads")
    }
    assert [row["null"] for row in tests("--level", "layers")] == ["hypergeometric"]
    (one,) = tests("--level", "edges", "--null", "degree-preserving", "--samples", 7)
    assert one["n_samples"] == 7
    assert one["p"] * 8 == pytest.approx(round(one["p"] * 8))


def save_random(folder: Path, universe: Universe, share: float) -> tuple[Path, Path]:
    """Two circuits with about that share of all edges, independent of each other."""
    for seed, name in enumerate("xy"):
        kept = np.random.default_rng(seed).random(universe.n_edges) < share
        Circuit.from_edges(universe, kept).save(folder / f"{name}.json")
    return folder / "x.json", folder / "y.json"


def test_samples_hang_on_the_seed_alone(tmp_path):
    files = save_random(tmp_path, Universe(family="gpt2", n_layers=3, n_heads=4, n_kv_heads=4), 0.4)
    given = ("compare", *files, "--null", "degree-preserving", "--samples", 20, "--json", "--seed")
    expected = [call(*given, seed).json["tests"][0]["expected"] for seed in (0, 0, 1)]
    assert expected[0] == expected[1] != expected[2]


@pytest.mark.slow
def test_large_circuits_are_sampled_only_on_request(tmp_path):
    files = save_random(tmp_path, Universe(family="gpt2", n_layers=5, n_heads=24, n_kv_heads=24), 0.5)
    given = ("compare", *files, "--level", "edges", "--json")
    ended = call(*given)
    assert sum(row["n_effective"] for row in ended.json["circuits"]) == pytest.approx(13_000, abs=3_000)
    assert [row["null"] for row in ended.json["tests"]] == ["hypergeometric", "stratified"]
    assert "--null all" in ended.err
    for asked in (("--samples", 2), ("--null", "all", "--samples", 2)):
        assert len(call(*given, *asked).json["tests"]) == 3


def test_other_weights_are_compared_as_before_and_after(saved):
    ended = call("compare", saved / "a.json", saved / "tuned.json")
    assert ended.code == 2
    assert "config_hash: '0123' against '4567'" in ended.err
    assert "--across-checkpoints" in ended.err
    found = call("compare", saved / "a.json", saved / "tuned.json", "--across-checkpoints", "--json").json
    kinds = {row["kind"]: row for row in found["changes_edges_by_kind"]}
    assert [kinds["mlp"][status] for status in ("kept", "gained", "lost")] == [1, 0, 1]
    assert [kinds["logits"][status] for status in ("kept", "gained", "lost")] == [1, 1, 0]
    layers = {row["layer"]: row for row in found["changes_edges_by_layer"]}
    assert layers[1]["lost"] == 1
    assert (
        "From a to tuned: nodes by layer"
        in call("compare", saved / "a.json", saved / "tuned.json", "--across-checkpoints").out
    )


def test_other_graphs_are_mapped_only_on_request(saved):
    ended = call("compare", saved / "a.json", saved / "joint.json")
    assert ended.code == 2
    assert "qkv: 'split' against 'joint'" in ended.err
    assert "analysis.coarsen, or --coarsen" in ended.err
    ended = call("compare", saved / "a.json", saved / "joint.json", "--coarsen", "--level", "edges", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["universe"]["qkv"] == "joint"
    assert ended.json["overlap"][0]["intersection"] == 1
    assert "a: 4 edges mapped onto 4 (qkv: 'split' against 'joint')" in ended.err
    ended = call("compare", saved / "a.json", saved / "deeper.json", "--coarsen")
    assert ended.code == 2
    assert "n_layers: 2 against 3" in ended.err
    assert "--coarsen" not in call("compare", saved / "a.json", saved / "deeper.json").err


def test_many_circuits_as_a_matrix(saved):
    files = [saved / f"{name}.json" for name in ("a", "b", "empty")]
    found = call("compare", *files, "--matrix", "containment", "--level", "edges", "--json").json
    assert [row["a"] for row in found["matrix"]] == [1.0, 0.75, 1.0]
    assert [row[""] for row in found["matrix"]] == ["a", "b", "empty"]
    assert len(found["overlap"]) == 3
    assert "containment of edges" in call("compare", *files, "--matrix", "containment").out


def test_different_ablations_are_said(saved):
    ended = call("compare", saved / "a.json", saved / "zero.json", "--level", "edges")
    assert ended.code == 0
    assert "Warning: the circuits were found under different ablations (a counterfactual, zero zero)" in ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a.json",), "expected at least 2 circuits; got 1"),
        (("a.json", "a.json"), "name them: NAME=FILE"),
        (("a.json", "none.json"), "No such file"),
        (("a.json", "b.json", "--level", "edge"), "did you mean 'edges'?"),
        (("a.json", "b.json", "--null", "stratify"), "did you mean 'stratified'?"),
        (("a.json", "b.json", "--level", "heads", "--null", "degree-preserving"), "says nothing about heads"),
        (("a.json", "b.json", "--correct", "bonferroni"), "unknown correction"),
        (("a.json", "b.json", "--alternative", "more"), "unknown alternative"),
        (("a.json", "b.json", "--matrix", "jaccard"), "unknown measure"),
        (("a.json", "b.json", "--samples", "0"), "--samples"),
        (("a.json", "b.json", "--json", "--latex"), "expected one format; got --json and --latex"),
        (("a.json", "b.json", "--out", "table.xlsx"), "expected .json, .csv, .tex, .md, .txt"),
        (("a.json", "b.json", "--out", "b.json"), "is a file that is read"),
        (("a.json", "b.json", "--out", "no/such/folder.md"), "cannot write"),
    ],
)
def test_refusals(saved, monkeypatch, arguments, said):
    monkeypatch.chdir(saved)
    before = (saved / "b.json").read_bytes()
    ended = call("compare", *arguments)
    assert ended.code == 2
    assert said in ended.err
    assert ended.out == ""
    assert (saved / "b.json").read_bytes() == before
