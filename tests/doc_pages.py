"""Pages as tests: plain pages whose Python blocks run in turn, and notebooks whose cells do.

Every ```` ```python ```` block of a page runs; what is not to be run is `text` or `console`. A page with prompts is a
doctest and prints what it says; one without is a script. A notebook is a page whose front matter says so; its cells
run here in this process, and in a kernel when the site is built.
"""

from __future__ import annotations

import ast
import doctest
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

# Fences may be indented, as in a list.
_FENCE = re.compile(
    r"^(?P<indent> *)(?P<marks>`{3,})(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)(?P=marks)\s*$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block.

    Attributes:
        info: What stands after the opening marks, e.g. `python` or `{code-cell} ipython3`.
        body: Its lines.
        line: The number of its first line in the page.
    """

    info: str
    body: str
    line: int


def all_pages() -> list[Path]:
    """Every page of the site."""
    return sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            info=found["info"].strip(),
            body=re.sub(f"^{found['indent']}", "", found["body"], flags=re.MULTILINE),
            line=text.count("\n", 0, found.start("body")) + 1,
        )
        for found in _FENCE.finditer(text)
    ]


def python_blocks(page: Path) -> list[Block]:
    """The blocks of a page that are Python and no notebook's cells."""
    return [block for block in blocks_of(page) if block.info == "python"]


def is_notebook(page: Path) -> bool:
    """Whether the front matter makes the page a notebook."""
    text = page.read_text(encoding="utf-8")
    if not text.startswith("---\n"):
        return False
    matter = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    return isinstance(matter, dict) and (matter.get("file_format") == "mystnb" or "jupytext" in matter)


def run_page(name: str, *, flags: int = 0) -> tuple[int, int]:
    """Run a page's blocks as one session.

    Args:
        name: The page's file, below `docs/`.
        flags: Options of doctest, beside those for white space.

    Returns:
        How many blocks there are, and how many lines were tried.
    """
    page = DOCS / name
    blocks = [block.body for block in python_blocks(page)]
    test = doctest.DocTestParser().get_doctest("".join(blocks), {}, page.name, str(page), 0)
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | flags)
    runner.run(test, out=told.append)
    assert not runner.failures, "".join(told)
    return len(blocks), runner.tries


def run_script(page: Path) -> int:
    """Run the blocks of a page without prompts, one after the other and in one namespace.

    Returns:
        How many there were.
    """
    names: dict[str, object] = {"__name__": "__page__"}
    blocks = python_blocks(page)
    for block in blocks:
        _run_cell(block, page, names)
    return len(blocks)


def run_notebook(page: Path) -> int:
    """Run the cells of a notebook.

    A cell tagged `raises-exception` has to raise; a line that begins with `!` is a command that has to succeed.

    Returns:
        How many cells there were.
    """
    from IPython.display import display

    names: dict[str, object] = {"__name__": "__main__", "display": display}
    cells = notebook_cells(page)
    for tags, cell in cells:
        try:
            _run_cell(cell, page, names)
        except Exception:
            if "raises-exception" not in tags:
                raise
        else:
            assert "raises-exception" not in tags, f"{page}:{cell.line}: the cell was to raise and did not"
    return len(cells)


def notebook_cells(page: Path) -> list[tuple[list[str], Block]]:
    """The cells of a notebook: the tags of each, and its code without its options."""
    return [_options_and_source(block) for block in blocks_of(page) if block.info.startswith("{code-cell}")]


def _options_and_source(cell: Block) -> tuple[list[str], Block]:
    """The tags of a cell, and its code without its options."""
    body, skipped = cell.body, 0
    options: dict[str, object] = {}
    if body.startswith("---\n"):
        matter, body = body.removeprefix("---\n").split("\n---\n", 1)
        options, skipped = yaml.safe_load(matter) or {}, matter.count("\n") + 3
    else:
        lines = body.splitlines(keepends=True)
        while skipped < len(lines) and re.match(r":[\w-]+:", lines[skipped]):
            name, value = lines[skipped].removeprefix(":").split(":", 1)
            options[name] = yaml.safe_load(value)
            skipped += 1
        body = "".join(lines[skipped:])
    tags = options.get("tags", [])
    return list(tags) if isinstance(tags, list) else [str(tags)], Block(
        info=cell.info, body=body, line=cell.line + skipped
    )


def _run_cell(cell: Block, page: Path, names: dict[str, object]) -> None:
    """Run one cell; errors have the page's own line numbers, and the last expression's picture is drawn."""
    body = re.sub(r"^(\s*)!(.+)$", r"\1__command__(\2)", _quoted_commands(cell.body), flags=re.MULTILINE)
    names["__command__"] = _command
    tree = ast.parse("\n" * (cell.line - 1) + body, filename=str(page))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(page), "exec"), names)
    if isinstance(last, ast.Expr):
        _show(eval(compile(ast.Expression(last.value), str(page), "eval"), names))


def _quoted_commands(body: str) -> str:
    return re.sub(r"^(\s*!)(.+)$", lambda found: found[1] + repr(found[2]), body, flags=re.MULTILINE)


def _command(line: str) -> None:
    """Run a command of a notebook, this environment's programs first on the path."""
    path = str(Path(sys.executable).parent) + os.pathsep + os.environ.get("PATH", "")
    subprocess.run(shlex.split(line), check=True, env={**os.environ, "PATH": path})


def _show(value: object) -> None:
    """Ask for what a notebook would show, since that is code too."""
    for name in ("_repr_html_", "_repr_svg_", "_repr_png_"):
        method = getattr(value, name, None)
        if callable(method):
            method()
