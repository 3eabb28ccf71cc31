"""Figures in their own look: matplotlib's defaults while one is drawn, whatever the user's matplotlibrc says.

A matplotlibrc with `text.usetex`, dark colours or huge letters is made for the user's own figures. Here it would fail
where no LaTeX is installed, or draw white letters on white.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ParamSpec, TypeVar

import matplotlib as mpl

Given = ParamSpec("Given")
Made = TypeVar("Made")

# What has nothing to do with looks, or cannot be set for a while.
_LEFT = ("backend", "backend_fallback", "interactive", "toolbar", "timezone")


def own_settings() -> AbstractContextManager[None]:
    """Matplotlib's defaults, until the context ends."""
    return mpl.rc_context({name: value for name, value in mpl.rcParamsDefault.items() if name not in _LEFT})


def own_look(draw: Callable[Given, Made]) -> Callable[Given, Made]:
    """Draw with matplotlib's defaults; its settings are afterwards as they were.

    Examples:
        >>> mpl.rcParamsDefault["text.usetex"], own_look(lambda: mpl.rcParams["text.usetex"])()
        (False, False)
    """

    @functools.wraps(draw)
    def drawn(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        with own_settings(), warnings.catch_warnings():
            # A letter that the font lacks is a box in the figure; a line for each on the screen helps nobody.
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
            return draw(*args, **kwargs)

    return drawn
