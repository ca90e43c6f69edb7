"""Regional statistics of quantitative maps over whole regions, with errors that count noise and borders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.biomarkers.border import border_slope
from bids_qsm.biomarkers.partialvolume import Recovered, recover
from bids_qsm.biomarkers.precision import Correlation, fit_correlation, shared_variance, standard_error
from bids_qsm.biomarkers.reference import REFERENCES, reference_regions, slow_error
from bids_qsm.biomarkers.region_columns import AGAINST, BORDER_MM, dictionary
from bids_qsm.recon.grid import Grid

COMPOSITES = {'SN': ('SNc', 'SNr'), 'GP': ('GPe', 'GPi')}
ORDER: tuple[str, ...] = (*REFERENCES, 'SN', 'SNc', 'SNr', 'GP', 'GPe', 'GPi', 'RN', 'STN')
ORDER += ('Putamen', 'Caudate', 'Thalamus', 'Dentate')
UNITS = {'chi': 'ppm', 'R2star': '1/s'}
_STATISTICS: tuple[str, ...] = ('mean', 'sd', 'se', 'median', 'p5', 'p95', 'mean_positive', 'mean_weighted')
_STATISTICS += (
    'se_weighted',
    'border_effect',
    'core_voxels',
    'core_mean',
    'core_sd',
    'core_se',
    'core_median',
)
QUALITY = ('source', 'confidence', 'moved_mm', 'volume_ratio')
_CROSS = ndimage.generate_binary_structure(3, 1)
_NEIGHBOURS = _CROSS.astype(np.uint8)
_FEWEST = 50
_MARGIN = 2


TOO_SMALL = 'no voxel lies in it by half'
"""Note of a region inside the field of view that has no voxel."""


@dataclass(frozen=True)
class _Region:
    """A region inside a box of the grid: all of it, its sides, and its core."""

    name: str
    hemisphere: str
    index: int | None
    box: tuple
    whole: np.ndarray
    core: np.ndarray
    """Its core inside the mask."""
    how: str
    coverage: float
    labels: dict
    """Its labels and their volumes (voxels); empty for a reference region."""
    note: str = ''
    sides: tuple[np.ndarray, ...] = ()
    weights: tuple[np.ndarray, ...] = ()
    """Weight of each voxel in each side (0 to 1); empty where shares are not known."""
    border_mm: float = np.nan
    quality: dict = field(default_factory=dict)


def region_table(
    maps: dict[str, np.ndarray],
    dseg: np.ndarray,
    labels: pd.DataFrame,
    mask: np.ndarray,
    grid: Grid,
    *,
    probseg: np.ndarray | None = None,
    white_matter: np.ndarray | None = None,
    units: Mapping[str, str] = UNITS,
    reference: str = '',
    min_voxels: int = 5,
    label_mm: float = 0.4,
):
    """Tabulate maps over the regions of a label image and over reference regions.

    Statistics are computed over the whole region inside the mask. ``mean_weighted`` weights each voxel by
    `membership`, of the share of it that lies in the region. The standard errors of both count noise that is
    correlated between voxels, see `bids_qsm.biomarkers.precision`, and the position of the border, see
    `bids_qsm.biomarkers.border`; they do not count the tissue that voxels at the border share. ``mean_pv`` is
    corrected for it, see `bids_qsm.biomarkers.partialvolume`.

    The columns ``core_*`` are of the core of the region, which holds little of its surroundings, but is not
    the whole nucleus: where a nucleus varies inside, it reads higher or lower. The core is the region
    without its outermost layer of voxels ('eroded'). In small regions it is the voxels with at least four of
    six neighbours in the region ('inner'), or the whole region ('whole'). The choice depends on the volume of
    the region in the atlas and on the voxel size, so that it is the same in all sessions of a study; if fewer
    than ``min_voxels`` are left, the next one is taken. The noise of a voxel is taken from the core.

    Parameters
    ----------
    maps : dict of str to ndarray
        Maps by name ('chi' in ppm, 'R2star' in 1/s), shape ``grid.shape``; NaN voxels are left out.
    dseg : ndarray of int
        Labels on the same grid.
    labels : DataFrame
        Columns index, name, hemisphere ('L', 'R' or empty), region; optionally volume_mm3, the volume of
        each label in the atlas. The coverage of regions at the edge of the field of view is relative to it,
        scaled by the volume of complete regions in this image. Optionally source ('own' or 'prior'),
        confidence, moved_mm and volume_ratio of nuclei that were segmented.
    mask : ndarray of bool
        Where the maps are given.
    grid : Grid
    probseg : ndarray of uint8, shape ``(*grid.shape, len(labels))``, optional
        Share of each voxel in each label (in 255ths), in the order of ``labels``.
    white_matter : ndarray of bool, optional
        Deep white matter, on the same grid.
    units : mapping of str to str
        Unit of each map.
    reference : str
        Reference of susceptibility, for the column of that name.
    min_voxels : int
        Smallest core.
    label_mm : float
        Standard deviation (mm) of the position of labels along each axis, for partial volume correction, and
        of borders of labels without a source; of others it is `BORDER_MM`.

    Returns
    -------
    DataFrame
        One row a region, hemisphere and map; see `dictionary`. Brain, CSF and white matter come first;
        regions of the atlas with these names are marked '(atlas)'. A region outside the field of view has
        n_voxels 0, coverage 0 and NaN statistics; ``note`` says why a region has no statistics.

    Raises
    ------
    ValueError
        ``probseg`` does not have a volume for each label.
    """
    if probseg is not None and probseg.shape != (*dseg.shape, len(labels)):
        raise ValueError(f'probseg has shape {probseg.shape}, not {(*dseg.shape, len(labels))}')
    labels = labels.assign(
        hemisphere=[h if h in ('L', 'R') else '' for h in labels['hemisphere']],
        region=[f'{r} (atlas)' if r in REFERENCES else r for r in labels['region']],
    ).reset_index(drop=True)
    regions = list(_atlas_regions(dseg, labels, probseg, mask, grid, min_voxels, label_mm))
    single = [r for r in regions if r.index is not None and r.core.sum() >= _FEWEST]
    pooled = [(r.box, r.core) for r in single] or [((slice(None),) * 3, mask)]
    correlations = {name: fit_correlation(data, pooled, grid) for name, data in maps.items()}
    index = [int(i) for i in labels['index']]
    recovered = recover(maps, dseg, index, mask, grid, correlations, label_mm=label_mm)
    whole = (slice(None),) * 3
    references = [
        _Region(r.name, 'both', None, whole, r.region, r.region & mask, r.how, r.coverage, {}, r.note)
        for r in reference_regions(maps, mask, white_matter, grid)
    ]
    table = pd.DataFrame(
        [
            row
            for region in (*references, *regions)
            for row in _rows(region, maps, recovered, correlations, mask, grid, units, reference)
        ]
    )
    table['index'] = table['index'].astype('Int64')
    return _with_zeros(table)[list(dictionary())]


def _atlas_regions(
    dseg: np.ndarray,
    labels: pd.DataFrame,
    probseg: np.ndarray | None,
    mask: np.ndarray,
    grid: Grid,
    min_voxels: int,
    label_mm: float,
):
    visible = _shares(dseg, labels, grid)
    counts = np.bincount(np.asarray(dseg).ravel(), minlength=int(labels['index'].max()) + 1)
    boxes = _boxes(dseg, labels, probseg)
    for name, hemisphere, part in _groups(labels):
        wanted = part['index'].tolist()
        there = [i for i in wanted if counts[i]]
        box = _grown(_union([boxes[i] for i in wanted]), dseg.shape)
        by_side = [rows for _, rows in part.groupby('hemisphere')]
        sides = tuple(np.isin(dseg[box], rows['index']) for rows in by_side)
        here = np.logical_or.reduce(sides)
        core, how = _core(here, _volume_of(part, here, grid), grid.voxel_size, min_voxels)
        inside = mask[box]
        in_mask = (here & inside).sum() / here.sum() if here.any() else 0.0
        share = np.average([visible[i][0] for i in wanted], weights=[visible[i][1] for i in wanted])
        note = ''
        if not here.any():
            is_there = probseg is not None and probseg[box][..., list(part.index)].any()
            how, note = 'none', TOO_SMALL if is_there else 'outside the field of view'
        elif not in_mask:
            note = 'outside the mask'
        elif not (core & inside).any():
            note = 'its core lies outside the mask'
        yield _Region(
            name,
            hemisphere,
            wanted[0] if len(wanted) == 1 else None,
            box,
            here,
            core & inside,
            how,
            in_mask * share,
            {i: int(counts[i]) for i in there},
            note,
            sides,
            _soft(probseg, box, by_side, there),
            _border_mm(part, there, label_mm),
            _quality(part, counts),
        )


def _boxes(dseg: np.ndarray, labels: pd.DataFrame, probseg: np.ndarray | None):
    """Box of each label by its index, with voxels that lie in it in part; None where it has none."""
    found = ndimage.find_objects(np.asarray(dseg, np.int32), max_label=int(labels['index'].max()))
    boxes = {i: found[i - 1] for i in labels['index']}
    if probseg is not None:
        for column, i in enumerate(labels['index']):
            soft = ndimage.find_objects((probseg[..., column] > 0).astype(np.uint8))
            # an image of nothing has no object
            if soft:
                boxes[i] = _union([boxes[i], soft[0]])
    return boxes


def _soft(probseg: np.ndarray | None, box: tuple, by_side: list[pd.DataFrame], there: list[int]):
    """Weight of each voxel of a box in each side; nothing where a label of the image has no shares.

    A voxel weighs what the share p of it tells of whether most of it lies in the region: weights of p itself
    would count the tissue around it for a fifth of a small nucleus.
    """
    if probseg is None or not there:
        return ()
    # rows of the table of labels are the volumes of the image
    parts = [probseg[box][..., list(rows.index)] for rows in by_side]
    known = [i for rows, part in zip(by_side, parts, strict=True) for i in rows['index'][part.any((0, 1, 2))]]
    if not set(there) <= set(known):
        return ()
    return tuple(membership(np.minimum(part.sum(-1, dtype=np.float32) / 255, 1)) for part in parts)


def membership(share: np.ndarray):
    """Weight (0 to 1) of voxels of which a share lies in a region: near 0 or 1, and continuous between.

    >>> membership(np.array([0, 0.25, 0.5, 0.75, 1])).round(2).tolist()
    [0.0, 0.1, 0.5, 0.9, 1.0]
    """
    return share**2 / (share**2 + (1 - share) ** 2)


def _border_mm(part: pd.DataFrame, there: list[int], label_mm: float):
    """Standard deviation (mm) of the border: the largest of the labels in the image."""
    if 'source' not in part or not there:
        return label_mm if there else np.nan
    return max(BORDER_MM.get(s, label_mm) for s in part.loc[part['index'].isin(there), 'source'])


def _quality(part: pd.DataFrame, counts: np.ndarray):
    """How the labels of a region were found, of those in the image."""
    volume = counts[part['index'].to_numpy()]
    part, volume = part[volume > 0], volume[volume > 0]
    columns = {name: part.get(name, pd.Series(np.nan, part.index)) for name in QUALITY}
    sources = set(columns['source'].dropna())
    ratio = columns['volume_ratio'].to_numpy(float)
    known = np.isfinite(ratio)
    return {
        'source': sources.pop() if len(sources) == 1 else 'mixed' if sources else 'n/a',
        'confidence': columns['confidence'].min(),
        'moved_mm': columns['moved_mm'].max(),
        'volume_ratio': _short(np.average(ratio[known], weights=volume[known])) if known.any() else np.nan,
    }


def _groups(labels: pd.DataFrame):
    """(region, hemisphere, rows of the label table), composites included, in the order of the table."""
    regions = {name: labels[labels['region'] == name] for name in labels['region'].unique()}
    for name, parts in COMPOSITES.items():
        if name not in regions and all(p in regions for p in parts):
            regions[name] = labels[labels['region'].isin(parts)]
    rank = {name: n for n, name in enumerate(ORDER)}
    for name in sorted(regions, key=lambda r: rank.get(r, len(rank))):
        part = regions[name]
        for side in ('L', 'R'):
            one = part[part['hemisphere'] == side]
            if len(one):
                yield name, side, one
        yield name, 'both', part


def _shares(dseg: np.ndarray, labels: pd.DataFrame, grid: Grid):
    """Share of each label inside the field of view, and its weight (volume), by index."""
    counts = np.bincount(np.asarray(dseg).ravel(), minlength=int(labels['index'].max()) + 1)
    index = labels['index'].to_numpy()
    volume = counts[index] * grid.voxel_volume
    if 'volume_mm3' not in labels:
        return {i: (float(v > 0), max(v, 1e-6)) for i, v in zip(index, volume, strict=True)}
    faces = np.unique(np.concatenate([np.take(dseg, e, a).ravel() for a in range(3) for e in (0, -1)]))
    cut = np.isin(index, faces) | (volume == 0)
    atlas = np.maximum(labels['volume_mm3'].to_numpy(float), 1e-6)
    scale = volume[~cut].sum() / atlas[~cut].sum() if (~cut).any() else 1.0
    share = np.where(cut, np.minimum(volume / (atlas * scale), 1.0), 1.0)
    return {i: (s, w) for i, s, w in zip(index, share, atlas, strict=True)}


def _union(boxes: list):
    """Box around boxes, of which some may be None; None where all are."""
    boxes = [b for b in boxes if b is not None]
    if not boxes:
        return None
    return tuple(slice(min(b[d].start for b in boxes), max(b[d].stop for b in boxes)) for d in range(3))


def _grown(box: tuple | None, shape: tuple[int, ...]):
    """A box with a margin; a single voxel where there is none."""
    if box is None:
        return (slice(0, 1),) * 3
    return tuple(
        slice(max(b.start - _MARGIN, 0), min(b.stop + _MARGIN, n)) for b, n in zip(box, shape, strict=True)
    )


def _volume_of(part: pd.DataFrame, region: np.ndarray, grid: Grid):
    """Volume (mm^3) of one side of a region, from the atlas if it has volumes, otherwise from the label."""
    sides = max(part['hemisphere'].nunique(), 1)
    if 'volume_mm3' in part:
        return float(part['volume_mm3'].sum()) / sides
    return float(region.sum()) * grid.voxel_volume / sides


def _core(region: np.ndarray, volume: float, voxel_size: Sequence[float], min_voxels: int):
    """Core of a region and its kind; voxels beyond the array count as inside."""
    # the edge of the field of view is not the edge of the region
    neighbours = ndimage.convolve(region.astype(np.uint8), _NEIGHBOURS, mode='nearest') - region
    layers = np.asarray(voxel_size) / max((3 * volume / (4 * np.pi)) ** (1 / 3), 1e-6)
    for how, least, layer, share in (('eroded', 6, 1.0, 0.38), ('inner', 4, 0.5, 0.45)):
        # remaining share of a sphere of the same volume
        left = np.prod(np.maximum(1 - layer * layers, 0))
        core = region & (neighbours >= least)
        if left >= share and core.sum() >= min_voxels:
            return core, how
    return region, 'whole'


def _rows(
    region: _Region,
    maps: Mapping[str, np.ndarray],
    recovered: dict[str, Recovered],
    correlations: dict[str, Correlation],
    mask: np.ndarray,
    grid: Grid,
    units: Mapping[str, str],
    reference: str,
):
    """One row a map."""
    for name, data in maps.items():
        data = data[region.box]
        inside = mask[region.box] & np.isfinite(data)
        mean_pv, se_pv = recovered[name].combined(region.labels)
        row = {
            'region': region.name,
            'hemisphere': region.hemisphere,
            'index': region.index,
            'map': name,
            'n_voxels': int((region.whole & inside).sum()),
            'volume_mm3': round(float(region.whole.sum() * grid.voxel_volume), 2),
            'coverage': round(float(region.coverage), 4),
            'core': region.how,
            'mean_pv': mean_pv,
            'se_pv': se_pv,
            'zero_se': np.nan,
            'source': 'n/a',
            **dict.fromkeys(QUALITY[1:], np.nan),
            **region.quality,
            'border_mm': region.border_mm,
            'units': units.get(name, 'n/a'),
            'reference': reference if name == 'chi' else 'n/a',
            'note': region.note or 'n/a',
            **_statistics(data, region, inside, correlations[name], grid),
        }
        if region.sides and row['n_voxels']:
            slope = border_slope(data, region.sides, inside, grid)
            error = slope.error(region.border_mm)
            row['se'], row['se_pv'] = np.hypot(row['se'], error), np.hypot(row['se_pv'], error)
            row['border_effect'] = slope.grow * region.border_mm
        if name == 'chi' and region.name in REFERENCES and row['n_voxels'] > 1:
            row['zero_se'] = np.hypot(row['se'], slow_error(data, region.core & inside))
        yield row


def _statistics(data: np.ndarray, region: _Region, inside: np.ndarray, correlation: Correlation, grid: Grid):
    """Statistics of a map over a region and its core, and by the weight of each voxel.

    The border of the whole region, which counts in more than these, does not count in ``se`` yet.
    """
    whole, core = region.whole & inside, region.core & inside
    found = dict.fromkeys(_STATISTICS, np.nan) | {'core_voxels': int(core.sum())}
    if core.any():
        of_core = data[core].astype(np.float64)
        found['core_mean'], found['core_median'] = of_core.mean(), np.median(of_core)
        found['core_sd'] = of_core.std(ddof=1) if of_core.size > 1 else np.nan
        found['core_se'] = standard_error(of_core, shared_variance(core, correlation, grid))
    if not whole.any():
        return found
    values = data[whole].astype(np.float64)
    positive = values[values > 0]
    found['mean'], found['sd'] = values.mean(), values.std(ddof=1) if values.size > 1 else np.nan
    found['p5'], found['median'], found['p95'] = np.percentile(values, (5, 50, 95))
    found['mean_positive'] = positive.mean() if positive.size else np.nan
    found['se'] = _noise(data, whole, region, inside, correlation, grid)
    weight = np.where(inside, sum(region.weights), 0) if region.weights else np.zeros(1)
    if weight.any():
        used = weight > 0
        found['mean_weighted'] = np.average(data[used].astype(np.float64), weights=weight[used])
        found['se_weighted'] = np.hypot(
            _noise(data, weight, region, inside, correlation, grid),
            border_slope(data, region.weights, inside, grid).error(region.border_mm),
        )
    return found


def _noise(
    data: np.ndarray,
    weight: np.ndarray,
    region: _Region,
    inside: np.ndarray,
    correlation: Correlation,
    grid: Grid,
):
    """Standard error of a mean with the weight of each voxel, by noise."""
    core, used = region.core & inside, weight > 0
    shared = shared_variance(weight, correlation, grid)
    # the spread of the core is that of noise, where voxels at the border differ by what they share
    of_core = shared_variance(core, correlation, grid)
    noise = standard_error(data[core].astype(np.float64), of_core) * np.sqrt(shared / of_core)
    if not np.isfinite(noise):
        noise = standard_error(data[used].astype(np.float64), shared, weight[used].astype(np.float64))
    return noise


def _with_zeros(table: pd.DataFrame):
    """Add susceptibility less that of each reference region, and say whose zero is steadiest."""
    is_chi = table['map'] == 'chi'
    zeros = table[is_chi & table['region'].isin(REFERENCES)].set_index('region')
    added = {}
    for name, column in AGAINST.items():
        zero = zeros.loc[name] if name in zeros.index else None
        mean, error = (np.nan, np.nan) if zero is None else (zero['mean'], zero['zero_se'])
        added[column] = (table['mean'] - mean).where(is_chi)
        added[f'se_{column}'] = np.hypot(table['se'], error).where(is_chi)
        # a region relative to itself is zero by definition
        added[f'se_{column}'] = added[f'se_{column}'].mask(
            (table['region'] == name) & added[column].notna(), 0.0
        )
    table = table.assign(**added)
    if zeros['zero_se'].notna().sum() > 1:
        steadiest = is_chi & (table['region'] == zeros['zero_se'].astype(float).idxmin())
        note = table.loc[steadiest, 'note'].item()
        table.loc[steadiest, 'note'] = '; '.join([*([note] if note != 'n/a' else []), 'steadiest zero'])
    numbers = [*_STATISTICS, 'mean_pv', 'se_pv', 'zero_se', *added]
    for name in numbers:
        if name != 'core_voxels':
            table[name] = [_short(value) for value in table[name]]
    return table


def _short(value: float):
    return float(f'{value:.5g}')
