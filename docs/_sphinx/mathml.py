"""Formulas as MathML, which browsers draw by themselves: no script, no network."""

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)

# What docutils does not know, or draws wrongly, in words that it does. For other commands that it
# does not know there is a warning.
REPLACED = (
    (r"'+", lambda found: "^{" + r"\prime" * len(found[0]) + "}"),
    (r"\\dots\b", r"\\ldots"),
    (r"\\[bB]ig\b", ""),
    (r"(\\hat \w)_", r"\1{}_"),  # The index would go below.
    (r"\\_(?=[^{}]*})", "_"),  # In \text{}.
)


def _mathml(node, as_block):
    tex = node.astext()
    for pattern, replacement in REPLACED:
        tex = re.sub(pattern, replacement, tex)
    try:
        drawn = tex2mathml(tex, as_block=as_block)
    except MathError as error:
        logger.warning("%s in %s", error, node.astext(), location=node)
        return ""
    # A modifier letter, which fonts draw as flat as a bar.
    return drawn.replace("\N{MODIFIER LETTER CIRCUMFLEX ACCENT}", "^")


def _inline(writer, node):
    writer.body.append(_mathml(node, as_block=False))
    raise nodes.SkipNode


def _block(writer, node):
    writer.body.append(f'<div class="math">{_mathml(node, as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app):
    """Add the renderer `mathml`."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
