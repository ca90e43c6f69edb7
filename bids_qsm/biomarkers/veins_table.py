"""Tables of veins: segments, their centrelines, and how dense they are by region."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.biomarkers.veins import Segment, Veins, nearest_voxels
from bids_qsm.recon.distance import depth_in_slab
from bids_qsm.recon.grid import Grid

MAPS = {
    'vein_fraction': ('share of the volume that is vein', 'fraction'),
    'vein_length_density': ('length of veins in a volume', 'mm/cm^3'),
    'vein_distance': ('median distance of a voxel to the nearest vein', 'mm'),
}
"""Maps of the table of density -> what they are, and their unit."""
SEGMENT_COLUMNS = {
    'segment': ('Number of the segment, and its label in the images of segments.', None),
    'label': ('Name of the vein, by its course in template space or its depth in the brain.', None),
    'length_mm': ('Length of the centreline.', 'mm'),
    'diameter_mm': (
        'Median diameter of the circle that has the area of the section of the vein. The area is the '
        'integral of susceptibility over the section divided by that of blood (see Constants of the '
        'sidecar), or that of the mask without a susceptibility map.',
        'mm',
    ),
    'diameter_sd_mm': ('Standard deviation of the diameter along the segment.', 'mm'),
    'tilt_deg': ('Median angle to B0, 0 to 90.', 'degree'),
    'tortuosity': ('Length over the distance between the ends; 1 is straight.', 'ratio'),
    'chi_mean': ('Mean susceptibility along the centreline.', 'ppm'),
    'chi_snr': (
        'Mean susceptibility above the tissue around along the centreline, in standard deviations of that '
        'tissue.',
        None,
    ),
    'n_voxels': ('Number of voxels of the mask that belong to the segment.', 'voxels'),
    'volume_mm3': ('Volume of the segment: the sum of the shares of its voxels.', 'mm^3'),
    'at_rim': (
        'Whether a third or more of it lies within 2 mm of the rim of the maps: 1 or 0. The '
        'ends of a slab are no rim.',
        None,
    ),
    'outside_mask': (
        'Whether more than half of its centreline lies outside the brain mask, where there is no '
        'susceptibility: 1 or 0. Such a sinus was found in the magnitude, and its diameter is that of its '
        'section there.',
        None,
    ),
    'first_end': ('Junction at the first point of its centreline, 0 at a free end.', None),
    'last_end': ('Junction at the last point of its centreline, 0 at a free end.', None),
    **{axis: (f'{axis} coordinate of its middle (scanner, RAS).', 'mm') for axis in 'xyz'},
}
LINE_COLUMNS = {
    'segment': ('Number of the segment.', None),
    **{axis: (f'{axis} coordinate of the point (scanner, RAS).', 'mm') for axis in 'xyz'},
    **{f'direction_{axis}': (f'{axis} component of the unit vector along the vein.', None) for axis in 'xyz'},
    'diameter_mm': ('Diameter at the point.', 'mm'),
    'tilt_deg': ('Angle to B0 at the point, 0 to 90.', 'degree'),
}
_RIM_MM = 2.0


def segment_table(
    veins: Veins, chi: np.ndarray | None, contrast_to_noise: np.ndarray | None, mask: np.ndarray, grid: Grid
):
    """One row a segment, see `SEGMENT_COLUMNS`.

    Parameters
    ----------
    veins : Veins
    chi : ndarray of float32 or None
        Susceptibility (ppm).
    contrast_to_noise : ndarray of float32 or None
        Susceptibility above that of the tissue around, in standard deviations.
    mask : ndarray of bool
        Where maps are given.
    grid : Grid

    Returns
    -------
    DataFrame
    """
    shallow = depth_in_slab(ndimage.binary_fill_holes(mask), grid.voxel_size, _RIM_MM + 1) <= _RIM_MM
    count = len(veins.segments) + 1
    voxels = np.bincount(veins.numbers[veins.mask], minlength=count)
    volume = np.bincount(veins.numbers.ravel(), veins.share.ravel(), minlength=count) * grid.voxel_volume
    rows = []
    for one in veins.segments:
        at = one.passes(mask.shape)
        inside = mask[at]
        row = {
            'segment': one.number,
            'label': one.name,
            'length_mm': one.length_mm,
            'diameter_mm': np.median(one.diameter_mm),
            'diameter_sd_mm': np.std(one.diameter_mm),
            'tilt_deg': np.median(one.tilt_deg),
            'tortuosity': one.tortuosity,
            'chi_mean': np.nan if chi is None or inside.mean() < 0.5 else chi[at][inside].mean(dtype=float),
            'chi_snr': np.nan
            if contrast_to_noise is None or inside.mean() < 0.5
            else contrast_to_noise[at][inside].mean(dtype=float),
            'volume_mm3': volume[one.number],
            **dict(zip('xyz', one.points[len(one.points) // 2], strict=True)),
        }
        row = {
            name: value if isinstance(value, str | int) else float(f'{value:.4g}')
            for name, value in row.items()
        }
        row |= {
            'n_voxels': int(voxels[one.number]),
            'at_rim': int(shallow[at].mean() >= 1 / 3),
            'outside_mask': int(inside.mean() < 0.5),
            'first_end': one.ends[0],
            'last_end': one.ends[1],
        }
        rows.append(row)
    return pd.DataFrame(rows, columns=list(SEGMENT_COLUMNS))


def line_table(segments: Sequence[Segment]):
    """One row a point of the centrelines, see `LINE_COLUMNS`."""
    parts = [
        np.c_[np.full(len(s.points), s.number), s.points, s.direction, s.diameter_mm, s.tilt_deg]
        for s in segments
    ]
    values = np.concatenate(parts) if parts else np.zeros((0, len(LINE_COLUMNS)))
    table = pd.DataFrame(values.round(3), columns=list(LINE_COLUMNS))
    return table.astype({'segment': int})


def density_table(
    veins: Veins,
    mask: np.ndarray,
    dseg: np.ndarray | None,
    labels: pd.DataFrame | None,
    white_matter: np.ndarray | None,
    grid: Grid,
):
    r"""Tidy rows of the density of veins by region: the maps of `MAPS`.

    The standard errors treat segments as placed at random (a compound Poisson process): where segments i
    have the volumes (or lengths) :math:`v_i` in a region of volume V, the density :math:`\sum v_i / V` has
    the standard error :math:`\sqrt{\sum v_i^2} / V`. They do not count veins that were missed. Rows of
    vein_distance have none.

    Parameters
    ----------
    veins : Veins
    mask : ndarray of bool
        Where maps are given.
    dseg, labels
        Regions of an atlas, and their table (index, hemisphere, region).
    white_matter : ndarray of bool or None
    grid : Grid

    Returns
    -------
    DataFrame
        Columns region, hemisphere, index, map, n_voxels, volume_mm3, mean, se, units.
    """
    regions = [('Brain', 'both', np.nan, mask)]
    if white_matter is not None:
        regions.append(('White matter', 'both', np.nan, mask & white_matter))
    if dseg is not None and labels is not None:
        regions += [
            (row['region'], row['hemisphere'], row['index'], mask & (dseg == row['index']))
            for row in labels.to_dict('records')
        ]
    distance = (
        ndimage.distance_transform_edt(veins.numbers == 0, sampling=grid.voxel_size)
        if veins.segments
        else np.full(mask.shape, np.nan)
    )
    lengths = _lengths(veins, mask.shape)
    rows = []
    for region, side, index, where in regions:
        voxels = int(where.sum())
        volume = voxels * grid.voxel_volume
        size = len(veins.segments) + 1
        filled = np.bincount(veins.numbers[where], veins.share[where], minlength=size) * grid.voxel_volume
        inside = where.ravel()[lengths[0]]
        run = np.bincount(lengths[1][inside], lengths[2][inside], minlength=size)
        for name, amounts, scale in (('vein_fraction', filled, 1.0), ('vein_length_density', run, 1e3)):
            mean = scale * amounts.sum() / volume if voxels else np.nan
            se = scale * np.sqrt(np.sum(amounts**2)) / volume if voxels else np.nan
            rows.append((region, side, index, name, voxels, volume, mean, se, MAPS[name][1]))
        middle = float(np.median(distance[where])) if voxels else np.nan
        rows.append((region, side, index, 'vein_distance', voxels, volume, middle, np.nan, 'mm'))
    columns = ['region', 'hemisphere', 'index', 'map', 'n_voxels', 'volume_mm3', 'mean', 'se', 'units']
    return pd.DataFrame(rows, columns=columns)


def _lengths(veins: Veins, shape: tuple[int, ...]):
    """Voxel (flat index), segment and length (mm) of each step of the centrelines."""
    at, who, run = [np.zeros(0, int)], [np.zeros(0, int)], [np.zeros(0)]
    for one in veins.segments:
        middle = nearest_voxels((one.voxels[1:] + one.voxels[:-1]) / 2, shape)
        at.append(np.ravel_multi_index(middle, shape))
        who.append(np.full(len(one.voxels) - 1, one.number))
        run.append(np.linalg.norm(np.diff(one.points, axis=0), axis=1))
    return np.concatenate(at), np.concatenate(who), np.concatenate(run)
