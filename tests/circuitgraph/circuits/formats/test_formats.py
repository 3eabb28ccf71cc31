"""Files of other tools: written by hand as their own code would, read, refused, and taken there and back."""

from __future__ import annotations

import json
import math
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.conversion import convert_file, save_as
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.circuits.formats.content import MergeRules
from circuitgraph.circuits.formats.eap_ig import eap_ig_universe
from circuitgraph.circuits.formats.file_format import FileChoices
from circuitgraph.circuits.formats.mib import MODELS
from circuitgraph.circuits.formats.registry import FORMATS, recognised_format
from circuitgraph.errors import (
    CircuitFormatError,
    CircuitGraphError,
    ConfigurationError,
    GraphMismatchError,
    OutputError,
    UnknownNameError,
)
from circuitgraph.graph.universe import Universe

GPT2 = Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2)
GROUPED = Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2)
PARALLEL = replace(GPT2, family="gpt_neox", block_order="parallel")
TINY = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
WIDE = FileChoices(d_model=16)
GENTLE = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def scores_of(universe: Universe, seed: int) -> EdgeScores:
    """Scores that float32 holds exactly."""
    values = np.random.default_rng(seed).normal(size=universe.n_edges).astype(np.float32)
    return EdgeScores.of(universe, values, method="mine", direction="noising", estimates="a rank")


def circuit_in(universe: Universe, seed: int) -> Circuit:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=universe.n_edges).astype(np.float32)
    return Circuit.from_edges(universe, rng.random(universe.n_edges) < rng.uniform(0.3, 1), scores=values)


def naive_eap_ig(layers: int, heads: int, parallel: bool) -> tuple[list[str], list[str], list[str]]:
    """Writers, readers and edges as EAP-IG's description has them: a residual stream that grows layer by layer."""
    stream, readers, edges = ["input"], [], []
    for layer in range(layers):
        attention = [f"a{layer}.h{head}<{letter}>" for letter in "qkv" for head in range(heads)]
        readers += [*attention, f"m{layer}"]
        edges += [f"{writer}->{reader}" for writer in stream for reader in attention]
        own = [f"a{layer}.h{head}" for head in range(heads)]
        edges += [f"{writer}->m{layer}" for writer in (stream if parallel else stream + own)]
        stream += [*own, f"m{layer}"]
    return stream, [*readers, "logits"], edges + [f"{writer}->logits" for writer in stream]


def eap_ig_json(universe: Universe, **changes: object) -> dict:
    """A file as EAP-IG would write it, the n-th edge in its order with score n."""
    writers, _, edges = naive_eap_ig(universe.n_layers, universe.n_heads, universe.block_order == "parallel")
    cfg = {
        "n_layers": universe.n_layers, "n_heads": universe.n_heads,
        "parallel_attn_mlp": universe.block_order == "parallel", "d_model": 16,
    }  # fmt: skip
    return {
        "cfg": cfg,
        "nodes": {name: {"in_graph": False} for name in [*writers, "logits"]},
        "edges": {name: {"score": float(place), "in_graph": False} for place, name in enumerate(edges)},
        **changes,
    }


def eap_ig_pt(universe: Universe) -> dict:
    """The same as tensors."""
    writers, readers, edges = naive_eap_ig(universe.n_layers, universe.n_heads, universe.block_order == "parallel")
    scores = torch.full((len(writers), len(readers)), -math.inf)
    for place, name in enumerate(edges):
        writer, reader = name.split("->")
        scores[writers.index(writer), readers.index(reader)] = place
    return {
        "cfg": eap_ig_json(universe)["cfg"], "src_nodes": writers, "dst_nodes": readers, "edges_scores": scores,
        "edges_in_graph": torch.zeros(scores.shape, dtype=torch.bool), "nodes_in_graph": torch.zeros(len(writers)) > 0,
    }  # fmt: skip


# -------------------------------------------------------------------- reading what other tools write


