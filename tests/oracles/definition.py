"""The definition of a masked forward pass, written out plainly: slow, and sharing no code with the executor.

    x_i = Σ_j [ z_ij · y_j + (1 − z_ij) · ỹ_j ] + the output biases of the attentions before i

One prompt at a time, without padding, one reader at a time; norms, rotary embedding, attention and
activations are spelt out here and only the weights come from the model. Gradients are autograd's own.
`circuitgraph` gives the names of writers and readers (`Universe`) and nothing else.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel, LlamaForCausalLM, MistralForCausalLM

from circuitgraph.graph.universe import Universe
from circuitgraph.tracr import TracrModel

Said = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class PlainLayer:
    """One layer's weights, a head at a time: every product is `x @ weight + bias`."""

    norm_attention: Callable[[Tensor], Tensor]
    queries: list[tuple[Tensor, Tensor]]
    keys: list[tuple[Tensor, Tensor]]
    values: list[tuple[Tensor, Tensor]]
    outputs: list[Tensor]
    output_bias: Tensor
    scale: float
    norm_mlp: Callable[[Tensor], Tensor]
    mlp: Callable[[Tensor], Tensor]
    window: int | None = None


@dataclass(frozen=True, kw_only=True)
class PlainModel:
    """A model as the definition needs it."""

    embed: Callable[[Tensor], Said]
    layers: list[PlainLayer]
    logits: Callable[[Tensor], Tensor]
    rotate: Callable[[Tensor], Tensor]
    causal: bool


# ---------------------------------------------------------------- the definition


def run(
    plain: PlainModel,
    universe: Universe,
    gates: Tensor,
    ids: Tensor,
    ablated: Said | None,
    vectors: Mapping[str, Tensor] = MappingProxyType({}),
) -> tuple[Tensor, Said]:
    """Run one unpadded prompt.

    Args:
        plain: The model.
        universe: Gives the names and the order of edges.
        gates: One gate per edge, in the weights' dtype.
        ids: Token ids `[seq]`.
        ablated: What each writer says when it is ablated `[seq d_model]`; None where all gates are 1.
        vectors: What each vector of the universe says `[seq d_model]`.

    Returns:
        Logits `[seq vocab]`, and what each writer said.
    """
    said: Said = dict(plain.embed(ids))
    if universe.embeddings == "joint":
        said = {"input": torch.stack(list(said.values())).sum(0)}
    biases: list[Tensor] = []

    def sees(reader: str) -> Tensor:
        z = gates[_edges_into(universe, reader, tuple(said))][:, None, None]
        y = torch.stack(list(said.values()))
        if ablated is None:
            mixed = z * y
        else:
            mixed = z * y + (1 - z) * torch.stack([ablated[writer].expand_as(y[0]) for writer in said])
        return torch.cat([mixed, *(bias.expand_as(y[:1]) for bias in biases)]).sum(0)

    for number, layer in enumerate(plain.layers):
        said.update({name: vectors[name] for name in universe.virtual if name.endswith(f"@{number}")})
        heads = {
            f"a{number}.h{head}": _head(plain, universe, layer, number, head, sees) for head in range(universe.n_heads)
        }
        if universe.block_order == "parallel":
            heads[f"m{number}"] = layer.mlp(layer.norm_mlp(sees(f"m{number}")))
        said.update(heads)
        biases.append(layer.output_bias)
        if universe.block_order == "sequential":
            said[f"m{number}"] = layer.mlp(layer.norm_mlp(sees(f"m{number}")))
    return plain.logits(sees("logits")), said


@functools.cache
def _edges_into(universe: Universe, reader: str, writers: tuple[str, ...]) -> list[int]:
    return [universe.edge_index(writer, reader) for writer in writers]


