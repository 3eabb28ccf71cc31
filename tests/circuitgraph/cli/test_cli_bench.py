"""`circuitgraph bench`: keys and types, files told, what is left out, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch

from circuitgraph.graph.universe import Universe
from pruning.bench import running
from pruning.bench.memory import Measured
from pruning.bench.settings import STAGES
from pruning.bench.trained import save_trained
from pruning.execution.threads import threads
from tests.circuitgraph.cli.conftest import call

UNIVERSE = Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2)
# Layer 0: 8 attention readers of 1 writer, an MLP of 5; layer 1: 8 of 6, an MLP of 10; logits of 11.
N_EDGES = 8 * 1 + 5 + 8 * 6 + 10 + 11
KEYS = {"seconds": float, "ratio": float, "peak_bytes": int, "memory_ratio": float, "undecided": int}
PEAKS = {name: 1000 * (index + 1) for index, name in enumerate(STAGES)}


@pytest.fixture
def quick(text_model) -> tuple[object, ...]:
    """A command line for a quick benchmark."""
    return ("bench", "--model", text_model, "--batch", 2, "--seq", 6, "--rounds", 2, "--threads", 1)


@pytest.fixture
def measured(monkeypatch) -> list[str]:
    """Memory as if it had been measured; which stages were."""
    seen: list[str] = []

    def measure(settings, name, loaded):
        seen.append(name)
        return Measured(peak_bytes=PEAKS[name], held_bytes=1)

    monkeypatch.setattr(running, "measure_stage", measure)
    return seen


@pytest.fixture
def gates(tmp_path):
    path = tmp_path / "gates.safetensors"
    log_alpha = torch.full((UNIVERSE.n_edges,), -12.0)
    log_alpha[UNIVERSE.edge_index("input", "m0")] = 12.0
    log_alpha[UNIVERSE.edge_index("m0", "logits")] = 11.0
    save_trained(path, log_alpha, {})
    return path


def test_every_stage_has_every_key(quick, measured, gates):
    ended = call(*quick, "--trained-98", gates, "--trained-995", gates, "--json")
    assert ended.code == 0, ended.err
    found = ended.json
    assert list(found) == [*STAGES, "conditions"]
    assert measured == list(STAGES)
    for name in STAGES:
        row = found[name]
        assert {key: type(value) for key, value in row.items()} == KEYS
        assert row["ratio"] == pytest.approx(row["seconds"] / found["plain"]["seconds"])
        assert (row["peak_bytes"], row["memory_ratio"]) == (PEAKS[name], PEAKS[name] / 1000)
        assert row["seconds"] > 0
    assert found["plain"]["undecided"] == found["evaluate_98"]["undecided"] == 0
    assert UNIVERSE.n_readers <= found["start"]["undecided"] <= UNIVERSE.n_readers + 3
    assert 0.2 * N_EDGES < found["middle"]["undecided"] < 0.7 * N_EDGES
    assert found["trained_98"]["undecided"] <= 3


def test_conditions(quick, measured, gates, text_model):
    found = call(*quick, "--trained-98", gates, "--differ", "all", "--control", "budget", "--json").json["conditions"]
    expected = {
        "model": str(text_model), "batch": 2, "seq": 6, "dtype": "float32", "device": "cpu", "threads": 1, "rounds": 2,
        "edges": N_EDGES, "readers": UNIVERSE.n_readers, "control": "budget", "share_reached": 1.0, "attention": "sdpa",
        "micro_batch": None,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert set(found["versions"]) >= {"torch", "transformers", "python", "circuitgraph"}
    assert found["versions"]["torch"] == torch.__version__ and found["card"]
    assert "every token" in found["prompts"]
    (about,) = found["trained"].values()
    assert about["file"] == str(gates) and not about["comes_along"] and len(about["sha256"]) == 64
    assert about["kept_edges"] == 2, "2 % of 82 edges, and they hang together"
    assert about["expected_sparsity"] == pytest.approx(80 / 82, abs=1e-3)
    assert set(found["left_out"]) == {"trained_995", "evaluate_995"}
    (note,) = found["notes"]
    assert "trained_98" in note and "97.56% in expectation, not 98.0%" in note


def test_without_memory(quick, measured):
    found = call(*quick, "--no-memory", "--json").json
    assert measured == [] and set(found) == {"plain", "forward", "start", "middle", "conditions"}
    assert found["start"]["peak_bytes"] is None and found["start"]["memory_ratio"] is None
    assert found["conditions"]["memory"] == "not measured"


def test_the_table(quick, measured, gates, tmp_path):
    ended = call(*quick, "--trained-98", gates, "--trained-995", gates, "--dtype", "bfloat16")
    assert ended.code == 0, ended.err
    for text in ("bfloat16", "evaluate_995", str(gates), "its best 2 edges", "from the first token that differs"):
        assert text in ended.out.replace("\n", " ")
    assert "Warning: trained_995" in ended.err and "Warning: trained_98" in ended.err
    assert "round 1 of 4 (warm-up)" in ended.err
    left = call(*quick, "--no-memory")
    assert "trained_98: left out, no gates trained on" in left.out


def test_json_is_all_that_standard_output_has(quick, monkeypatch):
    def chatty(settings, *, memory, watch):
        print("a library says something")
        watch(f"round 1, memory {memory}")
        return {"plain": {}, "conditions": {}}

    monkeypatch.setattr(running, "run_bench", chatty)
    ended = call(*quick, "--no-memory", "--json")
    assert json.loads(ended.out) == {"plain": {}, "conditions": {}}
    assert "a library says something" in ended.err and "round 1, memory False" in ended.err


def test_threads_are_set_back():
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with threads(None):
        assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--batch", 0), "batch: expected 1 or more"),
        (("--rounds", 0), "rounds"),
        (("--seq", 1), "seq: expected 2 or more"),
        (("--seq", 33), "at most 32 tokens, got 33"),
        (("--device", "gpu"), "expected cpu, cuda"),
        (("--dtype", "float31"), "did you mean 'float32'"),
        (("--differ", "some"), "three, all"),
        (("--control", "lagrange"), "did you mean 'lagrangian'"),
        (("--trained-98", "no-such-file"), "there is no file no-such-file"),
        (("--model", "tracr:reverse"), "no plain step"),
        (("--model", "no-such-folder/x"), "not found"),
        (("--modle", "x"), "--model"),
    ],
)
def test_refusals(quick, options, said):
    ended = call(*quick, "--no-memory", *options)
    assert ended.code == 2, (ended.out, ended.err)
    assert said in " ".join(ended.err.split()) and ended.out == ""
