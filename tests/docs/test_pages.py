"""Every page runs: plain pages as sessions, notebooks cell by cell, and commands as far as their options go."""

from __future__ import annotations

import ast
import doctest
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.doc_pages import (
    DOCS,
    ROOT,
    all_pages,
    blocks_of,
    is_notebook,
    notebook_cells,
    python_blocks,
    run_notebook,
    run_page,
    run_script,
)

# Pages that a test of their own runs, because they need something of their own.
ELSEWHERE = {
    "explanations/cache.md": "tests/pruning/frozen/test_cache_page.py",
    "index.md": "tests/docs/test_readme.py",
}
PAGES = [page for page in all_pages() if page.relative_to(DOCS).as_posix() not in ELSEWHERE]
PLAIN = [page for page in PAGES if not is_notebook(page) and python_blocks(page)]
NOTEBOOKS = [page for page in PAGES if is_notebook(page)]
# Steps of a training on a notebook's page.
FEW_STEPS = 24


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """A page works in a folder of its own, and leaves random state, figures and known tasks as they were."""
    import matplotlib
    import torch

    from pruning.tasks import task_names
    from pruning.tasks.registry import unregister_task

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIRCUITGRAPH_FROZEN_CACHE", str(tmp_path / "frozen"))
    tasks = set(task_names())
    with matplotlib.rc_context(), torch.random.fork_rng(devices=[]):
        matplotlib.use("Agg", force=True)
        yield
        import matplotlib.pyplot as plt

        plt.close("all")
    for name in set(task_names()) - tasks:
        unregister_task(name)


@pytest.mark.slow
@pytest.mark.parametrize("page", PLAIN, ids=name_of)
def test_a_plain_page_runs(page):
    if any(">>>" in block.body for block in python_blocks(page)):
        assert run_page(page.relative_to(DOCS).as_posix(), flags=doctest.ELLIPSIS)[1] > 0
    else:
        assert run_script(page) > 0


@pytest.fixture
def shortened(monkeypatch):
    """Trainings end after a few steps. `make docs` runs them whole, for the pictures; here no result is compared."""
    from pruning.methods.edge_pruning.recipe import Recipe

    whole = Recipe.changed

    def changed(recipe: Recipe, **changes: Any) -> Recipe:
        steps = min(FEW_STEPS, changes.get("steps") or recipe.steps)
        return whole(recipe, **{**changes, "steps": steps})

    monkeypatch.setattr(Recipe, "changed", changed)


@pytest.mark.slow
@pytest.mark.usefixtures("shortened")
@pytest.mark.parametrize("page", NOTEBOOKS, ids=name_of)
def test_a_notebook_runs(page):
    assert run_notebook(page) > 0


@pytest.mark.usefixtures("shortened")
def test_the_trainings_of_a_notebook_are_shortened():
    from pruning import recipe_named

    assert recipe_named("quick").changed(steps=400, batch_size=8).steps == FEW_STEPS
    assert recipe_named("quick").changed(steps=5).steps == 5


def names_only_hidden_cells_have(page: Path) -> set[str]:
    """What shown cells use and only cells that nobody sees have made: a reader who copies the page lacks it."""
    hidden: set[str] = set()
    shown: set[str] = set()
    lacking: set[str] = set()
    for tags, cell in notebook_cells(page):
        nodes = list(ast.walk(ast.parse(re.sub(r"^(\s*)!.*$", r"\1pass", cell.body, flags=re.MULTILINE))))
        made = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        made |= {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        imports = [alias for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names]
        made |= {(alias.asname or alias.name).split(".")[0] for alias in imports}
        if "remove-cell" in tags:
            hidden |= made
            continue
        shown |= made
        used = {node.id for node in nodes if isinstance(node, ast.Name)}
        lacking |= (used & hidden) - shown
    return lacking


@pytest.mark.parametrize("page", NOTEBOOKS, ids=name_of)
def test_a_reader_who_copies_what_is_shown_lacks_no_name(page):
    assert names_only_hidden_cells_have(page) == set()


def test_a_name_that_only_a_hidden_cell_has_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    cell = "```{code-cell} ipython3\n"
    page.write_text(
        f"{cell}:tags: [remove-cell]\nfrom pathlib import Path\nimport json\n```\n\n"
        f"{cell}import json\n!ls\njson.loads(Path('a').read_text())\n```\n"
    )
    assert names_only_hidden_cells_have(page) == {"Path"}


def test_pages_left_to_other_tests_are_there():
    for page, test in ELSEWHERE.items():
        assert (DOCS / page).exists()
        assert Path(page).name in (ROOT / test).read_text()


def commands_of(page: Path) -> list[tuple[int, list[str]]]:
    """The lines of a page that call the tool, continued lines joined, comments cut off."""
    found = []
    for block in blocks_of(page):
        if block.info not in ("", "console", "bash", "sh"):
            continue
        for number, line in enumerate(block.body.replace("\\\n", " ").splitlines()):
            words = line.strip().removeprefix("$ ").removeprefix("!")
            if words.startswith("circuitgraph ") and "…" not in words and "..." not in words:
                arguments = shlex.split(words, comments=True)[1:]
                end = next((place for place, word in enumerate(arguments) if word in (">", "|", "&&")), None)
                found.append((block.line + number, arguments[:end]))
    return found


@pytest.mark.parametrize("page", [ROOT / "README.md", *all_pages()], ids=name_of)
def test_commands_have_the_options_that_a_page_gives_them(page):
    from typer.main import get_command

    from circuitgraph.cli.app import app

    group = get_command(app)
    for line, words in commands_of(page):
        if words[0].startswith("-") or words[0] == "COMMAND":
            continue
        assert words[0] in group.commands, f"{page}:{line}: no command {words[0]!r}"
        # A usage error names the option.
        group.commands[words[0]].make_context(words[0], words[1:])