@pytest.mark.parametrize("universe", [GPT2, PARALLEL, replace(GROUPED, kv_heads="per_query")], ids=lambda u: u.family)
def test_eap_ig_files_hold_a_score_for_each_of_our_edges(universe: Universe, tmp_path: Path) -> None:
    _, _, edges = naive_eap_ig(universe.n_layers, universe.n_heads, universe.block_order == "parallel")
    assert sorted(edges) == sorted(universe.edge_name(place) for place in range(universe.n_edges))
    (tmp_path / "graph.json").write_text(json.dumps(eap_ig_json(universe)))
    torch.save(eap_ig_pt(universe), tmp_path / "graph.pt")
    for name, kind in (("graph.json", "eap-ig"), ("graph.pt", "eap-ig-pt")):
        assert recognised_format(tmp_path / name) is FORMATS[kind]
        scores = EdgeScores.load(tmp_path / name, universe=universe)
        assert [scores[edge] for edge in edges] == list(range(len(edges)))
        about = scores.provenance["file"]
        assert (about["format"], about["n_edges"], about["d_model"]) == (kind, len(edges), 16)
        assert scores.direction == "unknown" and "rise of the loss" in scores.estimates


def test_eap_ig_files_with_a_graph_are_circuits(tmp_path: Path) -> None:
    values = eap_ig_json(GPT2)
    kept = {"input->a0.h1<v>": 3.5, "a0.h1->logits": -2.0, "a0.h0->m1": 1.0}
    for name, score in kept.items():
        values["edges"][name] = {"score": score, "in_graph": True}
    values["nodes"]["m1"]["score"] = 7.0
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(values))
    circuit = Circuit.load(path, universe=GPT2, choices=FileChoices(model="gpt2-random", ablation="zero"))
    assert list(circuit) == ["input->a0.h1<v>", "a0.h1->logits"] and circuit.scores.tolist() == [3.5, -2.0]
    assert circuit.n_raw == 3 and circuit.ablation == "zero" and circuit.provenance["model"] == "gpt2-random"
    assert circuit.provenance["file"]["lost"] == ["the file's scores of nodes or neurons"]
    done = convert_file(path, tmp_path / "scores", universe=GPT2)
    assert done.lost[-1] == "which 3 edges the file keeps" and done.n_kept is None


def test_membership_files_need_no_scores(tmp_path: Path) -> None:
    path = tmp_path / "0.5.json"
    rows = {"input->m0": {"in_graph": True}, "m0->logits": {"in_graph": True}, "input->logits": {"in_graph": False}}
    path.write_text(json.dumps(eap_ig_json(TINY, edges=rows)))
    circuit = Circuit.load(path, universe=TINY)
    assert list(circuit) == ["input->m0", "m0->logits"] and circuit.scores.tolist() == [1, 1]
    assert circuit.score_meaning == "none: 1 for every kept edge"
    with pytest.raises(ConfigurationError, match="has no scores; convert it to a circuit"):
        EdgeScores.load(path, universe=TINY)


def test_edge_pruning_names(tmp_path: Path) -> None:
    path = tmp_path / "edges.json"
    path.write_text('[["embeds", "a0.h1.k"], ["a0.h3", "m0"], ["m0", "resid_post"], ["a0.h2", "a1.h3.q"]]')
    circuit = Circuit.load(path, universe=GROUPED, choices=FileChoices(ablation="zero"))
    # k of key-value head 1, which serves heads 2 and 3; the edge into a1.h3 leads nowhere
    assert list(circuit) == ["input->a0.kv1<k>", "a0.h3->m0", "m0->logits"] and circuit.n_raw == 4
    split = replace(GPT2, embeddings="split")
    path.write_text('[["tok_embeds", "m0"], ["pos_embeds", "m1"], ["m0", "resid_post"], ["m1", "resid_post"]]')
    assert list(Circuit.load(path, universe=split)) == ["tok->m0", "pos->m1", "m0->logits", "m1->logits"]
    with pytest.raises(GraphMismatchError, match="input->m0 is made of 2 edges of which 1 are kept"):
        Circuit.load(path, universe=GPT2)
    joint = Circuit.load(path, universe=GPT2, rules=MergeRules(kept_if="any"))
    assert list(joint) == ["input->m0", "input->m1", "m0->logits", "m1->logits"]
    assert len(Circuit.load(path, universe=GPT2, rules=MergeRules(kept_if="all"))) == 0


