"""The viewer of a subject's page: the volumes that steps packed for each series, put together."""

import base64
import glob
import gzip
import html
import math
import re
import zlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from jinja2.utils import htmlsafe_json_dumps

from bids_qsm.errors import UserError
from bids_qsm.plotting.layers import LIMIT, coarser, joined
from bids_qsm.reports.html import packaged, read_json

_PARTS = {'maps': list, 'labels': list, 'places': dict, 'left_out': list}
"""What a file of volumes holds, see `bids_qsm.plotting.layers.pack_layers`."""
_TEXTS = ('key', 'title', 'data', 'precision')
_OF_MAP = ('symbol', 'unit', 'colours')
_SMALLEST = 8
"""Fewest voxels along an axis of a layer whose voxels are joined further."""
_TAGS = 6_000
"""Bytes of the page that the viewer adds beside its data: controls, and the tags of each volume."""
_AT = 60
"""Bytes of the place of a row with coordinates, at most."""
_ONCE_MORE = (
    'The series were packed in several runs, so voxels were joined once more to fit on one page. A run of '
    'all sessions of the participant together packs them as finely as they fit.'
)
_AGAIN = 'To show it, run the sessions of the participant together: they share the page equally then.'


def build_viewer(
    folder: Path, names: Iterable[str], in_tables: int = 0
) -> tuple[dict | None, list[tuple[str, str]]]:
    """Put the packed maps and labels of series together, so that they add at most `LIMIT` bytes to a page.

    Parameters
    ----------
    folder
        Output of the subject, with ``figures/<series>_desc-viewer[<application>]_volumes.json``.
    names
        Names of the series.
    in_tables
        Rows of tables of applications that have a place.

    Returns
    -------
    viewer : dict or None
        ``library`` and ``blocks`` (id -> base64 of gzip), ``content`` (JSON for the script), ``notes``
        (sentences on precision and on what is left out), ``places`` (series -> stem of the labels' file ->
        (region, hemisphere) -> 'x y z' in mm of the scanner). None where no series has a map.
    troubles : list
        Series, and a sentence on what of it cannot be read and is left out.
    """
    troubles: list[tuple[str, str]] = []
    packs = {}
    for name in names:
        pack = _packs(folder / 'figures', name, troubles)
        if pack['maps']:
            packs[name] = pack
    library = base64.b64encode(_library()).decode()
    blocks, content = _described(packs)
    places = {name: pack['places'] for name, pack in packs.items()}
    fixed = (
        len(library) + len(packaged('viewer.js')) + _TAGS + _names_size(blocks, content, places, in_tables)
    )
    said = _shrink(packs, LIMIT - fixed, troubles)
    if not packs:
        return None, troubles
    blocks, content = _described(packs)
    viewer = {
        'library': library,
        'blocks': blocks,
        'content': content,
        'notes': _notes(packs) + said,
        'places': {name: pack['places'] for name, pack in packs.items()},
    }
    return viewer, troubles


def _described(packs: dict[str, dict]) -> tuple[dict[str, str], list[dict]]:
    """Data of all layers by their id in the page, and what its script needs of each."""
    blocks, content = {}, []
    for name, pack in packs.items():
        described = {'name': name, 'maps': [], 'labels': []}
        for kind in ('maps', 'labels'):
            for layer in pack[kind]:
                identity = f'volume-{len(content)}-{len(described["maps"]) + len(described["labels"])}'
                blocks[identity] = layer['data']
                kept = {key: value for key, value in layer.items() if key not in ('precision', 'voxels')}
                described[kind].append({**kept, 'data': identity})
        content.append(described)
    return blocks, content


def _names_size(blocks: dict, content: list[dict], places: dict, in_tables: int) -> int:
    """Bytes that names and places take in the page."""
    ats = [
        f'{at} {side}|'
        for stems in places.values()
        for own in stems.values()
        for (_, side), at in own.items()
    ]
    tables = sum(len(html.escape(at).encode()) for at in ats) + _AT * in_tables
    return tables + len(htmlsafe_json_dumps(content)) + 90 * len(blocks)


@cache
def _library() -> bytes:
    compress = zlib.compressobj(9, zlib.DEFLATED, 31)
    return compress.compress(packaged('niivue.min.js').encode()) + compress.flush()


def _packs(folder: Path, name: str, troubles: list[tuple[str, str]]) -> dict:
    """What the files of volumes of a series hold together, its own first."""
    found = {part: kind() for part, kind in _PARTS.items()}
    for path in sorted(folder.glob(f'{glob.escape(name)}_desc-viewer*_volumes.json')):
        try:
            pack = _read(path)
        except UserError as error:
            troubles.append((name, str(error).replace(str(path), path.name)))
            continue
        for part, value in pack.items():
            found[part] = {**found[part], **value} if isinstance(value, dict) else found[part] + value
    return found


