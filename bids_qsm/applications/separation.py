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
from bids_qsm.plotting.maps import Look, plot_map
from bids_qsm.plugins import is_plugin
from bids_qsm.plugins.compare import compare_sources, of_right_sign
from bids_qsm.plugins.manifest import SOURCES
from bids_qsm.plugins.methods import PluginMethod, find_method
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.noise import noise_level
from bids_qsm.recon.registry import call, facts, is_within, needs, parameters

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

CLASSICAL = 'posterior'
"""Method whose sources are shown beside those of a plug-in: the default."""
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
    method: str = CLASSICAL,
    relaxivity: float | None = None,
    frame: str = AUTO,
):
    """Separate sources by a method of `bids_qsm.biomarkers.separation.methods`, or by a plug-in.

    ``relaxivity`` (1/s/ppm, at 3 T) replaces that which the method assumes; ``frame`` is that of the
    directions of fibres, 'auto' where their file tells it, 'ignore' to leave fibres out.
    """
    function = find_method(SEPARATION, method)
    usual = SEPARATION[CLASSICAL] if isinstance(function, PluginMethod) else function
    is_measured = r2prime_r2prime is not None
    common = {
        'chi': chi,
        'r2star': r2star,
        'field': localfield,
        'magnitude': magnitude,
        'echoes': echoes,
        'echo_times': echo_times,
        'reversible': is_measured,
        'smooth_error': SMOOTH_ERROR,
        'scale': field_strength / 3,
        'field_strength': field_strength,
        'grid': grid,
        'cosine': None,
        'fa': None,
    }
    fibres, said = None, ''
    if 'cosine' in needs(usual):
        required = 'cosine' in needs(usual, optional=False)
        fibres, said = fibres_on(fa, directions, grid, affine, frame, dwi=dwi, required=required)
    if fibres is not None:
        common |= {'cosine': fibres.squared_cosine(b0_in_world(grid, affine)), 'fa': fibres.fa}

    def data_of(one: Callable) -> dict:
        """What a method may take, on its own domain and with the noise of what it takes."""
        there = _domain(one, mask, r2star, r2prime_r2prime)
        zone = zones(there, white_matter, dseg > 0)
        rates = r2star - assumed_r2(zone, field_strength / 3) if r2prime_r2prime is None else r2prime_r2prime
        r2prime = rates.astype(np.float32)
        rate = r2prime if is_measured else r2star
        judged = r2star if 'r2star' in needs(one) else rate
        sd = r2prime_r2primesd if judged is r2prime else None
        return {
            **common,
            'rate': rate,
            'r2prime': r2prime,
            'mask': there,
            'zone': zone,
            'chi_noise': max(noise_level(chi[..., None], there), CHI_ERROR),
            'rate_noise': max(_noise_of(judged, sd, there), RATE_ERROR),
        }

    data = data_of(function)
    stated = {'method': method, 'relaxation': _relaxation(function, r2prime_table)}
    if isinstance(function, PluginMethod):
        beside = {'method': CLASSICAL, 'relaxation': _relaxation(usual, r2prime_table)}
        stated['classical'] = {**beside, 'fibres': said} if said else beside
        return _by_plugin(function, data, data_of, dseg, labels, stated)
    if said:
        stated['fibres'] = said
    found = call(function, data, {} if relaxivity is None else {'relaxivity': relaxivity})
    table = _table(found, data['mask'], dseg, labels)
    total = found.para + found.dia
    if isinstance(found, Sources):
        source = 'stated by the user' if relaxivity is not None else f'assumed by the method {method}'
        for name, value in zip(('paramagnetic', 'diamagnetic'), found.relaxivity, strict=True):
            constant = {'value': float(f'{value:.4g}'), 'units': '1/s/ppm', 'source': source}
            stated[f'relaxivity_{name}'] = constant
        stated['zero_of_susceptibility'] = {'value': 0.0, 'units': 'ppm', 'source': 'that of the map'}
        return found.para, found.dia, total, None, None, found.fits, None, None, table, None, stated
    stated |= _calibrated(found, field_strength)
    maps = (found.para, found.dia, total, found.para_sd, found.dia_sd, found.fits)
    return *maps, None, None, table, None, stated


def _asked(function: Callable) -> list[str]:
    """Data that a method takes; with a plug-in, those of the classical one beside it too."""
    beside = needs(SEPARATION[CLASSICAL]) if isinstance(function, PluginMethod) else []
    return list(dict.fromkeys([*needs(function), *beside]))


