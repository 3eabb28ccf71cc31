"""Mixing and dots by the CPU's kernels, against numpy in float64."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("numba")
from circuitgraph.forward.engine.cpu import products, threads
from circuitgraph.forward.engine.entries import Entries

BOUND = {torch.float32: 2e-5, torch.float64: 1e-13}
"""Sums of at most twenty products of numbers around 1, of size below 20; and as much for dots of 40 numbers."""


def rows_of(seed: int, n: int, positions: int, width: int, dtype: torch.dtype) -> Tensor:
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(n, positions, width, generator=drawn, dtype=torch.float64).to(dtype)


def matrix_of(seed: int, to: int, sources: int, share: float) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return np.where(draw.random((to, sources)) < share, draw.normal(size=(to, sources)), 0.0)


sizes = given(
    to=st.integers(1, 5),
    sources=st.integers(0, 20),
    positions=st.integers(1, 5),
    width=st.integers(1, 9),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("base", ["nothing", "itself", "for all positions", "for each"])
@sizes
@example(to=2, sources=14, positions=3, width=8, share=0.5, dtype=torch.float32, seed=0)
@settings(max_examples=15, deadline=None, derandomize=True, database=None)
def test_mixing(base: str, dense: bool, to, sources, positions, width, share, dtype, seed) -> None:
    rows = rows_of(seed, sources, positions, width, dtype)
    matrix = matrix_of(seed, to, sources, share).astype(np.float32)
    out = rows_of(seed + 1, to, positions, width, dtype)
    added = {
        "nothing": None, "itself": out, "for all positions": rows_of(seed + 2, 1, 1, width, dtype)[0],
        "for each": rows_of(seed + 2, 1, positions, width, dtype)[0],
    }[base]  # fmt: skip
    expected = torch.einsum("ts,scw->tcw", torch.from_numpy(matrix).double(), rows.double())
    expected += 0 if added is None else added.double()
    number = np.dtype(str(dtype).removeprefix("torch."))
    whole = matrix.astype(number) if dense else None
    products.mix(out, added, Entries.of(matrix, number), rows, whole)
    torch.testing.assert_close(out.double(), expected, atol=BOUND[dtype], rtol=BOUND[dtype])


@sizes
@example(to=2, sources=14, positions=3, width=8, share=0.5, dtype=torch.float32, seed=0)
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_dots(to, sources, positions, width, share, dtype, seed) -> None:
    left, right = rows_of(seed, to, positions, width, dtype), rows_of(seed + 1, sources, positions, width, dtype)
    wanted = matrix_of(seed, to, sources, share) != 0
    found = products.dots_of(left, right, Entries.of(wanted, left.numpy().dtype))
    expected = torch.einsum("lcw,rcw->lr", left.double(), right.double())[torch.from_numpy(wanted)]
    torch.testing.assert_close(found, expected, atol=4 * BOUND[dtype], rtol=BOUND[dtype])


def test_rows_without_a_coefficient_are_not_read() -> None:
    rows = torch.full((6, 2, 3), torch.nan)
    rows[4] = 1.0
    out = torch.zeros(1, 2, 3)
    products.mix(out, out, Entries.of(np.array([[0, 0, 0, 0, 2.0, 0]]), np.dtype("float32")), rows)
    assert out.unique().tolist() == [2.0]


def test_what_is_not_finite_stays_so() -> None:
    rows = torch.ones(2, 1, 8)
    rows[0, 0, 3], rows[1, 0, 5] = torch.nan, torch.inf
    out = torch.zeros(1, 1, 8)
    entries = Entries.of(np.ones((1, 2)), np.dtype("float32"))
    products.mix(out, out, entries, rows)
    assert out[0, 0].isnan().tolist() == [place == 3 for place in range(8)] and out[0, 0, 5] == torch.inf
    assert products.dots_of(out, rows, entries).isnan().all()


needs_threads = pytest.mark.skipif(not threads.threads_work(), reason="Numba has neither OpenMP nor TBB here")


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel in two parts, however little there is to do."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(threads, "NUMBERS_PER_THREAD", 1)


@needs_threads
@pytest.mark.slow
def test_threads_say_what_one_says(two_threads: None) -> None:
    rows, matrix = rows_of(0, 9, 7, 16, torch.float32), matrix_of(0, 3, 9, 0.6)
    out, entries = torch.empty(3, 7, 16), Entries.of(matrix, np.dtype("float32"))
    assert threads.bounds_of(7, 1000).tolist() == [0, 3, 7]
    products.mix(out, None, entries, rows)
    expected = np.einsum("ts,scw->tcw", matrix, rows.double().numpy())
    np.testing.assert_allclose(out.numpy(), expected, atol=2e-5)
    dots = products.dots_of(out, rows, entries).numpy()
    np.testing.assert_allclose(dots, np.einsum("tcw,scw->ts", expected, rows.double())[matrix != 0], rtol=1e-4)


@needs_threads
def test_threads_that_call_at_once_do_not_disturb_each_other(two_threads: None) -> None:
    """As two runs in one process do."""
    matrix = matrix_of(0, 3, 9, 0.6)
    entries = Entries.of(matrix, np.dtype("float32"))

    def mixed(seed: int) -> float:
        rows, out = rows_of(seed, 9, 7, 16, torch.float32), torch.empty(3, 7, 16)
        products.mix(out, None, entries, rows)
        return float(abs(out.numpy() - np.einsum("ts,scw->tcw", matrix, rows.double().numpy())).max())

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(mixed, range(200))) < 2e-5


@needs_threads
def test_parts_cover_all_positions_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    much = 10 * threads.NUMBERS_PER_THREAD
    assert threads.bounds_of(10, much).tolist() == [0, 3, 6, 10]
    assert threads.bounds_of(2, much).tolist() == [0, 1, 2]
    assert threads.bounds_of(10, 2 * threads.NUMBERS_PER_THREAD).tolist() == [0, 5, 10]
    assert threads.bounds_of(0, 0).tolist() == [0, 0]


def test_one_thread_where_several_would_not_be_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(threads.numba, "threading_layer", lambda: "workqueue")
    threads.threads_work.cache_clear()
    assert threads.bounds_of(10, 1 << 40).tolist() == [0, 10]
    threads.threads_work.cache_clear()


_ASKS = """
import torch
from circuitgraph.forward.engine.cpu import threads
print(threads.threads_work(), torch.get_num_threads(), threads.numba.get_num_threads())
"""


@needs_threads
def test_torch_keeps_its_threads_when_numba_has_its_own() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", _ASKS], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "1", "2"]


def test_a_team_is_given_back() -> None:
    before = threads.numba.get_num_threads()
    with threads.team_of(1):
        assert threads.numba.get_num_threads() == 1
    with threads.team_of(1 << 20):
        assert threads.numba.get_num_threads() == threads.numba.config.NUMBA_NUM_THREADS
    assert threads.numba.get_num_threads() == before


def test_kernels_do_without_a_cache_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    from circuitgraph.forward.engine.cpu import compiler

    plain = compiler.numba.njit

    def njit(*functions, cache: bool = False, **options):
        if cache:
            raise RuntimeError("cannot cache function 'double': no locator available")
        return plain(*functions, **options)

    monkeypatch.setattr(compiler.numba, "njit", njit)
    assert compiler.kernel(lambda x: 2 * x)(3) == 6
