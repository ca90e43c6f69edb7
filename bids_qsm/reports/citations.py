"""The methods text of a run with its citations."""

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

_FIELD = re.compile(r'(\w+)\s*=\s*\{((?:[^{}]|\{[^{}]*\})*)\}')


def methods_text(sections: Sequence[str]) -> str:
    """Methods text with numbered citations, ready to paste, followed by the references.

    Parameters
    ----------
    sections : list of str
        Paragraphs that cite as ``[@key; @other]``, keys of data/references.bib.

    Raises
    ------
    KeyError
        A cited key is not in the bibliography.
    """
    paragraphs, references = cite(sections)
    listed = [f'{i}. {r["text"]} doi:{r["doi"]}' for i, r in enumerate(references, 1)]
    return '\n\n'.join([*paragraphs, *(['References\n' + '\n'.join(listed)] if listed else [])]) + '\n'


def cite(sections: Sequence[str]):
    """Turn ``[@key; @other]`` into ``[1, 2]``; return the paragraphs and the references (text, doi)."""
    numbers = {}

    def number(match: re.Match):
        keys = [key.strip().removeprefix('@') for key in match.group(1).split(';')]
        return '[' + ', '.join(str(numbers.setdefault(key, len(numbers) + 1)) for key in keys) + ']'

    paragraphs = [re.sub(r'\[(@\w+(?:\s*;\s*@\w+)*)\]', number, section) for section in sections]
    return paragraphs, [{'text': _format(key), 'doi': bibliography()[key]['doi']} for key in numbers]


@cache
def bibliography() -> dict:
    """Entries of data/references.bib: key -> fields."""
    text = files('bids_qsm.data').joinpath('references.bib').read_text(encoding='utf-8')
    entries = {}
    for entry in re.split(r'^@article', text, flags=re.MULTILINE)[1:]:
        key = entry[1 : entry.index(',')]
        entries[key] = {
            name: value.replace('{', '').replace('}', '') for name, value in _FIELD.findall(entry)
        }
    return entries


def _format(key: str):
    if key not in bibliography():
        raise KeyError(f'data/references.bib has no entry {key!r}, which the methods text cites')
    entry = bibliography()[key]
    # "Dymerska, B. and Li, T.-Q." -> "Dymerska B, Li TQ"
    authors = []
    for name in entry['author'].split(' and '):
        family, _, given = name.partition(', ')
        authors.append('et al' if name == 'others' else f'{family} {re.sub("[^A-Z]", "", given)}'.strip())
    source = f'{entry["journal"]} {entry["year"]};{entry["volume"]}:{entry["pages"]}'
    return f'{", ".join(authors)}. {entry["title"]}. {source}.'
