"""Estimate iron (mg/100 g) and the myelin fraction of tissue from susceptibility, R2* and myelin maps."""

from dataclasses import replace

import numpy as np
import pandas as pd

from bids_qsm.applications.contract import Application, Column, Figure, Image, Query, Table
from bids_qsm.applications.r2prime import rate_of
from bids_qsm.applications.separation import CHI_ERROR, RATE_ERROR, SMOOTH_ERROR
from bids_qsm.biomarkers.iron import REGIONS
from bids_qsm.biomarkers.iron_myelin import CONSTANTS, FIELD, IRON, UNITS, constants_at, iron_alone, posterior
from bids_qsm.biomarkers.iron_myelin_maps import ROUGHNESS, Maps, iron_myelin_maps
from bids_qsm.biomarkers.regions import region_table
from bids_qsm.plotting.maps import Look
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.noise import noise_level
from bids_qsm.recon.registry import Need

REGION_ERROR = {'chi': 0.004, 'R2star': 0.5, 'R2': 0.5, 'R1': 0.03, 'MTsat': 0.1, 'MWF': 0.01}
"""Errors (standard deviation) of the mean of a region that its noise does not show, at 3 T. Assumed: those of
inversion, of fits, and of tissue that differs from that of the constants. Those of R2* and R2 are
proportional to the field strength, as their changes by iron and myelin are."""
FIFTH = 1.2
"""Factor of the change of susceptibility by iron for the columns ``*_change_per_fifth``."""
CAUTION = (
    'Absolute values stand or fall with constants from the literature (see the constants and the columns '
    'change_per_fifth). Compare people of one protocol; susceptibility and R2* stand beside them.'
)
COLUMNS = (
    Column('region', 'Region of the atlas, or White matter: deep white matter.'),
    Column('hemisphere', 'L, R, or both together.'),
    Column('n_voxels', 'Voxels of the region inside the mask.', 'voxels'),
    Column('coverage', 'Share of the region inside the field of view and the mask.', 'fraction'),
    Column('chi', 'Mean susceptibility, as in the table of regions.', 'ppm'),
    Column('chi_se', 'Its standard error.', 'ppm'),
    Column('R2star', 'Mean R2*, as in the table of regions.', '1/s'),
    Column('R2star_se', 'Its standard error.', '1/s'),
    Column('iron_mg100g', 'Iron of wet tissue.', 'mg/100 g'),
    Column('iron_sd', 'Its standard deviation, with the errors of the constants.', 'mg/100 g'),
    Column('iron_sd_noise', 'The part of it that people of one protocol do not share.', 'mg/100 g'),
    Column('mvf', 'Share of the volume that is myelin.', 'fraction'),
    Column('mvf_sd', 'Its standard deviation, with the errors of the constants.', 'fraction'),
    Column('mvf_sd_noise', 'The part of it that people of one protocol do not share.', 'fraction'),
    Column('rho_iron_mvf', 'Correlation of the errors of iron and myelin.'),
    Column('chi_resid', 'Susceptibility less that of this iron and myelin.', 'ppm'),
    Column('R2star_resid', 'R2* less that of this iron and myelin.', '1/s'),
    Column(
        'identifiable',
        '1: susceptibility and R2* are there and fix both. 0: they do not; without R2* there is iron alone, '
        'of grey matter with its usual myelin.',
    ),
    Column(
        'iron_change_per_fifth',
        'What iron would change by, were the susceptibility of iron higher by a fifth.',
        'mg/100 g',
    ),
    Column(
        'mvf_change_per_fifth',
        'What the myelin fraction would change by, were the susceptibility of iron higher by a fifth.',
        'fraction',
    ),
    Column('inputs', 'Maps that it was estimated from.'),
)


def water_fraction(stored: np.ndarray, name: str) -> np.ndarray:
    """Myelin water fraction from a map of it as a fraction or in per cent."""
    del name
    inside = stored[np.isfinite(stored) & (stored > 0)]
    return stored / 100 if inside.size and np.median(inside) > 1 else stored


