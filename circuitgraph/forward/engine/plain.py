"""The two products of the stream: mixing rows of a buffer, and dotting rows of two buffers.

Both are products with a matrix of coefficients `[to, source]` whose zeros are many. On a CPU the kernels of
`circuitgraph.forward.engine.cpu` take them where Numba is installed. Without it there are three ways to go about it,
taken by the share of non-zeros alone, so that the same gates take the same way and give the same bits:

1. few: one row at a time;
2. more: a sparse product, token by token, so that a token's rows stay in cache (`embedding_bag` for
   mixing, `sampled_addmm` for dots);
3. many: a dense matrix product.

On CUDA there are two: kernels that gather the rows they need, where that moves little next to the dense product, and
the dense product, by a kernel for few rows or by the library (`circuitgraph.forward.engine.choose`). All are bound by
what they move there, so it is counted, in rows. What counts is known on the host: nothing is waited for.

The thresholds were measured (docs/performance.md).
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding_bag

from circuitgraph.forward.engine.choose import cpu_kernels, kernels_on
from circuitgraph.forward.engine.mlps.onednn import multiply, onednn_works
from circuitgraph.transfer import to_device

ROWS_BELOW = 0.03
"""Below this share of non-zeros, rows are added or dotted one by one."""
MIX_SPARSE_BELOW = 0.6
"""Below this share, mixing is a sparse product."""
DOT_SPARSE_BELOW = 0.2
"""Below this share, dots are a sparse product."""
FEW_DOTS = 24
"""Fewer dots than this are taken one by one, whatever their share: a sparse product has to be set up."""
CPU_DENSE_FROM = 0.5
"""From this share on, the CPU's kernels, where there are any, mix all rows."""
CPU_DOTS_BELOW = 0.6
"""Below this share, dots are taken by the CPU's kernels where there are any."""
CELLS_AT_ONCE = 8
"""How many cells a dense mixing product of torch's own takes."""
ONEDNN_STEP = 64
"""Products by oneDNN take a multiple of this many rows."""
MIX_GATHER_BELOW = (1.4, 3.0)
"""On CUDA, mixing gathers rows where it moves less than this many times what a dense product moves; the second where
more rows are mixed into than the dense kernels take. A row that is read again comes from the cache, and the library's
dense product gets a third of the memory's rate with many rows, so more may be moved (docs/performance.md)."""
DOT_GATHER_BELOW = (2.0, 4.0)
"""The same for dots, of which each reads two rows."""
_FEW = 64  # rows that the dense kernels take, `kernels.dense.MOST`
_FEW_ROWS = 4  # fewer are no matrix that is worth laying out
_WIDE = (torch.float32, torch.float64)


def add_mixed(
    out: Float[Tensor, "to cell width"],
    coefficients: Float[Tensor, "to source"],
    rows: Float[Tensor, "source cell width"],
    host: np.ndarray,
) -> None:
    """`out += coefficients @ rows`, in place.

    Args:
        out: What to add to.
        coefficients: The matrix, on the device.
        rows: The rows to mix.
        host: The same matrix on the host, which decides how to go about it.
    """
    share = np.count_nonzero(host) / max(1, host.size)
    if share == 0:
        return
    if _mixed_by_cpu_kernels(out, out, coefficients, rows):
        return
    kernels = kernels_on(out.device)
    if kernels is not None and kernels.gathered.take(out, rows) and mixing_gathers(host != 0):
        kernels.gathered.add_gathered(out, coefficients, rows, host != 0)
    elif kernels is not None and kernels.dense.can_multiply(out, rows):
        kernels.dense.mix_dense(out, out, coefficients, rows)
    elif out.device.type != "cpu":
        out.flatten(1).addmm_(coefficients, rows.flatten(1))
    elif share < ROWS_BELOW:
        _add_rows(out, rows, host)
    elif share < MIX_SPARSE_BELOW and out.dtype in _WIDE and rows.is_contiguous():
        _add_bags(out, rows, host)
    else:
        _add_dense(out, coefficients, rows)


