"""The viewer of a subject's page: the volumes that steps packed for each series, put together."""

import base64
import glob
import zlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from bids_qsm.errors import UserError
from bids_qsm.plotting.layers import ROOM
from bids_qsm.reports.html import packaged, read_json

_PARTS = {'maps': list, 'labels': list, 'places': dict, 'steps': list, 'joined': list, 'left_out': list}
"""What a file of volumes holds, see `bids_qsm.plotting.layers.pack_layers`."""
_SHOWN = ('title', 'step', 'shape', 'affine', 'inverse', 'data', 'colours')
_OF_MAP = (*_SHOWN, 'key', 'symbol', 'unit', 'low', 'high')
_OF_LABELS = (*_SHOWN, 'names')


def build_viewer(folder: Path, names: Iterable[str]) -> tuple[dict | None, list[tuple[str, str]]]:
    """Put the packed maps and labels of series together, so that they stay within `ROOM`.

    Parameters
    ----------
    folder
        Output of the subject, with ``figures/<series>_desc-viewer[<application>]_volumes.json``.
    names
        Names of the series.

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
    _shrink(packs, troubles)
    if not packs:
        return None, troubles
    blocks, content = {}, []
    for name, pack in packs.items():
        described = {'name': name, 'maps': [], 'labels': []}
        for kind in ('maps', 'labels'):
            for layer in pack[kind]:
                number = len(described['maps']) + len(described['labels'])
                identity = f'volume-{len(content)}-{number}'
                blocks[identity] = layer['data']
                described[kind].append({**layer, 'data': identity})
        content.append(described)
    viewer = {
        'library': base64.b64encode(_library()).decode(),
        'blocks': blocks,
        'content': content,
        'notes': _notes(packs),
        'places': {name: pack['places'] for name, pack in packs.items()},
    }
    return viewer, troubles


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
        pack = {part: kind(content[part]) for part, kind in _PARTS.items()}
        for kind, keys in (('maps', _OF_MAP), ('labels', _OF_LABELS)):
            pack[kind] = [{key: layer[key] for key in keys} for layer in pack[kind]]
            if not all(isinstance(layer['data'], str) for layer in pack[kind]):
                raise TypeError
        pack['places'] = {
            str(stem): {(str(region), str(side)): str(at) for region, side, at in rows}
            for stem, rows in pack['places'].items()
        }
    except (KeyError, TypeError, ValueError):
        raise UserError(f'{path} holds no volumes; run the participant level again.') from None
    return pack


def _shrink(packs: dict[str, dict], troubles: list[tuple[str, str]]):
    """Leave out maps until the rest fits: the largest that is not the first of its series, then series.

    Steps pack each series as if those of their run were all, which they are not after runs of sessions.
    """

    def size() -> int:
        return sum(len(one['data']) for pack in packs.values() for one in (*pack['maps'], *pack['labels']))

    while size() > ROOM:
        others = [(len(one['data']), pack, one) for pack in packs.values() for one in pack['maps'][1:]]
        if others:
            _, pack, largest = max(others, key=lambda other: other[0])
            pack['maps'].remove(largest)
            pack['left_out'].append(largest['title'])
        else:
            name, _ = packs.popitem()
            troubles.append((name, 'With the volumes of this series the page would be too large.'))


def _notes(packs: dict[str, dict]) -> list[str]:
    """What the page says of precision, and of what is left out."""
    steps: dict[str, list[str]] = {}
    for name, pack in packs.items():
        steps.setdefault(', '.join(dict.fromkeys(pack['steps'])), []).append(name)
    notes = [
        f'The viewer holds {text}.' if len(steps) == 1 else f'The viewer holds of {", ".join(whose)}: {text}.'
        for text, whose in steps.items()
    ]
    for name, pack in packs.items():
        notes += [
            f'To keep the page small, voxels of {name} {text}; the files have all of them.'
            for text in pack['joined']
        ]
        if pack['left_out']:
            titles = ', '.join(dict.fromkeys(pack['left_out']))
            notes.append(f'Left out of the viewer of {name} to keep the page small: {titles}.')
    return notes
