"""A circuit as DOT text: layers as ranks, the input at the bottom and the logits at the top.

Edges end at the head, MLP or logits that they feed. A key and value reader that several drawn heads share
(grouped attention) is a small node of its own below them; structural edges are otherwise not drawn.
`analysis.drawing.render` turns the text into a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from analysis.drawing.caption import facts, title
from analysis.drawing.escaping import html_text, quoted
from analysis.drawing.selection import strongest_edges
from analysis.drawing.style import EDGE_STYLES, FAINT, FONT, INK, NODE_STYLES, line_widths
from circuitgraph.circuit import Circuit
from circuitgraph.universe import Universe, node_kind, node_layer


def circuit_to_dot(circuit: Circuit, *, max_edges: int = 150) -> str:
    """Write a circuit as DOT.

    Args:
        circuit: The circuit.
        max_edges: Above this many edges only the strongest are drawn, and the drawing says so.

    Returns:
        DOT text.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> dot = circuit_to_dot(Circuit.from_edges(universe, ["input->m0", "m0->logits"]))
        >>> '"input" -> "m0"' in dot
        True
    """
    places = strongest_edges(circuit, max_edges)
    edges = [circuit.edges[place] for place in places]
    kinds = [circuit.kinds[place] for place in places]
    scores = circuit.scores[places]
    writers = {source for source, _ in edges}
    ends = {reader: end_of(circuit.universe, reader, writers) for _, reader in edges}
    drawn = writers | set(ends.values())
    has_groups = any(heads_of_group(circuit.universe, name) for name in drawn)
    lines = ["digraph circuit {", *page_settings(), _legend(circuit, kinds, abs(scores).tolist(), has_groups)]
    lines += node_rows(circuit.universe, {"": drawn})
    for (source, reader), kind, score, width in zip(edges, kinds, scores, line_widths(scores), strict=True):
        lines.append(_edge(source, reader, ends[reader], kind, float(score), float(width)))
    lines += group_lines(circuit.universe, drawn)
    return "\n".join([*lines, "}", ""])


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
    name = reader.partition("<")[0]
    heads = [head for head in heads_of_group(universe, name) if head in writers]
    return heads[0] if len(heads) == 1 else name


def heads_of_group(universe: Universe, name: str) -> list[str]:
    """The heads of a group such as `a3.kv1`; none for any other node."""
    module, dot, part = name.partition(".kv")
    if not dot:
        return []
    first = int(part) * universe.group_size
    return [f"{module}.h{head}" for head in range(first, first + universe.group_size)]


# -------------------------------------------------------------------- rows of nodes


def row_of(universe: Universe, name: str) -> tuple[int, int]:
    """Place of a node in the order of the rows: layer, then groups, heads, MLP."""
    if ".kv" in name:
        return node_layer(name) or 0, 0
    kind = node_kind(name)
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
        first = layer not in labelled and not (part == 0 and (layer, 1) in rows)
        text = f"layer {layer}" if first and 0 <= layer < universe.n_layers else ""
        labelled |= {layer} if first else set()
        lines.append("  { rank=same;")
        lines.append(
            f'    {quoted(anchors[-1])} [shape=plaintext, style="", label={quoted(text)}, '
            f'fontcolor="{FAINT}", fontsize=10, width=0.6, height=0.2, margin=0];'
        )
        members = sorted(rows[layer, part], key=lambda one: (one[0], len(one[1]), one[1]))
        lines += [
            f"    {node_line(name, prefix) if declare else quoted(prefix + name) + ';'}" for prefix, name in members
        ]
        lines.append("  }")
    return lines + [f"  {quoted(a)} -> {quoted(b)} [style=invis, weight=1000];" for a, b in pairwise(anchors)]


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
    if ".kv" in name:
        label = quoted(name.partition(".")[2])
        return (
            f'{identity} [label={label}, tooltip={quoted(name)}, shape=box, style="rounded,filled", '
            f'fillcolor="#F7F7F7", color="{FAINT}", fontsize=9, width=0.35, height=0.2, margin="0.04,0.02"];'
        )
    style = NODE_STYLES[node_kind(name)]
    return (
        f"{identity} [label={quoted(name)}, tooltip={quoted(name)}, shape={style.shape}, "
        f'fillcolor="{style.fill}", color="{style.border}"];'
    )


def _edge(source: str, reader: str, end: str, kind: str, score: float, width: float) -> str:
    style = EDGE_STYLES[kind]
    tooltip = quoted(f"{source}->{reader}  {score:.4g}")
    return (
        f'  {quoted(source)} -> {quoted(end)} [color="{style.color}", style={style.line}, '
        f"arrowhead={style.arrow}, penwidth={width + style.extra_width:.2f}, tooltip={tooltip}];"
    )


# -------------------------------------------------------------------- page and legend


def page_settings() -> list[str]:
    """How the page, nodes and edges look unless they say otherwise."""
    node = 'style=filled, penwidth=1, height=0.3, width=0.5, margin="0.06,0.03"'
    return [
        "  rankdir=BT; nodesep=0.14; ranksep=0.38; splines=true; outputorder=edgesfirst; remincross=true;",
        f'  bgcolor=white; pad=0.2; fontname="{FONT}"; fontcolor="{INK}"; labelloc=t; labeljust=c;',
        f'  node [fontname="{FONT}", fontsize=11, fontcolor="{INK}", {node}];',
        f'  edge [fontname="{FONT}", arrowsize=0.55];',
    ]


def _legend(circuit: Circuit, kinds: list[str], scores: list[float], has_groups: bool) -> str:
    """The graph's label, which Graphviz keeps clear of the drawing: caption, and a sample of each line."""
    rows = [f'<B><FONT POINT-SIZE="14">{html_text(title(circuit))}</FONT></B>']
    rows += [html_text(line, 200) for line in facts(circuit, len(kinds))]
    samples = "".join(_sample(kind) for kind in EDGE_STYLES if kind in kinds)
    if samples:
        rows.append(f'<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="6"><TR>{samples}</TR></TABLE>')
    keys = ["the wider, the larger |score|"] if len(set(scores)) > 1 else []
    keys += ["kv: a key and value shared by a group of heads"] if has_groups else []
    if keys:
        rows.append(f'<FONT COLOR="{FAINT}">{html_text("; ".join(keys))}</FONT>')
    return page_label(rows)


def page_label(rows: Sequence[str]) -> str:
    """The graph's label: rows of HTML, one below the other; without any, no label."""
    table = "".join(f"<TR><TD>{row}</TD></TR>" for row in rows)
    return (
        f'  label=<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="2">{table}</TABLE>>;' if rows else ""
    )


def _sample(kind: str) -> str:
    style = EDGE_STYLES[kind]
    return (
        f'<TD SIDES="B" BORDER="2" STYLE="{style.line}" COLOR="{style.color}" WIDTH="60">'
        f'<FONT COLOR="{style.color}">{f"{style.glyph} {style.label}".strip()}</FONT></TD>'
    )
