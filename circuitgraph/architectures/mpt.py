"""MPT: sequential blocks with layer norms and no bias anywhere, no positions but ALiBi.

- Slopes of ALiBi differ from BLOOM's where the number of heads is no power of two.
- Queries, keys and values are one matrix, one after the other, clamped to `clip_qkv`.
- Settings that `transformers` does not go by, in `attn_config` and beside it, are refused but for their defaults.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.architectures.around import TwoMaps
from circuitgraph.architectures.attention import Attention, alibi_slopes
from circuitgraph.architectures.config_fields import Field, not_a_multiple, number, says_nothing, whole, wrong_values
from circuitgraph.architectures.family import BoundBlock, BoundModel, Family, ModelShape
from circuitgraph.architectures.llama_like import block_with, fused
from circuitgraph.architectures.norm import Norm


def _shape(config: Any) -> ModelShape:
    return ModelShape(
        n_layers=config.n_layers, n_heads=config.n_heads, n_kv_heads=config.n_heads, d_model=config.d_model,
        d_head=config.d_model // config.n_heads, d_mlp=4 * config.d_model, d_vocab=config.vocab_size,
        n_positions=config.max_seq_len, learned_positions=False, tabled_positions=True, mlp_saved=2,
    )  # fmt: skip


def _slopes(n_heads: int) -> Float[Tensor, " head"]:
    """Those of the next power of two: every second one, then the others, as many as there are heads."""
    every = alibi_slopes(1 << (n_heads - 1).bit_length())
    return every if len(every) == n_heads else torch.cat([every[1::2], every[::2]])[:n_heads]


def _block(block: Any) -> BoundBlock:
    own = block.attn
    sizes = [own.hidden_size] * 3
    attention = Attention(
        scale=own.softmax_scale,
        slopes=_slopes(own.n_heads).to(own.Wqkv.weight.device),
        clip=own.clip_qkv or None,
    )
    mlp = TwoMaps(block.ffn.up_proj, block.ffn.act, block.ffn.down_proj)
    projections = fused(own.Wqkv.weight, None, sizes, own.head_dim)
    return block_with((block.norm_1, block.norm_2), projections, own.out_proj, attention, mlp)


def _bind(model: Any) -> BoundModel:
    body = model.transformer
    return BoundModel(
        embed=lambda ids, positions: (body.wte(ids),),
        blocks=tuple(_block(block) for block in body.blocks),
        final_norm=Norm.layer(body.norm_f),
        unembed=model.lm_head,
    )


_OF_ATTENTION = {"clip_qkv": number(or_null=True), "softmax_scale": number(1e-30, or_null=True)}
_NOT_READ = {
    "attn_type": "multihead_attention", "prefix_lm": False, "qk_ln": False, "attn_uses_sequence_id": False,
    "alibi": True, "alibi_bias_max": 8,
}  # fmt: skip


def _is_known(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    known = {*_OF_ATTENTION, *_NOT_READ, "attn_impl"}
    return all(name in known or says_nothing(name, each) for name, each in value.items())


def _contradictions(values: Mapping[str, Any]) -> Iterator[str]:
    yield from not_a_multiple(values, "d_model", "n_heads")
    inner = values.get("attn_config") or {}
    for said in wrong_values(_OF_ATTENTION, inner):
        yield f"attn_config: {said}"
    for name, wanted in _NOT_READ.items():
        if inner.get(name, wanted) != wanted:
            yield f"attn_config: {name}={inner[name]!r} is not supported; only {wanted!r} is"


_FIELDS = {
    **dict.fromkeys(("vocab_size", "d_model", "n_heads", "n_layers", "max_seq_len"), whole()),
    "layer_norm_epsilon": number(),
    "attn_config": Field("an object of known settings", _is_known, or_null=True),
}
FAMILY = Family(
    name="mpt",
    model_classes=frozenset({"MptForCausalLM"}),
    shape=_shape,
    bind=_bind,
    understood=frozenset(_FIELDS),
    fields=_FIELDS,
    contradictions=_contradictions,
    required={"expansion_ratio": 4, "no_bias": True, "logit_scale": None},
    harmless=frozenset(
        "learned_pos_emb init_device embedding_fraction norm_type resid_pdrop emb_pdrop verbose init_config".split()
    ),
)
