"""Measure R2 from spin echoes and reversible relaxation R2', and tell large from small sources."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.anatomy.transform import resample, spacing_of
from bids_qsm.applications.contract import Application, Column, Figure, Given, Image, Query, Table, Variant
from bids_qsm.biomarkers.columns import regions_of
from bids_qsm.biomarkers.r2prime import Placed, place_field, place_rate, reversible_rate, widths
from bids_qsm.biomarkers.source_scale import CLASSES, Scale, source_scale
from bids_qsm.errors import UserError
from bids_qsm.plotting.maps import Look
from bids_qsm.plotting.relaxation_charts import plot_source_scale
from bids_qsm.recon.background_gradient import spread_function
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.noise import noise_level
from bids_qsm.recon.registry import Need
from bids_qsm.recon.relaxation import arlo, rate_error
from bids_qsm.recon.spin_echo import GIVEN_B1_RANGE, T1, Train, find_profile, fit_r2, train_noise

CHI_ERROR = 0.004
"""Least error of susceptibility (ppm): that of inversion is smooth, and finest detail does not show it."""
WEAK_CHI = 0.01
"""Size of the mean susceptibility of a region (ppm) below which R2' is not divided by it."""
ANGLES = 60, 180
"""Limits of the nominal refocusing angle (degrees)."""
PROFILES = ('none', 'fitted')
"""Whether the angle of the pulses falls off across the slice, as in 2D. Where the user does not state it, it
is fitted with a transmit field that is given, and none without."""
COVERED = 0.8
"""Least share of the brain that a map of the transmit field must show."""
CLAMPED = 0.01
"""Share of the brain whose given transmit field is out of range, from which on it is said."""
FEWEST = 3
"""Echoes of a train: two would not tell R2 from the transmit field."""


def rate_of(stored: np.ndarray, name: str) -> np.ndarray:
    """R2 or R1 (1/s) from a map of it, or of T2 or T1 in s or ms."""
    stored = np.nan_to_num(stored)
    if 'T2map' not in name and 'T1map' not in name:
        return stored
    inside = stored[stored > 0]
    unit = 1e-3 if inside.size and np.median(inside) > 5 else 1.0
    return np.where(stored > 0, 1 / np.maximum(stored * unit, 1e-3), 0)


def relative_field(stored: np.ndarray, name: str) -> np.ndarray:
    """Transmit field over the nominal one, from a map in percent or of shares."""
    del name
    stored = np.nan_to_num(stored)
    inside = stored[stored > 0]
    return stored / 100 if inside.size and np.median(inside) > 5 else stored


def fitted_here(stored: np.ndarray, name: str) -> str | None:
    """Why a map of the transmit field is none that was measured: it was fitted with R2."""
    del stored
    return f'{name} was fitted with R2, not measured; take it out.' if '_desc-b1fit_' in name else None


