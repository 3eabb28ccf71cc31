"""The reference is complete: every error, every public name, every command and option is on its page."""

from __future__ import annotations

import importlib
import inspect
import re
import sys

import pytest

from circuitgraph import errors
from tests.doc_pages import DOCS, all_pages

REFERENCE = DOCS / "reference"
PACKAGES = ("circuitgraph", "pruning", "analysis", "circuitgraph.extract", "circuitgraph.tracr")


@pytest.fixture
def extensions(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    yield
    for name in ("public_names", "command_line"):
        sys.modules.pop(name, None)


def sections(page: str) -> dict[str, str]:
    parts = re.split(r"^## (.+)$", (REFERENCE / page).read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_error_has_its_causes_and_its_fix():
    ours = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == errors.__name__
    }
    told = sections("errors.md")
    assert set(told) == ours
    for name in ours - {"CircuitGraphError", "CacheWarning"}:
        assert "*Fix*:" in told[name], name


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_on_its_packages_page(package, extensions):
    public_names = importlib.import_module("public_names")
    documented = re.findall(r"^\.\. auto(?:class|function):: (\S+)$", "\n".join(public_names.lines_of(package)), re.M)
    wanted = [name for name in importlib.import_module(package).__all__ if not name.startswith("__")]
    assert sorted(documented) == sorted(f"{package}.{name}" for name in wanted)
    directive = f"{{public-names}} {package}\n"
    assert sum(directive in page.read_text() for page in REFERENCE.glob("*.md")) == 1


def test_every_command_and_option_is_on_the_page(extensions):
    from typer.main import get_command

    from circuitgraph.cli.app import app

    text = "\n".join(importlib.import_module("command_line").whole_program())
    for name, command in get_command(app).commands.items():
        (part,) = re.findall(rf"^## {name}$\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
        for option in command.params:
            shown = option.opts[0] if option.param_type_name == "option" else option.metavar
            assert f"`{shown}`" in part
            assert not option.help or option.help in part


def test_every_term_that_pages_link_to_is_in_the_glossary():
    glossary = (REFERENCE / "glossary.md").read_text()
    terms = set(
        re.findall(r"^(?!    |```|#)(\S.*)$", glossary.split("```{glossary}")[1].split("\n```")[0], re.MULTILINE)
    )
    for page in all_pages():
        for term in re.findall(r"\{term\}`(?:[^`<]*<)?([^`>]+)>?`", page.read_text()):
            assert term in terms, f"{page}: {term}"
