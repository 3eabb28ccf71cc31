"""CSV comes back as it was written, whatever a circuit is called."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest

from circuitgraph.files.csv_text import csv_text

NAMES = ["NA", "null", "None", "nan", "n/a", "#N/A", "<NA>", "=1+1", "+1", "-1", "@sum", "\tx", "'quoted", 'Zoë, "x"\n']


@pytest.mark.parametrize("dtype", [object, "string", "category"])
def test_names_come_back_and_are_no_formulas(dtype: object) -> None:
    frame = pd.DataFrame({"circuit": pd.Series(NAMES, dtype=dtype), "kl": np.arange(len(NAMES)) - 5.5})
    back = pd.read_csv(io.StringIO(csv_text(frame)))
    assert back["kl"].tolist() == frame["kl"].tolist()
    assert not back["circuit"].isna().any()
    for name, read in zip(NAMES, back["circuit"], strict=True):
        assert read.removeprefix("'") == name.removeprefix("'")
        assert read[0] not in "=+-@\t\r"


def test_what_is_missing_stays_missing_and_numbers_are_left_alone() -> None:
    frame = pd.DataFrame(
        {"note": ["", None, "x"], "n": pd.array([1, None, -3], dtype="Int64"), "kl": [-1e-9, np.nan, 2]}
    )
    assert csv_text(frame) == frame.to_csv(index=False)
    assert csv_text(pd.DataFrame({"a": []})) == "a\n"
    twice = pd.DataFrame([["NA", 1]], columns=["a", "a"])
    assert csv_text(twice) == "a,a\n'NA,1\n"
