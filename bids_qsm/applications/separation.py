"""Separate susceptibility into paramagnetic sources (iron) and diamagnetic sources (myelin)."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from bids_qsm.applications.contract import Application, Column, Figure, Given, Image, Table, Variant
from bids_qsm.applications.dwi import AUTO, FIBRES, IGNORE, ONE_OF, check_stated, fibres_on
from bids_qsm.biomarkers.columns import regions_of
from bids_qsm.biomarkers.positions import b0_in_world
from bids_qsm.biomarkers.separation.calibration import ANISOTROPY, RELAXIVITY, TURNED, Calibration
from bids_qsm.biomarkers.separation.methods import SEPARATION, assumed_r2
from bids_qsm.biomarkers.separation.posterior import Separated
from bids_qsm.biomarkers.separation.sources import Sources
from bids_qsm.biomarkers.separation.tissues import zones
from bids_qsm.errors import UserError
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.noise import noise_level
from bids_qsm.recon.registry import call, facts, needs, parameters

CHI_ERROR, RATE_ERROR = 0.004, 0.7
"""Least errors of susceptibility (ppm) and of rates (1/s): those of inversion and fit are smooth, so that the
finest detail of the maps does not show them."""
SMOOTH_ERROR = 0.008
"""Smooth error (ppm) of susceptibility that the default reconstruction leaves in digital heads of 1.5 mm."""
CAUTION = (
    'Relaxivity is estimated from this person by the default method, and assumed by the others: see the '
    'constants. Another one would scale both sources, see the column change_per_tenth.'
)
RELAXIVITIES = 10, 2000
"""Limits of a relaxivity that is stated (1/s/ppm at 3 T): published ones are 114 to 324."""
PORTS = {'field': 'localfield', 'magnitude': 'magnitude', 'echoes': 'echoes', 'echo_times': 'echo_times'}
"""Data of methods -> arguments of `measure` that only some of them take."""

FIBRE_PORTS = tuple(query.name for query in FIBRES)


def measure(
    chi: np.ndarray,
    r2star: np.ndarray,
    mask: np.ndarray,
    r2prime_r2prime: np.ndarray | None,
    r2prime_r2primesd: np.ndarray | None,
    r2prime_table: pd.DataFrame | None,
    localfield: np.ndarray | None,
    magnitude: np.ndarray | None,
    echoes: np.ndarray | None,
    dseg: np.ndarray,
    labels: pd.DataFrame,
    white_matter: np.ndarray | None,
    fa: Given | None,
    directions: Given | None,
    dwi: tuple[Given, Given] | None,
    grid: Grid,
    affine: np.ndarray,
    echo_times: list | None,
    field_strength: float,
    *,
    method: str = 'posterior',
    relaxivity: float | None = None,
    frame: str = AUTO,
):
    """Separate sources by a method of `bids_qsm.biomarkers.separation.methods`.

    ``relaxivity`` (1/s/ppm, at 3 T) replaces that which the method assumes; ``frame`` is that of the
    directions of fibres, 'auto' where their file tells it, 'ignore' to leave fibres out.
    """
    function = SEPARATION[method]
    asked = needs(function)
    there = mask & (r2star > 0)
    if r2prime_r2prime is not None and ('rate' in asked or 'r2prime' in asked):
        there &= r2prime_r2prime != 0
    if not there.any():
        raise UserError(
            "Sources cannot be separated: R2* and R2' are nowhere known together within the mask; check that "
            'the spin echoes, or the map that was given, show the brain of this participant.'
        )
    zone = zones(there, white_matter, dseg > 0)
    is_measured = r2prime_r2prime is not None
    r2prime = r2star - assumed_r2(zone, field_strength / 3) if r2prime_r2prime is None else r2prime_r2prime
    r2prime = r2prime.astype(np.float32)
    rate = r2prime if is_measured else r2star
    judged = r2star if 'r2star' in asked else rate
    data = {
        'chi': chi,
        'rate': rate,
        'r2prime': r2prime,
        'r2star': r2star,
        'field': localfield,
        'magnitude': magnitude,
        'echoes': echoes,
        'echo_times': echo_times,
        'mask': there,
        'zone': zone,
        'chi_noise': max(noise_level(chi[..., None], there), CHI_ERROR),
        'rate_noise': max(
            _noise_of(judged, r2prime_r2primesd if judged is r2prime else None, there), RATE_ERROR
        ),
        'reversible': is_measured,
        'smooth_error': SMOOTH_ERROR,
        'scale': field_strength / 3,
        'grid': grid,
        'cosine': None,
        'fa': None,
    }
    fibres, said = None, ''
    if 'cosine' in asked:
        required = 'cosine' in needs(function, optional=False)
        fibres, said = fibres_on(fa, directions, grid, affine, frame, dwi=dwi, required=required)
    if fibres is not None:
        data |= {'cosine': fibres.squared_cosine(b0_in_world(grid, affine)), 'fa': fibres.fa}
    found = call(function, data, {} if relaxivity is None else {'relaxivity': relaxivity})
    table = _table(found, there, dseg, labels)
    stated = {'method': method, 'relaxation': _relaxation(function, r2prime_table)}
    if said:
        stated['fibres'] = said
    total = found.para + found.dia
    if isinstance(found, Sources):
        source = 'stated by the user' if relaxivity is not None else f'assumed by the method {method}'
        for name, value in zip(('paramagnetic', 'diamagnetic'), found.relaxivity, strict=True):
            constant = {'value': float(f'{value:.4g}'), 'units': '1/s/ppm', 'source': source}
            stated[f'relaxivity_{name}'] = constant
        stated['zero_of_susceptibility'] = {'value': 0.0, 'units': 'ppm', 'source': 'that of the map'}
        return found.para, found.dia, total, None, None, found.fits, table, stated
    stated |= _calibrated(found, field_strength)
    maps = (found.para, found.dia, total, found.para_sd, found.dia_sd, found.fits)
    return *maps, table, stated


def _noise_of(rate: np.ndarray, sd: np.ndarray | None, there: np.ndarray) -> float:
    """Noise of a map of rates: that which is stated, as smoothing hides it, or that of its finest detail."""
    stated = sd[there & (sd > 0)] if sd is not None else np.empty(0)
    return float(np.median(stated)) if stated.size else noise_level(rate[..., None], there)


def _relaxation(function: Callable, r2prime: pd.DataFrame | None):
    """What was taken as relaxation by the sources, for the sidecars."""
    asked = needs(function)
    if 'echoes' in asked:
        return 'decay of the echoes'
    if 'r2star' in asked:
        return 'R2*'
    if r2prime is None:
        return 'R2*, less an assumed R2 of each tissue'
    came = r2prime.loc[r2prime['map'] == 'R2prime', 'provenance'].iloc[0]
    return f"R2' ({came}; see the application r2prime)"


def _calibrated(found: Separated, field_strength: float):
    """Constants that were estimated from the person."""
    one = found.calibration
    sd = np.sqrt(np.diag(one.covariance))
    source = f'estimated from this person; expected {RELAXIVITY[0] * field_strength / 3:.0f}'
    ratio = one.dia / one.para
    return {
        'relaxivity_paramagnetic': _fact(one.para, one.para * sd[0], '1/s/ppm', source),
        'relaxivity_diamagnetic': _fact(
            one.dia, one.dia * sd[1], '1/s/ppm', f'{ratio:.2f} of the paramagnetic one, estimated'
        ),
        'zero_of_susceptibility': _fact(one.shift, sd[2], 'ppm', 'map of tissue without sources, estimated'),
    } | _by_angle(one)


def _by_angle(one: Calibration):
    """How white matter depends on the angle of its fibres, where that was estimated."""
    if not one.turned:
        return {}
    share, anisotropy = (
        f'expected {mean:g} +- {sd:g}, and little more is known of a person'
        for mean, sd in (TURNED, ANISOTROPY)
    )
    return {
        'relaxivity_share_of_angle': _fact(
            one.turned, one.angle_sd[0], '1', f'squared sine of the angle to B0; {share}'
        ),
        'anisotropy_of_white_matter': _fact(
            one.anisotropy, one.angle_sd[1], 'ppm', f'along fibres less across; {anisotropy}'
        ),
    }


def variants(params: Mapping[str, object]):
    """Methods text, memory and inputs of the method that the user chose.

    Raises
    ------
    UserError
        There is no such method, or the relaxivity cannot be used.
    """
    name, stated = str(params.get('method', 'posterior')), params.get('relaxivity')
    if name not in SEPARATION:
        raise UserError(f'--separation:method is {name!r}; it must be one of: {", ".join(SEPARATION)}.')
    function = SEPARATION[name]
    frame = params.get('frame', AUTO)
    check_stated(frame, '--separation')
    if stated is not None:
        if name == 'posterior':
            raise UserError(
                '--separation:relaxivity cannot be stated for the method posterior, which estimates it; '
                'leave it out, or choose another method, such as method=closed.'
            )
        low, high = RELAXIVITIES
        if isinstance(stated, bool) or not (isinstance(stated, int | float) and low <= stated <= high):
            raise UserError(
                f'--separation:relaxivity is {stated!r}; it must be from {low} to {high} (1/s/ppm at 3 T).'
            )
    asked = needs(function)
    taken = tuple(port for one, port in PORTS.items() if one in asked)
    spared = tuple(port for port in PORTS.values() if port not in taken)
    if 'cosine' not in asked or frame == IGNORE:
        spared += FIBRE_PORTS
    is_required = 'cosine' in needs(function, optional=False)
    if is_required and frame == IGNORE:
        raise UserError(
            f'--separation:method={name} takes fibres, which frame={IGNORE} leaves out; drop one of the two.'
        )
    about = facts(function)
    text = f'Paramagnetic and diamagnetic sources were separated with {about.prose}'
    if name != 'posterior':
        assumed = parameters(function)['relaxivity'] if stated is None else stated
        text += f', with a relaxivity of {assumed:g} 1/s/ppm at 3 T, proportional to the field strength'
    if 'r2prime' in asked:
        text += "; R2' is that of spin echoes or of a given map, or else R2* less a mean R2 of each tissue"
    if 'cosine' in asked and frame != IGNORE:
        text += '; where diffusion was given, the directions of fibres too'
    return Variant(f'{text}.', about.memory, needs=taken, spares=spared, one_of=ONE_OF if is_required else ())


def _fact(value: float, sd: float, units: str, source: str):
    return {'value': float(f'{value:.4g}'), 'sd': float(f'{sd:.2g}'), 'units': units, 'source': source}


def _table(found: Separated | Sources, mask: np.ndarray, dseg: np.ndarray, labels: pd.DataFrame):
    """Tidy rows by region. The error of a voxel is not averaged away, as that of relaxivity is shared."""
    unknown = np.full(mask.shape, np.nan, np.float32)
    errors = (unknown, unknown) if isinstance(found, Sources) else (found.para_sd, found.dia_sd)
    sources = {
        'chi_para': (found.para, errors[0], found.para_change),
        'chi_dia': (found.dia, errors[1], found.dia_change),
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
    uses=('r2prime',),
    extra=FIBRES,
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
    fewest_echoes=3,  # of methods that fit the echoes
    variants=variants,
    method=variants({}).method,
    memory=variants({}).memory,
)
