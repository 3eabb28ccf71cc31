"""One battery for all engines, against einsum and autograd in float64.

Triton's kernels have tests of their own, in its interpreter or on a GPU; here the CUDA engine runs with stand-ins of
torch, so that all of it but the kernels is tried.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from circuitgraph.architectures.norm import Norm
from circuitgraph.architectures.rms_norm import rms_norm
from circuitgraph.forward.engine.coefficients import Coefficients, Pairs
from circuitgraph.forward.engine.cuda import engine as on_cuda
from circuitgraph.forward.engine.cuda.engine import CudaEngine
from circuitgraph.forward.engine.engine import Engine, Sums
from circuitgraph.forward.engine.plain import PlainEngine

BOUND = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 0.06}
"""Of numbers around 1: rounding, grown by norms of small rows."""
READERS, SLOTS, CELLS, WIDTH = 5, 13, 3, 8
NAMES = {torch.float64: ["plain", "cpu"], torch.float32: ["plain", "cpu", "cuda"], torch.bfloat16: ["plain", "cuda"]}
EACH = [(name, dtype) for dtype, names in NAMES.items() for name in names]
every_engine = pytest.mark.parametrize(("name", "dtype"), EACH)
every_share = pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 1.0])


@pytest.fixture
def engine(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> Engine:
    if name == "plain":
        return PlainEngine()
    if name == "cpu":
        pytest.importorskip("numba")
        from circuitgraph.forward.engine.cpu.engine import CpuEngine

        return CpuEngine()
    for kernels, stand_in in STAND_INS.items():
        monkeypatch.setattr(on_cuda, kernels, stand_in)
    return CudaEngine()


def _mixed(out: Tensor, base: Tensor | None, coefficients: Tensor, rows: Tensor) -> None:
    total = torch.einsum("ts,scw->tcw", coefficients.float(), rows.float())
    out.copy_(total if base is None else total + base.float())


def _normed(x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float, out: Tensor) -> tuple[Tensor, Tensor]:
    wide = x.float()
    means = wide.mean(-1) if bias is not None else torch.zeros(x.shape[:-1])
    scales = ((wide - means[..., None]).square().mean(-1) + epsilon).rsqrt()
    normed = (wide - means[..., None]) * scales[..., None] * weight.float()
    out.copy_(normed if bias is None else normed + bias.float())
    return means, scales


def _normed_back(x: Tensor, weight: Tensor, kept, gradient: Tensor, out: Tensor, *, centred: bool) -> None:
    normed = (x.float() - kept[0][..., None]) * kept[1][..., None]
    back = gradient.float() * weight.float()
    pulled = back - normed * (back * normed).mean(-1, keepdim=True)
    out.copy_((pulled - (back.mean(-1, keepdim=True) if centred else 0)) * kept[1][..., None])


STAND_INS = {
    "gathered": SimpleNamespace(
        take=lambda one, other: True,
        add_gathered=lambda out, matrix, rows, present: _mixed(out, out.clone(), matrix, rows),
        gathered_dots=lambda a, b, wanted: torch.einsum("lcw,rcw->lr", a.float(), b.float())[torch.from_numpy(wanted)],
    ),
    "dense": SimpleNamespace(
        MOST=64, can_multiply=lambda few, many: True, dots_dense=lambda a, b: torch.einsum("lcw,rcw->lr", a, b).float(),
        mix_dense=lambda out, base, matrix, rows: _mixed(out, base if base is not out else out.clone(), matrix, rows),
    ),
    "norms": SimpleNamespace(can_norm=lambda x: True, norm_rows=_normed, norm_rows_back=_normed_back),
}  # fmt: skip


def drawn(*size: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def coefficients_of(n_to: int, n_from: int, share: float, dtype: torch.dtype) -> Coefficients:
    chosen = np.random.default_rng(3).random((n_to, n_from)) < share
    matrix = drawn(n_to, n_from, seed=4, dtype=dtype) * torch.from_numpy(chosen).to(dtype)
    return Coefficients(matrix=matrix, host=matrix.double().numpy())


def close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    scale = float(expected.abs().max().clamp(min=1)) if expected.numel() else 1.0
    torch.testing.assert_close(found.double(), expected, atol=BOUND[dtype] * scale, rtol=BOUND[dtype])


@every_engine
@every_share
@pytest.mark.parametrize("base", ["nothing", "itself", "one row", "each position"])
def test_mixing(engine: Engine, dtype: torch.dtype, share: float, base: str) -> None:
    coefficients = coefficients_of(READERS, SLOTS, share, dtype)
    rows, out = drawn(SLOTS, CELLS, WIDTH, seed=0, dtype=dtype), drawn(READERS, CELLS, WIDTH, seed=1, dtype=dtype)
    below = {"nothing": None, "itself": out, "one row": drawn(1, WIDTH, seed=2, dtype=dtype)}.get(
        base, drawn(CELLS, WIDTH, seed=2, dtype=dtype)
    )
    expected = torch.einsum("ts,scw->tcw", coefficients.matrix.double(), rows.double())
    expected = expected + (0 if below is None else below.double())
    if below is not out:
        out.fill_(torch.nan)
    engine.mix(out, below, coefficients, rows)
    close(out, expected, dtype)


@every_engine
def test_parts_of_a_matrix(engine: Engine, dtype: torch.dtype) -> None:
    """Some rows, whose later sources are all 0, and some of them turned."""
    whole = coefficients_of(READERS, SLOTS, 0.5, dtype)
    whole.matrix[1:4, 9:] = 0
    whole = Coefficients(matrix=whole.matrix, host=whole.matrix.double().numpy())
    rows = drawn(9, CELLS, WIDTH, seed=0, dtype=dtype)
    out = torch.empty(3, CELLS, WIDTH, dtype=dtype)
    engine.mix(out, None, whole.of_rows(slice(1, 4), 9), rows)
    close(out, torch.einsum("ts,scw->tcw", whole.matrix[1:4, :9].double(), rows.double()), dtype)
    turned = torch.empty(2, CELLS, WIDTH, dtype=dtype)
    engine.mix(turned, None, whole.turned(slice(1, 4), slice(5, 7)), out)
    close(turned, torch.einsum("ts,tcw->scw", whole.matrix[1:4, 5:7].double(), out.double()), dtype)


@every_engine
@every_share
def test_dots(engine: Engine, dtype: torch.dtype, share: float) -> None:
    left, right = drawn(READERS, CELLS, WIDTH, seed=0, dtype=dtype), drawn(SLOTS, CELLS, WIDTH, seed=1, dtype=dtype)
    wanted = np.random.default_rng(0).random((READERS, SLOTS)) < share
    pairs = Pairs(wanted=wanted)
    products = torch.einsum("lcw,rcw->lr", left.double(), right.double())
    found = engine.dots(left, right, pairs)
    assert found.shape == (wanted.sum(),) == (len(pairs),)
    close(found, products[torch.from_numpy(wanted)], dtype)
    some = engine.dots(left[1:3], right, pairs.of_rows(slice(1, 3), SLOTS))
    close(some, products[1:3][torch.from_numpy(wanted[1:3])], dtype)


def norm_of(kind: str, dtype: torch.dtype) -> Norm:
    weights = {seed: 1 + 0.3 * drawn(WIDTH, seed=seed, dtype=torch.float64) for seed in (7, 8)}
    if kind == "none":
        return Norm.none()
    module = nn.LayerNorm(WIDTH, eps=1e-3) if kind == "layer" else LlamaRMSNorm(WIDTH, eps=1e-3)
    module = module.to(dtype).requires_grad_(False)
    for seed, weight in zip(weights, module.parameters(), strict=False):
        weight.copy_(weights[seed])
    return Norm.layer(module) if isinstance(module, nn.LayerNorm) else rms_norm(module)


def exact(norm: Norm, x: Tensor) -> Tensor:
    """The norm's formula, in the format of x."""
    if norm.kind == "none":
        return x
    assert norm.weight is not None
    apart = x - x.mean(-1, keepdim=True) if norm.kind == "layer" else x
    normed = apart * (apart.square().mean(-1, keepdim=True) + norm.epsilon).rsqrt() * (norm.weight + norm.offset)
    return normed if norm.bias is None else normed + norm.bias


