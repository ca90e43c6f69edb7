"""Regional statistics of quantitative maps, with regions shrunk so that neighbours do not leak in."""

import numpy as np
import pandas as pd
from scipy import ndimage

COMPOSITES = {'SN': ('SNc', 'SNr'), 'GP': ('GPe', 'GPi')}
ORDER = ('Brain', 'SN', 'SNc', 'SNr', 'GP', 'GPe', 'GPi', 'RN', 'STN')
ORDER += ('Putamen', 'Caudate', 'Thalamus', 'Dentate')
UNITS = {'chi': 'ppm', 'R2star': '1/s'}
STATISTICS = ('mean', 'sd', 'median', 'p5', 'p95', 'mean_positive')
_CROSS = ndimage.generate_binary_structure(3, 1)
_NEIGHBOURS = _CROSS.astype(np.uint8)


def region_table(maps, dseg, labels, mask, grid, lesions=(), *, reference: str = '', min_voxels: int = 12):
    """Tabulate maps over the regions of a label image, the whole brain, and lesions.

    Statistics are taken over the core of a region inside the mask. The core is the region less its outermost
    layer of voxels ('eroded'); where that leaves fewer than ``min_voxels`` or a fifth of the region, the
    voxels with at least four of six neighbours in the region ('inner'); where that leaves too few again,
    the whole region ('whole'). Lesions and the brain are taken whole.

    Parameters
    ----------
    maps : dict of str to ndarray
        Maps by name ('chi' in ppm, 'R2star' in 1/s), shape ``grid.shape``; NaN voxels are left out.
    dseg : ndarray of int
        Labels on the same grid.
    labels : DataFrame
        Columns index, name, hemisphere ('L', 'R' or empty), region; and, where it is known, volume_mm3, each
        label's volume in the atlas. Regions that the field of view cuts are then counted against it, scaled
        by the volume that whole regions have here.
    mask : ndarray of bool
        Where the maps hold.
    grid : Grid
    lesions : sequence of ndarray
        Label images, see :func:`bids_qsm.biomarkers.lesions.label_lesions`; a label is a lesion's number.
        Where an earlier image has a number already, those of the later one follow on the highest.
    reference : str
        What susceptibility is relative to, for the column of that name.
    min_voxels : int
        Smallest core.

    Returns
    -------
    DataFrame
        One row a region, hemisphere and map; see `dictionary`. A region outside the field of view has
        n_voxels 0, coverage 0 and NaN statistics.
    """
    labels = labels.assign(hemisphere=[h if h in ('L', 'R') else '' for h in labels['hemisphere']])
    shares = _shares(dseg, labels, grid)
    rows = [_rows('Brain', 'both', None, 'whole', mask, mask, 1.0, maps, grid, reference)]
    boxes = ndimage.find_objects(np.asarray(dseg, np.int32), max_label=int(labels['index'].max()))
    for region, hemisphere, part in _groups(labels):
        wanted = part['index'].tolist()
        index = wanted[0] if len(wanted) == 1 else None
        box = _union([boxes[i - 1] for i in wanted], dseg.shape)
        here = np.isin(dseg[box], wanted)
        core, how = _core(here, min_voxels)
        inside = mask[box]
        in_mask = (here & inside).sum() / here.sum() if here.any() else 0.0
        share = np.average([shares[i][0] for i in wanted], weights=[shares[i][1] for i in wanted])
        cut = {name: data[box] for name, data in maps.items()}
        how = how if here.any() else 'none'
        rows.append(
            _rows(region, hemisphere, index, how, core & inside, here, in_mask * share, cut, grid, reference)
        )
    for index, box, here in _lesions(lesions):
        inside = here & mask[box]
        cut = {name: data[box] for name, data in maps.items()}
        coverage = inside.sum() / here.sum()
        rows.append(_rows('lesion', 'n/a', index, 'whole', inside, here, coverage, cut, grid, reference))
    table = pd.DataFrame([row for group in rows for row in group])
    table['index'] = table['index'].astype('Int64')
    return table


def _groups(labels):
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


def _shares(dseg, labels, grid):
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


