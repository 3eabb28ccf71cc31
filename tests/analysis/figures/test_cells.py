"""Tables as coloured cells: how numbers are written, and what the bar says of values beyond its ends."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.figures.transfer import transfer_figure


@pytest.mark.parametrize(
    ("values", "extend"),
    [([0.25, 1.0], "neither"), ([-0.5, 1.0], "min"), ([0.25, 1.2], "max"), ([-0.5, float("nan"), 1.2], "both")],
)
def test_an_end_of_the_bar_with_values_beyond_it_is_an_arrow(values: list[float], extend: str) -> None:
    figure = transfer_figure(
        pd.DataFrame([values], index=["task"], columns=[f"c{place}" for place in range(len(values))])
    )
    assert figure.axes[0].images[0].colorbar.extend == extend


def test_numbers_below_zero_have_a_minus_sign() -> None:
    figure = transfer_figure(pd.DataFrame([[-0.25, 0.5]], index=["task"], columns=["a", "b"]), values=True)
    assert [text.get_text() for text in figure.axes[0].texts] == ["\N{MINUS SIGN}0.25", "0.50"]
