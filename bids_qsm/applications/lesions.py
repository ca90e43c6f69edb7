"""Measure each lesion of the masks given, one row a lesion."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bids_qsm.applications.contract import Application, Given, Image, Query, Table
from bids_qsm.biomarkers.lesions import EMPTY, FAINT, Drawn, dictionary, label_lesions, lesion_table
from bids_qsm.biomarkers.localisation import PLACE
from bids_qsm.cohort.describe import lesion_counts, lesion_sums
from bids_qsm.plotting.cohort_charts import plot_lesions
from bids_qsm.recon.registry import Need


def number(mask: np.ndarray, name: str) -> np.ndarray:
    """Number lesions before they are resampled, so that a lesion has one number in all sessions."""
    return label_lesions(np.nan_to_num(mask), binary='_mask.nii' in name)


def measure(
    chi: np.ndarray,
    r2star: np.ndarray | None,
    mask: np.ndarray,
    lesions: tuple[Given, ...],
    dseg: np.ndarray,
    labels: pd.DataFrame,
    affine: np.ndarray,
    to_template: list,
    reference: str,
) -> tuple[pd.DataFrame, tuple[np.ndarray, dict[int, str]]]:
    """Tabulate the lesions of all masks, see `bids_qsm.biomarkers.lesions.lesion_table`, and number them."""
    drawn = [
        Drawn(
            one.source,
            one.data,
            one.affine,
            one.on_grid,
            one.to_maps,
            FAINT if np.nan_to_num(one.stored).any() and not one.data.any() else EMPTY,
        )
        for one in lesions
    ]
    table = lesion_table(chi, r2star, mask, drawn, dseg, labels, affine, to_template, reference)
    return table, placed(drawn, mask.shape)


def placed(drawn: Sequence[Drawn], shape: tuple[int, ...]) -> tuple[np.ndarray, dict[int, str]]:
    """Lesions of all masks on the grid of the maps, and names of their numbers as the table has them.

    Numbers go on from those of the mask before, and with several masks the name is that of the mask and the
    number in it. Where lesions of two masks overlap, the image shows that of the first.
    """
    found, count, names = np.zeros(shape, np.int32), 0, {}
    for one in drawn:
        found = np.where((found == 0) & (one.placed > 0), one.placed + count, found)
        mask = f'{one.source}: ' if len(drawn) > 1 else ''
        numbers = np.unique(one.labels[one.labels > 0]).tolist()
        names |= {number + count: f'{mask}{number}' for number in numbers}
        count += max(numbers, default=0)
    return found, names


def burden(table: pd.DataFrame) -> pd.DataFrame:
    """Tidy rows of one series: number, volume and mean susceptibility of the lesions measured."""
    sums = lesion_sums(table)
    rows = [
        ('lesion_count', float(sums['measured']), 'count', np.nan),
        ('lesion_volume', float(sums['volume_mm3']), 'mm^3', np.nan),
        ('lesion_chi', sums['chi_mean'], 'ppm', table['reference'].iloc[0] if len(table) else np.nan),
    ]
    found = pd.DataFrame(rows, columns=['map', 'mean', 'units', 'reference'])
    return found.assign(region='Brain', hemisphere='both')


def overview(rows: pd.DataFrame) -> dict:
    """What the cohort's page says of all lesions."""
    measured = rows[rows['reason'].isna()]
    signs = measured['sign'].value_counts()
    reference = ', '.join(sorted(rows['reference'].dropna().astype(str).unique())) or 'n/a'
    chart = (
        f'One point a lesion that was measured (n = {len(measured)}). Above zero: more paramagnetic than the '
        'tissue around it, as iron and blood are; below: more diamagnetic, as calcium is.'
    )
    weighted = f'χ is the mean over the lesions, weighted by volume, relative to {reference}.'
    return {
        'question': 'Which lesions were drawn, and how do they differ from the tissue around them?',
        'answers': [
            f'Lesion masks of {rows["participant_id"].nunique()} participants: {len(measured)} lesions '
            f'measured ({signs.get("paramagnetic", 0)} paramagnetic, {signs.get("diamagnetic", 0)} '
            f'diamagnetic), {len(rows) - len(measured)} rows without a measurement.'
        ],
        'figures': [('Lesions', plot_lesions(measured), chart)] if len(measured) else [],
        'tables': [('Lesions by participant', lesion_counts(rows), weighted)],
    }


APPLICATION = Application(
    name='lesions',
    title='Lesions',
    measure=measure,
    gives=('table', 'drawn'),
    extra=(
        Query(
            'lesions',
            title='lesion mask',
            suffix=('mask', 'roi', 'dseg'),
            datatype='',
            entities=(('label', 'lesion*'),),
            interpolation='label',
            prepare=number,
            many=True,
            optional=False,
        ),
    ),
    images=(
        # a name that is not one of lesion masks: those of an earlier run must not be measured again
        Image(
            'drawn',
            'dseg',
            'Lesions, numbered as in their table; in a further mask, numbers go on from the one before',
            desc='lesions',
            named=True,
        ),
    ),
    tables=(
        Table(
            entities=(('label', 'lesion'),),
            dictionary=lambda _: dictionary(),
            shown=(
                *('source', 'lesion', 'reason', *PLACE, 'volume_mm3'),
                *('chi_mean', 'contrast', 'rim_contrast', 'sign'),
            ),
            caption='One row a lesion that was drawn; the reason says why one was not measured.',
            cohort=burden,
        ),
    ),
    overview=overview,
    asked=False,
    method='Lesions were taken from the masks given, carried to the GRE in one interpolation, and measured '
    'one by one: whole, core, rim (outer shell of one voxel) and surround.',
    memory=Need(0.2, volume=10, anat=10),
)