def mix_onto(
    out: Float[Tensor, "to cell width"],
    base: Tensor | None,
    coefficients: Float[Tensor, "to source"],
    rows: Float[Tensor, "source cell width"],
    host: np.ndarray,
) -> None:
    """`out = base + coefficients @ rows`, whatever `out` held.

    Args:
        out: Where it goes.
        base: The same for all rows, broadcastable to `[cell width]`, or None for nothing.
        coefficients: The matrix, on the device.
        rows: The rows to mix.
        host: The same matrix on the host, which decides how to go about it.
    """
    if not len(out) or _mixed_by_cpu_kernels(out, base, coefficients, rows):
        return
    if base is not None:
        base = base.expand(out.shape[1:])
    kernels = kernels_on(out.device)
    if kernels is not None and kernels.dense.can_multiply(out, rows) and not mixing_gathers(host != 0):
        kernels.dense.mix_dense(out, None if base is None else base.contiguous(), coefficients, rows)
        return
    if base is None:
        out.zero_()
    else:
        out.copy_(base)
    add_mixed(out, coefficients, rows, host)


def mixing_gathers(present: np.ndarray) -> bool:
    """Whether mixing by gathered rows moves little: each entry reads a row, each row with entries is read and written.

    Args:
        present: Booleans `[to source]`: coefficients that are not zero.

    Examples:
        Of 3 × 100 coefficients 50 are not zero, all in one row: 52 rows are moved, and 106 otherwise.

        >>> present = np.zeros((3, 100), dtype=bool)
        >>> present[1, ::2] = True
        >>> mixing_gathers(present), mixing_gathers(~present)
        (True, False)
    """
    moved = 2 * np.count_nonzero(present.any(1)) + np.count_nonzero(present)
    return bool(moved < MIX_GATHER_BELOW[len(present) > _FEW] * (present.shape[1] + 2 * len(present)))


def dots_gather(wanted: np.ndarray) -> bool:
    """Whether dots of gathered rows move little: each reads two.

    Args:
        wanted: Booleans `[left right]`.
    """
    return bool(2 * np.count_nonzero(wanted) < DOT_GATHER_BELOW[len(wanted) > _FEW] * sum(wanted.shape))


def _add_rows(out: Tensor, rows: Tensor, host: np.ndarray) -> None:
    """Add one row at a time, in float32 where the rows are narrower, so that small ones are not lost one by one."""
    for to in np.flatnonzero(host.any(1)):
        total = out[to] if out.dtype in _WIDE else out[to].float()
        for source in np.flatnonzero(host[to]):
            total.add_(rows[source], alpha=float(host[to, source]))
        if total.dtype != out.dtype:
            out[to].copy_(total)


def _add_dense(out: Tensor, coefficients: Tensor, rows: Tensor) -> None:
    """Mix by a matrix product; where torch's own does it, of a few cells each, so that their operands stay in cache."""
    if len(out) < _FEW_ROWS:
        out.flatten(1).addmm_(coefficients, rows.flatten(1))
        return
    if _takes_onednn(rows):
        _add_by_onednn(out, coefficients, rows)
        return
    n_cells = out.shape[1]
    whole = n_cells - n_cells % CELLS_AT_ONCE
    for part, size in ((slice(0, whole), CELLS_AT_ONCE), (slice(whole, n_cells), n_cells - whole)):
        if part.stop > part.start:
            into, wide = (tensor[:, part].unflatten(1, (-1, size)).flatten(2).transpose(0, 1) for tensor in (out, rows))
            into.baddbmm_(coefficients.expand(len(into), *coefficients.shape), wide)


def _add_by_onednn(out: Tensor, coefficients: Tensor, rows: Tensor) -> None:
    """Mix by oneDNN as many rows as are full steps, and by torch what is left.

    oneDNN keeps half a MiB of code for every shape that it has seen, up to a thousand of them, and a pass has another
    number of rows in every layer.
    """
    whole = len(rows) - len(rows) % ONEDNN_STEP
    flat = out.flatten(1)
    if whole:
        flat += multiply(coefficients[:, :whole], rows[:whole].flatten(1).T)
    if whole < len(rows):
        flat.addmm_(coefficients[:, whole:], rows[whole:].flatten(1))


