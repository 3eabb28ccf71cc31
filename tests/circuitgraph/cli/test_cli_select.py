"""`circuitgraph select`: circuits of saved scores by every rule, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.graph.universe import Universe
from tests.circuitgraph.cli.conftest import call

UNIVERSE = Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("scores")
    draws = np.random.default_rng(0).normal(1, 1, size=(3, 46))
    about = {"method": "mine", "direction": "noising", "estimates": "a rank"}
    return [EdgeScores.of(UNIVERSE, draw, **about).save(folder / str(place)) for place, draw in enumerate(draws)]


def test_rules(tmp_path: Path, folders: list[Path]) -> None:
    scores = EdgeScores.load(folders[0])
    for rule, options in (
        ("top", {"n": 9}),
        ("greedy", {"n": 9}),
        ("connected", {"n": 9}),
        ("threshold", {"threshold": 1.5}),
    ):
        out = tmp_path / f"{rule}.json"
        given = ("-n", 9) if "n" in options else ("--threshold", 1.5)
        ended = call("select", folders[0], "--rule", rule, *given, "--out", out)
        assert ended.code == 0, ended.err
        circuit = Circuit.load(out)
        assert circuit == scores.select(rule, **options) and f"{rule}: {len(circuit)} of 46 edges" in ended.out
    assert "no circuit of this size has a larger one (gap 0.0e+00)" in call(
        "select", folders[0], "--rule", "connected", "-n", 9, "--out", tmp_path / "again.json"
    ).out  # fmt: skip


def test_several(tmp_path: Path, folders: list[Path]) -> None:
    told = call("select", *folders, "--rule", "stable", "-n", 12, "--out", tmp_path / "a.json", "--json").json
    assert told["selection"]["n_resamples"] == 3 and told["selection"]["n_kept"] == told["n_effective"] <= 12
    options = ("--combine", "mean", "--weights", "2,1,1", "--scale", "rank", "-n", 12, "--out", tmp_path / "b.json")
    assert call("select", *folders, *options).code == 0
    assert Circuit.load(tmp_path / "b.json").provenance["combined"]["weights"] == [0.5, 0.25, 0.25]


def test_refusals_write_nothing(tmp_path: Path, folders: list[Path]) -> None:
    out = ("--out", tmp_path / "c.json")
    wrong = [
        ((folders[0], *out), "needs n"),
        ((folders[0], "-n", 47, *out), "0 to 46"),
        ((folders[0], "-n", 4, "--rule", "best", *out), "unknown rule 'best'"),
        ((folders[0], "-n", 4, "--at-most", *out), "rule 'top' has no exactly"),
        ((*folders, "-n", 4, *out), "--combine"),
        ((*folders, "-n", 4, "--weights", "1,2,3", *out), "for --combine mean"),
        ((*folders, "-n", 4, "--combine", "mean", "--weights", "1;2", *out), "expected numbers"),
        ((tmp_path, "-n", 4, *out), "scores.json"),
    ]
    for options, message in wrong:
        ended = call("select", *options)
        assert ended.code == 2 and message in ended.err, ended.err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "c.json").write_text("mine")
    assert "exists" in call("select", folders[0], "-n", 4, *out).err and (tmp_path / "c.json").read_text() == "mine"
