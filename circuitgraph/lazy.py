"""Public names of a package that load their module when first used, so that importing the package stays cheap."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def load_on_use(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__`.

    Args:
        package: The package's name.
        homes: The module that defines each public name, whole, or beginning with a dot within the package.

    Returns:
        The function: it gives the named object, or raises `AttributeError` for a name that is not public.

    Examples:
        >>> load_on_use("circuitgraph", {"Universe": ".graph.universe"})("Universe").__module__
        'circuitgraph.graph.universe'
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name], package), name)

    return load
