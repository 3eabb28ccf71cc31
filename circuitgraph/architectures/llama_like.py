"""What Llama's modules have in common with those of its many kin: their names, their sizes, the checks of a config.

A family of that kind says what sets it apart: another window, a norm more, another factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from circuitgraph.architectures.activations import GatedMLP
from circuitgraph.architectures.attention import Attention
from circuitgraph.architectures.config_fields import (
    Field,
    activation,
    flag,
    not_a_multiple,
    number,
    whole,
    wrong_rope,
)
from circuitgraph.architectures.family import BoundBlock, BoundModel, ModelShape, Projection
from circuitgraph.architectures.norm import Norm
from circuitgraph.architectures.rms_norm import rms_norm
from circuitgraph.architectures.rotary import LayerTypeRotary, prompt_by_prompt

SIZES = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads max_position_embeddings".split()
FIELDS: dict[str, Field] = {
    **dict.fromkeys(SIZES, whole()),
    "num_key_value_heads": whole(or_null=True),
    "head_dim": whole(or_null=True),
    "hidden_act": activation(),
    "rms_norm_eps": number(),
    "attention_bias": flag(),
    "mlp_bias": flag(),
}
"""What the values of fields that most have are to be."""
ROPE = frozenset("rope_parameters rope_scaling rope_theta partial_rotary_factor".split())
"""The fields that say how positions are turned; the model's own rotary embedding goes by them."""


def fields_without(*names: str, **more: Field) -> dict[str, Field]:
    """`FIELDS` without some, with more.

    Args:
        names: Fields that a family does not have.
        more: Fields that it has besides.
    """
    return {name: field for name, field in FIELDS.items() if name not in names} | more


def shape_of(config: Any, **settings: Any) -> ModelShape:
    """The sizes of a model whose config names them as Llama's does.

    Args:
        config: The config.
        settings: More of the shape, which win.
    """
    n_heads = config.num_attention_heads
    sizes: dict[str, Any] = {
        "n_layers": config.num_hidden_layers,
        "n_heads": n_heads,
        "n_kv_heads": getattr(config, "num_key_value_heads", None) or n_heads,
        "d_model": config.hidden_size,
        "d_head": getattr(config, "head_dim", None) or config.hidden_size // n_heads,
        "d_mlp": config.intermediate_size,
        "d_vocab": config.vocab_size,
        "n_positions": config.max_position_embeddings,
        "learned_positions": False,
        "mlp_saved": 2,
        "mlp_matrices": 3,
    }
    return ModelShape(**sizes | settings)


