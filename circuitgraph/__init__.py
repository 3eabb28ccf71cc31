"""From a Hugging Face transformer to a graph of its computation, and circuits in it.

`load_model` → `compile_model` → a graph whose edges carry gates → a masked forward pass → `Circuit`.
Importing this package imports neither torch nor transformers; a name's module is loaded when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from circuitgraph._version import __version__

if TYPE_CHECKING:
    from circuitgraph.errors import CircuitGraphError
    from circuitgraph.models import LoadedModel, load_model

__all__ = ["CircuitGraphError", "LoadedModel", "__version__", "load_model"]

_HOME = {
    "CircuitGraphError": "circuitgraph.errors",
    "LoadedModel": "circuitgraph.models",
    "load_model": "circuitgraph.models",
}


def __getattr__(name: str) -> Any:
    """Load the module that defines a public name, the first time it is used."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
