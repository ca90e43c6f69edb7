"""Density of foci in CT, and calcium that CT shows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial import KDTree

from bids_qsm.anatomy.transform import apply_affine, spacing_of
from bids_qsm.biomarkers.ct import BLOOD, CALCIFIED, Tomogram
from bids_qsm.biomarkers.localisation import Places, described
from bids_qsm.biomarkers.mars import CALCIUM as PLACES_OF_CALCIUM
from bids_qsm.biomarkers.mars import physiological
from bids_qsm.errors import size_text

REACH_MM = 2.0
"""Margin (mm) around a focus: alignment and outline are off by as much."""
SHELL_MM = (4.0, 8.0)
"""Distances (mm) of the tissue that a focus is compared with."""
LEAST_MM3 = 2.0
"""Least volume (mm^3) of a piece of calcium."""
CLASSES = ('calcified', 'unclear', 'none')
_CUBE = np.ones((3, 3, 3), bool)


@dataclass(frozen=True, eq=False)
class Dense:
    """What is dense in a CT (bool and int, of its shape)."""

    skull: np.ndarray
    """Bone and what is connected with it, and a voxel more, as it is averaged into its neighbours."""
    pieces: np.ndarray
    """Pieces of calcium within the brain, numbered from 1."""


def find_dense(ct: Tomogram, brain: np.ndarray, *, least_mm3: float = LEAST_MM3) -> Dense:
    """Tell skull and calcium apart among what is as dense as calcium.

    A connected piece that lies by half or more in the brain is calcium; all others are skull, with what
    touches them, as calcified dura does.

    Parameters
    ----------
    ct : Tomogram
    brain : ndarray of bool, shape of the CT
        Without holes.
    least_mm3 : float
        Smaller pieces are left out, and those of one voxel.
    """
    volume = abs(np.linalg.det(ct.affine[:3, :3]))
    around, limit = limits_of_brain(ct, brain)
    labels, count = ndimage.label(ct.hu >= around, _CUBE)
    total = np.bincount(labels.ravel(), minlength=count + 1)
    within = np.bincount(labels[brain], minlength=count + 1)
    is_calcium = within >= 0.5 * total
    is_calcium[0] = False
    bone = (labels > 0) & ~is_calcium[labels]
    labels[ct.hu < limit] = 0
    voxels = np.bincount(labels.ravel(), minlength=count + 1)
    is_calcium &= (voxels > 1) & (voxels * volume >= least_mm3)
    numbers = np.cumsum(is_calcium) * is_calcium
    return Dense(ndimage.binary_dilation(bone, _CUBE), numbers[labels].astype(np.int32))


def limits_of_brain(ct: Tomogram, brain: np.ndarray) -> tuple[float, float]:
    """Density (HU) from which a voxel belongs to what is dense, and from which it is calcium.

    They are half-way from BLOOD to CALCIFIED and CALCIFIED, or 4 and 5 standard deviations above brain if
    more. The first joins bone and what is averaged with it in a voxel.
    """
    values = ct.hu[brain & ct.known]
    if not values.size:
        return (BLOOD + CALCIFIED) / 2, CALCIFIED
    middle = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - middle)))
    return max((BLOOD + CALCIFIED) / 2, middle + 4 * spread), max(CALCIFIED, middle + 5 * spread)


def measure_foci(
    labels: np.ndarray, affine: np.ndarray, mask: np.ndarray, ct: Tomogram, dense: Dense
) -> pd.DataFrame:
    r"""Density of each focus in a CT, within `REACH_MM` of it.

    The largest density counts as more than that of the tissue around it, b, where it exceeds

    .. math:: b + (\sqrt{2 \ln n} + 1) \, s,

    with n voxels within reach and the spread s of the tissue: pure noise seldom reaches that [1]_.

    Parameters
    ----------
    labels : ndarray of int, 3D
        Foci, numbered from 1, on the grid of the maps.
    affine : ndarray (4, 4)
        Voxel to scanner coordinates (RAS, mm) of the maps.
    mask : ndarray of bool
        Brain on the same grid.
    ct : Tomogram
    dense : Dense
        See `find_dense`.

    Returns
    -------
    DataFrame
        One row a focus, see `FOCI`, but for the columns of chi.

    References
    ----------
    .. [1] The expected maximum of n normal values is at most :math:`\sqrt{2 \ln n}` standard deviations.
    """
    rows = []
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        if box is not None:
            rows.append({'focus': number, **_measure(labels, number, box, affine, mask, ct, dense)})
    return pd.DataFrame(rows, columns=['focus', *_MEASURED])


_MEASURED = (
    *('hu_max', 'hu_mean', 'hu_surround', 'hu_limit', 'hu_diluted', 'skull_share'),
    *('ct_class', 'reason'),
)


def _measure(
    labels: np.ndarray,
    number: int,
    box: tuple[slice, ...],
    affine: np.ndarray,
    mask: np.ndarray,
    ct: Tomogram,
    dense: Dense,
) -> dict[str, object]:
    size = spacing_of(affine)
    pad = np.ceil((SHELL_MM[1] + 1) / size).astype(int)
    low = np.maximum([b.start for b in box] - pad, 0)
    high = np.minimum([b.stop for b in box] + pad, labels.shape)
    wide = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    # voxels of the CT may be smaller than those of the maps
    fine = int(np.clip(np.ceil(size.max() / ct.voxel_size.min()), 1, 4))
    own, brain = (_repeat(part, fine) for part in (labels[wide] == number, mask[wide]))
    distance = ndimage.distance_transform_edt(~own, sampling=size / fine)
    values, skull, index = _look_up(distance <= REACH_MM, low, fine, affine, ct, dense)
    at_focus = _look_up(own, low, fine, affine, ct, dense)[1]
    around, bone, _ = _look_up(
        brain & (distance > SHELL_MM[0]) & (distance <= SHELL_MM[1]), low, fine, affine, ct, dense
    )
    seen, around = np.isfinite(values), around[np.isfinite(around) & ~bone]
    found: dict[str, object] = dict.fromkeys(_MEASURED, np.nan) | {'ct_class': 'n/a', 'reason': 'n/a'}
    if seen.mean() < 0.9:
        return found | {'reason': 'outside of what the CT shows'}
    found['skull_share'] = round(float(skull.mean()), 3)
    if at_focus.mean() > 0.5 or not (~skull).any():
        return found | {'reason': 'beside the skull: CT cannot tell it from bone'}
    if around.size < 20:
        return found | {'reason': 'no brain around it in the CT'}
    keep = seen & ~skull
    middle = float(np.median(around))
    spread = 1.4826 * float(np.median(np.abs(around - middle)))
    n = len(np.unique(index[keep]))
    limit = max(BLOOD, middle + (np.sqrt(2 * np.log(max(n, 2))) + 1) * spread)
    diameter = (6 * own.sum() * np.prod(size / fine) / np.pi) ** (1 / 3)
    # what a focus of CALCIFIED gives in a voxel that it does not fill
    diluted = middle + (CALCIFIED - middle) * np.prod(np.minimum(1, diameter / ct.voxel_size))
    top = float(values[keep].max())
    found |= {
        'hu_max': round(top, 1),
        'hu_mean': round(float(values[keep].mean()), 1),
        'hu_surround': round(middle, 1),
        'hu_limit': round(limit, 1),
        'hu_diluted': round(float(diluted), 1),
    }
    if top >= max(CALCIFIED, limit):
        return found | {'ct_class': 'calcified'}
    if top >= limit:
        return found | {'ct_class': 'unclear'}
    if diluted < limit:
        voxels = f'voxels of {size_text(ct.voxel_size)} mm'
        reason = f'calcium of this size would not stand out from the noise in {voxels}'
        return found | {'ct_class': 'unclear', 'reason': reason}
    return found | {'ct_class': 'none'}


def _repeat(part: np.ndarray, times: int) -> np.ndarray:
    for axis in range(3):
        part = np.repeat(part, times, axis)
    return part


def _look_up(
    where: np.ndarray, low: np.ndarray, fine: int, affine: np.ndarray, ct: Tomogram, dense: Dense
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Density (NaN where the CT shows nothing), whether it is skull, and the CT voxel's index, at each point.

    ``where`` are points on a grid that is ``fine`` times that of the maps and starts at its voxel ``low``.
    """
    points = low + (np.argwhere(where) + 0.5) / fine - 0.5
    at = np.rint(apply_affine(np.linalg.inv(ct.affine) @ ct.to_ct @ affine, points)).astype(int)
    inside = ((at >= 0) & (at < ct.hu.shape)).all(1)
    values, skull = np.full(len(at), np.nan, np.float32), np.zeros(len(at), bool)
    index = np.full(len(at), -1)
    index[inside] = np.ravel_multi_index(tuple(at[inside].T), ct.hu.shape)
    held = index[inside]
    values[inside] = np.where(ct.known.ravel()[held], ct.hu.ravel()[held], np.nan)
    skull[inside] = dense.skull.ravel()[held]
    return values, skull, index


