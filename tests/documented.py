"""Files of an output folder that the page of outputs does not list."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / 'docs' / 'outputs.md'
_FORMS = {'[': '(?:', ']': ')?', '...': '.*', '*': '.*'}


def undocumented(names):
    """Those of ``names``, paths below an output folder, that no first cell of the page's table fits.

    There ``<...>`` stands for a word, ``[...]`` for what may be missing, and a name without extension for an
    image or a table; ``.json`` and ``.parquet`` may stand beside each.
    """
    spans = re.findall(r'^\| (`.+?`(?:, `.+?`)*)[^|`]* \|', PAGE.read_text(encoding='utf-8'), re.MULTILINE)
    known = [re.compile(_pattern(word)) for cell in spans for word in re.findall('`([^`]+)`', cell)]
    return sorted(name for name in names if not any(one.fullmatch(name) for one in known))


def _pattern(word):
    parts = []
    for part in re.findall(r'<[^>]+>|\.\.\.|[*\[\]]|[^<*\[\].]+|\.', word):
        if part.startswith('<'):
            parts.append(f'(?:{part[1:-1].replace(",", "|")})' if ',' in part else '[^_/]+')
        else:
            parts.append(_FORMS.get(part, re.escape(part)))
    stem, dot, extension = ''.join(parts).rpartition(r'\.')
    is_whole = dot and re.fullmatch(r'[a-z.\\]+', extension)
    if is_whole and word.endswith('.nii.gz'):
        stem, is_whole = stem.removesuffix(r'\.nii'), False
    own = rf'\.{extension}' if is_whole else r'(?:\.(?:nii\.gz|tsv|txt|png|svg))?'
    return rf'(?:.*/)?{stem if is_whole or dot else "".join(parts)}(?:{own}|\.json|\.parquet)'
