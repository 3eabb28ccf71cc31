"""Vectors that are added to a model: what each says at every position of a batch.

A vector is a writer without readers: it stands before a layer's heads, and whatever reads from there on sees it. It
says its numbers at its positions and nothing elsewhere; ablated it says nothing, so it is not there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitgraph.batch import TokenBatch
from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.virtual import vector_layer
from circuitgraph.token_places import FARTHEST, at_place, flags_of
from circuitgraph.transfer import to_device, to_host

ALL, ASKED = "all", "asked"

_FORMATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True, eq=False)
class Vector:
    """A vector that is added to the residual stream before a layer.

    Attributes:
        name: Such as `v@12`: a name of its own, and the layer before whose heads it is added.
        value: What is added `[d_model]`; kept as a copy, without a gradient.
        at: Where: `all` tokens, those `asked` (from which answers are predicted), or one by its place, counted from the
            prompt's first token (0, 1, …) or from its last (-1, -2, …).

    Raises:
        ConfigurationError: A name, a value or positions that make no vector.

    Examples:
        >>> Vector(name="v@12", value=torch.ones(4), at="asked")
        <Vector v@12: 4 numbers of norm 2, added before layer 12 at the asked tokens>
    """

    name: str
    value: Tensor
    at: str | int = ASKED

    def __post_init__(self) -> None:
        if vector_layer(self.name) is None:
            raise ConfigurationError(
                f"a vector's name is letters, digits or _, then @ and the layer before which it is added, such as "
                f"v@12; got {self.name!r}"
            )
        object.__setattr__(self, "value", _settled_value(self.name, self.value))
        object.__setattr__(self, "at", _settled_place(self.name, self.at))

    def __repr__(self) -> str:
        at = {ALL: "all tokens", ASKED: "the asked tokens"}.get(str(self.at), f"token {self.at}")
        size = f"{len(self.value):,} numbers of norm {float(self.value.norm()):.4g}"
        return f"<Vector {self.name}: {size}, added before layer {self.layer} at {at}>"

    @property
    def layer(self) -> int:
        """The layer before whose heads it is added."""
        layer = vector_layer(self.name)
        assert layer is not None
        return layer

    @property
    def digest(self) -> str:
        """A hash of its numbers and its positions."""
        numbers = np.ascontiguousarray(self.value.detach().cpu().double().numpy()).tobytes()
        return hashlib.sha256(numbers + repr(self.at).encode()).hexdigest()[:16]

    def places(self, real: Bool[np.ndarray, "batch seq"], asked: np.ndarray) -> Bool[np.ndarray, "batch seq"]:
        """Where it is added in some prompts.

        Args:
            real: Where there is no padding.
            asked: Asked positions, as flat indices.

        Raises:
            ConfigurationError: A prompt is too short to have the place.

        Examples:
            >>> vector = Vector(name="v@0", value=torch.ones(1), at=-1)
            >>> vector.places(np.array([[True, True, False], [True, True, True]]), np.array([0])).astype(int).tolist()
            [[0, 1, 0], [0, 0, 1]]
        """
        if self.at == ALL:
            return real
        if self.at == ASKED:
            return flags_of(asked, real.shape)
        place, lengths = int(self.at), real.sum(1)
        found = at_place(real, place)
        if not found.any(1).all():
            raise ConfigurationError(
                f"{self.name} is added at place {place}, and prompt {int(lengths.argmin())} of the batch has "
                f"{int(lengths.min())} tokens; take a place that all prompts have, or at='asked'"
            )
        return found


def _settled_value(name: str, value: object) -> Tensor:
    """A vector's numbers as a copy of their own, checked."""
    if not isinstance(value, Tensor) or value.ndim != 1 or value.dtype not in _FORMATS or not _is_plain(value):
        told = f"{list(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise ConfigurationError(
            f"{name}: expected a tensor of numbers [d_model], float64, float32, bfloat16 or float16; got {told}"
        )
    if not bool(value.isfinite().all()):
        raise ConfigurationError(f"{name}: some of its {len(value)} numbers are NaN or infinite")
    return value.detach().clone(memory_format=torch.contiguous_format)


def _is_plain(value: Tensor) -> bool:
    return value.layout == torch.strided and not value.is_meta


def _settled_place(name: str, at: object) -> str | int:
    if isinstance(at, str) and at in (ALL, ASKED):
        return str(at)
    if isinstance(at, (int, np.integer)) and not isinstance(at, bool) and abs(int(at)) < FARTHEST:
        return int(at)
    raise ConfigurationError(
        f"{name}: a vector is added at all tokens (at='all'), at the asked ones ('asked'), or at one by its place (0 "
        f"for the first, -1 for the last); got {at!r}"
    )


def vector_places(vectors: Sequence[Vector], batch: TokenBatch) -> list[Bool[np.ndarray, "batch seq"]]:
    """Where each vector is added in a batch, found on the host.

    Args:
        vectors: Some vectors.
        batch: Prompts.
    """
    if not vectors:
        return []
    prompts = batch.to_look_at
    real, asked = to_host(prompts.attention_mask, prompts.predict_index)
    assert real is not None and asked is not None
    return [vector.places(real.astype(bool), asked) for vector in vectors]


def said_by_vectors(
    vectors: Sequence[Vector], batch: TokenBatch, like: Tensor
) -> tuple[Float[Tensor, "batch seq d_model"], ...]:
    """What each vector says in a batch.

    Args:
        vectors: Some vectors.
        batch: Prompts.
        like: Gives number format and device.
    """
    places = [to_device(torch.from_numpy(places), like.device) for places in vector_places(vectors, batch)]
    return tuple(
        place[..., None].to(like.dtype) * vector.value.to(like) for vector, place in zip(vectors, places, strict=True)
    )


def sums_by_layer(vectors: Sequence[Vector], said: Sequence[Tensor]) -> Mapping[int, Tensor]:
    """What all vectors of a layer say together, for layers that have some.

    Args:
        vectors: The vectors.
        said: What each says; nothing where they are ablated.
    """
    sums: dict[int, Tensor] = {}
    for vector, value in zip(vectors, said, strict=False):
        sums[vector.layer] = value if vector.layer not in sums else sums[vector.layer] + value
    return sums


def where_any(flags: Bool[np.ndarray, "batch seq"], others: Sequence[np.ndarray]) -> Bool[np.ndarray, "batch seq"]:
    """Where at least one of several is true.

    Args:
        flags: One of them.
        others: The others, perhaps none.
    """
    return np.logical_or.reduce([flags, *others])