def measure(
    chi: np.ndarray,
    r2star: np.ndarray | None,
    mask: np.ndarray,
    r2: np.ndarray | None,
    r1: np.ndarray | None,
    mtsat: np.ndarray | None,
    mwf: np.ndarray | None,
    dseg: np.ndarray,
    labels: pd.DataFrame,
    white_matter: np.ndarray | None,
    grid: Grid,
    reference: str,
    field_strength: float,
):
    """Estimate iron and myelin of regions and voxels, see `bids_qsm.biomarkers.iron_myelin`.

    Maps are made of susceptibility and R2*; means of regions take all maps. Without R2* there are no maps.
    """
    named = {'chi': chi, 'R2star': r2star, 'R2': r2, 'R1': r1, 'MTsat': mtsat, 'MWF': mwf}
    # zero and less stand for no measurement in all maps but susceptibility
    there = {
        name: data if name == 'chi' else np.where(data > 0, data, np.nan)
        for name, data in named.items()
        if data is not None
    }
    regions = region_table(
        there, dseg, labels, mask, grid, white_matter=white_matter, units=UNITS, reference=reference
    )
    # without R2* other maps do not enter, see `iron_alone`
    used = list(there) if r2star is not None else ['chi']
    table = _table(regions, used, field_strength)
    facts = _facts(used, field_strength)
    if r2star is None:
        return None, None, None, None, None, table, facts
    maps = _maps(chi, r2star, mask & (r2star > 0), grid, field_strength)
    facts['smoothness'] = {'value': f'{ROUGHNESS[0]:g} mg/100 g, {ROUGHNESS[1]:g}', 'source': 'assumed'}
    return maps.iron, maps.myelin, maps.iron_sd, maps.myelin_sd, maps.fits, table, facts


def _maps(chi: np.ndarray, r2star: np.ndarray, mask: np.ndarray, grid: Grid, field_strength: float) -> Maps:
    constants = constants_at(field_strength, ('chi', 'R2star'))
    # the smooth error of susceptibility shifts the zero from place to place
    constants.cov[0, 0] += SMOOTH_ERROR**2
    least = np.array([CHI_ERROR, RATE_ERROR * field_strength / FIELD])
    noise = np.maximum([noise_level(data[..., None], mask) for data in (chi, r2star)], least)
    return iron_myelin_maps(np.stack([chi, r2star]), noise, constants, mask, grid)


def _table(regions: pd.DataFrame, names: list[str], field_strength: float) -> pd.DataFrame:
    """One row a region and hemisphere."""
    regions = regions[~regions['region'].isin(['Brain', 'CSF'])]
    keys = regions[['region', 'hemisphere']].drop_duplicates().reset_index(drop=True)
    whole = regions.set_index(['map', 'region', 'hemisphere'])
    rows = pd.MultiIndex.from_frame(keys)
    values, errors, counts, coverage = (
        np.stack([whole.loc[name].loc[rows, column].to_numpy(float) for name in names], 1)
        for column in ('mean', 'se', 'n_voxels', 'coverage')
    )
    noise = np.hypot(np.nan_to_num(errors), [_region_error(name, field_strength) for name in names])
    constants = constants_at(field_strength, names)
    changed = constants_at(field_strength, names)
    changed.mean[0, IRON] *= FIFTH
    exact = replace(constants, cov=0 * constants.cov)
    if 'R2star' in names:
        found, other, of_noise = (posterior(values, noise, one) for one in (constants, changed, exact))
        known = np.isfinite(values[:, [names.index(name) for name in ('chi', 'R2star')]]).all(1)
    else:
        first = [one.of(['chi']) for one in (constants, changed, exact)]
        found, other, of_noise = (iron_alone(values[:, 0], noise[:, 0], one) for one in first)
        known = keys['region'].isin(REGIONS).to_numpy() & np.isfinite(values[:, 0])
    both = 'R2star' in names
    column = dict(zip(names, values.T, strict=True))
    error = dict(zip(names, errors.T, strict=True))
    missing = np.full(len(keys), np.nan)
    numbers = {
        'iron_mg100g': found.mean[:, 0],
        'iron_sd': found.sd[:, 0],
        'iron_sd_noise': of_noise.sd[:, 0],
        'mvf': found.mean[:, 1] if both else missing,
        'mvf_sd': found.sd[:, 1] if both else missing,
        'mvf_sd_noise': of_noise.sd[:, 1] if both else missing,
        'rho_iron_mvf': found.correlation if both else missing,
        'chi_resid': found.residual[:, 0] if both else missing,
        'R2star_resid': found.residual[:, 1] if both else missing,
        'iron_change_per_fifth': other.mean[:, 0] - found.mean[:, 0],
        'mvf_change_per_fifth': other.mean[:, 1] - found.mean[:, 1] if both else missing,
    }
    numbers = {name: np.where(known, one, np.nan) for name, one in numbers.items()}
    used = [', '.join(np.array(names)[row]) or None for row in np.isfinite(values) & known[:, None]]
    raw = {name: (column.get(name, missing), error.get(name, missing)) for name in ('chi', 'R2star')}
    table = keys.assign(
        n_voxels=counts[:, 0].astype(int),
        coverage=coverage[:, 0],
        **{
            f'{name}{end}': one
            for name, pair in raw.items()
            for end, one in zip(('', '_se'), pair, strict=True)
        },
        **numbers,
        identifiable=(found.identifiable & known).astype(int),
        inputs=used,
    )
    return table[[one.name for one in COLUMNS]].round(6)


