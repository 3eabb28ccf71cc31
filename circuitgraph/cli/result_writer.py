"""The files of a result: circuit, figures, tables, pictures, report, gates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from circuitgraph.cli.output import json_text
from circuitgraph.cli.result_folder import ResultFolder

if TYPE_CHECKING:
    from circuitgraph.circuit import Circuit
    from circuitgraph.universe import Universe
    from pruning.discovery import Discovery
    from pruning.gates import Gates

_FIXED_BYTES = 16 << 20


def result_bytes(universe: Universe, steps: int) -> int:
    """About how large a result is: gates, a curve, at worst a tenth of the edges as text, pictures."""
    return _FIXED_BYTES + 20 * universe.n_edges + 150 * steps


def write_result(found: Discovery, folder: ResultFolder, *, command: str | None) -> list[str]:
    """Write a result folder, whole or not at all.

    Args:
        found: What was discovered.
        folder: Where to.
        command: The command line, for the report.

    Returns:
        What could not be drawn, and why; everything else is there.

    Raises:
        OutputError: The folder cannot be written.
    """
    from analysis.explorer import write_explorer
    from analysis.report import write_report
    from circuitgraph.atomic_file import write_atomically
    from circuitgraph.csv_text import csv_text

    with folder.publishing() as place:
        found.circuit.save(place / "circuit.json")
        write_atomically(place / "metrics.json", json_text(found.metrics) + "\n")
        write_atomically(place / "examples.csv", csv_text(found.examples))
        write_atomically(place / "curve.csv", csv_text(found.curve))
        write_atomically(place / "gates.safetensors", gates_file(found.run.gates))
        undrawn = _draw(found.circuit, place)
        page = write_explorer(found.circuit, place / "circuit.html")
        curve_picture = None
        if len(found.curve):
            from analysis.figures.style import save_figure
            from analysis.figures.training import training_figure

            curve_picture = save_figure(training_figure(found.curve), place / "curve.png", dpi=150)
        picture = place / "circuit.svg"
        write_report(
            place / "report.md",
            found.circuit,
            found.metrics,
            command=command,
            picture=picture if picture.exists() else None,
            explorer=page,
            curve_picture=curve_picture,
            curve=found.curve,
            diagnoses=found.diagnoses,
        )
    return undrawn


def _draw(circuit: Circuit, place: Path) -> list[str]:
    """Draw the circuit in each format; says once why not, where Graphviz is missing."""
    from analysis.drawing import draw
    from circuitgraph.errors import RenderingError

    draw(circuit, place / "circuit.dot")
    try:
        for name in ("circuit.pdf", "circuit.svg"):
            draw(circuit, place / name)
    except RenderingError as error:
        return [f"circuit.pdf was not drawn, only circuit.dot: {error}"]
    return []


def gates_file(gates: Gates) -> bytes:
    """Trained gates as safetensors: `log_alpha`, and `writer_log_alpha` where writers have gates."""
    from safetensors.torch import save

    tensors = {"log_alpha": gates.log_alpha}
    if gates.writer_log_alpha is not None:
        tensors["writer_log_alpha"] = gates.writer_log_alpha
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
