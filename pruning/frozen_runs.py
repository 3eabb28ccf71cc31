"""What never changes while gates are trained, computed once: teacher logits and ablation values.

Prompts are grouped by length, so a batch has no padding. The values of a group are kept as long as the
byte budget lasts; prompts beyond it are run again each time they are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from circuitgraph.batch import PairBatch
from circuitgraph.compile import CompiledModel
from circuitgraph.forward.reference import AblationValues
from pruning.encoding import EncodedPairs


@dataclass(frozen=True, kw_only=True)
class FrozenBatch:
    """A batch with everything about it that does not depend on the gates.

    Attributes:
        pairs: The prompts.
        teacher: The full model's logits at the asked positions `[asked d_vocab]`.
        values: What ablated writers say.
    """

    pairs: PairBatch
    teacher: Tensor
    values: AblationValues


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Prompts of one length whose frozen runs are kept.

    Attributes:
        place: Where each prompt of the data set stands in the group.
        teacher: Logits of every asked position, prompt after prompt.
        first: Index of each prompt's first row in `teacher`.
        values: Ablation values with the group along the batch axis.
    """

    place: dict[int, int]
    teacher: list[Tensor]
    values: AblationValues | None


class FrozenRuns:
    """Frozen runs of a data set.

    Args:
        compiled: The model.
        pairs: The data set.
        ablation: Where ablated writers' values come from.
        budget_bytes: How much memory kept runs may take; 0 keeps nothing.
        batch_size: Prompts run at once while filling.
        ablation_data: The prompts that means are taken over; `pairs` by default.
    """

    def __init__(
        self,
        compiled: CompiledModel,
        pairs: EncodedPairs,
        *,
        ablation: str,
        budget_bytes: int = 2 << 30,
        batch_size: int = 16,
        ablation_data: EncodedPairs | None = None,
    ) -> None:
        self.compiled, self.pairs, self.ablation = compiled, pairs, ablation
        self.constant = None
        if ablation != "counterfactual":
            data = ablation_data if ablation_data is not None else pairs
            chunks = [range(s, min(s + batch_size, len(data))) for s in range(0, len(data), batch_size)]
            batches = (data.batch(chunk, device=compiled.device).clean for chunk in chunks)
            self.constant = compiled.ablation_values(ablation, batches)
        self.hits = self.misses = 0
        self._left = budget_bytes
        self._groups: dict[int, _Group] = {}
        self.by_length: dict[int, np.ndarray] = {}
        lengths = pairs.lengths
        for length in sorted(set(lengths.tolist())):
            members = np.flatnonzero(lengths == length)
            self.by_length[length] = members
            self._fill(length, members, batch_size)

    def _fill(self, length: int, members: np.ndarray, batch_size: int) -> None:
        """Run a group's prompts and keep the runs while the budget lasts."""
        place: dict[int, int] = {}
        teacher: list[Tensor] = []
        parts: list[AblationValues] = []
        for start in range(0, len(members), batch_size):
            if self._left <= 0:
                break
            chunk = members[start : start + batch_size]
            frozen = self._run(self.pairs.batch(chunk, device=self.compiled.device))
            counts = [len(self.pairs.predict_positions[index]) for index in chunk]
            teacher += frozen.teacher.split(counts)
            place.update({int(index): len(place) + i for i, index in enumerate(chunk)})
            if self.constant is None:
                parts.append(frozen.values)
                self._left -= frozen.values.n_bytes
            self._left -= frozen.teacher.numel() * frozen.teacher.element_size()
        values = AblationValues.join(parts) if parts else None
        self._groups[length] = _Group(place=place, teacher=teacher, values=values)

    def _run(self, batch: PairBatch) -> FrozenBatch:
        teacher = self.compiled.logits(batch.clean)
        values = (
            self.constant if self.constant is not None else self.compiled.run_with_values(batch.corrupted)[1]
        )
        return FrozenBatch(pairs=batch, teacher=teacher, values=values)

    def batch(self, indices: np.ndarray) -> FrozenBatch:
        """A batch of prompts of one length.

        Args:
            indices: Which prompts of the data set.
        """
        pairs = self.pairs.batch(indices, device=self.compiled.device)
        group = self._groups[len(self.pairs.clean_ids[int(indices[0])])]
        if any(int(index) not in group.place for index in indices):
            self.misses += 1
            return self._run(pairs)
        self.hits += 1
        places = [group.place[int(index)] for index in indices]
        teacher = torch.cat([group.teacher[place] for place in places])
        if group.values is None:
            assert self.constant is not None
            return FrozenBatch(pairs=pairs, teacher=teacher, values=self.constant)
        return FrozenBatch(
            pairs=pairs, teacher=teacher,
            values=group.values.select(torch.tensor(places, device=teacher.device)),
        )  # fmt: skip


class BatchOrder:
    """An endless, seeded order of batches; each batch holds prompts of one length, each epoch every prompt once.

    Args:
        by_length: The prompts of each length.
        batch_size: Prompts a batch; a length's last batch of an epoch can be smaller.
        generator: Source of randomness.
        balance: Draw as many batches of every length, by repeating those of the rarer lengths.
    """

    def __init__(
        self,
        by_length: dict[int, np.ndarray],
        batch_size: int,
        generator: np.random.Generator,
        *,
        balance: bool = False,
    ) -> None:
        self._by_length, self._batch_size, self._generator = by_length, batch_size, generator
        self._balance = balance
        self._queue: list[np.ndarray] = []

    def next(self) -> np.ndarray:
        """The next batch's prompts."""
        if not self._queue:
            chunks = [self._chunks(members) for members in self._by_length.values()]
            if self._balance:
                most = max(len(group) for group in chunks)
                chunks = [[group[i % len(group)] for i in range(most)] for group in chunks]
            flat = [chunk for group in chunks for chunk in group]
            self._queue = [flat[i] for i in self._generator.permutation(len(flat))]
        return self._queue.pop()

    def _chunks(self, members: np.ndarray) -> list[np.ndarray]:
        mixed = self._generator.permutation(members)
        return [mixed[start : start + self._batch_size] for start in range(0, len(mixed), self._batch_size)]
