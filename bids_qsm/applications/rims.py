"""Look for a paramagnetic rim in each lesion of the masks given."""

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.anatomy.transform import spacing_of
from bids_qsm.applications.contract import Application, Figure, Given, Image, Table
from bids_qsm.applications.lesions import APPLICATION as LESIONS
from bids_qsm.biomarkers.confluent import place_parts, split_confluent
from bids_qsm.biomarkers.focal_brain import iron_rich
from bids_qsm.biomarkers.localisation import Places
from bids_qsm.biomarkers.rim_response import IN_A_HEAD, THICKNESS_MM, field_noise
from bids_qsm.biomarkers.rim_table import (
    Inversion,
    dictionary,
    direction_dictionary,
    direction_table,
    rim_table,
)
from bids_qsm.biomarkers.rims import CLASSES, Rim, measure_rims, surroundings
from bids_qsm.cohort.describe import rim_counts
from bids_qsm.plotting.maps import Look
from bids_qsm.plotting.rim_charts import plot_rims
from bids_qsm.plugins import is_plugin
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.registry import Need
from bids_qsm.recon.units import effective_echo_time, ppm_per_radian

ASSUMED = {'noise': 0.003, 'field_strength': 3.0, 'echo_time': 0.02}
"""Noise of the field (ppm), field strength (T) and effective echo time (s) where the series does not tell."""
FLUID = 0.35
"""Share of the median R2* below which a voxel is fluid, as for the ventricles (`recon.csf`)."""
FAINT = 0.1
"""Least share of a voxel that is vein for it to count as one."""
LABEL = (('label', 'rim'),)


def measure(
    chi: np.ndarray,
    r2star: np.ndarray | None,
    localfield: np.ndarray | None,
    mask: np.ndarray,
    lesions: tuple[Given, ...],
    veins_share: np.ndarray | None,
    dseg: np.ndarray,
    labels: pd.DataFrame,
    white_matter: np.ndarray | None,
    grid: Grid,
    affine: np.ndarray,
    to_template: list,
    inversion: tuple[str, dict] | None,
    field_strength: float | None,
    echo_times: list | None,
    reference: str,
):
    """Take lesions apart and look for rims, see `bids_qsm.biomarkers.rims.measure_rims`."""
    split = np.zeros(mask.shape, np.int32)
    tables, sources, count = [], [], 0
    for one in lesions:
        parts, table = split_confluent(one.data, spacing_of(one.affine))
        placed = place_parts(parts, table, one.affine, one.to_maps, one.on_grid, affine)
        split = np.where((split == 0) & (placed > 0), placed + count, split)
        tables.append(table.set_index(table.index + count))
        sources += [one.source] * len(table)
        count += len(table)
    veins = None if veins_share is None else veins_share > FAINT
    around = surroundings(
        chi,
        mask,
        split,
        grid,
        veins=veins,
        excluded=_excluded(chi, r2star, mask, dseg, grid),
        white=white_matter,
    )
    rims = measure_rims(chi, around, mask, grid, count=count)
    how, facts = _inversion(inversion, localfield, around.plain, field_strength, echo_times)
    facts['Veins'] = 'found by the application veins' if veins is not None else 'not excluded: not found'
    table = rim_table(
        rims,
        sources,
        pd.concat(tables),
        split,
        Places(dseg, labels, affine, to_template),
        affine,
        grid,
        how,
        with_veins=veins is not None,
        reference=reference,
    )
    share = np.zeros(mask.shape, np.float32)
    for rim in rims:
        if isinstance(rim, Rim):
            share[rim.box] = np.maximum(share[rim.box], rim.probability)
    return split, share, table, direction_table(rims, affine), facts


def _excluded(chi: np.ndarray, r2star: np.ndarray | None, mask: np.ndarray, dseg: np.ndarray, grid: Grid):
    """Iron-rich nuclei, and fluid where there is R2*."""
    found = iron_rich(chi, mask, dseg)
    if r2star is not None:
        sigma = [0.7 / v for v in grid.voxel_size]
        known = mask & (r2star > 0)
        weight = ndimage.gaussian_filter(known.astype(np.float32), sigma)
        smooth = ndimage.gaussian_filter(np.where(known, r2star, 0).astype(np.float32), sigma)
        if known.any():
            found = found | (known & (smooth < FLUID * np.median(r2star[known]) * weight))
    return found


