"""Measurements of single lesions: position, susceptibility and R2* of lesion, core, rim and surround."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.anatomy.transform import apply_affine, spacing_of, transform_points
from bids_qsm.biomarkers.columns import data_dictionary
from bids_qsm.biomarkers.localisation import Places, described

SHELL_MM, REACH_MM, LIMIT = 3.0, 20.0, 2.0
"""Thickness of the surround of a lesion (mm), range of the comparison places (mm), and the threshold of a
sign in spreads."""
FEWEST = 10
"""Fewest voxels of a surround, and fewest comparison places."""
_WORK = 10_000_000  # most voxels to read for the comparison of one lesion
_CROSS = ndimage.generate_binary_structure(3, 1)
_CUBE = np.ones((3, 3, 3), bool)
EMPTY = 'the mask is empty'
FAINT = 'nothing above one half'
BEYOND = 'outside the field of view'
UNMAPPED = 'outside the mask of the map'
LOST = 'lost in resampling: smaller than a voxel of the series'


def label_lesions(mask: np.ndarray, *, binary: bool = False):
    """Number the lesions of a mask.

    In a mask of 0 and one other value, each connected piece is a lesion. Fractional values come from
    interpolation, or are probabilities: they are thresholded at half the largest value or at one half,
    whichever is more. Several whole numbers are labels, one a lesion, and are kept. In a ``binary`` mask
    they are kept only if all are below 100, as masks are also stored as 0 and 100 or 255.

    Parameters
    ----------
    mask : ndarray, shape (x, y, z)
    binary : bool
        Whether the suffix of the file is mask, which is binary in BIDS.

    Returns
    -------
    ndarray of int32
        1, 2, ... in the order of the array, or the labels given; all 0 if nothing exceeds one half.

    Examples
    --------
    >>> label_lesions(np.array([[[0, 255, 0, 255]]])).tolist()
    [[[0, 1, 0, 2]]]
    >>> label_lesions(np.array([[[0, 3, 0, 7]]])).tolist()
    [[[0, 3, 0, 7]]]
    >>> label_lesions(np.array([[[0, 64, 255, 127]]]), binary=True).tolist()
    [[[0, 0, 1, 0]]]
    """
    mask = np.asarray(mask)
    top = mask.max(initial=0)
    # scaled storage changes whole numbers slightly
    if np.abs(mask - np.rint(mask)).max(initial=0) < 1e-3 and not (binary and top >= 100):
        labels = np.rint(mask).astype(np.int32)
        if np.unique(labels[labels != 0]).size > 1:
            return labels
    # pieces that touch at a corner belong to one lesion
    return ndimage.label(mask > max(top, 1) / 2, structure=_CUBE)[0].astype(np.int32)


@dataclass(frozen=True)
class Drawn:
    """Numbered lesions as they were drawn, and as they lie on the grid of the maps.

    ``source`` names the mask; ``labels`` and ``affine`` (voxel to scanner, mm) are on the grid of the mask,
    ``placed`` are the same labels on the grid of the maps. ``to_maps`` holds the transforms from points of
    the mask to points of the maps, first to last. ``empty`` says why an image has no labels.
    """

    source: str
    labels: np.ndarray
    affine: np.ndarray
    placed: np.ndarray
    to_maps: Sequence = ()
    empty: str = EMPTY


def lesion_table(
    chi: np.ndarray,
    r2star: np.ndarray | None,
    mask: np.ndarray,
    drawn: Sequence[Drawn],
    dseg: np.ndarray,
    labels: pd.DataFrame,
    affine: np.ndarray,
    to_template: Sequence = (),
    reference: str = '',
) -> pd.DataFrame:
    r"""Tabulate lesions one by one.

    The rim of a lesion is its outermost layer of voxels, the core is the rest. Its surround is a shell that
    begins one voxel away, without other lesions, in the same regions of the atlas as the lesion (or outside
    all of them). A lesion has a sign if its contrast :math:`c`, mean less median of the surround, differs
    from that of tissue without lesions:

    .. math:: |c - \mathrm{med}(c_i)| > 2 \cdot 1.4826 \, \mathrm{med}|c_i - \mathrm{med}(c_i)|

    where :math:`c_i` are the contrasts of the same shape and shell at other places nearby. This accounts for
    noise, its correlation between voxels, and the variation of the tissue.

    Parameters
    ----------
    chi : ndarray of float32, 3D
        Susceptibility (ppm).
    r2star : ndarray of float32 or None
        R2* (1/s); voxels without one (0 or less) do not count.
    mask : ndarray of bool
        Where susceptibility is given.
    drawn : sequence of Drawn
    dseg : ndarray of int
        Regions of the atlas on the same grid.
    labels : DataFrame
        Columns index, hemisphere and region of the atlas.
    affine : ndarray (4, 4)
        Voxel to scanner coordinates (RAS, mm) of the maps.
    to_template : sequence of ndarray (4, 4) or Displacement
        Transforms that take points of the scanner to the template, first to last.
    reference : str
        Reference of susceptibility, for the column of that name.

    Returns
    -------
    DataFrame
        One row a lesion, see `dictionary`; one for an empty mask. Lesions that were not measured have a
        reason, and NaN for unknown values.
    """
    where = Places(dseg, labels, affine, to_template)
    maps = {'chi': np.where(mask, chi, np.nan)}
    if r2star is not None:
        maps['R2star'] = np.where(mask & (r2star > 0), r2star, np.nan)
    plain = mask.copy()
    for image in drawn:
        plain &= image.placed <= 0
    rows = []
    for image in drawn:
        numbers = np.unique(image.labels[image.labels > 0])
        if not numbers.size:
            rows.append({'source': image.source, 'reason': image.empty, 'volume_mm3': 0.0})
            continue
        drawn_boxes = ndimage.find_objects(image.labels)
        placed_boxes = ndimage.find_objects(image.placed, max_label=int(numbers.max()))
        for number in numbers.tolist():
            row, inside = _place(image, number, drawn_boxes[number - 1], affine, chi.shape, where)
            box = placed_boxes[number - 1]
            if box is None:
                row['reason'] = LOST if inside else BEYOND
            else:
                box = _grown(box, affine, chi.shape)
                cut = {name: data[box] for name, data in maps.items()}
                row |= _measure(image.placed[box] == number, cut, plain[box], dseg[box], affine)
                voxel = abs(np.linalg.det(affine[:3, :3]))
                row['coverage'] = round(min(row['n_voxels'] * voxel / row['volume_mm3'], 1.0), 4)
            rows.append(row)
    table = pd.DataFrame(rows, columns=list(dictionary()))
    table['lesion'] = table['lesion'].astype('Int64')
    for name in ('n_voxels', 'coverage'):
        table[name] = table[name].astype(float).fillna(0)
    table['n_voxels'] = table['n_voxels'].astype(int)
    table['reference'] = reference or 'n/a'
    return table


def _place(
    image: Drawn,
    number: int,
    box: tuple[slice, ...],
    affine: np.ndarray,
    shape: tuple[int, ...],
    where: Places,
):
    """Columns of a lesion as it was drawn, and whether it lies inside the field of view."""
    voxels = np.argwhere(image.labels[box] == number) + [side.start for side in box]
    points = transform_points(apply_affine(image.affine, voxels), list(image.to_maps))
    at = apply_affine(np.linalg.inv(affine), points)
    inside = ((at > -0.5) & (at < np.array(shape) - 0.5)).all(1).any()
    volume = len(voxels) * abs(np.linalg.det(image.affine[:3, :3]))
    row = {'source': image.source, 'lesion': number, 'volume_mm3': round(float(volume), 2)}
    return row | where.columns(points.mean(0), points), bool(inside)


def _grown(box: tuple[slice, ...], affine: np.ndarray, shape: tuple[int, ...]):
    """The box of a lesion and its comparison places, inside the volume."""
    reach = _reach(box, spacing_of(affine))
    return tuple(
        slice(max(side.start - r, 0), min(side.stop + r, n))
        for side, r, n in zip(box, np.ceil(reach).astype(int), shape, strict=True)
    )


def _reach(box: tuple[slice, ...], voxel_size: np.ndarray):
    """Range (voxels) of the comparison places along each axis, beyond the lesion itself."""
    return REACH_MM / voxel_size + [side.stop - side.start for side in box]


def _measure(
    here: np.ndarray, maps: dict[str, np.ndarray], plain: np.ndarray, dseg: np.ndarray, affine: np.ndarray
):
    """Measured columns of the lesion ``here``; all arrays are cropped to the lesion and its surround."""
    voxel_size = spacing_of(affine)
    chi = maps['chi']
    valid = here & np.isfinite(chi)
    count = int(valid.sum())
    if not count:
        return {'n_voxels': 0, 'reason': UNMAPPED}
    # the edge of the field of view is not a rim
    rim = here & ~ndimage.binary_erosion(here, _CROSS, border_value=1)
    touch = np.linalg.norm(voxel_size) + 1e-3
    distance = ndimage.distance_transform_edt(~here, sampling=voxel_size)
    shell = (distance > touch) & (distance <= touch + SHELL_MM)
    kinds, shares = np.unique(dseg[valid], return_counts=True)
    alike = plain & np.isin(dseg, kinds[shares >= 0.1 * count])
    row: dict = {'n_voxels': count}
    for name, data in maps.items():
        parts = (data[part] for part in (valid, valid & ~rim, valid & rim, shell & alike))
        whole, core, edge, around = (part[np.isfinite(part)] for part in parts)
        row |= {
            f'{name}_mean': _mean(whole),
            f'{name}_sd': whole.std(ddof=1) if whole.size > 1 else np.nan,
            f'{name}_core': _mean(core),
            f'{name}_rim': _mean(edge),
            f'{name}_surround': np.median(around) if around.size >= FEWEST else np.nan,
        }
        if name == 'chi' and around.size >= FEWEST:
            row['chi_surround_sd'] = _spread(around)
    row['contrast'] = row['chi_mean'] - row['chi_surround']
    row['rim_contrast'] = row['chi_rim'] - row['chi_surround']
    row['n_comparisons'], row['contrast_z'] = _compare(
        row['contrast'], valid, shell, np.where(alike, chi, np.nan), voxel_size
    )
    row['sign'] = _sign(row['contrast_z'])
    return {k: float(f'{v:.5g}') if isinstance(v, np.floating | float) else v for k, v in row.items()}


def _compare(contrast: float, inner: np.ndarray, outer: np.ndarray, chi: np.ndarray, voxel_size: np.ndarray):
    """Number of comparison places, and the contrast of the lesion in units of their spread.

    ``inner`` and ``outer`` are the lesion and its shell; ``chi`` is NaN outside normal tissue of the same
    regions.
    """
    reach = _reach(ndimage.find_objects(inner.astype(np.uint8))[0], voxel_size)
    inner, outer = np.argwhere(inner), np.argwhere(outer)
    enough = max(0.5 * len(outer), FEWEST)
    found = []
    for shift in _shifts(reach, len(inner) + len(outer)):
        inside, around = (_values(chi, part + shift) for part in (inner, outer))
        if inside.size >= 0.8 * len(inner) and around.size >= enough:
            found.append(inside.mean(dtype=float) - np.median(around))
    if np.isnan(contrast) or len(found) < FEWEST:
        return len(found), np.nan
    return len(found), (contrast - np.median(found)) / max(_spread(np.array(found)), 1e-6)


def _sign(z: float):
    if np.isnan(z):
        return 'n/a'
    return 'none' if abs(z) <= LIMIT else 'paramagnetic' if z > 0 else 'diamagnetic'


def _shifts(reach: np.ndarray, size: int):
    """Shifts (voxels) on a lattice within an ellipsoid of half axes ``reach``; fewer for large lesions."""
    number = np.clip(_WORK / size, 200, 400)
    step = max((4 / 3 * np.pi / number) ** (1 / 3), 1 / reach.min())
    line = step * np.arange(-int(1 / step), int(1 / step) + 1)
    axes = [np.unique(np.rint(r * line).astype(int)) for r in reach]
    lattice = np.stack(np.meshgrid(*axes, indexing='ij'), -1).reshape(-1, 3)
    length = ((lattice / reach) ** 2).sum(1)
    return lattice[(length <= 1) & (length > 0)]


def _values(data: np.ndarray, voxels: np.ndarray):
    """Finite values at those ``voxels`` that lie in the array."""
    voxels = voxels[((voxels >= 0) & (voxels < data.shape)).all(1)]
    values = data[tuple(voxels.T)]
    return values[np.isfinite(values)]


def _mean(values: np.ndarray):
    return values.mean(dtype=float) if values.size else np.nan


def _spread(values: np.ndarray):
    """Standard deviation from the median absolute deviation."""
    return 1.4826 * np.median(np.abs(values - np.median(values)))


def dictionary():
    """Describe every column of `lesion_table`, as a BIDS data dictionary."""
    columns = {
        'source': ('Lesion mask that the row is from.', None),
        'lesion': ('Number of the lesion: its label in the mask, or of its piece; n/a of empty masks.', None),
        'reason': (
            f'Why the lesion was not measured: {EMPTY}; {FAINT}; {BEYOND}; {UNMAPPED}; {LOST}. '
            'n/a where it was.',
            None,
        ),
        'n_voxels': ('Number of voxels of the series that were measured.', 'voxels'),
        'volume_mm3': ('Volume of the lesion as it was drawn.', 'mm^3'),
        'coverage': ('Share of that volume that was measured, at most 1.', 'fraction'),
        **described('lesion'),
    }
    for name, what, unit in (('chi', 'susceptibility', 'ppm'), ('R2star', 'R2*', '1/s')):
        columns |= {
            f'{name}_mean': (f'Mean {what} over the lesion.', unit),
            f'{name}_sd': (f'Standard deviation of {what} over the voxels of the lesion.', unit),
            f'{name}_core': (f'Mean {what} over the core: the lesion less its rim; n/a without one.', unit),
            f'{name}_rim': (
                f'Mean {what} over the rim: the outermost voxels, of whose six neighbours one or more lie '
                'outside the lesion.',
                unit,
            ),
            f'{name}_surround': (
                f'Median {what} over the surround: a shell {SHELL_MM:g} mm thick beyond the voxels that '
                'touch the lesion, less other lesions, in those regions of the atlas (or outside all) that '
                'the lesion lies in.',
                unit,
            ),
        }
    columns |= {
        'chi_surround_sd': ('Spread of susceptibility over the surround (1.4826 median deviations).', 'ppm'),
        'contrast': ('chi_mean less chi_surround.', 'ppm'),
        'rim_contrast': ('chi_rim less chi_surround.', 'ppm'),
        'n_comparisons': (
            f'Number of comparison places: positions without a lesion within {REACH_MM:g} mm plus the size '
            'of the lesion, where the contrast of the same shape was measured.',
            None,
        ),
        'contrast_z': (
            'Contrast less the median contrast of the comparison places, over their spread.',
            None,
        ),
        'sign': (
            f'paramagnetic where contrast_z is over {LIMIT:g}, diamagnetic under -{LIMIT:g}, else '
            'none; n/a if there are too few comparison places.',
            None,
        ),
        'reference': ('Region whose susceptibility is zero.', None),
    }
    return data_dictionary(columns)
