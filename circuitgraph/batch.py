"""Token batches: the form in which prompts reach a masked forward pass.

The prompt side (`pruning.prompts.encoding`) makes them; `circuitgraph.forward` reads them. Padding may lie on
either side; positions are counted from the first real token.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitgraph.transfer import to_device


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """Token ids, and the positions whose logits are asked for.

    Attributes:
        input_ids: Token ids; anything at padding.
        attention_mask: 1 at real tokens, 0 at padding.
        predict_index: Asked positions as flat indices `prompt * seq + position`.
        predict_prompt: The prompt each asked position belongs to.
        span_ids: The number of the span that each token is in, where prompts are divided into spans; anything at
            padding.
        on_host: The same batch on the host, where it was moved from there, so that nothing of it has to be read
            from a device; None where it lies there itself, or where it was made by other means.

    Examples:
        >>> import torch
        >>> ids = torch.tensor([[5, 7, 9]])
        >>> batch = TokenBatch(
        ...     input_ids=ids, attention_mask=torch.ones_like(ids), predict_index=torch.tensor([2]),
        ...     predict_prompt=torch.tensor([0]),
        ... )
        >>> batch.input_ids.shape
        torch.Size([1, 3])
    """

    input_ids: Int[Tensor, "batch seq"]
    attention_mask: Int[Tensor, "batch seq"]
    predict_index: Int[Tensor, " asked"]
    predict_prompt: Int[Tensor, " asked"]
    span_ids: Int[Tensor, "batch seq"] | None = None
    # Not for __init__, so that `replace` drops it: it would be of other tokens.
    on_host: TokenBatch | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def position_ids(self) -> Int[Tensor, "batch seq"]:
        """Positions counted over real tokens, `cumsum(mask) - 1`, 0 at left padding."""
        return (self.attention_mask.cumsum(-1) - 1).clamp(min=0)

    @property
    def padded(self) -> bool:
        """Whether there is padding; asking waits for the device where the batch was made there."""
        return bool((self.to_look_at.attention_mask == 0).any())

    @property
    def to_look_at(self) -> TokenBatch:
        """The same batch on the host where it is there, so that reading from it does not wait; else this one."""
        return self.on_host or self

    def to(self, device: torch.device | str) -> TokenBatch:
        """Move every tensor to `device`, without waiting for what runs there."""
        names = [field.name for field in fields(self) if field.init]
        tensors = {name: getattr(self, name) for name in names}
        moved = replace(self, **{name: to_device(x, device) for name, x in tensors.items() if x is not None})
        if moved.input_ids.device.type != "cpu":
            moved.look_at(self if self.input_ids.device.type == "cpu" else self.on_host)
        return moved

    def look_at(self, host: TokenBatch | None) -> None:
        """Note what the batch is on the host.

        Args:
            host: The same batch there; positions have to be the same, tokens only where somebody looks at them.
        """
        object.__setattr__(self, "on_host", host)


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """A batch of clean prompts with their counterfactuals, of equal shape and equal padding.

    Attributes:
        clean: The prompts.
        corrupted: Their counterfactuals, token for token of the same length.
        answer_ids: The right token at each asked position, or None for numeric outputs.
        answer_values: The right number at each asked position, or None for token outputs.
        correct_ids: Right tokens at each prompt's first asked position, padded with -1, or None.
        wrong_ids: Wrong tokens at each prompt's first asked position, padded with -1, or None.
        index: Where each prompt stands in its data set.
    """

    clean: TokenBatch
    corrupted: TokenBatch
    answer_ids: Int[Tensor, " asked"] | None
    answer_values: Float[Tensor, " asked"] | None
    correct_ids: Int[Tensor, "batch right"] | None
    wrong_ids: Int[Tensor, "batch wrong"] | None
    index: Int[Tensor, " batch"]
