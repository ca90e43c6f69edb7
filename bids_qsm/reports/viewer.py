"""The viewer of a subject's page: the maps and labels of each series, packed to fit into the page."""

import base64
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from bids_qsm.anatomy.transform import spacing_of
from bids_qsm.applications import applications
from bids_qsm.biomarkers.regions import COMPOSITES
from bids_qsm.derivatives.products import PRODUCTS
from bids_qsm.derivatives.tables import read_labels
from bids_qsm.entities import entities_of
from bids_qsm.errors import UserError
from bids_qsm.interfaces.io import read, without_frames
from bids_qsm.plotting.maps import colours_of, window_of
from bids_qsm.plotting.volumes import (
    Volume,
    around,
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
    voxels: tuple[float, ...]
    """Size as measured (mm)."""
    layers: list[_Layer]
    places: dict[str, dict[tuple[str, str], str]]


def build_viewer(folder: Path, names: Iterable[str]) -> tuple[dict | None, list[tuple[str, str]]]:
    """Pack the maps and labels of series so that library and volumes stay within `LIMIT`.

    Every series has an equal share, and only one is in memory at a time.

    Parameters
    ----------
    folder
        Output of the subject, with images in ``anat`` and the magnitude in ``figures``.
    names
        Names of the series.

    Returns
    -------
    viewer : dict or None
        ``library`` and ``blocks`` (id -> base64 of gzip), ``content`` (JSON for the script), ``notes``
        (sentences on precision), ``places`` (series -> stem of the labels' file -> (region, hemisphere) ->
        'x y z' in mm of the scanner). None where no series has a map.
    troubles : list
        Series, and a sentence on what of it cannot be read and is left out.
    """
    own = {name: _maps(folder, name) for name in names}
    own = {name: maps for name, maps in own.items() if maps}
    troubles: list[tuple[str, str]] = []
    if not own:
        return None, troubles
    library = base64.b64encode(_library()).decode()
    room = (LIMIT - _REST - len(library)) // len(own)
    blocks, content, places, steps, joins = {}, [], {}, {}, []
    for name, maps in own.items():
        found = _pack(folder, name, maps, room, troubles)
        if found is None:
            continue
        layers, packs, places[name], how, joined = found
        for i, (layer, pack) in enumerate(zip(layers, packs, strict=True)):
            layer['data'] = f'volume-{len(content)}-{i}'
            blocks[layer['data']] = pack
        content.append(
            {
                'name': name,
                'maps': [layer for layer in layers if layer['step']],
                'labels': [layer for layer in layers if not layer['step']],
            }
        )
        steps.setdefault(how, []).append(name)
        joins += joined
    if not content:
        return None, troubles
    notes = [
        f'The viewer holds {text}.' if len(steps) == 1 else f'The viewer holds of {", ".join(whose)}: {text}.'
        for text, whose in steps.items()
    ]
    viewer = {
        'library': library,
        'blocks': blocks,
        'content': content,
        'notes': notes + joins,
        'places': places,
    }
    return viewer, troubles


def _pack(
    folder: Path, name: str, maps: Mapping[str, Path], room: int, troubles: list[tuple[str, str]]
) -> tuple[list[dict], list[str], dict, str, list[str]] | None:
    """Of a series what the page needs of each layer, the packed layers, places, and how precise they are."""
    series = _read(folder, name, maps, troubles)
    if series is None:
        return None
    coarseness, layers, packs = _fit(series.layers, room)
    described = [
        {
            **layer.about,
            'step': layer.volume.step * coarseness,
            'shape': layer.volume.data.shape,
            'affine': layer.affine.tolist(),
            'inverse': np.linalg.inv(layer.affine).tolist(),
        }
        for layer in layers
    ]
    return described, packs, series.places, _steps(layers, coarseness), _joins(name, series.voxels, layers)


@cache
def _library() -> bytes:
    compress = zlib.compressobj(9, zlib.DEFLATED, 31)
    return compress.compress(packaged('niivue.min.js').encode()) + compress.flush()


def _fit(layers: list[_Layer], room: int) -> tuple[int, list[_Layer], list[str]]:
    """Take the finest precision that fits into ``room`` bytes of base64."""
    done = {True: 0, False: 0}
    for coarseness, of_first, of_others in precisions():
        times = {True: of_first, False: of_others}
        layers = [one.joined(times[one.is_first] - done[one.is_first]) for one in layers]
        done = times
        if sum(sample_size(one.volume, coarseness) for one in layers) * 4 / 3 > room:
            continue
        packs = [base64.b64encode(packed(whole_numbers(one.volume, coarseness))).decode() for one in layers]
        if sum(map(len, packs)) <= room:
            return coarseness, layers, packs
    raise AssertionError('precisions never end')


def _maps(folder: Path, name: str) -> dict[str, Path]:
    """Files of the maps of a series."""
    images = _images(folder, name)
    maps = {port: images[key] for port in MAPS if (key := (PRODUCTS[port].suffix, ())) in images}
    kept = folder / 'figures' / f'{name}_desc-magnitude_volume.nii.gz'
    return {**maps, 'magnitude': kept} if kept.exists() else maps


def _read(
    folder: Path, name: str, maps: Mapping[str, Path], troubles: list[tuple[str, str]]
) -> _Series | None:
    """The part with the brain of maps and labels of a series; None where no map can be read."""

    def load(path: Path, reader: Callable = _volume):
        try:
            return reader(path)
        except UserError as error:
            troubles.append((name, str(error).replace(str(path), path.name)))
            return None

    images = _images(folder, name)
    shape, affine, layers, places = None, np.eye(4), [], {}

    def on_grid(image: tuple[np.ndarray, np.ndarray] | None):
        return image is not None and image[0].shape == shape and np.allclose(image[1], affine, atol=1e-3)

    for port, path in maps.items():
        image = load(path)
        if image is None:
            continue
        if shape is None:
            shape, affine = image[0].shape, image[1]
            paths = (images.get(('mask', (('desc', what),))) for what in ('brain', 'object'))
            of_mask = next((load(one) for one in paths if one is not None), None)
            if of_mask is not None and of_mask[0].shape == shape:
                mask = of_mask[0] > 0
            else:
                mask = np.isfinite(image[0]) & (image[0] != 0)
            part, moved = crop(mask, affine)
            mask = mask[part]
            near = around(mask, moved)
        if on_grid(image):
            data = np.asfortranarray(image[0][part], np.float32)
            layers.append(replace(_map_layer(port, data, moved, mask, near), is_first=not layers))
    if shape is None:
        return None
    for (suffix, extra), path in images.items():
        title = _title(suffix, dict(extra))
        image = load(path) if title else None
        if not on_grid(image):
            continue
        dseg = np.asfortranarray(np.rint(image[0][part]), np.int32)
        if not (dseg > 0).any():
            continue
        stem = path.name.removesuffix('.nii.gz')
        table = path.with_name(f'{stem}.tsv')
        labels = load(table, read_labels) if table.exists() else None
        layer, places[stem] = _label_layer(title, dseg, moved, labels)
        layers.append(layer)
    return _Series(tuple(spacing_of(affine)), layers, places)


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


def _map_layer(port: str, data: np.ndarray, affine: np.ndarray, mask: np.ndarray, near: np.ndarray):
    look = PRODUCTS[port].look
    step = STEPS.get(port) or grey_step(data, mask)
    low, high = window_of([data], look, mask)
    shown = np.where(mask if look.masked else near, data, np.float32(np.nan))
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


def _steps(layers: list[_Layer], coarseness: int) -> str:
    """How precise the values of maps are."""
    maps = [layer for layer in layers if not layer.volume.is_labels]
    steps = [
        f'{layer.about["symbol"]} in steps of {layer.volume.step * coarseness:g} {layer.about["unit"]}'
        for layer in maps
        if layer.about['unit']
    ]
    return ', '.join(steps + [f'other images in {250 // coarseness} grey values'] * (len(steps) < len(maps)))


def _joins(name: str, voxels: tuple[float, ...], layers: list[_Layer]) -> list[str]:
    """Which voxels of a series were joined."""
    joined = {}
    for layer in layers:
        now = _size(spacing_of(layer.affine))
        if now != _size(voxels) and not layer.volume.is_labels:
            joined.setdefault(now, []).append(layer.about['symbol'])
    return [
        f'To keep the page small, voxels of {name} ({_size(voxels)}) were joined to {now} in '
        f'{", ".join(symbols)}; the files have all of them.'
        for now, symbols in joined.items()
    ]


def _size(voxels: Iterable[float]) -> str:
    return ' x '.join(f'{v:.3g}' for v in voxels) + ' mm'
