"""What lies where a part of a series is missing, and how to name it so that it is found."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from bids_qsm.entities import entities_of, in_order, join_entities, suffix_of
from bids_qsm.layout.index import WANTED

_PHASE = re.compile(r'_(ph|pha|phase)\.nii(\.gz)?$', re.IGNORECASE)
_FIELDMAPS = {'phase1': ('1', 'phase'), 'phase2': ('2', 'phase')}


def named_otherwise(folder: Path, ignores: Callable[[Path], bool], magnitude: Path | None = None) -> str:
    """A sentence on images in a subject's or session's ``folder`` that may be the phase, empty where none is.

    ``ignores`` says which images .bidsignore leaves out, ``magnitude`` is that of the series that lacks it.
    """
    known = entities_of(magnitude) if magnitude else {}
    suffix = suffix_of(magnitude) if magnitude else ''
    for path in _images(folder / 'anat'):
        if _PHASE.search(path.name):
            name = _name(path, {**known, 'part': 'phase'}, suffix or 'MEGRE')
            return f'{path.name} may be it, named as dcm2niix does; rename it to {name}.'
    for path in _images(folder / 'swi'):
        if entities_of(path).get('part') in ('phase', 'imag') or _PHASE.search(path.name):
            labels = {**known, **entities_of(path)}
            name = _name(path, labels, suffix or ('MEGRE' if 'echo' in labels else 'T2starw'))
            if suffix_of(path) not in WANTED['swi']:
                return f'swi/{path.name} is not read there; move it to anat/ as {name}, and its fellows too.'
            if ignores(path):
                return f'swi/{path.name} is left out by .bidsignore; take it and its fellows out of it.'
            return f'swi/{path.name} may be it: a series lies in one folder; move it to anat/ as {name}.'
    for path in _images(folder / 'fmap'):
        kind = suffix_of(path)
        if kind in _FIELDMAPS:
            echo, part = _FIELDMAPS[kind]
            name = _name(path, {**entities_of(path), 'echo': echo, 'part': part}, 'MEGRE')
            return (
                f'fmap/{path.name} is the phase of a field map and not read there; to use it, copy it to '
                f'anat/ as {name}, and its magnitude likewise.'
            )
        if kind == 'phasediff':
            return f'fmap/{path.name} is the difference of two phases, of which no series can be made.'
    for path in _images(folder):
        if suffix_of(path) in WANTED['swi']:
            return (
                f'{folder.name}/{path.name} is not read there; move it and its fellows to {folder.name}/anat.'
            )
    return ''


def other_half(files: Iterable[Path], others: Iterable[Path], wanted: tuple[str, ...]) -> str:
    """A sentence on files of another name that are one of the ``wanted`` parts, and nothing else of theirs.

    ``others`` are images of the same subject and session in other series.
    """
    first, series = next(iter(files)), {}
    for path in others:
        labels = {k: v for k, v in entities_of(path).items() if k not in ('echo', 'part')}
        series.setdefault((tuple(labels.items()), suffix_of(path)), []).append(path)
    for (labels, suffix), paths in series.items():
        if {entities_of(path).get('part', 'mag') for path in paths} <= {*wanted}:
            own = entities_of(first)
            differ = [k for k in {**own, **dict(labels)} if k not in ('echo', 'part')]
            differ = [f'{k}-' for k in differ if own.get(k) != dict(labels).get(k)]
            what = ' and '.join(differ) or f'suffix ({suffix_of(first)} and {suffix})'
            return f'{paths[0].name} may be it: if they are of one acquisition, give both the same {what}.'
    return ''


def _images(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(('.nii', '.nii.gz')))
    except OSError:
        return []


def _name(path: Path, labels: dict[str, str], suffix: str) -> str:
    """Name of BIDS for an image; the echo is that of a converter's ``_e2`` where there is one."""
    echo = re.search(r'_e(\d+)(?=_|\.)', path.name)
    if echo:
        labels = {**labels, 'echo': echo[1]}
    labels.setdefault('sub', entities_of(path).get('sub', 'LABEL'))
    extension = path.name[path.name.index('.nii') :]
    return f'{join_entities(in_order(labels))}_{suffix}{extension}'