def measure(
    chi: np.ndarray,
    r2star: np.ndarray,
    field: np.ndarray | None,
    echoes: np.ndarray | None,
    mask: np.ndarray,
    mese: Given | None,
    given_r2: Given | None,
    given_r2prime: Given | None,
    tb1: Given | None,
    white_matter: np.ndarray | None,
    dseg: np.ndarray,
    labels: pd.DataFrame,
    grid: Grid,
    affine: np.ndarray,
    echo_times: list | None,
    field_strength: float | None,
    *,
    refocusing: float = 180.0,
    profile: str | None = None,
):
    """Measure R2 or take it as given, subtract it from R2*, and tell large from small sources."""
    r2, b1, facts = _r2(mese, given_r2, tb1, mask, affine, refocusing, profile)
    if 'refocusing_angle' not in facts and (refocusing != 180.0 or profile is not None):
        facts['refocusing_and_profile'] = 'stated, and of no effect: no train of spin echoes was fitted'
    sd = scale = None
    if given_r2prime is not None:
        r2prime = np.where(mask, given_r2prime.on_grid, 0).astype(np.float32)
        facts['R2prime'] = {'provenance': 'imported', 'source': given_r2prime.source}
        if not r2prime.any():
            raise UserError(
                f"{given_r2prime.source}: R2' is zero all over the mask of the series; check that it is of "
                'this participant.'
            )
    else:
        assert r2 is not None  # one of the three is there
        rate, variance, signal, said = _effective(
            r2star, field, echoes, mask, grid, echo_times, field_strength
        )
        r2prime, sd = reversible_rate(rate, variance, signal, mask, r2, affine)
        facts['R2prime'] = {'provenance': facts['R2']['provenance'], 'source': 'R2* - R2', 'R2star': said}
        facts['smoothing_of_R2star'] = {
            'value': [round(one, 2) for one in widths(r2.spread)],
            'units': 'mm',
            'source': 'full widths at half maximum, where the voxels of R2 are larger',
        }
    rates = errors = None
    if r2 is not None:
        there = mask & r2.known
        rates, errors = (np.where(there, one, 0) for one in (r2.rate, np.sqrt(r2.variance)))
    if rates is not None and errors is not None and field_strength:
        scale = source_scale(
            chi,
            rates,
            errors,
            there,
            white_matter,
            dseg,
            grid,
            chi_noise=max(noise_level(chi[..., None], there), CHI_ERROR),
            scale=field_strength / 3,
        )
    elif rates is not None:
        facts['classes'] = 'none, as the field strength is not known, which the slope of iron depends on'
    facts |= _line_facts(scale)
    table = _table(chi, rates, r2prime, scale, mask, dseg, labels, facts)
    of_scale = [None] * 4 if scale is None else [scale.dseg, scale.macroscopic, scale.microscopic, scale.z]
    return rates, errors, b1, r2prime, sd, *of_scale, table, facts


def _r2(
    mese: Given | None,
    given: Given | None,
    tb1: Given | None,
    mask: np.ndarray,
    affine: np.ndarray,
    refocusing: float,
    profile: str | None,
) -> tuple[Placed | None, np.ndarray | None, dict[str, Any]]:
    """R2 on the grid of the maps, the transmit field (percent) where it was fitted, and where R2 is from."""
    b1, facts = None, dict[str, Any]()
    if given is not None:
        r2, source = _imported(given, mask, affine), given.source
        facts['R2'] = {'provenance': 'imported', 'source': source}
    elif mese is not None:
        train, source = Train(mese.echo_times[0], len(mese.echo_times), refocusing), mese.source
        is_sliced = tb1 is not None if profile is None else profile == 'fitted'
        r2, b1, train, field = _measured(mese, tb1, mask, affine, train, is_sliced)
        facts['R2'] = {'provenance': 'measured', 'source': f'{mese.data.shape[-1]} echoes of {source}'}
        facts['refocusing_angle'] = {'value': refocusing, 'units': 'degrees', 'source': 'nominal, stated'}
        if is_sliced:
            how = 'fitted to all voxels together'
            how += '' if profile else ', as the transmit field was given and no profile was stated'
            angle = {'value': round(train.profile[-1], 2), 'source': how}
            facts['angle_at_edge_of_slice'] = angle | {'units': 'of that in its middle'}
        facts['transmit_field'] = field
        facts['T1'] = {'value': T1, 'units': 's', 'source': 'assumed'}
    else:
        return None, None, facts
    if not (r2.known & mask).any():
        raise UserError(
            f"R2' cannot be measured: {source} shows nothing within the mask of the series; check that it is "
            'of this participant, and how it was aligned.'
        )
    return r2, b1, facts


def _imported(given: Given, mask: np.ndarray, affine: np.ndarray) -> Placed:
    """A given map of R2, whose noise is that of its finest detail."""
    known = given.data > 0
    rate = given.data.astype(np.float32)
    variance = np.full(rate.shape, noise_level(rate[..., None], known) ** 2, np.float32)
    return place_rate(rate, variance, known, given.affine, mask.shape, affine, given.from_maps)


