"""The shipped weights are what Tracr makes, and TracrModel computes what Tracr's own model computes.

Needs tracr-pypi (extra `tracr`) for all but the last test.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from circuitgraph.errors import ConfigurationError
from circuitgraph.tracr import compile_program as script
from circuitgraph.tracr.loading import WEIGHTS_FOLDER, load_tracr
from circuitgraph.tracr.model import TracrModel
from circuitgraph.tracr.programs import get_program, program_names
from circuitgraph.tracr.tokenizer import TracrTokenizer

NO_TRACR = "tracr-pypi is not installed (extra `tracr`): the shipped weights cannot be recompiled here"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # JAX's and Haiku's own deprecations are not ours
@pytest.mark.parametrize("name", program_names())
def test_recompiling_gives_the_shipped_files(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tracr", reason=NO_TRACR)
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "circuitgraph.tracr.compile_program",
        "--folder",
        str(tmp_path),
        name,
    ]
    subprocess.run(command, check=True)  # Tracr numbers what is compiled in one process through
    path = tmp_path / f"{name}.safetensors"
    made, shipped = load_file(path), load_file(WEIGHTS_FOLDER / path.name)
    assert made.keys() == shipped.keys()
    for key, value in made.items():
        np.testing.assert_array_equal(value, shipped[key], err_msg=key)
    description = [json.loads((folder / f"{name}.json").read_text()) for folder in (tmp_path, WEIGHTS_FOLDER)]
    for one in description:  # xproportion was once compiled after reverse, so its parts have higher numbers
        one["config"]["residual_labels"] = [re.sub(r"_\d+\b", "", label) for label in one["config"]["residual_labels"]]
    assert description[0]["config"] == description[1]["config"]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", program_names())
def test_shipped_model_says_what_tracrs_own_model_says(name: str) -> None:
    pytest.importorskip("tracr", reason=NO_TRACR)
    assembled = script.compile_program(name)
    program, loaded = get_program(name), load_tracr(name)
    unembed = script.convert(assembled, program=name)[1]["unembed.weight"]
    as_value = dict(zip(program.tokens, program.values, strict=True))
    for tokens in list(program.inputs())[::23]:
        ids = loaded.tokenizer.encode_tokens(tokens)
        theirs = assembled.apply(["BOS", *(as_value[token] for token in tokens)])
        ours = loaded.model(torch.tensor([ids])).logits[0].detach().numpy()
        residual = np.asarray(theirs.transformer_output)[0]
        np.testing.assert_allclose(ours, residual @ unembed.T, atol=1e-5)  # float32 rounding
        asked = [answer is not None for answer in program.outputs(tokens)]
        decoded = [value for value, here in zip(theirs.decoded[1:], asked, strict=True) if here]
        if program.output == "categorical":
            best = [loaded.tokenizer.output_symbols[column] for column in ours[1:][asked].argmax(-1)]
            assert best == [str(value) for value in decoded]
        else:
            np.testing.assert_allclose(ours[1:, 0][asked], decoded, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("causal", [False, True])
def test_a_program_of_ones_own_with_several_heads_converts(causal: bool) -> None:
    pytest.importorskip("tracr", reason=NO_TRACR)
    from tracr.compiler import compiling, lib  # pyright: ignore[reportMissingImports]
    from tracr.rasp import rasp  # pyright: ignore[reportMissingImports]

    assembled = compiling.compile_rasp_to_model(
        lib.make_pair_balance(rasp.tokens, "(", ")"), vocab={"(", ")"}, max_seq_len=4, causal=causal
    )
    config, weights = script.convert(assembled, program="pair_balance")
    assert config.n_heads == 2 and config.causal is causal
    model = TracrModel(config)
    model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    ids = TracrTokenizer.from_config(config).encode_tokens("(())")
    ours = model(torch.tensor([ids])).logits[0, 1:, 0].tolist()
    assert ours == pytest.approx([1, 1, 1 / 3, 0], abs=1e-5)  # (1 - 0)/1, (2 - 0)/2, (2 - 1)/3, (2 - 2)/4
    assert ours == pytest.approx(assembled.apply(["compiler_bos", *"(())"]).decoded[1:], abs=1e-5)


def test_without_tracr_the_script_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tracr", "tracr.compiler", "tracr.rasp"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match="expected tracr-pypi to be installed"):
        script.write_weights("reverse", Path("never-written"))
