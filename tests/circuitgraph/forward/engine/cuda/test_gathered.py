"""Products of gathered rows: Triton's kernels against numpy in float64, and when they are taken.

On a GPU the kernels run as they are. Elsewhere they run in Triton's interpreter, which has to be asked for before
Triton is imported, and transformers imports it: so in a process of its own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from circuitgraph.forward.engine import cuda as kernels
from circuitgraph.forward.engine.coefficients import Coefficients, Pairs
from circuitgraph.forward.engine.cuda import engine as deciding
from circuitgraph.forward.engine.cuda import gathered
from circuitgraph.forward.engine.cuda.engine import CudaEngine
from tests.circuitgraph.forward.situations import BothWays, Situation, take_engine
from tests.oracles import definition as oracle
from tests.oracles.cases import ModelMakers

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed: pip install triton")


@needs_triton
@pytest.mark.skipif(DEVICE == "cuda" or INTERPRETED, reason="the kernels run in this process")
@pytest.mark.slow
def test_in_the_interpreter() -> None:
    if [int(part) for part in version("triton").split(".")[:2]] < [3, 7]:
        pytest.skip("this Triton's interpreter takes one-element arrays for numbers: pip install -U triton")
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-k", "TestKernels", "-p", "no:cacheprovider"]
    done = subprocess.run(command, env=env | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout


def rows_between(n: int, positions: int, width: int, dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor]:
    """Random rows, each in one piece but with a gap behind it; and the whole they are part of."""
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randn(n, positions + 1, width, generator=generator).to(dtype).to(DEVICE)
    return whole[:, :positions], whole


def exact(tensor: Tensor) -> np.ndarray:
    return tensor.double().cpu().numpy()


def random_flags(shape: tuple[int, int], share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


SHAPES = [  # to, source, position, width
    (1, 1, 1, 1),
    (1, 19, 3, 7),
    (4, 3, 4, 512),  # one whole block of columns
    (6, 7, 3, 683),  # a block and one column
    (3, 2, 17, 1000),  # a chunk of a dot and some
]
NARROW = {torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float32: 2**-24}
"""Half of the distance between neighbouring numbers, relative to them."""
ROUNDING = NARROW | ({torch.bfloat16: 2**-7} if INTERPRETED else {})
"""What one rounding may cost: the interpreter cuts digits off to get a bfloat16."""


@needs_triton
@pytest.mark.skipif(DEVICE == "cpu" and not INTERPRETED, reason="run by test_in_the_interpreter")
class TestKernels:
    def test_they_work(self) -> None:
        assert kernels.work_on(torch.device(DEVICE))

    @pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
    @pytest.mark.parametrize("dtype", NARROW)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_mixing_is_the_matrix_product(self, shape, dtype: torch.dtype, share: float) -> None:
        """What no entry names is not read (it is not a number here), and not written."""
        to, source, positions, width = shape
        out, whole = rows_between(to, positions, width, dtype, 0)
        rows, _ = rows_between(source, positions, width, dtype, 1)
        present = random_flags((to, source), share, 2)
        rows[~torch.from_numpy(present.any(0)).to(DEVICE)] = torch.nan
        given = np.random.default_rng(3).normal(size=present.shape) * present
        # A transposed slice, as of a stream's coefficients on the way back.
        coefficients = torch.zeros(source + 1, to + 2, dtype=dtype, device=DEVICE)[1:, 2:].T
        coefficients.copy_(torch.from_numpy(given))
        used, weights = np.nan_to_num(exact(rows)), exact(coefficients)
        right = exact(out) + np.einsum("ts,scw->tcw", weights, used)
        size = np.abs(exact(out)) + np.einsum("ts,scw->tcw", np.abs(weights), np.abs(used))
        before = whole.clone()
        gathered.add_gathered(out, coefficients, rows, present)
        error = np.abs(exact(out) - right)
        # One rounding of the result, and float32's of what is added up.
        assert (error <= 1.001 * ROUNDING[dtype] * np.abs(right) + (source + 2) * 2**-24 * size).all()
        untouched = torch.ones(whole.shape, dtype=torch.bool)
        untouched[torch.from_numpy(present.any(1)), :positions] = False
        assert torch.equal(whole[untouched.to(DEVICE)], before[untouched.to(DEVICE)])

    @pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
    @pytest.mark.parametrize("dtype", NARROW)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_dots_are_those_of_the_rows(self, shape, dtype: torch.dtype, share: float) -> None:
        """What no pair names is not read."""
        n_left, n_right, positions, width = shape
        a, _ = rows_between(n_left, positions, width, dtype, 0)
        b, _ = rows_between(n_right, positions, width, dtype, 1)
        wanted = random_flags((n_left, n_right), share, 2)
        a[~torch.from_numpy(wanted.any(1)).to(DEVICE)] = torch.nan
        b[~torch.from_numpy(wanted.any(0)).to(DEVICE)] = torch.nan
        found = gathered.gathered_dots(a, b, wanted)
        left, right = (np.nan_to_num(exact(rows)).reshape(len(rows), -1) for rows in (a, b))
        assert found.dtype == torch.float32 and found.shape == (wanted.sum(),)
        size = (np.abs(left) @ np.abs(right).T)[wanted]
        assert (np.abs(exact(found) - (left @ right.T)[wanted]) <= 64 * 2**-24 * size).all()
        assert torch.equal(found, gathered.gathered_dots(a, b, wanted))

    def test_small_terms_are_not_lost_one_by_one(self) -> None:
        """In bfloat16 256 + 1 is 256."""
        ones = torch.ones(40, 9, 5, dtype=torch.bfloat16, device=DEVICE)
        out = torch.full((1, 9, 5), 256.0, dtype=torch.bfloat16, device=DEVICE)
        gathered.add_gathered(out, ones[:, 0, :1].T, ones, np.ones((1, 40), dtype=bool))
        assert out.unique().tolist() == [296.0]

    @pytest.mark.skipif(DEVICE == "cuda", reason="the model lies on the CPU")
    @pytest.mark.parametrize("case", ["gpt2", "llama-gqa"])
    def test_a_masked_pass_takes_them(self, case: str, tiny_gpt2, tiny_llama, monkeypatch: pytest.MonkeyPatch) -> None:
        """Logits and gradients are the definition's, to some hundred roundings of the largest."""
        take_engine(CudaEngine(), monkeypatch)
        compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=torch.float32)
        situation = Situation("mixture", 0.4, 0.5, "counterfactual", "left", (5, 3), 2, 3)
        both = BothWays(compiled, oracle.plain_model(compiled.model), situation)
        called = []
        ours = [(gathered, "add_gathered"), (gathered, "gathered_dots")]
        ours += [(kernels.norms, "norm_rows"), (kernels.norms, "norm_rows_back")]
        for module, name in ours:
            original = getattr(module, name)
            monkeypatch.setattr(module, name, lambda *a, f=original, n=name, **how: called.append(n) or f(*a, **how))
        monkeypatch.setattr(deciding, "MIX_GATHER_BELOW", (99.0, 99.0))
        monkeypatch.setattr(deciding, "DOT_GATHER_BELOW", (99.0, 99.0))
        every = torch.ones(len(both.gates), dtype=torch.bool)
        found = both.gradients(lambda z: both.executor(z, every), both.gates.float())
        right = both.gradients(both.definition, both.gates)
        assert set(called) == {name for _, name in ours}
        for one, truth in zip(found, right, strict=True):
            assert (one.double() - truth).abs().max() <= 256 * 2**-24 * truth.abs().max()


