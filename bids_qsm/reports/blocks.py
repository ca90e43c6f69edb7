"""Parts of the cohort page: sections, charts and tables, and their numbers as text."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import yaml

from bids_qsm.cohort import total
from bids_qsm.derivatives.products import SYMBOLS as OF_MAPS
from bids_qsm.plotting.cohort_charts import p_text
from bids_qsm.plotting.region_charts import COHORT_REGIONS
from bids_qsm.reports.html import data_uri, packaged

SYMBOLS = {**OF_MAPS, **total.SYMBOLS}
"""Name of a map in tables -> on the page."""
ALPHA = 0.05
PANELS = 8  # of a figure with one for each region
FOLD = 15  # rows beyond which a table is shown when asked for
_LONGEST = 200  # rows of a table on the page; the file has all rows
_MOST_REGIONS = 20  # in a chart; text and tables list all


@cache
def words(section: str) -> dict:
    """Title, question and captions of a section, from data/cohort.yml."""
    return yaml.safe_load(packaged('cohort.yml'))[section]


def section(
    key: str,
    *,
    title: str = '',
    question: str = '',
    answers: Iterable[str] = (),
    blocks: Sequence[dict] = (),
    notes: Iterable[str] = (),
    files: Iterable[str] = (),
) -> dict:
    """A section of the page; ``answers`` are repeated in the summary at the top."""
    return {
        'id': key,
        'title': title or words(key)['title'],
        'question': question,
        'answers': list(answers),
        'blocks': list(blocks),
        'notes': list(dict.fromkeys(notes)),
        'files': list(files),
        'children': [block for block in blocks if block['kind'] == 'figure'],
    }


def figure(key: str, title: str, content: str | bytes, caption: str) -> dict:
    """A figure of a section: a chart as SVG text, or the bytes of an SVG or PNG file."""
    is_chart = isinstance(content, str)
    content = content.encode() if isinstance(content, str) else content
    extension = '.png' if content[:4] == b'\x89PNG' else '.svg'
    return {
        'kind': 'figure',
        'id': key,
        'title': title,
        'src': data_uri(content, extension),
        'alt': f'{title}. {caption}',
        'caption': caption,
        'paper': is_chart,
    }


def grid(
    title: str,
    frame: pd.DataFrame,
    *,
    columns: dict[str, str] | None = None,
    caption: str = '',
    folded: bool = False,
) -> dict:
    """A table of a section, with numbers as text. The caption says when rows are left out.

    ``columns`` maps the columns to show to their titles; those that ``frame`` lacks are left out. A dict in a
    cell is a link: its text and href.
    """
    if columns is not None:
        frame = frame[[c for c in columns if c in frame]].rename(columns=columns)
    if len(frame) > _LONGEST:
        caption = f'The first {_LONGEST} of {len(frame)} rows. {caption}'
    shown = frame.head(_LONGEST)
    numeric = [
        c
        for c in shown
        if pd.api.types.is_numeric_dtype(shown[c]) and not pd.api.types.is_bool_dtype(shown[c])
    ]
    rows = [{c: cell(c, value) for c, value in row.items()} for row in shown.to_dict('records')]
    return {
        'kind': 'table',
        'title': title,
        'table': {'columns': list(shown), 'numeric': numeric, 'rows': rows},
        'caption': caption.strip(),
        'folded': folded,
    }


def cell(column: str, value: Any):
    """Format a value of a table: three digits, or a p-value.

    >>> cell('p (FDR)', 0.0004), cell('χ (ppm)', 0.0312345), cell('n', 24.0), cell('note', None)
    ('< .001', '0.0312', '24', '–')
    """
    if isinstance(value, dict):
        return value
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return '–'
    if isinstance(value, bool | np.bool_):
        return 'yes' if value else 'no'
    if isinstance(value, float | np.floating):
        value = float(value)
        if column == 'p' or column.startswith(('p (', 'p_')):
            return p_text(value)
        whole = abs(value) >= 1000 or value == round(value)
        return (f'{value:.0f}' if whole else f'{value:.3g}').replace('-', '−')
    return str(value)


def signed(value: float) -> str:
    """A number with its sign and three digits.

    >>> signed(-0.01234)
    '−0.0123'
    """
    return f'{value:+.3g}'.replace('-', '−')


def in_order(present: Iterable[str]) -> list[str]:
    """Regions in the order of charts and tables: deep grey matter first, then the others as given."""
    present = list(dict.fromkeys(present))
    first = [r for r in COHORT_REGIONS if r in present]
    return first + [r for r in present if r not in first]


def charted(rows: pd.DataFrame, first: Iterable[str] = (), most: int = _MOST_REGIONS):
    """Rows of the regions that fit into a chart, in their order, and a sentence if some are left out.

    Regions in ``first`` come before others.

    >>> rows = pd.DataFrame({'region': list('abcd')})
    >>> kept, cut = charted(rows, first=['d'], most=2)
    >>> kept['region'].tolist(), cut
    (['a', 'd'], ' 2 of 4 regions are drawn; the text and the tables list all.')
    >>> charted(rows)[1]
    ''
    """
    there = list(dict.fromkeys(rows['region']))
    wanted = [region for region in dict.fromkeys(first) if region in set(there)]
    kept = list(dict.fromkeys([*wanted, *there]))[:most]
    if len(kept) == len(there):
        return rows, ''
    cut = f' {len(kept)} of {len(there)} regions are drawn; the text and the tables list all.'
    return rows[rows['region'].isin(kept)], cut


def charted_whole(rows: pd.DataFrame, first: Iterable[str] = ()):
    """As `charted`, for a chart that grows with its lines: all regions of ``first`` fit."""
    return charted(rows, first, max(_MOST_REGIONS, len(set(first))))


def by_region(rows: pd.DataFrame, regions: Iterable[str]) -> pd.DataFrame:
    """Sort rows by region in the given order."""
    place = {region: i for i, region in enumerate(regions)}
    return rows.sort_values('region', key=lambda c: c.map(place), kind='stable')


def parts(table: pd.DataFrame):
    """Split a table by atlas and map; rows are those of both hemispheres together, sorted by region.

    Maps of applications come last. Yields (key for ids, title, unit, rows).
    """
    if table.empty:
        return
    whole = table[table['hemisphere'].fillna('both').isin(('both', ''))]
    atlases = whole['atlas'].fillna('').astype(str) if 'atlas' in whole else pd.Series('', index=whole.index)
    rank = {name: i for i, name in enumerate(SYMBOLS)}
    kinds = sorted(
        set(zip(atlases, whole['map'], strict=True)),
        key=lambda k: (k[1] not in rank, k[0], rank.get(k[1], 9), k[1]),
    )
    for atlas, name in kinds:
        rows = whole[(atlases == atlas) & (whole['map'] == name)]
        rows = by_region(rows, in_order(rows['region']))
        several = sum(other == name for _, other in kinds) > 1
        title = SYMBOLS.get(name, name) + (f' (atlas {atlas})' if several else '')
        units = rows['units'].dropna().astype(str) if 'units' in rows else []
        yield '-'.join(filter(None, (name, atlas))), title, next(iter(units), 'n/a'), rows
