"""Every prompt comes up once an epoch, in batches of one length, in an order that is the generator's alone."""

from __future__ import annotations

from collections import Counter

import numpy as np

from pruning.prompts.batch_order import BatchOrder
from tests.pruning.prompts.small_prompts import GlobalRandomState

BY_LENGTH = {4: np.arange(0, 7), 5: np.arange(7, 9), 6: np.arange(9, 19)}


def epoch(order: BatchOrder, n: int) -> list[list[int]]:
    return [order.next().tolist() for _ in range(n)]


def length_of(index: int) -> int:
    return next(length for length, members in BY_LENGTH.items() if index in members)


def test_an_epoch_has_every_prompt_once() -> None:
    order = BatchOrder(BY_LENGTH, 3, np.random.default_rng(0))
    epochs = [epoch(order, 3 + 1 + 4) for _ in range(4)]
    for batches in epochs:
        assert sorted(sum(batches, [])) == list(range(19))
        assert all(1 <= len(batch) <= 3 for batch in batches)
        assert all(len({length_of(i) for i in batch}) == 1 for batch in batches)
    assert epochs[0] != epochs[1], "each epoch in another order"
    together = [{frozenset(batch) for batch in batches if len(batch) == 3} for batches in epochs]
    assert not set.intersection(*together), "prompts meet others each epoch"
    lengths = [[length_of(batch[0]) for batch in batches] for batches in epochs]
    assert any(row != sorted(row) and row != sorted(row, reverse=True) for row in lengths), "lengths are mixed"


def test_balance_draws_as_many_batches_of_every_length() -> None:
    order = BatchOrder(BY_LENGTH, 3, np.random.default_rng(0), balance=True)
    for _ in range(3):
        batches = epoch(order, 3 * 4)
        assert Counter(length_of(batch[0]) for batch in batches) == {4: 4, 5: 4, 6: 4}
        times = Counter(sum(batches, []))
        assert set(times) == set(range(19)), "still every prompt"
        assert all(times[i] == 1 for i in range(9, 19)) and all(times[i] == 4 for i in (7, 8))


def test_the_order_is_the_generators_alone() -> None:
    state = GlobalRandomState()
    draws = [epoch(BatchOrder(BY_LENGTH, 4, np.random.default_rng(seed)), 12) for seed in (1, 1, 2)]
    state.assert_untouched()
    assert draws[0] == draws[1] != draws[2]
