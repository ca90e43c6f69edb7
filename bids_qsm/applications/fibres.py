"""Susceptibility of one head position without what the anisotropy of fibres adds to the field."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from bids_qsm.anatomy.fibres import LEAST_FA
from bids_qsm.applications.contract import Application, Column, Figure, Given, Image, Table, Variant
from bids_qsm.applications.dwi import (
    AUTO,
    FIBRES,
    ONE_OF,
    axes_of_file,
    check_stated,
    check_surfaces,
    given_or_fitted,
    read_fibres,
)
from bids_qsm.applications.rims import ASSUMED
from bids_qsm.biomarkers.columns import regions_of
from bids_qsm.biomarkers.fibre_chi import CLEAR, WHITE_FA, better_axes, by_angle, tensor_on, without_fibres
from bids_qsm.biomarkers.positions import b0_in_world, noise_of
from bids_qsm.errors import UserError
from bids_qsm.plotting.maps import Look
from bids_qsm.plotting.orientation_charts import plot_angles
from bids_qsm.plugins.methods import find_method
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.orientations.fibres import TERMS, TURN, FibreFit, FibreModel
from bids_qsm.recon.registry import Need, call
from bids_qsm.recon.units import effective_echo_time, ppm_per_radian

UNSEEN = 5.0
"""Evidence (logarithm of a Bayes factor) below which the field does not show fibres."""
METHOD = (
    'The field of fibres was predicted from their diffusion tensor as that of an '
    'anisotropic susceptibility [@sti] and of the microstructure of myelin [@wharton2012], with '
    'factors that generalised least squares found in the local field, and subtracted before inversion'
)


def measure(
    chi: np.ndarray,
    localfield: np.ndarray,
    magnitude: np.ndarray,
    r2star: np.ndarray | None,
    mask: np.ndarray,
    fa: Given | None,
    directions: Given | None,
    dwi: tuple[Given, Given] | None,
    dseg: np.ndarray,
    labels: pd.DataFrame,
    grid: Grid,
    affine: np.ndarray,
    inversion: tuple[str, dict],
    levelled: bool,
    echo_times: list | None,
    field_strength: float | None,
    *,
    frame: str = AUTO,
):
    """Fit what fibres add to the field, take it off, and invert; see `without_fibres`."""
    pair = given_or_fitted(fa, directions, dwi)
    if pair is None:
        raise UserError(
            f'{fa.source} has no directions of fibres beside it; give them, or the diffusion images.'
            if fa is not None
            else 'There are neither maps of fibres nor diffusion images; give one of them.'
        )
    fa, directions = pair
    carried, said = read_fibres(fa, directions, grid, affine, frame, is_checked=False)
    fibrous = mask & carried.directed & (carried.fa > LEAST_FA)
    if not fibrous.any():
        raise UserError(
            f'{fa.source} shows no fibres within the brain of the series; check that it is of this '
            'participant, and the figure of its alignment.'
        )
    tensor, share = tensor_on(carried, mask, affine, grid)
    noise = noise_of(localfield, magnitude, mask)
    model = FibreModel(localfield, noise, mask, share, grid)
    fit = model.fit(tensor)
    turn = better_axes(model, tensor, fit, axes_of_file(directions, affine, frame))
    if turn is not None:
        raise UserError(
            f'{said}: the field of these fibres is not that which was measured, and with their axes '
            f'{_named(turn)} it is; state another --fibres:frame=, correct the gradient table of the '
            'diffusion images, or turn the vectors as the images were turned.'
        )
    if fit.evidence < UNSEEN:
        raise UserError(
            f'{said}: the local field does not show these fibres, so that nothing is taken off; check that '
            'they are of this participant, the figure of their alignment, and the noise of the series.'
        )
    if fit.evidence >= CLEAR:
        said += ', as the field proves'
    else:  # too weak to prove the axes
        is_told = check_surfaces(fa, directions, frame)
        said += ', as the surfaces of white matter say' if is_told else ', which the data do not tell'
    name, params = inversion
    data = {
        'mask': mask,
        'noise': noise,
        'magnitude': magnitude,
        'r2star': r2star,
        'grid': grid,
        'field_strength': field_strength or ASSUMED['field_strength'],
        'radians_per_ppm': 1
        / ppm_per_radian(
            field_strength or ASSUMED['field_strength'],
            effective_echo_time(echo_times) if echo_times else ASSUMED['echo_time'],
        ),
    }

    def invert(field: np.ndarray):
        return call(find_method(INVERSION, name), {**data, 'field': field.astype(np.float32)}, params)

    # what was taken off the map as varying slowly is taken off its change too
    rates = r2star if levelled else None
    corrected = without_fibres(chi, localfield, mask, tensor, share, fit, rates, grid, invert=invert)
    cosine = carried.squared_cosine(b0_in_world(grid, affine))
    white = fibrous & (carried.fa > WHITE_FA)
    maps = {'chi': chi, 'chi_fibercorrected': corrected.chi}
    angle = np.where(fibrous, np.degrees(np.arccos(np.sqrt(cosine))), 0).astype(np.float32)
    return (
        corrected.chi.astype(np.float32),
        corrected.field,
        angle,
        _table(maps, mask, dseg, labels),
        by_angle(maps, cosine, white),
        _facts(fit, said),
    )


def _named(matrix: np.ndarray):
    """What a matrix of `turns` does to axes, as text."""
    if np.count_nonzero(matrix) > 3:
        return f'turned by some {TURN:g} degrees about {"xyz"[int(np.argmax(np.diag(matrix)))]}'
    rows = [('-' if row.min() < 0 else '') + 'xyz'[int(np.abs(row).argmax())] for row in matrix]
    return f'read as ({", ".join(rows)})'


def _table(maps: Mapping[str, np.ndarray], mask: np.ndarray, dseg: np.ndarray, labels: pd.DataFrame):
    """Tidy rows by region."""
    rows = []
    for region, hemisphere, within in regions_of(mask, dseg, labels):
        n = int(within.sum())
        before = maps['chi'][within]
        after = maps['chi_fibercorrected'][within]
        rows.append(
            {
                'region': region,
                'hemisphere': hemisphere,
                'n_voxels': n,
                'map': 'chi_fibercorrected',
                'mean': float(after.mean()) if n else np.nan,
                'sd': float(after.std()) if n else np.nan,
                'se': np.nan,
                'units': 'ppm',
                'change': float((after - before).mean()) if n else np.nan,
            }
        )
    return pd.DataFrame(rows).round(6)


def _facts(fit: FibreFit, fibres: str):
    """What was found, for the sidecars."""
    said = (
        'along fibres less across, where all water diffuses along fibres',
        'shift per squared sine of the angle to B0, where all water diffuses along fibres',
        'shift of white matter at the magic angle',
    )
    facts: dict[str, object] = {
        name: {'value': float(value), 'sd': float(sd), 'units': 'ppm', 'source': what}
        for name, value, sd, what in zip(TERMS, fit.values, fit.sd, said, strict=True)
    }
    facts['evidence'] = {
        'value': fit.evidence,
        'source': 'logarithm of the Bayes factor of directions against none',
    }
    facts['fibres'] = fibres
    return facts


def variants(params: Mapping[str, object]) -> Variant:
    """Check the frame that was stated."""
    frame = params.get('frame', AUTO)
    check_stated(frame, '--fibres', may_ignore=False)
    return Variant(f'{METHOD}.', MEMORY)


MEMORY = Need(0.2, volume=60, padded=14)

APPLICATION = Application(
    name='fibres',
    title='Susceptibility without the anisotropy of fibres',
    measure=measure,
    gives=('fibercorrected', 'fiberfield', 'fiberangle', 'table', 'fiberangles', 'facts'),
    extra=FIBRES,
    one_of=ONE_OF,
    images=(
        Image(
            'fibercorrected',
            'Chimap',
            'Susceptibility without what fibres add to the field',
            'ppm',
            look=Look('Susceptibility without fibres', 'ppm', window=(-0.1, 0.2)),
        ),
        Image(
            'fiberfield',
            'localfieldmap',
            'What fibres add to the local field, by anisotropic susceptibility and shifts by microstructure',
            'ppm',
            look=Look('Field of fibres', 'ppm', symmetric=True),
        ),
        Image(
            'fiberangle',
            'anglemap',
            'Angle between fibres and B0; 0 where there are none',
            'deg',
            look=Look('Angle of fibres to B0', 'deg', 'viridis', (0.0, 90.0)),
        ),
    ),
    tables=(
        Table(
            maps=(Column('chi_fibercorrected', 'susceptibility without what fibres add', 'ppm'),),
            columns=(Column('change', 'Mean of it less that of the map with fibres.', 'ppm'),),
            caption='The brain has the same mean as in the map with fibres: changes are relative to that. '
            'Fibres change susceptibility beside white matter too, as their field reaches there.',
            cohort='tidy',
        ),
        Table(
            'fiberangles',
            title='White matter by the angle of its fibres',
            columns=(
                Column('angle_deg', 'Middle of the class of angles between fibres and B0.', 'deg'),
                Column('n_voxels', 'Voxels of white matter.', 'voxels'),
                Column('share', 'Share of the voxels of white matter.'),
                Column('chi', 'Mean susceptibility.', 'ppm'),
                Column('chi_sd', 'Its standard deviation over voxels.', 'ppm'),
                Column('chi_fibercorrected', 'Mean susceptibility without what fibres add.', 'ppm'),
                Column('chi_fibercorrected_sd', 'Its standard deviation over voxels.', 'ppm'),
            ),
            caption=f'Voxels of a fractional anisotropy above {WHITE_FA}.',
        ),
    ),
    figures=(
        Figure(
            'fiberangles',
            'White matter by the angle of its fibres',
            'Mean susceptibility of white matter before and after; bands are one standard deviation over '
            'voxels. Isotropic susceptibility does not depend on the angle, but tracts that differ in it may '
            'differ in myelin too.',
            draw=plot_angles,
            table='fiberangles',
        ),
        Figure('fibercorrected', 'Susceptibility without fibres', 'In ppm.'),
        Figure('fiberfield', 'What fibres add to the field', 'Taken off the local field, in ppm.'),
    ),
    method=f'{METHOD}.',
    memory=MEMORY,
    variants=variants,
)
