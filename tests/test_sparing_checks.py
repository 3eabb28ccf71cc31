"""The checks of types and shapes: what they see, how often, and that a test begins anew."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import textwrap

import pytest
import torch
from jaxtyping import TypeCheckError
from jaxtyping import config as checks

from tests import sparing_checks
from tests.sparing_checks import FIRST, THEN_ONE_IN

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass
from jaxtyping import Float
from torch import Tensor

def doubled(x: Float[Tensor, "batch d"]) -> Float[Tensor, "batch d"]:
    return 2 * x

def turned(x: Float[Tensor, "batch d"]) -> Float[Tensor, "batch d"]:
    return x.T

def inner(x):
    def within(x: Float[Tensor, "batch d"]) -> int:
        return 1
    return within(x)

@dataclass
class Row:
    length: int

class Of(Row):
    @property
    def name(self) -> int:
        return "name"
    @classmethod
    def first(cls, x: Later) -> int:
        return 1
    @staticmethod
    def second(x: int) -> int:
        return 2

class Later: ...
"""
GOOD, BAD = torch.zeros(2, 3), torch.zeros(3)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module whose functions are checked, as those of the packages are, in a run without checks too."""
    if not any(type(finder).__module__ == "jaxtyping._import_hook" for finder in sys.meta_path):
        pytest.skip("this run has no checks of types and shapes")
    (tmp_path / "circuitgraph_checked.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    sparing_checks.check_imports_of(["circuitgraph_checked"])
    yield importlib.import_module("circuitgraph_checked")
    del sys.modules["circuitgraph_checked"]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda module: module.doubled(BAD),
        lambda module: module.turned(GOOD),
        lambda module: module.inner(BAD),
        lambda module: module.Row("long"),
        lambda module: module.Of("long"),
        lambda module: module.Of(3).name,
        lambda module: module.Of.first(3),
        lambda module: module.Of.second("x"),
    ],
)
def test_a_wrong_type_or_shape_is_seen(module, wrong):
    with pytest.raises(TypeCheckError):
        wrong(module)


def test_what_is_right_is_let_through(module):
    assert module.doubled(GOOD).shape == (2, 3) and module.inner(GOOD) == 1
    assert dataclasses.asdict(module.Of(3)) == {"length": 3}
    assert module.Of.first(module.Later()) == 1 and module.Of(3).second(4) == 2


@pytest.mark.parametrize("name", ["doubled", "inner"])
def test_the_first_calls_of_a_test_are_checked_and_few_of_those_after(module, name):
    function = getattr(module, name)

    def refused() -> bool:
        try:
            function(BAD)
        except TypeCheckError:
            return True
        return False

    for _ in range(2):
        sparing_checks.begin_test()
        seen = [refused() for _ in range(3 * THEN_ONE_IN)]
        assert all(seen[:FIRST])
        assert [call for call, was in enumerate(seen, 1) if was and call > FIRST] == [
            THEN_ONE_IN, 2 * THEN_ONE_IN, 3 * THEN_ONE_IN,
        ]  # fmt: skip


def test_a_test_without_checks_has_none(module):
    checks.update("jaxtyping_disable", True)
    try:
        assert module.doubled(BAD).shape == (3,)
    finally:
        checks.update("jaxtyping_disable", False)
    with pytest.raises(TypeCheckError):
        module.doubled(BAD)
