"""A comparison of regimes as a folder: tables, figures, drawings, circuits and a report."""

from __future__ import annotations

from pathlib import Path

from analysis.figures.style import save_figure
from analysis.regimes.case_study import case_study_latex, case_study_markdown
from analysis.regimes.comparison import RegimeComparison
from analysis.regimes.figures import regime_faithfulness_figure, shared_private_figure
from analysis.regimes.report import write_regime_report
from circuitgraph.errors import OutputError, RenderingError
from circuitgraph.files.atomic_file import write_atomically
from circuitgraph.files.csv_text import csv_text


def write_comparison(found: RegimeComparison, folder: str | Path) -> list[str]:
    """Write everything: tables, figures, drawings, circuits and a report that a person can read.

    Args:
        found: The comparison.
        folder: Where to; made if it is not there. Files of these names are replaced, others stay.

    Returns:
        What could not be drawn, and why; everything else is there.

    Raises:
        OutputError: The folder or a file cannot be written.

    Examples:
        `docs/explanations/regimes.md` makes a comparison of small circuits, and lists what is written.
    """
    folder = Path(folder)
    _make(folder, "tables", "figures", "drawings")
    for name, table in found.tables.items():
        write_atomically(folder / "tables" / f"{name}.csv", csv_text(table))
    if found.metrics is not None:
        write_atomically(folder / "tables" / "case_study.md", case_study_markdown(found.metrics) + "\n")
        write_atomically(folder / "tables" / "case_study.tex", case_study_latex(found.metrics) + "\n")
    found.shared.save(folder / "drawings" / "shared.json")
    for number, circuit in enumerate(found.private.values()):
        circuit.save(folder / "drawings" / f"private-{number}.json")
    _write_figures(found, folder / "figures")
    undrawn = _write_drawings(found, folder / "drawings")
    write_regime_report(folder / "report.md", found)
    return undrawn


def _write_figures(found: RegimeComparison, folder: Path) -> None:
    figures = {}
    if len(found.circuits.regimes) == 2:
        for by in ("reader_layer", "writer_layer", "reader_kind"):
            figures[f"shared-private-{by.replace('_', '-')}"] = shared_private_figure(found.differences, by=by)
    for metric in ("kl", "mse", "accuracy", "exact_match") if found.metrics is not None else ():
        assert found.metrics is not None
        if metric in found.metrics and bool(found.metrics[metric].notna().any()):
            figures[f"faithfulness-{metric.replace('_', '-')}"] = regime_faithfulness_figure(
                found.metrics, metric=metric
            )
    for name, figure in figures.items():
        for suffix in ("pdf", "svg"):
            save_figure(figure, folder / f"{name}.{suffix}")


def _write_drawings(found: RegimeComparison, folder: Path) -> list[str]:
    for name, side_by_side in (("side-by-side", True), ("overlay", False)):
        found.draw(folder / f"{name}.dot", side_by_side=side_by_side)
        try:
            for suffix in ("pdf", "svg"):
                found.draw(folder / f"{name}.{suffix}", side_by_side=side_by_side)
        except RenderingError as error:
            return [f"drawings are there as .dot alone: {error}"]
    return []


def _make(folder: Path, *names: str) -> None:
    try:
        for place in (folder, *(folder / name for name in names)):
            place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror or error}; choose another") from error