def _measured(
    mese: Given, tb1: Given | None, mask: np.ndarray, affine: np.ndarray, train: Train, is_sliced: bool
):
    """R2 of a train, fitted on its own grid, the transmit field if it was fitted, the train with its profile,
    and where the field is from.
    """
    shape, voxel_size = mese.data.shape[:3], tuple(spacing_of(mese.affine).tolist())
    brain = resample(mask, affine, shape, mese.affine, mese.to_maps)
    # a margin, so that splines have tissue on both sides of the edge
    there = ndimage.binary_dilation(brain > 0.1)
    data = np.asarray(mese.data, np.float32)
    b1, said = (None, 'fitted with R2') if tb1 is None else _given_field(tb1, brain > 0.5, mese)
    noise = train_noise(data, there, train, noise=noise_level(data, there), voxel_size=voxel_size)
    if is_sliced:
        train = find_profile(data, there, train, noise=noise, voxel_size=voxel_size, b1=b1)
    rate, sd, _, found = fit_r2(data, there, train, noise=noise, voxel_size=voxel_size, b1=b1)
    r2 = place_rate(rate, sd**2, rate > 0, mese.affine, mask.shape, affine, mese.from_maps)
    if tb1 is not None:
        return r2, None, train, said
    fitted = place_field(found, mese.affine, mask.shape, affine, mese.from_maps)
    return r2, np.where(mask & r2.known, 100 * fitted, 0), train, said


def _given_field(tb1: Given, brain: np.ndarray, mese: Given) -> tuple[np.ndarray, str]:
    """A given transmit field on the grid of a train, and where it is from; UserError where it is none of it.

    ``brain`` is where the train shows it (bool).
    """
    known = (tb1.data > 0).astype(np.float32)
    onto = tb1.affine, brain.shape, mese.affine, [*mese.to_maps, *tb1.from_maps]
    share = float((resample(known, *onto)[brain] > 0.5).mean()) if brain.any() else 1.0
    if not known.any() or share < COVERED:
        raise UserError(
            f'{tb1.source}: the map of the transmit field shows {share if known.any() else 0:.0%} of the '
            'brain that the spin echoes show; check that it is of this participant and session, or take it '
            'out.'
        )
    b1 = place_field(tb1.data, *onto)
    low, high = GIVEN_B1_RANGE
    middle = float(np.median(b1[brain])) if brain.any() else 1.0
    if not low <= middle <= high:
        raise UserError(
            f'{tb1.source}: the transmit field in the brain is {middle:.3g} of the nominal one, and '
            f'{low:g} to {high:g} is possible; give it in percent of the nominal angle, or take it out.'
        )
    said = f'that of {tb1.source}'
    beyond = float(((b1 < low) | (b1 > high))[brain].mean()) if brain.any() else 0.0
    if beyond > CLAMPED:
        said += f', of which {beyond:.0%} of the brain lies beyond {low:g} to {high:g} and counts as these'
    return b1, said


def _effective(
    r2star: np.ndarray,
    field: np.ndarray | None,
    echoes: np.ndarray | None,
    mask: np.ndarray,
    grid: Grid,
    echo_times: list | None,
    field_strength: float | None,
):
    """R2*, its variance, the signal that voxels have, and what was done; corrected where echoes are there."""
    if echoes is None or field is None or not field_strength or not echo_times or len(echo_times) < 2:
        known = mask & np.isfinite(r2star) & (r2star > 0)
        variance = np.full(mask.shape, noise_level(r2star[..., None], known) ** 2, np.float32)
        said = 'as it was given: not corrected for background gradients here'
        return r2star, variance, mask.astype(np.float32), said
    rate, _, start = arlo(echoes, mask, echo_times, field, field_strength, grid, spread=True)
    kept = spread_function(field, mask, grid, echo_times, field_strength)
    error = rate_error(rate, start, echo_times, noise_level(echoes, mask), kept)
    said = 'fitted to the echoes by ARLO, whatever --r2star is, corrected for background gradients'
    return rate, error**2, start, said


def _line_facts(scale: Scale | None) -> dict:
    """What R2 is at a susceptibility, in this person."""
    if scale is None:
        return {}
    line = scale.line
    source = f'{line.n} regions of this person, and what is expected of iron'
    return {
        'R2_at_zero': {'value': round(line.start, 2), 'units': '1/s', 'source': source},
        'R2_by_chi': {'value': round(line.slope, 1), 'units': '1/s/ppm', 'source': source},
        'spread_of_R2': {'value': round(line.spread, 2), 'units': '1/s', 'source': 'regions off the line'},
    }


