"""The order in which training sees its prompts: batches of one length, every prompt once an epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class OrderState:
    """Where an order of batches stands.

    Attributes:
        queue: Batches that are left of the epoch, the next one last.
        generator: State of numpy's generator, as `numpy.random.BitGenerator.state` has it.
    """

    queue: tuple[np.ndarray, ...]
    generator: dict[str, Any]


class BatchOrder:
    """An endless, seeded order of batches; each batch holds prompts of one length, each epoch every prompt once.

    Args:
        by_length: The prompts of each length.
        batch_size: Prompts per batch; a length's last batch of an epoch can be smaller.
        generator: Source of randomness.
        balance: Draw as many batches of every length, by repeating those of the rarer lengths.

    Examples:
        >>> order = BatchOrder({5: np.array([0, 2]), 7: np.array([1])}, 2, np.random.default_rng(0))
        >>> sorted(sorted(order.next().tolist()) for _ in range(2))
        [[0, 2], [1]]
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

    def state(self) -> OrderState:
        """Where the order stands now."""
        return OrderState(queue=tuple(self._queue), generator=dict(self._generator.bit_generator.state))

    def restore(self, state: OrderState) -> None:
        """Go on from where an order of the same prompts and batch size stood.

        Args:
            state: What its `state` gave.

        Examples:
            >>> by_length = {5: np.arange(9)}
            >>> one, other = (BatchOrder(by_length, 2, np.random.default_rng(seed)) for seed in (0, 1))
            >>> _ = one.next()
            >>> other.restore(one.state())
            >>> all((one.next() == other.next()).all() for _ in range(20))
            True
        """
        self._queue = list(state.queue)
        self._generator.bit_generator.state = state.generator

    def _chunks(self, members: np.ndarray) -> list[np.ndarray]:
        mixed = self._generator.permutation(members)
        return [mixed[start : start + self._batch_size] for start in range(0, len(mixed), self._batch_size)]
