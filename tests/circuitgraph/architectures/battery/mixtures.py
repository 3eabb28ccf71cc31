"""Families with experts: a block of them with its router is one MLP."""

from __future__ import annotations

from transformers import GptOssConfig, MixtralConfig, OlmoeConfig, Qwen3MoeConfig

from tests.circuitgraph.architectures.battery.case import WINDOW, Case
from tests.circuitgraph.architectures.battery.toggles import FEWER, FULL, OF_LLAMA, WINDOWS, without
from tests.oracles.landmarks import Names

EXPERTS = {"num_experts_per_tok": 2}
OTHER_EXPERTS = {"num_experts_per_tok": 1}

MIXTURES = (
    Case(
        family="mixtral",
        config=MixtralConfig,
        settings={**EXPERTS, "head_dim": 8, "sliding_window": WINDOW, "num_local_experts": 5},
        names=Names(),
        toggles={**OF_LLAMA, **OTHER_EXPERTS, "head_dim": 6, "sliding_window": None, "num_local_experts": 3},
    ),
    Case(
        family="olmoe",
        config=OlmoeConfig,
        settings={**EXPERTS, "clip_qkv": 0.5, "num_experts": 5, "norm_topk_prob": True, "attention_bias": True},
        names=Names(),
        shared_scale=True,
        toggles={
            **OF_LLAMA, **OTHER_EXPERTS, "clip_qkv": None, "num_experts": 3, "norm_topk_prob": False,
            "attention_bias": False,
        },
    ),
    Case(
        family="qwen3_moe",
        config=Qwen3MoeConfig,
        settings={
            **EXPERTS, "head_dim": 10, "num_experts": 5, "moe_intermediate_size": 12, "mlp_only_layers": [1],
            "norm_topk_prob": True, "attention_bias": True,
        },
        names=Names(),
        toggles={
            **OF_LLAMA, **OTHER_EXPERTS, "head_dim": 6, "num_experts": 3, "moe_intermediate_size": 20,
            "mlp_only_layers": [], "norm_topk_prob": False, "attention_bias": False, "decoder_sparse_step": 2,
        },
        refused={"use_sliding_window": True, "sliding_window": 4},
    ),
    Case(
        family="gpt_oss",
        config=GptOssConfig,
        settings={
            **EXPERTS, "head_dim": 8, "num_local_experts": 5, "sliding_window": WINDOW, "layer_types": WINDOWS,
            "attention_bias": True,
        },
        names=Names(),
        toggles={
            **without(OF_LLAMA, "hidden_act"), **OTHER_EXPERTS, **FEWER, "head_dim": 6, "num_local_experts": 3,
            "sliding_window": 2, "layer_types": FULL, "attention_bias": False, "swiglu_alpha": 1.0,
            "swiglu_limit": 0.5,
        },
        harmless=frozenset({"hidden_act"}),
    ),
)  # fmt: skip
