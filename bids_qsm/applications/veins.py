"""Find veins and measure them: where they run, how wide they are, how dense by region."""

import numpy as np
import pandas as pd

from bids_qsm.applications.contract import Application, Column, Figure, Image, Table
from bids_qsm.biomarkers.columns import data_dictionary
from bids_qsm.biomarkers.focal_brain import tissue_contrast
from bids_qsm.biomarkers.veins import find_veins
from bids_qsm.biomarkers.veins_join import with_sinuses
from bids_qsm.biomarkers.veins_names import NAMES
from bids_qsm.biomarkers.veins_table import (
    LINE_COLUMNS,
    MAPS,
    SEGMENT_COLUMNS,
    density_table,
    line_table,
    segment_table,
)
from bids_qsm.plotting.maps import Look
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import Need
from bids_qsm.recon.swi import minip

QUESTION = 'Which veins were found, and how dense are they?'
VEIN = (('label', 'vein'),)


def measure(
    chi: np.ndarray | None,
    swi: np.ndarray | None,
    r2star: np.ndarray | None,
    mask: np.ndarray,
    dseg: np.ndarray,
    labels: pd.DataFrame,
    white_matter: np.ndarray | None,
    affine: np.ndarray,
    grid: Grid,
    to_template: list,
    echoes: np.ndarray | None,
    echo_times: list | None,
    *,
    false_share: float = 0.3,
    least_mm: float = 5.0,
):
    """Find and measure veins, see `bids_qsm.biomarkers.veins.find_veins`, and sinuses beside the brain."""
    veins = find_veins(
        chi, swi, r2star, mask, dseg, affine, grid, to_template, false_share=false_share, least_mm=least_mm
    )
    if echoes is not None and echo_times and len(echo_times) > 1 and to_template:
        veins = with_sinuses(veins, echoes, echo_times, mask, affine, grid, to_template)
    diameter = np.zeros(mask.shape, np.float32)
    for one in veins.segments:
        diameter[one.passes(mask.shape)] = one.diameter_mm
    ratio = None
    projection = np.zeros(mask.shape, np.float32)
    if chi is not None:
        contrast, spread = tissue_contrast(chi, mask, grid)
        ratio = contrast / spread
        projection = -minip(np.where(mask, -chi, 0).astype(np.float32), grid)
    facts = {
        'VeinSusceptibility': {
            'value': veins.blood_chi,
            'units': 'ppm',
            'source': veins.blood_from,
            'meaning': 'susceptibility of blood above tissue, by which shares and diameters were computed',
        }
    }
    return (
        veins.share,
        veins.mask,
        veins.labels,
        veins.numbers,
        veins.skeleton > 0,
        diameter,
        projection,
        segment_table(veins, chi, ratio, mask, grid),
        line_table(veins.segments),
        density_table(veins, mask, dseg, labels, white_matter, grid),
        facts,
    )


def overview(rows: pd.DataFrame) -> dict:
    """What the cohort's page says of all segments."""
    if rows.empty:
        return {'question': QUESTION, 'answers': ['No vein was found.']}
    people = rows.groupby('participant_id')
    total = people['length_mm'].sum()
    named = rows[~rows['label'].isin([NAMES[5], NAMES[6]])]
    summary = rows.groupby('label').agg(
        participants=('participant_id', 'nunique'),
        segments=('segment', 'size'),
        length_mm=('length_mm', 'sum'),
        diameter_mm=('diameter_mm', 'median'),
    )
    return {
        'question': QUESTION,
        'answers': [
            f'{len(rows)} segments in {len(total)} participants; the veins of a participant are '
            f'{total.median():.0f} mm long in the median. Large veins with a name were found in '
            f'{named["participant_id"].nunique()} participants.'
        ],
        'tables': [
            (
                'Veins by name',
                summary.reset_index().round(2),
                'Length is the sum over all participants, diameter the median over segments.',
            )
        ],
    }


APPLICATION = Application(
    name='veins',
    title='Veins',
    measure=measure,
    gives=(
        *('share', 'mask', 'veinlabels', 'segments', 'skeleton', 'diameter', 'veinmip'),
        *('table', 'veinlines', 'veindensity', 'facts'),
    ),
    images=(
        Image(
            'share',
            'probseg',
            'Share of each voxel that is vein',
            desc='',
            entities=VEIN,
            look=Look('Share of vein', '1', 'inferno', (0.0, 1.0)),
        ),
        Image(
            'mask',
            'mask',
            'Veins: voxels that are vein by half, and centrelines of thinner veins',
            desc='',
            entities=VEIN,
        ),
        Image('veinlabels', 'dseg', 'Veins by name', desc='veins', lookup=tuple(NAMES.items())),
        Image('segments', 'dseg', 'Segments of veins, numbered as in their table', desc='veinsegments'),
        Image('skeleton', 'mask', 'Centrelines of veins', entities=VEIN),
        Image(
            'diameter',
            'diametermap',
            'Diameter of veins on their centrelines',
            'mm',
            desc='',
            entities=VEIN,
            look=Look('Diameter of veins', 'mm', 'viridis', (0.0, 4.0)),
        ),
        Image(
            'veinmip',
            'Chimap',
            'Maximum of susceptibility over slabs of 10 mm along head-foot',
            'ppm',
            desc='MIP',
        ),
    ),
    tables=(
        Table(
            entities=VEIN,
            dictionary=lambda _: data_dictionary(SEGMENT_COLUMNS),
            shown=(
                'segment',
                'label',
                'length_mm',
                'diameter_mm',
                'tilt_deg',
                'tortuosity',
                'chi_mean',
                'chi_snr',
                'outside_mask',
            ),
            caption='One row a segment between junctions or ends. Thin veins along B0 hardly disturb '
            'the field: their diameters are less certain.',
        ),
        Table(
            'veinlines',
            title='Centrelines of veins',
            dictionary=lambda _: data_dictionary(LINE_COLUMNS),
            shown=('segment', 'x', 'y', 'z', 'diameter_mm', 'tilt_deg'),
            caption='One row a point, about half a voxel apart.',
        ),
        Table(
            'veindensity',
            title='Density of veins',
            maps=tuple(Column(name, about, units) for name, (about, units) in MAPS.items()),
            shown=('region', 'hemisphere', 'map', 'mean', 'se', 'units'),
            caption='The density of the veins that can be seen: it rises with resolution and field strength.',
            cohort='tidy',
        ),
    ),
    figures=(
        Figure(
            'veinlabels',
            'Veins by name',
            'Outlines of veins, coloured by name, over the susceptibility-weighted image or, without it, the '
            'magnitude or a map.',
            over='swi',
        ),
        Figure('veinmip', 'Projection of susceptibility', 'Maximum over slabs of 10 mm: veins are bright.'),
    ),
    overview=overview,
    method='Veins were found as tubes [@frangi] in susceptibility, R2* and the susceptibility-weighted '
    'image, whose contrasts to the tissue around were combined by their likelihood ratio. Thresholds were '
    'set by the number of tubes of the opposite sign, which are none; centrelines were found by thinning '
    '[@lee1994]. The diameter of a vein follows from the integral of susceptibility over its section. The '
    'superior sagittal and transverse sinuses were also followed outside the brain mask, along their courses '
    'in template space, by the brightness of the first echo and R2*.',
    fewest_echoes=0,  # without them nothing is looked for outside the mask
    memory=Need(0.2, volume=40, echoes=3, anat=10),
)