def _union(boxes, shape):
    """Box around boxes with a margin of one voxel; a single voxel where there are none."""
    boxes = [b for b in boxes if b is not None]
    if not boxes:
        return (slice(0, 1),) * 3
    return tuple(
        slice(max(min(b[d].start for b in boxes) - 1, 0), min(max(b[d].stop for b in boxes) + 1, shape[d]))
        for d in range(3)
    )


def _core(region, min_voxels):
    """Core of a region and how it was found; what lies beyond the array counts as inside."""
    enough = max(min_voxels, region.sum() / 5)
    # The region does not end where the field of view does.
    neighbours = ndimage.convolve(region.astype(np.uint8), _NEIGHBOURS, mode='nearest') - region
    for how, least in (('eroded', 6), ('inner', 4)):
        core = region & (neighbours >= least)
        if core.sum() >= enough:
            return core, how
    return region, 'whole'


def _lesions(images):
    """(index, box, mask) of every lesion of every image."""
    taken = {0}
    for image in images:
        image = np.asarray(image)
        values = np.unique(image[image > 0])
        shift = 0 if taken.isdisjoint(values.tolist()) else max(taken)
        boxes = ndimage.find_objects(image.astype(np.int32))
        for value in values.tolist():
            box = boxes[value - 1]
            yield value + shift, box, image[box] == value
        taken.update(value + shift for value in values.tolist())


def _rows(region, hemisphere, index, core, voxels, whole, coverage, maps, grid, reference):
    """One row a map."""
    return [
        {
            'region': region,
            'hemisphere': hemisphere,
            'index': index,
            'map': name,
            'n_voxels': int((voxels & np.isfinite(data)).sum()),
            'volume_mm3': round(float(whole.sum() * grid.voxel_volume), 2),
            'coverage': round(float(coverage), 4),
            'core': core,
            **_statistics(data[voxels & np.isfinite(data)].astype(np.float64)),
            'units': UNITS.get(name, 'n/a'),
            'reference': reference if name == 'chi' else 'n/a',
        }
        for name, data in maps.items()
    ]


def _statistics(values):
    if values.size == 0:
        return dict.fromkeys(STATISTICS, np.nan)
    positive = values[values > 0]
    low, median, high = np.percentile(values, (5, 50, 95))
    found = (
        values.mean(),
        values.std(ddof=1) if values.size > 1 else np.nan,
        median,
        low,
        high,
        positive.mean() if positive.size else np.nan,
    )
    return {name: float(f'{value:.5g}') for name, value in zip(STATISTICS, found, strict=True)}


def dictionary(atlas: str = ''):
    """Describe every column of `region_table`, as a BIDS data dictionary."""
    of_core = 'over the voxels of the core'
    unit = 'that of the map, see column units'
    described = {
        'region': (
            f'Region of the atlas{" " + atlas if atlas else ""}; SN is SNc and SNr together, GP is GPe and '
            'GPi, Brain is the whole mask; lesion is a piece or label of a lesion mask.',
            None,
        ),
        'hemisphere': ('L, R, or both together; n/a for lesions.', None),
        'index': (
            'Label in the segmentation, or number of the lesion; n/a for regions of several labels.',
            None,
        ),
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
            'Share of the region that lies inside the field of view and the mask; 0 where it is outside.',
            'fraction',
        ),
        'core': (
            'Voxels that the statistics were taken over, to keep neighbours out: eroded (all six neighbours '
            'lie in the region), inner (at least four do, where too few are left otherwise), whole (all of '
            'the region, where it is small), none (region not found).',
            None,
        ),
        'mean': (f'Mean {of_core}.', unit),
        'sd': (f'Standard deviation {of_core}.', unit),
        'median': (f'Median {of_core}.', unit),
        'p5': (f'5th percentile {of_core}.', unit),
        'p95': (f'95th percentile {of_core}.', unit),
        'mean_positive': (f'Mean of the positive values {of_core}.', unit),
        'units': ('Unit of the statistics: ppm for susceptibility, 1/s for R2*.', None),
        'reference': ('What susceptibility is relative to (zero there); n/a for other maps.', None),
    }
    return {
        column: {'Description': text, **({'Units': units} if units else {})}
        for column, (text, units) in described.items()
    }