def _dots_by_onednn(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right.T`, likewise."""
    whole = len(right) - len(right) % ONEDNN_STEP
    dots = left.new_empty(len(left), len(right))
    if whole:
        dots[:, :whole] = multiply(left, right[:whole])
    if whole < len(right):
        dots[:, whole:] = left @ right[whole:].T
    return dots


def _takes_onednn(rows: Tensor) -> bool:
    """Whether rows can be one side of a product by oneDNN."""
    return rows.device.type == "cpu" and rows.dtype == torch.float32 and rows.is_contiguous() and onednn_works()


def _add_bags(out: Tensor, rows: Tensor, host: np.ndarray) -> None:
    """Mix as a bag of rows for every token and every `to`, tokens outermost."""
    n_tokens = out.shape[1]
    to, source = np.nonzero(host)
    tokens = np.arange(n_tokens)[:, None]
    index = (source[None] * n_tokens + tokens).ravel()
    starts = np.searchsorted(to, np.arange(len(host)))
    offsets = np.append((starts[None] + tokens * len(to)).ravel(), n_tokens * len(to))
    weights = torch.from_numpy(np.tile(host[to, source], n_tokens)).to(rows.dtype)
    mixed = embedding_bag(
        torch.from_numpy(index),
        rows.view(-1, rows.shape[-1]),
        torch.from_numpy(offsets),
        mode="sum",
        per_sample_weights=weights,
        include_last_offset=True,
    )
    out.add_(mixed.view(n_tokens, len(host), -1).transpose(0, 1))


def dot_pairs(
    a: Float[Tensor, "left cell width"], b: Float[Tensor, "right cell width"], wanted: np.ndarray
) -> Float[Tensor, " wanted"]:
    """Dot products of rows of `a` with rows of `b`.

    Args:
        a: Rows.
        b: Rows.
        wanted: Booleans `[left right]` on the host.

    Returns:
        The wanted products, in the order of `np.nonzero(wanted)`, in float32 or float64 where a kernel took them.
    """
    count = np.count_nonzero(wanted)
    share = count / max(1, wanted.size)
    on_cpu = cpu_kernels(a, b)
    if on_cpu is not None and share < CPU_DOTS_BELOW:
        return on_cpu.products.dots_of(a, b, on_cpu.Entries.of(wanted, a.numpy().dtype))
    kernels = kernels_on(a.device)
    if kernels is not None and kernels.gathered.take(a, b) and dots_gather(wanted):
        return kernels.gathered.gathered_dots(a, b, wanted)
    left, right = a.flatten(1), b.flatten(1)
    if a.device.type == "cpu" and (share < ROWS_BELOW or count < FEW_DOTS):
        pairs = zip(*(places.tolist() for places in np.nonzero(wanted)), strict=True)
        dots = [torch.dot(left[i], right[j]) for i, j in pairs]
        return torch.stack(dots) if dots else a.new_zeros(0)
    if a.device.type == "cpu" and share < DOT_SPARSE_BELOW and a.dtype in _WIDE:
        return _sampled_dots(left, right, wanted)
    if kernels is not None and kernels.dense.can_multiply(a, b):
        dots = kernels.dense.dots_dense(a, b)
        return dots.flatten().index_select(0, to_device(np.flatnonzero(wanted), a.device))
    dots = _dots_by_onednn(left, right) if len(left) >= _FEW_ROWS and _takes_onednn(b) else left @ right.T
    return dots.flatten().index_select(0, to_device(np.flatnonzero(wanted), a.device))


def _mixed_by_cpu_kernels(out: Tensor, base: Tensor | None, coefficients: Tensor, rows: Tensor) -> bool:
    """Mix by the CPU's kernels, where there are any; whether that was done."""
    kernels = cpu_kernels(out, rows)
    if kernels is None:
        return False
    matrix = coefficients.numpy()
    kernels.products.mix(out, base, kernels.Entries.of(matrix, matrix.dtype), rows, dense_matrix(matrix))
    return True


def dense_matrix(matrix: np.ndarray) -> np.ndarray | None:
    """All coefficients for the CPU's kernels, where so many are not zero that going through all of them pays.

    Args:
        matrix: They.
    """
    if np.count_nonzero(matrix) < CPU_DENSE_FROM * matrix.size:
        return None
    return np.ascontiguousarray(matrix)


def _sampled_dots(left: Tensor, right: Tensor, wanted: np.ndarray) -> Tensor:
    """The wanted products only, as a sparse matrix's values."""
    rows, columns = np.nonzero(wanted)
    starts = np.searchsorted(rows, np.arange(len(wanted) + 1))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        pattern = torch.sparse_csr_tensor(
            torch.from_numpy(starts),
            torch.from_numpy(columns),
            torch.zeros(len(rows), dtype=left.dtype),
            size=wanted.shape,
            check_invariants=False,
        )
    return torch.sparse.sampled_addmm(pattern, left, right.T, beta=0.0).values()
