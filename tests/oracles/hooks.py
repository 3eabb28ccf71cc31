"""Cut one edge of an untouched model with plain forward hooks: slow, one edge at a time, no shared code.

The model runs as it is; at the one reader whose edge is cut, `x` is replaced by `x − (1 − z)·(y − ỹ)`:
y is what the writer said in this very run, ỹ its ablation value. A query, key or value reader is one head's:
the layer's norm and projection are run again on what that reader sees, and only that head's columns of the
projection's output are replaced. Nothing before the reader knows about it, everything after it does.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel, LlamaForCausalLM, MistralForCausalLM

from circuitgraph.batch import TokenBatch


@dataclass(frozen=True)
class Place:
    """Where a family keeps one head's port: columns of the output of a linear map."""

    linear: nn.Module
    columns: slice


@dataclass(frozen=True)
class Landmarks:
    """Where a model keeps what the oracle hooks."""

    embeddings: dict[str, nn.Module]
    norms: Callable[[int], tuple[nn.Module, nn.Module]]
    port: Callable[[int, str, int], Place]
    output: Callable[[int], nn.Module]
    output_rows: Callable[[int, int], Tensor]
    mlp: Callable[[int], nn.Module]
    last: nn.Module
    d_head: int


def landmarks(model: nn.Module) -> Landmarks:
    """The modules of a model."""
    if isinstance(model, GPT2LMHeadModel):
        body, width = model.transformer, model.config.n_embd
        size = width // model.config.n_head
        return Landmarks(
            embeddings={"tok": body.wte, "pos": body.wpe},
            norms=lambda n: (body.h[n].ln_1, body.h[n].ln_2),
            port=lambda n, port, head: Place(
                body.h[n].attn.c_attn,
                slice("qkv".index(port) * width + head * size, "qkv".index(port) * width + (head + 1) * size),
            ),
            output=lambda n: body.h[n].attn.c_proj,
            output_rows=lambda n, head: body.h[n].attn.c_proj.weight[head * size : (head + 1) * size],
            mlp=lambda n: body.h[n].mlp,
            last=body.ln_f,
            d_head=size,
        )
    if isinstance(model, LlamaForCausalLM | MistralForCausalLM):
        body, size = model.model, model.config.head_dim
        return Landmarks(
            embeddings={"tok": body.embed_tokens},
            norms=lambda n: (body.layers[n].input_layernorm, body.layers[n].post_attention_layernorm),
            port=lambda n, port, head: Place(
                getattr(body.layers[n].self_attn, f"{port}_proj"), slice(head * size, (head + 1) * size)
            ),
            output=lambda n: body.layers[n].self_attn.o_proj,
            output_rows=lambda n, head: body.layers[n].self_attn.o_proj.weight[:, head * size : (head + 1) * size].T,
            mlp=lambda n: body.layers[n].mlp,
            last=body.norm,
            d_head=size,
        )
    size = model.config.d_head
    return Landmarks(
        embeddings={"tok": model.tok_embed, "pos": model.pos_embed},
        norms=lambda n: (nn.Identity(), model.blocks[n].mlp),
        port=lambda n, port, head: Place(getattr(model.blocks[n].attn, port), slice(head * size, (head + 1) * size)),
        output=lambda n: model.blocks[n].attn.o,
        output_rows=lambda n, head: model.blocks[n].attn.o.weight[:, head * size : (head + 1) * size].T,
        mlp=lambda n: model.blocks[n].mlp,
        last=model.unembed,
        d_head=size,
    )


