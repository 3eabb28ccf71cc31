"""Drawings: what is drawn, how it is told apart, that nothing collides, and hostile names."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from analysis.drawing import circuit_to_dot, draw
from analysis.drawing.dot import end_of
from analysis.drawing.membership import draw_membership, membership_to_dot
from analysis.drawing.selection import strongest_edges
from analysis.drawing.style import EDGE_STYLES
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import OutputError, RenderingError, UnknownNameError
from circuitgraph.graph.liveness import effective_edges
from circuitgraph.graph.universe import EDGE_KINDS, Universe
from tests.analysis.random_circuits import crowded_circuit, reverse_circuit

pygraphviz = pytest.importorskip("pygraphviz", reason="its wheel holds the Graphviz that lays the tests out")

HOSTILE = '"]; evil -> node; <script>alert("x")</script> \\ \n \r &lt; \x00\x1b \ud800 ☃ \\'
SVG = "{http://www.w3.org/2000/svg}"


def lines_of(dot_text: str) -> list[tuple[str, str, str]]:
    """Visible edges of a DOT text, as Graphviz reads them: ends and line style."""
    graph = pygraphviz.AGraph(string=dot_text)
    return [(u, v, e.attr["style"]) for e in graph.edges() for u, v in [e] if e.attr["style"] != "invis"]


def test_tracr_reverse_edge_by_edge() -> None:
    assert sorted(lines_of(circuit_to_dot(reverse_circuit()))) == sorted(
        [
            ("a3.h0", "logits", "solid"),
            ("m2", "a3.h0", "solid"),
            ("pos", "a3.h0", "dashed"),
            ("tok", "a3.h0", "dotted"),
            ("m1", "m2", "solid"),
            ("m0", "m1", "solid"),
            ("tok", "m1", "solid"),
            ("pos", "m1", "solid"),
            ("a0.h0", "m0", "solid"),
            ("tok", "m0", "solid"),
            ("tok", "a0.h0", "dotted"),
        ]
    )


def test_keys_and_values_end_at_the_head_or_at_the_group_that_shares_them() -> None:
    universe = Universe(family="llama", n_layers=1, n_heads=4, n_kv_heads=2)
    edges = [
        "input->a0.kv0<k>",
        "a0.h1->logits",
        "input->a0.kv1<v>",
        "input->a0.h2<q>",
        "a0.h2->m0",
        "a0.h3->m0",
    ]
    circuit = Circuit.from_edges(universe, [*edges, "m0->logits"])
    drawn = {(u, v) for u, v, _ in lines_of(circuit_to_dot(circuit))}
    assert {("input", "a0.h1"), ("input", "a0.kv1"), ("a0.kv1", "a0.h2"), ("a0.kv1", "a0.h3")} <= drawn
    assert ("input", "a0.h2") in drawn
    assert len(drawn) == 7 + 2
    assert "shared by a group of heads" in circuit_to_dot(circuit)
    assert end_of(universe, "a0.kv0<v>", {"a0.h0", "a0.h1"}) == "a0.kv0"


def test_kinds_differ_in_more_than_colour() -> None:
    assert set(EDGE_STYLES) == set(EDGE_KINDS)
    split = [EDGE_STYLES[kind] for kind in "qkv"]
    for looks in ([s.color for s in split], [s.line for s in split], [s.arrow for s in split]):
        assert len(set(looks)) == 3
    circuit = Circuit.from_edges(
        Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1, qkv="joint"),
        ["input->a0.h0<qkv>", "a0.h0->logits"],
    )
    assert "query, key, value" in circuit_to_dot(circuit)


def test_the_strongest_line_is_the_widest_whatever_its_sign() -> None:
    universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
    circuit = Circuit.from_edges(universe, {"input->m0": -4.0, "m0->logits": 1.0, "input->logits": 2.0})
    graph = pygraphviz.AGraph(string=circuit_to_dot(circuit))
    width = {tuple(e): float(e.attr["penwidth"]) for e in graph.edges() if e.attr["penwidth"]}
    assert width["input", "m0"] > width["input", "logits"] > width["m0", "logits"]


def boxes(dot_text: str) -> dict[str, tuple[float, float, float, float]]:
    """Laid-out nodes: left, bottom, right, top in points."""
    graph = pygraphviz.AGraph(string=dot_text)
    graph.layout(prog="dot")
    found = {}
    for node in graph.nodes():
        x, y = map(float, node.attr["pos"].split(","))
        width, height = 36 * float(node.attr["width"]), 36 * float(node.attr["height"])
        found[str(node)] = (x - width, y - height, x + width, y + height)
    return found


@pytest.mark.parametrize("n_edges", [60, 150, 1200])
def test_layers_are_ranks_and_nothing_collides(n_edges: int) -> None:
    circuit = crowded_circuit(n_edges)
    found = boxes(circuit_to_dot(circuit))
    names = list(found)
    corners = np.array([found[name] for name in names])
    left, bottom, right, top = corners.T
    apart = (
        (left[:, None] >= right)
        | (right[:, None] <= left)
        | (bottom[:, None] >= top)
        | (top[:, None] <= bottom)
        | np.eye(len(names), dtype=bool)
    )
    assert apart.all(), [names[i] for i in np.argwhere(~apart)[0]]
    height = {name: (box[1] + box[3]) / 2 for name, box in found.items()}
    heads = sorted((int(name[1 : name.index(".")]), height[name]) for name in names if re.match(r"a\d+\.h", name))
    by_layer = {layer: {y for other, y in heads if other == layer} for layer, _ in heads}
    assert all(len(heights) == 1 for heights in by_layer.values())
    flat = [heights.pop() for _, heights in sorted(by_layer.items())]
    assert flat == sorted(set(flat))
    assert height["input"] == min(height.values())
    assert height["logits"] == max(height.values())
    labels = [box[0] for name, box in found.items() if name.startswith("row")]
    assert max(labels) < min(box[0] for name, box in found.items() if not name.startswith("row"))


def test_above_the_limit_the_strongest_are_drawn_and_it_says_so() -> None:
    circuit = crowded_circuit(1200)
    places = strongest_edges(circuit, 150)
    assert 140 <= len(places) <= 150
    strongest = int(np.argmax(np.abs(circuit.scores)))
    assert strongest in places
    drawn = np.zeros(circuit.universe.n_edges, dtype=bool)
    drawn[circuit.edge_ids[places]] = True
    assert np.array_equal(effective_edges(circuit.universe, drawn, "counterfactual"), drawn)
    mean = np.abs(circuit.scores).mean()
    assert np.abs(circuit.scores[places]).mean() > 1.5 * mean
    dot_text = circuit_to_dot(circuit)
    assert f"{len(places)} of {len(circuit):,} edges drawn (strongest" in dot_text
    assert "edges drawn" not in circuit_to_dot(circuit, max_edges=len(circuit))


def test_a_weak_way_out_is_drawn_with_the_strong_edge_that_needs_it() -> None:
    universe = Universe(family="gpt2", n_layers=2, n_heads=1, n_kv_heads=1)
    scores = {"input->m0": 9.0, "m0->m1": 0.1, "m1->logits": 0.2, "input->logits": 1.0, "m0->a1.h0<q>": 0.3}
    circuit = Circuit.from_edges(universe, {**scores, "a1.h0->logits": 0.25})
    names = list(circuit)
    chosen = {names[place] for place in strongest_edges(circuit, 4)}
    assert chosen == {"input->m0", "m0->a1.h0<q>", "a1.h0->logits", "input->logits"}
    assert strongest_edges(circuit, 2) == [names.index("input->logits")]


def test_the_caption() -> None:
    circuit = crowded_circuit(60).with_provenance(
        {
            "model": "smollm2-135m",
            "task": {"name": "ioi"},
            "metrics": {"splits": {"test": {"circuit": {"kl": 0.25}}}},
        }
    )
    text = circuit_to_dot(circuit)
    counts = circuit.sparsity
    assert "smollm2-135m: ioi" in text
    assert f"{len(circuit)} of 70,651 edges kept: {100 * counts['effective']:.2f} % sparse" in text
    assert f"(raw {counts['n_raw']}: {100 * counts['raw']:.2f} %)" in text
    assert "counterfactual ablation; KL 0.250 nats (test)" in text
    shorter = circuit.with_provenance({"metrics": {"test": {"circuit": {"mse": 0.125}}}})
    assert "MSE 0.125 (test)" in circuit_to_dot(shorter)
    for label in ("query", "key", "value", "into the logits"):
        assert label in text


@pytest.mark.parametrize("suffix", ["dot", "pdf", "svg", "png", "PNG"])
def test_formats_by_suffix(tmp_path: Path, suffix: str) -> None:
    path = draw(reverse_circuit(), tmp_path / f"c.{suffix}")
    start = {"dot": b"digraph", "pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}[suffix.lower()]
    assert path.read_bytes().startswith(start)
    assert list(tmp_path.iterdir()) == [path]


def test_empty_circuits_are_drawn_as_a_caption(tmp_path: Path) -> None:
    empty = Circuit.from_edges(reverse_circuit().universe, [])
    assert "0 of 94 edges kept" in draw(empty, tmp_path / "c.svg").read_text()


def test_hostile_names_are_text(tmp_path: Path) -> None:
    circuit = reverse_circuit().with_provenance({"model": HOSTILE, "task": HOSTILE})
    graph = pygraphviz.AGraph(string=circuit_to_dot(circuit))
    assert not {"evil", "node"} & set(graph.nodes())
    tree = ElementTree.fromstring(draw(circuit).svg)
    assert tree.find(f".//{SVG}script") is None
    shown = " ".join(text.text or "" for text in tree.iter(f"{SVG}text"))
    assert '"]; evil -> node; <script>alert("x")</script> \\ &lt;' in shown
    for suffix in ("pdf", "png", "dot"):
        assert draw(circuit, tmp_path / f"c.{suffix}").stat().st_size > 0


def test_unknown_suffixes_and_unwritable_places(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown drawing format '.pgn'; did you mean '.png'"):
        draw(reverse_circuit(), tmp_path / "c.pgn")
    with pytest.raises(OutputError, match="No such file or directory"):
        draw(reverse_circuit(), tmp_path / "missing" / "c.dot")


def test_without_graphviz_only_dot_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    with pytest.raises(RenderingError, match="install the `dot` program, or `pip install pygraphviz`"):
        draw(reverse_circuit(), tmp_path / "c.svg")
    assert list(tmp_path.iterdir()) == []
    assert draw(reverse_circuit(), tmp_path / "c.dot").exists()


def test_the_dot_program_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for `dot`, since this machine may have none."""
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\ncat >/dev/null\nprintf '<svg/>'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert draw(reverse_circuit()).svg == "<svg/>"
    program.write_text("#!/bin/sh\ncat >/dev/null\necho broken >&2\nexit 3\n")
    with pytest.raises(RenderingError, match="could not draw the circuit"):
        _ = draw(reverse_circuit()).svg


def test_notebooks_show_a_drawing_and_do_without_graphviz(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = draw(reverse_circuit())
    assert ElementTree.fromstring(drawing._repr_svg_() or "").tag == f"{SVG}svg"
    assert drawing.dot == circuit_to_dot(reverse_circuit())
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    without = draw(reverse_circuit())
    assert without._repr_svg_() is None
    assert "lines of DOT" in repr(without)


def test_several_circuits_are_drawn_for_a_notebook_or_into_a_file(tmp_path) -> None:
    whole = reverse_circuit()
    pair = {"whole": whole, "most": Circuit.from_edges(whole.universe, list(whole)[1:], ablation=whole.ablation)}
    drawing = draw_membership(pair, side_by_side=True)
    assert drawing.dot == membership_to_dot(pair, side_by_side=True)
    path = draw_membership(pair, tmp_path / "pair.dot", side_by_side=True)
    assert path.read_text() == drawing.dot
    assert "shared by all" in drawing.svg
