"""From a model's sizes and the user's choices to its universe."""

from __future__ import annotations

from collections.abc import Mapping

from circuitgraph.architectures.family import Family, ModelShape
from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.universe import Universe


def decided_choices(family: str, chosen: Mapping[str, str | None]) -> dict[str, str]:
    """The granularity of a graph, with a family's own where nothing was chosen.

    Args:
        family: The family's name.
        chosen: `embeddings`, `kv_heads` and `qkv`; None, or left out, is no choice.

    Examples:
        >>> decided_choices("tracr", {"qkv": "joint"})
        {'embeddings': 'split', 'kv_heads': 'native', 'qkv': 'joint'}
    """
    own = {"embeddings": "split" if family == "tracr" else "joint", "kv_heads": "native", "qkv": "split"}
    return {name: chosen.get(name) or default for name, default in own.items()}


def universe_of(
    family: Family,
    shape: ModelShape,
    *,
    embeddings: str = "joint",
    kv_heads: str = "native",
    qkv: str = "split",
) -> Universe:
    """The universe of a model's sizes and the user's choices.

    Raises:
        ConfigurationError: The choices do not fit the model.
    """
    if embeddings == "split" and not shape.learned_positions:
        raise ConfigurationError(
            f"embeddings='split' needs learned position embeddings, which {family.name} models do not have; "
            "use embeddings='joint'"
        )
    if kv_heads == "per_query" and shape.normed_together and shape.n_kv_heads < shape.n_heads:
        raise ConfigurationError(
            f"kv_heads='per_query' gives every query head its own key, but {family.name} models norm the "
            f"{shape.n_kv_heads} keys of a layer together; use kv_heads='native'"
        )
    return Universe(
        family=family.name,
        block_order=shape.block_order,
        n_layers=shape.n_layers,
        n_heads=shape.n_heads,
        n_kv_heads=shape.n_kv_heads,
        embeddings=embeddings,
        kv_heads=kv_heads,
        qkv=qkv,
        head_scale=shape.head_scale,
    )