def _table(
    chi: np.ndarray,
    r2: np.ndarray | None,
    r2prime: np.ndarray,
    scale: Scale | None,
    mask: np.ndarray,
    dseg: np.ndarray,
    labels: pd.DataFrame,
    facts: Mapping,
):
    """Tidy rows by region."""
    rows = []
    for name, side, region in regions_of(mask, dseg, labels):
        for what, data, units in (('R2', r2, '1/s'), ('R2prime', r2prime, '1/s')):
            if data is None:
                continue
            where = region & (data != 0)
            n, average = int(where.sum()), float(chi[where].mean()) if where.any() else np.nan
            base = {'region': name, 'hemisphere': side, 'n_voxels': n, 'chi_mean': average}
            values = data[where] if n else np.array([np.nan])
            mean, came = float(values.mean()), facts[what]['provenance']
            row = {**base, 'map': what, 'mean': mean, 'sd': float(values.std()), 'units': units}
            rows.append(row | {'provenance': came})
            if what == 'R2prime':
                rows[-1]['share_negative'] = float((values < 0).mean()) if n else np.nan
                is_strong = n > 0 and abs(average) >= WEAK_CHI
                ratio = mean / abs(average) if is_strong else np.nan
                more = {'map': 'R2prime_per_chi', 'mean': ratio, 'units': 'Hz/ppm', 'provenance': came}
                rows.append(base | more)
            elif scale is not None:
                z = float(np.median(scale.from_line[where])) / scale.line.spread if n else np.nan
                more = {'map': 'z_R2_given_chi', 'mean': z, 'units': 'standard deviation'}
                rows.append(base | more | {'provenance': came})
                for number, kind in CLASSES:
                    share = float((scale.dseg[where] == number).mean()) if n else np.nan
                    more = {'map': f'share_{kind}', 'mean': share, 'units': 'fraction'}
                    rows.append(base | more | {'provenance': came})
    columns = ['region', 'hemisphere', 'map', 'n_voxels', 'mean', 'sd', 'units', 'chi_mean']
    return pd.DataFrame(rows).reindex(columns=[*columns, 'share_negative', 'provenance']).round(6)


def variants(params: Mapping[str, object]):
    """The application as it is; UserError where a parameter cannot be used, also where it is left out."""
    angle, (low, high) = params.get('refocusing', 180.0), ANGLES
    if isinstance(angle, bool) or not (isinstance(angle, int | float) and low <= angle <= high):
        raise UserError(f'--r2prime:refocusing is {angle!r}; it must be from {low} to {high} degrees.')
    if params.get('profile') not in (None, *PROFILES):
        raise UserError(
            f'--r2prime:profile is {params["profile"]!r}; it must be one of: {", ".join(PROFILES)}.'
        )
    return Variant(METHOD, MEMORY)


