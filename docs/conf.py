"""Sphinx: ``make docs`` builds the site without a network, and every warning is an error."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / 'ext')]

import bids_qsm  # noqa: E402

project = 'bids_qsm'
author = 'bids_qsm developers'
copyright = 'bids_qsm developers, Apache License 2.0'
version = release = bids_qsm.__version__
extensions = ['myst_parser', 'mathml', 'reference', 'api']
source_suffix = {'.md': 'markdown', '.rst': 'restructuredtext'}
exclude_patterns = ['ext', '_build']

myst_enable_extensions = ['dollarmath', 'deflist', 'colon_fence']
myst_heading_anchors = 4

default_role = 'code'
smartquotes = False  # flags begin with two dashes

toc_object_entries = False
html_theme = 'furo'
html_title = f'bids_qsm {release}'
html_math_renderer = 'mathml'
html_copy_source = False
html_show_sourcelink = False
html_static_path = ['static']
html_css_files = ['site.css']
