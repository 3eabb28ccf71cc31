"""What a benchmark may be asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from circuitgraph.errors import ConfigurationError, UnknownNameError
from pruning.bench.settings import BenchSettings


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"batch": 0}, ConfigurationError, "batch: expected 1 or more, got 0"),
        ({"seq": 1}, ConfigurationError, "seq: expected 2 or more, got 1"),
        ({"rounds": 0}, ConfigurationError, "rounds"),
        ({"threads": 0}, ConfigurationError, "threads"),
        ({"micro_batch": 0}, ConfigurationError, "micro_batch"),
        ({"micro_batch": 0}, ConfigurationError, "micro_batch"),
        ({"dtype": "float23"}, UnknownNameError, "did you mean 'float32'"),
        ({"prompts": "iio"}, UnknownNameError, "did you mean 'ioi'"),
        ({"differ": "two"}, UnknownNameError, "three"),
        ({"control": "budge"}, UnknownNameError, "budget"),
        ({"model": "tracr:reverse"}, ConfigurationError, "no plain step"),
        ({"prompts": "ioi"}, ConfigurationError, "gpt2-random has no tokenizer"),
        ({"model": "smollm2-135m", "differ": "all"}, ConfigurationError, "ask for random prompts"),
    ],
)
def test_refusals(options, error, said):
    with pytest.raises(error, match=said):
        BenchSettings(**options)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, "random"),
        ({"model": "smollm2-135m"}, "ioi"),
        ({"model": "smollm2-135m", "prompts": "random", "differ": "all"}, "random"),
        ({"model": "folder", "prompts": "ioi"}, "ioi"),
        ({"model": "folder"}, "random"),
    ],
)
def test_prompts_by_model(options, kind):
    assert BenchSettings(**options).prompt_kind == kind


def test_settings_survive_the_way_to_a_subprocess():
    asked = BenchSettings(model="a b", batch=3, seq=5, threads=2, recompute=True, trained_98="x/ü.safetensors")
    assert BenchSettings.from_json(asked.to_json()) == asked
    assert asked.trained_file("98") == "x/ü.safetensors" and asked.trained_file("995") is None


def test_settings_load_no_torch():
    code = "import pruning.bench.settings, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
