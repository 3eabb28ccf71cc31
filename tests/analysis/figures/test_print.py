"""Figures as they are printed: no label on another, none cut off, none too small, the same bytes, nothing global."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis.figures.colors import density_colors, ink_on
from analysis.figures.density import block_density_figure
from analysis.figures.faithfulness import curves_figure
from analysis.figures.inclusion import inclusion_figure
from analysis.figures.labels import plain_label, plain_labels
from analysis.figures.layers import layer_counts_figure
from analysis.figures.overlap import overlap_figure
from analysis.figures.style import FORMATS, figure_bytes, new_figure, save_figure, series_style
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import OutputError, UnknownNameError
from tests.analysis.random_circuits import crowded_circuit

pytestmark = pytest.mark.slow

HOSTILE = ["_hidden_ $\\frac{1}{2}$", "two\nlines & a \x00 \ud800", "a name that goes on " * 9, "$", "", "\\$x_1$"]


def names(n: int) -> list[str]:
    return [f"{HOSTILE[i % len(HOSTILE)]} {'of a very long kind ' * (i % 3)}{i}" for i in range(n)]


def overlaps(n: int) -> Figure:
    values = np.random.default_rng(0).random((n, n))
    return overlap_figure(pd.DataFrame(values, index=names(n), columns=names(n)))


def layers(n: int) -> Figure:
    circuit = crowded_circuit(60)
    return layer_counts_figure(dict.fromkeys(names(n), circuit))


def curves(n: int) -> Figure:
    rows = [(name, x, place + x) for place, name in enumerate(names(n)) for x in (0.5, 0.9)]
    return curves_figure(pd.DataFrame(rows, columns=["m", "sparsity", "kl"]), by="m")


def densities(n: int) -> Figure:
    return block_density_figure(dict.fromkeys(names(n), crowded_circuit(60)))


def inclusion(n: int) -> Figure:
    circuit = crowded_circuit(200)
    keep = [np.random.default_rng(seed).random(len(circuit)) < 0.9 for seed in range(n)]
    return inclusion_figure([Circuit.from_edges(circuit.universe, circuit.edge_ids[some]) for some in keep])


def all_axes(figure: Figure) -> list[Axes]:
    return [axes for top in figure.axes for axes in (top, *top.child_axes)]


def shown_texts(figure: Figure) -> list[Text]:
    """Labels, titles and legends that are printed; those that matplotlib keeps for ticks out of sight are not."""
    found: list[Text] = []
    for axes in all_axes(figure):
        if not axes.axison:
            continue
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            reach = 1e-6 * (high - low)
            ticks = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
            found += [label for place, label in ticks if low - reach <= place <= high + reach]
            found.append(axis.label)
        found += [axes.title, *axes.texts]
        legend = axes.get_legend()
        found += [*legend.get_texts(), legend.get_title()] if legend else []
    for legend in figure.legends:
        found += legend.get_texts()
    return [text for text in found if text.get_visible() and text.get_text()]


def apart(texts: list[Text]) -> None:
    boxes = np.array([text.get_window_extent().extents for text in texts])
    left, bottom, right, top = boxes.T
    meet = (left[:, None] < right) & (right[:, None] > left) & (bottom[:, None] < top) & (top[:, None] > bottom)
    for one, other in np.argwhere(np.triu(meet, 1)).tolist():
        raise AssertionError(f"{texts[one].get_text()!r} lies on {texts[other].get_text()!r}")


FIGURES: list[tuple[Callable[[int], Figure], int]] = [
    (overlaps, 2), (overlaps, 12), (overlaps, 40), (layers, 1), (layers, 4), (layers, 40), (curves, 12),
    (densities, 4), (inclusion, 40),
]  # fmt: skip


@pytest.mark.parametrize(("draw", "n"), FIGURES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_nothing_collides_is_cut_off_or_too_small(draw: Callable[[int], Figure], n: int) -> None:
    before = dict(mpl.rcParams)
    figure = draw(n)
    figure.draw_without_rendering()
    texts = shown_texts(figure)
    assert len(texts) > 4
    apart(texts)
    width, height = figure.bbox.width, figure.bbox.height
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1, text.get_text()
        assert text.get_fontsize() >= 7
        assert "$" not in text.get_text().replace(r"\$", "")
    assert figure.get_figwidth() in (3.3, 6.8)
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_shown_as_it_is(name: str) -> None:
    label = plain_label(name)
    shown, is_mathematics = Text(0, 0)._preprocess_math(label)
    assert not is_mathematics
    assert len(shown) <= 28
    expected = " ".join(name.replace("\x00", "\ufffd").replace("\ud800", "\ufffd").split())
    head, dots, tail = shown.partition("…")
    assert expected == shown if not dots else expected.startswith(head) and expected.endswith(tail)


def test_names_stay_different() -> None:
    made = plain_labels([f"{'x' * 40}{n}{'y' * 40}" for n in range(120)], 12)
    assert len(set(made)) == 120
    assert max(map(len, made)) <= 12


@pytest.fixture(scope="module")
def from_another_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same figure in every format."""
    folder = tmp_path_factory.mktemp("again")
    code = (
        "import sys; from tests.analysis.figures.test_print import curves; "
        "from analysis.figures.style import FORMATS, save_figure; "
        "[save_figure(curves(3), f'{sys.argv[1]}/b.{one}') for one in FORMATS]"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, cwd=Path(__file__).parents[3])
    return folder


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_same_bytes_each_time(file_format: str, tmp_path: Path, from_another_process: Path) -> None:
    path = save_figure(curves(3), tmp_path / f"a.{file_format}")
    assert path.read_bytes() == (from_another_process / f"b.{file_format}").read_bytes()


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown figure format '.pgn'; did you mean '.png'"):
        save_figure(new_figure(), tmp_path / "a.pgn")
    with pytest.raises(OutputError, match="No such file or directory"):
        save_figure(new_figure(), tmp_path / "missing" / "a.pdf")


def test_notebooks_show_figures_without_pyplot() -> None:
    picture, size = curves(3)._repr_png_()  # type: ignore[attr-defined]
    assert picture.startswith(b"\x89PNG")
    assert size["width"] == 429
    assert figure_bytes(new_figure(), "png") != picture


def test_values_rise_in_darkness_and_are_legible_in_grey() -> None:
    colors = density_colors()
    grey = colors(np.linspace(0, 1, 50))[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(grey) < 0).all()
    assert grey[0] < 0.9
    for value in np.linspace(0, 1, 50):
        shade = float(np.dot(colors(value)[:3], [0.299, 0.587, 0.114]))
        assert abs((1 if ink_on(colors(value)) == "white" else 0) - shade) > 0.4


def test_series_differ_without_colour() -> None:
    looks = [series_style(place) for place in range(280)]
    assert len({(look.color, look.marker, str(look.line)) for look in looks}) == 280
    assert len({(look.marker, str(look.line)) for look in looks[:40]}) == 40
