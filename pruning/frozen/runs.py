"""What never changes while gates are trained, computed once: the teacher's outputs and the ablation values.

Prompts are grouped by length, so a batch has no padding. Filling, chunk by chunk of a group:

1. a chunk on disk is read; otherwise the model runs it, and it is written to disk while there is room;
2. its prompts are copied into memory while the budget lasts; the others are mapped from the file when they are drawn;
3. prompts that neither can hold are run again each time they are drawn.

Where memory cannot hold all prompts whole, of ablated runs only writers' outputs are kept, their short form.

A kept prompt has its chunk's bits, whether run now, read, or kept; others may differ in the last, by their company.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from circuitgraph.batch import TokenBatch
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.memory.numbers import values_a_token
from circuitgraph.memory.portions import Portions
from circuitgraph.torch_state import in_settled_state
from pruning.frozen.batch import FrozenBatch
from pruning.frozen.constants import AblationData, given_values
from pruning.frozen.disk import DiskCache, Place, StoredRows
from pruning.frozen.group import KeptGroup
from pruning.frozen.kept_rows import KeptRows
from pruning.frozen.keys import model_key, run_key
from pruning.frozen.rows import Rows, rows_of_teacher, rows_of_values, teacher_of_rows, values_of_rows
from pruning.frozen.top_teacher import TopTeacher
from pruning.prompts.batch_order import BatchOrder
from pruning.prompts.encoding import EncodedPairs
from pruning.prompts.runnable import require_runnable

__all__ = ["BatchOrder", "FrozenBatch", "FrozenRuns", "RunCounts"]


@dataclass(kw_only=True)
class RunCounts:
    """Prompts, by where their frozen runs came from.

    Attributes:
        memory: Kept in memory.
        disk: Read from a file.
        computed: Run by the model.

    Examples:
        >>> print(RunCounts(memory=96, disk=4))
        96 from memory, 4 from disk, 0 computed
    """

    memory: int = 0
    disk: int = 0
    computed: int = 0

    def add(self, tier: str, n: int = 1) -> None:
        """Count prompts of a tier."""
        setattr(self, tier, getattr(self, tier) + n)

    @property
    def total(self) -> int:
        """All of them."""
        return self.memory + self.disk + self.computed

    def __str__(self) -> str:
        return f"{self.memory:,} from memory, {self.disk:,} from disk, {self.computed:,} computed"


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """A chunk's rows of one kind: just run, or in a file, or both."""

    ran: Rows | None
    stored: StoredRows | None

    def head(self, n_rows: int) -> Rows:
        """The first rows, as views."""
        held = self.ran if self.ran is not None else self.stored
        assert held is not None
        return held.head(n_rows)


