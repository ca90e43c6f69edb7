"""Formulae as MathML, which browsers draw by themselves: no script, no font and no network."""

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx


def formula(text: str, display: str) -> str:
    """MathML of LaTeX."""
    lines = text.strip()
    if r'\\' in lines and r'\begin' not in lines:
        lines = rf'\begin{{aligned}} {lines} \end{{aligned}}'
    return convert(lines, display=display)


def visit_inline(translator: object, node: nodes.math):
    translator.body.append(formula(node.astext(), 'inline'))
    raise nodes.SkipNode


def visit_block(translator: object, node: nodes.math_block):
    translator.body.append(f'<div class="formula">{formula(node.astext(), "block")}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict:
    app.add_html_math_renderer('mathml', (visit_inline, None), (visit_block, None))
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
