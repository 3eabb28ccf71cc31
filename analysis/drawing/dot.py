"""A circuit as DOT text: layers as ranks, heads in order, the input at the bottom and the logits at the top.

Edges end at the head, MLP or logits that they feed. A key and value reader that several drawn heads share
(grouped attention) is a small node of its own below them; structural edges are otherwise not drawn.
`analysis.drawing.render` turns the text into a picture.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from analysis.drawing.caption import facts, title
from analysis.drawing.diagram import Drawing
from analysis.drawing.effects import effect_of
from analysis.drawing.escaping import html_text, quoted, xml_text
from analysis.drawing.selection import strongest_edges
from analysis.drawing.style import (
    EDGE_STYLES,
    FAINT,
    FONT,
    FONT_SIZE,
    INK,
    NODE_STYLES,
    SMALL_FONT_SIZE,
    SOFT,
    TITLE_SIZE,
    line_widths,
)
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.strength import strength_name
from circuitgraph.graph.node_names import node_kind, node_layer, node_span
from circuitgraph.graph.spans import SPAN_MARK
from circuitgraph.graph.universe import Universe

# Above this many edges the layout looks for a good order of the nodes less long.
_HASTY = 300
# Inches: captions are broken at the width of a page's text unless a width is given.
_USUAL_WIDTH = 5.5
_SHAPES = {
    "head": "oval a3.h7: head 7 of layer 3, heads in order from left to right",
    "mlp": "violet box m3: MLP of layer 3",
    "embedding": "grey box: input or logits",
    "vector": "yellow box v@3: a vector that is added before layer 3",
    "group": "small kv box: a key and value shared by a group of heads",
}
_SPANS_READ = f"behind {SPAN_MARK}: the span, in the order {{}}; an edge is read at the span where it begins"
_GROUP_OF_SPAN = "small kv box: a key and value of its span that several heads read, there or at spans behind"


def circuit_to_dot(
    circuit: Circuit,
    *,
    max_edges: int = 150,
    effects: Mapping[str, Mapping[str, Any]] | None = None,
    width: float | None = None,
) -> str:
    """Write a circuit as DOT.

    Args:
        circuit: The circuit.
        max_edges: Above this many edges only the strongest are drawn, and the drawing says so.
        effects: What cutting each edge alone costs, from `analysis.drawing.effects.read_effects`: edges are chosen
            by it and as wide as it is large, in place of the score.
        width: At most so many inches wide; what is wider is scaled down, with its text.

    Returns:
        DOT text.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> dot = circuit_to_dot(Circuit.from_edges(universe, ["input->m0", "m0->logits"]))
        >>> '"input" -> "m0"' in dot
        True
    """
    return circuit_drawing(circuit, max_edges=max_edges, effects=effects, width=width).dot


def circuit_drawing(
    circuit: Circuit,
    *,
    max_edges: int,
    effects: Mapping[str, Mapping[str, Any]] | None = None,
    width: float | None = None,
) -> Drawing:
    """A circuit's drawing, which knows how many edges it shows; arguments as in `circuit_to_dot`."""
    costs = None if effects is None else _costs(circuit, effects)
    strengths = circuit.strengths if costs is None else np.nan_to_num(costs).clip(min=0)
    places = strongest_edges(circuit, max_edges, strengths=strengths)
    edges = [circuit.edges[place] for place in places]
    kinds = [circuit.kinds[place] for place in places]
    writers = {source for source, _ in edges}
    ends = {reader: end_of(circuit.universe, reader, writers) for _, reader in edges}
    drawn = writers | set(ends.values())
    shown = strengths[places]
    keys = [_width_key(circuit, shown, None if costs is None else costs[places])]
    lines = ["digraph circuit {", *page_settings(len(places), width), _legend(circuit, kinds, drawn, keys, width)]
    lines += node_rows(circuit.universe, {"": drawn})
    for place, (source, reader), kind, thick in zip(places, edges, kinds, line_widths(shown), strict=True):
        told = f"{scores_text(circuit, place)}{'' if costs is None else _cost_text(costs[place])}"
        lines.append(_edge(source, reader, ends[reader], kind, told, float(thick)))
    lines += group_lines(circuit.universe, drawn)
    return Drawing(dot="\n".join([*lines, "}", ""]), n_drawn=len(places), n_edges=len(circuit))


def scores_text(circuit: Circuit, place: int) -> str:
    """An edge's score, as a tooltip has it."""
    return f"{circuit.scores[place]:.4g}"


