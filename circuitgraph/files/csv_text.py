"""Tables as CSV that comes back as it was written, in pandas and in a spreadsheet.

CSV has no types, so readers guess: pandas takes a circuit called `NA` for a missing value, and a spreadsheet computes
a cell that begins with `=`. Text that would be guessed wrong gets an apostrophe before it, as spreadsheets have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_COMPUTED = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula (OWASP, "CSV injection")."""

_MISSING = frozenset(
    (
        "#N/A, #N/A N/A, #NA, -1.#IND, -1.#QNAN, -NaN, -nan, 1.#IND, 1.#QNAN, <NA>, N/A, NA, NULL, NaN, None, n/a, "
        "nan, null"
    ).split(", ")
)
"""What `pandas.read_csv` takes for a missing value unless told otherwise."""


def csv_text(frame: pd.DataFrame) -> str:
    """A table as CSV, without its index.

    Args:
        frame: The table. Missing values become empty cells.

    Returns:
        The text, a header and one line per row; an apostrophe stands before text that pandas would read as missing or
        a spreadsheet as a formula.

    Examples:
        >>> import pandas as pd
        >>> print(csv_text(pd.DataFrame({"circuit": ["NA", "=1+1", "ioi"], "kl": [0.5, None, -1.0]})), end="")
        circuit,kl
        'NA,0.5
        '=1+1,
        ioi,-1.0
    """
    import pandas as pd

    guarded = {
        place: column.map(_guarded)
        for place, (_, column) in enumerate(frame.items())
        if pd.api.types.is_object_dtype(column) or isinstance(column.dtype, (pd.StringDtype, pd.CategoricalDtype))
    }
    columns = [guarded.get(place, column) for place, (_, column) in enumerate(frame.items())]
    plain = pd.concat(columns, axis=1) if columns else frame
    return plain.to_csv(index=False, header=[_no_formula(str(name)) for name in frame.columns])


def _guarded(value: object) -> object:
    if not isinstance(value, str):
        return value
    return f"'{value}" if value in _MISSING else _no_formula(value)


def _no_formula(text: str) -> str:
    return f"'{text}" if text.startswith(_COMPUTED) else text
