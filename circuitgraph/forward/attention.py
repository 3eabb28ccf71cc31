"""Attention over heads that stand in front: `[head batch seq d_head]`, as readers and writers do here."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


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
    window: int | None,
    seq: int,
    device: torch.device,
    *,
    at: Int[Tensor, "#batch asking"] | int = 0,  # noqa: UP037 - no code with a comment
) -> Bool[Tensor, "1 #batch asking seq"] | None:  # noqa: UP037 - no code with a comment
    """Restrict causal attention to a sliding window.

    Padding does not matter: real tokens stand side by side, so that places are as far apart as positions.

    Args:
        mask: Which positions each query may see; None for all earlier ones.
        window: How many positions a query sees at most, its own and those before it; None for all.
        seq: How many keys a row has.
        device: Where the queries lie.
        at: The place of each query in its row, or that of the first one where all later ones follow.

    Returns:
        The mask; the one that was given where the window hides nothing.

    Examples:
        >>> windowed(None, 2, 4, torch.device("cpu"))[0, 0].int().tolist()
        [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    """
    if window is None or seq <= window:
        return mask
    keys = torch.arange(seq, device=device)
    behind = (keys[at:][None] if isinstance(at, int) else at)[..., None] - keys
    near = behind < window
    return ((near & (behind >= 0))[None]) if mask is None else mask & near


def attend(
    query: Float[Tensor, "head batch asking d_head"],
    key: Float[Tensor, "head batch seq d_head"],
    value: Float[Tensor, "head batch seq d_head"],
    mask: Bool[Tensor, "1 #batch asking seq"] | None,  # noqa: UP037 - no code with a comment
    *,
    causal: bool,
    scale: float,
) -> Float[Tensor, "head batch asking d_head"]:
    """What each head gathers, before the output projection.

    Args:
        query: Queries at all positions or at some, rotated where the model rotates.
        key: Keys, one a query head.
        value: Values, one a query head.
        mask: Which positions each query may see; None for all, or all earlier ones.
        causal: Whether later positions are hidden; used only where there is no mask.
        scale: Factor on the scores.

    Returns:
        The heads' mixed values.
    """
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal and mask is None, scale=scale
    )
