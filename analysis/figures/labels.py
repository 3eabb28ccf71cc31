"""Names in figures: shown as they are, on one line, short enough, and never on top of each other.

Whether labels collide is measured on the laid-out figure, not guessed. Where they do they are turned upright, and
where that is not enough only every second, third, … is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend

from analysis.drawing.escaping import xml_text
from analysis.figures.style import INK, SMALL_FONT_SIZE, lay_out

LONGEST = 28


def plain_label(text: str, limit: int = LONGEST) -> str:
    r"""Text as matplotlib shows it unchanged: on one line, no mathematics, long ones shortened in the middle.

    Args:
        text: Any text.
        limit: Of how many characters.

    Examples:
        >>> print(plain_label("cost in $ and\n$x_1$"))
        cost in \$ and \$x_1\$
        >>> plain_label("instruction-prompting/seed-1", 13)
        'instru…seed-1'
    """
    return _without_mathematics(_shortened(_one_line(text), limit))


def plain_labels(texts: Sequence[str], limit: int = LONGEST) -> list[str]:
    """Several labels; those that shortening would make the same are numbered.

    Args:
        texts: Any texts.
        limit: Of how many characters each.

    Examples:
        >>> plain_labels(["a long name, 1 of 2", "a long name, 2 of 2", "short"], 11)
        ['a lo…f 2 #1', 'a lo…f 2 #2', 'short']
    """
    lines = [_one_line(text) for text in texts]
    short = [_shortened(line, limit) for line in lines]
    counts, seen = Counter(short), Counter[str]()
    for place, label in enumerate(list(short)):
        if counts[label] > 1:
            seen[label] += 1
            number = f" #{seen[label]}"
            short[place] = _shortened(lines[place], limit - len(number)) + number
    return [_without_mathematics(label) for label in short]


def _one_line(text: str) -> str:
    # Beyond what XML cannot hold, fonts have no shape for the other control characters.
    return " ".join("".join(c if c.isprintable() else "\ufffd" for c in " ".join(xml_text(text).split())).split())


def _shortened(line: str, limit: int) -> str:
    if len(line) <= limit:
        return line
    tail = (limit - 1) // 2
    return f"{line[: limit - 1 - tail]}…{line[len(line) - tail :]}"


def _without_mathematics(line: str) -> str:
    return line.replace("$", r"\$")


def spread_labels(axis: Axis) -> None:
    """Turn or thin the labels of an axis that lists names, so that none touches another.

    Args:
        axis: An axis of a finished figure with fixed ticks; its labels are measured as they will be printed.
    """
    collide = _collide(axis)
    if collide and isinstance(axis, XAxis):
        axis.set_tick_params(rotation=90)
        collide = _collide(axis)
    ticks, labels = axis.get_majorticklocs(), [text.get_text() for text in axis.get_majorticklabels()]
    step = 1
    while collide and step < len(ticks):
        step += 1
        axis.set_ticks(ticks[::step], labels[::step])
        collide = _collide(axis)


def label_layers(axis: Axis, n_layers: int, *, first: int = 0, last: int | None = None) -> None:
    """Label as many layers as there is room for, and the embeddings and the logits wherever they are on the axis.

    Args:
        axis: An axis of a figure that has been laid out (`lay_out`), on which layers lie at their numbers, embeddings
            at -1 and the logits at `n_layers`.
        n_layers: How many layers the model has.
        first: The lowest number on the axis.
        last: The highest; by default the logits.
    """
    last = n_layers if last is None else last
    ends = {-1: "emb.", n_layers: "logits"}
    ends = {place: name for place, name in ends.items() if first <= place <= last}
    for step in (1, 2, 5, 10, 20, 50, 100, 1000):
        # Next to a named end there is no room for a number, unless there is room for all.
        margin = 0 if step == 1 else step / 2
        layers = [n for n in range(max(first, 0), min(last, n_layers - 1) + 1) if n % step == 0]
        numbers = {n: str(n) for n in layers if all(abs(n - end) >= margin for end in ends)}
        shown = dict(sorted((numbers | ends).items()))
        axis.set_ticks(list(shown), list(shown.values()))
        if not _touch(axis, gap=3):
            return


def _collide(axis: Axis) -> bool:
    lay_out(axis.axes.figure.canvas.figure)
    return _touch(axis)


def _touch(axis: Axis, *, gap: float = 0) -> bool:
    """Whether labels lie on each other, or less than a gap, in points, beside each other, where the axis is now."""
    # This puts the labels where their ticks are.
    axis.get_tightbbox()
    labels = [text for text in axis.get_majorticklabels() if text.get_text()]
    return bool(overlapping(labels, gap=gap * axis.axes.figure.canvas.figure.dpi / 72))


def overlapping(artists: Iterable[Artist], *, gap: float = 0) -> list[tuple[Artist, Artist]]:
    """Pairs of drawn things whose boxes overlap.

    Args:
        artists: Texts, legends and the like, of a figure that has been laid out.
        gap: How far apart, in dots, things side by side must be.
    """
    shown = [artist for artist in artists if artist.get_visible()]
    if len(shown) < 2:
        return []
    left, bottom, right, top = np.array([artist.get_window_extent().extents for artist in shown]).T
    right = right + gap
    meet = (left[:, None] < right) & (right[:, None] > left) & (bottom[:, None] < top) & (top[:, None] > bottom)
    return [(shown[one], shown[other]) for one, other in np.argwhere(np.triu(meet, 1)).tolist()]


def legend_above(
    axes: Axes, handles: Sequence[Artist], labels: Sequence[str], *, title: str = "", grow: bool = False
) -> Legend:
    """A legend above the axes, in as many columns as their width holds.

    Args:
        axes: The axes, without a title.
        handles: What is explained.
        labels: As `plain_labels` gives them; those that begin with `_` are shown too.
        title: A line above them.
        grow: Make the figure higher by the height of the legend, so that the axes keep theirs.

    Returns:
        The legend.
    """
    figure = axes.figure.canvas.figure
    for n_columns in range(min(len(labels), 6), 0, -1):
        legend = _legend(axes, handles, labels, n_columns, bbox_to_anchor=(0, 1.01), loc="lower left")
        legend.set_title(title, prop=FontProperties(size=SMALL_FONT_SIZE))
        # While it is measured, the layout does not make room for it.
        legend.set_in_layout(False)
        box = legend.get_window_extent()
        # Laying out is most of what a figure costs. It leaves a panel four fifths of its width or more, unless
        # the panel keeps its shape.
        if axes.get_aspect() == "auto" and box.width <= 0.8 * axes.bbox.width:
            break
        lay_out(figure)
        box = legend.get_window_extent()
        if box.width <= axes.bbox.width or n_columns == 1:
            break
    legend.set_in_layout(True)
    if grow:
        figure.set_figheight(figure.get_figheight() + box.height / figure.dpi)
    return legend


def legend_within(axes: Axes, handles: Sequence[Artist], labels: Sequence[str]) -> Legend:
    """A legend in the middle of axes that hold nothing else, in as few columns as their height holds.

    Args:
        axes: The axes.
        handles: What is explained.
        labels: As `plain_labels` gives them; those that begin with `_` are shown too.

    Returns:
        The legend.
    """
    n_columns = 1
    legend = _legend(axes, handles, labels, n_columns, loc="center")
    lay_out(axes.figure.canvas.figure)
    while n_columns < min(len(labels), 6) and legend.get_window_extent().height > axes.bbox.height:
        n_columns += 1
        legend = _legend(axes, handles, labels, n_columns, loc="center")
    return legend


def _legend(
    axes: Axes,
    handles: Sequence[Artist],
    labels: Sequence[str],
    n_columns: int,
    *,
    loc: Literal["lower left", "center"],
    bbox_to_anchor: tuple[float, float] | None = None,
) -> Legend:
    # Matplotlib leaves out labels that begin with an underscore, so they are filled in afterwards.
    legend = axes.legend(
        handles,
        [str(number) for number in range(len(labels))],
        loc=loc,
        bbox_to_anchor=bbox_to_anchor,
        borderaxespad=0,
        borderpad=0.2,
        columnspacing=1.2,
        labelspacing=0.3,
        handlelength=2.6,
        frameon=False,
        fontsize=SMALL_FONT_SIZE,
        labelcolor=INK,
        alignment="left",
        ncols=n_columns,
    )
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)
    return legend