CAUTION = (
    'A class is a score of the image: macroscopic-like voxels have high susceptibility and low R2 for it, as '
    'veins do, microscopic-like ones high R2 at low susceptibility, as fine iron does.'
)
METHOD = (
    'R2 was fitted to a train of spin echoes by extended phase graphs [@weigel2015] together with the '
    'transmit field [@marty2016], or taken as given. It was aligned rigidly, and R2* was fitted by ARLO '
    "[@arlo] and corrected for background gradients [@spread], or taken as given. R2' is R2* less R2, after "
    'both were given the point spread of the coarser. Voxels were classified by R2 at given susceptibility: '
    'large sources dephase without R2, as water does not diffuse past them [@yablonskiy1994].'
)
MEMORY = Need(1.8, volume=40, echoes=4)
"""The size of a train is not known beforehand: this holds 32 echoes of 384 x 384 x 60."""
APPLICATION = Application(
    name='r2prime',
    title="R2, R2' and size of sources",
    measure=measure,
    gives=(
        'r2',
        'r2sd',
        'b1',
        'r2prime',
        'r2primesd',
        'scale',
        'macroscopic',
        'microscopic',
        'z',
        'table',
        'facts',
    ),
    extra=(
        Query('mese', 'spin-echo train', ('MESE',), align='own', whole=True, echoes=FEWEST),
        Query(
            'given_r2',
            'map of R2 or T2',
            ('R2map', 'T2map'),
            align='own',
            whole=True,
            prepare=rate_of,
            foreign=True,
            instead_of='mese',
        ),
        Query('given_r2prime', "map of R2'", ('R2primemap',), whole=True, foreign=True),
        Query(
            'tb1',
            'map of the transmit field',
            ('TB1map',),
            datatype='',
            align='coordinates',
            whole=True,
            prepare=relative_field,
            problem=fitted_here,
            foreign=True,
        ),
    ),
    one_of=('mese', 'given_r2', 'given_r2prime'),
    fewest_echoes=0,  # R2* may be given
    images=(
        Image(
            'r2',
            'R2map',
            'Transverse relaxation rate',
            '1/s',
            desc='',
            look=Look('R2', '1/s', 'inferno', (0.0, 30.0)),
        ),
        Image('r2sd', 'R2sdmap', 'Standard deviation of the noise of R2', '1/s', desc=''),
        Image('b1', 'TB1map', 'Transmit field over the nominal one, fitted with R2', 'percent', desc='b1fit'),
        Image(
            'r2prime',
            'R2primemap',
            'Reversible relaxation rate R2* - R2, signed',
            '1/s',
            desc='',
            look=Look("R2'", '1/s', 'inferno', (0.0, 30.0)),
        ),
        Image('r2primesd', 'R2primesdmap', "Standard deviation of the noise of R2'", '1/s', desc=''),
        Image(
            'scale',
            'dseg',
            'Size of sources by R2 at given susceptibility',
            desc='scale',
            lookup=((0, 'unclassified'), *((n, f'{name}-like') for n, name in CLASSES)),
        ),
        Image(
            'macroscopic',
            'probseg',
            'Probability of large sources, as vessels',
            desc='scale',
            entities=(('label', 'macroscopic'),),
            look=Look('Probability of large sources', '1', 'inferno', (0.0, 1.0)),
        ),
        Image(
            'microscopic',
            'probseg',
            'Probability of small sources, as iron stores',
            desc='scale',
            entities=(('label', 'microscopic'),),
            look=Look('Probability of small sources', '1', 'inferno', (0.0, 1.0)),
        ),
        Image(
            'z',
            'zmap',
            'Deviation of R2 from that of its region at its susceptibility',
            '1',
            desc='R2',
            look=Look('Deviation of R2', '1', window=(-4.0, 4.0)),
        ),
    ),
    tables=(
        Table(
            maps=(
                Column('R2', 'transverse relaxation rate', '1/s'),
                Column('R2prime', 'reversible relaxation rate, signed', '1/s'),
                Column('R2prime_per_chi', "R2' over the size of susceptibility", 'Hz/ppm'),
                Column(
                    'z_R2_given_chi',
                    'R2 less that of all regions of the person at this susceptibility',
                    'standard deviation',
                ),
                *(
                    Column(f'share_{name}', f'voxels with {name}-like sources', 'fraction')
                    for _, name in CLASSES
                ),
            ),
            columns=(
                Column('chi_mean', 'Mean susceptibility of the same voxels.', 'ppm'),
                Column('share_negative', "Share of voxels with R2' below zero; they count in the mean."),
                Column('provenance', 'measured: from spin echoes here; imported: from a given map.'),
            ),
            caption="R2' is signed: voxels below zero are noise, and means need them. " + CAUTION,
            cohort='tidy',
        ),
    ),
    figures=(
        Figure('r2', 'R2', 'Transverse relaxation by spin echoes.'),
        Figure('r2prime', "R2'", 'R2* - R2: dephasing by sources. Bright near air where gradients are left.'),
        Figure('b1', 'Transmit field', 'Fitted with R2, in percent of the nominal one. It must be smooth.'),
        Figure('scale', 'Size of sources', CAUTION, over='chi'),
        Figure(
            'density',
            'R2 by susceptibility',
            'Left: all voxels (grey), regions, and the line that R2 is compared with. Right: deviation of '
            'susceptibility and R2 from what is usual in the region. Between the dashed lines susceptibility '
            'is low enough for microscopic-like voxels, right of the lower one high enough for '
            'macroscopic-like ones; the rest of the borders depends on noise and shape.',
            draw=plot_source_scale,
            takes=('chi', 'r2', 'z', 'scale', 'dseg', 'white_matter', 'facts'),
        ),
    ),
    variants=variants,
    method=METHOD,
    memory=MEMORY,
)