def test_edge_pruning_without_embedding_edges(tmp_path: Path) -> None:
    path = tmp_path / "edges.json"
    path.write_text('[["a0.h1", "m0"], ["m0", "resid_post"]]')
    with pytest.raises(CircuitFormatError, match="say so with embedding_edges='always'"):
        Circuit.load(path, universe=GROUPED)
    circuit = Circuit.load(path, universe=GROUPED, choices=FileChoices(embedding_edges="always"))
    inputs = {"input->a0.h1<q>", "input->a0.kv0<k>", "input->a0.kv0<v>", "input->m0", "input->logits"}
    assert set(circuit) == {*inputs, "a0.h1->m0", "m0->logits"}


def prune_scores(universe: Universe) -> dict[str, torch.Tensor]:
    """auto-circuit's own shapes; the score of head h from source s is 100 h + s, plus 1000 a letter."""
    found, sources = {}, 1
    for layer in range(universe.n_layers):
        for place, letter in enumerate("qkv"):
            table = torch.arange(universe.n_heads)[:, None] * 100 + torch.arange(sources)[None] + 1000 * place
            found[f"blocks.{layer}.hook_{letter}_input"] = table.float()
        found[f"blocks.{layer}.hook_mlp_in"] = torch.arange(sources + universe.n_heads).float()
        sources += universe.n_heads + 1
    return {**found, f"blocks.{universe.n_layers - 1}.hook_resid_post": torch.arange(sources).float()}


def test_auto_circuit_scores(tmp_path: Path) -> None:
    path = tmp_path / "scores.pkl"
    torch.save({"ioi": {"EAP": prune_scores(GPT2), "other": prune_scores(GPT2)}}, path)
    with pytest.raises(CircuitFormatError, match=r"2 results; say which .*: ioi/EAP, ioi/other"):
        EdgeScores.load(path, universe=GPT2)
    scores = EdgeScores.load(path, universe=GPT2, choices=FileChoices(part="ioi/EAP", method="eap"))
    # sources: input, a0.h0, a0.h1, m0, a1.h0, ...
    right = {"input->a0.h1<q>": 100, "a0.h1->a1.h1<v>": 2102, "m0->a1.h0<k>": 1003, "a1.h0->m1": 4, "m1->logits": 6}
    assert {edge: scores[edge] for edge in right} == right and scores.method == "eap"
    with pytest.raises(UnknownNameError, match="did you mean 'ioi/EAP'"):
        EdgeScores.load(path, universe=GPT2, choices=FileChoices(part="ioi/EAPP"))
    torch.save({name: torch.stack([2 * one, -3 * one]) for name, one in prune_scores(GPT2).items()}, path)
    with pytest.raises(CircuitFormatError, match="scores of 2 positions"):
        EdgeScores.load(path, universe=GPT2)
    for rule, right in {"sum": -4.0, "mean": -2.0, "max": -12.0}.items():
        assert EdgeScores.load(path, universe=GPT2, choices=FileChoices(join_positions=rule))["a1.h0->m1"] == right


def test_auto_circuit_with_one_input_a_head(tmp_path: Path) -> None:
    joint, path = replace(TINY, qkv="joint"), tmp_path / "scores.pt"
    tensors = {
        "blocks.0.hook_attn_in": [[5.0]],
        "blocks.0.hook_mlp_in": [1.0, 2.0],
        "blocks.0.hook_resid_post": [0.0] * 3,
    }
    torch.save({name: torch.tensor(value) for name, value in tensors.items()}, path)
    assert EdgeScores.load(path, universe=joint)["input->a0.h0<qkv>"] == 5.0
    assert EdgeScores.load(path, universe=TINY)["input->a0.h0<k>"] == 5.0


# -------------------------------------------------------------------- there and back


@pytest.mark.parametrize("file_format", ["eap-ig", "eap-ig-pt", "auto-circuit"])
@pytest.mark.parametrize("universe", [GPT2, PARALLEL, GROUPED], ids=lambda universe: universe.family)
@GENTLE
@given(seed=st.integers(0, 2**32 - 1))
def test_scores_come_back_as_they_were(tmp_path: Path, universe: Universe, file_format: str, seed: int) -> None:
    scores, path = scores_of(universe, seed), tmp_path / f"file{FORMATS[file_format].suffix}"
    done = save_as(scores, path, file_format, choices=WIDE, overwrite=True)
    assert done.lost == ("method, direction, meaning, ablation and provenance",)
    again = EdgeScores.load(path, universe=universe)
    np.testing.assert_array_equal(again.values, scores.values)
    assert done.n_edges == (universe.n_edges, 110 if universe is GROUPED else universe.n_edges)