@contextmanager
def hooked(handles: list[torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
    """Remove hooks at the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def call(model: nn.Module, batch: TokenBatch) -> Tensor:
    """The model's logits at the asked positions."""
    positions = (batch.attention_mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(batch.input_ids, attention_mask=batch.attention_mask, position_ids=positions).logits
    return logits.flatten(0, 1)[batch.predict_index]


def listen(marks: Landmarks, writer: str, heard: dict[str, Tensor]) -> list[torch.utils.hooks.RemovableHandle]:
    """Hooks that put what a writer says into `heard["said"]` as the model runs."""

    def add(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        # Position embeddings may come with a batch axis of 1.
        heard["said"] = output + heard["said"] if "said" in heard else output

    if writer in ("input", "tok", "pos"):
        wanted = marks.embeddings if writer == "input" else {writer: marks.embeddings[writer]}
        return [module.register_forward_hook(add) for module in wanted.values()]
    if writer.startswith("m"):
        return [marks.mlp(int(writer[1:])).register_forward_hook(add)]
    layer, head = map(int, re.findall(r"\d+", writer))

    def one_head(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        mixed = inputs[0][..., head * marks.d_head : (head + 1) * marks.d_head]
        heard["said"] = mixed @ marks.output_rows(layer, head)

    return [marks.output(layer).register_forward_pre_hook(one_head)]


def said_by(model: nn.Module, writer: str, batch: TokenBatch) -> Tensor:
    """What a writer says when the untouched model runs `[batch seq d_model]`."""
    heard: dict[str, Tensor] = {}
    with hooked(listen(landmarks(model), writer, heard)):
        call(model, batch)
    return heard["said"]


def cut_edge(
    model: nn.Module, writer: str, reader: str, batch: TokenBatch, ablated: Tensor, gate: float = 0.0
) -> Tensor:
    """Run the model with one edge gated.

    Args:
        model: The model.
        writer: Its source, `input`, `tok`, `pos`, `a0.h1` or `m0`.
        reader: Its target, `a1.h0<q>`, `a1.kv0<k>`, `a1.h2<qkv>`, `m1` or `logits`.
        batch: Prompts.
        ablated: What the writer says when it is ablated, broadcastable to `[batch seq d_model]`.
        gate: The edge's gate.

    Returns:
        Logits at the asked positions.
    """
    model = copy.deepcopy(model)
    marks = landmarks(model)
    heard: dict[str, Tensor] = {}
    handles = listen(marks, writer, heard)

    def seen(x: Tensor) -> Tensor:
        return x - (1 - gate) * (heard["said"] - ablated)

    def change_input(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (seen(inputs[0]), *inputs[1:])

    if reader == "logits":
        handles.append(marks.last.register_forward_pre_hook(change_input))
    elif reader.startswith("m"):
        module = marks.norms(int(reader[1:]))[1]
        # In front of the MLP's own listener, if the norm is the MLP itself.
        handles.append(module.register_forward_pre_hook(change_input))
    else:
        handles += _change_ports(marks, reader, seen)
    with hooked(handles):
        return call(model, batch)


def _change_ports(
    marks: Landmarks, reader: str, seen: Callable[[Tensor], Tensor]
) -> list[torch.utils.hooks.RemovableHandle]:
    layer, head = map(int, re.findall(r"\d+", reader))
    norm = marks.norms(layer)[0]
    residual: dict[str, Tensor] = {}
    handles = []
    if not isinstance(norm, nn.Identity):
        handles.append(norm.register_forward_pre_hook(lambda _m, inputs: residual.update(x=inputs[0])))

    def replace_columns(place: Place) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            # `forward` itself calls no hooks.
            again = module.forward(norm.forward(seen(residual.get("x", inputs[0]))))
            output = output.clone()
            output[..., place.columns] = again[..., place.columns]
            return output

        return hook

    for port in reader.split("<")[1].rstrip(">"):
        place = marks.port(layer, port, head)
        handles.append(place.linear.register_forward_hook(replace_columns(place)))
    return handles


def with_a_key_and_value_head_for_each_query(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The same function without grouping: keys and values repeated, so that each can be cut for one head."""
    model = copy.deepcopy(model)
    size, times = model.config.head_dim, model.config.num_attention_heads // model.config.num_key_value_heads
    for layer in model.model.layers:
        layer.self_attn.num_key_value_groups = 1
        for linear in (layer.self_attn.k_proj, layer.self_attn.v_proj):
            heads = linear.weight.detach().unflatten(0, (-1, size))
            linear.weight = nn.Parameter(heads.repeat_interleave(times, 0).flatten(0, 1))
            if linear.bias is not None:
                bias = linear.bias.detach().unflatten(0, (-1, size))
                linear.bias = nn.Parameter(bias.repeat_interleave(times, 0).flatten())
            linear.out_features *= times
    return model
