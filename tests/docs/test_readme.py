"""The README and the front page (`index.md`) run as they stand, on fewer prompts and with fewer steps."""

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
from tests.doc_pages import DOCS, ROOT, run_script


@pytest.fixture
def shortened(monkeypatch, tmp_path):
    """`discover` and `load_task` as a reader calls them, but small; and the saved circuits that a block reads."""
    from pruning.discovery import discover
    from pruning.tasks import load_task

    recipe = pruning.recipe_named("quick").changed(steps=2, batch_size=2)
    few = {"train": 4, "validation": 1, "test": 1}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pruning, "discover", functools.partial(discover, recipe=recipe, n_random=1), raising=False)
    monkeypatch.setattr(pruning, "load_task", functools.partial(load_task, sizes=few), raising=False)
    universe = Universe(family="llama", n_layers=6, n_heads=2, n_kv_heads=1)
    edges = ["input->m0", "m0->a5.h0<q>", "m0->a5.kv0<v>", "a5.h0->logits", "m0->logits", "input->logits"]
    for seed, kept in enumerate((edges, edges[:5])):
        Path(f"runs/seed{seed}").mkdir(parents=True)
        Circuit.from_edges(universe, kept).save(f"runs/seed{seed}/circuit.json")


def test_the_settings_that_are_shortened_are_settings():
    assert "recipe" in inspect.signature(pruning.discover).parameters
    assert "sizes" in inspect.signature(pruning.load_task).parameters


@pytest.mark.slow
@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "index.md"], ids=lambda page: page.name)
def test_blocks_run(page, shortened, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(analysis, "draw", lambda circuit, path: drawn.append((circuit, path)), raising=False)
    assert run_script(page) >= 1
    ((circuit, path),) = drawn
    assert isinstance(circuit, Circuit)
    assert path == "ioi.pdf"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_within_the_repository_lead_somewhere(name):
    text = (ROOT / name).read_text()
    links = re.findall(r"\]\(([^)#]+)[^)]*\)|src=\"([^\"]+)\"", text)
    local = [link for pair in links for link in pair if link and "://" not in link]
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0"