@every_engine
@pytest.mark.parametrize("share", [0.1, 1.0])
@pytest.mark.parametrize("running", ["none", "some", "all"])
@pytest.mark.parametrize("kind", ["none", "layer", "rms"])
@pytest.mark.parametrize("same_base", [False, True])
def test_reads_both_ways(
    engine: Engine, dtype: torch.dtype, share: float, running: str, kind: str, same_base: bool
) -> None:
    takes = np.arange(READERS) % 2 == 0 if running == "some" else np.full(READERS, running == "all")
    norm = norm_of(kind, dtype)
    total = drawn(CELLS, WIDTH, seed=5, dtype=dtype)
    sums = Sums(
        base=drawn(1 if same_base else CELLS, WIDTH, seed=6, dtype=dtype), takes_running=takes,
        running=total if takes.any() else None, coefficients=coefficients_of(READERS, SLOTS, share, dtype),
        deltas=drawn(SLOTS, CELLS, WIDTH, seed=0, dtype=dtype),
    )  # fmt: skip
    wanted = np.random.default_rng(1).random((READERS, SLOTS)) < share
    given = drawn(READERS, CELLS, WIDTH, seed=9, dtype=dtype)

    leaf = (
        sums.base.double()
        + torch.from_numpy(takes)[:, None, None] * total.double()
        + torch.einsum("rs,scw->rcw", sums.coefficients.matrix.double(), sums.deltas.double())
    ).requires_grad_()
    expected = exact(norm, leaf)
    (pulled,) = torch.autograd.grad(expected, leaf, given.double()) if kind != "none" else (given.double(),)

    out, room, back = torch.empty_like(given), torch.empty_like(given), given.clone()
    added = torch.ones(CELLS, WIDTH, dtype=torch.promote_types(dtype, torch.float32))
    moments = engine.read(sums, norm, out, room)
    dots = engine.pull(sums, norm, moments, back, Pairs(wanted=wanted), added, room)
    # A model's RMS norm computes in float32, whatever it is given.
    bound = torch.float32 if kind == "rms" and dtype == torch.float64 else dtype
    close(out, expected.detach(), bound)
    close(back, pulled, bound)
    close(added, 1 + pulled[takes].sum(0), bound)
    products = torch.einsum("rcw,scw->rs", pulled, sums.deltas.double())[torch.from_numpy(wanted)]
    close(dots, products, bound)


