"""Where circuitgraph keeps what it can make again: converted models, frozen runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """The folder for everything that can be made again.

    Returns:
        `$CIRCUITGRAPH_CACHE`, else `$XDG_CACHE_HOME/circuitgraph`, else `~/.cache/circuitgraph`.

    Examples:
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, {"CIRCUITGRAPH_CACHE": "/scratch/cg"}):
        ...     print(cache_root())
        /scratch/cg
    """
    named = os.environ.get("CIRCUITGRAPH_CACHE")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "circuitgraph"


def frozen_folder() -> Path:
    """The folder for frozen runs (see `pruning.frozen`).

    Returns:
        `$CIRCUITGRAPH_FROZEN_CACHE`, such as a folder on a scratch disk, else `frozen` in `cache_root()`.

    Examples:
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, {"CIRCUITGRAPH_FROZEN_CACHE": "/scratch/runs"}):
        ...     print(frozen_folder())
        /scratch/runs
    """
    named = os.environ.get("CIRCUITGRAPH_FROZEN_CACHE")
    return Path(named).expanduser() if named else cache_root() / "frozen"
