"""LaTeX tables for papers (booktabs), with everything that TeX would interpret escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "{''}", "`": r"\`{}",
    # After the end of a row, TeX takes these for the row's own arguments.
    "[": "{[}", "*": "{*}",
}  # fmt: skip
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_POWER_OF_TEN = re.compile(r"(-?\d+(?:\.\d+)?)e([+-])0*(\d+)")
_BOUNDS = {"≤": r"\le", "<": "<"}


def plain(value: object) -> str:
    r"""A value as LaTeX text on one line that reads as it is.

    Nothing in it needs a package; straight double quotes become closing ones, which every font has.

    Examples:
        >>> print(plain("a3.h7<q>"), plain(r"\input{x} & 5%"))
        a3.h7\textless{}q\textgreater{} \textbackslash{}input\{x\} \& 5\%
    """
    line = " ".join(_CONTROL.sub(" ", str(value)).split())
    return "".join(_SPECIAL.get(character, character) for character in line)


def number(text: str) -> str:
    r"""A formatted number as LaTeX: minus signs, powers of ten, bounds, and a dash where there is none.

    Examples:
        >>> print(number("1.2e-25"), number("-0.5"), number("12,345"), number("–"))
        $1.2 \times 10^{-25}$ $-0.5$ 12,345 --
        >>> print(number("≤ 0.005"), number("< 1e-300"))
        $\le 0.005$ $< 1 \times 10^{-300}$
    """
    bound, _, rest = text.partition(" ")
    if bound in _BOUNDS:
        return f"${_BOUNDS[bound]} {number(rest).strip('$')}$"
    power = _POWER_OF_TEN.fullmatch(text)
    if power is not None:
        sign = "-" if power[2] == "-" else ""
        return rf"${power[1]} \times 10^{{{sign}{power[3]}}}$"
    return f"${text}$" if re.fullmatch(r"-[\d.,]+", text) else plain(text).replace("–", "--")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[bool], caption: str = "") -> str:
    r"""A table in the style of booktabs; the document needs `\usepackage{booktabs}`.

    Args:
        header: Column names, already escaped.
        rows: Cells, already escaped.
        numbers: Whether a column holds numbers, which are set to the right `[column]`.
        caption: Above the table, already escaped; with none it is a `tabular` alone.

    Returns:
        The table's lines.

    Examples:
        >>> print(table(["part", "kept"], [["heads", "3"]], numbers=[False, True]))
        \begin{tabular}{lr}
        \toprule
        part & kept \\
        \midrule
        heads & 3 \\
        \bottomrule
        \end{tabular}
    """
    columns = "".join("r" if is_number else "l" for is_number in numbers)
    lines = [
        rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(header) + r" \\", r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows), r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
    if caption:
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", *lines, r"\end{table}"]
    return "\n".join(lines)
