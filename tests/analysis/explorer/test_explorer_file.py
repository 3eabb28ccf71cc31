"""The explorer's file, without a browser: what is in it, what is refused, and that the library is the released one."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.resources import files

import numpy as np
import pytest

from analysis.explorer import page_contents, write_explorer
from analysis.explorer.document import json_block
from analysis.explorer.layout import Gaps, choose_gaps, place_node
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, GraphMismatchError, OutputError
from tests.analysis.small_circuits import CODELLAMA_13B, UNIVERSES, large_circuit, random_circuit

VENDOR = files("analysis.explorer") / "vendor"


def test_the_library_is_the_released_one():
    told = (VENDOR / "README.md").read_text()
    library = (VENDOR / "cytoscape.min.js").read_bytes()
    assert f"`{hashlib.sha256(library).hexdigest()}`" in told
    version = re.search(r"\| version \| ([\d.]+) \|", told)
    assert version and f'version="{version[1]}"'.encode() in library.replace(b" ", b"")
    licence = (VENDOR / "LICENSE").read_text()
    assert "Permission is hereby granted, free of charge" in licence and "Cytoscape Consortium" in licence
    # The licence travels with every page as well.
    assert b"Permission is hereby granted" in library


@pytest.mark.parametrize("name", [name for name in UNIVERSES if name != "hand"])
def test_every_kept_edge_is_there_once(name):
    circuit = random_circuit(name, 0)
    contents = page_contents(circuit)
    ids = [node["id"] for node in contents["nodes"]]
    edges = contents["edges"]
    named = {
        f"{ids[source]}->{ids[target]}" + (f"<{kind}>" if kind in ("q", "k", "v", "qkv") else "")
        for source, target, kind in zip(edges["source"], edges["target"], edges["kind"], strict=True)
    }
    assert named == set(circuit) and len(edges["kind"]) == len(circuit)
    assert edges["scores"] == [circuit.scores.tolist()]
    # In the order of the computation: the page's sweeps rely on it.
    assert all(source < target for source, target in zip(edges["source"], edges["target"], strict=True))
    for number, node in enumerate(contents["nodes"]):
        assert all(head > number for head in node.get("heads", []))


@pytest.mark.parametrize("name", UNIVERSES)
def test_no_two_nodes_touch(name):
    universe = UNIVERSES[name]
    gaps = choose_gaps(universe)
    groups = [f"a{layer}.kv{group}" for layer in range(universe.n_layers) for group in range(universe.n_kv_heads)]
    names = [*universe.writers, "logits", *(groups if universe.grouped else [])]
    half = {"input": (46, 27), "tok": (46, 27), "pos": (46, 27), "logits": (46, 27)}
    boxes = [
        (*place_node(universe, node, gaps), *(half.get(node) or ((10, 10) if ".kv" in node else (33, 20))))
        for node in names
    ]
    for place, (x, y, w, h) in enumerate(boxes):
        for x2, y2, w2, h2 in boxes[:place]:
            # From left to right, and turned: labels are never turned with it.
            assert abs(x - x2) >= w + w2 - 4 or abs(y - y2) >= h + h2
            assert abs(y - y2) >= w + w2 - 4 or abs(x - x2) >= h + h2


def test_layers_rise_along_and_heads_across():
    gaps = Gaps(along=1000, across=10)
    places = [place_node(CODELLAMA_13B, name, gaps)[0] for name in ("input", "a0.h0", "m0", "a1.h0", "m39", "logits")]
    assert places == sorted(places) and len(set(places)) == 6
    across = [place_node(CODELLAMA_13B, f"a7.h{head}", gaps)[1] for head in range(40)]
    assert np.diff(across).tolist() == [10] * 39


class TestTooManyEdges:
    def test_the_strongest_stay_and_it_is_told(self):
        circuit = large_circuit()
        contents = page_contents(circuit, max_edges=300)
        assert 250 < len(contents["edges"]["kind"]) <= 300
        about = contents["circuits"][0]
        assert (about["n_edges"], about["n_in_page"]) == (len(circuit), len(contents["edges"]["kind"]))
        kept = [abs(score) for score in contents["edges"]["scores"][0]]
        assert max(kept) == abs(circuit.scores).max()
        assert np.median(kept) > np.quantile(abs(circuit.scores), 0.8)

    def test_what_only_one_has_is_not_a_matter_of_what_was_left_out(self):
        one, other = random_circuit("gqa", 2), random_circuit("gqa", 1)
        # Much larger scores in one circuit do not push the other's edges out.
        loud = Circuit.from_edges(one.universe, one.edge_ids, scores=1000 * one.scores)
        contents = page_contents({"loud": loud, "quiet": other}, max_edges=20)
        ids = [node["id"] for node in contents["nodes"]]
        columns = contents["edges"]
        for place, (source, target, kind) in enumerate(
            zip(columns["source"], columns["target"], columns["kind"], strict=True)
        ):
            port = f"<{kind}>" if kind in ("q", "k", "v") else ""
            edge = f"{ids[source]}->{ids[target]}{port}"
            assert [column[place] is not None for column in columns["scores"]] == [edge in loud, edge in other]
        assert sum(score is not None for score in columns["scores"][1]) >= 5


class TestRefusals:
    def test_of_circuits(self, tmp_path):
        circuit = random_circuit("gqa", 2)
        with pytest.raises(ConfigurationError, match="one circuit or two; got 3"):
            write_explorer([circuit] * 3, tmp_path / "c.html")
        with pytest.raises(ConfigurationError, match="at least 1 circuit"):
            write_explorer([], tmp_path / "c.html")
        with pytest.raises(GraphMismatchError, match="coarsen"):
            write_explorer([circuit, random_circuit("per_query", 0)], tmp_path / "c.html")
        with pytest.raises(ConfigurationError, match="max_edges"):
            write_explorer(circuit, tmp_path / "c.html", max_edges=0)
        with pytest.raises(OutputError):
            write_explorer(circuit, tmp_path / "none" / "c.html")
        assert list(tmp_path.iterdir()) == []

    def test_of_models_unless_it_is_asked_for(self, tmp_path):
        circuit = random_circuit("gqa", 2)
        one, other = (circuit.with_provenance({"model": "m", "revision": revision}) for revision in "12")
        with pytest.raises(GraphMismatchError, match="across_checkpoints=True"):
            write_explorer([one, other], tmp_path / "c.html")
        assert write_explorer([one, other], tmp_path / "c.html", across_checkpoints=True).exists()


def test_the_file_is_small_and_holds_no_address_to_load(tmp_path):
    text = write_explorer(large_circuit(), tmp_path / "c.html").read_text()
    assert len(text) < 2_000_000
    own = text.replace((VENDOR / "cytoscape.min.js").read_text(), "")
    # The name of a format, which an SVG has to say; nothing is loaded from there.
    assert re.findall(r"https?://[^\s\"'<]*", own) == ["http://www.w3.org/2000/svg"]
    page = own[: own.index("<script")]
    assert re.findall(r"(?:src|href)=\"(?!data:)|url\(|@import", page) == []


def test_json_is_read_back_and_closes_nothing():
    value = {"</script>": ["<!--", "&amp;", "\u2028\u2029", "\ud800", '"\\\n']}
    text = json_block(value)
    assert json.loads(text) == value
    assert text.isascii() and not set(text) & set("<>&")
