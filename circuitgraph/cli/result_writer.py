"""What a result shows: its curve, drawings, explorer and report. Each is made by itself, and may be missing alone."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from circuitgraph.cli.failures import DEBUG_VARIABLE, telling_what_is_there
from circuitgraph.cli.output import say, warn
from circuitgraph.errors import RenderingError

if TYPE_CHECKING:
    import pandas as pd

    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.graph.universe import Universe
    from pruning.runs.parts import Parts
    from pruning.runs.result_folder import ResultFolder

FILES_OF = {
    "curve": ("curve.png",),
    "drawings": ("circuit.dot", "circuit.pdf", "circuit.svg"),
    "explorer": ("circuit.html",),
    "report": ("report.md",),
}
"""What is shown of a result, by part, in the order in which it is made; the report is last, and links the others."""
SHOWN = tuple(FILES_OF)
PICTURES = ("curve", "drawings")
"""Parts without which nothing is lost."""
_FIXED_BYTES = 16 << 20


def result_bytes(universe: Universe, steps: int) -> int:
    """About how large a result is: gates, a curve, at worst a tenth of the edges as text, pictures."""
    return _FIXED_BYTES + 20 * universe.n_edges + 150 * steps


def write_shown(
    folder: ResultFolder,
    circuit: Circuit,
    metrics: Mapping[str, Any],
    curve: pd.DataFrame,
    *,
    missing: Mapping[str, str],
    wanted: tuple[str, ...] = SHOWN,
) -> Parts:
    """Make what is shown of a result.

    Args:
        folder: Where to.
        circuit: The circuit, with its provenance.
        metrics: As in `metrics.json`.
        curve: A row per step.
        missing: Why other parts are missing, for the report and the state.
        wanted: The parts to make.

    Returns:
        What is missing now, of all parts.

    Raises:
        KeyboardInterrupt: The run was asked to stop a second time.
    """
    from circuitgraph.errors import why
    from circuitgraph.stopping import stopping
    from pruning.runs.parts import Parts

    asked, wanted = wanted, showable(circuit, wanted)
    if len(wanted) < len(asked):
        say("no circuit.html: the explorer does not show spans of tokens; circuit.svg does")
    with stopping() as stop, stop.held():
        parts = Parts(stop, wanted)
        parts.missing = {**missing, **parts.missing}
        makers: dict[str, Callable[[], object]] = {
            "curve": lambda: (_draw_curve(folder, circuit, metrics, curve), _draw_front(folder, metrics)),
            "drawings": lambda: _draw(folder, circuit),
            "explorer": lambda: _explorer(folder, circuit, metrics),
        }
        for part in [part for part in makers if part in wanted]:
            parts.attempt(part, makers[part], cheap=part != "drawings")
        if "report" in wanted:
            reported = {part: reason for part, reason in parts.missing.items() if part != "report"}
            parts.attempt("report", lambda: _report(folder, circuit, metrics, curve, reported), cheap=True)
        folder.later = ()
        try:
            folder.write_state(parts.missing, stopped_by=stop.name or None)
        except Exception as error:  # noqa: BLE001 - as of the other parts
            parts.errors["state"], parts.missing["state"] = error, why(error)
    return parts


def showable(circuit: Circuit, parts: Sequence[str]) -> tuple[str, ...]:
    """Of some parts those that can be made of a circuit: the explorer does not know spans of positions.

    Args:
        circuit: The circuit.
        parts: Of `SHOWN`.
    """
    return tuple(part for part in parts if part != "explorer" or not circuit.universe.spans)


_EVALUATED = ("validation", "test")


def _draw_curve(folder: ResultFolder, circuit: Circuit, metrics: Mapping[str, Any], curve: pd.DataFrame) -> None:
    if len(curve):
        from analysis.figures.style import save_figure
        from analysis.figures.training import training_figure

        objective = circuit.provenance.get("objective")
        roles = {split: (metrics.get("splits") or {}).get(split, {}).get("circuit", {}) for split in _EVALUATED}
        # Only the same measure can stand beside the curve.
        evaluated = {split: float(role[objective]) for split, role in roles.items() if role.get(objective) is not None}
        save_figure(
            training_figure(curve, objective=objective, evaluated=evaluated), folder.place / "curve.png", dpi=150
        )


def _draw_front(folder: ResultFolder, metrics: Mapping[str, Any]) -> None:
    """Draw how faithful circuits of all sizes are, over the edges that they keep, on a logarithmic axis."""
    from analysis.figures.front import front_figure
    from analysis.figures.style import save_figure
    from pruning.runs.front import front_table

    if metrics.get("front"):
        save_figure(front_figure(front_table(metrics["front"])), folder.place / "front.png", dpi=150)


def _draw(folder: ResultFolder, circuit: Circuit) -> None:
    """Draw the circuit in each format.

    Raises:
        RenderingError: Only the text for Graphviz was written.
    """
    from analysis.drawing import draw

    draw(circuit, folder.place / "circuit.dot")
    try:
        for name in ("circuit.pdf", "circuit.svg"):
            draw(circuit, folder.place / name)
    except RenderingError as error:
        raise RenderingError(f"only circuit.dot was drawn: {error}") from error


def _explorer(folder: ResultFolder, circuit: Circuit, metrics: Mapping[str, Any]) -> None:
    from analysis.drawing.effects import has_effects
    from analysis.explorer import write_explorer

    effects = {"circuit": metrics} if has_effects(metrics) else None
    write_explorer({"circuit": circuit}, folder.place / "circuit.html", effects=effects)


def _report(
    folder: ResultFolder,
    circuit: Circuit,
    metrics: Mapping[str, Any],
    curve: pd.DataFrame,
    missing: Mapping[str, str],
) -> None:
    from analysis.report import write_report
    from pruning.runs.result_folder import report_command

    def there(name: str) -> Any:
        return folder.place / name if name in folder else None

    write_report(
        folder.place / "report.md",
        circuit,
        metrics,
        command=folder.command,
        picture=there("circuit.svg"),
        explorer=there("circuit.html"),
        curve_picture=there("curve.png"),
        curve=curve,
        diagnoses=metrics.get("diagnoses", ()),
        missing=missing,
        again=report_command(folder.path) if missing else None,
    )


def tell_missing(folder: ResultFolder, missing: Mapping[str, str], errors: Mapping[str, Exception]) -> None:
    """Warn of each part that is missing, and say what makes them.

    Args:
        folder: The result's.
        missing: Why, by part.
        errors: What was raised, by part; shown with `--debug`.
    """
    from pruning.runs.result_folder import report_command

    for part, reason in missing.items():
        if os.environ.get(DEBUG_VARIABLE) and part in errors:
            traceback.print_exception(errors[part])
        warn(f"missing: {part}: {reason}")
    if missing:
        say(f"`{report_command(folder.path)}` makes what is missing")


def is_loss(missing: Mapping[str, str]) -> bool:
    """Whether more is missing than a picture.

    Examples:
        >>> is_loss({"drawings": "no Graphviz"}), is_loss({"evaluation:test": "out of memory"})
        (False, True)
    """
    return any(part not in PICTURES for part in missing)


def ended_at_once(folder: ResultFolder) -> contextlib.AbstractContextManager[None]:
    """Where a run is ended at once, say what is there of it.

    Args:
        folder: The result's.
    """
    return telling_what_is_there(lambda: _what_is_there(folder))


def _what_is_there(folder: ResultFolder) -> str:
    """What there is of a run that was ended at once, and how to go on."""
    from pruning.runs.result_files import CIRCUIT, GATES
    from pruning.runs.result_folder import report_command, resume_command

    if CIRCUIT in folder:
        return f"gates and circuit are in {folder.path}; `{report_command(folder.path)}` makes the rest"
    if GATES in folder:
        return f"the trained gates are in {folder.place}, and nothing else"
    if any(folder.checkpoints.glob("step-*.json")):
        return f"`{resume_command(folder.path)}` goes on from its last checkpoint"
    return "nothing was written"
