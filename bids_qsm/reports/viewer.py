"""The viewer of a subject's page: the maps and labels of each series, packed to fit into the page."""

import base64
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import binary_dilation

from bids_qsm.anatomy.transform import spacing_of
from bids_qsm.applications import applications
from bids_qsm.biomarkers.regions import COMPOSITES
from bids_qsm.derivatives.products import PRODUCTS
from bids_qsm.derivatives.tables import read_labels
from bids_qsm.entities import entities_of
from bids_qsm.interfaces.io import read, without_frames
from bids_qsm.plotting.maps import colours_of, window_of
from bids_qsm.plotting.volumes import (
    Volume,
    crop,
    grey_step,
    packed,
    precisions,
    sample_size,
    thin,
    whole_numbers,
)
from bids_qsm.reports.html import packaged

LIMIT = 4_000_000
"""Bytes that the viewer adds to a page at most: library, volumes, names."""
_REST = 100_000
"""Of these, bytes for names, places and the script of the page."""
STEPS = {'chi': 0.001, 'r2star': 0.25}
"""Step of the values of a map in its unit; other maps have no unit, and 250 grey values."""
MAPS = ('chi', 'r2star', 'swi', 'magnitude')
"""Maps that the viewer shows, in their order."""
_AROUND = 4.0
"""Distance from the brain (mm) up to which the magnitude is shown."""
_ADDED = ('seg', 'label', 'desc')
"""Entities that tell images of one series apart."""


@dataclass(frozen=True)
class _Layer:
    volume: Volume
    affine: np.ndarray
    about: dict
    """What the page needs beside the values."""
    is_first: bool = False
    """Whether it is the first map of the series, or labels: its voxels are joined last."""

    def joined(self, times: int) -> '_Layer':
        """The same with pairs of voxels joined."""
        volume, affine = self.volume, self.affine
        for _ in range(times):
            volume, affine = thin(volume, affine)
        return replace(self, volume=volume, affine=affine)


@dataclass(frozen=True)
class _Series:
    name: str
    voxels: tuple[float, ...]
    """Size as measured (mm)."""
    layers: list[_Layer]
    places: dict[str, dict[tuple[str, str], str]]


def build_viewer(folder: Path, names: Iterable[str]) -> dict | None:
    """Pack the maps and labels of series so that library and volumes stay within `LIMIT`.

    Parameters
    ----------
    folder
        Output of the subject, with images in ``anat`` and the magnitude in ``figures``.
    names
        Names of the series.

    Returns
    -------
    dict or None
        ``library`` and ``blocks`` (id -> base64 of gzip), ``content`` (JSON for the script), ``notes``
        (sentences on precision), ``places`` (series -> stem of the labels' file -> (region, hemisphere) ->
        'x y z' in mm of the scanner). None where no series has a map.

    Raises
    ------
    UserError
        An image cannot be read.
    """
    series = [found for name in names if (found := _read(folder, name)) is not None]
    if not series:
        return None
    library = base64.b64encode(_library()).decode()
    coarseness, series, data = _fit(series, LIMIT - _REST - len(library))
    blocks, content = {}, []
    for number, (one, packs) in enumerate(zip(series, data, strict=True)):
        layers = []
        for i, (layer, pack) in enumerate(zip(one.layers, packs, strict=True)):
            blocks[f'volume-{number}-{i}'] = pack
            step = layer.volume.step * coarseness
            grid = {'affine': layer.affine.tolist(), 'inverse': np.linalg.inv(layer.affine).tolist()}
            shown = {**layer.about, 'step': step, 'data': f'volume-{number}-{i}'}
            layers.append({**shown, 'shape': layer.volume.data.shape, **grid})
        content.append(
            {
                'name': one.name,
                'maps': [layer for layer in layers if layer['step']],
                'labels': [layer for layer in layers if not layer['step']],
            }
        )
    return {
        'library': library,
        'blocks': blocks,
        'content': content,
        'notes': _notes(series, coarseness),
        'places': {one.name: one.places for one in series},
    }


