"""Reads mixed and normed in one go, and the way back, against autograd in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")
from circuitgraph.forward.engine.cpu import reads, threads
from circuitgraph.forward.engine.entries import Entries

EPSILON = 1e-3
BOUND = {torch.float32: 1e-4, torch.float64: 1e-12}
"""With this ε no scale is above 32, so roundings grow by no more than that."""


@given(
    readers=st.integers(1, 4),
    slots=st.integers(0, 13),
    positions=st.integers(1, 4),
    width=st.integers(2, 9),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    running=st.sampled_from(["none", "some", "all"]),
    same_base=st.booleans(),
    dense=st.booleans(),
    centred=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
)
@example(4, 13, 3, 8, 0.3, "some", False, False, False, torch.float32, 0)
@example(4, 13, 3, 8, 1.0, "all", True, True, True, torch.float64, 0)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_both_ways(readers, slots, positions, width, share, running, same_base, dense, centred, dtype, seed) -> None:
    draw = torch.Generator().manual_seed(seed)
    number = np.dtype(str(dtype).removeprefix("torch."))

    def made(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=draw).to(dtype)

    base, sums = made(1 if same_base else positions, width), made(positions, width)
    deltas = made(slots, positions, width)
    weight, bias, given_back = made(width), made(width), made(readers, positions, width)
    matrix = (made(readers, slots) * (torch.rand(readers, slots, generator=draw) < share)).numpy()
    wanted = (torch.rand(readers, slots, generator=draw) < 0.5).numpy()
    takes = np.arange(readers) % 2 == 0 if running == "some" else np.full(readers, running == "all")
    total = made(positions, width)

    leaf = (
        base.double()
        + torch.from_numpy(takes)[:, None, None] * sums.double()
        + torch.einsum("rs,scw->rcw", torch.from_numpy(matrix).double(), deltas.double())
    ).requires_grad_()
    apart = leaf - leaf.mean(-1, keepdim=True) if centred else leaf
    expected = apart * (apart.square().mean(-1, keepdim=True) + EPSILON).rsqrt() * weight.double()
    expected = expected + bias.double() if centred else expected
    (pulled,) = torch.autograd.grad(expected, leaf, given_back.double())

    mixed = reads.Mixed(
        base=base, running=sums if takes.any() else None, takes_running=takes, entries=Entries.of(matrix, number),
        matrix=matrix if dense else None, deltas=deltas,
    )  # fmt: skip
    norm = reads.Norm(weight=weight, bias=bias if centred else None, epsilon=EPSILON, centred=centred)
    out, back, added = torch.empty(readers, positions, width, dtype=dtype), given_back.clone(), total.clone()
    moments = reads.norm_mixed(mixed, norm, out)
    dots = reads.pull_mixed(back, mixed, norm, moments, Entries.of(wanted, number), added if takes.any() else None)

    def check(ours: torch.Tensor, theirs: torch.Tensor) -> None:
        torch.testing.assert_close(ours.double(), theirs, atol=BOUND[dtype] * 10, rtol=BOUND[dtype])

    check(out, expected.detach())
    check(back, pulled)
    check(added, total.double() + pulled[takes].sum(0))
    check(torch.from_numpy(dots), torch.einsum("rcw,scw->rs", pulled, deltas.double())[torch.from_numpy(wanted)])


@pytest.mark.slow
@pytest.mark.skipif(not threads.threads_work(), reason="Numba has neither OpenMP nor TBB here")
def test_threads_say_what_one_says(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    base, sums, weight = (torch.randn(*size, generator=draw) for size in ((7, 16), (7, 16), (16,)))
    deltas, matrix = torch.randn(9, 7, 16, generator=draw), torch.randn(3, 9, generator=draw).numpy()
    given_back = torch.randn(3, 7, 16, generator=draw)
    entries = Entries.of(matrix, np.dtype("float32"))
    takes = np.array([True, False, True])
    mixed = reads.Mixed(base=base, running=sums, takes_running=takes, entries=entries, matrix=None, deltas=deltas)
    norm = reads.Norm(weight=weight, bias=None, epsilon=EPSILON, centred=False)
    found = []
    for n in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n: n)
        monkeypatch.setattr(threads, "NUMBERS_PER_THREAD", 1)
        out, back, total = torch.empty(3, 7, 16), given_back.clone(), torch.zeros(7, 16)
        moments = reads.norm_mixed(mixed, norm, out)
        dots = reads.pull_mixed(back, mixed, norm, moments, entries, total)
        found.append((out, back, total, dots))
    (*one, dots), (*three, dots_of_three) = found
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))
    np.testing.assert_allclose(dots, dots_of_three, rtol=1e-12)  # added up in float64, in another order


def test_some_readers_of_a_matrix() -> None:
    """Rows of a larger matrix are taken without copying its entries."""
    matrix = np.array([[1.0, 0.0], [2.0, 3.0], [0.0, 4.0], [5.0, 6.0]])
    entries = Entries.of(matrix, np.dtype("float64"))
    two = entries.rows(slice(1, 3))
    assert two.sources is entries.sources and two.starts.tolist() == [1, 3, 4]
    base, deltas = torch.zeros(1, 2, dtype=torch.float64), torch.ones(2, 1, 2, dtype=torch.float64)
    mixed = reads.Mixed(
        base=base, running=None, takes_running=np.zeros(2, dtype=bool), entries=two, matrix=None, deltas=deltas
    )
    norm = reads.Norm(weight=torch.ones(2, dtype=torch.float64), bias=None, epsilon=0.0, centred=False)
    out = torch.empty(2, 1, 2, dtype=torch.float64)
    means, scales = reads.norm_mixed(mixed, norm, out)
    assert scales.flatten().tolist() == [1 / 5, 1 / 4] and not means.any()
    back = torch.tensor([[[1.0, -1.0]], [[2.0, 0.0]]], dtype=torch.float64)
    dots = reads.pull_mixed(back, mixed, norm, (means, scales), two, None)
    # Of x = (5, 5) with g = (1, −1): (g − x̂ · 0) / 5; of x = (4, 4) with g = (2, 0): ((2, 0) − (1, 1)) / 4.
    assert back.flatten().tolist() == [0.2, -0.2, 0.25, -0.25]
    assert dots.tolist() == [0.0, 0.0, 0.0]
