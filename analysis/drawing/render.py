"""DOT text to PDF, SVG or PNG, by the `dot` program, or by the Graphviz inside pygraphviz's wheel.

Either runs as a process of its own: a layout of thousands of edges takes minutes, and no signal reaches Graphviz
while it lays out. A process can be ended, by Ctrl-C or when its time is up.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import subprocess
import sys

from circuitgraph.errors import RenderingError

FORMATS = ("pdf", "svg", "png")
PNG_DPI = 200
SLOW_EDGES = 500
"""Above this many edges a layout may take minutes: 300 take about 1 s, 600 some 3 s, 1,200 some 20 s."""

TIME_LIMIT_S = 900.0

# What the child runs: stdin to stdout, with the search path of this process and the default answer to Ctrl-C.
_CHILD = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.path[:] = json.loads(sys.argv[1])
import pygraphviz
text = sys.stdin.buffer.read().decode()
drawn = pygraphviz.AGraph(string=text).draw(format=sys.argv[2], prog="dot", args=sys.argv[3])
sys.stdout.buffer.write(drawn or b"")
"""


def render(dot_text: str, file_format: str, *, time_limit_s: float = TIME_LIMIT_S) -> bytes:
    """Lay out and draw DOT text.

    Args:
        dot_text: A graph in DOT.
        file_format: `pdf`, `svg` or `png`.
        time_limit_s: Seconds after which the layout is ended.

    Returns:
        The file's content.

    Raises:
        RenderingError: Neither `dot` nor pygraphviz is there, Graphviz failed, or it took longer than the limit.
    """
    n_edges = dot_text.count(" -> ")
    if n_edges > SLOW_EDGES:
        logging.getLogger(__name__).warning(
            "laying out %s lines: this may take minutes; Ctrl-C ends it, and fewer edges are drawn with "
            "--max-edges 150 (max_edges=150)",
            f"{n_edges:,}",
        )
    command = _command(file_format)
    try:
        done = subprocess.run(command, input=dot_text.encode(), capture_output=True, timeout=time_limit_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise RenderingError(
            f"Graphviz had not laid out {n_edges:,} lines after {time_limit_s:g} s and was ended; draw fewer edges "
            "(--max-edges 150, max_edges=150), or write .dot"
        ) from error
    except OSError as error:
        raise RenderingError(f"Graphviz could not draw the circuit: {error}") from error
    if done.returncode or not done.stdout:
        told = done.stderr.decode(errors="replace").strip().splitlines()
        reason = told[-1] if told else f"it ended with status {done.returncode}"
        raise RenderingError(
            f"Graphviz could not draw the circuit: {reason}; draw fewer edges (--max-edges) or write .dot"
        )
    return done.stdout


def _command(file_format: str) -> list[str]:
    dpi = f"-Gdpi={PNG_DPI}" if file_format == "png" else ""
    program = shutil.which("dot")
    if program:
        return [program, f"-T{file_format}", *([dpi] if dpi else [])]
    if not _has_pygraphviz():
        raise RenderingError(
            f"drawing {file_format} needs Graphviz: install the `dot` program, or `pip install pygraphviz` "
            "(its wheel holds Graphviz); writing .dot needs neither"
        )
    return [sys.executable, "-c", _CHILD, json.dumps(sys.path), file_format, dpi]


def _has_pygraphviz() -> bool:
    try:
        return importlib.util.find_spec("pygraphviz") is not None
    except (ImportError, ValueError):
        return False