def _domain(function: Callable, mask: np.ndarray, r2star: np.ndarray, r2prime: np.ndarray | None):
    """Where all that a method takes is known; UserError where that is nowhere."""
    there = mask & (r2star > 0)
    if r2prime is not None and {'rate', 'r2prime'} & {*needs(function)}:
        there &= r2prime != 0
    if not there.any():
        raise UserError(
            "Sources cannot be separated: R2* and R2' are nowhere known together within the mask; check that "
            'the spin echoes, or the map that was given, show the brain of this participant.'
        )
    return there


def _by_plugin(
    plugin: PluginMethod,
    data: Mapping,
    data_of: Callable[[Callable], dict],
    dseg: np.ndarray,
    labels: pd.DataFrame,
    stated: Mapping,
) -> tuple:
    """What `measure` gives where a network separates: its sources, and classical ones beside them.

    These have data of their own, as ``data_of`` gives. They may fail where the network does not: then there
    are none, and the flags say why.
    """
    mask = data['mask']
    taken = {name: data[name] for name in (*needs(plugin), 'field_strength')}
    outcome = plugin.apply(taken, 'cpu')
    (para, dia), flags = of_right_sign(outcome.values, mask)
    flags = [*outcome.record['Flags'], *flags]
    if 'r2prime' in needs(plugin) and not data['reversible']:
        flags.append("It takes R2', which was not measured: it got R2* less an assumed R2.")
    usual, pair, both, estimated = None, None, mask, {}
    try:
        beside = data_of(SEPARATION[CLASSICAL])
        usual = call(SEPARATION[CLASSICAL], beside, {})
    except UserError as error:
        flags.append(f'The default method, which is for comparison alone, failed: {error}')
    if usual is not None:
        pair, both = np.stack([usual.para, usual.dia]), beside['mask']
        estimated = _calibrated(usual, data['field_strength'])
    table, more = compare_sources(np.stack([para, dia]), pair, both, data['chi'], mask, dseg, labels)
    flags += more
    table['warning'] = pd.Series([' '.join(flags) or None], dtype=object).reindex(table.index)
    unknown = np.full(mask.shape, np.nan, np.float32)
    found = Sources(para, dia, mask, unknown, unknown, (np.nan, np.nan))
    record = {f'Plugin{key}': value for key, value in {**outcome.record, 'Flags': flags}.items()}
    stated = {**stated, 'method': plugin.manifest.title, **record}
    stated['classical'] = {**stated['classical'], **estimated}
    classical = (None, None) if usual is None else (usual.para, usual.dia)
    maps = (para, dia, para + dia, None, None, mask, *classical)
    # it has no model that could fail to hold
    rows = _table(found, mask, dseg, labels).assign(share_fits=np.nan)
    return *maps, rows, table, stated


def plot_departure(
    _: pd.DataFrame,
    own: np.ndarray,
    classical: np.ndarray,
    other: np.ndarray,
    mask: np.ndarray,
    affine: np.ndarray,
) -> bytes:
    """Sources of a plug-in less classical ones (PNG), where there is any of these two."""
    look = Look('Plug-in less classical', 'ppm', 'RdBu_r', (-0.1, 0.1))
    difference = np.where((classical != 0) | (other != 0), own - classical, 0)
    return plot_map(difference, affine, look=look, mask=mask, title='Plug-in less classical')


def _noise_of(rate: np.ndarray, sd: np.ndarray | None, there: np.ndarray) -> float:
    """Noise of a map of rates: that which is stated, as smoothing hides it, or that of its finest detail."""
    stated = sd[there & (sd > 0)] if sd is not None else np.empty(0)
    return float(np.median(stated)) if stated.size else noise_level(rate[..., None], there)


