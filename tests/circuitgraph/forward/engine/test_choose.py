"""Which engine a device, a number format and an installation have."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.forward.engine import choose
from circuitgraph.forward.engine.choose import engine_for
from circuitgraph.forward.engine.cuda.engine import CudaEngine
from circuitgraph.forward.engine.engine import Engine
from circuitgraph.forward.engine.plain import PlainEngine


def engine_of(dtype: torch.dtype, device: str = "cpu") -> str:
    return engine_for(torch.device(device), dtype).name


def test_which_engine_a_device_and_a_format_have() -> None:
    pytest.importorskip("numba")
    assert engine_of(torch.float32) == engine_of(torch.float64) == "cpu"
    assert engine_of(torch.bfloat16) == engine_of(torch.float16) == engine_of(torch.float32, "meta") == "plain"
    assert engine_for(torch.device("cpu"), torch.float32) is engine_for(torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("engine", [PlainEngine(), CudaEngine()], ids=lambda engine: engine.name)
def test_what_an_engine_is(engine: Engine) -> None:
    assert isinstance(engine, Engine)


def test_a_model_says_whether_it_has_them(tiny_gpt2) -> None:
    pytest.importorskip("numba")
    model = tiny_gpt2()
    compiled = compile_model(model, verify=False)
    assert compiled.uses_cpu_kernels and not compile_model(model.bfloat16(), verify=False).uses_cpu_kernels


@pytest.fixture
def asked_anew():
    for remembered in (choose.engine_for, choose._cpu_engine):
        remembered.cache_clear()
    yield
    for remembered in (choose.engine_for, choose._cpu_engine):
        remembered.cache_clear()


def test_the_switch(monkeypatch: pytest.MonkeyPatch, asked_anew: None) -> None:
    monkeypatch.setenv(choose.SWITCH, "0")
    assert engine_of(torch.float32) == "plain"


def test_kernels_that_are_wrong_are_warned_about_and_left_out(monkeypatch: pytest.MonkeyPatch, asked_anew) -> None:
    pytest.importorskip("numba")
    from circuitgraph.forward.engine import cpu

    monkeypatch.setattr(cpu.products, "mix", lambda *a, **k: None)
    with pytest.warns(UserWarning, match=f"pip install -U numba, or {choose.SWITCH}=0"):
        assert engine_of(torch.float32) == "plain"


def test_without_numba_torch_does_it_all() -> None:
    code = (
        "import sys, torch, numpy\n"
        "sys.modules['numba'] = None\n"
        "from circuitgraph.forward.engine import cpu\n"
        "from circuitgraph.forward.engine.choose import engine_for\n"
        "from circuitgraph.forward.engine.coefficients import Coefficients\n"
        "one, engine = torch.ones(1, 1, 1), engine_for(torch.device('cpu'), torch.float32)\n"
        "assert cpu.numba is None and engine.name == 'plain'\n"
        "engine.mix(one, one, Coefficients(matrix=one[0], host=numpy.ones((1, 1))), one.clone())\n"
        "assert one.item() == 2"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.slow
def test_looking_at_a_model_leaves_the_compilers_alone() -> None:
    """Importing Numba or Triton takes a second or so; who only looks at a graph does not wait for it."""
    code = (
        "import sys, circuitgraph.compiled.compile, circuitgraph.forward.masked\n"
        "assert 'numba' not in sys.modules, 'numba'\n"
        "assert 'circuitgraph.forward.engine.cpu' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_mixing_on_a_cpu_leaves_triton_alone() -> None:
    """Importing it takes a second, and there it has nothing to do."""
    code = (
        "import sys, torch, numpy\n"
        "from circuitgraph.forward.engine.choose import engine_for\n"
        "from circuitgraph.forward.engine.coefficients import Coefficients\n"
        "one = torch.ones(1, 1, 1)\n"
        "engine = engine_for(torch.device('cpu'), torch.float32)\n"
        "engine.mix(one, one, Coefficients(matrix=one[0].clone(), host=numpy.ones((1, 1))), one.clone())\n"
        "assert one.item() == 2 and 'triton' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
