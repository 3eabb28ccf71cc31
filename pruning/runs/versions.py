"""Versions of what is installed."""

from __future__ import annotations

import importlib.metadata
import platform

_LIBRARIES = ("transformer-circuitgraph", "torch", "transformers", "networkx", "numpy", "numba")


def installed_version(package: str) -> str | None:
    """A package's version; None where it is not installed.

    Args:
        package: Its name as pip has it.

    Examples:
        >>> installed_version("no-such-package") is None
        True
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def library_versions() -> dict[str, str]:
    """Versions of what the result depends on."""
    libraries = {name: installed_version(name) or "not installed" for name in _LIBRARIES}
    return {"python": platform.python_version(), **libraries}
