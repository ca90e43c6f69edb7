"""Tables of rim lesions: one row a lesion, and one row a direction of a lesion."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bids_qsm.anatomy.transform import apply_affine, spacing_of
from bids_qsm.biomarkers.columns import data_dictionary
from bids_qsm.biomarkers.localisation import Places, described
from bids_qsm.biomarkers.rim_contrast import OUT_MM, RIM_MM, SPREADS
from bids_qsm.biomarkers.rim_profiles import N_DIRECTIONS, directions
from bids_qsm.biomarkers.rim_response import THICKNESS_MM, rim_response
from bids_qsm.biomarkers.rims import ALONE, CLASSES, HIDDEN, LOST, OUTSIDE, SMALL, Missed, Rim
from bids_qsm.recon.grid import Grid

STRONG_PPM = 0.1
"""Susceptibility (ppm) of the strongest rims: where even these would not show, there is no answer."""
UNSEEN = f'a rim of {1000 * STRONG_PPM:g} ppb would not show: too large voxels, or too much noise'
STATES = ('rim', 'none', 'vein', 'not assessable')
"""What a direction shows; one with a vein in it was assessed beside the vein, if enough was left."""


@dataclass(frozen=True)
class Inversion:
    """How the map was inverted, for synthetic rims: the function, its parameters, noise and phase."""

    function: Callable
    params: Mapping[str, object]
    noise: float
    radians_per_ppm: float


def rim_table(
    rims: Sequence[Rim | Missed],
    sources: Sequence[str],
    parents: pd.DataFrame,
    lesions: np.ndarray,
    places: Places,
    affine: np.ndarray,
    grid: Grid,
    inversion: Inversion,
    *,
    with_veins: bool,
    reference: str = '',
) -> pd.DataFrame:
    """Tabulate lesions and their rims.

    Parameters
    ----------
    rims : sequence of Rim or Missed
    sources : sequence of str
        Mask that each lesion is from.
    parents : DataFrame
        Columns parent and n_in_parent, by the number of the lesion.
    lesions : ndarray of int
        Their numbers on the grid of the maps.
    places : Places
    affine : ndarray (4, 4)
    grid : Grid
    inversion : Inversion
    with_veins : bool
        Whether veins were looked for.
    reference : str
        Region whose susceptibility is zero.

    Returns
    -------
    DataFrame
        See `dictionary`.
    """
    voxel = abs(np.linalg.det(affine[:3, :3]))
    rows = []
    for rim, source in zip(rims, sources, strict=True):
        voxels = np.argwhere(lesions == rim.number)
        points = apply_affine(affine, voxels)
        row = {
            'source': source,
            'lesion': rim.number,
            **parents.loc[rim.number].to_dict(),
            'reason': rim.reason if isinstance(rim, Missed) else None,
            'volume_mm3': round(len(voxels) * voxel, 2),
            **(places.columns(points.mean(0), points) if len(points) else {}),
        }
        more = {} if isinstance(rim, Missed) else _measured(rim, grid, inversion, with_veins)
        rows.append(row | more)
    table = pd.DataFrame(rows, columns=list(dictionary()))
    table['reference'] = reference or 'n/a'
    return table


def is_unseen(rim: Rim, response: float):
    """Whether a lesion shows no rim where even one of `STRONG_PPM` would not show."""
    usable = np.isfinite(response) and response > 0
    return rim.grade == 'no' and not (usable and rim.chance.threshold / response <= STRONG_PPM)


def _measured(rim: Rim, grid: Grid, inversion: Inversion, with_veins: bool):
    edge, seen = rim.edge, rim.seen
    response = rim_response(
        rim.frame,
        seen,
        grid,
        inversion.function,
        inversion.params,
        inversion.noise,
        inversion.radians_per_ppm,
    )
    usable = np.isfinite(response) and response > 0
    error = rim.chance.error(seen)
    found = rim.grade != 'no'
    unseen = is_unseen(rim, response)
    return {
        'reason': UNSEEN if unseen else None,
        'chi_core': _short(edge.core),
        'chi_rim': _short(edge.rim[seen].mean()),
        'chi_outside': _short(edge.outside[seen].mean()),
        'rim_contrast': _short(rim.contrast),
        'rim_contrast_se': _short(error),
        'response': _short(response),
        'rim_contrast_corrected': _short(rim.contrast / response) if usable and found else np.nan,
        'rim_contrast_corrected_se': _short(error / response) if usable and found else np.nan,
        'least_rim': _short(rim.chance.threshold / response) if usable else np.nan,
        'completeness': round(rim.completeness, 4),
        'n_assessable': int(rim.assessable.sum()),
        'n_positive': int(rim.positive.sum()),
        'n_slices': rim.n_slices,
        'n_planes': rim.n_planes,
        'vein_touch': ('yes' if rim.veined.any() else 'no') if with_veins else 'n/a',
        'rim_score': _short(rim.score),
        'rim_class': None if unseen else rim.grade,
    }


def _short(value: float):
    return float(f'{value:.4g}')


def direction_table(rims: Sequence[Rim | Missed], affine: np.ndarray) -> pd.DataFrame:
    """One row a direction of each lesion that was assessed; see `direction_dictionary`."""
    turn = affine[:3, :3] / spacing_of(affine)
    ways = directions() @ turn.T
    parts = []
    for rim in rims:
        if isinstance(rim, Missed):
            continue
        states = np.where(rim.positive, 'rim', np.where(rim.assessable, 'none', 'not assessable'))
        parts.append(
            pd.DataFrame(
                {
                    'lesion': rim.number,
                    'direction': np.arange(1, N_DIRECTIONS + 1),
                    **dict(zip('xyz', ways.T.round(4), strict=True)),
                    'state': np.where(rim.veined & ~rim.assessable, 'vein', states),
                    'contrast': rim.edge.contrast.round(5),
                    'threshold': round(rim.chance.threshold, 5),
                    'distance_mm': rim.edge.at,
                }
            )
        )
    return pd.concat(parts) if parts else pd.DataFrame(columns=list(direction_dictionary()))


def direction_dictionary():
    """Describe every column of `direction_table`, as a BIDS data dictionary."""
    return data_dictionary(
        {
            'lesion': ('Number of the lesion.', None),
            'direction': (f'Number of the direction, 1 to {N_DIRECTIONS}.', None),
            **{
                axis: (f'{axis} of the direction from the centre of the lesion (scanner, RAS).', None)
                for axis in 'xyz'
            },
            'state': (f'What it shows: {", ".join(STATES)}.', None),
            'contrast': ('Least of rim less core and rim less outside.', 'ppm'),
            'threshold': ('Contrast from which a direction shows a rim.', 'ppm'),
            'distance_mm': ('Place of the rim: distance to the edge of the mask, negative inside.', 'mm'),
        }
    )


def dictionary():
    """Describe every column of `rim_table`, as a BIDS data dictionary."""
    grades = ', '.join(f'{name} from {least:.2f}' for name, least in CLASSES)
    return data_dictionary(
        {
            'source': ('Lesion mask that the row is from.', None),
            'lesion': ('Number of the lesion in the image of split lesions.', None),
            'parent': ('Number of the piece of the mask that the lesion is part of.', None),
            'n_in_parent': ('Lesions in that piece: more than 1 where they grew together.', None),
            'reason': (
                f'Why the rim was not assessed: {SMALL}; {HIDDEN}; {ALONE}; {OUTSIDE}; {LOST}; '
                f'{UNSEEN}. '
                'n/a where it was.',
                None,
            ),
            'volume_mm3': ('Volume of the lesion on the grid of the maps.', 'mm^3'),
            **described('lesion'),
            'chi_core': ('Susceptibility of the core.', 'ppm'),
            'chi_rim': (
                'Mean susceptibility of the rim over the directions that show one, or over all.',
                'ppm',
            ),
            'chi_outside': ('Mean susceptibility outside, over the same directions.', 'ppm'),
            'rim_contrast': (
                'Mean over the same directions of the least of rim less core and rim less outside, as the '
                f'map shows it. The rim is the place between {-RIM_MM[0]:g} mm inside and {RIM_MM[1]:g} mm '
                'outside the edge, a voxel more on either side, '
                f'that stands out most; the outside lies {OUT_MM[0]:g} to {OUT_MM[1]:g} mm beyond it.',
                'ppm',
            ),
            'rim_contrast_se': (
                'Standard deviation of that mean at other places of white matter: noise and texture.',
                'ppm',
            ),
            'response': (
                f'Contrast that a rim of 1 ppm and {THICKNESS_MM:g} mm would show in this lesion: what '
                'voxels and inversion leave of it, from a synthetic rim in the same directions. The '
                'inversion is that in Constants.',
                None,
            ),
            'rim_contrast_corrected': (
                f'rim_contrast over response: susceptibility of a rim {THICKNESS_MM:g} mm thick. Of thin '
                'rims only thickness times susceptibility shows, so that it stands for this product (ppm '
                'mm); n/a in the class no.',
                'ppm',
            ),
            'rim_contrast_corrected_se': ('Standard error by noise and texture alone.', 'ppm'),
            'least_rim': (
                f'Weakest rim of {THICKNESS_MM:g} mm that would show here: the threshold over the response. '
                'Where it is high, no rim means little.',
                'ppm',
            ),
            'completeness': ('Share of the directions that can be assessed which show a rim.', 'fraction'),
            'n_assessable': (f'Directions, of {N_DIRECTIONS}, that can be assessed.', None),
            'n_positive': (
                f'Directions that show a rim: contrast over {SPREADS:g} standard deviations of chance.',
                None,
            ),
            'n_slices': (
                'Longest run of slices whose ring has a rim as complete as the class asks.',
                'slices',
            ),
            'n_planes': ('Planes through the centre, of 3, of which that is true.', None),
            'vein_touch': ('Whether a vein passes the edge; n/a where veins were not looked for.', None),
            'rim_score': ('completeness times rim_contrast; ranks lesions.', 'ppm'),
            'rim_class': (
                f'Class by completeness ({grades}), if two slices in a row or two planes show as much; else '
                'no. A score of the image, not a diagnosis.',
                None,
            ),
            'reference': ('Region whose susceptibility is zero.', None),
        }
    )
