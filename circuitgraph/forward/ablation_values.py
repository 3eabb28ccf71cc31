"""Ablation values: every writer's output when it is ablated, and of which kind that is.

The values know their kind, so that it is no argument of its own beside them: of a run on other prompts
(`counterfactual`), or constants that are the same for every prompt (zeros, means, constants that were learnt).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.graph.ablations import ABLATIONS

_BATCH_AXIS = (
    ("embeddings", 0), ("heads", 1), ("attention", 0), ("mlps", 0), ("query", 1), ("key", 1), ("value", 1),
    ("vectors", 0),
)  # fmt: skip
_OF_PROMPTS = ("input_ids", "attention_mask")


@dataclass(frozen=True, kw_only=True)
class AblationValues:
    """Every writer's output when it is ablated.

    Shapes end in `[… batch seq width]`; axes of size 1 broadcast (means, zeros). A sequence of layers may copy a layer
    at each indexing: keep the result instead of indexing twice.

    Attributes:
        ablation: Their kind: `counterfactual` for those of one run, `zero`, `mean`, `mean-positional` or `optimal` for
            constants. It decides the output of a node without live inputs, and so what has to run.
        embeddings: One tensor per embedding of the model, `[batch seq d_model]`.
        heads: One tensor per layer, `[head batch seq d_head]`, before the output projection.
        attention: One tensor per layer, `[batch seq d_model]`: all heads through the output projection, with bias.
        mlps: One tensor per layer, `[batch seq d_model]`.
        query: Each head's queries in the ablated run, one tensor per layer, `[head batch seq d_head]`, before
            rotation; empty where the values are not those of one run.
        key: Its keys, `[kv_head batch seq d_head]`.
        value: Its values, `[kv_head batch seq d_head]`.
        input_ids: The tokens of the ablated run `[batch seq]`, or None.
        attention_mask: Where the ablated run has tokens and no padding `[batch seq]`, or None.
        vectors: What each vector that is added to the model said in that run, `[batch seq d_model]`; empty where none
            was added, as in constants.

    Raises:
        UnknownNameError: No such ablation.
        ConfigurationError: Constants with what only one run's values have.
    """

    ablation: str
    embeddings: Sequence[Tensor]
    heads: Sequence[Tensor]
    attention: Sequence[Tensor]
    mlps: Sequence[Tensor]
    query: Sequence[Tensor] = ()
    key: Sequence[Tensor] = ()
    value: Sequence[Tensor] = ()
    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    vectors: Sequence[Tensor] = ()

    def __post_init__(self) -> None:
        if self.ablation not in ABLATIONS:
            raise UnknownNameError.of("ablation", self.ablation, ABLATIONS)
        if not self.per_prompt and (self.query or self.key or self.value or self.input_ids is not None):
            raise ConfigurationError(
                f"ablation values of kind {self.ablation!r} are the same for every prompt, so they have no tokens, "
                "queries, keys and values of a run; take them with compiled.ablation_values, or call them "
                "'counterfactual'"
            )

    @property
    def per_prompt(self) -> bool:
        """Whether they are those of a run, and so other ones for each prompt."""
        return self.ablation == "counterfactual"

    @property
    def learnt(self) -> bool:
        """Whether a gradient is wanted in any of them; constants only."""
        return not self.per_prompt and any(value.requires_grad for value in self.tensors)

    def constant(self, ablation: str) -> AblationValues:
        """The same numbers as constants: without what is one run's alone.

        Args:
            ablation: The constants' kind.
        """
        return replace(
            self, ablation=ablation, query=(), key=(), value=(), input_ids=None, attention_mask=None, vectors=()
        )

    def changed(self, change: Callable[[Tensor, int], Tensor]) -> AblationValues:
        """Values of the same kind with every tensor changed.

        Args:
            change: Given a tensor and its batch axis.
        """
        made: dict[str, Any] = {
            name: tuple(change(value, axis) for value in getattr(self, name)) for name, axis in _BATCH_AXIS
        }
        for name in _OF_PROMPTS:
            held = getattr(self, name)
            made[name] = None if held is None else change(held, 0)
        return replace(self, **made)

    def plus(self, other: AblationValues) -> AblationValues:
        """The sum of two constants, tensor by tensor.

        Args:
            other: Of the same kind and model.
        """
        sums: dict[str, Any] = {
            name: tuple(x + y for x, y in zip(getattr(self, name), getattr(other, name), strict=True))
            for name, _ in _BATCH_AXIS
        }
        return replace(self, **sums)

    def select(self, index: Tensor) -> AblationValues:
        """The values of some examples.

        Args:
            index: Positions along the batch axis.
        """
        return self.changed(lambda value, axis: value if value.shape[axis] == 1 else value.index_select(axis, index))

    @staticmethod
    def join(parts: Sequence[AblationValues]) -> AblationValues:
        """Put the values of several batches of equal length one after the other.

        Args:
            parts: Of one kind.

        Raises:
            ConfigurationError: They are of different kinds.
        """
        kinds = sorted({part.ablation for part in parts})
        if len(kinds) != 1:
            raise ConfigurationError(f"expected ablation values of one kind to join; got {', '.join(kinds) or 'none'}")
        joined: dict[str, Any] = {
            name: tuple(torch.cat(layer, axis) for layer in zip(*(getattr(part, name) for part in parts), strict=True))
            for name, axis in _BATCH_AXIS
        }
        for name in _OF_PROMPTS:
            held = [tensor for part in parts if (tensor := getattr(part, name)) is not None]
            joined[name] = torch.cat(held) if held else None
        return replace(parts[0], **joined)

    def only_said(self) -> AblationValues:
        """Without what `circuitgraph.forward.reference.read_again` can fill in: less than half the memory."""
        return replace(self, attention=(), query=(), key=(), value=())

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them."""
        found = tuple(value for name, _ in _BATCH_AXIS for value in getattr(self, name))
        return found + tuple(tensor for name in _OF_PROMPTS if (tensor := getattr(self, name)) is not None)

    @property
    def n_bytes(self) -> int:
        """Memory held."""
        return sum(value.numel() * value.element_size() for value in self.tensors)