class FrozenRuns:
    """Frozen runs of a data set.

    Args:
        compiled: The model. Its weights must not change while this is used.
        pairs: The data set.
        ablation: Where ablated writers' values come from.
        budget_bytes: How much memory kept runs may take; 0 keeps nothing there.
        batch_size: Prompts run at once while filling; halved when memory runs out.
        ablation_data: The prompts that means are taken over, `pairs` by default; or the constants themselves.
        disk: A folder for what memory cannot hold, and for the next run; None keeps nothing on disk.
        teacher_top_k: Keep the teacher's likeliest tokens and the mass of all others instead of its whole
            vocabulary, which only the objectives in `pruning.execution.objectives.TAKES_TOP_K` can do with.

    Attributes:
        by_length: The prompts of each length.
        short: Whether only writers' outputs are kept of an ablated run, and what readers made of them is computed
            again when a prompt is drawn: so it is where memory could not hold all prompts otherwise.
        filled: Prompts by how their runs were come by at the start; `memory` stays 0.
        drawn: Prompts by where their runs came from, each time they were drawn.

    Raises:
        ConfigurationError: A `teacher_top_k` below 1, prompts that the model cannot take, or constants that do not fit.
        UnknownNameError: No such ablation.
    """

    @in_settled_state
    def __init__(
        self,
        compiled: CompiledModel,
        pairs: EncodedPairs,
        *,
        ablation: str,
        budget_bytes: int = 2 << 30,
        batch_size: int = 16,
        ablation_data: AblationData | None = None,
        disk: DiskCache | None = None,
        teacher_top_k: int | None = None,
    ) -> None:
        if teacher_top_k is not None and teacher_top_k < 1:
            raise ConfigurationError(f"teacher_top_k must be 1 or more, or left out; got {teacher_top_k}")
        require_runnable(compiled, pairs)
        whole = teacher_top_k is None or teacher_top_k >= compiled.shape.d_vocab
        self.compiled, self.pairs, self.ablation = compiled, pairs, ablation
        self.teacher_top_k = None if whole else teacher_top_k
        self.filled, self.drawn, self._counting = RunCounts(), RunCounts(), threading.Lock()
        self._batch_size, self._left = batch_size, budget_bytes
        self._portions = Portions(compiled, batch_size)
        self._disk = disk.for_run() if disk is not None and disk.budget_bytes else None
        self._model_key = model_key(compiled) if self._disk is not None else ""
        self.short = ablation == "counterfactual" and 0 < budget_bytes < self._whole_bytes()
        self.constant = None if ablation == "counterfactual" else self._constant(ablation_data)
        self._kinds = ("teacher",) if self.constant is not None else ("teacher", "values")
        self._seen: dict[str, tuple[int, int]] = {}
        self._kept_rows: dict[int, dict[str, KeptRows]] = {}
        self.by_length = pairs.by_length
        for length, members in self.by_length.items():
            self._kept_rows[length] = {
                kind: KeptRows(self._sizes(kind, members), compiled.device) for kind in self._kinds
            }
            self._fill(length, [int(index) for index in members])

    # ------------------------------------------------------------ filling

    def _whole_bytes(self) -> int:
        """Memory that all prompts with everything about them would take."""
        shape, b = self.compiled.shape, self.compiled.dtype.itemsize
        tokens = int(self.pairs.lengths.sum())
        asked = sum(len(positions) for positions in self.pairs.predict_positions)
        kept = 2 * self.teacher_top_k if self.teacher_top_k is not None else shape.d_vocab
        return b * (tokens * values_a_token(shape) + asked * kept)

    def _constant(self, given: AblationData | None) -> AblationValues:
        """Values that do not depend on the prompt: those given, or of prompts; means are kept on disk."""
        if (values := given_values(given, self.ablation)) is not None:
            return values
        data = given if isinstance(given, EncodedPairs) else self.pairs

        def batches(size: int, device: torch.device) -> Iterator[TokenBatch]:
            chunks = (range(start, min(start + size, len(data))) for start in range(0, len(data), size))
            return (data.batch(chunk, device=device).clean for chunk in chunks)

        place = stored = None
        if self._disk is not None and self.ablation.startswith("mean"):
            place = self._place(self.ablation, list(batches(self._batch_size, torch.device("cpu"))))
            stored = self._disk.read(place, 0)
        if stored is not None:
            return values_of_rows(stored.take(torch.tensor([], dtype=torch.long)).to(self.compiled.device))
        values = self._portions.repeat(
            lambda size: self.compiled.ablation_values(self.ablation, batches(size, self.compiled.device))
        )
        if self._disk is not None and place is not None and self._portions.most == self._batch_size:
            self._disk.write(place, rows_of_values(values, 0), 0, self._about(self.ablation, len(data), None))
        return values

    def _fill(self, length: int, members: list[int]) -> None:
        """Keep a group's prompts, in memory while it lasts, then on disk."""
        capacity = None if self._may_fit(length) else 0
        for start in range(0, len(members), self._batch_size):
            capacity = self._fill_chunk(length, members, start, capacity)
            if capacity < min(start + self._batch_size, len(members)) and self._disk is None:
                break

    def _fill_chunk(self, length: int, members: list[int], start: int, capacity: int | None) -> int:
        """Keep so many of a group's prompts from one on; nothing of their runs is held after that.

        Args:
            length: Their tokens.
            members: The group.
            start: The first one's place in it.
            capacity: How many of the group memory is taken for; None before that is known.

        Returns:
            The capacity.
        """
        by_kind, chunk = self._kept_rows[length], members[start : start + self._batch_size]
        wanted = capacity is None or start < capacity
        kept = {kind: self._obtain(kind, chunk, length, wanted=wanted) for kind in self._kinds}
        if all(found is not None for found in kept.values()):
            ran = any(found is not None and found.ran is not None for found in kept.values())
            self.filled.add("computed" if ran else "disk", len(chunk))
        if capacity is None:
            capacity = self._reserve(length, members, kept)
        in_memory = chunk[: max(0, capacity - start)]
        for kind, found in kept.items():
            if found is None:
                continue
            if in_memory:
                n_rows = sum(self._sizes(kind, in_memory).values())
                by_kind[kind].keep(in_memory, found.head(n_rows))
            if found.stored is not None:
                by_kind[kind].point(chunk, found.stored, wanted=chunk[len(in_memory) :])
        return capacity

    def _may_fit(self, length: int) -> bool:
        """Whether memory could hold a prompt of a length, as far as one knows before running one."""
        return self._left > sum(self._expected_row(kind, length) for kind in self._kinds)

    def _expected_row(self, kind: str, length: int) -> int:
        """Bytes of a row, judged by the last one seen; values grow with the prompt. 0 before any was seen."""
        n_bytes, seen = self._seen.get(kind, (0, 1))
        return n_bytes * length // seen if kind == "values" else n_bytes

    def _reserve(self, length: int, members: list[int], kept: dict[str, _Kept | None]) -> int:
        """Take memory for as many of a group's prompts as the budget holds; returns for how many."""
        likes: dict[str, Rows] = {}
        for kind, found in kept.items():
            assert found is not None
            likes[kind] = found.head(1)
        sizes = {kind: self._sizes(kind, members) for kind in likes}
        left = self._left - sum(like.shared_bytes for like in likes.values())
        capacity = 0
        for index in members:
            left -= sum(like.row_bytes * sizes[kind][index] for kind, like in likes.items())
            if left < 0:
                break
            capacity, self._left = capacity + 1, left
        if capacity:
            for kind, like in likes.items():
                n_rows = sum(sizes[kind][index] for index in members[:capacity])
                self._kept_rows[length][kind].reserve(like, n_rows)
        return capacity

    def _obtain(self, kind: str, chunk: list[int], length: int, *, wanted: bool) -> _Kept | None:
        """A chunk's rows: read, or run if they are wanted in memory or could be written."""
        n_rows = sum(self._sizes(kind, chunk).values())
        place = None
        if self._disk is not None:
            batch = self.pairs.batch(chunk)
            asked = batch.clean if kind == "teacher" else batch.corrupted
            place = self._place(kind, [asked])
            stored = self._disk.read(place, n_rows)
            if stored is not None:
                self._seen[kind] = (stored.first.row_bytes, length)
                return _Kept(ran=None, stored=stored)
            wanted = wanted or self._disk.could_hold(self._expected_row(kind, length) * n_rows)
        if not wanted:
            return None
        rows = self._run(kind, chunk)
        self._seen[kind] = (rows.row_bytes, length)
        if self._disk is None or place is None or self._portions.most < len(chunk):
            return _Kept(ran=rows, stored=None)  # in other batches than the key names, where not all ran at once
        stored = self._disk.write(place, rows, n_rows, self._about(kind, len(chunk), length))
        return _Kept(ran=rows, stored=stored)

    def _sizes(self, kind: str, prompts: Sequence[int] | np.ndarray) -> dict[int, int]:
        """How many rows each prompt has."""
        if kind == "values":
            return {int(index): 1 for index in prompts}
        return {int(index): len(self.pairs.predict_positions[index]) for index in prompts}

    def _place(self, kind: str, batches: list) -> Place:
        teacher = {"top_k": self.teacher_top_k} | self.compiled.told_vectors
        settings = {"teacher": teacher, "values": {"short": self.short}}.get(kind, {})
        return Place(model=self._model_key, kind=kind, key=run_key(self._model_key, kind, batches, **settings))

    def _about(self, kind: str, n_prompts: int, length: int | None) -> dict[str, object]:
        about = {"model": self.compiled.name, "dtype": str(self.compiled.dtype).removeprefix("torch."), "kind": kind}
        return {**about, "device": self.compiled.device.type, "prompts": n_prompts, "tokens": length}

    # ------------------------------------------------------------ running and drawing

    def _run(self, kind: str, prompts: Sequence[int]) -> Rows:
        """Run prompts, in portions where memory runs out."""
        return Rows.joined(self._portions.run(lambda part: self._run_at_once(kind, part), np.asarray(prompts)))

    def _run_at_once(self, kind: str, prompts: Sequence[int] | np.ndarray) -> Rows:
        batch = self.pairs.batch(prompts, device=self.compiled.device)
        if kind == "values":
            values = self.compiled.run_with_values(batch.corrupted, vectors=False)[1]
            return rows_of_values(values.only_said() if self.short else values, len(prompts))
        logits = self.compiled.logits(batch.clean)
        return rows_of_teacher(logits if self.teacher_top_k is None else TopTeacher.of(logits, self.teacher_top_k))

    @in_settled_state
    def batch(self, indices: np.ndarray) -> FrozenBatch:
        """A batch of prompts, of one length unless nothing of it is to come from what is kept.

        Args:
            indices: Which prompts of the data set.
        """
        prompts = [int(index) for index in indices]
        lengths = {len(self.pairs.clean_ids[index]) for index in prompts}
        if len(lengths) == 1:
            by_kind = self._kept_rows[lengths.pop()]
        else:
            by_kind = {kind: KeptRows(self._sizes(kind, prompts), self.compiled.device) for kind in self._kinds}
        self._count_drawn(prompts, by_kind)
        rows = {
            kind: rows.take(prompts, lambda missing, kind=kind: self._run_at_once(kind, missing))
            for kind, rows in by_kind.items()
        }
        values = self.constant
        if values is None:
            values = self.compiled.whole_values(values_of_rows(rows["values"]))
        pairs = self.pairs.batch(prompts, device=self.compiled.device)
        if values.input_ids is not None:
            # The same tokens, where they are looked at.
            prompts = pairs.corrupted.to_look_at
            values = replace(values, input_ids=prompts.input_ids, attention_mask=prompts.attention_mask)
        return FrozenBatch(pairs=pairs, teacher=teacher_of_rows(rows["teacher"]), values=values)

    @in_settled_state
    def group(self, length: int) -> KeptGroup | None:
        """All prompts of a length, to pick batches from where the model lies.

        Args:
            length: In tokens.

        Returns:
            The group; None where not all of it is in memory, or not all of its prompts ask the same positions.
        """
        members = self.by_length[length]
        kept = {kind: rows.whole([int(index) for index in members]) for kind, rows in self._kept_rows[length].items()}
        found = {kind: whole for kind, whole in kept.items() if whole is not None}
        if len(found) < len(kept):
            return None
        return KeptGroup.of(self.compiled, self.pairs, members, found, self.constant)

    def count_kept(self, n: int) -> None:
        """Count prompts that were drawn from a group.

        Args:
            n: How many.
        """
        with self._counting:
            self.drawn.add("memory", n)

    def _count_drawn(self, prompts: list[int], by_kind: dict[str, KeptRows]) -> None:
        """Count each prompt by the slowest place that something of it comes from."""
        with self._counting:
            for prompt in prompts:
                self.drawn.add(_slowest_tier(by_kind, prompt))

    # ------------------------------------------------------------ telling

    def counted_anew(self) -> FrozenRuns:
        """The same runs, nothing of them copied, for another training: what it draws is counted from 0."""
        again = copy.copy(self)
        again.filled, again.drawn, again._counting = replace(self.filled), RunCounts(), threading.Lock()
        return again

    def kept(self) -> RunCounts:
        """Every prompt once, by where its run would come from if it was drawn now."""
        counts = RunCounts()
        for length, members in self.by_length.items():
            for prompt in members:
                counts.add(_slowest_tier(self._kept_rows[length], int(prompt)))
        return counts

    def describe(self) -> str:
        """How the runs were come by, and where they are now, in a line."""
        kept = self.kept()
        came = f"{self.filled.disk:,} read from disk, {self.filled.computed:,} run; " if self.filled.total else ""
        again = f", {kept.computed:,} run again each time they are drawn" if kept.computed else ""
        short = " (in short form)" if self.short and kept.memory + kept.disk else ""
        return f"{came}{kept.memory:,} kept in memory, {kept.disk:,} on disk{short}{again}"

    def counts(self) -> dict[str, dict[str, int]]:
        """`filled`, `kept` and `drawn` as plain numbers, for a result's metrics."""
        return {"filled": asdict(self.filled), "kept": asdict(self.kept()), "drawn": asdict(self.drawn)}


def _slowest_tier(by_kind: dict[str, KeptRows], prompt: int) -> str:
    """The slowest place that something of a prompt comes from."""
    tiers = {rows.tier(prompt) for rows in by_kind.values()}
    return next(tier for tier in ("computed", "disk", "memory") if tier in tiers)