@pytest.mark.parametrize("file_format", ["eap-ig", "eap-ig-pt", "edge-pruning"])
@pytest.mark.parametrize("universe", [GPT2, PARALLEL, GROUPED], ids=lambda universe: universe.family)
@GENTLE
@given(seed=st.integers(0, 2**32 - 1))
def test_circuits_come_back_as_they_were(tmp_path: Path, universe: Universe, file_format: str, seed: int) -> None:
    circuit, path = circuit_in(universe, seed), tmp_path / f"file{FORMATS[file_format].suffix}"
    if not len(circuit):
        return
    done = save_as(circuit, path, file_format, choices=WIDE, overwrite=True)
    again = Circuit.load(path, universe=universe)
    assert again == circuit and done.n_kept[0] == len(circuit)
    if file_format == "edge-pruning":
        assert done.lost[0] == "scores"
    else:
        np.testing.assert_array_equal(again.scores, circuit.scores)
        assert done.lost == ("method, ablation and provenance",)


def test_files_have_the_content_that_the_tools_expect(tmp_path: Path) -> None:
    scores = scores_of(TINY, 0)
    save_as(scores, tmp_path / "graph.pt", "eap-ig-pt", choices=WIDE)
    found = torch.load(tmp_path / "graph.pt", weights_only=True)
    right = eap_ig_pt(TINY)
    assert list(found) == list(right)
    assert all(found[name] == right[name] for name in ("cfg", "src_nodes", "dst_nodes"))
    assert found["edges_scores"].dtype == torch.float32 and found["edges_in_graph"].dtype == torch.bool
    assert found["edges_scores"][1, 3] == scores["a0.h0->m0"] and found["edges_scores"][2, 0] == 0
    circuit = Circuit.from_edges(TINY, {"input->m0": 2.0, "m0->logits": 1.0})
    save_as(circuit, tmp_path / "graph.json", "eap-ig", choices=WIDE)
    values = json.loads((tmp_path / "graph.json").read_text())
    assert values["cfg"] == {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False, "d_model": 16}
    inside = {"input": True, "a0.h0": False, "m0": True, "logits": True}
    assert values["nodes"] == {name: {"in_graph": kept} for name, kept in inside.items()}
    assert values["edges"]["input->m0"] == {"score": 2.0, "in_graph": True}
    assert values["edges"]["input->a0.h0<q>"] == {"score": 0.0, "in_graph": False} and len(values["edges"]) == 8


def test_group_edges_are_repeated_and_denominators_restated(tmp_path: Path) -> None:
    circuit = Circuit.from_edges(GROUPED, ["input->a0.kv1<v>", "a0.h2->logits"])
    done = save_as(circuit, tmp_path / "graph.json", "eap-ig", choices=WIDE)
    assert done.n_kept == (2, 3) and done.n_edges == (82, 110)
    values = json.loads((tmp_path / "graph.json").read_text())
    kept = [name for name, row in values["edges"].items() if row["in_graph"]]
    assert kept == ["input->a0.h2<v>", "input->a0.h3<v>", "a0.h2->logits"]
    values["edges"]["input->a0.h3<v>"]["in_graph"] = False
    (tmp_path / "other.json").write_text(json.dumps(values))
    with pytest.raises(GraphMismatchError, match="a0.kv1<v> is made of 2 edges of which 1 are kept"):
        Circuit.load(tmp_path / "other.json", universe=GROUPED)
    assert Circuit.load(tmp_path / "other.json", universe=GROUPED, rules=MergeRules(kept_if="any")) == circuit


def test_what_is_lost_is_told(tmp_path: Path) -> None:
    third = EdgeScores.of(TINY, np.full(8, 1 / 3), method="mine", direction="noising", estimates="a rank")
    assert "digits of 8 scores" in save_as(third, tmp_path / "a.pkl", "auto-circuit").lost[0]
    circuit = Circuit.from_edges(TINY, {"input->m0": 0.0, "m0->logits": 1.0, "a0.h0->m0": 1.0}, ablation="zero")
    lost = save_as(circuit, tmp_path / "b.pkl", "auto-circuit").lost
    assert lost[0].endswith("(of 3 kept)") and lost[1].startswith("1 kept edges, whose score is 0")
    done = save_as(circuit, tmp_path / "c.pt", "eap-ig-pt", choices=WIDE)
    assert done.notes == ("1 of 3 edges dangle there, so that the tool drops them when it reads the file",)