def _read(path: Path) -> dict:
    """A file of volumes; UserError where it is not what `pack_layers` gives."""
    content = read_json(path, {})
    try:
        pack = {part: _of(kind, content[part]) for part, kind in _PARTS.items()}
        pack['maps'] = [_map(layer) for layer in pack['maps']]
        pack['labels'] = [_labels(layer) for layer in pack['labels']]
        for title in pack['left_out']:
            _of(str, title)
        pack['places'] = {
            stem: {(_of(str, region), _of(str, side)): _of(str, at) for region, side, at in rows}
            for stem, rows in pack['places'].items()
        }
        if any(len(_numbers(at.split(), 3)) != 3 for own in pack['places'].values() for at in own.values()):
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f'{path} holds no volumes; run the participant level again.') from None
    return pack


def _of(kind: type, value: object):
    """A value of JSON that is of a kind. TypeError where it is not."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError
    return value


def _numbers(values: Iterable, n: int) -> list[float]:
    """So many finite numbers. ValueError where they are not."""
    found = [*map(float, values)]
    if len(found) != n or not all(map(math.isfinite, found)):
        raise ValueError
    return found


def _layer(layer: dict, texts: tuple[str, ...]) -> dict:
    """What maps and labels have in common; KeyError, TypeError or ValueError where it is damaged."""
    found = {key: _of(str, layer[key]) for key in texts}
    found['shape'] = [_of(int, n) for n in layer['shape']]
    (found['step'],) = _numbers([_of(int | float, layer['step'])], 1)
    found['voxels'] = _numbers(layer['voxels'], 3)
    for key in ('affine', 'inverse'):
        found[key] = [_numbers(row, 4) for row in _of(list, layer[key])]
    if (
        len(found['shape']) != 3
        or min(found['shape']) < 1
        or {len(found[k]) for k in ('affine', 'inverse')} != {4}
    ):
        raise ValueError
    # the sum at the end of the data is checked here too
    try:
        size = len(gzip.decompress(base64.b64decode(found['data'], validate=True)))
    except (zlib.error, EOFError, gzip.BadGzipFile):
        raise ValueError from None
    if size != 2 * math.prod(found['shape']):
        raise ValueError
    return found


def _map(layer: dict) -> dict:
    found = _layer(layer, (*_TEXTS, *_OF_MAP))
    found['low'], found['high'] = _numbers((_of(int | float, layer[end]) for end in ('low', 'high')), 2)
    if not (found['step'] > 0 and found['low'] <= found['high']):
        raise ValueError
    return found


def _labels(layer: dict) -> dict:
    found = _layer(layer, _TEXTS)
    found['names'] = [_of(str, name) for name in layer['names']]
    found['colours'] = [_of(str, colour) for colour in layer['colours']]
    odd = [colour for colour in found['colours'] if not re.fullmatch('#[0-9a-fA-F]{6}', colour)]
    if found['step'] or odd or len(found['names']) != len(found['colours']):
        raise ValueError
    return found


def _shrink(packs: dict[str, dict], room: int, troubles: list[tuple[str, str]]) -> list[str]:
    """Join voxels of the largest layer until all fit; say so, in a sentence.

    Steps pack each series as if those of their run were all, which they are not after runs of sessions.
    """

    def weight(at: tuple[str, str, int]) -> float:
        name, kind, i = at
        one = packs[name][kind][i]
        is_first = kind == 'labels' or i == 0
        return 0.0 if min(one['shape']) < _SMALLEST else len(one['data']) * (0.5 if is_first else 1.0)

    done = False
    while packs:
        layers = [
            (name, kind, i)
            for name, pack in packs.items()
            for kind in ('maps', 'labels')
            for i in range(len(pack[kind]))
        ]
        if sum(len(packs[name][kind][i]['data']) for name, kind, i in layers) <= room:
            break
        name, kind, i = max(layers, key=weight)
        if weight((name, kind, i)):
            packs[name][kind][i] = coarser(packs[name][kind][i])
            done = True
        else:
            name = next(iter(packs))
            del packs[name]
            troubles.append((name, f'With the volumes of this series the page would be too large. {_AGAIN}'))
    return [_ONCE_MORE] if done else []


def _notes(packs: dict[str, dict]) -> list[str]:
    """What the page says of precision, and of what is left out."""
    steps: dict[str, list[str]] = {}
    for name, pack in packs.items():
        text = ', '.join(dict.fromkeys(one['precision'] for one in pack['maps']))
        steps.setdefault(text, []).append(name)
    notes = [
        f'The viewer holds {text}.' if len(steps) == 1 else f'The viewer holds of {", ".join(whose)}: {text}.'
        for text, whose in steps.items()
    ]
    for name, pack in packs.items():
        notes += [
            f'To keep the page small, voxels of {name} {text}; the files have all of them.'
            for text in joined(pack['maps'])
        ]
        if pack['left_out']:
            titles = ', '.join(dict.fromkeys(pack['left_out']))
            notes.append(f'Left out of the viewer of {name} to keep the page small: {titles}.')
    return notes
