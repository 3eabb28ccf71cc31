"""What a check found, as lines of a terminal."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping

from circuitgraph.cli.output import visible

_WIDEST = 100


def print_findings(findings: Iterable[Mapping[str, str]], *, to_stderr: bool = False) -> None:
    """Print each finding after its severity, wrapped.

    Args:
        findings: With `severity` and `text`, as verdicts have them.
        to_stderr: Whether they belong to what is said on the way.

    Examples:
        >>> print_findings([{"severity": "doubt", "name": "few-prompts", "text": "8 test prompts are few."}])
        Doubt (few-prompts): 8 test prompts are few.
    """
    for finding in findings:
        told = f"{finding['severity'].capitalize()} ({finding['name']}): {finding['text']}"
        print_wrapped(told, to_stderr=to_stderr)


def print_wrapped(text: str, *, to_stderr: bool = False) -> None:
    """Print a paragraph over as many lines as it takes, those after the first indented.

    Args:
        text: The paragraph.
        to_stderr: Whether it belongs to what is said on the way.
    """
    width = min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)
    lines = textwrap.wrap(visible(text), width, subsequent_indent="    ", break_on_hyphens=False)
    print("\n".join(lines), file=sys.stderr if to_stderr else sys.stdout, flush=True)
