"""Circuits: one constructor, counts, graphs, files, and every damaged file by name."""

from __future__ import annotations

import copy
import json
import math
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings

import analysis
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import CircuitFormatError, ConfigurationError, OutputError, UnknownNameError
from circuitgraph.graph.build import build_graph
from circuitgraph.graph.liveness import effective_edges
from circuitgraph.graph.universe import Universe
from tests.circuitgraph.graph.universes import STEADY, Kept, kept_edges

LLAMA = Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2)
# input → both heads of a group, one of them → m0 → logits; and the last two dangle.
LIVE = {"input->a0.kv1<v>": 1.5, "a0.h3->m0": -2.0, "m0->logits": 0.5, "a0.h2->logits": 1.0}
DANGLING = {"a1.h0->logits": 3.0, "input->a1.h1<q>": 4.0}
HOSTILE = '"]; <script>alert(1)</script>\\ \n ☃ \x00 \ud800'


def example() -> Circuit:
    return Circuit.from_edges(LLAMA, {**DANGLING, **LIVE}, provenance={"model": "tiny", "seed": 3})


def test_dangling_edges_are_dropped_once_and_counted() -> None:
    circuit = example()
    assert set(circuit) == set(LIVE)
    assert dict(zip(circuit, circuit.scores, strict=True)) == LIVE
    n = LLAMA.n_edges
    assert circuit.sparsity == {
        "n_universe": n,
        "n_raw": 6,
        "n_effective": 4,
        "raw": 1 - 6 / n,
        "effective": 1 - 4 / n,
    }
    zero = Circuit.from_edges(LLAMA, {**DANGLING, **LIVE}, ablation="zero")
    assert set(zero) == {*LIVE, "a1.h0->logits"}


def test_contents() -> None:
    circuit = example()
    assert len(circuit) == 4
    assert "a0.h3->m0" in circuit
    assert ("a0.h3", "m0") in circuit
    assert "a0.h1->m0" not in circuit
    assert circuit.heads == ("a0.h2", "a0.h3")
    assert circuit.mlps == ("m0",)
    assert circuit.nodes == ("input", "a0.kv1<v>", "a0.h2", "a0.h3", "m0", "logits")
    assert circuit.kinds == ("v", "mlp", "logits", "logits")
    assert circuit.mask.sum() == 4
    assert circuit.mask[circuit.edge_ids].all()
    assert circuit.provenance == {
        "model": "tiny",
        "seed": 3,
        "ablation": "counterfactual",
        "sparsity": circuit.sparsity,
    }
    assert repr(circuit).startswith(f"<Circuit of 4 of {LLAMA.n_edges} edges (llama, ")


@given(case=kept_edges())
@settings(parent=STEADY, max_examples=50)
def test_the_graph_holds_the_kept_edges_and_what_joins_them(case: Kept) -> None:
    universe = case.universe
    circuit = Circuit.from_edges(universe, case.mask)
    whole, graph = build_graph(universe), circuit.graph
    kept = {(u, v) for u, v, mask in graph.edges(data="mask") if mask is not None}
    assert kept == set(circuit.edges) == {tuple(name.split("->")) for name in circuit}
    assert set(graph) == {name for edge in kept for name in edge}
    joins = {(u, v) for u, v in universe.structural_edges() if u in graph and v in graph}
    assert set(graph.edges) == kept | joins
    assert all(graph.nodes[name] == whole.nodes[name] for name in graph)
    assert all(
        {key: value for key, value in graph.edges[edge].items() if key != "score"} == whole.edges[edge]
        for edge in graph.edges
    )
    inputs = [name for name in (*universe.writers[: universe.n_embeddings], *universe.virtual) if name in graph]
    for u, v in kept:
        assert any(nx.has_path(graph, name, u) for name in inputs)
        assert nx.has_path(graph, v, "logits")


