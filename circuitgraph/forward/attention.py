"""Attention over heads that stand in front: `[head batch seq d_head]`, as readers and writers do here."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from circuitgraph.architectures.attention import Attention
from circuitgraph.architectures.family import Rotaries, Rotary
from circuitgraph.architectures.rotary import rotate_halves, rotate_pairs
from circuitgraph.transfer import to_device


def attention_mask(
    real: Int[Tensor, "batch seq"], causal: bool, *, padded: bool
) -> Bool[Tensor, "1 batch seq seq"] | None:
    """Which positions a query may see.

    Args:
        real: 1 at real tokens, 0 at padding.
        causal: Whether later positions are hidden.
        padded: Whether there is padding.

    Returns:
        The mask, or None where there is no padding (then `causal` alone decides). A position always
        sees itself, so that padding has something to attend to; its output is never used.
    """
    if not padded:
        return None
    seq = real.shape[1]
    seen = real.bool()[:, None, :].expand(-1, seq, -1)
    if causal:
        seen = seen & torch.ones(seq, seq, dtype=torch.bool, device=real.device).tril()
    seen = seen | torch.eye(seq, dtype=torch.bool, device=real.device)
    return seen[None]


def windowed(
    mask: Bool[Tensor, "1 #batch asking seq"] | None,  # noqa: UP037 - no code with a comment
    attention: Attention,
    seq: int,
    device: torch.device,
    *,
    at: Int[Tensor, "#batch asking"] | int = 0,  # noqa: UP037 - no code with a comment
) -> Bool[Tensor, "1 #batch asking seq"] | None:  # noqa: UP037 - no code with a comment
    """Restrict attention to a sliding window.

    Padding does not matter: real tokens stand side by side, so that places are as far apart as positions.

    Args:
        mask: Which positions each query may see; None for all, or all earlier ones where windows reach no further.
        attention: How the layer's heads attend.
        seq: How many keys a row has.
        device: Where the queries lie.
        at: The place of each query in its row, or that of the first one where all later ones follow.

    Returns:
        The mask; the one that was given where the window hides nothing.

    Examples:
        >>> cpu = torch.device("cpu")
        >>> windowed(None, Attention(scale=1.0, window=2), 4, cpu)[0, 0].int().tolist()
        [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
        >>> windowed(None, Attention(scale=1.0, window=2, ahead=True), 4, cpu)[0, 0].int().tolist()
        [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    """
    window = attention.window
    if window is None or seq <= window:
        return mask
    keys = torch.arange(seq, device=device)
    behind = (keys[at:][None] if isinstance(at, int) else at)[..., None] - keys
    near = (behind < window) & (behind > -window if attention.ahead else behind >= 0)
    return near[None] if mask is None else mask & near


def prepared(
    attention: Attention,
    kind: int,
    x: Float[Tensor, "reader *row d_head"],
    rotary: Rotary | None,
    *,
    heads: Int[np.ndarray, " reader"] | None = None,
) -> Float[Tensor, "reader *row d_head"]:
    """Queries, keys or values as scores and sums take them: normed, clamped, and turned by their positions.

    Args:
        attention: How the layer's heads attend.
        kind: Whether they are queries (0), keys (1) or values (2).
        x: As they were projected.
        rotary: Cosines and sines at their positions; None where nothing turns them.
        heads: Of which heads (or key-value heads) of the model; None for all in their order. All are needed where
            `attention.mixes_heads`.
    """
    norm = (attention.query_norm, attention.key_norm, None)[kind]
    if norm is not None:
        x = norm(x, to_device(heads, x.device) if heads is not None and norm.differs_by_head else None)
    if attention.clip is not None:
        x = x.clamp(-attention.clip, attention.clip)
    if kind == 2 or rotary is None:
        return x
    turned = rotate_halves(x, rotary) if attention.turned == "halves" else rotate_pairs(x, rotary)
    return turned.to(x.dtype)  # OLMo's cosines and sines are float32 whatever the model is


def rotary_for(attention: Attention, rotaries: Rotaries) -> Rotary | None:
    """The cosines and sines that a layer takes.

    Args:
        attention: How its heads attend.
        rotaries: Those of the model's rotary embeddings; empty where there are none.
    """
    return None if attention.rotary is None or not rotaries else rotaries[attention.rotary]


def attend(
    query: Float[Tensor, "head batch asking d_head"],
    key: Float[Tensor, "head batch seq d_head"],
    value: Float[Tensor, "head batch seq d_head"],
    mask: Bool[Tensor, "1 #batch asking seq"] | None,  # noqa: UP037 - no code with a comment
    *,
    causal: bool,
    attention: Attention,
    heads: Int[np.ndarray, " head"] | None = None,
) -> Float[Tensor, "head batch asking d_head"]:
    """What each head gathers, before the output projection.

    Args:
        query: Queries at all positions or at some, `prepared`.
        key: Keys, one a query head, `prepared`.
        value: Values, one a query head, `prepared`.
        mask: Which positions each query may see; None for all, or all earlier ones.
        causal: Whether later positions are hidden; used only where there is no mask.
        attention: How the heads attend.
        heads: Which heads of the model they are; None for all in their order.

    Returns:
        The heads' mixed values.
    """
    if attention.is_plain:
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal and mask is None, scale=attention.scale
        )
    scores = scores_of(query, key, mask, causal=causal, attention=attention, heads=heads)
    return shares_of(scores.softmax(-1), attention) @ value


def scores_of(
    query: Float[Tensor, "head batch asking d_head"],
    key: Float[Tensor, "head batch seq d_head"],
    mask: Bool[Tensor, "1 #batch asking seq"] | None,  # noqa: UP037 - no code with a comment
    *,
    causal: bool,
    attention: Attention,
    heads: Int[np.ndarray, " head"] | None = None,
) -> Float[Tensor, "head batch asking seq_and_sink"]:
    """Attention scores, whose softmax is each position's share; arguments as of `attend`.

    Args:
        query: Queries.
        key: Keys.
        mask: Which positions each query may see.
        causal: Whether later positions are hidden, without a mask.
        attention: How the heads attend.
        heads: Which heads of the model they are.

    Returns:
        Hidden positions at minus infinity; where there are sinks, theirs is the last column.
    """
    scores = query @ key.transpose(-1, -2) * attention.scale
    if attention.cap is not None:
        scores = attention.cap * torch.tanh(scores / attention.cap)
    if attention.slopes is not None:
        slopes = _per_head(attention.slopes, heads).to(scores.dtype)
        scores = scores + slopes * torch.arange(key.shape[2], device=key.device, dtype=scores.dtype)
    if mask is None and causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()[None, None]
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    if attention.sinks is not None:
        sinks = _per_head(attention.sinks, heads).to(scores.dtype).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, sinks], -1)
    return scores


def shares_of(
    pattern: Float[Tensor, "head batch asking seq_and_sink"], attention: Attention
) -> Float[Tensor, "head batch asking seq"]:
    """The shares of positions in a softmax of scores, without the sinks'.

    Args:
        pattern: The softmax.
        attention: How the heads attend.
    """
    return pattern if attention.sinks is None else pattern[..., :-1]


def _per_head(values: Float[Tensor, " of_the_layer"], heads: np.ndarray | None) -> Float[Tensor, "head 1 1 1"]:
    picked = values if heads is None else values.index_select(0, to_device(heads, values.device))
    return picked[:, None, None, None]