def _head(
    plain: PlainModel,
    universe: Universe,
    layer: PlainLayer,
    number: int,
    head: int,
    sees: Callable[[str], Tensor],
) -> Tensor:
    group = head * len(layer.keys) // universe.n_heads
    names = _port_names(universe, number, head, group)
    weights = {"q": layer.queries[head], "k": layer.keys[group], "v": layer.values[group]}
    vectors = {}
    for port, (weight, bias) in weights.items():
        vectors[port] = layer.norm_attention(sees(names[port])) @ weight + bias
    scores = plain.rotate(vectors["q"]) @ plain.rotate(vectors["k"]).T * layer.scale
    if plain.causal:
        later = torch.ones(scores.shape, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    if layer.window is not None:
        for position in range(len(scores)):
            scores[position, : max(0, position - layer.window + 1)] = -math.inf
    shares = (scores - scores.detach().amax(-1, keepdim=True)).exp()
    return shares / shares.sum(-1, keepdim=True) @ vectors["v"] @ layer.outputs[head]


def _port_names(universe: Universe, layer: int, head: int, group: int) -> dict[str, str]:
    if universe.qkv == "joint":
        return dict.fromkeys("qkv", f"a{layer}.h{head}<qkv>")
    grouped = universe.kv_heads == "native" and universe.n_kv_heads < universe.n_heads
    kv = f"kv{group}" if grouped else f"h{head}"
    return {"q": f"a{layer}.h{head}<q>", "k": f"a{layer}.{kv}<k>", "v": f"a{layer}.{kv}<v>"}


def plain_run(plain: PlainModel, universe: Universe, ids: Tensor) -> tuple[Tensor, Said]:
    """The untouched model on one prompt: all gates 1."""
    dtype = plain.layers[0].output_bias.dtype
    return run(plain, universe, torch.ones(universe.n_edges, dtype=dtype), ids, None)


def mean_said(plain: PlainModel, universe: Universe, prompts: Sequence[Tensor], *, per_position: bool) -> Said:
    """What each writer says on average over the tokens of prompts, or over prompts at each position."""
    runs = [plain_run(plain, universe, ids)[1] for ids in prompts]
    if per_position:
        return {name: torch.stack([said[name] for said in runs]).mean(0) for name in runs[0]}
    return {name: torch.cat([said[name] for said in runs]).mean(0) for name in runs[0]}


# ---------------------------------------------------------------- the families


def plain_model(model: torch.nn.Module, dtype: torch.dtype = torch.float64) -> PlainModel:
    """Read a model's weights, cast to `dtype`."""
    model = copy.deepcopy(model).to(dtype).requires_grad_(False)
    if isinstance(model, GPT2LMHeadModel):
        return _gpt2(model)
    if isinstance(model, LlamaForCausalLM | MistralForCausalLM):
        return _llama(model)
    if isinstance(model, TracrModel):
        return _tracr(model)
    raise TypeError(type(model))


def _columns(weight: Tensor, bias: Tensor | None, first: int, width: int) -> tuple[Tensor, Tensor]:
    part = slice(first, first + width)
    none = torch.zeros(width, dtype=weight.dtype)
    return weight[:, part], none if bias is None else bias[part]


def _layer_norm(module: torch.nn.Module) -> Callable[[Tensor], Tensor]:
    weight, bias, epsilon = module.weight, module.bias, module.eps

    def norm(x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return weight * centred / (centred.square().mean(-1, keepdim=True) + epsilon).sqrt() + bias

    return norm


def _rms_norm(module: torch.nn.Module) -> Callable[[Tensor], Tensor]:
    weight, epsilon = module.weight, module.variance_epsilon
    return lambda x: weight * x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt()


def _gelu_new(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _gpt2(model: GPT2LMHeadModel) -> PlainModel:
    body, config = model.transformer, model.config
    width, d_head = config.n_embd, config.n_embd // config.n_head
    firsts = range(0, width, d_head)

    def layer(block: torch.nn.Module) -> PlainLayer:
        fused = block.attn.c_attn
        into, out = block.mlp.c_fc, block.mlp.c_proj
        return PlainLayer(
            norm_attention=_layer_norm(block.ln_1),
            queries=[_columns(fused.weight, fused.bias, first, d_head) for first in firsts],
            keys=[_columns(fused.weight, fused.bias, width + first, d_head) for first in firsts],
            values=[_columns(fused.weight, fused.bias, 2 * width + first, d_head) for first in firsts],
            outputs=[block.attn.c_proj.weight[first : first + d_head] for first in firsts],
            output_bias=block.attn.c_proj.bias,
            scale=1 / math.sqrt(d_head),
            norm_mlp=_layer_norm(block.ln_2),
            mlp=lambda x: _gelu_new(x @ into.weight + into.bias) @ out.weight + out.bias,
        )

    final = _layer_norm(body.ln_f)
    return PlainModel(
        embed=lambda ids: {
            "tok": body.wte.weight[ids],
            "pos": body.wpe.weight[: len(ids)],
        },
        layers=[layer(block) for block in body.h],
        logits=lambda x: final(x) @ model.lm_head.weight.T,
        rotate=lambda x: x,
        causal=True,
    )


def _llama(model: LlamaForCausalLM | MistralForCausalLM) -> PlainModel:
    body, config = model.model, model.config
    d_head = config.head_dim

    def per_head(linear: torch.nn.Linear) -> list[tuple[Tensor, Tensor]]:
        return [
            _columns(linear.weight.T, linear.bias, first, d_head) for first in range(0, linear.out_features, d_head)
        ]

    def affine(linear: torch.nn.Linear, x: Tensor) -> Tensor:
        y = x @ linear.weight.T
        return y if linear.bias is None else y + linear.bias

    def mlp(module: torch.nn.Module, x: Tensor) -> Tensor:
        gate = affine(module.gate_proj, x)
        return affine(module.down_proj, gate / (1 + (-gate).exp()) * affine(module.up_proj, x))

    def layer(block: torch.nn.Module) -> PlainLayer:
        attention = block.self_attn
        output = attention.o_proj
        out = output.weight.T
        return PlainLayer(
            norm_attention=_rms_norm(block.input_layernorm),
            queries=per_head(attention.q_proj),
            keys=per_head(attention.k_proj),
            values=per_head(attention.v_proj),
            outputs=[out[first : first + d_head] for first in range(0, out.shape[0], d_head)],
            output_bias=torch.zeros(out.shape[1], dtype=out.dtype) if output.bias is None else output.bias,
            scale=1 / math.sqrt(d_head),
            norm_mlp=_rms_norm(block.post_attention_layernorm),
            mlp=lambda x: mlp(block.mlp, x),
            window=getattr(config, "sliding_window", None),
        )

    def rotate(x: Tensor) -> Tensor:
        """Turn the pair (i, i + d/2) of position p by the angle p · θ^(−2i/d)."""
        half = d_head // 2
        steps = torch.arange(half, dtype=x.dtype) * 2 / d_head
        theta = float(config.rope_parameters["rope_theta"])
        angle = torch.arange(len(x), dtype=x.dtype)[:, None] * theta**-steps
        first, second = x[:, :half], x[:, half:]
        return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1)

    final = _rms_norm(body.norm)
    return PlainModel(
        embed=lambda ids: {"tok": body.embed_tokens.weight[ids]},
        layers=[layer(block) for block in body.layers],
        logits=lambda x: final(x) @ model.lm_head.weight.T,
        rotate=rotate,
        causal=True,
    )


def _tracr(model: TracrModel) -> PlainModel:
    d_head, n_heads = model.config.d_head, model.config.n_heads
    firsts = range(0, n_heads * d_head, d_head)

    def per_head(linear: torch.nn.Linear) -> list[tuple[Tensor, Tensor]]:
        return [_columns(linear.weight.T, linear.bias, first, d_head) for first in firsts]

    def layer(block: torch.nn.Module) -> PlainLayer:
        into, out = block.mlp.fc_in, block.mlp.fc_out
        return PlainLayer(
            norm_attention=lambda x: x,
            queries=per_head(block.attn.q),
            keys=per_head(block.attn.k),
            values=per_head(block.attn.v),
            outputs=[block.attn.o.weight.T[first : first + d_head] for first in firsts],
            output_bias=block.attn.o.bias,
            scale=1 / math.sqrt(d_head),
            norm_mlp=lambda x: x,
            mlp=lambda x: (x @ into.weight.T + into.bias).clamp(min=0) @ out.weight.T + out.bias,
        )

    return PlainModel(
        embed=lambda ids: {
            "tok": model.tok_embed.weight[ids],
            "pos": model.pos_embed.weight[: len(ids)],
        },
        layers=[layer(block) for block in model.blocks],
        logits=lambda x: x @ model.unembed.weight.T,
        rotate=lambda x: x,
        causal=model.config.causal,
    )