@pytest.mark.parametrize(
    "edges",
    [
        list(LIVE),
        tuple(tuple(name.split("->")) for name in LIVE),
        dict(LIVE),
        (name for name in LIVE),
        np.array([LLAMA.edge_index(*name.split("->")) for name in LIVE], dtype=np.int32),
        np.array(list(LIVE)),
    ],
    ids=["names", "pairs", "mapping", "generator", "indices", "array of names"],
)
def test_edges_in_every_form(edges: Any) -> None:
    scores = None if isinstance(edges, dict) else list(LIVE.values())
    circuit = Circuit.from_edges(LLAMA, edges, scores=scores)
    assert circuit == example()
    assert np.array_equal(circuit.scores, example().scores)


def test_edges_as_booleans_with_scores_of_either_length() -> None:
    reference = example()
    every = np.arange(LLAMA.n_edges, dtype=float)
    circuit = Circuit.from_edges(LLAMA, reference.mask, scores=every)
    assert np.array_equal(circuit.scores, reference.edge_ids)
    circuit = Circuit.from_edges(LLAMA, reference.mask, scores=[4.0, 3.0, 2.0, 1.0])
    assert circuit.scores.tolist() == [4, 3, 2, 1]
    assert Circuit.from_edges(LLAMA, reference.mask).scores.tolist() == [1, 1, 1, 1]


def test_no_edges_at_all() -> None:
    empty = Circuit.from_edges(LLAMA, [])
    assert len(empty) == 0 == len(empty.graph)
    assert empty.sparsity["effective"] == 1
    assert empty.complement().mask.all()


def test_equality_is_by_universe_and_edges() -> None:
    same = Circuit.from_edges(LLAMA, list(LIVE))
    assert same == example()
    assert hash(same) == hash(example())
    assert same.digest == example().digest
    assert same != Circuit.from_edges(LLAMA, ["input->logits"])
    other = Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2, kv_heads="per_query")
    assert Circuit.from_edges(LLAMA, ["input->m0", "m0->logits"]) != Circuit.from_edges(
        other, ["input->m0", "m0->logits"]
    )
    assert example() != "circuit"


def test_nothing_can_be_changed() -> None:
    given_provenance = {"model": "tiny", "splits": {"test": [1]}}
    circuit = Circuit.from_edges(LLAMA, LIVE, provenance=given_provenance)
    given_provenance["splits"]["test"].append(2)  # type: ignore[index]
    circuit.provenance["splits"]["test"].append(3)
    circuit.mask[:] = True
    circuit.graph.clear()
    assert circuit.provenance["splits"] == {"test": [1]}
    assert len(circuit.graph.nodes) == 6
    with pytest.raises(ValueError, match="read-only"):
        circuit.scores[0] = 9
    with pytest.raises(AttributeError):
        circuit.ablation = "zero"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(circuit)) == copy.deepcopy(circuit) == circuit


@STEADY
@given(case=kept_edges())
def test_the_complement_keeps_the_others(case: Kept) -> None:
    circuit = Circuit.from_edges(case.universe, case.mask)
    complement = circuit.complement()
    others = ~circuit.mask
    assert complement.n_raw == others.sum()
    assert np.array_equal(complement.mask, effective_edges(case.universe, others, "counterfactual"))
    assert complement.provenance["parents"] == [circuit.digest]


