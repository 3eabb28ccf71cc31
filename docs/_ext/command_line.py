"""The directive `{command-line}`: every command with its options, from the program itself."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from typer.main import get_command

PROGRAM = "circuitgraph"


def default_of(option: Any) -> str:
    """What is taken where an option is not given, in the words of `--help`."""
    if option.required:
        return "Required."
    if isinstance(option.show_default, str):
        return f"Default: {option.show_default}."
    if not option.show_default or option.default is None or isinstance(option.default, bool):
        return ""
    return f"Default: `{option.default}`."


def lines_of(name: str, command: Any) -> list[str]:
    """One command as Markdown: what it does, how it is called, and its options by panel.

    Args:
        name: The command's name.
        command: The command, as typer made it.

    Returns:
        Lines of Markdown.
    """
    arguments = [item for item in command.params if item.param_type_name == "argument"]
    options = [item for item in command.params if item.param_type_name == "option" and not item.hidden]
    said = [item.metavar if item.required else f"[{item.metavar}]" for item in arguments]
    usage = " ".join([PROGRAM, name, *said, "[OPTIONS]"])
    lines = [f"({PROGRAM}-{name})=", f"## {name}", "", command.help or "", "", "```text", usage, "```", ""]
    for item in arguments:
        lines += [f"`{item.metavar}`", f": {item.help}", ""]
    panels: dict[str, list[Any]] = {}
    for item in options:
        panels.setdefault(item.rich_help_panel or "Options", []).append(item)
    for panel, members in panels.items():
        lines += [f"**{panel}**", ""]
        for item in members:
            flags = ", ".join(f"`{flag}`" for flag in [*item.opts, *item.secondary_opts])
            lines += [flags, f": {' '.join(part for part in (item.help, default_of(item)) if part)}", ""]
    return lines


def whole_program() -> list[str]:
    """Every command, in the order of `circuitgraph --help`."""
    group: Any = get_command(__import__("circuitgraph.cli.app", fromlist=["app"]).app)
    return [line for name, command in group.commands.items() for line in lines_of(name, command)]


class CommandLine(Directive):
    """`{command-line}`."""

    def run(self) -> list[nodes.Node]:
        """Parse the lines where the directive stands."""
        container = nodes.section()
        self.state.nested_parse(whole_program(), self.content_offset, container, match_titles=1)
        return container.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