def _costs(circuit: Circuit, effects: Mapping[str, Mapping[str, Any]]) -> np.ndarray:
    """The rise in KL when each edge alone is cut from the circuit `[kept]`, NaN where it was not measured."""
    costs = [effect_of(effects.get(name)) for name in circuit]
    return np.array([np.nan if cost is None else cost for cost in costs], dtype=np.float64)


def _cost_text(cost: float) -> str:
    return "; effect not measured" if np.isnan(cost) else f"; cut alone: KL {cost:+.4g}"


def _width_key(circuit: Circuit, shown: np.ndarray, costs: np.ndarray | None) -> str:
    """What the widths of lines say."""
    if costs is not None:
        n = int(np.isfinite(costs).sum())
        rest = f" ({n:,} of {len(costs):,} drawn edges measured, the others thinnest)" if n < len(costs) else ""
        return f"the wider, the more KL rises when that edge alone is cut from the circuit{rest}"
    if len(set(shown.tolist())) > 1:
        return f"the wider, the larger the {strength_name(circuit.score_meaning)}"
    return ""


def end_of(universe: Universe, reader: str, writers: set[str]) -> str:
    """The node at which edges into a reader end in a drawing.

    Args:
        universe: The universe.
        reader: A reader, such as `a3.kv1<k>`.
        writers: The drawn writers.

    Returns:
        The head, MLP or logits that the reader feeds; the group, such as `a3.kv1`, if it feeds several drawn
        heads.

    Examples:
        >>> universe = Universe(family="llama", n_layers=1, n_heads=4, n_kv_heads=2)
        >>> end_of(universe, "a0.kv1<k>", {"a0.h2", "a0.h3"}), end_of(universe, "a0.kv1<k>", {"a0.h3"})
        ('a0.kv1', 'a0.h3')
    """
    name = module_of(universe, reader)
    heads = [head for head in heads_of_group(universe, name) if head in writers]
    return heads[0] if len(heads) == 1 else name


def module_of(universe: Universe, end: str) -> str:
    """The head, MLP, input or logits at an end of an edge; of a key or value that heads of several spans read, a group.

    Args:
        universe: The universe.
        end: A writer or reader, such as `a3.h1<k>@subject`, which is `a3.kv1@subject`.
    """
    name, port, rest = end.partition("<")
    if not universe.spans or not port:
        return name
    kind, _, span = rest.partition(f">{SPAN_MARK}")
    return f"{name}{SPAN_MARK}{span}" if kind == "q" else f"{name.replace('.h', '.kv')}{SPAN_MARK}{span}"


def heads_of_group(universe: Universe, name: str) -> list[str]:
    """The heads of a group such as `a3.kv1`; none for any other node.

    With spans, those that read a key and value of one span such as `a3.kv1@subject`, at that span or behind it.
    """
    node, _, span = name.partition(SPAN_MARK)
    module, dot, number = node.partition(".kv")
    if not dot:
        return []
    size = 1 if span and not universe.grouped else universe.group_size
    heads = [f"{module}.h{head}" for head in range(int(number) * size, (int(number) + 1) * size)]
    if not span:
        return heads
    behind = universe.spans[universe.spans.index(span) :]
    return [f"{head}{SPAN_MARK}{at}" for head in heads for at in behind]


def _is_group(name: str) -> bool:
    return ".kv" in name.partition(SPAN_MARK)[0]


# -------------------------------------------------------------------- rows of nodes


def row_of(universe: Universe, name: str) -> tuple[int, int]:
    """Place of a node in the order of the rows: layer, then vectors, groups, heads, MLP."""
    if _is_group(name):
        return node_layer(name) or 0, 0
    kind = node_kind(name)
    if kind == "vector":
        return node_layer(name) or 0, -1
    if kind == "embedding":
        return -1, 0
    if kind == "logits":
        return universe.n_layers, 0
    return node_layer(name) or 0, 1 if kind == "head" else 2