@settings(parent=STEADY, max_examples=30)
@given(case=kept_edges())
def test_a_circuit_less_some_edges_is_that_of_the_others(case: Kept) -> None:
    scores = np.random.default_rng(case.seed).normal(size=case.universe.n_edges)
    circuit = Circuit.from_edges(case.universe, case.mask, scores=scores, ablation="zero")
    cut = np.random.default_rng(case.seed + 1).random(case.universe.n_edges) < 0.3
    named = [case.universe.edge_name(edge) for edge in np.flatnonzero(cut).tolist()]
    by_name = dict(zip(circuit, circuit.scores.tolist(), strict=True))
    left = {name: score for name, score in by_name.items() if name not in named}
    for part in (circuit.without(cut), circuit.without(named)):
        wanted = Circuit.from_edges(case.universe, left, ablation="zero")
        assert part == wanted
        assert np.array_equal(part.scores, wanted.scores)
        assert (part.ablation, part.n_raw) == ("zero", len(left))
    assert circuit.without([]) == circuit
    for by, key in (("signed", lambda score: score), ("size", abs), ("strength", abs)):
        best = sorted(by_name, key=lambda name: key(by_name[name]), reverse=True)[:5]  # noqa: B023
        assert circuit.top(5, by=by) == Circuit.from_edges(case.universe, best, ablation="zero")
    assert circuit.top(len(circuit) + 3) == circuit


def test_a_part_says_what_it_is_part_of() -> None:
    circuit = example()
    for part, operation in ((circuit.without(["m0->logits"]), "without"), (circuit.top(2), "top")):
        assert part.provenance["operation"] == operation
        assert part.provenance["parents"] == [circuit.digest]
        assert part.provenance["model"] == "tiny"
    with pytest.raises(UnknownNameError, match="unknown writer 'm9'"):
        circuit.without(["m9->logits"])
    with pytest.raises(UnknownNameError, match="unknown by 'rank'"):
        circuit.top(2, by="rank")
    with pytest.raises(ConfigurationError, match="0 or more; got -1"):
        circuit.top(-1)


