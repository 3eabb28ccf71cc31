"""Several circuits in one drawing: edges coloured by which circuits keep them, in one picture or side by side.

1. Each edge of the union is of one class: kept by all circuits, by one alone, or, of three or more, by some.
2. The strongest of each class are chosen, joined to the input and the logits (`selection`). A circuit's scores count
   as shares of its largest, and classes take turns, so that the weaker circuit's own edges are drawn as well.
3. One picture shows all of them; side by side there is a panel for each class, with layers on common rows.

Colours are those of `style`, and lines differ too, so that classes are told apart in grey.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from analysis.algebra import union
from analysis.comparable import named_circuits, require_comparable
from analysis.drawing.diagram import Drawing
from analysis.drawing.dot import (
    end_of,
    group_lines,
    heads_of_group,
    module_of,
    node_line,
    node_rows,
    page_label,
    page_settings,
    sample_rows,
    shape_rows,
    wrapped,
)
from analysis.drawing.escaping import html_text, quoted
from analysis.drawing.fit import fit, inches, say
from analysis.drawing.selection import kept_by, shared_strengths, strongest_edges
from analysis.drawing.style import EDGE_STYLES, FAINT, TITLE_SIZE, line_widths
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError

# Colour and line of the shared edges, then of each circuit's own, then of those that some share.
_SHARED = ("#222222", "solid")
_OWN = (
    ("#0072B2", "dashed"), ("#D55E00", "dotted"), ("#009E73", "dashed"), ("#6B4C9A", "dotted"), ("#E69F00", "dashed"),
)  # fmt: skip
_SOME = ("#8a8a8a", "solid")
_LONGEST = 40


@dataclass(frozen=True, kw_only=True)
class EdgeClass:
    """Edges that the same circuits keep.

    Attributes:
        title: What they are.
        color: Of their lines.
        line: Graphviz line style.
        places: Which of the union's edges are of this class and drawn.
        n_edges: How many are of this class in all.
    """

    title: str
    color: str
    line: str
    places: list[int]
    n_edges: int


def membership_to_dot(
    circuits: Mapping[str, Circuit],
    *,
    max_edges: int = 150,
    side_by_side: bool = False,
    title: str = "",
    across_checkpoints: bool = False,
    width: float | None = None,
) -> str:
    """Write several circuits as one drawing in DOT.

    Args:
        circuits: Two to five circuits of one universe, by name.
        max_edges: Above this many edges in the union only the strongest of each class are drawn, and the drawing
            says so.
        side_by_side: A panel for each class of edges instead of one picture.
        title: Above the drawing.
        across_checkpoints: Allow other weights or another model of the same universe.
        width: At most so many inches wide; what is wider is scaled down, with its text.

    Returns:
        DOT text.

    Raises:
        ConfigurationError: Fewer than two circuits, or more than there are colours for.
        GraphMismatchError: The circuits are of different universes or models.

    Examples:
        >>> from circuitgraph.graph.universe import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> a = Circuit.from_edges(universe, ["input->logits", "input->m0", "m0->logits"])
        >>> dot = membership_to_dot({"a": a, "b": Circuit.from_edges(universe, ["input->logits"])})
        >>> "shared by all: 1 edge" in dot, "only a: 2 edges" in dot, "only b" in dot
        (True, True, False)
    """
    whole, named = _together(circuits, across_checkpoints)
    return _drawing(whole, named, max_edges, side_by_side, title, width).dot


def _together(circuits: Mapping[str, Circuit], across_checkpoints: bool) -> tuple[Circuit, Mapping[str, Circuit]]:
    """The union, and the circuits with their names."""
    named = named_circuits(circuits, at_least=2)
    require_comparable(named, across_checkpoints=across_checkpoints)
    if len(named) > len(_OWN):
        raise ConfigurationError(f"a drawing tells at most {len(_OWN)} circuits apart; got {len(named)}")
    ablation = next(iter(named.values())).ablation
    return union(*named.values(), ablation=ablation, across_checkpoints=across_checkpoints), named


def _drawing(
    whole: Circuit, named: Mapping[str, Circuit], most: int, side_by_side: bool, title: str, width: float | None
) -> Drawing:
    circuits = list(named.values())
    strengths = shared_strengths(whole, circuits)
    chosen = strongest_edges(whole, most, strengths=strengths, classes=kept_by(whole, circuits))
    key = "the wider, the larger the score as a share of its circuit's largest"
    return drawing_of_classes(
        whole, chosen, _classes(whole, named, chosen), strengths, key=key, side_by_side=side_by_side, title=title,
        width=width,
    )  # fmt: skip


def drawing_of_classes(
    whole: Circuit,
    chosen: list[int],
    classes: list[EdgeClass],
    strengths: np.ndarray,
    *,
    key: str,
    side_by_side: bool = False,
    title: str = "",
    width: float | None = None,
) -> Drawing:
    """A circuit whose edges are of classes, each with a colour and a line of its own.

    Args:
        whole: The circuit.
        chosen: Which of its edges are drawn.
        classes: The classes; those without edges are left out.
        strengths: How wide each edge is `[kept]`.
        key: What the widths say.
        side_by_side: A panel for each class instead of one picture.
        title: Above the drawing.
        width: At most so many inches wide.
    """
    classes = [one for one in classes if one.n_edges]
    thick = dict(zip(chosen, line_widths(strengths[chosen]).tolist(), strict=True))
    lines = ["digraph circuits {", *page_settings(len(chosen), width), "  newrank=true; compound=true;"]
    shown = key if len(set(strengths[chosen].tolist())) > 1 else ""
    lines.append(_legend(title, whole, classes, shown, width))
    if side_by_side:
        lines += _panels(whole, [one for one in classes if one.places], thick)
    else:
        lines += _overlay(whole, classes, thick)
    dot_text = "\n".join([*lines, "}", ""])
    return Drawing(dot=dot_text, n_drawn=len(chosen), n_edges=len(whole))


@overload
def draw_membership(
    circuits: Mapping[str, Circuit],
    path: None = None,
    *,
    max_edges: int | None = None,
    side_by_side: bool = False,
    title: str = "",
    across_checkpoints: bool = False,
    width: str | float | None = None,
) -> Drawing: ...
@overload
def draw_membership(
    circuits: Mapping[str, Circuit],
    path: str | Path,
    *,
    max_edges: int | None = None,
    side_by_side: bool = False,
    title: str = "",
    across_checkpoints: bool = False,
    width: str | float | None = None,
) -> Path: ...
def draw_membership(
    circuits: Mapping[str, Circuit],
    path: str | Path | None = None,
    *,
    max_edges: int | None = None,
    side_by_side: bool = False,
    title: str = "",
    across_checkpoints: bool = False,
    width: str | float | None = None,
) -> Drawing | Path:
    """Draw several circuits, their edges coloured by which of them keep them, for a notebook or into a file.

    Args:
        circuits: Two to five circuits of one universe, by name.
        path: Where to; the suffix says what: `.dot`, `.pdf`, `.svg` or `.png`.
        max_edges: Above this many edges in the union only the strongest of each class are drawn, and the drawing
            says so.
        side_by_side: A panel for each class of edges instead of one picture.
        title: Above the drawing.
        across_checkpoints: Allow other weights or another model of the same universe.
        width: At most so wide, as in `analysis.drawing.draw`.

    Returns:
        The path; without one a drawing, which a notebook shows and which has `.dot`, `.svg` and `.save(path)`.

    Raises:
        ConfigurationError: Fewer than two circuits, or more than there are colours for.
        GraphMismatchError: The circuits are of different universes or models.
        UnknownNameError: No such suffix.
        RenderingError: Graphviz is missing or failed; `.dot` never needs it.
        OutputError: The file cannot be written.

    Examples:
        >>> from circuitgraph.graph.universe import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> one = Circuit.from_edges(universe, ["input->logits", "input->m0", "m0->logits"])
        >>> drawing = draw_membership({"one": one, "other": Circuit.from_edges(universe, ["input->logits"])})
        >>> "only one: 2 edges" in drawing.dot
        True
    """
    wide = None if width is None else inches(width)
    whole, named = _together(circuits, across_checkpoints)

    def make(most: int) -> Drawing:
        return _drawing(whole, named, most, side_by_side, title, wide)

    drawing = make(max_edges or 150) if wide is None else fit(make, wide, usual=150, wanted=max_edges)
    return drawing if path is None else say(drawing).save(path)


def _classes(whole: Circuit, circuits: Mapping[str, Circuit], chosen: list[int]) -> list[EdgeClass]:
    """Every class of edges, those that all share first."""
    kept = np.stack([np.isin(whole.edge_ids, circuit.edge_ids) for circuit in circuits.values()])
    count, drawn = kept.sum(0), np.isin(np.arange(len(whole)), chosen)

    def of(title: str, look: tuple[str, str], members: np.ndarray) -> EdgeClass:
        places = np.flatnonzero(members & drawn).tolist()
        return EdgeClass(title=title, color=look[0], line=look[1], places=places, n_edges=int(members.sum()))

    classes = [of("shared by all", _SHARED, count == len(kept))]
    for name, look, mine in zip(circuits, _OWN, kept, strict=False):
        classes.append(of(f"only {name}", look, mine & (count == 1)))
    return [*classes, of("shared by some", _SOME, (count > 1) & (count < len(kept)))]


# -------------------------------------------------------------------- pictures


def _overlay(whole: Circuit, classes: list[EdgeClass], widths: Mapping[int, float]) -> list[str]:
    places = sorted(place for one in classes for place in one.places)
    look = {place: one for one in classes for place in one.places}
    nodes = _nodes(whole, places)
    lines = node_rows(whole.universe, {"": nodes})
    lines += [_edge(whole, place, look[place], widths[place], "", nodes) for place in places]
    return lines + group_lines(whole.universe, nodes, "")


def _panels(whole: Circuit, classes: list[EdgeClass], widths: Mapping[int, float]) -> list[str]:
    """A cluster for each class; the rows of layers run through all of them."""
    lines, panels = [], {}
    for number, one in enumerate(classes):
        prefix = f"panel {number}/"
        nodes = _nodes(whole, one.places)
        panels[prefix] = nodes
        lines.append(f"  subgraph {quoted(f'cluster_{number}')} {{")
        label = html_text(f"{one.title}: {_edges_text(one)}", 2 * _LONGEST)
        lines.append(f'    label=<<B>{label}</B>>; fontcolor="{one.color}"; color="{FAINT}"; style=rounded; margin=10;')
        lines += [f"    {node_line(name, prefix)}" for name in sorted(nodes)]
        lines += ["  " + _edge(whole, place, one, widths[place], prefix, nodes) for place in one.places]
        lines += ["  " + line for line in group_lines(whole.universe, nodes, prefix)]
        lines.append("  }")
    return lines + node_rows(whole.universe, panels, declare=False)


def _nodes(whole: Circuit, places: list[int]) -> set[str]:
    modules = _modules(whole, places)
    return modules | {end_of(whole.universe, whole.edges[place][1], modules) for place in places}


def _modules(whole: Circuit, places: list[int]) -> set[str]:
    """Nodes at the ends of some edges, but for groups of heads that share a key and value."""
    ends = [module_of(whole.universe, end) for place in places for end in whole.edges[place]]
    return {end for end in ends if not heads_of_group(whole.universe, end)}


def _edge(whole: Circuit, place: int, one: EdgeClass, width: float, prefix: str, nodes: set[str]) -> str:
    source, reader = whole.edges[place]
    end = end_of(whole.universe, reader, nodes)
    tooltip = quoted(f"{source}->{reader}  {one.title}")
    return (
        f'  {quoted(prefix + source)} -> {quoted(prefix + end)} [color="{one.color}", style={one.line}, '
        f"arrowhead={EDGE_STYLES[whole.kinds[place]].arrow}, penwidth={width:.2f}, tooltip={tooltip}];"
    )


# -------------------------------------------------------------------- legend


def _edges_text(one: EdgeClass) -> str:
    drawn = f"{len(one.places):,} of " if len(one.places) < one.n_edges else ""
    return f"{drawn}{one.n_edges:,} edge{'s' * (one.n_edges != 1)}"


def _legend(title: str, whole: Circuit, classes: list[EdgeClass], key: str, width: float | None) -> str:
    """The graph's label: title, what is drawn, and a sample of each class's line."""
    n_drawn = sum(len(one.places) for one in classes)
    rows = [f'<B><FONT POINT-SIZE="{TITLE_SIZE}">{row}</FONT></B>' for row in wrapped([title] if title else [], width)]
    if n_drawn < len(whole):
        told = f"{n_drawn:,} of {len(whole):,} edges drawn (the strongest of each colour, joined to input and logits)"
        rows += wrapped([told], width)
    samples = {
        f"{one.title}: {_edges_text(one)}": f'<TD SIDES="B" BORDER="1" STYLE="{one.line}" COLOR="{one.color}">'
        f'<FONT COLOR="{one.color}">'
        f"{html_text(f'{one.title}: {_edges_text(one)}', 2 * _LONGEST)}</FONT></TD>"
        for one in classes
    }
    rows += sample_rows(samples, width)
    arrows = "; ".join(
        f"{EDGE_STYLES[kind].glyph} {EDGE_STYLES[kind].label}" for kind in ("q", "k", "v") if kind in whole.kinds
    )
    keys = [f"arrows: {arrows}"] if arrows else []
    keys += [key] if key else []
    nodes = {module_of(whole.universe, end) for one in classes for place in one.places for end in whole.edges[place]}
    rows += shape_rows(whole.universe, nodes, keys, width)
    return page_label(rows)
