"""Rotary embeddings: how queries and keys are turned, and frequencies that depend on how long a prompt is.

Of the kinds `dynamic` and `longrope` the model's own module takes the longest prompt of a batch for all of them,
`dynamic` also the longest that was run before, and `longrope` writes its choice into the module's buffer. Here each
prompt gets the frequencies that the module gives it when it is alone in a fresh model, whatever stands beside it or ran
before; the user's module is not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from circuitgraph.architectures.family import Rotaries, Rotary, frozen_view
from circuitgraph.batch import TokenBatch


def depends_on_length(rotary: nn.Module) -> bool:
    """Whether a model's rotary embedding takes other frequencies for longer prompts.

    Args:
        rotary: The model's own module.
    """
    kind = getattr(rotary, "rope_type", "default")
    return isinstance(kind, str) and ("dynamic" in kind or kind == "longrope")


def switch_length(rotary: nn.Module) -> int:
    """The longest prompt that has the first frequencies.

    Args:
        rotary: The model's own module, one that depends on lengths.
    """
    module: Any = rotary
    return int(module.config.rope_parameters.get("original_max_position_embeddings", module.original_max_seq_len))


def as_fresh(view: nn.Module) -> nn.Module:
    """A view in which every rotary embedding is as in a model that has run nothing, with buffers of its own.

    Args:
        view: From `frozen_view`. Changed in place.
    """
    for module in view.modules():
        if depends_on_length(module):
            held: Any = module
            held._buffers["inv_freq"] = held.original_inv_freq.clone()
            held.max_seq_len_cached = held.original_max_seq_len
            held.__dict__.pop("long_inv_freq", None)
    return view


class PromptRotary(nn.Module):
    """A rotary embedding that gives each prompt what it gets alone.

    Args:
        rotary: The model's own module, one that depends on lengths. It is not run and not changed.
    """

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.own = rotary
        self._settled: dict[tuple[int, torch.device, torch.dtype], nn.Module] = {}

    def forward(self, x: Tensor, position_ids: Int[Tensor, "batch seq"], lengths: list[int] | None = None) -> Rotary:
        """Cosines and sines `[batch seq d_head]`.

        Args:
            x: Gives their number format and device.
            position_ids: Positions counted over real tokens.
            lengths: Each prompt's real tokens; by default read from `position_ids`.
        """
        if lengths is None:
            lengths = (position_ids.amax(-1) + 1).tolist()
        different = sorted(set(lengths))
        if len(different) == 1:
            return self._of_length(different[0], x)(x, position_ids)
        parts = [self._of_length(length, x)(x, position_ids) for length in different]
        which = torch.tensor([different.index(length) for length in lengths], device=x.device)
        rows = torch.arange(len(lengths), device=x.device)
        return tuple(torch.stack(part)[which, rows] for part in zip(*parts, strict=True))  # type: ignore[return-value]

    def _of_length(self, length: int, x: Tensor) -> nn.Module:
        """The module with the frequencies that a fresh one settles on for a prompt of so many tokens."""
        own: Any = self.own
        key = (length, x.device, own.original_inv_freq.dtype)
        if key not in self._settled:
            view: Any = as_fresh(frozen_view(own))
            view(x.new_zeros(1), torch.arange(length, device=x.device)[None])
            view.rope_type = "default"  # and so they stay
            self._settled[key] = view
        return self._settled[key]

    def __deepcopy__(self, memo: dict[int, Any]) -> PromptRotary:
        import copy

        return PromptRotary(copy.deepcopy(self.own, memo))


def prompt_by_prompt(rotary: nn.Module) -> nn.Module:
    """A model's rotary embedding, in the form in which no prompt depends on another.

    Args:
        rotary: The model's own module.
    """
    return PromptRotary(rotary) if depends_on_length(rotary) else rotary


def rotaries_of(rotaries: Sequence[nn.Module], x: Tensor, batch: TokenBatch) -> Rotaries:
    """A batch's cosines and sines; lengths are read on the host where the batch is known there.

    Args:
        rotaries: Of a bound model.
        x: Gives their number format and device.
        batch: The prompts.
    """
    return tuple(_rotary_of(rotary, x, batch) for rotary in rotaries)


def _rotary_of(rotary: nn.Module, x: Tensor, batch: TokenBatch) -> Rotary:
    if isinstance(rotary, PromptRotary):
        return rotary(x, batch.position_ids, batch.to_look_at.attention_mask.sum(-1).clamp(min=1).tolist())
    return rotary(x, batch.position_ids)


class DoubledRotary(nn.Module):
    """A rotary embedding that gives the cosines and sines of one half of the numbers, for both halves.

    Args:
        rotary: The model's own module.
    """

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.own = rotary

    def forward(self, x: Tensor, position_ids: Int[Tensor, "batch seq"]) -> Rotary:
        """Cosines and sines `[batch seq rotated]`."""
        cos, sin = self.own(x, position_ids)
        return torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)


class LayerTypeRotary(nn.Module):
    """One of the rotary embeddings of a module that has one for each type of layer.

    Args:
        rotary: The model's own module, called with a type of layer.
        layer_type: Which.
    """

    def __init__(self, rotary: nn.Module, layer_type: str) -> None:
        super().__init__()
        self.own, self.layer_type = rotary, layer_type

    def forward(self, x: Tensor, position_ids: Int[Tensor, "batch seq"]) -> Rotary:
        """Cosines and sines `[batch seq rotated]`."""
        return self.own(x, position_ids, self.layer_type)


def rotate_halves(x: Float[Tensor, "head batch seq d_head"], rotary: Rotary) -> Float[Tensor, "head batch seq d_head"]:
    """Turn the first numbers of queries or keys, as many as there are cosines, each against the one half of them on.

    Args:
        x: Queries or keys.
        rotary: Cosines and sines `[batch seq rotated]`.
    """
    cos, sin = rotary
    width = cos.shape[-1]
    turned = x if width == x.shape[-1] else x[..., :width]
    half = width // 2
    turned = turned * cos + torch.cat([-turned[..., half:], turned[..., :half]], -1) * sin
    return turned if width == x.shape[-1] else torch.cat([turned, x[..., width:]], -1)


def rotate_pairs(x: Float[Tensor, "head batch seq d_head"], rotary: Rotary) -> Float[Tensor, "head batch seq d_head"]:
    """Turn the first numbers of queries or keys, as many as there are cosines, each against its neighbour.

    Args:
        x: Queries or keys.
        rotary: Cosines and sines `[batch seq rotated]`, those of a pair side by side.
    """
    cos, sin = rotary
    width = cos.shape[-1]
    turned = x if width == x.shape[-1] else x[..., :width]
    beside = torch.stack([-turned[..., 1::2], turned[..., ::2]], -1).flatten(-2)
    turned = turned * cos + beside * sin
    return turned if width == x.shape[-1] else torch.cat([turned, x[..., width:]], -1)
