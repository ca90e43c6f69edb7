"""Measure the oxygen saturation of veins, and with a flow map the oxygen metabolism."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd

from bids_qsm.applications.contract import Application, Column, Figure, Image, Query, Table
from bids_qsm.biomarkers.columns import data_dictionary
from bids_qsm.biomarkers.oximetry import LOW, MODEL_SE, SURROUNDINGS, VeinMeasure, measure_veins
from bids_qsm.biomarkers.oximetry_pieces import Scan
from bids_qsm.biomarkers.oximetry_sampling import KSpace
from bids_qsm.biomarkers.oximetry_summary import (
    COLUMNS,
    CSF_SE,
    NO_CSF_SE,
    Zero,
    sensitivity_table,
    summary_table,
    vein_table,
)
from bids_qsm.biomarkers.oximetry_veins import veins_of_tables
from bids_qsm.biomarkers.oxygen import CGS, MEASURED_OXY, Constants, blood_of, constants_table, facts_of
from bids_qsm.biomarkers.reference import reference_regions, slow_error
from bids_qsm.plotting.maps import Look
from bids_qsm.plotting.oximetry_charts import plot_saturation
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import Need

EDGES = (0.5, 0.6, 0.7, 0.8)
"""Saturations that the levels of the figure meet at."""
CAUTION = 'It is a measurement for research, not a diagnosis.'


FINE_MM, NARROW = 1.2, 2.0
THIN_IN_COARSE = (
    'Narrower than 2 voxels of more than 1.2 mm: in simulated heads of 1.5 mm the saturation of veins of 1.3 '
    'to 1.6 voxels was too high by 2 to 9 points, often more than the stated error. Trust wider veins.'
)
"""Largest voxel (mm) in which thin veins were found right, the width (voxels) from which they are in larger
ones, and what is said of narrower ones."""


def measure(
    chi: np.ndarray,
    localfield: np.ndarray,
    magnitude: np.ndarray,
    mask: np.ndarray,
    r2star: np.ndarray | None,
    residual: np.ndarray | None,
    veins_share: np.ndarray,
    veins_segments: np.ndarray,
    veins_veinlines: pd.DataFrame,
    veins_table: pd.DataFrame,
    perfusion: np.ndarray | None,
    dseg: np.ndarray,
    labels: pd.DataFrame,
    white_matter: np.ndarray | None,
    affine: np.ndarray,
    grid: Grid,
    echo_times: list,
    field_strength: float,
    participant: dict[str, str | float | None],
    *,
    hematocrit: float = 0.0,
    sao2: float = 0.0,
    dchi_do: float = 0.27,
    oxy_term: bool = False,
    most: int = 40,
):
    """Measure veins and summarise them, see `bids_qsm.biomarkers.oximetry`.

    Parameters
    ----------
    hematocrit, sao2 : float
        Of participants for whom the tables state none (fraction or per cent); 0 for a stated assumption.
    dchi_do : float
        Susceptibility of deoxygenated less oxygenated red cells (ppm, cgs; 4 pi times this in SI).
    oxy_term : bool
        Count the susceptibility of oxygenated blood.
    most : int
        Segments without a name of their own that are fitted, the longest first.
    """
    constants = Constants(dchi_do=CGS * dchi_do, dchi_oxy=MEASURED_OXY if oxy_term else 0.0)
    blood = blood_of(participant, constants=constants, hematocrit=hematocrit or None, sao2=sao2 or None)
    names = dict(zip(veins_table['segment'].astype(int), veins_table['label'].astype(str), strict=True))
    # outside the mask there is no susceptibility, and the field of blood there went with the background
    outside = veins_table.loc[veins_table['outside_mask'].astype(int) > 0, 'segment'].astype(int)
    lines = veins_veinlines[~veins_veinlines['segment'].isin(outside)]
    veins = veins_of_tables(veins_share * mask, veins_segments, lines, names, affine)
    scan = Scan(localfield, chi, magnitude, mask, grid, tuple(echo_times), field_strength, r2star, residual)
    zero = fluid_of(chi, r2star, mask, white_matter, grid)
    found = measure_veins(scan, veins, most=most)
    table = vein_table(found, zero, blood, constants)
    table['warning'] = _warning(table, grid)
    summary = summary_table(found, zero, blood, constants, cbf=perfusion, mask=mask, dseg=dseg, labels=labels)
    saturation = np.zeros(mask.shape, np.float32)
    for row in table[table['usable'].astype(bool)].to_dict('records'):
        saturation[(veins.numbers == row['vein']) & veins.mask] = row['Yv']
    facts = facts_of(blood, constants)
    table_of_constants = constants_table(facts)
    facts['reference'] = reference_fact(zero, 'tissue beside veins')
    errors = {f'model_error_{name}': (share, 'share') for name, share in MODEL_SE.items()}
    errors |= {'error_of_fluid_as_water': (CSF_SE, 'ppm'), 'error_of_tissue_as_water': (NO_CSF_SE, 'ppm')}
    errors |= {'error_of_surroundings': (SURROUNDINGS, 'ppm'), 'error_shared_by_fits': (LOW, 'share')}
    for name, (value, units) in errors.items():
        facts[name] = {'value': value, 'units': units, 'source': 'assumed'}
    facts |= _sampling_fact(found)
    facts |= {f'note{n}': {'value': note} for n, note in enumerate(blood.notes, 1)}
    sensitivity = sensitivity_table(found, zero, blood, constants)
    levels = np.where(saturation > 0, np.digitize(saturation, EDGES) + 1, 0).astype(np.int16)
    return saturation, levels, table, summary, sensitivity, table_of_constants, facts


def _sampling_fact(found: list[VeinMeasure]) -> dict[str, dict[str, object]]:
    """How the scan was sampled, where veins were fitted."""
    fitted = [one for one in found if one.n_pieces]
    if not fitted:
        return {}
    sampling, source = fitted[0].sampling, 'fit of the longest veins'
    if sampling == KSpace():
        source = 'assumed'
    if sampling is None:
        return {'sampling': {'value': 'means over voxels', 'source': source}}
    half = {'value': sampling.cut, 'standard_deviation': sampling.cut_sd, 'units': 'cycles per voxel'}
    return {
        'sampling': {'value': 'k-space', 'source': source},
        'half_response_of_k_space': {**half, 'source': source},
    }


def _warning(table: pd.DataFrame, grid: Grid):
    """What speaks against thin veins in coarse voxels; None for the other rows."""
    fitted = table['usable'].astype(bool) & (table['method'] == 'field')
    thin = table['diameter_mm'] < NARROW * grid.voxel_volume ** (1 / 3)
    coarse = max(grid.voxel_size) > FINE_MM
    return [THIN_IN_COARSE if warned else None for warned in fitted & thin & coarse]


def check(participant: Mapping[str, object], params: Mapping[str, object]):
    """Raise UserError where haematocrit, haemoglobin or arterial saturation cannot be used."""
    hematocrit, sao2 = (float(str(params.get(name, 0))) or None for name in ('hematocrit', 'sao2'))
    blood_of(participant, constants=Constants(), hematocrit=hematocrit, sao2=sao2)


def reference_fact(zero: Zero, taken: str):
    """What is taken as water, for the sidecars: fluid, or else the tissue that is ``taken``."""
    source = 'fluid of the ventricles in the map'
    if not np.isfinite(zero.csf):
        source = f'no fluid was found: {taken} was taken as water'
    return {'value': zero.csf, 'units': 'ppm', 'source': source}


def fluid_of(
    chi: np.ndarray,
    r2star: np.ndarray | None,
    mask: np.ndarray,
    white_matter: np.ndarray | None,
    grid: Grid,
):
    """Susceptibility of the fluid of the ventricles in the map, and its standard error."""
    maps = {'chi': chi} if r2star is None else {'chi': chi, 'R2star': r2star}
    fluid = next(one for one in reference_regions(maps, mask, white_matter, grid) if one.name == 'CSF').region
    fluid = fluid & mask
    if not fluid.any():
        return Zero()
    return Zero(float(chi[fluid].mean()), slow_error(chi, fluid))


APPLICATION = Application(
    name='oximetry',
    title='Venous oxygenation',
    measure=measure,
    gives=(
        *('saturation', 'saturationlevels', 'table', 'oximetrysummary', 'oximetrysensitivity'),
        *('oximetryconstants', 'facts'),
    ),
    check=check,
    uses=('veins',),
    extra=(Query('perfusion', 'map of cerebral blood flow', ('cbf',), datatype='perf', align='own'),),
    images=(
        Image(
            'saturation',
            'SvO2map',
            'Oxygen saturation of the blood in veins that were used',
            '1',
            desc='',
            look=Look('Oxygen saturation of veins', '1', 'viridis', (0.3, 0.9)),
        ),
        Image(
            'saturationlevels',
            'dseg',
            'Veins that were used, by oxygen saturation',
            lookup=(
                (1, f'below {EDGES[0]:.2f}'),
                *((n, f'{a:.2f} to {b:.2f}') for n, (a, b) in enumerate(pairwise(EDGES), 2)),
                (len(EDGES) + 1, f'{EDGES[-1]:.2f} and above'),
            ),
        ),
    ),
    tables=(
        Table(
            dictionary=lambda _: data_dictionary(COLUMNS),
            shown=(
                *('vein', 'name', 'diameter_mm', 'tilt_deg', 'method'),
                *('delta_chi_ppm', 'Yv', 'Yv_se', 'OEF', 'OEF_se', 'flag'),
            ),
            caption='One row a segment of vein; the flag says why one is not usable. ' + CAUTION,
        ),
        Table(
            'oximetrysummary',
            title='Oxygen extraction and metabolism',
            maps=(
                Column('Yv', 'oxygen saturation of venous blood', 'fraction'),
                Column('OEF', 'oxygen extraction fraction', 'fraction'),
                Column('CBF', 'cerebral blood flow', 'ml/100 g/min'),
                Column(
                    'CMRO2', 'metabolic rate of oxygen; the error of CBF is not counted', 'umol/100 g/min'
                ),
            ),
            columns=(Column('n_veins', 'Veins that were averaged.'),),
            caption='Means by inverse variance over the veins that drain a territory. The standard errors '
            'count haematocrit, reference and geometry, not the constants of the table of sensitivity.',
            cohort='tidy',
        ),
        Table(
            'oximetrysensitivity',
            title='Oxygen extraction under other constants',
            columns=(
                Column('changed', 'What was changed.'),
                Column('value', 'Its value.'),
                Column('Yv', 'Saturation of all usable veins.', 'fraction'),
                Column('OEF', 'Extraction from it.', 'fraction'),
                Column('OEF_change', 'Less that as used.', 'points of a hundred'),
            ),
            caption='Two values of dchi_do are in use; they differ by more than most diseases do. '
            'Compare only studies that took the same.',
        ),
        Table(
            'oximetryconstants',
            title='Blood and constants',
            columns=(
                Column('constant', 'Constant, or quantity of the blood of the participant.'),
                Column('value', 'Its value.'),
                Column('standard_deviation', 'Its standard deviation, of blood.'),
                Column('units', 'Units of both.'),
                Column('source', 'Where it comes from.'),
            ),
            caption='With these everything was computed, extraction of tissue too.',
        ),
    ),
    figures=(
        Figure(
            'forest',
            'Oxygen saturation of veins',
            'Saturation with 95 % confidence interval. The thick part is the error of the vein itself, the '
            'thin part what all veins of the participant share: haematocrit, reference, model.',
            draw=plot_saturation,
        ),
        Figure(
            'saturationlevels',
            'Veins by oxygen saturation',
            'Outlines of the veins that were used; a colour is a tenth of saturation.',
            over='swi',
        ),
    ),
    method='Venous oxygen saturation was computed from the susceptibility of veins [@spees2001; @jain2012], '
    'fitted to the field in and around each vein with its diameter and position.',
    memory=Need(0.3, volume=24, anat=4),
)