@cache
def _library() -> bytes:
    compress = zlib.compressobj(9, zlib.DEFLATED, 31)
    return compress.compress(packaged('niivue.min.js').encode()) + compress.flush()


def _fit(series: list[_Series], room: int) -> tuple[int, list[_Series], list[list[str]]]:
    """Take the finest precision that fits into ``room`` bytes of base64."""
    for coarseness, of_first, of_others in precisions():
        tried = [
            replace(one, layers=[x.joined(of_first if x.is_first else of_others) for x in one.layers])
            for one in series
        ]
        whole = [[whole_numbers(layer.volume, coarseness) for layer in one.layers] for one in tried]
        if sum(sample_size(values) for part in whole for values in part) * 4 / 3 > room:
            continue
        data = [[base64.b64encode(packed(values)).decode() for values in part] for part in whole]
        if sum(len(text) for part in data for text in part) <= room:
            return coarseness, tried, data
    raise AssertionError('precisions never end')


def _read(folder: Path, name: str) -> _Series | None:
    """Maps and labels of a series on its grid; None where it has no map."""
    images = _images(folder, name)
    maps = {port: images[key] for port in MAPS if (key := (PRODUCTS[port].suffix, ())) in images}
    kept = folder / 'figures' / f'{name}_desc-magnitude_volume.nii.gz'
    if kept.exists():
        maps['magnitude'] = kept
    if not maps:
        return None
    found = {port: _volume(path) for port, path in maps.items()}
    shape, affine = (first := next(iter(found.values())))[0].shape, first[1]
    masks = (images.get(('mask', (('desc', what),))) for what in ('brain', 'object'))
    mask = next((_volume(path)[0] > 0 for path in masks if path is not None), None)
    if mask is None or mask.shape != shape:
        mask = np.isfinite(first[0]) & (first[0] != 0)
    part, moved = crop(mask, affine)
    around = binary_dilation(mask, iterations=round(_AROUND / min(spacing_of(affine))))
    layers, places = [], {}
    for port, (data, grid) in found.items():
        if data.shape == shape and np.allclose(grid, affine, atol=1e-3):
            layer = _map_layer(port, data.astype(np.float32), affine, mask, around)
            layers.append(replace(layer, is_first=not layers))
    for (suffix, extra), path in images.items():
        title = _title(suffix, dict(extra))
        if not title:
            continue
        data, grid = _volume(path)
        if data.shape != shape or not np.allclose(grid, affine, atol=1e-3) or not (data > 0).any():
            continue
        stem = path.name.removesuffix('.nii.gz')
        table = path.with_name(f'{stem}.tsv')
        labels = read_labels(table) if table.exists() else None
        layer, places[stem] = _label_layer(title, np.rint(data).astype(np.int32), affine, labels)
        layers.append(layer)
    layers = [
        replace(one, volume=replace(one.volume, data=one.volume.data[part].copy()), affine=moved)
        for one in layers
    ]
    return _Series(name, tuple(spacing_of(affine)), layers, places)


def _images(folder: Path, name: str) -> dict[tuple, Path]:
    """(suffix, entities beyond those of the series) -> image of a series."""
    own, found = entities_of(name), {}
    for path in sorted(folder.rglob(f'anat/{name}_*.nii.gz')):
        entities = entities_of(path)
        extra = tuple(sorted((k, v) for k, v in entities.items() if own.get(k) != v))
        if all(key in _ADDED for key, _ in extra):
            suffix = path.name.removesuffix('.nii.gz').rpartition('_')[2]
            found[suffix, extra] = path
    return found


def _volume(path: Path) -> tuple[np.ndarray, np.ndarray]:
    data, affine = read(path)
    return without_frames(data), affine


