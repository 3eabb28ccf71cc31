"""Where the kept rows of some prompts lie: in one block of memory, in files, or nowhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import torch

from circuitgraph.transfer import to_device
from pruning.frozen.disk import StoredRows
from pruning.frozen.rows import Rows

Source = Rows | StoredRows
Run = Callable[[list[int]], Rows]


@dataclass(kw_only=True)
class _Part:
    """What a batch takes from one source.

    Attributes:
        source: A block of memory, a file, or None for what has to be run.
        prompts: The prompts.
        rows: Their rows in the source.
        places: Their rows in the batch.
    """

    source: Source | None
    prompts: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


class KeptRows:
    """Kept rows of one kind, of prompts of one length.

    Args:
        sizes: How many rows each prompt has.
        device: Where batches are wanted.

    Examples:
        >>> rows = KeptRows({4: 1, 9: 1}, torch.device("cpu"))
        >>> kept = Rows(tensors={"x": torch.tensor([[0.25, 0.5]])}, axes={"x": 1})
        >>> rows.reserve(kept, 1)
        >>> rows.keep([9], kept.head(1))
        >>> batch = rows.take([4, 9], run=lambda prompts: Rows(tensors={"x": torch.ones(1, 1)}, axes={"x": 1}))
        >>> batch.tensors["x"].tolist(), rows.tier(4), rows.tier(9)
        ([[1.0, 0.25]], 'computed', 'memory')
    """

    def __init__(self, sizes: dict[int, int], device: torch.device) -> None:
        self._sizes, self._device = sizes, device
        self._block: Rows | None = None
        self._used = 0
        self._places: dict[int, tuple[Source, range]] = {}

    def reserve(self, like: Rows, count: int) -> None:
        """Take memory for rows.

        Args:
            like: Rows of their shape.
            count: How many.
        """
        self._block = like.empty(count, device=self._device)

    def keep(self, prompts: Sequence[int], rows: Rows) -> None:
        """Copy rows into the reserved memory.

        Args:
            prompts: Whose they are.
            rows: All rows of theirs, in order.
        """
        assert self._block is not None
        start = self._used
        for prompt, held in self._laid_out(prompts):
            self._places[prompt] = (self._block, range(start + held.start, start + held.stop))
            self._used = start + held.stop
        self._block.put(torch.arange(start, self._used, device=self._device), rows)

    def point(self, prompts: Sequence[int], stored: StoredRows, *, wanted: Iterable[int]) -> None:
        """Remember that prompts lie in a file.

        Args:
            prompts: All prompts of the file, in order.
            stored: The file.
            wanted: Those that are to be taken from it.
        """
        chosen = set(wanted)
        self._places.update({prompt: (stored, held) for prompt, held in self._laid_out(prompts) if prompt in chosen})

    def tier(self, prompt: int) -> str:
        """Where a prompt's rows come from: `memory`, `disk` or `computed`."""
        source = self._places.get(prompt, (None,))[0]
        return "computed" if source is None else "memory" if source is self._block else "disk"

    def whole(self, prompts: Sequence[int]) -> tuple[Rows, np.ndarray] | None:
        """The block of memory and where in it the rows of prompts lie `[prompt row]`.

        Args:
            prompts: Which.

        Returns:
            None where not all of them lie there, or they have different numbers of rows.
        """
        if self._block is None or any(self.tier(prompt) != "memory" for prompt in prompts):
            return None
        rows = [self._places[prompt][1] for prompt in prompts]
        if len({len(held) for held in rows}) != 1:
            return None
        return self._block, np.array([list(held) for held in rows])

    def take(self, prompts: Sequence[int], run: Run) -> Rows:
        """Rows of a batch, copied from where they lie.

        Args:
            prompts: The batch.
            run: Gives the rows of prompts that lie nowhere.
        """
        parts: dict[int, _Part] = {}
        for prompt, places in self._laid_out(prompts):
            source, held = self._places.get(prompt, (None, range(0)))
            part = parts.setdefault(id(source), _Part(source=source))
            part.prompts.append(prompt)
            part.rows += held
            part.places += places
        files = [part for part in parts.values() if isinstance(part.source, StoredRows)]
        others = [part for part in parts.values() if not isinstance(part.source, StoredRows)]
        taken = [(part.places, self._rows(part, run)) for part in others]
        if files:
            taken.append(self._from_files(files))
        if len(taken) == 1:
            return taken[0][1]
        return _joined(taken, self._device)

    def _rows(self, part: _Part, run: Run) -> Rows:
        if part.source is None:
            return run(part.prompts)
        return part.source.take(to_device(torch.tensor(part.rows), self._device))

    def _from_files(self, parts: list[_Part]) -> tuple[list[int], Rows]:
        """What several files give, put together in memory and moved to the device at once, in the batch's order."""
        places = sorted(place for part in parts for place in part.places)
        rank = {place: index for index, place in enumerate(places)}
        taken = [([rank[place] for place in part.places], _taken(part)) for part in parts]
        cpu = torch.device("cpu")
        if len(taken) == 1:
            return places, taken[0][1].to(self._device)
        return places, _joined(taken, cpu, pin=self._device.type == "cuda").to(self._device)

    def _laid_out(self, prompts: Iterable[int]) -> list[tuple[int, range]]:
        """Each prompt's rows, when they lie one prompt after the other."""
        prompts = list(prompts)
        ends = list(accumulate((self._sizes[prompt] for prompt in prompts), initial=0))
        return [(prompt, range(ends[i], ends[i + 1])) for i, prompt in enumerate(prompts)]


def _taken(part: _Part) -> Rows:
    assert isinstance(part.source, StoredRows)
    return part.source.take(torch.tensor(part.rows))


def _joined(taken: list[tuple[list[int], Rows]], device: torch.device, *, pin: bool = False) -> Rows:
    """Rows of several sources, each at its places."""
    taken = [(places, rows.copied()) for places, rows in taken]
    count = sum(len(places) for places, _ in taken)
    made = taken[0][1].empty(count, device=device, pin=pin)
    for places, rows in taken:
        made.put(to_device(torch.tensor(places), device), rows)
    return made