class TestDecisions:
    """Numbers of rows are counted by hand. A gather may move 1.4 times what a dense product of few rows moves, 3 times
    what one of many does; for dots it is twice and four times."""

    @pytest.mark.parametrize(
        ("to", "source", "rows", "entries", "gathers"),
        [
            (1, 100, 1, 100, True),  # 100 are read, 2 moved for the sum; dense moves 102 too
            (10, 100, 3, 53, True),  # 159 are read, 6 moved; dense 120, and 1.4 times that is 168
            (10, 100, 3, 54, False),  # 168
            (100, 100, 9, 97, True),  # 873 + 18; dense 300, three times that is 900
            (100, 100, 9, 98, False),  # 900
        ],
    )
    def test_mixing(self, to: int, source: int, rows: int, entries: int, gathers: bool) -> None:
        present = np.zeros((to, source), dtype=bool)
        present[:rows, :entries] = True
        assert deciding.mixing_gathers(present) is gathers

    @pytest.mark.parametrize(("left", "pairs", "gathers"), [(10, 109, True), (10, 110, False), (100, 399, True)])
    def test_dots(self, left: int, pairs: int, gathers: bool) -> None:
        """Each pair reads two rows, a dense product `left` and 100: with ten, twice 110 are too many."""
        wanted = np.zeros((left, 100), dtype=bool)
        wanted.ravel()[:pairs] = True
        assert deciding.dots_gather(wanted) is gathers

    @pytest.mark.parametrize("scale", [1.0, 1e-30])
    @pytest.mark.parametrize(("share", "way"), [(0.0, []), (0.02, ["add_gathered"]), (0.9, [])])
    def test_the_pattern_alone_decides(self, share: float, way: list[str], scale: float, recorded) -> None:
        rows, host = torch.ones(50, 1, 1), random_flags((20, 50), share, 0) * scale
        out = torch.zeros(20, 1, 1)
        CudaEngine().mix(out, out, Coefficients(matrix=torch.from_numpy(host).float(), host=host), rows)
        assert recorded == way
        if not way:
            assert torch.allclose(out[:, 0, 0], torch.from_numpy(host).float().sum(1))

    @pytest.mark.parametrize(("share", "way"), [(0.0, ["gathered_dots"]), (0.02, ["gathered_dots"]), (0.9, [])])
    def test_the_pattern_decides_for_dots(self, share: float, way: list[str], recorded) -> None:
        wanted = random_flags((20, 50), share, 0)
        found = CudaEngine().dots(torch.ones(20, 1, 1), torch.ones(50, 1, 1), Pairs(wanted=wanted))
        assert len(found) == wanted.sum()
        assert recorded == way

    def test_what_kernels_do_not_take_is_mixed_otherwise(self, recorded) -> None:
        host = np.eye(20, 50)
        out, rows = torch.zeros(20, 1, 1, dtype=torch.float64), torch.ones(50, 1, 1, dtype=torch.float64)
        CudaEngine().mix(out, out, Coefficients(matrix=torch.from_numpy(host), host=host), rows)
        assert recorded == [] and out.unique().tolist() == [1.0]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kernels that say when they are called, and do nothing."""
    calls: list[str] = []

    def gathered_dots(a: Tensor, b: Tensor, wanted: np.ndarray) -> Tensor:
        calls.append("gathered_dots")
        return torch.zeros(int(wanted.sum()))

    recording = SimpleNamespace(
        take=gathered.take, add_gathered=lambda *_: calls.append("add_gathered"), gathered_dots=gathered_dots
    )
    dense = SimpleNamespace(can_multiply=lambda *_: False, MOST=kernels.dense.MOST)
    monkeypatch.setattr(deciding, "gathered", recording)
    monkeypatch.setattr(deciding, "dense", dense)
    return calls


def test_rows_that_kernels_take() -> None:
    """Of one format, and each in one piece."""
    whole = torch.ones(3, 4, 4)
    rows, none = whole[:, :2, :2].contiguous(), whole[:0, :2, :2]
    assert gathered.take(whole[:, :2], whole[1:, 2:]) and gathered.take(none, none)
    assert gathered.take(rows.half(), rows.half())
    for other in (rows.double(), rows.bfloat16(), whole[:, ::2, :2], whole[:, :2, ::2], rows.transpose(1, 2)):
        assert not gathered.take(rows, other) and not gathered.take(other, rows)
    assert not gathered.take(rows.double(), rows.double())


def test_nothing_works_without_triton() -> None:
    code = (
        "import sys, torch\n"
        "sys.modules['triton'] = None\n"
        "from circuitgraph.forward.engine import cuda as kernels\n"
        "assert kernels.triton is None and not kernels.work_on(torch.device('cpu'))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