def list_calcium(
    ct: Tomogram,
    dense: Dense,
    labels: np.ndarray,
    affine: np.ndarray,
    places: Places,
) -> pd.DataFrame:
    """One row for each piece of calcium in a CT, see `CALCIUM`, the largest first.

    Parameters
    ----------
    ct : Tomogram
    dense : Dense
        See `find_dense`.
    labels : ndarray of int
        Foci on the grid of the maps.
    affine : ndarray (4, 4)
        Voxel to scanner coordinates of that grid.
    places : Places
        Of the series.
    """
    volume = abs(np.linalg.det(ct.affine[:3, :3]))
    to_maps = np.linalg.inv(ct.to_ct) @ ct.affine
    foci = np.argwhere(labels > 0)
    tree = KDTree(apply_affine(affine, foci)) if len(foci) else None
    reach = REACH_MM + max(*spacing_of(affine), *ct.voxel_size) / 2
    rows = []
    for number, box in enumerate(ndimage.find_objects(dense.pieces), 1):
        voxels = np.argwhere(dense.pieces[box] == number) + [b.start for b in box]
        density = ct.hu[tuple(voxels.T)]
        points = apply_affine(to_maps, voxels)
        centre = points.mean(0)
        near = np.inf
        if tree is not None:
            distance, at = tree.query(points)
            near, at = distance.min(), foci[at[distance.argmin()]]
        row = {
            'piece': number,
            'candidate': int(labels[tuple(at)]) if near <= reach else np.nan,
            **places.columns(centre, points),
            'volume_mm3': round(len(voxels) * volume, 2),
            'diameter_mm': round((6 * len(voxels) * volume / np.pi) ** (1 / 3), 2),
            'hu_max': float(density.max()),
            'hu_mean': round(float(density.mean()), 1),
        }
        place = physiological(np.array([row[f'template_{axis}'] for axis in 'xyz']))
        row['physiological'] = place or 'n/a'
        rows.append(row)
    table = pd.DataFrame(rows, columns=[*CALCIUM])
    return table.sort_values('volume_mm3', ascending=False, kind='stable', ignore_index=True)


