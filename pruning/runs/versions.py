"""Versions of what is installed."""

from __future__ import annotations

import importlib.metadata


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