def test_the_complement_inherits_what_it_takes_to_evaluate_it() -> None:
    told = {
        "model": "m",
        "revision": "r",
        "task": "ioi",
        "data_hash": "d",
        "tokenizer": "t",
        "seed": 3,
        "recipe": "quick",
    }
    universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
    circuit = Circuit.from_edges(universe, ["input->logits"], provenance=told)
    for complement in (circuit.complement(), analysis.complement(circuit)):
        provenance = complement.provenance
        assert {name: provenance[name] for name in ("model", "revision", "task", "data_hash", "tokenizer")} == {
            name: told[name] for name in ("model", "revision", "task", "data_hash", "tokenizer")
        }
        assert (provenance["method"], provenance["operation"]) == ("set-algebra", "complement")
        assert provenance["parent_provenance"][0]["seed"] == 3
        assert "seed" not in provenance


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"edges": ["a0.h9->m0"]}, UnknownNameError, "unknown writer 'a0.h9'; did you mean 'a0.h"),
        ({"edges": ["input->a0.h3<k>"]}, UnknownNameError, "2 heads share one key reader, which is 'a0.kv1<k>' for"),
        ({"edges": ["m1->m0"]}, UnknownNameError, "no edge m1->m0: m0 reads before m1 writes"),
        ({"edges": ["m0"]}, UnknownNameError, "'m0' is no edge; expected a name such as"),
        ({"edges": "m0->m1"}, ConfigurationError, "got one name; pass"),
        ({"edges": ["m0->m1", ("m0", "m1")]}, ConfigurationError, "edge m0->m1 comes more than once"),
        ({"edges": np.array([10_000])}, UnknownNameError, "no edge 10000"),
        ({"edges": np.ones(3, dtype=bool)}, ConfigurationError, "one boolean for each of"),
        ({"edges": np.ones(3)}, ConfigurationError, "Turn gates into booleans first"),
        ({"edges": ["m0->m1"], "scores": [1.0, 2.0]}, ConfigurationError, "each of 1 edges; got shape"),
        ({"edges": ["m0->m1"], "scores": [np.nan]}, ConfigurationError, "score of edge m0->m1 is nan"),
        ({"edges": {"m0->m1": 1.0}, "scores": [1.0]}, ConfigurationError, "scores came twice"),
        ({"edges": [], "ablation": "counterfactuals"}, UnknownNameError, "did you mean 'counterfactual'"),
        ({"edges": [], "provenance": {"ablation": "zero"}}, ConfigurationError, "the provenance says 'zero'"),
        (
            {"edges": [], "provenance": {"a": [Path("x")]}},
            ConfigurationError,
            r"provenance.a\[0\]: .* PosixPath",
        ),
        ({"edges": [], "provenance": {"a": {1: 2}}}, ConfigurationError, "keys must be text; got 1"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Circuit.from_edges(LLAMA, **arguments)


def test_asking_for_an_edge_that_cannot_be_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean"):
        _ = "a0.h9->m0" in example()
    each = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
    with pytest.raises(UnknownNameError, match=r"every head has a value reader of its own, such as 'a0.h1<v>'"):
        each.edge_index("input", "a0.kv1<v>")


# -------------------------------------------------------------------- files


@given(case=kept_edges())
@settings(parent=STEADY, max_examples=30)
def test_files_bring_back_the_circuit_and_open_in_networkx(
    case: Kept, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("circuits") / "circuit.json"
    scores = np.random.default_rng(case.seed).normal(size=case.universe.n_edges)
    for ablation in ("counterfactual", "zero"):
        circuit = Circuit.from_edges(
            case.universe, case.mask, scores=scores, ablation=ablation, provenance={"model": HOSTILE}
        )
        circuit.save(path)
        back = Circuit.load(path)
        assert back == circuit
        assert np.array_equal(back.scores, circuit.scores)
        assert (back.n_raw, back.provenance) == (circuit.n_raw, circuit.provenance)
        values = json.loads(path.read_text())
        graph = nx.node_link_graph(values)
        assert nx.utils.graphs_equal(graph, circuit.graph)
        assert sum(edge["kind"] != "structural" for edge in values["edges"]) == len(circuit)


def test_the_file_has_the_fields_of_the_design(tmp_path: Path) -> None:
    values = json.loads(example().save(tmp_path / "c.json").read_text())
    assert list(values) == [
        "format_version",
        "directed",
        "multigraph",
        "graph",
        "nodes",
        "edges",
        "universe",
        "provenance",
    ]
    assert values["format_version"] == 1
    assert values["nodes"][1] == {"id": "a0.kv1<v>", "kind": "v", "layer": 0}
    first = values["edges"][0]
    assert (first["source"], first["target"], first["score"], first["kind"]) == (
        "input",
        "a0.kv1<v>",
        1.5,
        "v",
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "c.json"]


def test_what_is_not_finite_becomes_null(tmp_path: Path) -> None:
    provenance = {"kl": float("nan"), "sizes": np.array([1.0, np.inf]), "n": np.int64(3)}
    path = Circuit.from_edges(LLAMA, LIVE, provenance=provenance).save(tmp_path / "c.json")
    assert "NaN" not in path.read_text()
    loaded = Circuit.load(path).provenance
    assert (loaded["kl"], loaded["sizes"], loaded["n"]) == (None, [1.0, None], 3)


def test_added_provenance_is_kept_beside_the_old() -> None:
    circuit = example().with_provenance({"seed": 4, "metrics": {"test": {"kl": 0.5}}})
    assert circuit == example()
    assert (circuit.n_raw, circuit.provenance["model"], circuit.provenance["seed"]) == (6, "tiny", 4)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file or directory; choose another place"):
        example().save(tmp_path / "missing" / "c.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot write .*folder"):
        example().save(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def _set(*path: str | int, to: object) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        inner: Any = values
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to

    return change


def _both_universes(name: str, to: object) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        _set("universe", name, to=to)(values)
        _set("graph", "universe", name, to=to)(values)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("format_version", to=2), "format_version: version 2 is newer than 1, .*update circuitgraph"),
        (_set("format_version", to="1"), "format_version: expected 1; got '1'"),
        (_set("format_version", to=None), "format_version: expected 1; got None"),
        (lambda v: v.pop("format_version"), "a node-link graph, .* load the circuit.json that it was made of"),
        (lambda v: v.pop("universe"), "universe: the field is missing"),
        (lambda v: v.pop("edges"), "edges: the field is missing"),
        (_set("nodes", to={}), "nodes: expected a list; got dict"),
        (_set("directed", to=False), "expected true and false"),
        (_set("universe", "n_layers", to=1), "graph.universe: .* is not the file's 'universe'"),
        (_both_universes("n_kv_heads", to=4), "nodes.1.: .* whose id is a node"),
        (_set("graph", "ablation", to="zero"), "graph.ablation: 'zero', but provenance.ablation says 'counterfactual'"),
        (_set("nodes", 1, "layer", to=1), r"nodes\[1\].layer: a0.kv1<v> has layer 0; the file says 1"),
        (_set("nodes", 1, "kind", to="k"), r"nodes\[1\].kind: a0.kv1<v> has kind 'v'; the file says 'k'"),
        (_set("edges", 0, "mask", to=0), r"edges\[0\] .*: its mask is \d+; the file says 0"),
        (_set("universe", "qkv", to="both"), "universe: .*qkv must be one of"),
        (_set("universe", "layers", to=1), "universe: unknown universe field 'layers'; did you mean"),
        (_set("universe", "family", to=["llama"]), r"universe: expected text in 'family'; got \['llama'\]"),
        (_set("universe", "n_layers", to=10**9), r"json: universe: n_layers \(1,000,000,000\) .* at most 500,000,000"),
        (_set("edges", 0, "score", to=10**400), r"edges\[0\] .*: the number in 'score' is larger"),
        (_set("edges", 0, "score", to=math.inf), r"Infinity, which JSON does not know"),
        (_set("nodes", 0, "id", to="inputs"), r"nodes\[0\]: .* whose id is a node"),
        (
            _set("edges", 0, "source", to="m1"),
            r"edges\[0\] \(m1->a0.kv1<v>\): 'm1' is not among the file's nodes",
        ),
        (_set("edges", 1, to="x"), r"edges\[1\]: expected an object; got 'x'"),
        (_set("edges", 0, "kind", to="k"), r"edges\[0\] .*: expected kind 'v'; got 'k'"),
        (_set("edges", 0, "score", to=None), r"edges\[0\] .*: expected a number in 'score'; got None"),
        (lambda v: v["edges"].append(v["edges"][0]), "the edge comes twice"),
        (lambda v: v["nodes"].append(v["nodes"][0]), "input comes twice"),
        (lambda v: v["edges"].pop(0), r"3 of 3 edges lie on no path .* the file was edited"),
        (
            _set("provenance", "sparsity", "n_raw", to=2),
            "n_raw: recorded 2; expected a number from the 4 edges kept to .* 82",
        ),
        (
            _set("provenance", "sparsity", "n_raw", to=10**9),
            "n_raw: recorded 1000000000; expected .* to the universe's 82",
        ),
        (_set("provenance", "sparsity", "n_raw", to=True), "n_raw: recorded True"),
        (_set("provenance", "sparsity", "n_effective", to=5), "recorded 5, the file's edges make it 4"),
        (
            _set("provenance", "sparsity", "effective", to=0.99),
            "effective: recorded 0.99, the file's edges make it 0.95",
        ),
        (_set("provenance", "sparsity", to=[]), "expected an object with n_raw"),
        (_set("provenance", "ablation", to="noise"), "provenance.ablation: expected one of"),
        (_set("provenance", to=[]), "provenance: expected an object; got list"),
        (
            lambda v: v["edges"].append({"source": "m0", "target": "a0.kv1<v>", "kind": "v", "score": 1}),
            "no edge m0->a0.kv1<v>: a0.kv1<v> reads before m0 writes",
        ),
        (
            lambda v: v["edges"].append({"source": "a0.kv1<v>", "target": "logits", "kind": "structural"}),
            "the universe has no such structural edge",
        ),
    ],
)
def test_damaged_files_say_where(tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    path = example().save(tmp_path / "c.json")
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(CircuitFormatError, match=message) as caught:
        Circuit.load(path)
    assert str(path) in str(caught.value)


def test_files_that_are_no_json(tmp_path: Path) -> None:
    path = example().save(tmp_path / "c.json")
    text = path.read_text()
    cases = {
        text[: len(text) // 2].encode(): "line [0-9]+, column [0-9]+: no complete JSON .*truncated",
        b"": "line 1, column 1",
        b"[]": "top level: expected an object",
        b"\xff\xfe\x00": "byte 0: no text in UTF-8",
        text.replace('"score": 1.5', '"score": 1.5, "score": 99.0').encode(): "the key 'score' comes twice",
        text.replace('"seed": 3', '"seed": ' + 200 * "[" + 200 * "]").encode(): "nested deeper than 100",
        b'[["embeds", "a0.h0.q"], ["a0.h0", "resid_post"]]': "a list of pairs, as Edge-Pruning's edges.json",
        b'{"cfg": {"n_layers": 1}, "nodes": {}, "edges": {}}': "a graph file of EAP-IG",
        text.replace("1.5", "NaN").encode(): "holds NaN, which JSON does not know",
        b"[" * 100_000: "no JSON that can be read",
        text.replace("1.5", "1" + 5000 * "0").encode(): "no JSON that can be read",
    }
    for content, message in cases.items():
        path.write_bytes(content)
        with pytest.raises(CircuitFormatError, match=message):
            Circuit.load(path)
    with pytest.raises(CircuitFormatError, match="No such file"):
        Circuit.load(tmp_path / "missing.json")


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    path = example().save(tmp_path / "c.json")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert Circuit.load(path) == example()


def test_a_provenance_nested_too_deeply_is_refused_when_it_comes_in() -> None:
    deep: list[Any] = []
    for _ in range(900):
        deep = [deep]
    with pytest.raises(ConfigurationError, match="provenance: brackets are nested deeper than 100"):
        Circuit.from_edges(LLAMA, LIVE, provenance={"deep": deep})


def test_another_tools_file_loses_what_dangles(tmp_path: Path) -> None:
    values = json.loads(example().save(tmp_path / "c.json").read_text())
    del values["provenance"]
    values["nodes"] += [{"id": "a1.h0"}]
    values["edges"] += [{"source": "a1.h0", "target": "logits", "kind": "logits", "score": 1}]
    (tmp_path / "c.json").write_text(json.dumps(values))
    circuit = Circuit.load(tmp_path / "c.json")
    assert circuit == example()
    assert (circuit.n_raw, len(circuit)) == (5, 4)


def test_a_circuit_in_the_13b_universe_is_quick(tmp_path: Path) -> None:
    """Targets of the analysis layer rest on this: 5,000 edges among 3.9 million, without naming them all."""
    universe = Universe(family="llama", n_layers=40, n_heads=40, n_kv_heads=40)
    from_input = universe.reader_offsets[:-1]
    to_logits = universe.blocks[-1].first_edge + np.arange(1, universe.n_writers)
    ids = np.concatenate([from_input, to_logits])
    start = time.monotonic()
    circuit = Circuit.from_edges(universe, ids)
    circuit.save(tmp_path / "c.json")
    assert Circuit.load(tmp_path / "c.json") == circuit
    assert len(circuit) > 5000
    assert time.monotonic() - start < 5  # 0.2 s alone; other processes may be busy


def test_a_folder_of_a_result_is_no_circuit_file_and_its_file_is_named(tmp_path) -> None:
    with pytest.raises(CircuitFormatError, match="expected a circuit file$"):
        Circuit.load(tmp_path)
    (tmp_path / "circuit.json").write_text("{}")
    with pytest.raises(CircuitFormatError, match=r"expected a circuit file, such as .*circuit\.json$"):
        Circuit.load(tmp_path)
