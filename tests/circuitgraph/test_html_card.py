"""Cards for notebooks: what they say, read back by an HTML parser, and hostile names as text."""

from __future__ import annotations

from typing import Any

import pytest

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.graph.universe import Universe
from circuitgraph.html import card
from circuitgraph.models import load_model
from tests.html_reader import read

HOSTILE = """"' onload=x <script>alert("x")</script> </div> &lt; \x00\x1b\ud800"""
SHOWN = """"' onload=x <script>alert("x")</script> </div> &lt; \ufffd\ufffd\ufffd"""
UNIVERSE = Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2)


def example(provenance: dict[str, Any] | None = None) -> Circuit:
    scores = {"input->a0.kv1<v>": 1.5, "a0.h3->m1": -2.0, "m1->logits": 0.25, "a0.h0->m1": 9.0}
    return Circuit.from_edges(UNIVERSE, scores, provenance=provenance)


def test_a_circuit_says_its_sizes_with_denominators_and_its_strongest_edges() -> None:
    found = read(example({"model": "tiny", "task": {"name": "ioi"}})._repr_html_())
    assert found.texts == [
        "Circuit of 3 edges",
        "model tiny; task ioi; counterfactual ablation",
        f"llama: 2 layers of 4 heads and 2 key-value heads; {UNIVERSE.n_edges} edges",
    ]
    # Layer 0 has 8 readers and an MLP that also sees 4 heads; layer 1 sees 6 writers, its MLP 10; the logits 11.
    assert UNIVERSE.n_edges == 8 * 1 + 5 + 8 * 6 + 10 + 11
    assert found.rows == [
        ["", "kept", "of", "sparsity"],
        ["edges, raw", "4", "82", "95.12 %"],
        ["edges, effective", "3", "82", "96.34 %"],
        ["heads", "1", "8", "87.50 %"],
        ["MLPs", "1", "2", "50.00 %"],
        ["edge", "kind", "score"],
        ["a0.h3->m1", "mlp", "-2"],
        ["input->a0.kv1<v>", "v", "1.5"],
        ["m1->logits", "logits", "0.25"],
    ]


def test_only_the_strongest_edges_are_listed() -> None:
    whole = Circuit.from_edges(UNIVERSE, {edge: float(n) for n, edge in enumerate(map(UNIVERSE.edge_name, range(82)))})
    rows = read(whole._repr_html_()).rows
    assert rows[5] == ["strongest 10 edges", "kind", "score"]
    assert [row[2] for row in rows[6:]] == [str(n) for n in range(81, 71, -1)]


def test_an_empty_circuit_has_a_card() -> None:
    found = read(Circuit.from_edges(UNIVERSE, [])._repr_html_())
    assert found.texts[0] == "Circuit of 0 edges"
    assert len(found.rows) == 5


def test_hostile_names_are_text() -> None:
    html = example({"model": HOSTILE, "task": f"a\n{HOSTILE}"})._repr_html_()
    found = read(html)
    assert found.texts[1] == f"model {SHOWN}; task a {SHOWN}; counterfactual ablation"
    assert found.tags == {"div", "table", "thead", "tbody", "tr", "th", "td"}
    assert {name for name, _ in found.attributes} == {"style"}
    html.encode()


def test_nothing_is_loaded_and_colours_are_the_pages_own() -> None:
    found = read(example()._repr_html_())
    styles = " ".join(value for _, value in found.attributes)
    for banned in ("url(", "http", "#", "rgb", "white", "black"):
        assert banned not in styles
    assert "currentColor" in styles


def test_a_card_without_lines() -> None:
    assert read(card("a & b", [])).texts == ["a & b"]


def test_a_compiled_model_says_what_may_be_learnt() -> None:
    compiled = compile_model(load_model("tracr:reverse"), embeddings="split")
    graph = compiled.graph
    graph.remove_edge("tok", "logits")
    graph.edges["m0", "m1"]["frozen"] = True
    found = read(compiled.with_graph(graph)._repr_html_())
    assert found.texts[0].startswith("Compiled model tracr:reverse")
    rows = dict(map(tuple, found.rows[1:]))  # type: ignore[arg-type]
    assert (rows["edges"], rows["edges removed"], rows["edges frozen"], rows["gates"]) == ("94", "1", "1", "92")


@pytest.mark.parametrize("choices", [{}, {"embeddings": "split", "kv_heads": "per_query"}])
def test_choices_that_are_not_the_usual_are_told(choices: dict[str, str]) -> None:
    universe = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2, **choices)
    line = read(Circuit.from_edges(universe, [])._repr_html_()).texts[2]
    assert all((f"{name}={value}" in line) for name, value in choices.items())
    assert ("=" in line) == bool(choices)


def test_a_universe_says_its_sizes() -> None:
    found = read(UNIVERSE._repr_html_())
    assert found.texts == ["Universe", "llama: 2 layers of 4 heads and 2 key-value heads; 82 edges"]
