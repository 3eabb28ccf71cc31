"""Which positions run, worked by hand."""

from __future__ import annotations

import numpy as np
import torch

from circuitgraph.batch import TokenBatch
from circuitgraph.forward.plan.positions import Positions, PositionSets, position_sets

CPU = torch.device("cpu")


def sets(
    clean: list[list[int]],
    other: list[list[int]] | None,
    real: list[list[int]],
    asked: list[int],
    *,
    causal: bool = True,
) -> PositionSets:
    """The sets of a batch given as rows of tokens."""
    mask = np.array(real, dtype=bool)
    batch = TokenBatch(
        input_ids=torch.tensor(clean),
        attention_mask=torch.tensor(real),
        predict_index=torch.tensor(asked),
        predict_prompt=torch.tensor(asked) // mask.shape[1],
    )
    differs = None if other is None else np.array(clean) != np.array(other)
    return position_sets(batch, causal=causal, real=mask, asked=np.array(asked), differs=differs)


ROW = [1, 2, 3, 4, 5, 6, 7, 8]
CHANGED = [1, 2, 9, 4, 5, 6, 7, 8]
ALL_REAL = [[1] * 8]


def test_from_the_first_difference_to_the_last_asked() -> None:
    found = sets([ROW], [CHANGED], ALL_REAL, [4, 6])
    assert found.reached.host.tolist() == [2, 3, 4, 5, 6]
    assert found.local is not None
    assert found.local.host.tolist() == [2]
    assert found.asked.host.tolist() == [4, 6]


def test_padding_is_left_out_on_either_side() -> None:
    found = sets([ROW, ROW], [CHANGED, CHANGED], [[0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0, 0]], [7, 13])
    assert found.reached.host.tolist() == [2, 3, 4, 5, 6, 7, 10, 11, 12, 13]


def test_a_difference_in_padding_is_none() -> None:
    found = sets([ROW, ROW], [[9, *ROW[1:]], CHANGED], [[0, 1, 1, 1, 1, 1, 1, 1], [1] * 8], [7, 15])
    assert found.reached.host.tolist() == [10, 11, 12, 13, 14, 15]


def test_attention_both_ways_reaches_the_whole_prompt() -> None:
    found = sets([ROW, ROW], [CHANGED, ROW], ALL_REAL * 2, [1, 9], causal=False)
    assert found.reached.host.tolist() == list(range(8))


def test_other_ablations_differ_everywhere() -> None:
    found = sets([ROW], None, ALL_REAL, [5])
    assert found.reached.host.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.local is None


def test_local_positions_are_told_apart_only_where_they_are_few() -> None:
    assert sets([ROW], [[9, 9, 9, 9, 9, 9, 9, 8]], ALL_REAL, [7]).local is None


def test_equal_prompts_run_where_they_are_asked() -> None:
    found = sets([ROW], [ROW], ALL_REAL, [6])
    assert found.reached is found.asked


def test_values_move_between_positions() -> None:
    wide, narrow = Positions(np.array([1, 2, 5, 7]), (2, 4), CPU), Positions(np.array([7, 0, 2]), (2, 4), CPU)
    value = torch.tensor([[1.0], [2.0], [5.0], [7.0]])
    assert wide.move(value, narrow).tolist() == [[7.0], [0.0], [2.0]]
    assert narrow.move(torch.tensor([[7.0], [9.0], [2.0]]), wide).tolist() == [[0.0], [2.0], [0.0], [7.0]]
    assert wide.move(value, wide) is value


def test_values_at_positions() -> None:
    positions = Positions(np.array([5, 1]), (2, 3), CPU)
    grid = torch.arange(6.0).view(2, 3, 1)
    assert positions.of(grid).tolist() == [[5.0], [1.0]]
    assert positions.of(grid[:1]).tolist() == [[2.0], [1.0]]  # one value a position, for every prompt
    assert positions.of(grid[:1, :1]).tolist() == [[0.0]]  # one value for all
    assert Positions(np.arange(6), (2, 3), CPU).is_grid
