"""How many numbers a model's weights are, from its config alone and in closed form.

To make a model without memory for its weights, `transformers` has to load its modelling code, which takes longer than
all else that a config tells. So families whose weights are known are counted here: the matrices that every model has
(`_counted`), and what a family has besides. A family that is not named here is made and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from circuitgraph.architectures.family import ModelShape

Told = dict[str, Any]


def n_parameters(config: Any, shape: ModelShape) -> int | None:
    """How many numbers a model's weights are; tied weights count once.

    Args:
        config: The model's config.
        shape: Its sizes.

    Returns:
        How many; None where the family is not known here.

    Examples:
        >>> from transformers import GPT2Config
        >>> from circuitgraph.architectures import family_of
        >>> config = GPT2Config()
        >>> n_parameters(config, family_of("gpt2").shape(config))
        124439808
    """
    tells = _TELLS.get(config.model_type)
    return None if tells is None else _counted(config, shape, **tells(config, shape))


def _counted(
    config: Any, shape: ModelShape, *, norm: int = 1, norms: int = 2, qkv: bool = False, output: bool = False,
    mlp: bool = False, mlps: int | None = None, in_layer: int = 0, besides: int = 0,
) -> int:  # fmt: skip
    """The count of a model with token embeddings, attention, MLPs, norms and an output head.

    Args:
        config: The model's config.
        shape: Its sizes.
        norm: Numbers of a norm a dimension: 2 with a bias, 0 without weights.
        norms: Norms of a block; one more stands before the logits.
        qkv: Whether queries, keys and values have a bias.
        output: Whether the attention's output has one.
        mlp: Whether the MLP's matrices have.
        mlps: All numbers of all MLPs, where they are no plain ones.
        in_layer: What else there is in every layer.
        besides: What else there is in the model.
    """
    d, said = shape.d_model, shape.n_heads * shape.d_head
    read = said + 2 * shape.n_kv_heads * shape.d_head
    attention = d * (read + said) + qkv * read + output * d
    if mlps is None:
        mlps = shape.n_layers * _mlp(d, shape.d_mlp, shape.mlp_matrices, bias=mlp)
    embeddings = d * (shape.d_vocab + (shape.n_positions or 0) * shape.learned_positions)
    head = 0 if config.tie_word_embeddings else d * shape.d_vocab
    return shape.n_layers * (attention + norms * norm * d + in_layer) + mlps + norm * d + embeddings + head + besides


def _mlp(d: int, inner: int, matrices: int, *, bias: bool = False) -> int:
    return matrices * d * inner + bias * ((matrices - 1) * inner + d)


def _as_flags_say(config: Any, shape: ModelShape) -> Told:
    attention, mlp = (getattr(config, name, False) for name in ("attention_bias", "mlp_bias"))
    return {"qkv": attention, "output": attention, "mlp": mlp}


def _and(more: Callable[[Any, ModelShape], Told]) -> Callable[[Any, ModelShape], Told]:
    """What flags say of biases, and more."""
    return lambda config, shape: _as_flags_say(config, shape) | more(config, shape)


def _alike(shape: ModelShape) -> Told:
    """A norm of queries and one of keys, of a head's width."""
    return {"in_layer": 2 * shape.d_head}


def _together(shape: ModelShape, there: bool = True) -> Told:
    """A norm of queries and one of keys, as wide as all heads."""
    return {"in_layer": there * (shape.n_heads + shape.n_kv_heads) * shape.d_head}


def _experts(config: Any, shape: ModelShape) -> int:
    """All MLPs of Mixtral and its kin: gated experts without biases, and their router."""
    n_experts = getattr(config, "num_local_experts", None) or config.num_experts
    return shape.n_layers * n_experts * (_mlp(shape.d_model, shape.d_mlp, 3) + shape.d_model)


def _qwen3_moe(config: Any, shape: ModelShape) -> Told:
    d = shape.d_model
    sparse = config.num_experts * (_mlp(d, config.moe_intermediate_size, 3) + d)
    kinds = [
        layer not in (config.mlp_only_layers or ()) and (layer + 1) % config.decoder_sparse_step == 0
        for layer in range(shape.n_layers)
    ]
    return _alike(shape) | {"mlps": sum(sparse if kind else _mlp(d, shape.d_mlp, 3) for kind in kinds)}


