"""Layers of the viewer: maps and labels of a series, packed as finely as they fit. Arrays in, text out."""

import base64
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from bids_qsm.biomarkers.regions import COMPOSITES
from bids_qsm.errors import size_text
from bids_qsm.plotting.maps import Look, colours_of, window_of
from bids_qsm.plotting.mosaic import spacing_of
from bids_qsm.plotting.volumes import (
    LEVELS,
    NOTHING,
    Volume,
    around,
    crop,
    grey_step,
    packed,
    precisions,
    sample_size,
    thin,
    unpacked,
    whole_numbers,
)

LIMIT = 4_000_000
"""Bytes that the viewer adds to a page at most: library, volumes, names."""
ROOM = LIMIT - 600_000
"""Of these, bytes of volumes in base64."""
_OF_MAP, _OF_LABELS, _OF_ALL = 0.04, 0.01, 0.3
"""Share of the room that a map and an image of labels of an application get, and all of them at most."""
_MOST_JOINS = 3
"""How often voxels of an application's map are joined, before it is left out."""


@dataclass(frozen=True)
class ShownMap:
    """A map of the viewer."""

    key: str
    data: np.ndarray
    look: Look
    symbol: str = ''
    """In the line of values; the title of the look where it is empty."""


@dataclass(frozen=True)
class ShownLabels:
    """Labels or a mask of the viewer."""

    key: str
    title: str
    data: np.ndarray
    table: pd.DataFrame | None = None
    """Columns index, name, and region and hemisphere of regions."""
    stem: str = ''
    """Name of its file without extension, where the page needs the places of its regions."""


@dataclass(frozen=True)
class _Layer:
    volume: Volume
    affine: np.ndarray
    about: dict
    """What the page needs beside the values."""
    is_first: bool = False
    """Whether it is the first map of the series, or labels: its voxels are joined last."""
    is_grey: bool = False
    """Whether it is a map without a unit."""

    def joined(self, times: int) -> '_Layer':
        """The same with pairs of voxels joined."""
        volume, affine = self.volume, self.affine
        for _ in range(times):
            volume, affine = thin(volume, affine)
        return replace(self, volume=volume, affine=affine)


def rooms(n_series: int, applications: Mapping[str, tuple[int, int]]) -> tuple[int, dict[str, int]]:
    """Bytes for the images of a series, and for those of each of its applications.

    ``n_series`` of the participant share the page; ``applications`` have numbers of maps and of labels.

    >>> rooms(2, {'iron': (2, 1), 'lesions': (0, 1)})
    (1530000, {'iron': 153000, 'lesions': 17000})
    """
    room = ROOM / max(n_series, 1)
    shares = _shares(applications)
    whole = sum(shares.values())
    scale = min(1.0, _OF_ALL / whole) if whole else 0.0
    own = {name: round(room * share * scale) for name, share in shares.items()}
    return round(room - sum(own.values())), own


