"""`sparsity`, `paths`, `find`, `combine` and `export`: saved circuits counted, searched, joined and handed on."""

from __future__ import annotations

import json
from pathlib import Path

import networkx as nx
import pytest

from circuitgraph.circuits.circuit import Circuit
from tests.circuitgraph.cli.conftest import call
from tests.circuitgraph.cli.saved_circuits import OTHER, save_all


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save_all(tmp_path_factory.mktemp("saved"))


class TestSparsity:
    def test_sizes_of_circuits_of_two_graphs(self, saved):
        ended = call("sparsity", saved / "a.json", saved / "deeper.json", "--json")
        assert ended.code == 0, ended.err
        rows = {(row["circuit"], row["part"], row["stage"]): row for row in ended.json["all"]}
        assert (rows["a", "edges", "raw"]["kept"], rows["a", "edges", "raw"]["total"]) == (4, 46)
        assert rows["a", "edges", "effective"]["sparsity"] == pytest.approx(42 / 46)
        assert (rows["a", "heads", "effective"]["kept"], rows["a", "heads", "effective"]["total"]) == (1, 4)
        assert rows["a", "depth", "effective"]["kept"] == 3
        assert rows["deeper", "edges", "raw"]["total"] == 9 + 30 + 51 + 10

    def test_by_layer_kind_block_and_score(self, saved):
        by = [part for name in ("layer", "kind", "block", "score") for part in ("--by", name)]
        found = call("sparsity", saved / "a.json", *by, "--json").json
        layers = {(row["by"], row["layer"]): row["kept"] for row in found["layer"] if row["part"] == "edges"}
        assert [layers["reader_layer", layer] for layer in (0, 1, 2)] == [1, 2, 1]
        assert [layers["writer_layer", layer] for layer in (-1, 0, 1)] == [2, 1, 1]
        kinds = {row["kind"]: row["kept"] for row in found["kind"] if row["by"] == "reader_kind"}
        assert kinds == {"q": 0, "k": 0, "v": 1, "mlp": 2, "logits": 1}
        blocks = {(row["writer_layer"], row["reader_layer"]): row["kept"] for row in found["block"] if row["kept"]}
        assert blocks == {(-1, 0): 1, (-1, 1): 1, (0, 1): 1, (1, 2): 1}
        assert found["score"][0]["share"] == pytest.approx(3 / 6.5)

    def test_by_span(self, saved):
        found = call("sparsity", saved / "spanned.json", "--by", "span", "--json").json["span"]
        # 46 edges at the end; at the name nothing is asked, so the 7 into the logits are missing.
        assert [(row["kind"], row["kept"], row["total"]) for row in found] == [("name", 1, 39), ("end", 2, 46)]
        refused = call("sparsity", saved / "a.json", "--by", "span")
        assert refused.code == 2 and "discover --spans" in refused.err

    def test_people_see_layers_by_name(self, saved):
        ended = call("sparsity", saved / "a.json", "--by", "block")
        assert [line.split()[1:3] for line in ended.out.splitlines()[3:]] == [
            ["embeddings", "0"], ["embeddings", "1"], ["0", "1"], ["1", "logits"],
        ]  # fmt: skip

    def test_csv_holds_one_table(self, saved):
        ended = call("sparsity", saved / "a.json", "--by", "all", "--by", "block", "--csv")
        assert ended.code == 2
        assert "here are all, block" in ended.err
        assert call("sparsity", saved / "a.json", "--by", "layers").code == 2


def test_a_prompt_cannot_be_run_through_a_circuit_with_spans(saved):
    ended = call("run", saved / "spanned.json", "--prompt", "a b")
    assert ended.code == 2 and "a single --prompt does not know spans" in ended.err


class TestPaths:
    def test_the_strongest_of_all(self, saved):
        ended = call("paths", saved / "a.json", "--json")
        assert ended.code == 0, ended.err
        assert ended.json["n_paths"] == 2
        assert [(row["path"], row["strength"]) for row in ended.json["paths"]] == [
            ("input -> a0.h1<v> -> m1 -> logits", 1.0), ("input -> m1 -> logits", 0.5),
        ]  # fmt: skip
        assert ended.json["paths"][0]["nodes"] == ["input", "a0.h1<v>", "a0.h1", "m1", "logits"]

    def test_from_to_and_through(self, saved):
        given = ("--from", "a0.h1", "--to", "m1", "-k", 1, "--by", "product")
        (row,) = call("paths", saved / "a.json", *given, "--json").json["paths"]
        assert row["path"] == "a0.h1 -> m1"
        assert call("paths", saved / "a.json", "--through", "a0.h1->m1", "--json").json["n_paths"] == 1
        ended = call("paths", saved / "a.json", "--through", "a0.h0")
        assert ended.code == 0
        assert ended.out == "\nThere is no such path\n(none)\n"

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--from", "a0.h9"), "unknown source of paths 'a0.h9'"),
            (("--to", "input"), "do not end at embeddings"),
            (("--through", "m7"), "unknown node 'm7'"),
            (("--by", "heaviest"), "unknown"),
            (("-k", "0"), "-k"),
        ],
    )
    def test_refusals(self, saved, arguments, said):
        ended = call("paths", saved / "a.json", *arguments)
        assert ended.code == 2
        assert said in ended.err


