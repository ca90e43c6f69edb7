"""Assess the central vein sign of each lesion of the masks given."""

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.anatomy.transform import apply_affine
from bids_qsm.applications.contract import Application, Figure, Given, Image, Table
from bids_qsm.applications.lesions import APPLICATION as LESIONS
from bids_qsm.biomarkers.central_vein import CLASSES, Lines, central_veins
from bids_qsm.biomarkers.central_vein_table import LESION_COLUMNS, RULE, SHARE_COLUMNS, share_table
from bids_qsm.biomarkers.columns import data_dictionary
from bids_qsm.cohort.tables import series_columns
from bids_qsm.derivatives.products import LOOKS
from bids_qsm.plotting.maps import plot_map
from bids_qsm.plotting.planes import plot_planes
from bids_qsm.recon.distance import depth_in_slab
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import Need

BESIDE_MM = 6.0
"""How far beyond lesions veins are marked in the picture."""
SHOWN = ('source', 'lesion', 'cvs', 'reason', 'score', 'p', 'size_mm', 'n_veins', 'vein_width_mm', 'n_planes')


def measure(
    chi: np.ndarray,
    mask: np.ndarray,
    white_matter: np.ndarray | None,
    lesions: tuple[Given, ...],
    veins_skeleton: np.ndarray,
    veins_veinlines: pd.DataFrame,
    affine: np.ndarray,
    grid: Grid,
):
    """Assess all masks, see `bids_qsm.biomarkers.central_vein.central_veins`."""
    lines = Lines.from_table(veins_veinlines, affine)
    tissue = mask if white_matter is None else mask & white_matter
    numbers, classes = np.zeros(mask.shape, np.int32), np.zeros(mask.shape, np.int16)
    tables = []
    for one in lesions:
        found, own = central_veins(chi, mask, one.on_grid, lines, tissue, grid)
        # lesions of several masks have labels one after another
        first = int(numbers.max())
        at = own > 0
        order = np.zeros(int(one.on_grid.max(initial=0)) + 1, np.int32)
        order[found['label']] = first + 1 + np.arange(len(found))
        numbers[at], classes[at] = order[one.on_grid[at]], own[at]
        middle = ndimage.center_of_mass(one.on_grid > 0, one.on_grid, found['label'].to_numpy(int))
        points = apply_affine(affine, np.reshape(middle, (-1, 3))).round(2)
        rows = found.assign(source=one.source, lesion=found['label'], label=order[found['label']])
        tables.append(rows.assign(**dict(zip('xyz', points.T, strict=True))))
    table = pd.concat(tables, ignore_index=True)[list(LESION_COLUMNS)]
    table = table.round({'score': 3, 'p': 4, 'size_mm': 2, 'vein_width_mm': 2, 'off_centre_mm': 2})
    near = depth_in_slab(numbers == 0, grid.voxel_size, BESIDE_MM + 1) <= BESIDE_MM
    shares = share_table(table).round({'share': 4, 'ci_low': 4, 'ci_high': 4})
    return numbers, classes, near & veins_skeleton, table, shares


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Tidy rows of one series: share and number of lesions with the sign, number assessed.

    The number with the sign is n/a where there are lesions and none was assessed.
    """
    assessed, found = table['cvs'].isin(['yes', 'no']).sum(), (table['cvs'] == 'yes').sum()
    share = found / assessed if assessed else np.nan
    rows = [
        ('cvs_share', share, 'fraction'),
        ('cvs_count', np.nan if len(table) and not assessed else float(found), 'count'),
        ('cvs_assessed', float(assessed), 'count'),
    ]
    return pd.DataFrame(rows, columns=['map', 'mean', 'units']).assign(region='Brain', hemisphere='both')


def overview(rows: pd.DataFrame) -> dict:
    """What the cohort's page says of all lesions."""
    keys, answers = series_columns(rows), ('yes', 'no', 'excluded')
    counts = pd.DataFrame(
        [
            {**dict(zip(keys, key, strict=True)), **{one: int((part['cvs'] == one).sum()) for one in answers}}
            for key, part in rows.groupby(keys, sort=True, dropna=False)
        ],
        columns=[*keys, *answers],
    )
    assessed = counts['yes'] + counts['no']
    share = counts['yes'] / assessed.where(assessed > 0)
    met = int((share >= RULE).sum())
    return {
        'question': 'In how many lesions does a vein run through the centre?',
        'answers': [
            f'{counts["yes"].sum()} of {assessed.sum()} lesions assessed have the central vein sign; '
            f'{counts["excluded"].sum()} were excluded. Each session and run of a participant counts by '
            f'itself: {met} of {(assessed > 0).sum()} with a lesion assessed reach {RULE:.0%}. This is no '
            'diagnosis.'
        ],
        'tables': [
            (
                'Central vein sign by participant',
                counts.assign(share=share.round(3)),
                'Lesions with and without the sign, those excluded, and the share of those assessed.',
            )
        ],
    }


def draw(
    chi: np.ndarray,
    affine: np.ndarray,
    numbers: np.ndarray,
    classes: np.ndarray,
    courses: np.ndarray,
) -> bytes:
    """Show each lesion in three planes, see `plot_planes`."""
    if not numbers.any():
        return plot_map(chi, affine, look=LOOKS['chi'], title='Central veins: no lesion is in the map')
    names = pd.DataFrame(CLASSES.items(), columns=['index', 'name'])
    shown = {'numbers': numbers, 'dseg': classes, 'labels': names, 'marks': courses}
    return plot_planes(chi, affine, look=LOOKS['chi'], title='Central veins', **shown)


APPLICATION = Application(
    name='centralvein',
    title='Central vein sign',
    measure=measure,
    gives=('centralveinlesions', 'centralvein', 'courses', 'table', 'centralveinshare'),
    extra=LESIONS.extra,
    uses=('veins',),
    images=(
        Image(
            'centralveinlesions', 'dseg', 'Lesions examined for a central vein, numbered as in their table'
        ),
        Image('centralvein', 'dseg', 'Lesions by their central vein', lookup=tuple(CLASSES.items())),
        Image(
            'courses',
            'mask',
            f'Centrelines of veins in lesions and up to {BESIDE_MM:g} mm beside them',
            desc='centralvein',
            entities=(('label', 'vein'),),
        ),
    ),
    tables=(
        Table(
            dictionary=lambda _: data_dictionary(LESION_COLUMNS),
            shown=SHOWN,
            caption='One row a lesion. For research; not a diagnosis.',
            cohort=tidy,
        ),
        Table(
            'centralveinshare',
            title='Share of lesions with a central vein',
            dictionary=lambda _: data_dictionary(SHARE_COLUMNS),
            caption='One row a lesion mask. The interval is that of the number of lesions assessed.',
        ),
    ),
    figures=(
        Figure(
            'centralvein',
            'Central veins',
            'Axial, coronal and sagittal plane through the centre of each lesion, with its outline; dots are '
            'the courses of veins in the slice.',
            draw=draw,
            picture=True,
            table='',
            takes=('chi', 'affine', 'centralveinlesions', 'centralvein', 'courses'),
        ),
    ),
    overview=overview,
    method='A lesion has the central vein sign [@sati2016] where one of the veins found, less than 2 mm '
    'wide, runs through the inner half of the lesion on both sides of its centre and is seen in at least two '
    'planes. Lesions smaller than 3 mm, confluent lesions and those with several veins were excluded.',
    memory=Need(0.2, volume=14),
)
