"""Separate susceptibility into paramagnetic sources (iron) and diamagnetic sources (myelin)."""

import numpy as np
import pandas as pd

from bids_qsm.applications.contract import Application, Column, Figure, Image, Query, Table
from bids_qsm.biomarkers.columns import regions_of
from bids_qsm.biomarkers.separation.calibration import RELAXIVITY
from bids_qsm.biomarkers.separation.posterior import Separated, separate
from bids_qsm.biomarkers.separation.tissues import zones
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.noise import noise_level
from bids_qsm.recon.registry import Need

CHI_ERROR, RATE_ERROR = 0.004, 0.7
"""Least errors of susceptibility (ppm) and of rates (1/s): those of inversion and fit are smooth, so that the
finest detail of the maps does not show them."""
CAUTION = (
    'Relaxivity is estimated from this person; another one would scale both sources, see the column '
    'change_per_tenth.'
)


def rate_of(stored: np.ndarray, name: str) -> np.ndarray:
    """R2 (1/s) from a map of R2, or of T2 in s or ms."""
    if 'T2map' not in name:
        return stored
    inside = stored[np.isfinite(stored) & (stored > 0)]
    unit = 1e-3 if inside.size and np.median(inside) > 5 else 1.0
    return np.where(stored > 0, 1 / np.maximum(stored * unit, 1e-3), 0)


def measure(
    chi: np.ndarray,
    r2star: np.ndarray,
    mask: np.ndarray,
    r2: np.ndarray | None,
    dseg: np.ndarray,
    labels: pd.DataFrame,
    white_matter: np.ndarray | None,
    grid: Grid,
    field_strength: float,
):
    """Separate sources, see `bids_qsm.biomarkers.separation.posterior.separate`."""
    there = mask & (r2star > 0)
    rate = r2star
    if r2 is not None:
        there &= r2 > 0
        rate = (r2star - r2).astype(np.float32)
    found = separate(
        chi,
        rate,
        there,
        zones(there, white_matter, dseg > 0),
        chi_noise=max(noise_level(chi[..., None], there), CHI_ERROR),
        rate_noise=max(noise_level(rate[..., None], there), RATE_ERROR),
        voxel_size=tuple(grid.voxel_size),
        reversible=r2 is not None,
        scale=field_strength / 3,
    )
    one = found.calibration
    sd = np.sqrt(np.diag(one.covariance))
    source = f'estimated from this person; expected {RELAXIVITY[0] * field_strength / 3:.0f}'
    ratio = one.dia / one.para
    facts = {
        'relaxation': 'R2* - R2 (measured)' if r2 is not None else 'R2*, less an assumed R2 of each tissue',
        'relaxivity_paramagnetic': _fact(one.para, one.para * sd[0], '1/s/ppm', source),
        'relaxivity_diamagnetic': _fact(
            one.dia, one.dia * sd[1], '1/s/ppm', f'{ratio:.2f} of the paramagnetic one, estimated'
        ),
        'zero_of_susceptibility': _fact(one.shift, sd[2], 'ppm', 'map of tissue without sources, estimated'),
    }
    total = found.para + found.dia
    maps = (found.para, found.dia, total, found.para_sd, found.dia_sd, found.fits)
    return *maps, _table(found, there, dseg, labels), facts


def _fact(value: float, sd: float, units: str, source: str):
    return {'value': float(f'{value:.4g}'), 'sd': float(f'{sd:.2g}'), 'units': units, 'source': source}


def _table(found: Separated, mask: np.ndarray, dseg: np.ndarray, labels: pd.DataFrame):
    """Tidy rows by region. The error of a voxel is not averaged away, as that of relaxivity is shared."""
    sources = {
        'chi_para': (found.para, found.para_sd, found.para_change),
        'chi_dia': (found.dia, found.dia_sd, found.dia_change),
    }
    rows = []
    for name, side, region in regions_of(mask, dseg, labels):
        where = region & found.fits
        for what, (data, error, change) in sources.items():
            there = where.any()
            rows.append(
                {
                    'region': name,
                    'hemisphere': side,
                    'n_voxels': int(where.sum()),
                    'map': what,
                    'mean': float(data[where].mean()) if there else np.nan,
                    'sd': float(data[where].std()) if there else np.nan,
                    'se': float(error[where].mean()) if there else np.nan,
                    'units': 'ppm',
                    'share_fits': float(where.sum() / region.sum()) if region.any() else np.nan,
                    'share_none': float((data[where] == 0).mean()) if there else np.nan,
                    'change_per_tenth': float(change[where].mean()) if there else np.nan,
                }
            )
    return pd.DataFrame(rows).round(6)


APPLICATION = Application(
    name='separation',
    title='Paramagnetic and diamagnetic sources',
    measure=measure,
    gives=(
        'paramagnetic',
        'diamagnetic',
        'total',
        'paramagneticsd',
        'diamagneticsd',
        'fits',
        'table',
        'facts',
    ),
    extra=(Query('r2', 'map of R2 or T2', ('R2map', 'T2map'), align='own', prepare=rate_of),),
    images=(
        Image('paramagnetic', 'Chimap', 'Paramagnetic susceptibility (0 or more)', 'ppm'),
        Image('diamagnetic', 'Chimap', 'Diamagnetic susceptibility (0 or less)', 'ppm'),
        Image('total', 'Chimap', 'Sum of both; zero where tissue has no sources', 'ppm'),
        Image(
            'paramagneticsd',
            'Chisdmap',
            'Standard deviation of paramagnetic susceptibility',
            'ppm',
            desc='paramagnetic',
        ),
        Image(
            'diamagneticsd',
            'Chisdmap',
            'Standard deviation of diamagnetic susceptibility',
            'ppm',
            desc='diamagnetic',
        ),
        Image('fits', 'mask', 'Where two sources of a tissue describe the voxel', desc='separation'),
    ),
    tables=(
        Table(
            maps=(
                Column('chi_para', 'paramagnetic susceptibility', 'ppm'),
                Column('chi_dia', 'diamagnetic susceptibility, 0 or less', 'ppm'),
            ),
            columns=(
                Column('share_fits', 'Share of the region where the model holds; the rest is left out.'),
                Column('share_none', 'Share of those voxels that have none of this source.'),
                Column(
                    'change_per_tenth',
                    'What the mean would change by, were the relaxivity higher by a tenth.',
                    'ppm',
                ),
            ),
            caption=CAUTION,
            cohort='tidy',
        ),
    ),
    figures=(
        Figure('paramagnetic', 'Paramagnetic sources', 'Iron and deoxygenated blood. ' + CAUTION),
        Figure('diamagnetic', 'Diamagnetic sources', 'Myelin and calcium: dark where there are many.'),
    ),
    method='Paramagnetic and diamagnetic sources were separated by susceptibility and relaxation '
    '[@shin2021], as the most probable pair of each voxel given the tissues of the brain, with total '
    'variation; relaxivities and the zero of susceptibility were estimated from the person.',
    memory=Need(0.3, volume=40),
)
