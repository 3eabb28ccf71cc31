"""Formulas as MathML, which browsers show by themselves: no script and nothing to download.

docutils translates LaTeX to MathML; what it cannot translate is a warning, and so fails the build.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def _as_mathml(node: nodes.Element, *, block: bool) -> str:
    source = node.astext()
    try:
        return latex2mathml.tex2mathml(source, as_block=block)
    except MathError as error:
        logger.warning("no MathML for %r: %s", source, error, location=node)
        return f"<code>{source}</code>"


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(_as_mathml(node, block=False))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="formula">{_as_mathml(node, block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer and choose it."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
