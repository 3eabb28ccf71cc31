"""Values of a config that make no model: one sentence with field, value and what is expected, for all of them at once.

The values were tried one by one: each ended in an error of transformers or torch, or was accepted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config, LlamaConfig

from circuitgraph.architectures import family_of
from circuitgraph.cli import main
from circuitgraph.errors import ModelNotFoundError, UnsupportedModelError
from circuitgraph.memory.sizes import model_sizes
from circuitgraph.models import load_config

GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_head": 3, "n_embd": 12, "vocab_size": 29, "n_positions": 16}
LLAMA = {
    "model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "hidden_size": 16, "intermediate_size": 24, "vocab_size": 29, "max_position_embeddings": 32,
}  # fmt: skip
NEOX = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"} | {"model_type": "gpt_neox"}
STABLE = LLAMA | {"model_type": "stablelm"}
FALCON = {
    "model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 2, "num_hidden_layers": 2,
    "num_attention_heads": 4, "hidden_size": 16, "vocab_size": 29,
}  # fmt: skip
MIXTRAL = LLAMA | {"model_type": "mixtral", "num_local_experts": 3}
GPT_OSS = LLAMA | {"model_type": "gpt_oss", "head_dim": 4, "num_local_experts": 5}


def folder(tmp_path: Path, config: object) -> str:
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (LLAMA, {"head_dim": 0}, r"head_dim=0: expected a whole number of at least 1 or null"),
    (LLAMA, {"head_dim": 5}, r"head_dim=5: expected an even number"),
    (LLAMA, {"hidden_act": "nope"}, r"hidden_act='nope': expected an activation"),
    (LLAMA, {"hidden_size": "16"}, r"hidden_size='16': expected a whole number"),
    (LLAMA, {"hidden_size": None}, r"hidden_size=None: expected"),
    (LLAMA, {"hidden_size": 18}, r"hidden_size=18: expected a multiple of num_attention_heads=4"),
    (LLAMA, {"num_key_value_heads": 3}, r"num_attention_heads=4: expected a multiple of num_key_value_heads=3"),
    (LLAMA, {"num_hidden_layers": 2.0}, r"num_hidden_layers=2.0"),
    (LLAMA, {"num_hidden_layers": True}, r"num_hidden_layers=True"),
    (LLAMA, {"vocab_size": 0}, r"vocab_size=0"),
    (LLAMA, {"intermediate_size": -1}, r"intermediate_size=-1"),
    (LLAMA, {"rms_norm_eps": "1e-5"}, r"rms_norm_eps='1e-5': expected a number"),
    (LLAMA, {"rms_norm_eps": float("nan")}, r"rms_norm_eps=nan"),
    (LLAMA, {"attention_bias": "no"}, r"attention_bias='no': expected true or false"),
    (LLAMA, {"pretraining_tp": 2}, r"pretraining_tp=2 is not supported; only 1 is"),
    (LLAMA, {"quantization_config": {"quant_method": "gptq"}}, r"quantised \(gptq\)"),
    (LLAMA, {"hidden_size": 12}, r"hidden_size=12 over num_attention_heads=4 makes heads of 3: expected an even"),
    (NEOX, {"rope_parameters": {"partial_rotary_factor": 1.5}}, r"partial_rotary_factor=1.5: expected a number from 0"),
    (NEOX, {"rope_parameters": {"partial_rotary_factor": "half"}}, r"partial_rotary_factor='half': expected a number"),
    (STABLE, {"rope_parameters": {"partial_rotary_factor": 0.75}}, r"of 4, of which partial_rotary_factor=0.75 turns"),
    (FALCON, {"num_kv_heads": 3}, r"num_attention_heads=4: expected a multiple of num_kv_heads=3"),
    (FALCON, {"rope_parameters": {"partial_rotary_factor": 0.5}}, r"partial_rotary_factor=0.5: expected 1"),
    (MIXTRAL, {"num_experts_per_tok": 4}, r"num_experts_per_tok=4: expected no more than there are experts, 3"),
    (GPT_OSS, {"sliding_window": None}, r"sliding_window=None: expected a whole number, since layer_types has sliding"),
    (GPT2, {"n_head": 5}, r"n_embd=12: expected a multiple of n_head=5"),
    (GPT2, {"n_head": None}, r"n_head=None"),
    (GPT2, {"n_positions": 0}, r"n_positions=0"),
    (GPT2, {"n_inner": 0}, r"n_inner=0: expected a whole number of at least 1 or null"),
    (GPT2, {"activation_function": "gelu_newer"}, r"activation_function='gelu_newer'"),
    (GPT2, {"layer_norm_epsilon": -1}, r"layer_norm_epsilon=-1: expected a number of at least 0"),
    (GPT2, {"num_hidden_layers": 3}, r"n_layer=2 and num_hidden_layers=3 contradict each other"),
    (GPT2, {"n_layer": 30_000}, r"n_layers \(30,000\)"),
]  # fmt: skip


@pytest.mark.parametrize(("base", "change", "words"), WRONG, ids=lambda value: str(value)[:30])
def test_values_that_make_no_model_are_named(tmp_path, base, change, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model_sizes(folder(tmp_path, {**base, **change}))


YARN = {"rope_type": "yarn", "factor": 2.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROPE: list[tuple[dict[str, Any], str]] = [
    ({"rope_theta": 1e4, "rope_scaling": {"rope_theta": 5e5, "rope_type": "default"}}, r"contradict each other"),
    ({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}}, r"'yarn' and type='linear' contradict"),
    ({"rope_scaling": {"factor": 2.0}}, r"factor=2.0 is not used by rope_type default: name a rope_type"),
    ({"rope_scaling": {"rope_type": "nope"}}, r"rope_type='nope': expected one of default, linear"),
    ({"rope_scaling": {"rope_type": "lama3", "factor": 2.0}}, r"did you mean 'llama3'\?"),
    ({"rope_scaling": {"rope_type": "linear"}}, r"rope_type linear needs factor"),
    ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, r"factor='2': expected a number of at least 1"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, r"factor=0.5: expected"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "beta_fast": 3}}, r"beta_fast=3 is not used"),
    ({"rope_scaling": {**LLAMA3, "high_freq_factor": 0.5}}, r"high_freq_factor=0.5: expected more than"),
    ({"rope_scaling": {**YARN, "original_max_position_embeddings": "8"}}, r"original_max_position_embeddings='8'"),
    ({"rope_scaling": 2.0}, r"rope_scaling=2.0: expected an object"),
    ({"rope_scaling": YARN, "rope_parameters": LLAMA3}, r"rope_parameters and rope_scaling differ"),
    ({"rope_theta": 0}, r"rope_theta=0: expected a number above 0"),
    ({"rope_theta": "1e4"}, r"rope_theta='1e4'"),
    ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor=0.5: expected 1"),
    ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, r"partial_rotary_factor=0.5"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), ROPE, ids=lambda value: str(value)[:40])
def test_rotary_settings_that_contradict_each_other_are_named(tmp_path, change, words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        load_config(folder(tmp_path, {**LLAMA, **change}))


@pytest.mark.parametrize(
    "change",
    [
        {"rope_theta": 5e5, "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 8}},
        {"rope_scaling": {"type": "linear", "factor": 2}},
        {"rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2}, "rope_theta": 10000},
        {"rope_scaling": None, "partial_rotary_factor": 1.0},
        {"rope_parameters": {**YARN, "rope_theta": 1e4, "beta_fast": 32.0}},
    ],
    ids=str,
)
def test_rotary_settings_of_published_models_are_read(tmp_path, change) -> None:
    assert model_sizes(folder(tmp_path, {**LLAMA, **change})).universe.n_layers == 2


def test_all_wrong_values_come_in_one_sentence(tmp_path, capsys) -> None:
    name = folder(tmp_path, {**LLAMA, "hidden_size": "16", "vocab_size": 0, "hidden_act": None})
    assert main(["graph", "--model", name]) == 2
    said = capsys.readouterr().err
    for field in ("hidden_size='16'", "vocab_size=0", "hidden_act=None"):
        assert field in said
    assert "config.json" in said and "not foreseen" not in said


@pytest.mark.parametrize("content", [[], "gpt2", 3, None, {"model_type": ["gpt2"]}])
def test_files_that_are_no_config_are_refused(tmp_path, content) -> None:
    with pytest.raises(ModelNotFoundError, match="cannot be loaded"):
        load_config(folder(tmp_path, content))


def test_fields_that_say_nothing_are_accepted() -> None:
    """Of older files: settings of `generate` and of training, parts that this model does not have."""
    old = {
        "_attn_implementation_autoset": True, "torchscript": False, "pruned_heads": {}, "is_decoder": False,
        "temperature": 0.7, "max_length": 20, "tie_encoder_decoder": False, "sliding_window": None,
        "use_sliding_window": False, "qk_norm": False, "hidden_dropout": 0.1, "embd_pdrop": 0.1,
    }  # fmt: skip
    family_of("llama").check_config(LlamaConfig(**old))
    family_of("gpt2").check_config(GPT2Config(**old))


def test_all_fields_that_are_not_understood_come_in_one_sentence() -> None:
    config = LlamaConfig(qk_norm=True, sliding_window=4, use_rope=False)
    with pytest.raises(UnsupportedModelError, match=r"fields .*qk_norm=True.* are not understood") as caught:
        family_of("llama").check_config(config)
    assert "sliding_window=4" in str(caught.value) and "use_rope=False" in str(caught.value)
