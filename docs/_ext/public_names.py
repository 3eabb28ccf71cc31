"""The directive `{public-names} PACKAGE`: every name of a package's `__all__`, from its docstring.

Names are grouped by the module that defines them, under the first line of that module's docstring, so that the
page follows the code and nothing is listed by hand.
"""

from __future__ import annotations

import importlib
import inspect
import re

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx


def names_by_module(package: str) -> dict[str, list[str]]:
    """Public names of a package, by the module that defines them.

    Args:
        package: The package's name.

    Returns:
        Names in the order of `__all__`, modules in the order of their names.
    """
    here = importlib.import_module(package)
    groups: dict[str, list[str]] = {}
    for name in here.__all__:
        if not name.startswith("__"):
            groups.setdefault(getattr(getattr(here, name), "__module__", package), []).append(name)
    return dict(sorted(groups.items()))


def lines_of(package: str) -> list[str]:
    """Each module's public names, as Markdown.

    Args:
        package: The package's name.

    Returns:
        Lines of Markdown.
    """
    here = importlib.import_module(package)
    lines = []
    for module, names in names_by_module(package).items():
        said = inspect.getdoc(importlib.import_module(module)) or ""
        lines += [f"## {module.removeprefix(package + '.')}", "", said.split("\n\n")[0], ""]
        for name in names:
            kind = "autoclass" if inspect.isclass(getattr(here, name)) else "autofunction"
            options = ["   :members:"] if kind == "autoclass" else []
            lines += ["```{eval-rst}", f".. {kind}:: {package}.{name}", *options, "```", ""]
    return lines


class PublicNames(Directive):
    """`{public-names} PACKAGE`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse what the package says, then its names, where the directive stands."""
        package = self.arguments[0]
        words = inspect.getdoc(importlib.import_module(package)) or ""
        intro, body = nodes.section(), nodes.section()
        self.state.nested_parse(words.splitlines(), self.content_offset, intro)
        self.state.nested_parse(lines_of(package), self.content_offset, body, match_titles=1)
        return [*intro.children, *body.children]


def escape_bars(_app: Sphinx, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Keep `|score|` in a docstring from being read as a substitution of reStructuredText."""
    in_doctest = False
    for number, line in enumerate(lines):
        in_doctest = bool(line.strip()) and (in_doctest or line.lstrip().startswith(">>>"))
        if not in_doctest:
            lines[number] = re.sub(r"(?<![\\`|])\|(?=[^\s|`][^|`]*\|)", r"\|", line)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("public-names", PublicNames)
    app.connect("autodoc-process-docstring", escape_bars)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