def node_rows(universe: Universe, panels: Mapping[str, set[str]], *, declare: bool = True) -> list[str]:
    """Nodes of one layer and kind on one row through all panels, with layer labels at the left.

    Args:
        universe: Where the nodes are.
        panels: The nodes drawn in each panel, by what is put before their names there.
        declare: Whether the nodes are declared here; otherwise they are elsewhere, and only put on their rows.

    Returns:
        Lines of DOT; rows are joined invisibly to keep them in order.
    """
    rows: dict[tuple[int, int], list[tuple[str, str]]] = {}
    for prefix, names in panels.items():
        for name in names:
            rows.setdefault(row_of(universe, name), []).append((prefix, name))
    lines: list[str] = []
    anchors: list[str] = []
    labelled: set[int] = set()
    for layer, part in sorted(rows):
        anchors.append(f"row {layer}.{part}")
        # The label belongs beside the heads; a row of groups below them goes without.
        first = layer not in labelled and not (part <= 0 and (layer, 1) in rows)
        text = f"layer {layer}" if first and 0 <= layer < universe.n_layers else ""
        labelled |= {layer} if first else set()
        lines.append("  { rank=same;")
        lines.append(
            f'    {quoted(anchors[-1])} [shape=plaintext, style="", label={quoted(text)}, '
            f'fontcolor="{INK}", fontsize={SMALL_FONT_SIZE}, width=0.42, height=0.1, margin=0];'
        )
        members = sorted(rows[layer, part], key=lambda one: _place_in_row(universe, *one))
        lines += [
            f"    {node_line(name, prefix) if declare else quoted(prefix + name) + ';'}" for prefix, name in members
        ]
        lines += _in_order([*([("", anchors[-1])] if declare else []), *members], len(panels) == 1)
        lines.append("  }")
    return lines + [f"  {quoted(a)} -> {quoted(b)} [style=invis, weight=1000];" for a, b in pairwise(anchors)]


def _place_in_row(universe: Universe, prefix: str, name: str) -> tuple[str, int, int, str]:
    """Nodes of a row stand span by span, then in the order of their numbers."""
    span = node_span(name)
    return prefix, universe.spans.index(span) if span in universe.spans else 0, len(name), name


def _in_order(members: Sequence[tuple[str, str]], is_one_panel: bool) -> list[str]:
    """An invisible line from each to the next keeps heads in the order of their numbers, in each panel."""
    pairs = [(a, b) for a, b in pairwise(members) if is_one_panel or a[0] == b[0]]
    return [f"    {quoted(a[0] + a[1])} -> {quoted(b[0] + b[1])} [style=invis];" for a, b in pairs]


def group_lines(universe: Universe, nodes: set[str], prefix: str = "") -> list[str]:
    """Keys and values shared by a group, joined to its heads.

    Args:
        universe: Where the nodes are.
        nodes: What is drawn.
        prefix: What is put before their names.
    """
    look = f'[color="{FAINT}", arrowhead=none, penwidth=0.6, weight=20]'
    return [
        f"  {quoted(prefix + name)} -> {quoted(prefix + head)} {look};"
        for name in sorted(nodes)
        for head in heads_of_group(universe, name)
        if head in nodes
    ]


def node_line(name: str, place: str = "") -> str:
    """A node in DOT.

    Args:
        name: Its name, which it shows.
        place: Put before its name to tell it from the same node elsewhere in the drawing.
    """
    identity = quoted(place + name)
    if _is_group(name):
        label = quoted(name.partition(".")[2])
        return (
            f'{identity} [label={label}, tooltip={quoted(name)}, shape=box, style="rounded,filled", '
            f'fillcolor="#F7F7F7", color="{FAINT}", fontsize={SMALL_FONT_SIZE}, width=0.2, height=0.13, '
            f'margin="0.02,0.01"];'
        )
    style = NODE_STYLES[node_kind(name)]
    return (
        f"{identity} [label={quoted(name)}, tooltip={quoted(name)}, shape={style.shape}, "
        f'fillcolor="{style.fill}", color="{style.border}"];'
    )


def _edge(source: str, reader: str, end: str, kind: str, told: str, width: float) -> str:
    style = EDGE_STYLES[kind]
    tooltip = quoted(f"{source}->{reader}  {told}")
    return (
        f'  {quoted(source)} -> {quoted(end)} [color="{style.color}", style={style.line}, '
        f"arrowhead={style.arrow}, penwidth={width + style.extra_width:.2f}, tooltip={tooltip}];"
    )


# -------------------------------------------------------------------- page and legend


