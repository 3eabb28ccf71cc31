"""Where models keep what the oracles hook: written out here, family by family, and taken from nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel, LlamaForCausalLM, MistralForCausalLM


@dataclass(frozen=True)
class Place:
    """Where a family keeps one head's port: columns of the output of a linear map."""

    linear: nn.Module
    columns: slice


@dataclass(frozen=True)
class Landmarks:
    """Where a model keeps what the oracles hook.

    Attributes:
        embeddings: The embeddings, by the names of their writers.
        norms: A layer's norms before the attention and before the MLP. `nn.Identity` for the first where there is none;
            the MLP itself for the second where there is none; twice the same module where both parts share one.
        port: The place of a layer's query, key or value (`q`, `k`, `v`) of a head.
        output: A layer's projection from the heads to the residual stream.
        output_rows: The weights of that projection for one head `[d_head d_model]`.
        mlp: A layer's MLP.
        last: The norm before the logits.
        d_head: Width of a head.
        mlp_output: What puts out what a layer's MLP adds to the residual stream, but for `factor`; None for the MLP.
        first: What the residual stream enters first; None to take the sum of the embeddings.
        heads_norm: A layer's RMS norm between the sum of its heads and the residual stream; None where there is none.
        heads_norm_offset: What that norm adds to its weights.
        factor: What a layer's parts are multiplied with before they are added to the residual stream.
    """

    embeddings: dict[str, nn.Module]
    norms: Callable[[int], tuple[nn.Module, nn.Module]]
    port: Callable[[int, str, int], Place]
    output: Callable[[int], nn.Module]
    output_rows: Callable[[int, int], Tensor]
    mlp: Callable[[int], nn.Module]
    last: nn.Module
    d_head: int
    mlp_output: Callable[[int], nn.Module] | None = None
    first: nn.Module | None = None
    heads_norm: Callable[[int], Any] | None = None
    heads_norm_offset: float = 0.0
    factor: float = 1.0

    def of_heads(self, layer: int, gathered: Tensor) -> list[Tensor]:
        """What each head of a layer writes, from what all gathered `[batch seq heads·d_head]`."""
        heads = gathered.split(self.d_head, -1)
        said = [head @ self.output_rows(layer, index) for index, head in enumerate(heads)]
        if self.heads_norm is not None:
            norm, together = self.heads_norm(layer), torch.stack(said).sum(0)
            epsilon = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
            scale = (together.square().mean(-1, keepdim=True) + epsilon) ** -0.5
            said = [each * scale * (norm.weight + self.heads_norm_offset) for each in said]
        return [each * self.factor for each in said]


