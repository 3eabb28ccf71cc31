"""Families whose modules have Llama's names, or nearly."""

from __future__ import annotations

from transformers import (
    Cohere2Config,
    CohereConfig,
    Exaone4Config,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)  # fmt: skip

from tests.circuitgraph.architectures.battery.case import WINDOW, Case, Toggle
from tests.circuitgraph.architectures.battery.toggles import (
    BY_TYPE,
    FEWER,
    FULL,
    LONG,
    OF_LLAMA,
    PARTLY,
    PARTLY_TURNED,
    SMALLER,
    WINDOWS,
    without,
)  # fmt: skip
from tests.oracles.landmarks import Names

IN_TWO_NORMS = {"mlp_norm": "pre_feedforward_layernorm", "heads_norm": "post_attention_layernorm"}
NORMED_AFTER = {"heads_norm": "post_attention_layernorm", "mlp_output": "post_feedforward_layernorm"}
FUSED_QKV = dict.fromkeys(("queries", "keys", "values"), "self_attn.qkv_proj")

LIKE_LLAMA = (
    Case(
        family="llama",
        config=LlamaConfig,
        settings={"head_dim": 8, "attention_bias": True, "mlp_bias": True},
        names=Names(),
        toggles={**OF_LLAMA, "head_dim": 6, "attention_bias": False, "mlp_bias": False},
        refused={"pretraining_tp": 2},
    ),
    Case(
        family="mistral",
        config=MistralConfig,
        settings={"head_dim": 8, "sliding_window": WINDOW},
        names=Names(),
        toggles={**OF_LLAMA, "head_dim": 6, "sliding_window": None},
    ),
    Case(
        family="qwen2",
        config=Qwen2Config,
        settings={"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": WINDOWS},
        names=Names(),
        toggles={
            **OF_LLAMA, **FEWER, "sliding_window": 2, "layer_types": FULL,
            "use_sliding_window": Toggle(False, {"layer_types": None, "max_window_layers": 1}),
            "max_window_layers": Toggle(1, {"layer_types": None}),
        },
    ),
    Case(
        family="qwen3",
        config=Qwen3Config,
        settings={
            "head_dim": 10, "use_sliding_window": True, "sliding_window": WINDOW, "layer_types": WINDOWS,
            "attention_bias": True,
        },
        names=Names(),
        toggles={
            **OF_LLAMA, **FEWER, "head_dim": 6, "attention_bias": False, "sliding_window": 2, "layer_types": FULL,
            "use_sliding_window": Toggle(False, {"layer_types": None, "max_window_layers": 1}),
            "max_window_layers": Toggle(1, {"layer_types": None}),
        },
    ),
    Case(
        family="granite",
        config=GraniteConfig,
        settings={
            "embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5,
            "attention_multiplier": 0.3, "attention_bias": True, "mlp_bias": True,
        },
        names=Names(factor=0.5),
        toggles={
            **OF_LLAMA, "embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0,
            "attention_multiplier": 1.0, "attention_bias": False, "mlp_bias": False,
        },
    ),
    Case(
        family="smollm3",
        config=SmolLM3Config,
        settings={
            "use_sliding_window": True, "sliding_window": WINDOW, "layer_types": WINDOWS,
            "no_rope_layers": [1, 0, 1], "attention_bias": True, "mlp_bias": True,
        },
        names=Names(),
        toggles={
            **OF_LLAMA, **FEWER, "use_sliding_window": Toggle(False, {"layer_types": None}), "sliding_window": 2,
            "layer_types": FULL,
            "no_rope_layers": [1, 1, 1], "attention_bias": False, "mlp_bias": False,
            "no_rope_layer_interval": Toggle(2, {"no_rope_layers": None}),
        },
    ),
    Case(
        family="gemma",
        config=GemmaConfig,
        settings={"head_dim": 10, "attention_bias": True},
        names=Names(),
        gain=0.0,
        toggles={**OF_LLAMA, "head_dim": 6, "attention_bias": False},
        refused={"use_bidirectional_attention": True},
    ),
    Case(
        family="gemma2",
        config=Gemma2Config,
        settings={
            "head_dim": 10, "sliding_window": WINDOW, "layer_types": WINDOWS, "query_pre_attn_scalar": 7,
            "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
        },
        names=Names(**IN_TWO_NORMS, heads_norm_offset=1.0, mlp_output="post_feedforward_layernorm"),
        shared_scale=True,
        gain=0.0,
        toggles={
            **without(OF_LLAMA, "hidden_act"), **FEWER, "head_dim": 6, "hidden_activation": "relu", "sliding_window": 2,
            "layer_types": FULL, "query_pre_attn_scalar": 50, "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        },
        refused={"use_bidirectional_attention": True, "attention_bias": True},
    ),
    Case(
        family="gemma3_text",
        config=Gemma3TextConfig,
        settings={
            "head_dim": 10, "sliding_window": WINDOW, "layer_types": WINDOWS, "query_pre_attn_scalar": 7,
            "final_logit_softcapping": 3.0, "rope_parameters": BY_TYPE,
        },
        names=Names(**IN_TWO_NORMS, heads_norm_offset=1.0, mlp_output="post_feedforward_layernorm"),
        shared_scale=True,
        gain=0.0,
        toggles={
            **without(OF_LLAMA, "hidden_act", "max_position_embeddings", "rope_theta", "rope_scaling"),
            **FEWER, "head_dim": 6, "hidden_activation": "relu", "sliding_window": 2, "layer_types": FULL,
            "query_pre_attn_scalar": 50, "final_logit_softcapping": None,
            "rope_parameters": {**BY_TYPE, "sliding_attention": {"rope_type": "default", "rope_theta": 9.0}},
        },
        harmless=frozenset({"max_position_embeddings", "_sliding_window_pattern"}),
        refused={"use_bidirectional_attention": True, "attention_bias": True, "attn_logit_softcapping": 5.0},
    ),
    Case(
        family="phi3",
        config=Phi3Config,
        settings={"sliding_window": WINDOW, "rope_parameters": PARTLY_TURNED},
        names=Names(**FUSED_QKV, fused="rows"),
        toggles={
            **OF_LLAMA, "sliding_window": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 1.0},
            "rope_scaling": Toggle(LONG, {"rope_parameters": None}),
            "max_position_embeddings": Toggle(128, {"rope_parameters": LONG, "original_max_position_embeddings": 32}),
            "original_max_position_embeddings": Toggle(6, {"rope_parameters": LONG}),
        },
    ),
    Case(
        family="olmo",
        config=OlmoConfig,
        settings={"clip_qkv": 0.3, "attention_bias": True},
        names=Names(),
        toggles={**SMALLER, "clip_qkv": None, "attention_bias": False},
    ),
    Case(
        family="olmo2",
        config=Olmo2Config,
        names=Names(norm=None, mlp_norm=None, **NORMED_AFTER),
        shared_scale=True,
        toggles=OF_LLAMA,
        refused={"attention_bias": True},
    ),
    Case(
        family="olmo3",
        config=Olmo3Config,
        settings={"sliding_window": WINDOW, "layer_types": WINDOWS},
        names=Names(norm=None, mlp_norm=None, **NORMED_AFTER),
        shared_scale=True,
        toggles={
            **without(OF_LLAMA, "max_position_embeddings"), **FEWER, "sliding_window": 2, "layer_types": FULL,
            "rope_parameters": BY_TYPE,
        },
        harmless=frozenset({"max_position_embeddings"}),
        refused={"attention_bias": True},
    ),
    Case(
        family="exaone4",
        config=Exaone4Config,
        settings={"head_dim": 8, "sliding_window": WINDOW, "layer_types": WINDOWS},
        names=Names(norm=None, mlp_norm=None, **NORMED_AFTER),
        shared_scale=True,
        toggles={
            **OF_LLAMA, **FEWER, "head_dim": 6, "layer_types": FULL,
            "sliding_window": Toggle(None, after={"layer_types": FULL}),
            "sliding_window_pattern": Toggle(2, {"layer_types": None}),
        },
    ),
    Case(
        family="cohere",
        config=CohereConfig,
        settings={"use_qk_norm": True, "logit_scale": 0.3, "attention_bias": True},
        names=Names(mlp_norm="input_layernorm"),
        parallel=True,
        toggles={
            **SMALLER, "layer_norm_eps": 0.3, "use_qk_norm": False, "logit_scale": 1.0, "attention_bias": False
        },
    ),
    Case(
        family="cohere2",
        config=Cohere2Config,
        settings={
            "head_dim": 8, "sliding_window": WINDOW, "layer_types": WINDOWS, "logit_scale": 0.3,
            "attention_bias": True,
        },
        names=Names(mlp_norm="input_layernorm"),
        parallel=True,
        toggles={
            **SMALLER, **FEWER, "head_dim": 6, "layer_norm_eps": 0.3, "logit_scale": 1.0, "attention_bias": False,
            "sliding_window": 2, "layer_types": FULL,
        },
    ),
    Case(
        family="starcoder2",
        config=Starcoder2Config,
        settings={"sliding_window": WINDOW},
        names=Names(),
        toggles={**SMALLER, "norm_epsilon": 0.3, "sliding_window": None, "use_bias": False},
    ),
    Case(
        family="stablelm",
        config=StableLmConfig,
        settings={"qk_layernorm": True, "use_qkv_bias": True, "rope_parameters": PARTLY_TURNED},
        names=Names(),
        toggles={
            **PARTLY, "layer_norm_eps": 0.3, "qk_layernorm": False, "use_qkv_bias": False,
            "use_parallel_residual": True,
        },
    ),
    Case(
        family="stablelm",
        kind="parallel",
        config=StableLmConfig,
        settings={"use_parallel_residual": True, "rope_parameters": PARTLY_TURNED},
        names=Names(mlp_norm="input_layernorm"),
        parallel=True,
        toggles={"use_parallel_residual": False},
    ),
    Case(
        family="phi",
        config=PhiConfig,
        settings={"qk_layernorm": True, "rope_parameters": PARTLY_TURNED},
        names=Names(last="final_layernorm", mlp_norm="input_layernorm", output="self_attn.dense"),
        parallel=True,
        toggles={**PARTLY, "layer_norm_eps": 0.3, "qk_layernorm": False},
    ),
)  # fmt: skip
