"""Settings and other values of config fields that several families share."""

from __future__ import annotations

from tests.circuitgraph.architectures.battery.case import LAYERS, SIZES, Toggle

WINDOWS = ["sliding_attention", "full_attention", "sliding_attention"]
FULL = ["full_attention"] * LAYERS
UNGROUPED = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}
HALF = {"partial_rotary_factor": 0.5}
PARTLY_TURNED = {"rope_type": "default", "rope_theta": 100.0, **HALF}
TURNED = {"rope_type": "default", "rope_theta": 100.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}
LONG = {"rope_type": "longrope", "rope_theta": 100.0, "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0]}
BY_TYPE = {"sliding_attention": TURNED, "full_attention": {"rope_type": "default", "rope_theta": 30.0}}

SMALLER = {
    "vocab_size": 41, "hidden_size": 36, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
    "num_key_value_heads": 2,
    "max_position_embeddings": Toggle(5, {"rope_parameters": DYNAMIC}), "hidden_act": "relu",
    "rope_parameters": {"rope_type": "linear", "rope_theta": 50.0, "factor": 3.0},
    "rope_theta": Toggle(50.0, {"rope_parameters": None}),
    "rope_scaling": Toggle({"rope_type": "linear", "rope_theta": 50.0, "factor": 3.0}, {"rope_parameters": None}),
}  # fmt: skip
"""Other values of what nearly all families have."""
OF_LLAMA = {**SMALLER, "rms_norm_eps": 0.3}
OF_WIDE_HEADS = {"hidden_size": 96, "rope_parameters": None}
PARTLY = {
    **SMALLER, "hidden_size": 48,
    "max_position_embeddings": Toggle(5, {"hidden_size": 48, "rope_parameters": {**DYNAMIC, **HALF}}),
    "rope_parameters": {"rope_type": "linear", "rope_theta": 50.0, "factor": 3.0, **HALF},
    "rope_theta": Toggle(50.0, OF_WIDE_HEADS),
    "rope_scaling": Toggle({"rope_type": "linear", "rope_theta": 50.0, "factor": 3.0}, OF_WIDE_HEADS),
}  # fmt: skip
"""Where a quarter of a head is turned by default, which has to be an even number of its dimensions."""
FEWER = {"num_hidden_layers": Toggle(2, {"layer_types": None})}


def without(fields: dict[str, object], *names: str) -> dict[str, object]:
    """Some fields less."""
    return {name: value for name, value in fields.items() if name not in names}