def joint_rooms(n_series: int, applications: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Bytes for the images of each application of all series of a session: together those of one series.

    >>> joint_rooms(2, {'cosmos': (2, 0), 'tensor': (1, 0)})
    {'cosmos': 1133333, 'tensor': 566667}
    """
    shares = _shares(applications)
    whole = sum(shares.values())
    return {name: round(ROOM / n_series * share / whole) for name, share in shares.items()}


def _shares(applications: Mapping[str, tuple[int, int]]) -> dict[str, float]:
    """Share of the room of each application, by its numbers of maps and of labels."""
    return {name: _OF_MAP * maps + _OF_LABELS * labels for name, (maps, labels) in applications.items()}


def pack_layers(
    maps: Iterable[ShownMap],
    labels: Iterable[ShownLabels],
    mask: np.ndarray,
    affine: np.ndarray,
    *,
    room: int,
    may_leave_out: bool = False,
) -> dict:
    """Pack the part with the brain of maps and labels on one grid into ``room`` bytes.

    Parameters
    ----------
    maps, labels
        Volumes (3D) of the shape of ``mask``; each is looked at once, so that few are in memory at a time.
    mask : ndarray of bool
        Bounds the part that is packed, and what is shown of maps.
    affine : ndarray (4, 4)
        Voxel to scanner coordinates (RAS, mm).
    room : int
        Bytes of base64.
    may_leave_out
        Whether maps that need too much are left out, the last first, and not made ever coarser.

    Returns
    -------
    dict
        ``maps`` and ``labels`` (what the page needs of each, with its values; ``precision``, and the size of
        ``voxels`` (mm) before any were joined, say how coarse it is), ``places`` (stem -> list of region,
        hemisphere, 'x y z' in mm) and ``left_out`` (titles).
    """
    part, moved = crop(mask, affine)
    inside = mask[part]
    near = around(inside, moved)
    layers, places = [], {}
    for shown in maps:
        data = np.asfortranarray(shown.data[part], np.float32)
        layers.append(_map_layer(shown, data, moved, inside, near, is_first=not layers and not may_leave_out))
    for one in labels:
        dseg = _whole(one.data[part])
        if not (dseg > 0).any():
            continue
        layer, found = label_layer(one.key, one.title, dseg, moved, one.table)
        layers.append(layer)
        if one.stem:
            places[one.stem] = [[*key, at] for key, at in found.items()]
    fit = _fit_some if may_leave_out else _fit
    coarseness, kept, packs = fit(layers, room)
    there = [id(layer.about) for layer in kept]
    described = [
        {
            **layer.about,
            'precision': _precision(layer, coarseness),
            'voxels': spacing_of(affine).tolist(),
            'step': layer.volume.step * coarseness,
            **_placed(layer.volume, layer.affine),
            'data': pack,
        }
        for layer, pack in zip(kept, packs, strict=True)
    ]
    return {
        'maps': [layer for layer in described if layer['step']],
        'labels': [layer for layer in described if not layer['step']],
        'places': places,
        'left_out': [one.about['title'] for one in layers if id(one.about) not in there],
    }


def _fit(layers: list[_Layer], room: int) -> tuple[int, list[_Layer], list[str]]:
    """Take the finest precision that fits into ``room`` bytes of base64."""
    done = {True: 0, False: 0}
    for coarseness, of_first, of_others in precisions():
        times = {True: of_first, False: of_others}
        layers = [one.joined(times[one.is_first] - done[one.is_first]) for one in layers]
        done = times
        packs = _packs(layers, coarseness, room)
        if packs is not None:
            return coarseness, layers, packs
    raise AssertionError('precisions never end')


def _fit_some(layers: list[_Layer], room: int) -> tuple[int, list[_Layer], list[str]]:
    """The same with joins up to `_MOST_JOINS`; beyond that, of the maps only the first that fit are kept."""
    for coarseness, times in _few_precisions():
        joined = [one if one.is_first else one.joined(times) for one in layers]
        packs = _packs(joined, coarseness, room)
        if packs is not None:
            return coarseness, joined, packs
    numbered = [*_with_packs(joined, coarseness)]
    used, chosen = 0, []
    # labels are small, and without them a table has no places
    for i in sorted(range(len(joined)), key=lambda i: not joined[i].volume.is_labels):
        used += len(numbered[i])
        if used > room:
            break
        chosen.append(i)
    return coarseness, [joined[i] for i in sorted(chosen)], [numbered[i] for i in sorted(chosen)]


def _few_precisions() -> Iterator[tuple[int, int]]:
    yield 1, 0
    for times in range(_MOST_JOINS + 1):
        yield 2, times
        yield 4, times


def _packs(layers: list[_Layer], coarseness: int, room: int) -> list[str] | None:
    """The layers packed; None where they are larger than ``room``."""
    if sum(sample_size(one.volume, coarseness) for one in layers) * 4 / 3 > room:
        return None
    packs = [*_with_packs(layers, coarseness)]
    return packs if sum(map(len, packs)) <= room else None


def _with_packs(layers: list[_Layer], coarseness: int) -> Iterator[str]:
    for one in layers:
        yield _text(whole_numbers(one.volume, coarseness))


def step_of(window: tuple[float, float]) -> float:
    """Step of a map with a unit: a 250th of its window, rounded down to 1, 2 or 5 of a power of ten.

    >>> step_of((-0.1, 0.2)), step_of((0, 60)), step_of((0, 1))
    (0.001, 0.2, 0.002)
    """
    fine = (window[1] - window[0]) / LEVELS
    power = 10.0 ** math.floor(math.log10(fine))
    return float(f'{next(n for n in (5, 2, 1) if n * power <= fine * 1.0001) * power:.1g}')


def _map_layer(
    shown: ShownMap,
    data: np.ndarray,
    affine: np.ndarray,
    mask: np.ndarray,
    near: np.ndarray,
    *,
    is_first: bool,
):
    look = shown.look
    low, high = (float(end) for end in window_of([data], look, mask))
    step = grey_step(data, mask) if look.unit == 'arbitrary' else step_of((low, high))
    values = np.where(mask if look.masked else near, data, np.float32(np.nan))
    about = {
        'key': shown.key,
        'title': look.title,
        'symbol': shown.symbol or look.title,
        'unit': '' if look.unit in ('arbitrary', '1') else look.unit,
        'low': low,
        'high': high,
        'colours': look.cmap,
    }
    return _Layer(Volume(values, step), affine, about, is_first, is_grey=look.unit == 'arbitrary')


def label_layer(
    key: str, title: str, dseg: np.ndarray, affine: np.ndarray, labels: pd.DataFrame | None
) -> tuple[_Layer, dict[tuple[str, str], str]]:
    """Labels numbered from 1 without gaps, with names and colours; and the place of each region."""
    present = np.unique(dseg[dseg > 0])
    rows = {} if labels is None else {int(row['index']): row for row in labels.to_dict('records')}
    names, regions = [], {}
    for index in present.tolist():
        row = rows.get(index, {})
        region, side = str(row.get('region') or row.get('name') or index), str(row.get('hemisphere') or '')
        names.append(f'{region} {side}'.strip())
        regions.setdefault((region, side), []).append(index)
    colours = {i: colour for _, own, colour in colours_of(dseg, labels) for i in own}
    about = {
        'key': key,
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
    numbered = np.where(dseg > 0, np.searchsorted(present, dseg) + 1, 0).astype(np.int16)
    return _Layer(Volume(numbered, 0.0), affine, about, is_first=True), places


def _place(voxels: np.ndarray, affine: np.ndarray) -> str:
    """The voxel of a region that is nearest to its centre, as 'x y z' in mm."""
    middle = voxels[np.argmin(((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1))]
    return ' '.join(f'{value:.2f}' for value in (affine @ [*middle, 1.0])[:3])


def _precision(layer: _Layer, coarseness: int) -> str:
    """How precise the values of a map are; nothing of labels."""
    if layer.volume.is_labels:
        return ''
    if layer.is_grey:
        return f'other images in {LEVELS // coarseness} grey values'
    step = f'{layer.volume.step * coarseness:g}'
    return f'{layer.about["symbol"]} in steps of {step} {layer.about["unit"]}'.strip()


def joined(layers: Iterable[Mapping]) -> list[str]:
    """Which voxels of packed maps of a series were joined, as parts of sentences."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in layers:
        was, now = (size_text(size) for size in (one['voxels'], spacing_of(np.array(one['affine']))))
        if now != was:
            found.setdefault((was, now), []).append(one['symbol'])
    return [
        f'({was} mm) were joined to {now} mm in {", ".join(names)}' for (was, now), names in found.items()
    ]


def coarser(layer: Mapping) -> dict:
    """A packed layer with pairs of voxels joined, as `thin` does it: its data are about half as large."""
    values = unpacked(base64.b64decode(layer['data']), tuple(layer['shape']))
    if layer['step']:
        volume = Volume(np.where(values == NOTHING, np.float32(np.nan), values.astype(np.float32)), 1.0)
    else:
        volume = Volume(values, 0.0)
    volume, affine = thin(volume, np.array(layer['affine']))
    return {**layer, **_placed(volume, affine), 'data': _text(whole_numbers(volume))}


def _placed(volume: Volume, affine: np.ndarray) -> dict:
    """Where the voxels of a layer are."""
    inverse = np.linalg.inv(affine)
    return {'shape': list(volume.data.shape), 'affine': affine.tolist(), 'inverse': inverse.tolist()}


def _text(values: np.ndarray) -> str:
    return base64.b64encode(packed(values)).decode()


def _whole(data: np.ndarray) -> np.ndarray:
    """Labels as whole numbers; 0 where a value is not finite, or beyond what an integer holds."""
    sound = np.abs(data) < 2.0**53  # not so of NaN
    return np.asfortranarray(np.rint(np.where(sound, data, 0)), np.int64)