def page_settings(n_edges: int = 0, width: float | None = None) -> list[str]:
    """How the page, nodes and edges look unless they say otherwise.

    Args:
        n_edges: How many edges there are; for many, the layout is sought less long.
        width: At most so many inches wide.
    """
    node = 'style=filled, penwidth=0.7, height=0.17, width=0.3, margin="0.03,0.015"'
    hasty = " nslimit=1; nslimit1=1; mclimit=0.3;" if n_edges > _HASTY else ""
    size = f' size="{width:g},1000";' if width else ""
    return [
        f"  rankdir=BT; nodesep=0.05; ranksep=0.2; splines=true; outputorder=edgesfirst; remincross=true;{hasty}{size}",
        "  bgcolor=white; margin=0; pad=0.05; labelloc=t; labeljust=c;",
        f'  fontname="{FONT}"; fontcolor="{INK}"; fontsize={FONT_SIZE};',
        f'  node [fontname="{FONT}", fontsize={FONT_SIZE}, fontcolor="{INK}", {node}];',
        f'  edge [fontname="{FONT}", arrowsize=0.4];',
    ]


def _legend(circuit: Circuit, kinds: list[str], drawn: set[str], keys: list[str], width: float | None) -> str:
    """The graph's label, which Graphviz keeps clear of the drawing: caption, samples of lines, and shapes."""
    rows = [
        f'<B><FONT POINT-SIZE="{TITLE_SIZE}">{row}</FONT></B>' for row in wrapped([title(circuit)], width, TITLE_SIZE)
    ]
    rows += wrapped(facts(circuit, len(kinds)), width)
    rows += sample_rows({_sample_text(kind): _sample(kind) for kind in EDGE_STYLES if kind in kinds}, width)
    rows += shape_rows(circuit.universe, drawn, keys, width)
    return page_label(rows)


def wrapped(lines: Sequence[str], width: float | None, size: float = FONT_SIZE) -> list[str]:
    """Lines of plain text as rows of a label, broken where they are wider than the page.

    Args:
        lines: Plain text.
        width: Of the page, in inches; by default that of a page's text.
        size: Of the letters, in points, half as wide as high.
    """
    limit = max(20, int(72 * (width or _USUAL_WIDTH) / (0.52 * size)))
    return [html_text(part, limit + 1) for line in lines for part in textwrap.wrap(xml_text(line), limit)]


def sample_rows(samples: Mapping[str, str], width: float | None) -> list[str]:
    """Samples of lines side by side, as many to a row as there is room for.

    Args:
        samples: Cells of a table, by their text.
        width: Of the page, in inches.
    """
    rows: list[list[str]] = []
    room = used = 72 * (width or _USUAL_WIDTH)
    for text, cell in samples.items():
        needed = 0.6 * FONT_SIZE * len(text) + 12
        if used + needed > room:
            rows.append([])
            used = 0.0
        rows[-1].append(cell)
        used += needed
    return [f'<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="4"><TR>{"".join(cells)}</TR></TABLE>' for cells in rows]


def shape_rows(universe: Universe, drawn: set[str], keys: Sequence[str], width: float | None) -> list[str]:
    """What shapes and widths say, in small print.

    Args:
        universe: The universe.
        drawn: Names of the nodes drawn.
        keys: What else there is to say.
        width: Of the page, in inches.
    """
    texts = _SHAPES | ({"group": _GROUP_OF_SPAN} if universe.spans else {})
    shapes = [text for kind, text in texts.items() if any(_kind_of(universe, name) == kind for name in drawn)]
    spans = [_SPANS_READ.format(", ".join(universe.spans))] if universe.spans else []
    told = "; ".join([*shapes, *spans, *filter(None, keys)])
    return [f'<FONT COLOR="{SOFT}">{row}</FONT>' for row in wrapped([told] if told else [], width)]


def _kind_of(universe: Universe, name: str) -> str:
    return "group" if heads_of_group(universe, name) else node_kind(name)


def page_label(rows: Sequence[str]) -> str:
    """The graph's label: rows of HTML, one below the other; without any, no label."""
    table = "".join(f"<TR><TD>{row}</TD></TR>" for row in rows)
    return (
        f'  label=<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="1">{table}</TABLE>>;' if rows else ""
    )


def _sample_text(kind: str) -> str:
    return f"{EDGE_STYLES[kind].glyph} {EDGE_STYLES[kind].label}".strip()


def _sample(kind: str) -> str:
    style = EDGE_STYLES[kind]
    return (
        f'<TD SIDES="B" BORDER="1" STYLE="{style.line}" COLOR="{style.color}">'
        f'<FONT COLOR="{style.color}">{_sample_text(kind)}</FONT></TD>'
    )
