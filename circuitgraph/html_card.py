"""Circuits and compiled models as small cards of HTML, which notebooks show by themselves.

A card takes its colours from the page, so that it is readable in light and dark, and loads nothing from elsewhere.
All names are escaped.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from circuitgraph.provenance import name_in
from circuitgraph.universe import Universe

if TYPE_CHECKING:
    from circuitgraph.circuit import Circuit
    from circuitgraph.compile import CompiledModel

N_EDGES = 10

# HTML has no place for these, and a notebook's file none for lone surrogates.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_CARD = (
    "display:inline-block;border:1px solid currentColor;border-radius:4px;padding:0.6em 0.9em;"
    "font-family:sans-serif;font-size:13px;line-height:1.45;text-align:left"
)
# Old browsers' rules let no colour into a table unless it is told.
_TABLE = "border:0;margin:0.5em 0 0 0;color:inherit;font-size:inherit"
_CELL = "padding:0 0.9em 0 0;border:0;background:transparent;color:inherit;font-size:inherit;text-align:{align}"


def escaped(text: object) -> str:
    """Anything as HTML text on one line.

    Examples:
        >>> escaped('<script>"x"</script>  &')
        '&lt;script&gt;&quot;x&quot;&lt;/script&gt; &amp;'
    """
    return html.escape(" ".join(_FORBIDDEN.sub("\ufffd", str(text)).split()))


def card(title: str, lines: Iterable[str], *tables: str) -> str:
    """A card.

    Args:
        title: Its heading, as plain text.
        lines: Lines below it, as plain text.
        tables: What comes last, as HTML.
    """
    paragraphs = "".join(f'<div style="opacity:0.8">{escaped(line)}</div>' for line in lines)
    heading = f'<div style="font-weight:600">{escaped(title)}</div>'
    return f'<div style="{_CARD}">{heading}{paragraphs}{"".join(tables)}</div>'


def html_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table whose first column is text and whose others are numbers; all of it as plain text.

    Examples:
        >>> html_table(["part", "kept"], [("<a>", 1)]).count("&lt;a&gt;")
        1
    """
    head, body = _row("th", header), "".join(_row("td", row) for row in rows)
    return f'<table style="{_TABLE}"><thead>{head}</thead><tbody>{body}</tbody></table>'


def _row(tag: str, cells: Sequence[object]) -> str:
    styles = (_CELL.format(align="right" if place else "left") for place in range(len(cells)))
    inside = "".join(
        f'<{tag} style="{style}">{escaped(cell)}</{tag}>' for style, cell in zip(styles, cells, strict=True)
    )
    return f"<tr>{inside}</tr>"


def universe_line(universe: Universe) -> str:
    """A universe in words.

    Examples:
        >>> universe_line(Universe(family="llama", n_layers=30, n_heads=9, n_kv_heads=3))
        'llama: 30 layers of 9 heads and 3 key-value heads; 70,651 edges'
        >>> universe_line(Universe(family="gpt2", n_layers=12, n_heads=12, n_kv_heads=12, embeddings="split"))
        'gpt2: 12 layers of 12 heads; embeddings=split; 32,936 edges'
    """
    defaults = {"block_order": "sequential", "embeddings": "joint", "kv_heads": "native", "qkv": "split"}
    choices = [
        f"{name}={getattr(universe, name)}" for name, usual in defaults.items() if getattr(universe, name) != usual
    ]
    groups = f" and {universe.n_kv_heads} key-value heads" if universe.n_kv_heads < universe.n_heads else ""
    sizes = f"{universe.family}: {universe.n_layers} layers of {universe.n_heads} heads{groups}"
    return "; ".join([sizes, *choices, f"{universe.n_edges:,} edges"])


def circuit_card(circuit: Circuit) -> str:
    """A circuit's model, task, sizes with their denominators, and strongest edges.

    Args:
        circuit: The circuit.

    Returns:
        HTML.

    Examples:
        >>> from circuitgraph.circuit import Circuit
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> "Circuit of 2 edges" in circuit_card(Circuit.from_edges(universe, ["input->m0", "m0->logits"]))
        True
    """
    provenance, universe = circuit.provenance, circuit.universe
    model, task = name_in(provenance, "model"), name_in(provenance, "task")
    found = [f"model {model}" if model else "", f"task {task}" if task else "", f"{circuit.ablation} ablation"]
    title = f"Circuit of {len(circuit):,} edge{'s' * (len(circuit) != 1)}"
    return card(title, ["; ".join(filter(None, found)), universe_line(universe)], _sizes(circuit), _strongest(circuit))


def _sizes(circuit: Circuit) -> str:
    universe = circuit.universe
    n_heads, n_mlps = (int((universe.writer_kinds == kind).sum()) for kind in ("head", "mlp"))
    parts = [
        ("edges, raw", circuit.n_raw, universe.n_edges),
        ("edges, effective", len(circuit), universe.n_edges),
        ("heads", len(circuit.heads), n_heads),
        ("MLPs", len(circuit.mlps), n_mlps),
    ]
    rows = [(name, f"{kept:,}", f"{total:,}", f"{100 * (1 - kept / total):.2f} %") for name, kept, total in parts]
    return html_table(["", "kept", "of", "sparsity"], rows)


def _strongest(circuit: Circuit) -> str:
    places = np.argsort(-circuit.strengths, kind="stable")[:N_EDGES].tolist()
    if not places:
        return ""
    rows = [("->".join(circuit.edges[at]), circuit.kinds[at], f"{circuit.scores[at]:.4g}") for at in places]
    first = "edge" if len(places) == len(circuit) else f"strongest {len(places)} edges"
    return html_table([first, "kind", "score"], rows)


def model_card(compiled: CompiledModel) -> str:
    """A compiled model's name, universe, and what may be learnt of it.

    Args:
        compiled: The model.

    Returns:
        HTML.
    """
    universe = compiled.universe
    name = compiled.name if compiled.revision is None else f"{compiled.name}, revision {compiled.revision}"
    rows = [
        ("edges", f"{universe.n_edges:,}"),
        ("edges removed", f"{compiled.gate_map.n_removed:,}"),
        ("edges frozen", f"{compiled.gate_map.n_frozen:,}"),
        ("gates", f"{compiled.gate_map.n_parameters:,}"),
        ("writers", f"{universe.n_writers:,}"),
        ("readers", f"{universe.n_readers:,}"),
    ]
    return card(f"Compiled model {name}", [universe_line(universe)], html_table(["", "number"], rows))