# -------------------------------------------------------------------- MIB


def test_a_submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "gpt2", (2, 2, 2, 24))
    scores = scores_of(GPT2, 0)
    choices = FileChoices(part="ioi_gpt2")
    done = save_as(scores, tmp_path / "mine", "mib", choices=choices)
    assert done.files == (tmp_path / "mine" / "ioi_gpt2" / "importances.json",)
    for place in (tmp_path / "mine", tmp_path / "mine" / "ioi_gpt2"):
        assert recognised_format(place) is FORMATS["mib"]
        np.testing.assert_array_equal(EdgeScores.load(place, universe=GPT2).values, scores.values)
    assert json.loads(done.files[0].read_text())["cfg"]["d_model"] == 24
    circuit = Circuit.from_edges(GPT2, ["input->m1", "m1->logits"])
    with pytest.raises(ConfigurationError, match="either one file of scores there, or circuits"):
        save_as(circuit, tmp_path / "mine", "mib", choices=choices)
    done = save_as(circuit, tmp_path / "other", "mib", choices=choices)
    assert done.files[0].name == "0.05.json"  # 2 of 46 edges, 4.3 %
    assert Circuit.load(tmp_path / "other", universe=GPT2) == circuit
    save_as(Circuit.from_edges(GPT2, []), tmp_path / "other", "mib", choices=choices)
    with pytest.raises(CircuitFormatError, match="expected one, or part"):
        Circuit.load(tmp_path / "other", universe=GPT2)
    named = FileChoices(part="ioi_gpt2/0.05")
    assert Circuit.load(tmp_path / "other", universe=GPT2, choices=named) == circuit
    with pytest.raises(OutputError, match="exists"):
        save_as(circuit, tmp_path / "other", "mib", choices=choices)


def test_the_models_of_mib() -> None:
    """The published numbers of edges with key and value readers per query head."""
    edges = {
        name: eap_ig_universe(Universe(family="any", n_layers=layers, n_heads=heads, n_kv_heads=groups)).n_edges
        for name, (layers, heads, groups, _) in MODELS.items()
    }
    assert edges == {"gpt2": 32491, "qwen2.5": 179749, "gemma2": 74218, "llama3": 1592881}


