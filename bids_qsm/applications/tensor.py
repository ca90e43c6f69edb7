"""Susceptibility tensor of white matter from six or more head positions of a session (STI)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from bids_qsm.applications.contract import Application, Column, Figure, Image, Query, Table
from bids_qsm.applications.cosmos import ORIENTATIONS, POSITIONS
from bids_qsm.biomarkers.columns import regions_of
from bids_qsm.biomarkers.positions import (
    SAME,
    align,
    axes_of,
    check_session,
    distinct,
    on_first,
    position_table,
    positions_of,
    said_of_rotation,
    said_of_slow,
    slow_error_of,
)
from bids_qsm.entities import join_entities
from bids_qsm.errors import UserError
from bids_qsm.plotting.maps import Look
from bids_qsm.plotting.orientation_charts import plot_anisotropy, plot_coverage, plot_directions
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.orientations.conditioning import conditioning
from bids_qsm.recon.orientations.cosmos import supports
from bids_qsm.recon.orientations.tensor import ANISOTROPY, invariants, tensor, turned
from bids_qsm.recon.registry import Need, is_within

FEWEST = 6
"""Positions for the six components of the tensor."""
WORST = 100.0
"""Largest ratio of singular values of the six components: 12 positions up to 25 degrees have 24, 6 42."""
WHITE = 0.5
"""Share of white matter from which a voxel may be anisotropic."""
ORDER = 'xx, xy, xz, yy, yz, zz'
CAUTION = (
    'The frequency of water in and around myelin depends on the angle of fibres too, which no model of bulk '
    'susceptibility has, and makes anisotropy seem larger.'
)


def measure(
    localfield: list[np.ndarray],
    mask: list[np.ndarray],
    magnitude: list[np.ndarray],
    chi: list[np.ndarray],
    affine: list[np.ndarray],
    grid: list[Grid],
    entities: list[dict[str, str]],
    dseg: list[np.ndarray],
    labels: list[pd.DataFrame],
    white_matter: list[np.ndarray],
    r2star: list[np.ndarray | None],
    levelled: list[bool],
    orientations: list[pd.DataFrame | None],
    tissue: list[np.ndarray | None],
    *,
    spread: float = ANISOTROPY,
):
    """Register positions and fit the tensor, see `bids_qsm.recon.orientations.tensor`.

    Parameters
    ----------
    spread : float
        Standard deviation (ppm) of anisotropic components that is expected.
    """
    names = [join_entities(one.items()) for one in entities]
    positions = positions_of(names, localfield, mask, magnitude, affine, grid, orientations[0])
    # finer detail is not determined by the first position alone, as a filter would ask of the tensor
    aligned = align(positions, is_filtered=False)
    n, found = distinct(aligned.directions), conditioning(aligned.directions)
    if n < FEWEST or not found.tensor <= WORST:
        raise UserError(
            f'Series of {names[0]} and {len(names) - 1} more: B0 has {n} direction(s) in the head that '
            f'differ by {SAME:g} degrees or more, with a condition number of {found.tensor:.0f}; the '
            f'tensor needs {FEWEST} directions about two axes, and {WORST:.0f} at most: scan the head in '
            'more positions.'
        )
    white = white_matter[0] if tissue[0] is None else tissue[0] > WHITE
    there, _ = supports(aligned.masks, grid[0])
    where = mask[0] & there
    fibres = white & mask[0]
    white = white & where
    if not white.any():
        raise UserError(
            f'{names[0]} has no white matter in its mask, where the tensor could be anisotropic; check the '
            'mask and the alignment to the template.'
        )
    components = tensor(
        aligned.fields, aligned.masks, aligned.noises, aligned.directions, fibres, grid[0], spread=spread
    )
    mean, anisotropy, vectors = invariants(components)
    rates = r2star[0] if levelled[0] else None
    slow = slow_error_of(mean, there, rates, grid[0], aligned.directions[0])
    shift = -slow
    shift += float(chi[0][where].mean() - (mean + shift)[where].mean()) * there
    mean += shift
    components[[0, 3, 5]] += shift
    axes = axes_of(affine[0])
    anisotropy = np.where(white, anisotropy, 0).astype(np.float32)
    vectors = np.where(white[..., None], vectors @ axes.T, 0).astype(np.float32)
    single = on_first(chi, positions, aligned)
    listed = position_table(positions, aligned, single, mean, there)
    facts = {
        'components': {'value': f'{ORDER}, along the axes of the scanner (RAS)'},
        'positions': {'value': len(names), 'source': ', '.join(names)},
        'rotation': {'value': said_of_rotation(listed)},
        'condition_number': {
            'value': found.tensor,
            'source': 'largest over least singular value of the six components, the median over directions '
            'of k',
        },
        'white_matter': {
            'value': int(white.sum()),
            'units': 'voxels',
            'source': 'probability of white matter that was given' if tissue[0] is not None else 'template',
        },
        'expected_anisotropy': {'value': spread, 'units': 'ppm', 'source': 'assumed'},
    }
    facts['slow_variation_removed'] = said_of_slow(slow, there, r2star[0], levelled[0])
    rows = _table(mean, anisotropy, white, where, dseg[0], labels[0])
    images = np.moveaxis(turned(components, axes), 0, -1), mean.astype(np.float32), anisotropy, vectors
    return *images, rows, listed, facts


def check(participant: Mapping, params: Mapping):
    """Raise UserError where a parameter cannot be used."""
    del participant
    spread = params.get('spread', ANISOTROPY)
    if not is_within(spread, 0.001, 1):
        raise UserError(f'--tensor:spread is {spread!r}; it must be from 0.001 to 1 ppm.')


def _table(
    mean: np.ndarray,
    anisotropy: np.ndarray,
    white: np.ndarray,
    where: np.ndarray,
    dseg: np.ndarray,
    labels: pd.DataFrame,
):
    """Tidy rows by region: the mean susceptibility everywhere, the anisotropy in white matter.

    Only voxels of ``where`` have a result, of which ``white`` is a part.
    """
    rows = []
    regions = [*regions_of(where, dseg, labels), ('White matter', 'both', white)]
    for name, side, region in regions:
        for what, data, place in (('MMS', mean, region), ('MSA', anisotropy, region & white)):
            if what == 'MSA' and not place.any():
                continue
            there = place.any()
            rows.append(
                {
                    'region': name,
                    'hemisphere': side,
                    'n_voxels': int(place.sum()),
                    'map': what,
                    'mean': float(data[place].mean()) if there else np.nan,
                    'sd': float(data[place].std()) if there else np.nan,
                    'units': 'ppm',
                }
            )
    return pd.DataFrame(rows).round(6)


APPLICATION = Application(
    name='tensor',
    title='Susceptibility tensor',
    measure=measure,
    gives=('sti', 'mms', 'msa', 'v1', 'table', 'tensorpositions', 'facts'),
    extra=(
        ORIENTATIONS,
        Query('tissue', 'probability of white matter', ('probseg',), entities=(('label', 'WM'),)),
    ),
    images=(
        Image('sti', 'Chimap', f'Six components of the susceptibility tensor: {ORDER}', 'ppm'),
        Image(
            'mms',
            'Chimap',
            'Mean magnetic susceptibility: the mean of the three of the tensor',
            'ppm',
            look=Look('Mean susceptibility (tensor)', 'ppm', window=(-0.1, 0.2)),
        ),
        Image(
            'msa',
            'Chimap',
            'Magnetic susceptibility anisotropy: the largest less the mean of the other two',
            'ppm',
            look=Look('Anisotropy (tensor)', 'ppm', 'plasma', (0.0, 0.04)),
        ),
        Image(
            'v1',
            'V1map',
            'Direction of the largest susceptibility, along the axes of the scanner (RAS); its sign means '
            'nothing',
            '1',
            desc='sti',
        ),
    ),
    tables=(
        Table(
            maps=(
                Column('MMS', 'mean magnetic susceptibility', 'ppm'),
                Column('MSA', 'magnetic susceptibility anisotropy, of white matter alone', 'ppm'),
            ),
            columns=(
                Column(
                    'region',
                    'Region of the atlas. White matter: where the fit lets it be anisotropic, the '
                    'deep white matter of the template or where the probability that was given is above .5.',
                ),
            ),
            caption='MMS has the mean of susceptibility of the first series over its mask. ' + CAUTION,
            cohort='tidy',
        ),
        Table(
            'tensorpositions',
            title='Head positions of the tensor',
            columns=POSITIONS,
            shown=(
                'position',
                'angle_deg',
                'shift_mm',
                'b0_from',
                'noise_ppb',
                'correlation',
                'difference_ppb',
            ),
        ),
    ),
    figures=(
        Figure(
            'tensorcoverage',
            'What the head positions of the tensor measure',
            'Half of the sphere of spatial frequencies seen from B0 of the first position; circles are B0.',
            draw=plot_coverage,
            table='tensorpositions',
            takes=('facts',),
        ),
        Figure(
            'mms', 'Mean magnetic susceptibility', 'Mean of the three susceptibilities of the tensor, in ppm.'
        ),
        Figure(
            'msa',
            'Magnetic susceptibility anisotropy',
            'Of white matter, over the mean susceptibility; elsewhere it is taken as zero. ' + CAUTION,
            draw=plot_anisotropy,
            picture=True,
            table='',
            takes=('msa', 'mms', 'affine'),
        ),
        Figure(
            'directions',
            'Principal directions of the tensor',
            'Red: left to right; green: back to front; blue: up. The brightness is the anisotropy. '
            'Behind it is the mean susceptibility.',
            draw=plot_directions,
            picture=True,
            table='',
            takes=('v1', 'msa', 'mms', 'affine'),
        ),
    ),
    scope='subject',
    fewest_series=FEWEST,
    check=check,
    check_session=check_session,
    method='The susceptibility tensor [@sti] was fitted to the local fields of the head positions of a '
    'session, with anisotropy in white matter alone [@mmsrsti].',
    # for six positions; twelve take less each
    memory=Need(0.1, volume=8, padded=13),
)