# -------------------------------------------------------------------- do they belong to this pass


def check_same_prompts(
    values: AblationValues, shape: tuple[int, ...], mask: np.ndarray | None = None, real: np.ndarray | None = None
) -> None:
    """Refuse values of a run that no prompt of a batch can be paired with, position by position.

    Args:
        values: Outputs of ablated writers.
        shape: Prompts and tokens of the batch.
        mask: Where the run that the values are of has no padding, on the host; None where it is not known.
        real: Booleans `[batch seq]`: where the batch has none.

    Raises:
        ConfigurationError: They are of another number of prompts, of other lengths, or padded elsewhere.
    """
    if values.input_ids is not None and tuple(values.input_ids.shape) != shape:
        raise ConfigurationError(
            f"the ablation values are of a run on {_prompts(tuple(values.input_ids.shape))}, the batch has "
            f"{_prompts(shape)}; {_TAKE_THEM_ANEW}"
        )
    if mask is not None and real is not None and (mask.astype(bool) != real).any():
        prompt = int((mask.astype(bool) != real).any(1).argmax())
        raise ConfigurationError(
            f"prompt {prompt} of the batch has tokens where the run that the ablation values are of has padding, or "
            f"padding where that has tokens, so that their positions do not belong together; {_TAKE_THEM_ANEW}"
        )


_TAKE_THEM_ANEW = (
    "take them from the batch's own counterfactuals, of the same lengths: compiled.run_with_values(corrupted)[1]"
)


def _prompts(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} prompt{'s' * (shape[0] != 1)} of {shape[1]} tokens"


def check_fits(
    values: AblationValues, embeddings: Sequence[Tensor], own: Sequence[Tensor], *, n_layers: int, padded: bool
) -> None:
    """Refuse values of another model, number format, device or number of positions, judged by its embeddings.

    Args:
        values: Outputs of ablated writers.
        embeddings: The same as `values.embeddings`, taken once.
        own: The model's own embeddings of the batch, `[batch seq d_model]` each.
        n_layers: How many the model has.
        padded: Whether there is padding.

    Raises:
        ConfigurationError: They do not belong to the model, or to so many positions.
    """
    like = own[0]
    if not len(values.heads) == len(values.mlps) == n_layers:
        raise ConfigurationError(
            f"the ablation values are of another model: they have {len(values.mlps)} layers, the model has {n_layers}"
        )
    if len(embeddings) != len(own):
        raise ConfigurationError(
            f"the ablation values are of another model: they have {len(embeddings)} embedding(s), the model has "
            f"{len(own)}"
        )
    for ablated in embeddings:
        for what, theirs, ours in (
            ("width", ablated.shape[-1], like.shape[-1]),
            ("number format", ablated.dtype, like.dtype),
            ("device", ablated.device, like.device),
        ):
            if theirs != ours:
                raise ConfigurationError(
                    f"the ablation values are of another model: expected {what} {ours}, as the model has; got {theirs}"
                    ". Take them from this model: compiled.run_with_values or compiled.ablation_values"
                )
        for what, theirs, ours in zip(("prompts", "tokens"), ablated.shape[-3:-1], like.shape[-3:-1], strict=True):
            if theirs not in ((1, ours) if not values.per_prompt else (ours,)):
                raise ConfigurationError(
                    f"the ablation values are for {theirs} {what}, the batch has {ours}"
                    + (f"; {_TAKE_THEM_ANEW}" if values.per_prompt else "; 'mean' ablation fits prompts of any length")
                )
        if padded and not values.per_prompt and ablated.shape[-2] != 1:
            raise ConfigurationError(
                f"ablation values of kind {values.ablation!r} have one value per position, counted from the first "
                "token, so a batch with padding cannot be run with them; use prompts of one length, or 'mean' ablation"
            )


def check_layer(values: Tensor, sizes: tuple[int, ...], layer: int, what: str) -> None:
    """Refuse a layer's values whose sizes are another model's.

    Args:
        values: `[… batch seq width]`.
        sizes: All of their sizes but prompts and positions.
        layer: Which layer.
        what: Whose values.

    Raises:
        ConfigurationError: They are of another model.
    """
    if (*values.shape[:-3], values.shape[-1]) != sizes:
        raise ConfigurationError(
            f"the ablation values are of another model: layer {layer}'s {what} have the sizes "
            f"{(*values.shape[:-3], values.shape[-1])}, expected {sizes}"
        )