def _gpt_oss(config: Any, shape: ModelShape) -> Told:
    one = _mlp(shape.d_model, shape.d_mlp, 3, bias=True) + shape.d_model + 1
    return {"mlps": shape.n_layers * config.num_local_experts * one, "in_layer": shape.n_heads}


def _opt(config: Any, shape: ModelShape) -> Told:
    d, width, bias = shape.d_model, config.word_embed_proj_dim, config.enable_bias
    besides = 2 * d  # two rows of positions that no token takes
    if width != d:
        n_tables = 1 if config.tie_word_embeddings else 2
        besides += 2 * d * width - n_tables * shape.d_vocab * (d - width)
    norm = 2 * config.layer_norm_elementwise_affine
    if config._remove_final_layer_norm:
        besides -= norm * d
    return {"norm": norm, "qkv": bias, "output": bias, "mlp": bias, "besides": besides}


def _falcon(config: Any, shape: ModelShape) -> Told:
    one = config.parallel_attn and not config.new_decoder_architecture
    if config.new_decoder_architecture:
        one = config.num_ln_in_parallel_attn == 1
    biases = dict.fromkeys(("qkv", "output", "mlp"), config.bias)
    return {"norm": 2, "norms": 1 if one else 2, **biases}


def _modernbert(config: Any, shape: ModelShape) -> Told:
    d, norm = shape.d_model, 1 + config.norm_bias
    flags = {"norm": norm, "mlp": False, "qkv": config.attention_bias, "output": config.attention_bias}
    mlps = shape.n_layers * (3 * d * shape.d_mlp + config.mlp_bias * (2 * shape.d_mlp + d))
    head = d * d + config.classifier_bias * d + norm * d
    # A norm behind the embedding instead of one before the first attention.
    return flags | {"mlps": mlps, "besides": head + config.decoder_bias * shape.d_vocab}


_LAYER_NORMS = {"norm": 2, "qkv": True, "output": True, "mlp": True}
_TELLS: dict[str, Callable[[Any, ModelShape], Told]] = {
    **dict.fromkeys(("llama", "smollm3", "granite", "gemma"), _as_flags_say),
    **dict.fromkeys(("mistral", "phi3"), lambda config, shape: {}),
    "qwen2": lambda config, shape: {"qkv": True},
    "qwen3": _and(lambda config, shape: _alike(shape)),
    "gemma2": lambda config, shape: {"norms": 4},
    "gemma3_text": lambda config, shape: {"norms": 4, **_alike(shape)},
    "olmo": _and(lambda config, shape: {"norm": 0}),
    **dict.fromkeys(("olmo2", "olmo3"), lambda config, shape: _together(shape)),
    "cohere": _and(lambda config, shape: {"norms": 1, **_together(shape, config.use_qk_norm)}),
    "cohere2": _and(lambda config, shape: {"norms": 1}),
    "starcoder2": lambda config, shape: {"norm": 2, **dict.fromkeys(("qkv", "output", "mlp"), config.use_bias)},
    "mixtral": lambda config, shape: {"mlps": _experts(config, shape)},
    "olmoe": _and(lambda config, shape: {"mlps": _experts(config, shape), **_together(shape)}),
    "qwen3_moe": _and(_qwen3_moe),
    "gpt_oss": _and(_gpt_oss),
    "gpt2": lambda config, shape: _LAYER_NORMS,
    "gpt_neox": _and(lambda config, shape: {"norm": 2, "mlp": True}),
    "phi": lambda config, shape: _LAYER_NORMS
    | {"norms": 1, "besides": shape.d_vocab, "in_layer": 4 * shape.d_head * config.qk_layernorm},
    "stablelm": lambda config, shape: {
        "norm": 2, "norms": 1 if config.use_parallel_residual else 2, "qkv": config.use_qkv_bias,
        **_together(shape, config.qk_layernorm),
    },
    **dict.fromkeys(
        ("gptj", "codegen"), lambda config, shape: {"norm": 2, "norms": 1, "mlp": True, "besides": shape.d_vocab}
    ),
    "mpt": lambda config, shape: {},
    "exaone4": lambda config, shape: _alike(shape),
    "gpt_neo": lambda config, shape: {"norm": 2, "output": True, "mlp": True},
    "opt": _opt,
    "bloom": lambda config, shape: _LAYER_NORMS | {"besides": 2 * shape.d_model},
    "falcon": _falcon,
    "modernbert": _modernbert,
}  # fmt: skip
