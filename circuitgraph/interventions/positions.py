"""A change at some token positions: of what one writer says there, as data. Without torch.

Positions are counted in a prompt's own tokens, padding left out: 0, 1, … from the first, -1, -2, … from the last; or a
label says which. They are looked up anew in every prompt, and a prompt that has none of them is refused by name.

    all                 every token
    first, last         one of them
    all but first       every token but one, and
    all but last        the same
    asked               those from which an answer is predicted
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.token_places import FARTHEST, at_place

ALL, FIRST, LAST, ALL_BUT_FIRST, ALL_BUT_LAST, ASKED = LABELS = (
    "all", "first", "last", "all but first", "all but last", "asked",
)  # fmt: skip
_FIELDS = ("writer", "positions", "change", "vector")

Positions = str | int | Iterable[int]


@dataclass(frozen=True, kw_only=True)
class PositionChange:
    """What one writer says at some positions, turned up or down, or a vector added to it.

    At strength β the writer says `(1 + β · change)` times what it says, plus `β · vector`.

    Attributes:
        writer: Its name, such as `a3.h7`, `m2` or `input`.
        positions: A label, one position or several.
        change: The change α; 0 leaves it as it is.
        vector: What is added, `d_model` numbers; none by default.

    Raises:
        UnknownNameError: No such label.
        ConfigurationError: Positions that are no whole numbers, numbers that are not finite, or nothing to change.

    Examples:
        >>> PositionChange(writer="m0", positions=-1, change=-1).positions
        (-1,)
        >>> PositionChange(writer="m0", positions="las", change=-1)
        Traceback (most recent call last):
        circuitgraph.errors.UnknownNameError: unknown label of positions 'las'; did you mean 'last' or 'asked'?
    """

    writer: str
    positions: Positions
    change: float = 0.0
    vector: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check it, and bring it into one form."""
        object.__setattr__(self, "positions", _settled(self.writer, self.positions))
        object.__setattr__(self, "change", _number(self.writer, "change", self.change))
        vector = tuple(_number(self.writer, "vector", value) for value in self.vector)
        object.__setattr__(self, "vector", vector)
        if not self.change and not self.vector:
            raise ConfigurationError(f"{self.writer}: nothing is changed; give a change other than 0, or a vector")

    def places(
        self, real: Bool[np.ndarray, "batch seq"], asked: Bool[np.ndarray, "batch seq"]
    ) -> Bool[np.ndarray, "batch seq"]:
        """Where it is in some prompts.

        Args:
            real: Where there is no padding.
            asked: Where an answer is predicted from.

        Raises:
            ConfigurationError: A prompt has no such position; the message says which prompt, and its length.

        Examples:
            >>> real = np.array([[False, True, True], [True, True, True]])
            >>> change = PositionChange(writer="m0", positions="all but first", change=1)
            >>> change.places(real, real).astype(int).tolist()
            [[0, 0, 1], [0, 1, 1]]
        """
        if isinstance(self.positions, str):
            first, last = at_place(real, 0), at_place(real, -1)
            labelled = {
                ALL: real, ASKED: asked, FIRST: first, LAST: last, ALL_BUT_FIRST: ~first, ALL_BUT_LAST: ~last,
            }  # fmt: skip
            parts = {repr(self.positions): real & labelled[self.positions]}
        else:
            assert isinstance(self.positions, tuple)
            parts = {str(position): at_place(real, position) for position in self.positions}
        for wanted, found in parts.items():
            without = ~found.any(1)
            if without.any():
                prompt = int(without.argmax())
                raise self._refusal(wanted, prompt, int(real[prompt].sum()))
        return np.logical_or.reduce(list(parts.values()))

    def _refusal(self, wanted: str, prompt: int, n: int) -> ConfigurationError:
        return ConfigurationError(
            f"{self.writer} is changed at position {wanted}, and prompt {prompt} of the batch has {n} "
            f"token{'' if n == 1 else 's'}, none of them that; give positions that all prompts have, such as -1 or "
            f"one of the labels {', '.join(LABELS)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; what is not changed is left out."""
        positions = self.positions if isinstance(self.positions, str) else list(self.positions)  # type: ignore[arg-type]
        told: dict[str, Any] = {"writer": self.writer, "positions": positions}
        if self.change:
            told["change"] = self.change
        return {**told, "vector": list(self.vector)} if self.vector else told

    @classmethod
    def from_dict(cls, values: object) -> PositionChange:
        """Read what `to_dict` wrote.

        Args:
            values: JSON values.

        Raises:
            UnknownNameError: A field or label that there is not.
            ConfigurationError: A field is missing, or is something else than it should be.
        """
        if not isinstance(values, Mapping):
            raise ConfigurationError(f"a change at positions is an object; got {type(values).__name__}")
        for name in values:
            if name not in _FIELDS:
                raise UnknownNameError.of("field of a change at positions", str(name), _FIELDS)
        missing = [name for name in _FIELDS[:2] if name not in values]
        if missing:
            raise ConfigurationError(f"a change at positions lacks {missing[0]!r}; it has {', '.join(_FIELDS)}")
        writer, vector = values["writer"], values.get("vector", [])
        if not isinstance(writer, str) or not isinstance(vector, list):
            raise ConfigurationError("a change at positions has a writer's name, and its vector is a list of numbers")
        return cls(
            writer=writer, positions=_settled(writer, values["positions"]),
            change=_number(writer, "change", values.get("change", 0.0)),
            vector=tuple(_number(writer, "vector", value) for value in vector),
        )  # fmt: skip


def _settled(writer: str, positions: object) -> str | tuple[int, ...]:
    if isinstance(positions, str):
        if positions not in LABELS:
            raise UnknownNameError.of("label of positions", positions, LABELS)
        return positions
    single = isinstance(positions, (int, np.integer))
    listed = [positions] if single else list(positions) if isinstance(positions, Iterable) else []
    if not listed or not all(isinstance(one, (int, np.integer)) and not isinstance(one, bool) for one in listed):
        raise ConfigurationError(
            f"{writer}: positions are whole numbers (0 for the first token, -1 for the last) or a label "
            f"({', '.join(LABELS)}); got {positions!r}"
        )
    if max(abs(int(one)) for one in listed) >= FARTHEST:
        raise ConfigurationError(f"{writer}: no prompt has a position as far as that; got {positions!r}")
    return tuple(int(one) for one in listed)


def _number(writer: str, what: str, value: object) -> float:
    try:
        if not isinstance(value, bool) and isinstance(value, (int, float, np.number)) and math.isfinite(value):
            return float(value)
    except (OverflowError, TypeError):  # an integer of hundreds of digits; a complex number
        pass
    raise ConfigurationError(f"{writer}: its {what} has to be a finite number; got {value!r}")
