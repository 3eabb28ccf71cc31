"""Families that look both ways and fill in masked tokens."""

from __future__ import annotations

from transformers import AutoModelForMaskedLM, ModernBertConfig

from tests.circuitgraph.architectures.battery.case import WINDOW, Case, Toggle
from tests.circuitgraph.architectures.battery.toggles import BY_TYPE, FEWER, FULL, SMALLER, UNGROUPED, WINDOWS, without
from tests.oracles.landmarks import Names

ENCODERS = (
    Case(
        family="modernbert",
        config=ModernBertConfig,
        loads=AutoModelForMaskedLM,
        sizes=UNGROUPED,
        settings={
            "local_attention": WINDOW, "layer_types": WINDOWS, "rope_parameters": BY_TYPE, "norm_bias": True,
            "attention_bias": True, "mlp_bias": True, "classifier_bias": True,
        },
        names=Names(
            embedding="embeddings", last="final_norm", norm="attn_norm", mlp_norm="mlp_norm",
            **dict.fromkeys(("queries", "keys", "values"), "attn.Wqkv"), fused="rows", output="attn.Wo",
        ),
        groups=None,
        toggles={
            **without(
                SMALLER, "num_key_value_heads", "hidden_act", "max_position_embeddings", "rope_theta", "rope_scaling"
            ),
            **FEWER, "local_attention": 6, "layer_types": FULL, "norm_eps": 0.3, "hidden_activation": "relu",
            "classifier_activation": "relu", "norm_bias": False, "attention_bias": False, "mlp_bias": False,
            "classifier_bias": False, "decoder_bias": False,
            "rope_parameters": {**BY_TYPE, "sliding_attention": {"rope_type": "default", "rope_theta": 9.0}},
            "global_attn_every_n_layers": Toggle(2, {"layer_types": None}),
            "global_rope_theta": Toggle(5.0, {"rope_parameters": None}),
            "local_rope_theta": Toggle(5.0, {"rope_parameters": None}),
        },
        harmless=frozenset(
            """max_position_embeddings initializer_cutoff_factor sparse_pred_ignore_index
            sparse_prediction deterministic_flash_attn""".split()
        ),
    ),
)  # fmt: skip
