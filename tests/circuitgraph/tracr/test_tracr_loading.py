"""load_tracr: what is shipped, how fast it comes, and damaged or missing files."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from circuitgraph.errors import ModelNotFoundError, UnknownNameError
from circuitgraph.tracr.loading import WEIGHTS_FOLDER, load_tracr
from circuitgraph.tracr.programs import get_program, program_names


def test_reverse_has_the_published_shape() -> None:
    loaded = load_tracr("tracr:reverse")
    config = loaded.model.config
    assert (config.n_layers, config.n_heads, config.causal, config.output) == (4, 1, False, "categorical")
    assert config.output_symbols == ("1", "2", "3")
    assert loaded.name == "tracr:reverse"
    assert not loaded.model.training
    assert loaded.model.dtype == torch.float32 and loaded.model.device.type == "cpu"


def test_output_columns_of_reverse_equal_token_ids() -> None:
    tokenizer = load_tracr("tracr:reverse").tokenizer
    assert [tokenizer.output_id(token) for token in "123"] == tokenizer.encode_tokens("123")[1:]


def test_xproportion_has_the_published_shape() -> None:
    config = load_tracr("xproportion").model.config
    assert (config.n_layers, config.n_heads, config.causal, config.output) == (2, 1, False, "numeric")
    assert config.output_symbols == () and config.d_out == 1


@pytest.mark.parametrize("name", program_names())
def test_every_program_is_shipped_and_its_revision_is_the_hash(name: str) -> None:
    loaded = load_tracr(f"tracr:{name}")
    assert loaded.revision == hashlib.sha256((WEIGHTS_FOLDER / f"{name}.safetensors").read_bytes()).hexdigest()
    assert loaded.tokenizer.program_tokens == get_program(name).tokens
    assert loaded.tokenizer.max_seq_len == get_program(name).max_seq_len


def test_float64_keeps_the_stored_values() -> None:
    single, double = load_tracr("tracr:reverse"), load_tracr("tracr:reverse", dtype=torch.float64)
    for one, other in zip(single.model.parameters(), double.model.parameters(), strict=True):
        assert other.dtype == torch.float64
        assert torch.equal(one.double(), other)


@pytest.mark.slow
def test_loading_takes_less_than_a_second_in_a_new_process() -> None:
    code = """
import time, torch
start = time.process_time()
from circuitgraph.tracr import load_tracr
load_tracr("tracr:reverse")
print(time.process_time() - start)
"""
    seconds = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert float(seconds) < 1


def test_unknown_program_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown Tracr program 'tracr:xproportions'.*'tracr:xproportion'"):
        load_tracr("tracr:xproportions")


def test_damaged_weights_are_noticed(tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS_FOLDER, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "reverse.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ModelNotFoundError, match="damaged"):
        load_tracr("tracr:reverse", folder=tmp_path)


def test_missing_weights_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="reinstall the package"):
        load_tracr("tracr:reverse", folder=tmp_path)


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys; from circuitgraph.tracr import get_program; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
