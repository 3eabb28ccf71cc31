"""Figures for print, from circuits and plain tables: how they look, what is measured, and one module a figure.

Every function returns a `matplotlib.figure.Figure` and touches no global state of matplotlib; no display is needed,
and no setting of the user's changes the look. `docs/tutorials/gallery.md` shows them all.
"""

from __future__ import annotations

import os
import sys


def _import_matplotlib() -> None:
    """Import matplotlib even where MPLBACKEND names a backend that there is not; none is needed to write files."""
    backend = os.environ.get("MPLBACKEND")
    if backend is None or "matplotlib" in sys.modules:
        return
    os.environ["MPLBACKEND"] = "agg"
    try:
        import matplotlib as mpl
    finally:
        os.environ["MPLBACKEND"] = backend
    try:
        mpl.rcParams["backend"] = backend
    except ValueError:
        return


_import_matplotlib()
