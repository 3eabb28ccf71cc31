"""The README runs as it stands, on fewer prompts and with fewer steps; the front page has the same lines."""

from __future__ import annotations

import functools
import inspect
import re
from pathlib import Path

import pytest
import yaml

import analysis
import pruning
from circuitgraph import Circuit, Universe, __version__
from pruning.runs.run import RunChoices
from tests.doc_pages import DOCS, ROOT, python_blocks, run_script


@pytest.fixture
def shortened(monkeypatch, tmp_path):
    """`discover` and `load_task` as a reader calls them, but small; and the saved circuits that a block reads."""
    from pruning.runs.discover import discover
    from pruning.tasks import load_task

    recipe = pruning.recipe_named("quick").changed(steps=2, batch_size=2, warm_start="none", init_mean=2.0)
    small = functools.partial(discover, recipe=recipe, n_random=1, n_effects=0)
    few = {"train": 4, "validation": 1, "test": 1}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pruning, "discover", small, raising=False)
    monkeypatch.setattr(pruning, "load_task", functools.partial(load_task, sizes=few), raising=False)
    universe = Universe(family="llama", n_layers=6, n_heads=2, n_kv_heads=1)
    edges = ["input->m0", "m0->a5.h0<q>", "m0->a5.kv0<v>", "a5.h0->logits", "m0->logits", "input->logits"]
    for seed, kept in enumerate((edges, edges[:5])):
        Path(f"runs/seed{seed}").mkdir(parents=True)
        Circuit.from_edges(universe, kept).save(f"runs/seed{seed}/circuit.json")


def test_the_settings_that_are_shortened_are_settings():
    assert "recipe" in inspect.signature(pruning.discover).parameters
    assert {"n_random", "n_effects"} <= RunChoices.__annotations__.keys()
    assert "sizes" in inspect.signature(pruning.load_task).parameters


@pytest.mark.slow
def test_the_readmes_blocks_run(shortened, monkeypatch):
    drawn = []
    monkeypatch.setattr(analysis, "draw", lambda circuit, path: drawn.append((circuit, path)), raising=False)
    assert run_script(ROOT / "README.md") == 3
    ((circuit, path),) = drawn
    assert isinstance(circuit, Circuit)
    assert path == "ioi.pdf"


def test_the_front_page_has_the_readmes_six_lines():
    (block,) = python_blocks(DOCS / "index.md")
    assert block.body == python_blocks(ROOT / "README.md")[0].body


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_within_the_repository_lead_somewhere(name):
    text = (ROOT / name).read_text()
    links = re.findall(r"\]\(([^)#]+)[^)]*\)|src=\"([^\"]+)\"", text)
    local = [link for pair in links for link in pair if link and "://" not in link]
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_pages_that_the_code_names_are_there():
    named = {
        (path.relative_to(ROOT).as_posix(), page)
        for package in ("circuitgraph", "pruning", "analysis")
        for path in (ROOT / package).rglob("*.py")
        for page in re.findall(r"docs/[\w./-]+?\.md", path.read_text())
    }
    assert len(named) > 10
    assert sorted((path, page) for path, page in named if not (ROOT / page).exists()) == []


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0"