def _map_layer(port: str, data: np.ndarray, affine: np.ndarray, mask: np.ndarray, around: np.ndarray):
    look = PRODUCTS[port].look
    step = STEPS.get(port) or grey_step(data, mask)
    low, high = window_of([data], look, mask)
    shown = np.where(mask if look.masked else around, data, np.nan)
    about = {
        'key': port,
        'title': look.title,
        'symbol': PRODUCTS[port].symbol or look.title,
        'unit': '' if look.unit == 'arbitrary' else look.unit,
        'low': float(low),
        'high': float(high),
        'colours': look.cmap,
    }
    return _Layer(Volume(shown, step), affine, about)


def _title(suffix: str, extra: Mapping[str, str]) -> str:
    """What the viewer calls labels or a mask; empty for what it does not show."""
    if suffix == 'dseg' and 'seg' in extra:
        return f'Regions ({extra["seg"]})'
    for app in applications():
        for image in app.images:
            if suffix in ('dseg', 'mask') and image.place == {'suffix': suffix, **extra}:
                return re.split('[,:;]', image.about)[0]
    return ''


def _label_layer(
    title: str, dseg: np.ndarray, affine: np.ndarray, labels: pd.DataFrame | None
) -> tuple[_Layer, dict[tuple[str, str], str]]:
    """Labels numbered from 1 without gaps, with names and colours; and the place of each region."""
    present = np.unique(dseg[dseg > 0])
    numbers = np.zeros(int(present[-1]) + 1, np.int16)
    numbers[present] = np.arange(1, present.size + 1)
    rows = {} if labels is None else {int(row['index']): row for row in labels.to_dict('records')}
    names, regions = [], {}
    for index in present.tolist():
        row = rows.get(index, {})
        region, side = str(row.get('region') or row.get('name') or index), str(row.get('hemisphere') or '')
        names.append(f'{region} {side}'.strip())
        regions.setdefault((region, side), []).append(index)
    colours = {i: colour for _, own, colour in colours_of(dseg, labels) for i in own}
    about = {
        'title': title,
        'names': names,
        'colours': [colours.get(index, '#ffd21f') for index in present.tolist()],
    }
    for whole, parts in COMPOSITES.items():
        for side in ('L', 'R', ''):
            own = [index for part in parts for index in regions.get((part, side), [])]
            if own:
                regions.setdefault((whole, side), own)
    voxels, found = np.argwhere(dseg > 0), dseg[dseg > 0]
    places = {key: _place(voxels[np.isin(found, own)], affine) for key, own in regions.items()}
    return _Layer(Volume(numbers[np.maximum(dseg, 0)], 0.0), affine, about, is_first=True), places


def _place(voxels: np.ndarray, affine: np.ndarray) -> str:
    """The voxel of a region that is nearest to its centre, as 'x y z' in mm."""
    middle = voxels[np.argmin(((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1))]
    return ' '.join(f'{value:.2f}' for value in (affine @ [*middle, 1.0])[:3])


def _notes(series: list[_Series], coarseness: int) -> list[str]:
    """How precise the values of the viewer are."""
    shown = {
        layer.about['key']: layer for one in series for layer in one.layers if not layer.volume.is_labels
    }
    steps = [
        f'{layer.about["symbol"]} in steps of {layer.volume.step * coarseness:g} {layer.about["unit"]}'
        for layer in shown.values()
        if layer.about['unit']
    ]
    steps += [f'other images in {250 // coarseness} grey values'] * (len(steps) < len(shown))
    notes = [f'The viewer holds {", ".join(steps)}.']
    for one in series:
        joined = {}
        for layer in one.layers:
            now = _size(spacing_of(layer.affine))
            if now != _size(one.voxels) and layer.about.get('key'):
                joined.setdefault(now, []).append(layer.about['symbol'])
        notes += [
            f'To keep the page small, voxels of {one.name} ({_size(one.voxels)}) were joined to {now} in '
            f'{", ".join(symbols)}; the files have all of them.'
            for now, symbols in joined.items()
        ]
    return notes


def _size(voxels: Iterable[float]) -> str:
    return ' x '.join(f'{v:.3g}' for v in voxels) + ' mm'
