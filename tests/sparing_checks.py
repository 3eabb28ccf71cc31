"""Checks of types and shapes at every function's first calls in a test, and at few of those after.

A function that is called ten thousand times in a test is called in much the same way each time, and a check takes
longer than what most of them do. So a test checks the first calls of every function, its fixtures' among them, and
then one in many; the next test begins anew.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import config

FIRST = 8
"""How many calls of a function are checked in a test before any is not."""

THEN_ONE_IN = 64
"""How many calls there are to a check after those."""

_jaxtyped = jaxtyping.jaxtyped
_test = [0]


def check_imports_of(packages: list[str]) -> None:
    """Check the functions of packages that are yet to be imported."""
    # The hook takes its checker by name. An int is a float here, as it is to pyright.
    checker = types.ModuleType("circuitgraph_runtime_checks")
    checker.check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # type: ignore[attr-defined]
    sys.modules[checker.__name__] = checker
    # What the hook writes above whatever a module defines is `@jaxtyping.jaxtyped(typechecker=…)`.
    jaxtyping.jaxtyped = sparingly  # type: ignore[assignment]
    jaxtyping.install_import_hook(packages, f"{checker.__name__}.check")


def begin_test() -> None:
    """Check every function's first calls again."""
    _test[0] += 1


def sparingly(*, typechecker: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What `jaxtyping.jaxtyped` does, for the calls that are checked."""
    return functools.partial(_decorated, typechecker=typechecker)


def _decorated(found: Any, *, typechecker: Callable[[Any], Any]) -> Any:
    """A function with its checks, whatever holds it; of a class only what makes a dataclass's instances."""
    decorated = functools.partial(_decorated, typechecker=typechecker)
    if inspect.isclass(found):
        if dataclasses.is_dataclass(found) and "__init__" in vars(found):
            found.__init__ = decorated(found.__init__)
        return found
    if isinstance(found, (classmethod, staticmethod)):
        return type(found)(decorated(found.__func__))
    if hasattr(found, "has_checks"):
        return found
    if isinstance(found, property):
        return property(*(one and decorated(one) for one in (found.fget, found.fset, found.fdel)))
    return _sometimes(found, typechecker)


class _Count:
    """How often a function was called in a test; one for all that a `def` within another function makes."""

    def __init__(self) -> None:
        self.test = self.calls = 0


def _sometimes(plain: Callable[..., Any], typechecker: Callable[[Any], Any]) -> Callable[..., Any]:
    """A function that is the given one, with checks where they are due.

    The checks are made when they are first needed, which takes far longer than a call: most functions that a process
    imports it never checks, and a `def` within another function is met anew at each call of that one.
    """
    count = _counts.setdefault(plain.__code__, _Count())
    checked: Callable[..., Any] | None = None

    @functools.wraps(plain)
    def call(*arguments: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        nonlocal checked
        if count.test != _test[0]:
            count.test, count.calls = _test[0], 0
        count.calls += 1
        if (count.calls > FIRST and count.calls % THEN_ONE_IN) or config.jaxtyping_disable:
            return plain(*arguments, **options)
        if checked is None:
            checked = _jaxtyped(plain, typechecker=typechecker)
        return checked(*arguments, **options)

    call.has_checks = True  # type: ignore[attr-defined]
    return call


_counts: dict[types.CodeType, _Count] = {}