@every_engine
@pytest.mark.parametrize("heads", [[0, 1, 2, 3], [1, 2], [0, 2, 2], []])
def test_projections(engine: Engine, dtype: torch.dtype, heads: list[int]) -> None:
    weights = drawn(WIDTH, 4 * 5, seed=0, dtype=dtype).unflatten(1, (4, 5)).permute(1, 0, 2)
    x = drawn(len(heads), CELLS, WIDTH, seed=1, dtype=dtype)
    out = torch.empty(len(heads), CELLS, 5, dtype=dtype)
    engine.project(out, x, weights, np.array(heads, dtype=np.int64))
    close(out, torch.einsum("rcg,rgt->rct", x.double(), weights.double()[heads]), dtype)


def test_an_offset_is_part_of_the_weight() -> None:
    """Gemma keeps its norms' weights as differences from 1."""
    pytest.importorskip("numba")
    from circuitgraph.forward.engine.cpu.engine import CpuEngine

    weight = drawn(WIDTH, seed=0, dtype=torch.float32)
    norm = Norm(module=nn.Identity(), kind="rms", weight=weight, epsilon=1e-3, offset=1.0)
    x = drawn(1, CELLS, WIDTH, seed=1, dtype=torch.float32)
    sums = Sums(
        base=torch.zeros(1, WIDTH), running=None, takes_running=np.zeros(1, dtype=bool), deltas=x,
        coefficients=Coefficients(matrix=torch.ones(1, 1), host=np.ones((1, 1))),
    )  # fmt: skip
    out = torch.empty_like(x)
    CpuEngine().read(sums, norm, out, torch.empty_like(x))
    expected = x.double() * (x.double().square().mean(-1, keepdim=True) + 1e-3).rsqrt() * (1 + weight.double())
    close(out, expected, torch.float32)