def projection(linear: nn.Linear, d_head: int) -> Projection:
    """A linear map from the residual stream to heads.

    Args:
        linear: The model's own.
        d_head: Width of a head.
    """
    return Projection.of(linear.weight.T, linear.bias, linear.weight.shape[0] // d_head)


def separate(attention: Any) -> list[Projection]:
    """Queries, keys and values of three maps, `q_proj`, `k_proj` and `v_proj`.

    Args:
        attention: The model's own, with its `head_dim`.
    """
    return [projection(getattr(attention, f"{name}_proj"), attention.head_dim) for name in "qkv"]


def fused(weight: Tensor, bias: Tensor | None, sizes: list[int], d_head: int) -> list[Projection]:
    """Queries, keys and values of one map, one after the other.

    Args:
        weight: `[rows d_model]`, as of `nn.Linear`.
        bias: `[rows]`, or None.
        sizes: Rows of each.
        d_head: Width of a head.
    """
    biases = [None] * len(sizes) if bias is None else bias.split(sizes)
    return [
        Projection.of(rows.T, part, rows.shape[0] // d_head)
        for rows, part in zip(weight.split(sizes), biases, strict=True)
    ]


def interleaved(weight: Tensor, bias: Tensor | None, n_heads: int) -> list[Projection]:
    """Queries, keys and values of one map, those of a head side by side.

    Args:
        weight: `[head_times_3_d_head d_model]`, as of `nn.Linear`.
        bias: `[head_times_3_d_head]`, or None.
        n_heads: How many heads.
    """
    rows = weight.unflatten(0, (n_heads, 3, -1))
    biases = None if bias is None else bias.unflatten(0, (n_heads, 3, -1))
    return [Projection(rows[:, part].transpose(1, 2), None if biases is None else biases[:, part]) for part in range(3)]


def window_of(config: Any, layer: int) -> int | None:
    """How many positions a query of a layer sees, by the config's types of layers; None for all.

    Args:
        config: The config.
        layer: Which layer.
    """
    return config.sliding_window if config.layer_types[layer] == "sliding_attention" else None


def block_of(block: Any, *, norm: Callable[[Any], Norm] = rms_norm, **settings: Any) -> BoundBlock:
    """A block with Llama's names of modules: two norms before, four projections, a gated MLP.

    Args:
        block: The model's own.
        norm: What makes its norms.
        settings: More of the bound block, which win; those of `Attention` go into its declaration.
    """
    attention = block.self_attn
    own = {name: settings.pop(name) for name in Attention.__dataclass_fields__ if name in settings}
    parts: dict[str, Any] = {
        "attention_norm": norm(block.input_layernorm) if hasattr(block, "input_layernorm") else Norm.none(),
        "raw_output": attention.o_proj.weight.T,
        "raw_output_bias": attention.o_proj.bias,
        "attention": Attention(**{"scale": attention.scaling} | own),
    }
    if hasattr(attention, "q_proj"):
        parts |= zip(("query", "key", "value"), separate(attention), strict=True)
    if "mlp_norm" not in settings:
        parts["mlp_norm"] = norm(block.post_attention_layernorm)
    if "mlp" not in settings:
        parts["mlp"] = GatedMLP(block.mlp)
    return BoundBlock(**parts | settings)


def block_with(
    norms: tuple[nn.Module, nn.Module],
    projections: Iterable[Projection],
    output: nn.Linear,
    attention: Attention,
    mlp: nn.Module,
) -> BoundBlock:
    """A block with layer norms, put together from its parts.

    Args:
        norms: Before the attention and before the MLP.
        projections: Of queries, keys and values.
        output: From the heads back to the residual stream.
        attention: How the heads attend.
        mlp: The MLP.
    """
    query, key, value = projections
    return BoundBlock(
        attention_norm=Norm.layer(norms[0]),  # type: ignore[arg-type]
        query=query,
        key=key,
        value=value,
        raw_output=output.weight.T,
        raw_output_bias=output.bias,
        attention=attention,
        mlp_norm=Norm.layer(norms[1]),  # type: ignore[arg-type]
        mlp=mlp,
    )


def bind_with(
    block: Callable[[Any, Any, int], BoundBlock], *, norm: Callable[[Any], Norm] = rms_norm, **settings: Any
) -> Callable[[Any], BoundModel]:
    """What binds a model with Llama's names of modules.

    Args:
        block: From a block of the model, its config and the layer to the bound block.
        norm: What makes the final norm.
        settings: More of the bound model, made of the model by functions; they win.
    """

    def bind(model: Any) -> BoundModel:
        body = model.model
        parts: dict[str, Any] = {
            "embed": lambda ids, positions: (body.embed_tokens(ids),),
            "blocks": tuple(block(own, model.config, layer) for layer, own in enumerate(body.layers)),
            "final_norm": norm(body.norm) if "final_norm" not in settings else None,
            "unembed": model.lm_head,
            "rotaries": (prompt_by_prompt(body.rotary_emb),) if "rotaries" not in settings else (),
        }
        return BoundModel(**parts | {name: made(model) for name, made in settings.items()})

    return bind


def contradictions(values: Mapping[str, Any], *, partial: bool = False) -> Iterator[str]:
    """Say what in the fields of a Llama-like config does not fit together.

    Args:
        values: The fields.
        partial: Whether only a share of a head's dimensions may be turned.
    """
    uneven: list[str] = []
    if values.get("head_dim") is None:
        uneven += not_a_multiple(values, "hidden_size", "num_attention_heads")
    yield from uneven
    yield from not_a_multiple(values, "num_attention_heads", "num_key_value_heads")
    rope = list(wrong_rope(values, partial=partial))
    yield from rope
    if not uneven and not rope and not partial:
        yield from not_halved(values)
    types = values.get("layer_types") or ()
    if "sliding_attention" in types and "sliding_window" in values and values["sliding_window"] is None:
        yield "sliding_window=None: expected a whole number, since layer_types has sliding_attention"
    experts, chosen = values.get("num_local_experts") or values.get("num_experts"), values.get("num_experts_per_tok")
    if experts and chosen and chosen > experts:
        yield f"num_experts_per_tok={chosen}: expected no more than there are experts, {experts}"


def contradictions_partly_turned(values: Mapping[str, Any]) -> Iterator[str]:
    """As `contradictions`, where a share of a head's dimensions may be turned.

    Args:
        values: The fields.
    """
    return contradictions(values, partial=True)


def not_halved(values: Mapping[str, Any], share: float = 1) -> Iterator[str]:
    """Say where an odd number of a head's dimensions is to be turned, half of them against the others.

    Args:
        values: A config's fields.
        share: Of a head's dimensions, how many are turned.
    """
    head, named = values.get("head_dim"), "head_dim="
    if head is None:
        width, n_heads = values.get("hidden_size"), values.get("num_attention_heads")
        if not isinstance(width, int) or not isinstance(n_heads, int):
            return
        head, named = width // n_heads, f"hidden_size={width} over num_attention_heads={n_heads} makes heads of "
    turned = int(head * share)
    if turned % 2:
        which = "" if share == 1 else f", of which partial_rotary_factor={share} turns {turned}"
        yield f"{named}{head}{which}: expected an even number, its halves are turned against each other"


# ---------------------------------------------------------------- a rotary embedding for each type of layer


def rotaries_by_type(model: Any) -> tuple[nn.Module, ...]:
    """A model's rotary embeddings, one for each type of layer.

    Args:
        model: The model.
    """
    kinds = sorted(set(model.config.layer_types))
    return tuple(LayerTypeRotary(model.model.rotary_emb, kind) for kind in kinds)


def rotary_by_type(config: Any, layer: int) -> int:
    """Which of them a layer takes.

    Args:
        config: The model's config.
        layer: Which layer.
    """
    return sorted(set(config.layer_types)).index(config.layer_types[layer])


def contradictions_by_type(values: Mapping[str, Any]) -> Iterator[str]:
    """As `contradictions`; no frequencies that depend on how long a prompt is.

    Args:
        values: The fields.
    """
    yield from contradictions({name: value for name, value in values.items() if name not in ROPE})
    per_type = values.get("rope_parameters") or {}
    if not isinstance(per_type, Mapping) or not all(isinstance(each, Mapping) for each in per_type.values()):
        yield f"rope_parameters={per_type!r}: expected an object of settings for each type of layer"
        return
    for kind, settings in per_type.items():
        yield from wrong_rope({"rope_parameters": settings})
        if settings.get("rope_type") in ("dynamic", "longrope"):
            yield f"rope_parameters: {kind}: rope_type={settings['rope_type']!r} is not supported for a type of layer"
