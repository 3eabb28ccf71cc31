"""What single parts are worth, as sections of a report: effects first, the trained score beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.drawing.caption import name_in
from analysis.markdown import code, plain, table
from analysis.measure_text import bounded, title_of
from circuitgraph.circuits.circuit import Circuit

_SCORES = {
    "edge-pruning": "the trained log α of its gate (higher: training was surer to keep it)",
    "random": "1 for every edge",
}


def _meaning_of_score(circuit: Circuit) -> str:
    method = name_in(circuit.provenance, "method")
    return _SCORES.get(method or "", "what the method that found the circuit gives each edge")


def effects_section(found: Mapping[str, Any], top: int) -> str:
    """Heads and MLPs by what cutting each alone costs.

    Args:
        found: The `effects` of `metrics.json`.
        top: How many of each to list.
    """
    measure = found["measure"]
    note = (
        f"How much {title_of(measure)} rises when the part alone is cut, from the circuit or from the full model, with "
        f"95 % intervals, on {found['n']:,} {plain(found['split'] or '')} prompts. Above 0: the part helps. Effects do "
        "not add up: parts that stand in for each other have small ones."
    )
    sections = ["## What single parts are worth", note]
    for kind, title in (("heads", "Heads"), ("mlps", "MLPs")):
        rows = [
            [code(row["part"]), *(_change(row[where], measure) for where in ("in_circuit", "in_full"))]
            for row in found[kind][:top]
        ]
        if rows:
            more = f"{len(rows)} of {len(found[kind])}, the largest effects in the circuit first."
            sections += [f"### {title}", more, table(["", "cut from the circuit", "cut from the full model"], rows)]
        else:
            sections.append(f"The circuit has no {title if kind == 'mlps' else 'heads'}.")
    return "\n\n".join(sections)


def _change(change: Mapping[str, Any], measure: str) -> str:
    return bounded(measure, change[measure], (change["low"], change["high"]))


def edges_section(circuit: Circuit, found: Mapping[str, Any], top: int) -> str:
    """The strongest edges by what cutting each alone costs, with their trained scores.

    Args:
        circuit: The circuit; its provenance says what a score is.
        found: The `effects` of `metrics.json`.
        top: How many to list.
    """
    measure = found["measure"]
    rows = [
        [
            code(row["part"]),
            *(_change(row[where], measure) for where in ("in_circuit", "in_full")),
            f"{row['score']:.4f}",
        ]
        for row in found["edges"][:top]
    ]
    note = (
        f"{len(rows)} of the {len(found['edges']):,} edges that were measured, those of the largest trained |score|; "
        f"the largest effects in the circuit first. The trained score is {_meaning_of_score(circuit)}; it is no effect."
    )
    header = ["edge", "cut from the circuit", "cut from the full model", "trained score"]
    return f"### Edges\n\n{note}\n\n" + table(header, rows)
