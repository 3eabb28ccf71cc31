"""The directive `{architectures}`: every file of families, from its docstring and its declarations."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from circuitgraph.architectures import Family, family_of, supported_model_types


def families_by_file() -> dict[ModuleType, list[Family]]:
    """The families of every file, in the order of their names."""
    found: dict[ModuleType, list[Family]] = {}
    for name in supported_model_types():
        found.setdefault(importlib.import_module(_file_of(name)), []).append(family_of(name))
    return dict(sorted(found.items(), key=lambda item: item[0].__name__))


def _file_of(name: str) -> str:
    import circuitgraph.architectures as here

    return f"circuitgraph.architectures.{here.PLACES[name].partition(':')[0]}"


def lines() -> list[str]:
    """Every family, as Markdown."""
    found: list[str] = []
    for module, families in families_by_file().items():
        title, _, rest = (inspect.getdoc(module) or "").partition("\n")
        found += [f"## {', '.join(f'`{family.name}`' for family in families)}", "", title, "", *rest.splitlines(), ""]
        for family in families:
            found += lines_of(family)
    return found


def lines_of(family: Family) -> list[str]:
    """What one family understands and refuses.

    Args:
        family: The family.
    """
    refused = [f"`{name}` other than `{value!r}`" for name, value in sorted(family.required.items())]
    understood = ", ".join(f"`{name}`" for name in sorted(family.understood))
    classes = ", ".join(f"`{name}`" for name in sorted(family.model_classes))
    return [
        f"`{family.name}`",
        f": Classes: {classes}.",
        "",
        f"  Config fields that it understands: {understood}.",
        "",
        f"  Refused: {', '.join(refused) or 'nothing by name'}; any other field that is not at its default.",
        "",
    ]


class Architectures(Directive):
    """`{architectures}`."""

    def run(self) -> list[nodes.Node]:
        """Parse the lines where the directive stands."""
        container = nodes.section()
        self.state.nested_parse(lines(), self.content_offset, container, match_titles=1)
        return container.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("architectures", Architectures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
