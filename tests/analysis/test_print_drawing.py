"""Drawings for print: at most so wide, letters that can be read, heads in order, effects as widths, both circuits."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from analysis.drawing import circuit_to_dot, draw
from analysis.drawing.membership import draw_membership
from analysis.drawing.render import render
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, RenderingError
from circuitgraph.graph.universe import Universe
from tests.analysis.random_circuits import crowded_circuit, reverse_circuit

pygraphviz = pytest.importorskip("pygraphviz", reason="its wheel holds the Graphviz that lays the tests out")

UNIVERSE = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
SCORES = {"input->m0": 9.0, "m0->logits": 1.0, "input->logits": 4.0}
ROWS = [
    {"part": "input->m0", "score": 9.0, "in_circuit": {"kl": 0.1}, "in_full": {"kl": 0.0}},
    {"part": "m0->logits", "score": 1.0, "in_circuit": {"kl": 0.5}, "in_full": {"kl": 0.0}},
]


def printed(svg: str) -> tuple[float, float]:
    """The width of an SVG in inches, and the smallest letter in points as printed."""
    scale = number_in(r'transform="scale\(([\d.]+)', svg)
    sizes = [float(size) * scale for size in re.findall(r'font-size="([\d.]+)"', svg)]
    return number_in(r'<svg width="([\d.]+)pt"', svg) / 72, min(sizes)


def number_in(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, pattern
    return float(found[1])


@pytest.mark.parametrize("width", ["3.3in", "5.5in"])
def test_as_many_edges_as_can_be_read_in_a_column(width: str) -> None:
    circuit = crowded_circuit(60)
    drawing = draw(circuit, width=width)
    wide, smallest = printed(drawing.svg)
    assert wide <= float(width[:-2]) + 0.02 and smallest >= 5.99
    assert 0 < drawing.n_drawn <= 60
    if drawing.n_drawn < len(circuit):
        assert f"{drawing.n_drawn} of {len(circuit)} edges drawn" in drawing.note
        assert f"{drawing.n_drawn} of {len(circuit)} edges drawn" in drawing.dot


def test_a_number_that_cannot_be_read_is_drawn_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        draw(crowded_circuit(60), tmp_path / "c.svg", width="2.5in", max_edges=60)
    told = re.search(r"60 edges at 2.5 in have letters of ([\d.]+) pt .*; (\d+) edges would fit", caplog.text)
    assert told and float(told[1]) < 6 and 0 <= int(told[2]) < 60
    assert printed((tmp_path / "c.svg").read_text())[1] == pytest.approx(float(told[1]), abs=0.06)


@pytest.mark.parametrize("wrong", ["", "in", "5.5ft", "0.1in", "-3in", "nan", 1000])
def test_widths_that_no_drawing_has(wrong: str | float) -> None:
    with pytest.raises(ConfigurationError, match="expected 1 to 100 inches"):
        draw(reverse_circuit(), width=wrong)


def test_heads_stand_in_order_from_left_to_right() -> None:
    graph = pygraphviz.AGraph(string=circuit_to_dot(crowded_circuit(60)))
    graph.layout(prog="dot")
    rows: dict[str, list[tuple[int, float]]] = {}
    for node in graph.nodes():
        if found := re.fullmatch(r"(a\d+)\.h(\d+)", str(node)):
            rows.setdefault(found[1], []).append((int(found[2]), float(node.attr["pos"].split(",")[0])))
    assert max(map(len, rows.values())) > 1
    for row in rows.values():
        places = [place for _, place in sorted(row)]
        assert places == sorted(places)


def test_the_legend_explains_what_is_drawn_and_nothing_else() -> None:
    legend = circuit_to_dot(Circuit.from_edges(UNIVERSE, SCORES))
    assert "violet box m3" in legend and "grey box" in legend and "oval a3.h7" not in legend
    assert "oval a3.h7" in circuit_to_dot(crowded_circuit(60))


class TestEffects:
    def widths(self, effects: object) -> dict[tuple[str, str], float]:
        drawing = draw(Circuit.from_edges(UNIVERSE, SCORES), effects=effects)  # pyright: ignore[reportArgumentType]
        graph = pygraphviz.AGraph(string=drawing.dot)
        return {tuple(e): float(e.attr["penwidth"]) for e in graph.edges() if e.attr["penwidth"]}

    def test_lines_are_as_wide_as_what_cutting_them_costs(self, tmp_path: Path) -> None:
        file = tmp_path / "metrics.json"
        file.write_text(json.dumps({"splits": {}, "effects": {"split": "test", "edges": ROWS}}))
        for effects in (file, tmp_path, {"edges": ROWS}):
            wide = self.widths(effects)
            assert wide["m0", "logits"] > wide["input", "m0"] > wide["input", "logits"]
        dot_text = draw(Circuit.from_edges(UNIVERSE, SCORES), effects=file).dot
        assert "2 of 3 drawn edges measured" in dot_text and "cut alone: KL +0.5" in dot_text

    def test_none_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="metrics.json"):
            self.widths(tmp_path / "metrics.json")
        with pytest.raises(ConfigurationError, match="there are none"):
            self.widths({"splits": {}})


def test_the_weaker_circuit_has_its_part_of_the_drawing() -> None:
    whole = crowded_circuit(200)
    rng = np.random.default_rng(0)
    loud, quiet = (rng.random(len(whole)) < 0.6 for _ in range(2))
    pair = {
        name: Circuit.from_edges(whole.universe, whole.edge_ids[kept], scores=factor * abs(whole.scores[kept]))
        for name, kept, factor in (("loud", loud, 1.0), ("quiet", quiet, 1e-3))
    }
    drawing = draw_membership(pair, max_edges=60)
    drawn = {name: number_in(rf"{name}: (\d+) of", drawing.dot) for name in ("by all", "only loud", "only quiet")}
    assert sum(drawn.values()) == drawing.n_drawn
    assert 50 <= drawing.n_drawn <= 60
    assert min(drawn.values()) >= 12
    assert f"{drawing.n_drawn} of {drawing.n_edges} edges drawn" in drawing.dot


class TestSlowLayouts:
    @pytest.fixture
    def sleeper(self, tmp_path: Path) -> Path:
        """A `dot` that never ends, and writes down its process number."""
        program = tmp_path / "dot"
        program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 100\n")
        program.chmod(0o755)
        return tmp_path

    def has_ended(self, folder: Path) -> bool:
        try:
            os.kill(int((folder / "pid").read_text()), 0)
        except ProcessLookupError:
            return True
        return False

    def test_a_layout_ends_when_its_time_is_up(self, sleeper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", f"{sleeper}:/usr/bin:/bin")
        with pytest.raises(RenderingError, match=r"after 0.3 s and was ended; draw fewer edges \(--max-edges"):
            render(circuit_to_dot(reverse_circuit()), "svg", time_limit_s=0.3)
        assert self.has_ended(sleeper)

    def test_ctrl_c_ends_it(self, sleeper: Path) -> None:
        code = "from analysis.drawing.render import render; render('digraph {a -> b}', 'svg')"
        environment = os.environ | {"PATH": f"{sleeper}:/usr/bin:/bin"}
        with subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE) as process:
            for _ in range(300):
                if (sleeper / "pid").exists() and (sleeper / "pid").read_text():
                    break
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=20)
        assert process.returncode != 0 and b"KeyboardInterrupt" in told
        assert self.has_ended(sleeper)

    def test_many_edges_are_announced(
        self, sleeper: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("PATH", f"{sleeper}:/usr/bin:/bin")
        lines = "\n".join(f"a -> b{n};" for n in range(5000))
        with pytest.raises(RenderingError), caplog.at_level(logging.WARNING):
            render(f"digraph {{{lines}}}", "svg", time_limit_s=0.2)
        assert "5,000 lines: this may take minutes" in caplog.text and "--max-edges 150" in caplog.text


def test_a_pdf_is_as_wide_as_asked_for() -> None:
    # Graphviz puts half an inch around a page on every side unless it is asked not to.
    dot = draw(crowded_circuit(60), width="3.3in").dot
    wide = number_in(r"/MediaBox\s*\[\s*0 0 ([\d.]+)", render(dot, "pdf").decode("latin-1"))
    assert wide <= 3.3 * 72 + 1