def agreement(signs: Sequence[str], classes: Sequence[str]) -> list[str]:
    """What susceptibility and CT say of each focus together, by its sign and its class in CT.

    >>> agreement(['diamagnetic', 'paramagnetic', 'paramagnetic'], ['calcified', 'calcified', 'none'])
    ['agree', 'disagree', 'agree']
    >>> agreement(['diamagnetic', 'diamagnetic', 'indeterminate'], ['none', 'unclear', 'calcified'])
    ['disagree', 'unclear', 'n/a']
    """
    known = {('diamagnetic', 'calcified'): 'agree', ('diamagnetic', 'none'): 'disagree'}
    known |= {('paramagnetic', 'calcified'): 'disagree', ('paramagnetic', 'none'): 'agree'}
    known |= {(sign, 'unclear'): 'unclear' for sign in ('diamagnetic', 'paramagnetic')}
    return [known.get(pair, 'n/a') for pair in zip(signs, classes, strict=True)]


_REACH = f'within {REACH_MM:g} mm of the focus, without bone'
FOCI = {
    'candidate': ('Number of the candidate in the table of candidates.', None),
    'chi_class': ('What susceptibility says of it, from the table of candidates.', None),
    'chi_sign': ('Sign of its net dipole moment, from the table of candidates.', None),
    'ct_class': (
        f'calcified: {CALCIFIED:.0f} HU or more; none: the density is that of the tissue around it, or below '
        f'{BLOOD:.0f} HU; unclear: between these, or too small to stand out in the voxels of the CT.',
        None,
    ),
    'agreement': (
        'agree: diamagnetic and calcified, or paramagnetic and none; disagree: the reverse; unclear: CT is '
        'unclear. Neither changes the other.',
        None,
    ),
    'reason': ('Why CT says nothing, or little, of it.', None),
    'hu_max': (f'Largest density {_REACH}.', 'HU'),
    'hu_mean': (f'Mean density {_REACH}.', 'HU'),
    'hu_surround': (f'Median density of brain {SHELL_MM[0]:g} to {SHELL_MM[1]:g} mm from it.', 'HU'),
    'hu_limit': ('Largest density that the noise alone may give.', 'HU'),
    'hu_diluted': (
        f'Density that a focus of its size and {CALCIFIED:.0f} HU would have in the voxels of the CT: thick '
        'slices dilute it.',
        'HU',
    ),
    'skull_share': ('Share of the voxels within reach that are bone or beside it, which are left out.', None),
}
CALCIUM = {
    'piece': ('Number of the piece of calcium, and its label in the image.', None),
    'candidate': (
        f'Candidate within {REACH_MM:g} mm and half a voxel of it; n/a where susceptibility shows none.',
        None,
    ),
    'physiological': (
        f'Place where calcium is usual in health: {", ".join(PLACES_OF_CALCIUM)}; by template space, so a '
        'hint. n/a: none of these.',
        None,
    ),
    **described('piece'),
    'volume_mm3': ('Volume of its voxels.', 'mm^3'),
    'diameter_mm': ('Diameter of the ball of that volume.', 'mm'),
    'hu_max': ('Largest density.', 'HU'),
    'hu_mean': ('Mean density.', 'HU'),
}