@pytest.mark.parametrize(
    ("part", "message"),
    [(None, "say which with part"), ("ioi-gpt2", "did you mean 'ioi_gpt2'"), ("ioi_gpt2", "another model")],
)
def test_what_is_no_place_of_a_submission(part: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(CircuitGraphError, match=message):
        save_as(scores_of(GPT2, 0), tmp_path / "mine", "mib", choices=FileChoices(part=part))
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------- refusals


def spoiled_json(path: Path, change) -> None:
    values = eap_ig_json(TINY)
    change(values)
    path.write_text(json.dumps(values))


BAD_JSON = {
    "another size": (lambda v: v["cfg"].update(n_heads=2), "cfg.n_heads: 2, but that of the model is 1"),
    "parallel": (lambda v: v["cfg"].update(parallel_attn_mlp=True), "cfg.parallel_attn_mlp"),
    "no cfg": (lambda v: v.pop("cfg"), "it lacks cfg"),
    "cfg is none": (lambda v: v.update(cfg=3), "cfg: expected an object"),
    "a width": (lambda v: v["cfg"].update(d_model="wide"), "cfg.d_model: expected a whole number"),
    "unknown edge": (lambda v: v["edges"].update({"a0.h0->a0.h0<q>": {"score": 1}}), "no edge of the model"),
    "unknown node": (lambda v: v["nodes"].update(m1={"in_graph": True}), "nodes.m1: the model has no such node"),
    "an edge is missing": (lambda v: v["edges"].pop("input->m0"), "7 of the model's 8 edges; the first missing"),
    "NaN": (lambda v: v["edges"]["input->m0"].update(score=math.nan), "edges.input->m0.score: expected a finite"),
    "infinite": (lambda v: v["edges"]["input->m0"].update(score=-math.inf), "expected a finite number; got -inf"),
    "text": (lambda v: v["edges"]["input->m0"].update(score="1"), "expected a finite number; got '1'"),
    "huge": (lambda v: v["edges"]["input->m0"].update(score=10**400), "expected a finite number"),
    "one unscored": (lambda v: v["edges"]["input->m0"].pop("score"), "the edge has no score, and others have one"),
    "in_graph": (lambda v: v["edges"]["input->m0"].update(in_graph=1), "expected true or false; got 1"),
    "a row": (lambda v: v["edges"].update({"input->m0": 3}), "expected an object with score"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BAD_JSON))
def test_bad_eap_ig_files(tmp_path: Path, name: str) -> None:
    change, message = BAD_JSON[name]
    path = tmp_path / "graph.json"
    spoiled_json(path, change)
    with pytest.raises(CircuitFormatError, match=re.escape(message)):
        convert_file(path, tmp_path / "out", universe=TINY, source_format="eap-ig")
    assert [found.name for found in tmp_path.iterdir()] == ["graph.json"]


def test_a_key_that_comes_twice(tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    path.write_text('{"cfg": {}, "nodes": {}, "edges": {"input->m0": {"score": 1}, "input->m0": {"score": 2}}}')
    with pytest.raises(CircuitFormatError, match="the key 'input->m0' comes twice"):
        EdgeScores.load(path, universe=TINY)


def changed(field: str, value: object):
    return lambda found: found.update({field: value})


def poked(field: str, place: tuple[int, ...], value: float):
    return lambda found: found[field].__setitem__(place, value)


BAD_PT = {
    "order": (lambda v: v["src_nodes"].reverse(), "src_nodes[0]: 'm0', where 'input' comes in EAP-IG's order"),
    "readers": (lambda v: v["dst_nodes"].pop(), "dst_nodes: 4 names; the model has 5"),
    "names": (changed("src_nodes", 3), "expected a list of names"),
    "size": (changed("edges_scores", torch.zeros(2, 5)), "expected a tensor [writer, reader] of shape (3, 5)"),
    "membership": (changed("edges_in_graph", torch.full((3, 5), 0.5)), "expected true and false alone"),
    "NaN": (poked("edges_scores", (0, 1), math.nan), "the first that of input->a0.h0<k>: nan"),
    "infinite": (poked("edges_scores", (2, 4), math.inf), "the first that of m0->logits: inf"),
    "no edge": (poked("edges_scores", (2, 0), 0.5), "a score of 0.5 at m0->a0.h0<q>, which is no edge"),
    "a field is gone": (lambda v: v.pop("nodes_in_graph"), "it lacks nodes_in_graph"),
    "another model": (lambda v: v["cfg"].update(n_layers=12), "cfg.n_layers: 12, but that of the model is 1"),
}


@pytest.mark.parametrize("name", sorted(BAD_PT))
def test_bad_tensor_files(tmp_path: Path, name: str) -> None:
    change, message = BAD_PT[name]
    values = eap_ig_pt(TINY)
    change(values)
    torch.save(values, tmp_path / "graph.pt")
    with pytest.raises(CircuitFormatError, match=re.escape(message)):
        convert_file(tmp_path / "graph.pt", tmp_path / "out", universe=TINY)
    assert [found.name for found in tmp_path.iterdir()] == ["graph.pt"]


class Evil:
    """Would leave a file behind if it were unpickled."""

    place = ""

    def __reduce__(self):
        return Path.touch, (Path(self.place),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_pickled_code_is_refused_and_never_run(tmp_path: Path, how: str) -> None:
    path, evil = tmp_path / "scores.pkl", Evil()
    evil.place = str(tmp_path / "ran")
    value = {"ioi": {"EAP": prune_scores(TINY), "evil": evil}}
    torch.save(value, path) if how == "torch" else path.write_bytes(pickle.dumps(value))
    with pytest.raises(CircuitFormatError, match="pickled objects whose code would be run"):
        EdgeScores.load(path, universe=TINY)
    assert not Path(evil.place).exists()


BAD_PRUNE_SCORES = {
    "a module more": (lambda v: v.update({"blocks.1.hook_mlp_in": torch.zeros(4)}), "the model has no such module"),
    "a module less": (lambda v: v.pop("blocks.0.hook_k_input"), "blocks.0.hook_k_input: the module is missing"),
    "another shape": (lambda v: v.update({"blocks.0.hook_mlp_in": torch.zeros(3)}), "expected shape (2,); got (3,)"),
    "infinite": (lambda v: v["blocks.0.hook_mlp_in"].fill_(math.inf), "the first that of input->m0: inf"),
    "nothing": (lambda v: v.clear(), "expected auto-circuit's prune scores"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BAD_PRUNE_SCORES))
def test_bad_prune_scores(tmp_path: Path, name: str) -> None:
    change, message = BAD_PRUNE_SCORES[name]
    values = prune_scores(TINY)
    change(values)
    torch.save(values, tmp_path / "scores.pkl")
    with pytest.raises(CircuitFormatError, match=re.escape(message)):
        EdgeScores.load(tmp_path / "scores.pkl", universe=TINY)


BAD_EDGES = {
    '[["a0.h1", "m0"]]': "[0]: a0.h1 -> m0: unknown writer 'a0.h1'",
    '[["m0", "a0.h0.q"]]': "reads before m0 writes",
    '[["embeds", "m0"], ["embeds", "m0"]]': "[1]: the edge embeds -> m0 comes twice",
    '[["embeds", "m0"], ["m0"]]': "[1]: expected a pair of names; got ['m0']",
    '[["embeds", 3]]': "expected a pair of names",
    '[["embeds", "m0"]': "no complete JSON",
}


@pytest.mark.parametrize("text", sorted(BAD_EDGES))
def test_bad_edge_lists(tmp_path: Path, text: str) -> None:
    (tmp_path / "edges.json").write_text(text)
    llama = replace(TINY, family="llama")
    with pytest.raises(CircuitFormatError, match=re.escape(BAD_EDGES[text])):
        Circuit.load(tmp_path / "edges.json", universe=llama)


def test_what_a_conversion_wants_to_know(tmp_path: Path) -> None:
    (tmp_path / "graph.json").write_text(json.dumps(eap_ig_json(TINY)))
    circuit = Circuit.from_edges(TINY, ["input->logits"]).save(tmp_path / "circuit.json")
    scores = scores_of(TINY, 0).save(tmp_path / "scores")
    out = tmp_path / "out"
    wrong = [
        (lambda: convert_file(tmp_path / "graph.json", out), "does not say of which model"),
        (lambda: convert_file(tmp_path / "graph.json", tmp_path / "c.json", universe=TINY), "keeps no edge"),
        (lambda: convert_file(circuit, tmp_path / "a.json"), "say which format it shall have"),
        (lambda: convert_file(circuit, out, target_format="scores"), "no scores for the edges that it cuts"),
        (lambda: convert_file(scores, out, target_format="circuit"), "circuitgraph select"),
        (lambda: convert_file(scores, out, target_format="edge-pruning"), "select first"),
        (lambda: convert_file(circuit, out, target_format="circuit"), "already"),
        (lambda: convert_file(circuit, tmp_path / "a.pt"), "--d-model"),
        (lambda: convert_file(circuit, out, target_format="eap"), "unknown format 'eap'"),
        (lambda: convert_file(tmp_path / "nothing.json", out), "does not exist"),
        (lambda: Circuit.load(circuit, universe=GPT2), "n_layers: 1 against 2"),
        (lambda: EdgeScores.load(scores, universe=GPT2), "n_layers: 1 against 2"),
        (lambda: Circuit.load(tmp_path / "graph.json"), "universe=..."),
    ]
    for call, message in wrong:
        with pytest.raises(CircuitGraphError, match=re.escape(message)):
            call()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["circuit.json", "graph.json", "scores"]


def test_an_older_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "edges.json"
    save_as(Circuit.from_edges(TINY, ["input->logits"]), path, "edge-pruning")
    before = path.read_bytes()
    assert json.loads(before) == [["tok_embeds", "resid_post"], ["pos_embeds", "resid_post"]]
    with pytest.raises(OutputError, match="exists"):
        save_as(Circuit.from_edges(TINY, []), path, "edge-pruning")
    assert path.read_bytes() == before
    save_as(Circuit.from_edges(TINY, []), path, "edge-pruning", overwrite=True)
    assert json.loads(path.read_text()) == [] and len(Circuit.load(path, universe=TINY)) == 0
