"""Map oxygen extraction of tissue from magnitude and susceptibility together (QSM + qBOLD, experimental)."""

import numpy as np
import pandas as pd

from bids_qsm.applications.contract import Application, Column, Figure, Image, Table
from bids_qsm.applications.oximetry import CAUTION, fluid_of, reference_fact
from bids_qsm.biomarkers import qbold
from bids_qsm.biomarkers.columns import regions_of
from bids_qsm.biomarkers.oximetry_summary import water_error
from bids_qsm.biomarkers.oxygen import of_constants_table
from bids_qsm.plotting.maps import Look
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.registry import Need

FLUID_RATE, VEIN_SHARE = 6.0, 0.1
"""R2* (1/s, at 3 T) below which a voxel is fluid, and share of a vein above which it is left out."""
_DEFAULT_OEF = 0.35


def measure(
    echoes: np.ndarray,
    chi: np.ndarray,
    r2star: np.ndarray,
    mask: np.ndarray,
    veins_share: np.ndarray,
    oximetry_oximetrysummary: pd.DataFrame,
    oximetry_oximetryconstants: pd.DataFrame,
    dseg: np.ndarray,
    labels: pd.DataFrame,
    white_matter: np.ndarray | None,
    grid: Grid,
    echo_times: list,
    field_strength: float,
    *,
    clusters: int = 80,
):
    """Map extraction, see `bids_qsm.biomarkers.qbold`; blood and constants are those of oximetry.

    Parameters
    ----------
    clusters : int
        Most clusters of voxels that are fitted together.
    """
    blood, constants, facts = of_constants_table(oximetry_oximetryconstants)
    veins = oximetry_oximetrysummary
    of_brain = veins.loc[(veins['region'] == 'Brain') & (veins['map'] == 'OEF'), 'mean']
    found = float(of_brain.iloc[0]) if len(of_brain) and np.isfinite(of_brain.iloc[0]) else np.nan
    start = found if np.isfinite(found) else _DEFAULT_OEF
    zero = fluid_of(chi, r2star, mask, white_matter, grid)
    water = zero.csf - constants.csf if np.isfinite(zero.csf) else 0.0
    fluid_rate = FLUID_RATE * qbold.rate_scale(field_strength)
    tissue = mask & (r2star > fluid_rate) & (veins_share < VEIN_SHARE)
    oef, volume, se = qbold.extraction_map(
        echoes,
        chi - water,
        tissue,
        blood,
        constants,
        oef=start,
        echo_times=echo_times,
        field_strength=field_strength,
        chi_sd=water_error(zero),
        clusters=clusters,
    )
    table = _table(oef, volume, se, dseg, labels)
    facts['reference'] = reference_fact(zero, 'the reference of the map')
    facts['expected_oef'] = {
        'value': start,
        'units': 'fraction',
        'source': 'veins of this person' if np.isfinite(found) else 'assumed, as no vein could be used',
    }
    for name, value, units in (
        ('venous_share_of_blood', qbold.VENOUS, 'fraction'),
        ('hematocrit_of_small_vessels', qbold.MICRO_HCT, 'share of hematocrit'),
        ('fluid_rate', fluid_rate, '1/s'),
        ('error_of_susceptibility', water_error(zero), 'ppm'),
        *((f'prior_{name}', value, units) for name, (value, units) in qbold.priors(field_strength).items()),
    ):
        facts[name] = {'value': value, 'units': units, 'source': 'assumed'}
    return oef, table, facts


def _table(oef: np.ndarray, volume: np.ndarray, se: np.ndarray, dseg: np.ndarray, labels: pd.DataFrame):
    """Tidy rows by region: extraction and venous volume."""
    rows = []
    for name, side, where in regions_of(oef > 0, dseg, labels):
        base = {'region': name, 'hemisphere': side, 'n_voxels': int(where.sum())}
        for what, data, error in (('OEF_tissue', oef, se), ('venous_volume', volume, None)):
            there = where.any()
            rows.append(
                {
                    **base,
                    'map': what,
                    'mean': float(data[where].mean()) if there else np.nan,
                    'sd': float(data[where].std()) if there else np.nan,
                    # voxels of a cluster share their error
                    'se': float(error[where].mean()) if there and error is not None else np.nan,
                    'units': 'fraction',
                }
            )
    return pd.DataFrame(rows)


APPLICATION = Application(
    name='qbold',
    title='Oxygen extraction of tissue (experimental)',
    measure=measure,
    gives=('extraction', 'table', 'facts'),
    uses=('veins', 'oximetry'),
    fewest_echoes=4,  # the decay must show how it bends
    images=(
        Image(
            'extraction',
            'OEFmap',
            'Oxygen extraction fraction of tissue',
            '1',
            desc='',
            look=Look('Oxygen extraction', '1', 'viridis', (0.1, 0.7)),
        ),
    ),
    tables=(
        Table(
            maps=(
                Column('OEF_tissue', 'oxygen extraction fraction of tissue', 'fraction'),
                Column('venous_volume', 'venous blood in tissue', 'fraction'),
            ),
            caption='Experimental: where the data say little, extraction is that of the veins. ' + CAUTION,
            cohort='tidy',
        ),
    ),
    figures=(
        Figure('extraction', 'Oxygen extraction of tissue', 'Experimental. Bright where extraction is high.'),
    ),
    method='Oxygen extraction of tissue was fitted to the decay of the magnitude and susceptibility '
    'together, in clusters of voxels of like decay [@qq2018; @qqcat2020].',
    memory=Need(0.3, volume=16, echoes=4),
)
