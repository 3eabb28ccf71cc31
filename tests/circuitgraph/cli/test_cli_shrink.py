"""`shrink`: what it writes, read back, and what is refused before a model is loaded."""

from __future__ import annotations

import json

import pytest

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.extract.saving import load_extracted
from tests.circuitgraph.cli.conftest import call

TASK = ("shrink", "-m", "tracr:reverse", "-t", "tracr-reverse", "--no-verify")


@pytest.mark.slow
def test_a_run_that_is_ended_while_it_writes_leaves_the_older_result_whole(tmp_path, monkeypatch):
    def ended(_tensors):
        raise KeyboardInterrupt

    few = ("--threshold", "1e-6", "--repeats", 1, "--out", tmp_path / "small")
    assert call(*TASK, *few).code == 0
    files = {path: path.read_bytes() for path in (tmp_path / "small").rglob("*") if path.is_file()}
    monkeypatch.setattr("circuitgraph.extract.saving.save_tensors", ended)
    stopped = call(*TASK, *few, "--overwrite")
    assert stopped.code == 130 and "nothing was written" in stopped.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


@pytest.mark.slow
def test_a_small_model_a_circuit_and_a_report(tmp_path):
    out = tmp_path / "small"
    ended = call(*TASK, "--threshold", "1e-6", "--repeats", 1, "--out", out, "--json")
    assert ended.code == 0, ended.err
    report = json.loads((out / "shrink.json").read_text())
    assert {**report, "out": str(out)} == ended.json
    assert report["live_heads"] == ["a0.h0", "a3.h0"] and report["measures"]["circuit"]["accuracy"] == 1.0
    small = load_extracted(out / "model")
    assert small.live_mlps == ("m0", "m1", "m2") and small.origin.circuit == Circuit.load(out / "circuit.json").digest
    taken = call(*TASK, "--out", out)
    assert taken.code == 2 and "exists" in taken.err and "loading" not in taken.err
    shown = call(*TASK, "--threshold", "1e-6", "--repeats", 1, "--out", out, "--overwrite")
    assert shown.code == 0 and "weights of layers" in shown.out and "times as fast" in shown.out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--threshold", "0"), "threshold must be a number above 0"),
        (("--objective", "kll"), "unknown objective 'kll'"),
    ],
)
def test_refusals_come_before_the_model(options, told, tmp_path):
    ended = call(*TASK, *options, "--out", tmp_path / "x")
    assert ended.code == 2 and told in ended.err and "loading" not in ended.err and not (tmp_path / "x").exists()
