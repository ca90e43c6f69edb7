"""Superficial siderosis of the cortex: thin sheets of iron in sulci."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.anatomy.transform import apply_affine, grid_points, transform_points
from bids_qsm.biomarkers.focal_brain import tissue_contrast
from bids_qsm.biomarkers.mars import mars_regions
from bids_qsm.biomarkers.vesselness import fill, grown_box, tube_eigenvalues, tubeness
from bids_qsm.recon.distance import depth
from bids_qsm.recon.grid import Grid

SCALES_MM = (0.8, 1.4)
"""Standard deviations (mm) of the Gaussians: a sheet, and the two banks of a narrow sulcus together."""
INNER = ((-44.0, -68.0, -28.0), (44.0, 46.0, 36.0))
"""Corners (mm, template space) of a box around nuclei, ventricles and cisterns, which is not searched."""
LOWEST_MM = 5.0
"""Least height (mm, template space) that is searched: all below it may be temporal lobe or cerebellum."""
MIDLINE_MM = 5.0
"""Distance (mm) from the midline that is not searched: falx and sagittal sinus."""
SAME_SULCUS_MM = 5.0
"""Pieces nearer than this (mm) count as one sulcus."""
MOST_FOCAL = 3
"""Most sulci of focal siderosis; more are disseminated, Charidimou et al. (2015), Brain 138:2126.
doi:10.1093/brain/awv162"""
LARGEST_VOXEL_MM = 1.6
"""Longest side of a voxel with which sheets were found on heads of known truth."""
NEAR_EDGE_MM = 3.0
"""Depth (mm) in the mask below which chi is less certain, and below which a sheet is only possible."""
CLEAR, LONGEST = 0.25, 4.0
"""Least plateness less tubeness, and most length over width, of a definite sheet; veins are long tubes."""
_CUBE = np.ones((3, 3, 3), bool)


def plateness(values: np.ndarray, *, plate: float = 0.5) -> np.ndarray:
    r"""How much eigenvalues (n, 3) of a Hessian are those of a bright plate (0 to 1).

    :math:`e^{-\lambda_2^2 / (2 p^2 \lambda_3^2)}` where :math:`\lambda_3 < 0`: the complement of the first
    factor of vesselness.

    >>> tube, sheet, ball = [0, -1, -1], [0, 0, -1], [-1, -1, -1]
    >>> plateness(np.array([tube, sheet, ball], float)).round(2).tolist()
    [0.14, 1.0, 0.14]
    """
    second, third = np.abs(values[:, 1]), np.maximum(np.abs(values[:, 2]), 1e-12)
    found = np.exp(-((second / third) ** 2) / (2 * plate**2))
    found[values[:, 2] >= 0] = 0
    return found


@dataclass(frozen=True, eq=False)
class Sheets:
    """Sheets that were found, numbered from 1 in the order of the table, and how much could be searched."""

    labels: np.ndarray
    table: pd.DataFrame
    searched_ml: float
    """Volume of the convexity that was searched."""
    edge_share: float
    """Share of it within `NEAR_EDGE_MM` of the edge of the mask."""
    chi_spread: float
    r2star_spread: float
    problem: str | None
    """Why sheets cannot be assessed."""


def convexity(mask: np.ndarray, affine: np.ndarray, to_template: Sequence):
    """Where sheets are searched (bool), and template coordinates (mm) of the voxels (x, y, z, 3).

    The cerebral convexity by template space: above `LOWEST_MM`, outside of `INNER`, beside the midline.
    """
    points = transform_points(grid_points(mask.shape, affine), to_template).reshape(*mask.shape, 3)
    x, y, z = np.moveaxis(points, -1, 0)
    low, high = INNER
    inner = (x > low[0]) & (x < high[0]) & (y > low[1]) & (y < high[1]) & (z > low[2]) & (z < high[2])
    return mask & ~inner & (z > LOWEST_MM) & (np.abs(x) > MIDLINE_MM), points.astype(np.float32)


def find_sheets(
    chi: np.ndarray,
    r2star: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    affine: np.ndarray,
    to_template: Sequence,
    *,
    chi_sd: float = 3.0,
    r2star_sd: float = 1.0,
    least_mm2: float = 40.0,
    least_mm: float = 6.0,
) -> Sheets:
    """Find sheets of iron on the cortex of the convexity [1]_.

    CSF of a sulcus has a low R2* and the susceptibility of cortex; where its walls hold iron, both are
    high. Voxels count where both exceed the tissue within some 8 mm by ``chi_sd`` and ``r2star_sd`` times
    its usual spread, and where, over the voxels of that kind within some 2 mm, the Hessian of susceptibility
    is more that of a plate than that of a tube, as veins are. Connected pieces that are wide in two
    directions are sheets.

    Parameters
    ----------
    chi : ndarray of float32, 3D
        Susceptibility (ppm).
    r2star : ndarray of float32
        R2* (1/s); 0 or less where there is none.
    mask : ndarray of bool
        Where susceptibility is given.
    grid : Grid
    affine : ndarray (4, 4)
        Voxel to scanner coordinates (RAS, mm).
    to_template : sequence of ndarray (4, 4) or Displacement
        Transforms that take points of the scanner to the template, first to last.
    chi_sd, r2star_sd : float
    least_mm2 : float
        Least area (mm^2) of a sheet.
    least_mm : float
        Least extent (mm) in its second direction.

    References
    ----------
    .. [1] Charidimou et al. (2015), Brain 138:2126. doi:10.1093/brain/awv162
    """
    found = np.zeros(chi.shape, np.int32)
    zone, points = convexity(mask, affine, to_template)
    size = np.array(grid.voxel_size)
    deep = depth(ndimage.binary_fill_holes(mask), grid.voxel_size, 20.0)
    known = zone & (r2star > 0)
    problem = _problem(known, zone, size)
    volume = float(zone.sum() * grid.voxel_volume / 1000)
    near = float((deep[zone] <= NEAR_EDGE_MM).mean()) if zone.any() else np.nan
    if problem:
        return Sheets(found, pd.DataFrame(columns=[*COLUMNS]), volume, near, np.nan, np.nan, problem)
    contrast, spread = tissue_contrast(chi, mask, grid)
    decay, roughness = tissue_contrast(np.where(mask, r2star, 0), mask & (r2star > 0), grid)
    usual, usual_decay = float(np.median(spread[known])), float(np.median(roughness[known]))
    high = known & (contrast > chi_sd * usual) & (decay > r2star_sd * usual_decay)
    plates, tubes = _shapes(chi, mask, high, grid)
    sheets = high & (_mean_of(plates, high, size) > _mean_of(tubes, high, size))
    pieces, _ = ndimage.label(sheets, _CUBE)
    rows = []
    for number, box in enumerate(ndimage.find_objects(pieces), 1):
        own = pieces[box] == number
        extents = _extents(own, size)
        area = _area(own, size)
        if area < least_mm2 or extents[1] < least_mm:
            continue
        voxels = np.argwhere(own) + [b.start for b in box]
        at = tuple(voxels.T)
        shape = float(plates[at].mean() - tubes[at].mean())
        edge = float((deep[at] <= NEAR_EDGE_MM).mean())
        middle = points[at].mean(0)
        certain = shape >= CLEAR and edge < 0.5 and extents[1] >= extents[0] / LONGEST
        rows.append(
            {
                'number': number,
                'certainty': 'definite' if certain else 'possible',
                'side': 'L' if middle[0] < 0 else 'R',
                'lobe': str(mars_regions(middle[None])[0]),
                **dict(zip('xyz', (apply_affine(affine, voxels).mean(0)).round(1), strict=True)),
                **{f'template_{a}': round(float(v), 1) for a, v in zip('xyz', middle, strict=True)},
                'area_mm2': round(area, 1),
                'length_mm': round(extents[0], 1),
                'width_mm': round(extents[1], 1),
                'contrast_ppm': round(float(contrast[at].mean()), 4),
                'R2star_contrast': round(float(decay[at].mean()), 2),
                'sheetness': round(shape, 3),
                'edge_share': round(edge, 3),
            }
        )
    rows.sort(key=lambda row: -row['area_mm2'])
    for piece, row in enumerate(rows, 1):
        found[pieces == row.pop('number')] = piece
        row['piece'] = piece
    sulci = _sulci(found, size)
    table = pd.DataFrame([row | {'sulcus': sulci[row['piece']]} for row in rows], columns=[*COLUMNS])
    return Sheets(found, table, volume, near, usual, usual_decay, None)


def _problem(known: np.ndarray, zone: np.ndarray, size: np.ndarray) -> str | None:
    if size.max() > LARGEST_VOXEL_MM:
        return f'voxels of {size.max():.1f} mm are larger than those with which sheets were tested'
    if zone.sum() * size.prod() < 1e5:
        return 'less than 100 ml of the cerebral convexity lie in the mask'
    return None if known.any() else 'there is no R2* in the cerebral convexity'


def _shapes(chi: np.ndarray, mask: np.ndarray, where: np.ndarray, grid: Grid):
    """Plateness and tubeness at the voxels of ``where``: those of the scale at which each is largest."""
    plates, tubes = np.zeros(chi.shape, np.float32), np.zeros(chi.shape, np.float32)
    if not where.any():
        return plates, tubes
    box = grown_box(mask, np.ceil(3 * max(SCALES_MM) / np.array(grid.voxel_size)).astype(int) + 1)
    filled, voxels = fill(chi[box], mask[box], grid), np.argwhere(where[box])
    for scale in SCALES_MM:
        values, _ = tube_eigenvalues(filled, voxels, grid, scale)
        for kind, function in ((plates, plateness), (tubes, tubeness)):
            kind[box][where[box]] = np.maximum(kind[box][where[box]], function(values))
    return plates, tubes


def _mean_of(values: np.ndarray, where: np.ndarray, size: np.ndarray, *, sigma_mm: float = 1.5):
    """Mean of ``values`` over the voxels of ``where`` around each."""
    sigma = sigma_mm / size
    weight = ndimage.gaussian_filter(where.astype(np.float32), sigma)
    return ndimage.gaussian_filter(np.where(where, values, 0).astype(np.float32), sigma) / np.maximum(
        weight, 1e-6
    )


def _extents(own: np.ndarray, size: np.ndarray) -> list[float]:
    """Extents (mm) along the axes of inertia, the longest first: those of a box of the same inertia."""
    places = np.argwhere(own) * size
    spread = np.cov(places.T, bias=True) if len(places) > 1 else np.zeros((3, 3))
    return [float(v) for v in np.sqrt(12 * np.linalg.eigvalsh(spread + np.diag(size**2 / 12)))[::-1]]


def _area(own: np.ndarray, size: np.ndarray) -> float:
    """Area (mm^2) of one side of a sheet: half of its surface.

    Faces of voxels have 3/2 of the area of a smooth surface, on average over its directions.
    """
    padded = np.pad(own, 1).astype(np.int8)
    faces = sum(
        np.abs(np.diff(padded, axis=axis)).sum() * np.prod(np.delete(size, axis)) for axis in range(3)
    )
    return float(faces * (2 / 3) / 2)


def _sulci(pieces: np.ndarray, size: np.ndarray) -> dict[int, int]:
    """Number of the sulcus of each piece: pieces within `SAME_SULCUS_MM` of each other lie in one."""
    if not pieces.any():
        return {}
    near = ndimage.distance_transform_edt(pieces == 0, sampling=size) <= SAME_SULCUS_MM / 2
    joined, _ = ndimage.label(near, _CUBE)
    first: dict[int, int] = {}
    found = {}
    for piece in range(1, int(pieces.max()) + 1):
        group = int(joined[pieces == piece][0])
        found[piece] = first.setdefault(group, len(first) + 1)
    return found


def pattern(table: pd.DataFrame) -> str:
    """focal (up to `MOST_FOCAL` sulci), disseminated or none, by the definite sheets."""
    sulci = table.loc[table['certainty'] == 'definite', 'sulcus'].nunique()
    return 'none' if not sulci else 'focal' if sulci <= MOST_FOCAL else 'disseminated'


COLUMNS = {
    'piece': ('Number of the sheet, and its label in the image.', None),
    'sulcus': (f'Sheets nearer than {SAME_SULCUS_MM:g} mm have one number: they count as one sulcus.', None),
    'certainty': (
        f'definite: sheetness of {CLEAR:g} or more, at most {LONGEST:g} times as long as wide, and more than '
        f'half of it deeper than {NEAR_EDGE_MM:g} mm in the mask; else possible.',
        None,
    ),
    'side': ('L or R.', None),
    'lobe': ('Lobe, by planes in template space: approximate.', None),
    **{a: (f'{a} coordinate of the middle (scanner, RAS).', 'mm') for a in 'xyz'},
    **{f'template_{a}': (f'{a} coordinate of the middle in template space (RAS).', 'mm') for a in 'xyz'},
    'area_mm2': ('Half of its surface. Where both walls of a sulcus are one sheet, they count once.', 'mm^2'),
    'length_mm': ('Extent along its longest axis of inertia.', 'mm'),
    'width_mm': ('Extent along its second axis.', 'mm'),
    'contrast_ppm': ('Mean susceptibility above that of the tissue around.', 'ppm'),
    'R2star_contrast': ('Mean R2* above that of the tissue around.', '1/s'),
    'sheetness': ('Plateness less tubeness of the Hessian, -1 (vein) to 1 (sheet).', None),
    'edge_share': (f'Share within {NEAR_EDGE_MM:g} mm of the edge of the mask.', None),
}