class TestFind:
    def test_edges_by_name(self, saved, tmp_path):
        ended = call("find", saved / "a.json", "* -> m1", "--save", tmp_path / "part.json", "--json")
        assert ended.code == 0, ended.err
        assert [row["edge"] for row in ended.json["edges"]] == ["input->m1", "a0.h1->m1"]
        assert ended.json["n_found"] == 2
        part = Circuit.load(tmp_path / "part.json")
        assert part == Circuit.load(saved / "a.json")
        assert part.provenance["query"] == "* -> m1"

    def test_a_query_that_cannot_be_read(self, saved):
        ended = call("find", saved / "a.json", "m1 => logits")
        assert ended.code == 2
        assert "column 4" in ended.err
        assert "m1 => logits" in ended.err

    def test_the_circuit_is_not_replaced(self, saved):
        ended = call("find", saved / "a.json", "m1", "--save", saved / "a.json")
        assert ended.code == 2
        assert "is a file that is read" in ended.err


class TestCombine:
    @pytest.mark.parametrize(
        ("op", "expected"),
        [
            ("union", {"input->a0.h1<v>", "a0.h1->m1", "m1->logits", "input->m1", "input->logits"}),
            ("intersection", {"input->a0.h1<v>", "a0.h1->m1", "m1->logits"}),
            # What only a keeps, input->m1, reaches the logits through an edge of both, so it dangles alone.
            ("difference", set()),
            ("symmetric-difference", {"input->logits"}),
        ],
    )
    def test_sets_by_hand(self, saved, tmp_path, op, expected):
        ended = call("combine", saved / "a.json", saved / "b.json", "--op", op, "--out", tmp_path / "c.json", "--json")
        assert ended.code == 0, ended.err
        made = Circuit.load(tmp_path / "c.json")
        assert set(made) == expected
        parents = [Circuit.load(saved / f"{name}.json").digest for name in "ab"]
        assert made.provenance["parents"] == parents
        assert made.provenance["model"] == "small"
        assert ended.json["n_effective"] == len(expected)
        assert ("the result has no edges: all 1 dangle" in ended.err) == (op == "difference")

    def test_complement_and_consensus(self, saved, tmp_path):
        assert call("combine", saved / "a.json", "--op", "complement", "--out", tmp_path / "n.json").code == 0
        assert len(Circuit.load(tmp_path / "n.json")) + len(Circuit.load(saved / "a.json")) <= 46
        files = [saved / f"{name}.json" for name in ("a", "b", "empty")]
        given = ("--op", "consensus", "--out", tmp_path / "c.json")
        assert call("combine", *files, *given, "--threshold", 0.6).code == 0
        assert set(Circuit.load(tmp_path / "c.json")) == {"input->a0.h1<v>", "a0.h1->m1", "m1->logits"}
        ended = call("combine", *files, *given, "--threshold", 0.3)
        assert ended.code == 2
        assert "c.json exists" in ended.err
        assert call("combine", *files, *given, "--threshold", 0.3, "--overwrite").code == 0
        assert set(Circuit.load(tmp_path / "c.json")) > set(OTHER)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("a.json", "b.json", "--op", "unite"), "unknown operation 'unite'"),
            (("a.json", "b.json", "empty.json", "--op", "difference"), "takes 2 circuits; got 3"),
            (("a.json", "b.json", "--op", "complement"), "takes 1 circuit; got 2"),
            (("a.json", "b.json", "--op", "union", "--threshold", "0.5"), "--threshold is for --op consensus"),
            (("a.json", "b.json", "--op", "consensus", "--threshold", "2"), "threshold"),
            (("a.json", "zero.json", "--op", "union"), "differ in ablation"),
            (("a.json", "--op", "complement", "--ablation", "zero"), "leave out --ablation"),
            (("a.json", "joint.json", "--op", "union"), "--coarsen"),
        ],
    )
    def test_refusals(self, saved, tmp_path, monkeypatch, arguments, said):
        monkeypatch.chdir(saved)
        ended = call("combine", *arguments, "--out", tmp_path / "c.json")
        assert ended.code == 2
        assert said in ended.err
        assert list(tmp_path.iterdir()) == []

    def test_a_parent_is_never_replaced(self, saved):
        before = (saved / "a.json").read_bytes()
        given = ("--op", "union", "--out", saved / "a.json", "--overwrite")
        assert call("combine", saved / "a.json", saved / "b.json", *given).code == 2
        assert (saved / "a.json").read_bytes() == before


class TestExport:
    def test_every_format(self, saved, tmp_path):
        for suffix, read in (("graphml", nx.read_graphml), ("gexf", nx.read_gexf)):
            ended = call("export", saved / "a.json", "--out", tmp_path / f"a.{suffix}", "--json")
            assert ended.code == 0, ended.err
            assert read(tmp_path / f"a.{suffix}").edges["m1", "logits"]["score"] == 1.0
        assert call("export", saved / "a.json", "--out", tmp_path / "a.json", "--no-structural").code == 0
        graph = nx.node_link_graph(json.loads((tmp_path / "a.json").read_text()), edges="edges")
        assert graph.number_of_edges() == 4
        assert call("export", saved / "a.json", "--out", tmp_path / "a.cyjs", "--by", "layer").code == 0
        assert "layer 1" in (tmp_path / "a.cyjs").read_text()

    def test_refusals(self, saved, tmp_path):
        assert ".gexf" in call("export", saved / "a.json", "--out", tmp_path / "a.gefx").err
        assert "unknown grouping" in call("export", saved / "a.json", "--out", tmp_path / "a.gexf", "--by", "hat").err
        assert "is a file that is read" in call("export", saved / "a.json", "--out", saved / "a.json").err
        assert list(tmp_path.iterdir()) == []
