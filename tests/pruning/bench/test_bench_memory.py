"""Peak memory: a meter that forgets, and a stage measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pruning.bench import memory
from pruning.bench.memory import CpuMeter, measure_in_subprocess, measure_stage, meter_for, settle
from pruning.bench.settings import BenchSettings
from tests.pruning.prompts.tiny_tokenizers import word_tokenizer

MIB = 1 << 20
linux = pytest.mark.skipif(not CpuMeter().resettable, reason="the system cannot forget a peak")


@linux
def test_the_meter_sees_a_peak_and_forgets_it():
    meter = CpuMeter()
    settle()
    meter.forget()
    base = meter.now()
    block = np.ones(100 * MIB, dtype=np.uint8)
    held = meter.now() - base
    del block
    assert 95 * MIB < held < 110 * MIB
    assert 95 * MIB < meter.peak() - base < 110 * MIB, "the peak stays when the memory is gone"
    meter.forget()
    assert meter.peak() - base < 10 * MIB
    assert "forgotten" in meter.method


def test_where_nothing_can_be_forgotten_the_peak_is_an_upper_bound(monkeypatch):
    monkeypatch.setattr(memory, "_CLEAR", Path("/no/such/file"))
    meter = CpuMeter()
    meter.forget()
    assert not meter.resettable and "upper bound" in meter.method
    block = np.ones(30 * MIB, dtype=np.uint8)
    assert meter.peak() > len(block)
    monkeypatch.setattr(memory, "_PAGE_STATUS", Path("/no/such/file"))
    assert CpuMeter().now() == CpuMeter().peak() > len(block)


def test_devices_that_cannot_be_measured():
    assert meter_for(torch.device("mps")) is None
    assert isinstance(meter_for(torch.device("cpu")), CpuMeter)


@linux
@pytest.mark.slow
def test_a_stage_in_a_process_of_its_own(tmp_path, tiny_llama):
    """What the step keeps and needs is at least its deltas and what its readers saw, by hand from the sizes."""
    tiny_llama(n_layers=2, n_heads=4, d_head=16).save_pretrained(tmp_path)
    word_tokenizer(["a b"]).save_pretrained(tmp_path)
    settings = BenchSettings(model=str(tmp_path), batch=100, seq=32, differ="all", threads=1)
    found = measure_in_subprocess(settings, "middle")
    assert found.problem is None
    # 10 writers but the last MLP's and 19 readers, of 3,200 tokens, 64 wide, float32.
    least = (10 + 19) * 100 * 32 * 64 * 4
    assert found.peak_bytes is not None and found.held_bytes is not None
    assert least < found.peak_bytes < 10 * least
    assert found.held_bytes <= found.peak_bytes


@pytest.mark.parametrize(
    ("code", "said", "problem"),
    [
        (1, "Traceback\nValueError: no such thing", "ended with 1: ValueError: no such thing"),
        (-9, "", "killed, most likely for memory"),
        (1, "", "no message"),
    ],
)
def test_a_process_that_fails_is_told(monkeypatch, code, said, problem):
    monkeypatch.setattr(
        subprocess, "run", lambda *given, **more: SimpleNamespace(returncode=code, stdout="", stderr=said)
    )
    found = measure_in_subprocess(BenchSettings(), "start")
    assert found.peak_bytes is None and found.problem is not None
    assert found.problem.startswith("memory of start: not measured") and problem in found.problem


def test_what_libraries_print_before_the_figures_does_no_harm(monkeypatch):
    seen: list[tuple] = []

    def run(command, **more):
        seen.append((command, more["input"]))
        return SimpleNamespace(returncode=0, stdout='hello\n{"peak_bytes": 5, "held_bytes": 3}\n', stderr="x")

    monkeypatch.setattr(subprocess, "run", run)
    settings = BenchSettings(batch=3)
    found = measure_in_subprocess(settings, "plain")
    assert (found.peak_bytes, found.held_bytes, found.problem) == (5, 3, None)
    assert seen == [([sys.executable, "-m", "pruning.bench.memory", "plain"], settings.to_json())]
    monkeypatch.setattr(
        subprocess, "run", lambda *given, **more: SimpleNamespace(returncode=0, stdout="null\n", stderr="")
    )
    assert "not measured on mps" in str(measure_in_subprocess(BenchSettings(device="mps"), "plain").problem)


@pytest.mark.parametrize(("device", "where"), [("cuda:0", "here"), ("cpu", "apart"), ("mps", "apart")])
def test_what_torch_counts_itself_is_measured_here(device: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "measure", lambda settings, name, loaded: {"peak_bytes": 5, "held_bytes": 3})
    monkeypatch.setattr(memory, "measure_in_subprocess", lambda settings, name: memory.Measured(peak_bytes=7))
    found = measure_stage(BenchSettings(device=device), "start")
    assert (found.peak_bytes, found.held_bytes) == ((5, 3) if where == "here" else (7, None))