def _region_error(name: str, field_strength: float) -> float:
    return REGION_ERROR[name] * (field_strength / FIELD if name in ('R2star', 'R2') else 1.0)


def _facts(names: list[str], field_strength: float) -> dict[str, object]:
    """Constants at the field strength, for the sidecars."""
    constants = constants_at(field_strength, names)
    facts: dict[str, object] = {'field_strength': {'value': field_strength, 'units': 'T'}}
    per = ('', 'per mg/100 g', 'per unit of myelin fraction')
    for k, name in enumerate(names):
        for place, what in enumerate(('zero', 'by_iron', 'by_myelin')):
            facts[f'{name}_{what}'] = {
                'value': float(f'{constants.mean[k, place]:.4g}'),
                'sd': float(f'{constants.sd[k, place]:.2g}'),
                'units': f'{UNITS[name]} {per[place]}'.strip(),
                'source': CONSTANTS[name][place].source,
            }
    return facts


def rows(table: pd.DataFrame) -> pd.DataFrame:
    """Tidy rows of one series: iron and myelin by region."""
    found = []
    for name, value, error, units in (
        ('iron', 'iron_mg100g', 'iron_sd', 'mg/100 g'),
        ('mvf', 'mvf', 'mvf_sd', 'fraction'),
    ):
        there = table[pd.to_numeric(table[value], errors='coerce').notna()]
        part = there[['region', 'hemisphere', 'n_voxels', 'coverage', value, error]]
        found.append(part.rename(columns={value: 'mean', error: 'se'}).assign(map=name, units=units))
    return pd.concat(found, ignore_index=True)


APPLICATION = Application(
    name='ironmyelin',
    title='Iron and myelin',
    measure=measure,
    gives=('iron', 'myelin', 'ironsd', 'myelinsd', 'ironmyelin', 'table', 'facts'),
    extra=(
        Query('r2', 'map of R2 or T2', ('R2map', 'T2map'), align='own', prepare=rate_of),
        Query('r1', 'map of R1 or T1', ('R1map', 'T1map'), align='own', prepare=rate_of),
        Query('mtsat', 'map of magnetization transfer saturation', ('MTsat',), align='own'),
        Query('mwf', 'map of the myelin water fraction', ('MWFmap',), align='own', prepare=water_fraction),
    ),
    images=(
        Image(
            'iron',
            'concmap',
            'Iron of wet tissue; zero where the model does not hold',
            'mg/100 g',
            look=Look('Iron', 'mg/100 g', 'inferno', (0.0, 20.0)),
        ),
        Image(
            'myelin',
            'fracmap',
            'Share of the volume that is myelin; zero where the model does not hold',
            '1',
            look=Look('Share of myelin', '1', 'viridis', (0.0, 0.3)),
        ),
        Image('ironsd', 'concsdmap', 'Standard deviation of iron', 'mg/100 g', desc='iron'),
        Image('myelinsd', 'fracsdmap', 'Standard deviation of the myelin fraction', '1', desc='myelin'),
        Image('ironmyelin', 'mask', 'Where susceptibility and R2* are as iron and myelin can make them'),
    ),
    tables=(Table(columns=COLUMNS, caption=CAUTION, cohort=rows),),
    figures=(
        Figure('iron', 'Iron', 'Iron (mg/100 g). Veins and blood are read as iron. ' + CAUTION),
        Figure('myelin', 'Myelin', 'Share of the volume that is myelin.'),
    ),
    method='Iron and the myelin volume fraction were estimated from susceptibility and R2* (and maps of R2, '
    'R1, MTsat and myelin water where given) as a linear Gaussian model with constants of the literature '
    '[@langkammer2010; @hallgren1958; @shin2021].',
    memory=Need(0.2, volume=40),
)
