"""Regional statistics of quantitative maps over eroded regions, which limits partial volume effects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.biomarkers.partialvolume import Recovered, recover
from bids_qsm.biomarkers.precision import Correlation, fit_correlation, shared_variance, standard_error
from bids_qsm.biomarkers.reference import REFERENCES, reference_regions
from bids_qsm.recon.grid import Grid

COMPOSITES = {'SN': ('SNc', 'SNr'), 'GP': ('GPe', 'GPi')}
ORDER: tuple[str, ...] = (*REFERENCES, 'SN', 'SNc', 'SNr', 'GP', 'GPe', 'GPi', 'RN', 'STN')
ORDER += ('Putamen', 'Caudate', 'Thalamus', 'Dentate')
UNITS = {'chi': 'ppm', 'R2star': '1/s'}
STATISTICS = ('mean', 'sd', 'se', 'median', 'p5', 'p95', 'mean_positive')
_CROSS = ndimage.generate_binary_structure(3, 1)
_NEIGHBOURS = _CROSS.astype(np.uint8)
_FEWEST = 50


@dataclass(frozen=True)
class _Region:
    """A region inside a box of the grid: the whole region, and its core for the statistics."""

    name: str
    hemisphere: str
    index: int | None
    box: tuple
    whole: np.ndarray
    core: np.ndarray
    how: str
    coverage: float
    labels: dict
    """Its labels and their volumes (voxels); empty for a reference region."""
    note: str = ''


def region_table(
    maps: dict[str, np.ndarray],
    dseg: np.ndarray,
    labels: pd.DataFrame,
    mask: np.ndarray,
    grid: Grid,
    *,
    white_matter: np.ndarray | None = None,
    units: Mapping[str, str] = UNITS,
    reference: str = '',
    min_voxels: int = 5,
    label_mm: float = 0.4,
):
    """Tabulate maps over the regions of a label image and over reference regions.

    Statistics are computed over the core of a region inside the mask. The core is the region without its
    outermost layer of voxels ('eroded'). In small regions it is the voxels with at least four of six
    neighbours in the region ('inner'), or the whole region ('whole'). The choice depends on the volume of the
    region in the atlas and on the voxel size, so that it is the same in all sessions of a study; if fewer
    than ``min_voxels`` are left, the next one is taken. Reference regions are taken whole. The standard
    error of the mean accounts for noise that is correlated between voxels, see
    `bids_qsm.biomarkers.precision`; ``mean_pv`` is corrected for partial volume, see
    `bids_qsm.biomarkers.partialvolume`.

    Parameters
    ----------
    maps : dict of str to ndarray
        Maps by name ('chi' in ppm, 'R2star' in 1/s), shape ``grid.shape``; NaN voxels are left out.
    dseg : ndarray of int
        Labels on the same grid.
    labels : DataFrame
        Columns index, name, hemisphere ('L', 'R' or empty), region; optionally volume_mm3, the volume of
        each label in the atlas. The coverage of regions at the edge of the field of view is relative to it,
        scaled by the volume of complete regions in this image.
    mask : ndarray of bool
        Where the maps are given.
    grid : Grid
    white_matter : ndarray of bool, optional
        Deep white matter, on the same grid.
    units : mapping of str to str
        Unit of each map.
    reference : str
        Reference of susceptibility, for the column of that name.
    min_voxels : int
        Smallest core.
    label_mm : float
        Standard deviation (mm) of the position of labels along each axis, for partial volume correction.

    Returns
    -------
    DataFrame
        One row a region, hemisphere and map; see `dictionary`. Brain, CSF and white matter come first;
        regions of the atlas with these names are marked '(atlas)'. A region outside the field of view has
        n_voxels 0, coverage 0 and NaN statistics; ``note`` says why a region has no statistics.
    """
    labels = labels.assign(
        hemisphere=[h if h in ('L', 'R') else '' for h in labels['hemisphere']],
        region=[f'{r} (atlas)' if r in REFERENCES else r for r in labels['region']],
    )
    regions = list(_atlas_regions(dseg, labels, mask, grid, min_voxels))
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
            for row in _rows(region, maps, recovered, correlations, grid, units, reference)
        ]
    )
    table['index'] = table['index'].astype('Int64')
    return table


def _atlas_regions(dseg: np.ndarray, labels: pd.DataFrame, mask: np.ndarray, grid: Grid, min_voxels: int):
    shares = _shares(dseg, labels, grid)
    counts = np.bincount(np.asarray(dseg).ravel(), minlength=int(labels['index'].max()) + 1)
    boxes = ndimage.find_objects(np.asarray(dseg, np.int32), max_label=int(labels['index'].max()))
    for name, hemisphere, part in _groups(labels):
        wanted = part['index'].tolist()
        box = _union([boxes[i - 1] for i in wanted], dseg.shape)
        here = np.isin(dseg[box], wanted)
        core, how = _core(here, _volume_of(part, here, grid), grid.voxel_size, min_voxels)
        inside = mask[box]
        in_mask = (here & inside).sum() / here.sum() if here.any() else 0.0
        share = np.average([shares[i][0] for i in wanted], weights=[shares[i][1] for i in wanted])
        note = ''
        if not here.any():
            how, note = 'none', 'outside the field of view'
        elif not (core & inside).any():
            note = 'its core lies outside the mask' if in_mask else 'outside the mask'
        yield _Region(
            name,
            hemisphere,
            wanted[0] if len(wanted) == 1 else None,
            box,
            here,
            core & inside,
            how,
            in_mask * share,
            {i: int(counts[i]) for i in wanted if counts[i]},
            note,
        )


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


def _union(boxes: list, shape: tuple[int, ...]):
    """Box around boxes with a margin of one voxel; a single voxel without boxes."""
    boxes = [b for b in boxes if b is not None]
    if not boxes:
        return (slice(0, 1),) * 3
    return tuple(
        slice(max(min(b[d].start for b in boxes) - 1, 0), min(max(b[d].stop for b in boxes) + 1, shape[d]))
        for d in range(3)
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
    grid: Grid,
    units: Mapping[str, str],
    reference: str,
):
    """One row a map."""
    for name, data in maps.items():
        data = data[region.box]
        voxels = region.core & np.isfinite(data)
        mean_pv, se_pv = recovered[name].combined(region.labels)
        yield {
            'region': region.name,
            'hemisphere': region.hemisphere,
            'index': region.index,
            'map': name,
            'n_voxels': int(voxels.sum()),
            'volume_mm3': round(float(region.whole.sum() * grid.voxel_volume), 2),
            'coverage': round(float(region.coverage), 4),
            'core': region.how,
            **_statistics(data[voxels].astype(np.float64), voxels, correlations[name], grid),
            'mean_pv': _short(mean_pv),
            'se_pv': _short(se_pv),
            'units': units.get(name, 'n/a'),
            'reference': reference if name == 'chi' else 'n/a',
            'note': region.note or 'n/a',
        }


def _statistics(values: np.ndarray, voxels: np.ndarray, correlation: Correlation, grid: Grid):
    if values.size == 0:
        return dict.fromkeys(STATISTICS, np.nan)
    positive = values[values > 0]
    low, median, high = np.percentile(values, (5, 50, 95))
    found = (
        values.mean(),
        values.std(ddof=1) if values.size > 1 else np.nan,
        standard_error(values, shared_variance(voxels, correlation, grid)),
        median,
        low,
        high,
        positive.mean() if positive.size else np.nan,
    )
    return {name: _short(value) for name, value in zip(STATISTICS, found, strict=True)}


def _short(value: float):
    return float(f'{value:.5g}')


def dictionary(atlas: str = ''):
    """Describe every column of `region_table`, as a BIDS data dictionary."""
    of_core = 'over the voxels of the core'
    unit = 'that of the map, see column units'
    described = {
        'region': (
            f'Region of the atlas{" " + atlas if atlas else ""}; SN is SNc and SNr together, GP is GPe and '
            'GPi. Brain is the whole mask, CSF the fluid of the lateral ventricles (found by low R2*), White '
            'matter deep cerebral white matter. Any region may serve as a reference: susceptibility relative '
            'to X is mean less the mean of X in this table.',
            None,
        ),
        'hemisphere': ('L, R, or both together.', None),
        'index': ('Label in the segmentation; n/a for regions of several labels or none.', None),
        'map': (
            'Map that the row describes: chi (susceptibility) or R2star (transverse relaxation rate).',
            None,
        ),
        'n_voxels': (
            'Number of voxels of the core inside the mask, over which the statistics were taken.',
            'voxels',
        ),
        'volume_mm3': ('Volume of the whole region inside the field of view.', 'mm^3'),
        'coverage': (
            'Share of the region that lies inside the field of view and the mask; 0 where it is outside. '
            'What the field of view cuts off does not count for Brain, CSF and White matter: it is the '
            'share of the region in the field of view that lies inside the mask.',
            'fraction',
        ),
        'core': (
            'Voxels of the statistics, chosen to exclude neighbouring tissue: eroded (all six neighbours lie '
            'in the region), inner (at least four do; for small regions), whole (the whole region, if it is '
            'very small or a reference), none (region not found).',
            None,
        ),
        'mean': (f'Mean {of_core}.', unit),
        'sd': (f'Standard deviation {of_core}.', unit),
        'se': (
            'Standard error of mean, from sd and the effective number of independent voxels: the correlation '
            'of voxels is estimated from the variogram of the map inside the regions. Variation within the '
            'region counts as error; errors in the position of labels do not.',
            unit,
        ),
        'median': (f'Median {of_core}.', unit),
        'p5': (f'5th percentile {of_core}.', unit),
        'p95': (f'95th percentile {of_core}.', unit),
        'mean_positive': (f'Mean of the positive values {of_core}.', unit),
        'mean_pv': (
            'Mean of the whole region, corrected for partial volume: least squares on the spread functions '
            'of all regions and of the surroundings of each (geometric transfer matrix). n/a for Brain, CSF '
            'and White matter, and where the data do not determine it.',
            unit,
        ),
        'se_pv': ('Standard error of mean_pv, with the same correlation of voxels as in se.', unit),
        'units': ('Unit of the statistics: ppm for susceptibility, 1/s for R2*.', None),
        'reference': ('Region whose susceptibility is zero; n/a for other maps.', None),
        'note': (
            'Description of a reference region, or why a region has no statistics; otherwise n/a.',
            None,
        ),
    }
    return {
        column: {'Description': text, **({'Units': units} if units else {})}
        for column, (text, units) in described.items()
    }
