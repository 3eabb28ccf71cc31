"""Ablation values taken apart and put together again, whatever fields their dataclass has."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.forward.reference import AblationValues
from pruning.frozen import rows as rows_module
from pruning.frozen.rows import rows_of_teacher, rows_of_values, teacher_of_rows, values_of_rows
from pruning.frozen.top_teacher import TopTeacher
from tests.pruning.prompts.small_prompts import random_prompts

PROMPTS = random_prompts(lengths=[5] * 6)


@pytest.fixture(scope="module")
def values(tiny_llama) -> AblationValues:
    """Of six prompts, in a model with fewer key-value heads than heads."""
    compiled = compile_model(tiny_llama(), verify=False)
    return compiled.run_with_values(PROMPTS.batch(range(6)).corrupted)[1]


def leaves(values: AblationValues) -> list[torch.Tensor]:
    found = []
    for part in fields(values):
        held = getattr(values, part.name)
        if isinstance(held, torch.Tensor):
            found.append(held)
        elif held is not None and not isinstance(held, str):
            found += list(held)
    return found


def assert_same(a: AblationValues, b: AblationValues) -> None:
    for part in fields(a):
        one, other = getattr(a, part.name), getattr(b, part.name)
        assert type(one) is type(other), part.name
        assert not isinstance(one, str) or one == other
        assert not isinstance(one, tuple) or len(one) == len(other)
    for x, y in zip(leaves(a), leaves(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape and torch.equal(x, y)


def test_apart_and_together_without_a_copy(values) -> None:
    again = values_of_rows(rows_of_values(values, 6))
    assert all(x is y for x, y in zip(leaves(values), leaves(again), strict=True))
    assert_same(values, again)


def test_taken_rows_are_the_values_of_those_prompts(values) -> None:
    rows = rows_of_values(values, 6)
    taken = rows.take(torch.tensor([4, 1, 1]))
    assert_same(values_of_rows(taken.copied()), values.select(torch.tensor([4, 1, 1])))
    assert all(tensor.is_contiguous() for tensor in taken.tensors.values())
    assert 6 * rows.row_bytes == rows.n_bytes == values.n_bytes and rows.shared_bytes == 0


def test_a_batch_copies_a_layer_when_it_is_asked_for(values) -> None:
    kept = values.select(torch.arange(6))
    batch = values_of_rows(rows_of_values(kept, 6).take(torch.tensor([3, 0])))
    assert torch.equal(batch.mlps[1], values.mlps[1][[3, 0]])
    kept.mlps[1].zero_()
    assert not batch.mlps[1].any(), "nothing was copied before"
    assert torch.equal(batch.query[0], values.query[0][:, [3, 0]])
    assert [layer.shape for layer in batch.key[:1]] == [batch.key[0].shape]
    with pytest.raises(IndexError):
        batch.mlps[len(values.mlps)]


def test_rows_written_into_places(values) -> None:
    rows = rows_of_values(values, 6)
    made = rows.empty(3, device=torch.device("cpu"))
    made.put(torch.tensor([2]), rows.take(torch.tensor([5])))
    made.put(torch.tensor([0, 1]), rows.head(2))
    assert_same(values_of_rows(made), values.select(torch.tensor([0, 1, 5])))


def test_what_all_prompts_share_is_kept_once(values) -> None:
    d_model = values.mlps[0].shape[-1]
    shared = torch.arange(5.0 * d_model).view(1, 5, d_model)
    mixed = AblationValues(
        ablation="counterfactual",
        embeddings=(shared,),
        heads=values.heads,
        attention=values.attention,
        mlps=(shared, values.mlps[1]),
    )
    rows = rows_of_values(mixed, 6)
    assert rows.shared_bytes == 2 * shared.numel() * 4
    batch = values_of_rows(rows.take(torch.tensor([3, 0])))
    assert torch.equal(batch.embeddings[0], shared) and torch.equal(batch.mlps[1], values.mlps[1][[3, 0]])
    room = rows.empty(2, device=torch.device("cpu"))
    room.put(torch.tensor([1]), rows.head(1))
    assert torch.equal(room.tensors["mlps.0"], shared)


def test_one_prompt_alone_is_a_row(values) -> None:
    rows = rows_of_values(values.select(torch.tensor([2])), 1)
    assert rows.shared_bytes == 0
    joined = rows.empty(2, device=torch.device("cpu"))
    joined.put(torch.tensor([0]), rows)
    joined.put(torch.tensor([1]), rows_of_values(values, 6).take(torch.tensor([4])))
    assert_same(values_of_rows(joined), values.select(torch.tensor([2, 4])))


def test_fields_of_a_later_version(monkeypatch) -> None:
    """Optional fields, tensors by themselves, gaps in a tuple."""

    @dataclass(frozen=True, kw_only=True)
    class Later:
        mlps: tuple[torch.Tensor, ...]
        nothing: tuple[torch.Tensor, ...] = ()
        keys: tuple[torch.Tensor | None, ...] | None = None
        scale: torch.Tensor | None = None

        def changed(self, change):
            return Later(
                mlps=tuple(change(value, 1) for value in self.mlps),
                keys=None if self.keys is None else tuple(None if k is None else change(k, 0) for k in self.keys),
                scale=None if self.scale is None else change(self.scale, 0),
            )

    monkeypatch.setattr(rows_module, "AblationValues", Later)
    mlps, key, scale = torch.randn(2, 3, 4), torch.randn(3, 2), torch.randn(3)
    plain = (
        getattr(rows_of_values, "__wrapped__", rows_of_values),
        getattr(values_of_rows, "__wrapped__", values_of_rows),
    )
    for given in (
        Later(mlps=(mlps,)),
        Later(mlps=(mlps, 2 * mlps), keys=(None, key, None), scale=scale),
        Later(mlps=(), keys=()),
    ):
        rows = plain[0](given, 3)
        taken = plain[1](rows.take(torch.tensor([2, 0])))
        assert len(taken.mlps) == len(given.mlps) and taken.nothing == ()
        assert all(torch.equal(x, y[:, [2, 0]]) for x, y in zip(taken.mlps, given.mlps, strict=True))
        assert (taken.keys is None) == (given.keys is None) and (taken.scale is None) == (given.scale is None)
        if given.scale is not None:
            assert torch.equal(taken.scale, scale[[2, 0]])
            assert taken.keys[0] is None and taken.keys[2] is None and torch.equal(taken.keys[1], key[[2, 0]])


def test_teachers() -> None:
    logits = torch.randn(4, 9)
    assert teacher_of_rows(rows_of_teacher(logits)) is logits
    top = TopTeacher.of(logits, 3)
    taken = teacher_of_rows(rows_of_teacher(top).take(torch.tensor([3, 1])))
    assert isinstance(taken, TopTeacher)
    assert torch.equal(taken.ids, top.ids[[3, 1]]) and torch.equal(taken.log_rest, top.log_rest[[3, 1]])
