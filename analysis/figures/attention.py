"""Attention on a prompt's tokens: a panel a head, a row for each token that is looked from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.colors import color_bar, density_colors
from analysis.figures.labels import plain_labels
from analysis.figures.own_look import own_look
from analysis.figures.style import DOUBLE_COLUMN, FONT_SIZE, INK, SMALL_FONT_SIZE, new_figure, style_axes
from circuitgraph.errors import ConfigurationError

MOST_TOKENS = 32
_IN_A_ROW = 2
_MOST_IN_HALF = 18
"""Of more tokens a panel takes the whole width, or they run into each other."""
_INCHES_PER_TOKEN, _INCHES_PER_LETTER, _LEAST_INCHES = 0.13, 0.055, 0.5


@own_look
def attention_figure(tokens: Sequence[str], patterns: Mapping[str, np.ndarray], *, last: int | None = None) -> Figure:
    """Draw how heads attend on one prompt.

    Args:
        tokens: The prompt's tokens.
        patterns: By the title of its panel, a head's attention `[seq seq]`: looking position, position looked at.
        last: Of the looking positions, only so many of the last; all by default.

    Returns:
        The figure, a panel a head; the darker a cell, the more of the row's attention it has.

    Raises:
        ConfigurationError: No heads, attention of another length than the tokens, or more tokens than can be read.

    Examples:
        >>> figure = attention_figure(["The", " cat"], {"a0.h0": np.array([[1.0, 0.0], [0.25, 0.75]])})
        >>> [axes.get_title() for axes in figure.axes]
        ['a0.h0']
    """
    if not patterns:
        raise ConfigurationError("expected attention of at least one head; got none")
    for name, pattern in patterns.items():
        if pattern.shape != (len(tokens), len(tokens)):
            raise ConfigurationError(
                f"the attention of {name} has the shape {tuple(pattern.shape)}; expected ({len(tokens)}, "
                f"{len(tokens)}), a row and a column per token"
            )
    if len(tokens) > MOST_TOKENS:
        raise ConfigurationError(f"the prompt has {len(tokens)} tokens; {MOST_TOKENS} at most can be read in a figure")
    rows_shown = len(tokens) if last is None else min(last, len(tokens))
    is_wide = len(tokens) > _MOST_IN_HALF
    columns = 1 if is_wide else min(_IN_A_ROW, len(patterns))
    lines = -(-len(patterns) // columns)
    labels = [_label(token) for token in tokens]
    below = 0.75 + _INCHES_PER_LETTER * max(map(len, labels))
    height = lines * (below + max(_LEAST_INCHES, _INCHES_PER_TOKEN * rows_shown))
    figure = new_figure(DOUBLE_COLUMN if columns > 1 or is_wide else DOUBLE_COLUMN * 0.6, height)
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes, (name, pattern) in zip(grid, patterns.items(), strict=False):
        _panel(axes, name, labels, pattern, rows_shown)
    for axes in grid[len(patterns) :]:
        axes.remove()
    drawn = [axes for axes in figure.axes if axes.images]
    color_bar(drawn[min(columns, len(drawn)) - 1], "share of attention", ticks=(0, 0.5, 1))
    return figure


def _label(token: str) -> str:
    """A token as it can be seen, what is only space too."""
    return plain_labels([token.replace("\n", "↵")])[0] if token.strip(" \t\r") else "␣"


def _panel(axes: Axes, name: str, labels: Sequence[str], pattern: np.ndarray, rows_shown: int) -> None:
    style_axes(axes)
    seen = np.where(pattern[-rows_shown:] > 0, pattern[-rows_shown:], np.nan)  # what cannot be seen stays white
    axes.imshow(seen, cmap=density_colors(), vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_title(plain_labels([name])[0], fontsize=FONT_SIZE, color=INK)
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=SMALL_FONT_SIZE)
    axes.set_yticks(range(rows_shown), labels[-rows_shown:], fontsize=SMALL_FONT_SIZE)
    axes.set_xlabel("looked at", fontsize=SMALL_FONT_SIZE)
    axes.set_ylabel("looked from", fontsize=SMALL_FONT_SIZE)
