"""The figure of attention: its pictures hold the shares, row for row, and what cannot be seen stays white."""

from __future__ import annotations

import numpy as np
import pytest

from analysis import attention_figure
from analysis.figures.style import figure_bytes
from circuitgraph.errors import ConfigurationError

TOKENS = ["The", " cat", " sat"]
PATTERN = np.array([[1.0, 0, 0], [0.25, 0.75, 0], [0.1, 0.2, 0.7]])


def test_pictures_hold_the_shares() -> None:
    figure = attention_figure(TOKENS, {"a0.h0": PATTERN, "a1.h3: mover": PATTERN[::-1].T, "m": PATTERN}, last=2)
    panels = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in panels] == ["a0.h0", "a1.h3: mover", "m"] and len(figure.axes) == 3
    shown = panels[0].images[0].get_array()
    assert shown.shape == (2, 3) and shown[0].tolist()[:2] == [0.25, 0.75] and np.ma.is_masked(shown[0, 2])
    assert [text.get_text() for text in panels[0].get_xticklabels()] == ["The", "cat", "sat"]
    assert [text.get_text() for text in panels[0].get_yticklabels()] == ["cat", "sat"]
    figure.draw_without_rendering()


@pytest.mark.parametrize(("n", "last"), [(18, None), (32, None), (32, 1)])
def test_tokens_do_not_run_into_each_other(n: int, last: int | None) -> None:
    figure = attention_figure(["word"] * (n - 1) + ["<|im_start|>"], {"a": np.eye(n), "b": np.eye(n)}, last=last)
    figure.canvas.draw()
    for axes in figure.axes:
        for axis in (axes.get_xticklabels(), axes.get_yticklabels()):
            boxes = [label.get_window_extent() for label in axis]
            assert not any(one.overlaps(other) for one, other in zip(boxes, boxes[1:], strict=False))
        assert axes.bbox.height > 30


def test_tokens_of_space_can_be_seen() -> None:
    (axes,) = (one for one in attention_figure(["\n", " ", "a\n"], {"a": np.eye(3)}).axes if one.images)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["↵", "␣", "a↵"]


def test_letters_that_the_font_lacks_and_signs_of_formulas() -> None:
    tokens = ["日本", "$5 and $\\frac", "🙂"]  # warnings are errors here
    assert figure_bytes(attention_figure(tokens, {"a0.h0": PATTERN}), "png").startswith(b"\x89PNG")


def test_refused() -> None:
    with pytest.raises(ConfigurationError, match="none"):
        attention_figure(TOKENS, {})
    with pytest.raises(ConfigurationError, match=r"\(2, 3\)"):
        attention_figure(TOKENS, {"a": PATTERN[1:]})
    with pytest.raises(ConfigurationError, match="at most"):
        attention_figure(["x"] * 40, {"a": np.eye(40)})