def _inversion(
    inversion: tuple[str, dict] | None,
    localfield: np.ndarray | None,
    tissue: np.ndarray,
    field_strength: float | None,
    echo_times: list | None,
):
    """How synthetic rims are inverted, and the facts of it."""
    default = (next(iter(INVERSION)), {})
    name, params = inversion or default
    source = 'that of the series' if inversion else 'assumed: susceptibility was given'
    if name in IN_A_HEAD or is_plugin(name):
        source = f'stands in for {name}, which cannot be measured on a rim alone'
        name, params = default
    noise = np.nan if localfield is None else field_noise(localfield, tissue)
    is_known = np.isfinite(noise) and noise > 0
    noise = noise if is_known else ASSUMED['noise']
    echo = effective_echo_time(echo_times) if echo_times else ASSUMED['echo_time']
    phase = 1 / ppm_per_radian(field_strength or ASSUMED['field_strength'], echo)
    facts = {
        'RimThickness': {
            'value': THICKNESS_MM,
            'units': 'mm',
            'source': 'assumed',
            'meaning': 'thickness of the rim that corrected contrasts stand for',
        },
        'RimResponseInversion': {
            'value': name,
            'source': source,
        },
        'RimResponseNoise': {
            'value': noise,
            'units': 'ppm',
            'source': 'local field' if is_known else 'assumed',
        },
    }
    return Inversion(INVERSION[name], params, noise, phase), facts


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """Tidy rows of one series: lesions by class, and the contrast of the rims that are at least probable.

    Counts are n/a where there are lesions and none could be assessed.
    """
    done = table[table['reason'].isna()]
    likely = done[done['rim_class'].isin(['definite', 'probable'])]
    reference = table['reference'].iloc[0] if len(table) else np.nan
    rows = [(f'rim_{name}', float((done['rim_class'] == name).sum()), 'count', np.nan) for name, _ in CLASSES]
    rows += [
        ('rim_lesions', float(len(likely)), 'count', np.nan),
        ('rim_volume', float(likely['volume_mm3'].sum()), 'mm^3', np.nan),
        ('rim_contrast', likely['rim_contrast_corrected'].mean(), 'ppm', reference),
    ]
    found = pd.DataFrame(rows, columns=['map', 'mean', 'units', 'reference'])
    if len(table) and done.empty:
        found['mean'] = np.nan
    return found.assign(region='Brain', hemisphere='both')


def overview(rows: pd.DataFrame) -> dict:
    """What the cohort's page says of all lesions."""
    done = rows[rows['reason'].isna()]
    graded = done['rim_class'].value_counts()
    said = ', '.join(f'{graded.get(name, 0)} {name}' for name, _ in CLASSES)
    likely = done[done['rim_class'].isin(['definite', 'probable'])]
    return {
        'question': 'Which lesions have a paramagnetic rim?',
        'answers': [
            f'{len(done)} lesions of {rows["participant_id"].nunique()} participants were assessed: {said} '
            'rims. '
            f'{likely["participant_id"].nunique()} participants have a definite or probable one. '
            f'{len(rows) - len(done)} lesions could not be assessed.'
        ],
        'tables': [
            (
                'Rim lesions by participant',
                rim_counts(rows),
                'Classes by the share of the edge that shows a rim. Found by the computer and not confirmed.',
            )
        ],
    }


APPLICATION = Application(
    name='rims',
    title='Rim lesions',
    measure=measure,
    gives=('split', 'rim', 'table', 'rimdirections', 'facts'),
    uses=('veins',),
    extra=LESIONS.extra,
    images=(
        Image(
            'split',
            'dseg',
            'Lesions examined for a rim, confluent ones taken apart, numbered as in their table',
            desc='split',
            entities=(('label', 'lesion'),),
        ),
        Image(
            'rim',
            'probseg',
            'How far each voxel is up to the rim, in directions that show one',
            desc='',
            entities=LABEL,
            look=Look('Rim', '1', 'inferno', (0.0, 1.0)),
        ),
    ),
    tables=(
        Table(
            entities=LABEL,
            dictionary=lambda _: dictionary(),
            shown=(
                *('lesion', 'parent', 'reason', 'x', 'y', 'z', 'volume_mm3', 'rim_class', 'completeness'),
                *('n_assessable', 'rim_contrast', 'rim_contrast_corrected', 'least_rim', 'vein_touch'),
            ),
            caption='Found by the computer and not confirmed: a score of the image, not a diagnosis. Where '
            'least_rim is high, a weak rim would not show.',
            cohort=counts,
        ),
        Table(
            'rimdirections',
            title='Directions of lesions',
            dictionary=lambda _: direction_dictionary(),
            caption='64 directions a lesion, of equal area.',
        ),
    ),
    figures=(
        Figure(
            'rimcharts',
            'Edge of lesions',
            'The lesions of the highest scores. Left: 64 directions from the centre on two discs of equal '
            'area, seen from above; large marks show a rim, small ones none, crosses a vein, dots what '
            'cannot be assessed; colour is the contrast. Right: the slice through the centre, without and '
            'with the outline of the mask.',
            draw=plot_rims,
            table='rimdirections',
            takes=('table', 'chi', 'split', 'affine'),
        ),
    ),
    overview=overview,
    method='Confluent lesions were taken apart where the Hessian of the distance to their edge is negative '
    'definite [@dworkin2018]. The edge of each lesion was examined in 64 directions of equal area, apart '
    'from veins and from tissue that is not white matter; a direction shows a rim where it stands out from '
    'core and outside by more than two standard deviations of the same shape elsewhere in white matter. '
    'Lesions were classified by the share of such directions, following the consensus on paramagnetic rim '
    'lesions [@bagnato2024]. Contrasts were corrected by a synthetic rim of the same shape, which went '
    'through voxels, dipole and inversion.',
    memory=Need(0.2, volume=20, anat=10),
)
