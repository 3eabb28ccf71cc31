"""GPT-2 and its kin, with names of modules of their own."""

from __future__ import annotations

from transformers import (
    BloomConfig,
    CodeGenConfig,
    FalconConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    MptConfig,
    OPTConfig,
)  # fmt: skip

from tests.circuitgraph.architectures.battery.case import (
    GROUPS,
    HEADS,
    INNER,
    LAYERS,
    VOCAB,
    WIDTH,
    WINDOW,
    Case,
    Toggle,
)
from tests.circuitgraph.architectures.battery.toggles import (
    OF_WIDE_HEADS,
    PARTLY,
    PARTLY_TURNED,
    SMALLER,
    UNGROUPED,
    without,
)
from tests.oracles.landmarks import GPT2, Names

FALCON = {
    "body": "transformer", "layers": "h", "embedding": "word_embeddings", "last": "ln_f",
    **dict.fromkeys(("queries", "keys", "values"), "self_attention.query_key_value"), "output": "self_attention.dense",
}  # fmt: skip

LIKE_GPT = (
    Case(
        family="gpt_neox",
        config=GPTNeoXConfig,
        settings={"rope_parameters": PARTLY_TURNED},
        sizes=UNGROUPED,
        names=Names(
            body="gpt_neox", embedding="embed_in", last="final_layer_norm", output="attention.dense",
            **dict.fromkeys(("queries", "keys", "values"), "attention.query_key_value"), fused="heads",
        ),
        groups=None,
        parallel=True,
        toggles={
            **without(PARTLY, "num_key_value_heads", "rope_theta"), "layer_norm_eps": 0.3,
            "use_parallel_residual": False, "rotary_pct": Toggle(1.0, OF_WIDE_HEADS),
            "rotary_emb_base": Toggle(50.0, OF_WIDE_HEADS),
            "attention_bias": False,
        },
    ),
    Case(
        family="gpt_neox",
        kind="sequential",
        config=GPTNeoXConfig,
        settings={"use_parallel_residual": False},
        sizes=UNGROUPED,
        names=Names(
            body="gpt_neox", embedding="embed_in", last="final_layer_norm", output="attention.dense",
            **dict.fromkeys(("queries", "keys", "values"), "attention.query_key_value"), fused="heads",
        ),
        groups=None,
        toggles={"use_parallel_residual": True},
    ),
    Case(
        family="gptj",
        config=GPTJConfig,
        settings={"rotary_dim": 2, "n_inner": INNER},
        sizes={"vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 64},
        names=Names(
            body="transformer", layers="h", embedding="wte", last="ln_f", norm="ln_1", mlp_norm="ln_1",
            queries="attn.q_proj", keys="attn.k_proj", values="attn.v_proj", output="attn.out_proj",
        ),
        groups=None,
        parallel=True,
        exact=1e-5,  # its table of sines and cosines is made in float32
        toggles={
            "vocab_size": 41, "n_embd": 36, "n_layer": 2, "n_head": 3, "rotary_dim": 4, "n_inner": 24,
            "activation_function": "relu", "layer_norm_epsilon": 0.3,
        },
        harmless=frozenset({"n_positions"}),
    ),
    Case(
        family="codegen",
        config=CodeGenConfig,
        settings={"rotary_dim": 2, "n_inner": INNER},
        sizes={"vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 8, "n_positions": 64},
        n_heads=8,
        names=Names(
            body="transformer", layers="h", embedding="wte", last="ln_f", norm="ln_1", mlp_norm="ln_1",
            **dict.fromkeys(("queries", "keys", "values"), "attn.qkv_proj"), fused="quarters", output="attn.out_proj",
        ),
        groups=None,
        parallel=True,
        exact=1e-5,  # its table of sines and cosines is made in float32
        toggles={
            "vocab_size": 41, "n_embd": 48, "n_layer": 2, "n_head": 4, "rotary_dim": Toggle(4, {"n_head": 4}),
            "n_inner": 24, "activation_function": "relu", "layer_norm_epsilon": 0.3,
        },
        harmless=frozenset({"n_positions", "n_ctx"}),
    ),
    Case(
        family="mpt",
        config=MptConfig,
        settings={"attn_config": {"clip_qkv": 0.5, "softmax_scale": 0.3}},
        sizes={"vocab_size": VOCAB, "d_model": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "max_seq_len": 64},
        names=Names(
            body="transformer", layers="blocks", embedding="wte", last="norm_f", norm="norm_1", mlp_norm="norm_2",
            mlp="ffn", mlp_output="ffn.down_proj", output="attn.out_proj",
            **dict.fromkeys(("queries", "keys", "values"), "attn.Wqkv"), fused="rows",
        ),
        groups=None,
        toggles={
            "vocab_size": 41, "d_model": 36, "n_layers": 2, "n_heads": 4, "layer_norm_epsilon": 0.3,
            "attn_config": {"clip_qkv": None, "softmax_scale": None},
        },
        harmless=frozenset({"max_seq_len", "learned_pos_emb", "init_device", "embedding_fraction", "norm_type"}),
        refused={"expansion_ratio": 2, "no_bias": False, "logit_scale": 2.0},
    ),
    Case(
        family="gpt2",
        config=GPT2Config,
        settings={"n_inner": INNER, "scale_attn_by_inverse_layer_idx": True},
        sizes={"vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 64},
        names=GPT2,
        groups=None,
        toggles={
            "vocab_size": 41, "n_embd": 36, "n_layer": 2, "n_head": 3, "n_inner": 24,
            "activation_function": "relu", "layer_norm_epsilon": 0.3, "scale_attn_weights": False,
            "scale_attn_by_inverse_layer_idx": False,
        },
        harmless=frozenset({"n_positions"}),
    ),
    Case(
        family="gpt_neo",
        config=GPTNeoConfig,
        settings={"attention_types": [[["local", "global", "local"], 1]], "window_size": WINDOW},
        sizes={
            "vocab_size": VOCAB, "hidden_size": WIDTH, "num_layers": LAYERS, "num_heads": HEADS,
            "intermediate_size": INNER, "max_position_embeddings": 64,
        },
        names=Names(
            body="transformer", layers="h", embedding="wte", last="ln_f", norm="ln_1", mlp_norm="ln_2",
            queries="attn.attention.q_proj", keys="attn.attention.k_proj", values="attn.attention.v_proj",
            output="attn.attention.out_proj",
        ),
        groups=None,
        toggles={
            "vocab_size": 41, "hidden_size": 36, "num_heads": 3, "intermediate_size": 20, "window_size": 2,
            "num_layers": Toggle(2, after={"attention_types": [[["local"], 2]]}), "activation_function": "relu",
            "layer_norm_epsilon": 0.3, "attention_types": [[["global"], 3]],
        },
        harmless=frozenset({"max_position_embeddings"}),
    ),
    Case(
        family="opt",
        config=OPTConfig,
        settings={"word_embed_proj_dim": 16, "ffn_dim": INNER},
        sizes=without(UNGROUPED, "intermediate_size"),
        names=Names(
            body="model.decoder", last="final_layer_norm", norm="self_attn_layer_norm", mlp_norm="final_layer_norm",
            mlp="fc2", output="self_attn.out_proj",
        ),
        groups=None,
        toggles={
            **without(
                SMALLER, "intermediate_size", "num_key_value_heads", "max_position_embeddings", "hidden_act",
                "rope_parameters", "rope_theta", "rope_scaling",
            ),
            "ffn_dim": 24, "word_embed_proj_dim": 12, "activation_function": "gelu", "enable_bias": False,
            "layer_norm_elementwise_affine": False, "_remove_final_layer_norm": True,
        },
        harmless=frozenset({"max_position_embeddings", "layerdrop"}),
        refused={"do_layer_norm_before": False},
    ),
    Case(
        family="bloom",
        config=BloomConfig,
        sizes={"vocab_size": VOCAB, "hidden_size": WIDTH, "n_layer": LAYERS, "n_head": HEADS},
        names=Names(
            body="transformer", layers="h", embedding="word_embeddings", last="ln_f",
            **dict.fromkeys(("queries", "keys", "values"), "self_attention.query_key_value"), fused="heads",
            output="self_attention.dense", mlp_output="mlp.dense_4h_to_h",
        ),
        groups=None,
        toggles={"vocab_size": 41, "hidden_size": 36, "n_layer": 2, "n_head": 3, "layer_norm_epsilon": 0.3},
        harmless=frozenset({"pretraining_tp"}),
        refused={"apply_residual_connection_post_layernorm": True, "slow_but_exact": True},
    ),
    Case(
        family="falcon",
        config=FalconConfig,
        settings={"bias": True, "new_decoder_architecture": True, "num_kv_heads": GROUPS, "ffn_hidden_size": INNER},
        sizes=without(UNGROUPED, "intermediate_size"),
        names=Names(**FALCON, norm="ln_attn", mlp_norm="ln_mlp", fused="groups"),
        groups="num_kv_heads",
        parallel=True,
        toggles={
            **without(SMALLER, "intermediate_size", "num_key_value_heads", "hidden_act"), "num_kv_heads": 2,
            "ffn_hidden_size": 24, "activation": "relu", "layer_norm_epsilon": 0.3, "bias": False,
            "num_ln_in_parallel_attn": 1,
            "new_decoder_architecture": Toggle(False, {"num_ln_in_parallel_attn": None}),
            "parallel_attn": Toggle(False, {"new_decoder_architecture": False}),
            "multi_query": Toggle(False, {"new_decoder_architecture": False, "num_kv_heads": HEADS}),
        },
        refused={"alibi": True},
    ),
    Case(
        family="falcon",
        kind="one-norm",
        config=FalconConfig,
        settings={"multi_query": True},
        sizes=without(UNGROUPED, "intermediate_size"),
        names=Names(**FALCON, mlp_norm="input_layernorm", fused="groups"),
        groups=None,
        one_group=True,
        parallel=True,
    ),
    Case(
        family="falcon",
        kind="sequential",
        config=FalconConfig,
        settings={"multi_query": False, "parallel_attn": False, "bias": True},
        sizes=without(UNGROUPED, "intermediate_size"),
        names=Names(**FALCON, fused="heads"),
        groups=None,
    ),
)  # fmt: skip
