"""Named tensors with one row per prompt (or per asked position): the form in which frozen runs are kept.

Ablation values, whatever fields their dataclass has, and the teacher's outputs are taken apart into
`Rows`, kept in memory or on disk, and put together again for a batch. Nothing here knows a field by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.transfer import to_device
from pruning.frozen.top_teacher import Teacher, TopTeacher

Form = Mapping[str, int | str | None]
_TENSOR = -1


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Tensors whose rows belong together.

    Attributes:
        tensors: By name.
        axes: The axis along which each tensor's rows run; None where all rows share the tensor.
        form: How the tensors make up a dataclass: None for a field that is None, the length of a tuple,
            -1 for a tensor by itself, a word for itself; empty where there is no dataclass.
    """

    tensors: Mapping[str, Tensor]
    axes: dict[str, int | None]
    form: Form = field(default_factory=dict)

    def take(self, index: Tensor) -> Rows:
        """Some rows; each tensor is copied, contiguous, when it is asked for, and anew each time.

        So a batch does not hold a copy of all layers at once, nor copy what a sparse pass does not look at.

        Args:
            index: Which rows, on the tensors' device.

        Examples:
            >>> rows = Rows(tensors={"x": torch.arange(6).view(3, 2)}, axes={"x": 0})
            >>> rows.take(torch.tensor([2, 0])).tensors["x"].tolist()
            [[4, 5], [0, 1]]
        """
        return replace(self, tensors=_Taken(self.tensors, self.axes, index))

    def copied(self) -> Rows:
        """The same rows with every tensor at hand: what `take` left to be copied is copied, once."""
        return self._map(lambda tensor, _: tensor)

    def head(self, count: int) -> Rows:
        """The first rows, as views."""
        return self._map(lambda tensor, axis: tensor if axis is None else tensor.narrow(axis, 0, count))

    def to(self, device: torch.device) -> Rows:
        """Move every tensor."""
        return self._map(lambda tensor, _: to_device(tensor, device))

    def empty(self, count: int, *, device: torch.device, pin: bool = False) -> Rows:
        """Room for `count` rows like these; what all rows share is shared."""

        def room(tensor: Tensor, axis: int | None) -> Tensor:
            if axis is None:
                return tensor.to(device)
            size = [*tensor.shape[:axis], count, *tensor.shape[axis + 1 :]]
            return torch.empty(size, dtype=tensor.dtype, device=device, pin_memory=pin)

        return self._map(room)

    def put(self, index: Tensor, rows: Rows) -> None:
        """Write rows into places of these.

        Args:
            index: The places, on these tensors' device.
            rows: As many rows.
        """
        for name, tensor in self.tensors.items():
            axis = self.axes[name]
            if axis is not None:
                tensor.index_copy_(axis, index, rows.tensors[name].to(tensor.device))

    @staticmethod
    def joined(parts: Sequence[Rows]) -> Rows:
        """Rows one after the other; one part is given back as it is.

        Args:
            parts: At least one, alike.
        """
        first, *others = parts
        if not others:
            return first
        # In a part of one row a tensor that all rows share looks like one with a row each.
        shared = {name for part in parts for name, axis in part.axes.items() if axis is None}
        axes = {name: None if name in shared else axis for name, axis in first.axes.items()}
        tensors = {
            name: tensor if (axis := axes[name]) is None else torch.cat([part.tensors[name] for part in parts], axis)
            for name, tensor in first.tensors.items()
        }
        return replace(first, tensors=tensors, axes=axes)

    def _map(self, change) -> Rows:
        return replace(self, tensors={name: change(tensor, self.axes[name]) for name, tensor in self.tensors.items()})

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        sizes = [
            tensor.numel() // tensor.shape[axis] * tensor.element_size()
            for tensor, axis in self._parts()
            if axis is not None
        ]
        return sum(sizes)

    @property
    def shared_bytes(self) -> int:
        """Bytes that do not grow with the rows."""
        return sum(tensor.numel() * tensor.element_size() for tensor, axis in self._parts() if axis is None)

    @property
    def n_bytes(self) -> int:
        """Bytes of all of it."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def _parts(self) -> Iterator[tuple[Tensor, int | None]]:
        return ((tensor, self.axes[name]) for name, tensor in self.tensors.items())


class _Taken(Mapping[str, Tensor]):
    """Some rows of tensors, copied when they are asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], axes: dict[str, int | None], index: Tensor) -> None:
        self._tensors, self._axes, self._index = tensors, axes, index

    def __getitem__(self, name: str) -> Tensor:
        tensor, axis = self._tensors[name], self._axes[name]
        return tensor if axis is None else tensor.index_select(axis, self._index)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class _Layers(Sequence[Tensor]):
    """A field's tensors, looked up when they are asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], field_name: str, length: int) -> None:
        self._tensors, self._names = tensors, [f"{field_name}.{place}" for place in range(length)]

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return tuple(self._tensors.get(name) for name in self._names[place])
        return self._tensors.get(self._names[place])

    def __len__(self) -> int:
        return len(self._names)


def rows_of_values(values: AblationValues, n_prompts: int) -> Rows:
    """Take ablation values apart; no tensor is copied.

    Args:
        values: Of a batch, or constants (`n_prompts` 0).
        n_prompts: Prompts in the batch. A tensor whose batch axis has another size is shared by all.
    """
    axes: dict[int, int] = {}

    def note(value: Tensor, axis: int) -> Tensor:
        axes[id(value)] = axis
        return value

    values.changed(note)
    form: dict[str, int | str | None] = {}
    tensors: dict[str, Tensor] = {}
    for part in fields(values):
        held = getattr(values, part.name)
        if isinstance(held, str):
            form[part.name] = held
            continue
        form[part.name] = None if held is None else _TENSOR if isinstance(held, Tensor) else len(held)
        for place, tensor in enumerate([held] if isinstance(held, Tensor) else held or ()):
            if tensor is not None:
                tensors[f"{part.name}.{place}"] = tensor
    by_name = {name: axes[id(tensor)] for name, tensor in tensors.items()}
    kept = {name: axis if tensors[name].shape[axis] == n_prompts else None for name, axis in by_name.items()}
    return Rows(tensors=tensors, axes=kept, form=form)


def values_of_rows(rows: Rows) -> AblationValues:
    """Put ablation values together again; tensors of rows that were taken are copied when they are asked for."""
    made: dict[str, object] = {}
    for name, length in rows.form.items():
        if length is None or isinstance(length, str):
            made[name] = length
        elif length == _TENSOR:
            made[name] = rows.tensors[f"{name}.0"]
        else:
            layers = _Layers(rows.tensors, name, length)
            made[name] = layers if length and isinstance(rows.tensors, _Taken) else tuple(layers)
    return AblationValues(**made)  # pyright: ignore[reportArgumentType]


def rows_of_teacher(teacher: Teacher) -> Rows:
    """Take a teacher's outputs apart, one row per asked position."""
    if isinstance(teacher, TopTeacher):
        tensors = {part.name: getattr(teacher, part.name) for part in fields(teacher)}
    else:
        tensors = {"logits": teacher}
    return Rows(tensors=tensors, axes=dict.fromkeys(tensors, 0))


def teacher_of_rows(rows: Rows) -> Teacher:
    """Put a teacher's outputs together again."""
    return rows.tensors["logits"] if "logits" in rows.tensors else TopTeacher(**rows.tensors)
