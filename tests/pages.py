"""Reading of the pages that are written, as a browser would."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from bids_qsm.reports.html import packaged

SCRIPTS = ('viewer.js', 'cohort.js')
"""Files of data/ that pages run."""


def without_own_scripts(text):
    """The page without its own scripts, as they are in the package, and without data that they read."""
    for name in SCRIPTS:
        text = text.replace(f'<script>{packaged(name)}</script>', '')
    return re.sub(r'<script type="application/(json|octet-stream)"[^<>]*>[^<]*</script>', '', text)


class Page(HTMLParser):
    """Collects what a browser would load, the text, and the ids; other scripts than our own are tags."""

    def __init__(self, path):
        super().__init__()
        self.loads, self.ids, self.anchors, self.images, self.tags = [], [], [], [], set()
        self._text = []
        self.feed(without_own_scripts(Path(path).read_text(encoding='utf-8')))
        self.text = re.sub(r'\s+', ' ', ''.join(self._text))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.add(tag)
        self.ids += [values['id']] if 'id' in values else []
        if tag == 'a':
            self.anchors.append(values['href'])
        elif tag == 'img':
            self.images.append(values)
        self.loads += [values[key] for key in ('src', 'data', 'srcset') if key in values]
        if tag == 'link':
            self.loads.append(values.get('href', ''))

    @property
    def in_short(self):
        """The summary at the top of the page of a cohort."""
        return self.text[self.text.rindex('In short') : self.text.rindex('Who they are')]

    def handle_data(self, data):
        self._text.append(data)


def assert_self_contained(page):
    assert all(address.startswith('data:image/') for address in page.loads)
    assert not {'script', 'link', 'iframe', 'object'} & page.tags
    assert '@import' not in page.text
    assert len(page.ids) == len(set(page.ids))
    assert {a[1:] for a in page.anchors if a.startswith('#')} <= set(page.ids)


def picture(page):
    """The whole page in a browser, as grey values."""
    with Image.open(io.BytesIO(page.screenshot(full_page=True))) as image:
        return np.asarray(image.convert('L')).astype(int)
