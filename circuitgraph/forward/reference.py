"""The plain run of a bound model, and the ablation values taken from such runs.

`reference_run` is the model as it is, through the same bound weights that the masked pass uses, keeping
the output of each head and MLP. From such runs come the counterfactual values (the run on the corrupted
prompts) and the means; zero ablation needs none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.architectures.family import BoundBlock, BoundModel, ModelShape, Projection, Rotaries
from circuitgraph.architectures.rotary import rotaries_of
from circuitgraph.batch import TokenBatch
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.attention import attend, attention_mask, prepared, rotary_for, windowed
from circuitgraph.forward.vectors import Vector, said_by_vectors, sums_by_layer


def project(x: Float[Tensor, "batch seq d_model"], projection: Projection) -> Float[Tensor, "head batch seq d_head"]:
    """Project one shared read to every head."""
    flat = x @ projection.matrix
    if projection.bias is not None:
        flat = flat + projection.bias
    return flat.unflatten(-1, (projection.n_heads, -1)).permute(2, 0, 1, 3)


def to_query_heads(
    kv: Float[Tensor, "kv_head batch seq d_head"], n_heads: int
) -> Float[Tensor, "head batch seq d_head"]:
    """Give every query head its group's keys or values."""
    return kv if kv.shape[0] == n_heads else kv.repeat_interleave(n_heads // kv.shape[0], dim=0)


def _heads_read(block: BoundBlock, residual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The heads' queries, keys and values as they are projected."""
    x = block.attention_norm(residual)
    return project(x, block.query), project(x, block.key), project(x, block.value)


def heads_output(block: BoundBlock, mixed: Float[Tensor, "head batch seq d_head"]) -> Tensor:
    """What the heads gathered, settled, through the output projection, with its bias."""
    output = mixed.permute(1, 2, 0, 3).flatten(-2) @ block.output
    return output if block.output_bias is None else output + block.output_bias


def attended(
    block: BoundBlock,
    shape: ModelShape,
    x: Tensor,
    mask: Tensor | None,
    rotaries: Rotaries,
    patterns: Mapping[int, Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """What the heads gather, and their queries, keys and values as they were projected.

    Args:
        block: The layer.
        shape: The model's sizes.
        x: What the heads read, before the norm.
        mask: Which positions each query may see.
        rotaries: Of these positions.
        patterns: For heads, by number: the shares `[batch seq seq]` that they gather values by instead of their own.
    """
    read, attention = _heads_read(block, x), block.attention
    rotary = rotary_for(attention, rotaries)
    query, key, value = (prepared(attention, kind, part, rotary) for kind, part in enumerate(read))
    key, value = to_query_heads(key, shape.n_heads), to_query_heads(value, shape.n_heads)
    mask = windowed(mask, attention, x.shape[1], x.device)
    mixed = attend(query, key, value, mask, causal=shape.causal, attention=attention)
    if patterns:
        mixed = torch.stack([patterns[h] @ value[h] if h in patterns else mixed[h] for h in range(shape.n_heads)])
    return block.settled(mixed), read


def attention_output(
    block: BoundBlock, shape: ModelShape, residual: Float[Tensor, "batch seq d_model"], mask: Tensor | None,
    rotaries: Rotaries,
) -> Float[Tensor, "batch seq d_model"]:  # fmt: skip
    """What a layer's attention adds to the residual stream, with autograd where the residual stream has a gradient.

    Args:
        block: The layer.
        shape: The model's sizes.
        residual: What it reads.
        mask: Which positions a query may see, of `attention_mask`.
        rotaries: Cosines and sines of the model's rotary embeddings.
    """
    return heads_output(block, attended(block, shape, residual, mask, rotaries)[0])


def embed(bound: BoundModel, batch: TokenBatch) -> tuple[Tensor, ...]:
    """The output of each embedding of the model, `[batch seq d_model]` each."""
    return bound.embed(batch.input_ids, batch.position_ids)


@torch.no_grad()
def reference_run(
    bound: BoundModel, shape: ModelShape, batch: TokenBatch, *, keep: bool = True, vectors: Sequence[Vector] = ()
) -> tuple[Float[Tensor, "asked d_vocab"], AblationValues | None]:
    """Run the plain model.

    Args:
        bound: The model's weights.
        shape: The model's sizes.
        batch: Prompts.
        keep: Whether to keep every writer's output.
        vectors: What is added to the model.

    Returns:
        The logits at the asked positions, and every writer's output (None unless `keep`).
    """
    mask = attention_mask(batch.attention_mask, shape.causal, padded=batch.padded)
    embeddings = embed(bound, batch)
    residual = sum(embeddings[1:], embeddings[0])
    rotaries = rotaries_of(bound.rotaries, residual, batch)
    heads, attention, mlps, reads = [], [], [], []
    added = said_by_vectors(vectors, batch, residual)
    by_layer = sums_by_layer(vectors, added)
    for layer, block in enumerate(bound.blocks):
        residual = residual + by_layer[layer] if layer in by_layer else residual
        mixed, read = attended(block, shape, residual, mask, rotaries)
        output = heads_output(block, mixed)
        after = residual + output
        mlp = block.mlp(block.mlp_norm(after if shape.block_order == "sequential" else residual))
        residual = after + mlp
        if keep:
            heads.append(mixed.contiguous())
            attention.append(output)
            mlps.append(mlp)
            reads.append([part.contiguous() for part in read])
    asked = residual.flatten(0, 1)[batch.predict_index]
    logits = bound.unembed(bound.final_norm(asked))
    if not keep:
        return logits, None
    query, key, value = zip(*reads, strict=True)
    values = AblationValues(
        ablation="counterfactual", embeddings=embeddings, heads=tuple(heads), attention=tuple(attention),
        mlps=tuple(mlps), query=query, key=key, value=value,
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, vectors=added,
    )  # fmt: skip
    return logits, values


def residual_before(
    values: AblationValues, layer: int, vectors: Sequence[Vector] = ()
) -> Float[Tensor, "batch seq d_model"]:
    """The residual stream of a run before a layer, vectors that are added there not yet in it.

    Args:
        values: What every writer said.
        layer: Before which layer; the number of layers for what the final norm reads.
        vectors: What was added to the model.
    """
    residual = sum(values.embeddings[1:], values.embeddings[0])
    for earlier in range(layer):
        residual = residual + values.attention[earlier] + values.mlps[earlier]
    for vector, value in zip(vectors, values.vectors, strict=True):
        residual = residual + value if vector.layer < layer else residual
    return residual


@torch.no_grad()
def read_again(bound: BoundModel, values: AblationValues, *, vectors: Sequence[Vector] = ()) -> AblationValues:
    """Fill in what `AblationValues.only_said` left out, without attention and without MLPs.

    Args:
        bound: The model's weights.
        values: One run's, or constants.
        vectors: What is added to the model; `values` say whether it was.

    Returns:
        The values of the whole run; what was filled in can differ from it in the last bits. Constants get no queries,
        keys and values: they are those of no run.
    """
    values = replace(values, heads=tuple(values.heads), mlps=tuple(values.mlps), embeddings=tuple(values.embeddings))
    residual = sum(values.embeddings[1:], values.embeddings[0])
    attention, reads = [], []
    by_layer = sums_by_layer(vectors, values.vectors)
    for layer, (block, mixed, mlp) in enumerate(zip(bound.blocks, values.heads, values.mlps, strict=True)):
        residual = residual + by_layer[layer] if layer in by_layer else residual
        if values.per_prompt:
            reads.append([part.contiguous() for part in _heads_read(block, residual)])
        attention.append(heads_output(block, mixed))
        residual = residual + attention[-1] + mlp
    query, key, value = zip(*reads, strict=True) if reads else ((), (), ())
    return replace(values, attention=tuple(attention), query=query, key=key, value=value)


def zero_values(bound: BoundModel, shape: ModelShape, like: Tensor) -> AblationValues:
    """Zero ablation: every writer's output is 0; output biases of attention stay, since they are no head's.

    Args:
        bound: The model's weights.
        shape: The model's sizes.
        like: Gives dtype and device.
    """

    def zeros(*size: int) -> Tensor:
        return torch.zeros(*size, dtype=like.dtype, device=like.device)

    n_embeddings = 2 if shape.learned_positions else 1
    biases = [block.output_bias for block in bound.blocks]
    return AblationValues(
        ablation="zero",
        embeddings=tuple(zeros(1, 1, shape.d_model) for _ in range(n_embeddings)),
        heads=tuple(zeros(shape.n_heads, 1, 1, shape.d_head) for _ in bound.blocks),
        attention=tuple(zeros(1, 1, shape.d_model) if b is None else b[None, None] for b in biases),
        mlps=tuple(zeros(1, 1, shape.d_model) for _ in bound.blocks),
    )


def mean_values(
    bound: BoundModel, shape: ModelShape, batches: Iterable[TokenBatch], *, per_position: bool = False
) -> AblationValues:
    """Mean ablation: every writer's output is its mean over a data set's real tokens.

    Args:
        bound: The model's weights.
        shape: The model's sizes.
        batches: The data set.
        per_position: One mean per position instead of one in all.

    Returns:
        The means, summed in float64.

    Raises:
        ConfigurationError: No data, or means per position over prompts of unequal length.
    """
    ablation = "mean-positional" if per_position else "mean"
    total: AblationValues | None = None
    count = 0.0
    dtype = None
    for batch in batches:
        real = batch.attention_mask
        if per_position and (not bool(real.all()) or (total is not None and total.mlps[0].shape[1] != real.shape[1])):
            raise ConfigurationError(
                "mean ablation per position needs prompts of one length; got unequal lengths. "
                "Use --ablation mean, or prompts of one length."
            )
        _, values = reference_run(bound, shape, batch)
        assert values is not None
        dtype = values.mlps[0].dtype
        values = values.constant(ablation)
        weight = real.to(torch.float64)[..., None]
        axes = (-3,) if per_position else (-3, -2)
        part = values.changed(lambda value, _: (value.double() * weight).sum(axes, keepdim=True))  # noqa: B023
        total = part if total is None else total.plus(part)
        count += float(real.shape[0] if per_position else real.sum())
    if total is None or count == 0:
        raise ConfigurationError("mean ablation needs at least one prompt to average over; got none")
    return total.changed(lambda value, _: (value / count).to(dtype))