def _relaxation(function: Callable, r2prime: pd.DataFrame | None):
    """What was taken as relaxation by the sources, for the sidecars."""
    asked, said = needs(function), []
    if 'echoes' in asked:
        said.append('decay of the echoes')
    if 'r2star' in asked:
        said.append('R2*')
    if {'rate', 'r2prime'} & {*asked}:
        if r2prime is None:
            said.append('R2*, less an assumed R2 of each tissue')
        else:
            came = r2prime.loc[r2prime['map'] == 'R2prime', 'provenance'].iloc[0]
            said.append(f"R2' ({came}; see the application r2prime)")
    return ' and '.join(said)


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
    name, stated = str(params.get('method', CLASSICAL)), params.get('relaxivity')
    if name not in SEPARATION and not is_plugin(name):
        raise UserError(
            f'--separation:method is {name!r}; it must be one of: {", ".join(SEPARATION)}, or a plug-in '
            '(onnx:/plugins/mynet).'
        )
    function = find_method(SEPARATION, name)
    frame = params.get('frame', AUTO)
    check_stated(frame, '--separation')
    if stated is not None:
        if name == CLASSICAL or is_plugin(name):
            which = 'posterior, which estimates it' if name == CLASSICAL else 'onnx, as a network has none'
            raise UserError(
                f'--separation:relaxivity cannot be stated for the method {which}; '
                'leave it out, or choose another method, such as method=closed.'
            )
        low, high = RELAXIVITIES
        if not is_within(stated, low, high):
            raise UserError(
                f'--separation:relaxivity is {stated!r}; it must be from {low} to {high} (1/s/ppm at 3 T).'
            )
    asked = _asked(function)
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
    if name != CLASSICAL and not is_plugin(name):
        assumed = parameters(function)['relaxivity'] if stated is None else stated
        text += f', with a relaxivity of {assumed:g} 1/s/ppm at 3 T, proportional to the field strength'
    if 'r2prime' in asked:
        text += "; R2' is that of spin echoes or of a given map, or else R2* less a mean R2 of each tissue"
    if 'cosine' in asked and frame != IGNORE:
        text += '; where diffusion was given, the directions of fibres too'
    memory, usual = about.memory, facts(SEPARATION[CLASSICAL])
    if is_plugin(name):
        text += f'. For comparison the same was done with {usual.prose}'
        memory = memory + usual.memory
    return Variant(f'{text}.', memory, needs=taken, spares=spared, one_of=ONE_OF if is_required else ())


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
        'paramagneticclassical',
        'diamagneticclassical',
        'table',
        'comparison',
        'facts',
    ),
    uses=('r2prime',),
    extra=FIBRES,
    images=(
        Image(
            'paramagnetic',
            'Chimap',
            'Paramagnetic susceptibility (0 or more)',
            'ppm',
            look=Look('Paramagnetic susceptibility', 'ppm', 'inferno', (0.0, 0.2)),
        ),
        Image(
            'diamagnetic',
            'Chimap',
            'Diamagnetic susceptibility (0 or less)',
            'ppm',
            look=Look('Diamagnetic susceptibility', 'ppm', 'viridis_r', (-0.1, 0.0)),
        ),
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
        Image(
            'fits',
            'mask',
            'Where two sources of a tissue describe the voxel; of a plug-in, where it was applied',
            desc='separation',
        ),
        *(
            Image(
                f'{source}classical',
                'Chimap',
                f'{source.capitalize()} susceptibility by the default method',
                'ppm',
                facts='classical',
            )
            for source in SOURCES
        ),
    ),
    tables=(
        Table(
            maps=(
                Column('chi_para', 'paramagnetic susceptibility', 'ppm'),
                Column('chi_dia', 'diamagnetic susceptibility, 0 or less', 'ppm'),
            ),
            columns=(
                Column(
                    'share_fits',
                    'Share of the region where the model holds; the rest is left out. Of a plug-in: n/a.',
                ),
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
        Table(
            'comparison',
            title='Sources of the plug-in and of the default method',
            columns=(
                Column('source', 'paramagnetic, diamagnetic, or total: the sum, against susceptibility.'),
                Column('region', 'Region of both sides, or the whole mask.'),
                Column('plugin', 'Mean of the plug-in.', 'ppm'),
                Column(
                    'classical',
                    'Mean of the default method, where it has sources too; of the total, of susceptibility.',
                    'ppm',
                ),
                Column('difference', 'Plug-in less classical.', 'ppm'),
                Column('slope', 'Of the plug-in against the other, over the voxels of the whole mask.'),
                Column('nrmse', 'Difference relative to the other, without means.', '%'),
                Column('warning', 'What speaks against the plug-in; of the participant, not of the row.'),
            ),
            caption='A network is not a measurement: look at both maps and their difference.',
        ),
    ),
    figures=(
        Figure('paramagnetic', 'Paramagnetic sources', 'Iron and deoxygenated blood. ' + CAUTION),
        Figure('diamagnetic', 'Diamagnetic sources', 'Myelin and calcium: dark where there are many.'),
        *(
            figure
            for source, other in zip(SOURCES, SOURCES[::-1], strict=True)
            for figure in (
                Figure(
                    f'{source}classical',
                    f'{source.capitalize()} sources by the default method',
                    'For comparison with those of the plug-in.',
                ),
                Figure(
                    f'{source}departure',
                    f'{source.capitalize()} sources: plug-in less default method',
                    'Structures that only one of them shows need a look at susceptibility and relaxation.',
                    draw=plot_departure,
                    picture=True,
                    table='comparison',
                    takes=(source, f'{source}classical', f'{other}classical', 'mask', 'affine'),
                ),
            )
        ),
    ),
    fewest_echoes=3,  # of methods that fit the echoes
    variants=variants,
    method=variants({}).method,
    memory=variants({}).memory,
)