@dataclass(frozen=True, kw_only=True)
class Names:
    """Where modules of a decoder are found, as dotted paths; the defaults are Llama's.

    Attributes:
        body: The decoder, in the model.
        layers: Its layers.
        embedding: Its token embedding.
        last: Its last norm.
        norm: In a layer: the norm before the attention; None where there is none.
        mlp_norm: The norm before the MLP; None where there is none; the same as `norm` where both share one.
        mlp: The MLP.
        mlp_output: What puts out what the MLP adds to the residual stream; None for the MLP.
        heads_norm: The norm between the heads and the residual stream; None where there is none.
        heads_norm_offset: What that norm adds to its weights.
        queries, keys, values: The projections; or all three of the same name.
        fused: Where they are one: `rows` if all queries come first, then all keys, then all values; `heads` if each
            head's query, key and value stand side by side; `groups` if the queries of a key-value head stand together,
            followed by its key and its value; `quarters` if a quarter of the heads stand together: their queries,
            values, and keys.
        output: The projection from the heads.
        transposed: Whether its weights are `[heads·d_head d_model]`, as of `Conv1D`.
        factor: See `Landmarks`.
    """

    body: str = "model"
    layers: str = "layers"
    embedding: str = "embed_tokens"
    last: str = "norm"
    norm: str | None = "input_layernorm"
    mlp_norm: str | None = "post_attention_layernorm"
    mlp: str = "mlp"
    mlp_output: str | None = None
    heads_norm: str | None = None
    heads_norm_offset: float = 0.0
    queries: str = "self_attn.q_proj"
    keys: str = "self_attn.k_proj"
    values: str = "self_attn.v_proj"
    fused: Literal["rows", "heads", "groups", "quarters"] | None = None
    output: str = "self_attn.o_proj"
    transposed: bool = False
    factor: float = 1.0

    def find(self, model: nn.Module, *, d_head: int, n_heads: int, n_kv_heads: int) -> Landmarks:
        """The landmarks of a model.

        Args:
            model: The model.
            d_head: Width of a head.
            n_heads: Query heads of a layer.
            n_kv_heads: Key-value heads of a layer.
        """
        body: Any = attrgetter(self.body)(model)
        layers = attrgetter(self.layers)(body)

        def part(layer: int, name: str) -> Any:
            return attrgetter(name)(layers[layer])

        def norms(layer: int) -> tuple[nn.Module, nn.Module]:
            before = nn.Identity() if self.norm is None else part(layer, self.norm)
            return before, part(layer, self.mlp if self.mlp_norm is None else self.mlp_norm)

        def first_row(port: str, head: int) -> int:
            if self.fused is None:
                return head
            if self.fused == "rows":
                return {"q": 0, "k": n_heads, "v": n_heads + n_kv_heads}[port] + head
            if self.fused == "quarters":
                size = n_heads // 4
                return (head // size) * 3 * size + "qvk".index(port) * size + head % size
            if self.fused == "heads":
                return 3 * head + "qkv".index(port)
            size = n_heads // n_kv_heads
            group, place = (head // size, head % size) if port == "q" else (head, size + "kv".index(port))
            return group * (size + 2) + place

        def port(layer: int, port: str, head: int) -> Place:
            name = {"q": self.queries, "k": self.keys, "v": self.values}[port]
            row = first_row(port, head) * d_head
            return Place(part(layer, name), slice(row, row + d_head))

        def output_rows(layer: int, head: int) -> Tensor:
            weight = part(layer, self.output).weight
            rows = weight if self.transposed else weight.T
            return rows[head * d_head : (head + 1) * d_head]

        heads_norm, mlp_output = self.heads_norm, self.mlp_output
        return Landmarks(
            embeddings={"tok": attrgetter(self.embedding)(body)},
            norms=norms,
            port=port,
            output=lambda layer: part(layer, self.output),
            output_rows=output_rows,
            mlp=lambda layer: part(layer, self.mlp),
            last=attrgetter(self.last)(body),
            d_head=d_head,
            mlp_output=None if mlp_output is None else lambda layer: part(layer, mlp_output),
            first=layers[0],
            heads_norm=None if heads_norm is None else lambda layer: part(layer, heads_norm),
            heads_norm_offset=self.heads_norm_offset,
            factor=self.factor,
        )


LLAMA = Names()
GPT2 = Names(
    body="transformer", layers="h", embedding="wte", last="ln_f", norm="ln_1", mlp_norm="ln_2", queries="attn.c_attn",
    keys="attn.c_attn", values="attn.c_attn", fused="rows", output="attn.c_proj", transposed=True,
)  # fmt: skip


def landmarks(model: nn.Module) -> Landmarks:
    """The landmarks of a model of `tests.oracles.cases`."""
    config: Any = model.config
    if isinstance(model, GPT2LMHeadModel):
        heads = config.n_head
        found = GPT2.find(model, d_head=config.n_embd // heads, n_heads=heads, n_kv_heads=heads)
        found.embeddings["pos"] = model.transformer.wpe
        return found
    if isinstance(model, LlamaForCausalLM | MistralForCausalLM):
        groups = {"n_heads": config.num_attention_heads, "n_kv_heads": config.num_key_value_heads}
        return LLAMA.find(model, d_head=config.head_dim, **groups)
    size = config.d_head
    body: Any = model
    return Landmarks(
        embeddings={"tok": body.tok_embed, "pos": body.pos_embed},
        norms=lambda n: (nn.Identity(), body.blocks[n].mlp),
        port=lambda n, port, head: Place(getattr(body.blocks[n].attn, port), slice(head * size, (head + 1) * size)),
        output=lambda n: body.blocks[n].attn.o,
        output_rows=lambda n, head: body.blocks[n].attn.o.weight[:, head * size : (head + 1) * size].T,
        mlp=lambda n: body.blocks[n].mlp,
        last=body.unembed,
        d_head=size,
    )
