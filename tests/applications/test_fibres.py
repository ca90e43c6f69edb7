"""Susceptibility without fibres as an application: what it gives, and what it refuses."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bids_qsm.applications.contract import Given
from bids_qsm.applications.dwi import axes_of_file
from bids_qsm.applications.fibres import APPLICATION, measure, variants
from bids_qsm.biomarkers.fibre_chi import by_angle
from bids_qsm.biomarkers.separation.hollowcylinder import beat
from bids_qsm.errors import UserError
from bids_qsm.phantom.head import rigid
from bids_qsm.plotting.orientation_charts import plot_angles
from bids_qsm.recon.inversion.direct import tkd
from bids_qsm.recon.orientations.fibres import fibre_fields
from bids_qsm.recon.units import ppm_per_radian
from tests.recon.test_fibre_model import GRID, SHAPE, TRUE, fibre_tensor, head  # noqa: F401

AFFINE = np.diag([-3.0, 3.0, 3.0, 1.0])
LABELS = pd.DataFrame({'index': [1], 'region': ['Half'], 'hemisphere': ['L']})


def given(data, name):
    return Given(name, data, data, AFFINE, np.empty(0), [], [])


@pytest.fixture(scope='module')
def series(head):  # noqa: F811
    """What `measure` gets, and the field without fibres; vectors are along voxel axes, as of FSL."""
    mask, vectors, anisotropy, plain, _ = head
    tensor = fibre_tensor(vectors, anisotropy)
    field = plain + np.tensordot(
        TRUE.astype(np.float32), fibre_fields(tensor, 1.0 * (anisotropy > 0), GRID), 1
    )
    # the fractional anisotropy whose linear one this is
    fa = anisotropy * np.sqrt(3 / (1 + 2 * anisotropy**2))
    chi = np.zeros(SHAPE, np.float32)
    half = (np.arange(SHAPE[0]) < SHAPE[0] // 2)[:, None, None] * mask
    return {
        'chi': chi,
        'localfield': (field * mask).astype(np.float32),
        'magnitude': np.where(mask, np.float32(100), 1),
        'r2star': None,
        'mask': mask,
        'fa': given(np.where(anisotropy > 0, fa, 0.05).astype(np.float32), 'sub-01_FA.nii.gz'),
        'directions': given(vectors, 'sub-01_V1.nii.gz'),
        'dwi': None,
        'dseg': half.astype(np.int32),
        'labels': LABELS,
        'grid': GRID,
        'affine': AFFINE,
        'inversion': ('tkd', {}),
        'levelled': False,
        'echo_times': [0.01, 0.02],
        'field_strength': 3.0,
    }, (plain * mask).astype(np.float32)


def run(data, **more):
    return dict(zip(APPLICATION.gives, measure(**{**data, **more}), strict=True))


@pytest.fixture(scope='module')
def found(series):
    return run(series[0])


def test_what_fibres_add_is_taken_off_and_said(series, found):
    data, plain = series
    mask, wrong = data['mask'], data['localfield'] - plain
    assert np.std((wrong - found['fiberfield'])[mask]) < 0.35 * np.std(wrong[mask])
    facts = found['facts']
    assert facts['evidence']['value'] > 100
    values = [facts[name]['value'] for name in ('anisotropy', 'microstructure', 'offset')]
    assert values == pytest.approx(TRUE, rel=0.25)
    assert facts['fibres'] == 'directions of sub-01_V1.nii.gz, read in the frame fsl, as the field proves'


def test_susceptibility_changes_by_what_inversion_makes_of_it(series, found):
    data, plain = series
    mask, change = data['mask'], found['fibercorrected']
    assert change[mask].mean() == pytest.approx(0, abs=1e-6)
    assert not change[~mask].any()
    wrong = tkd(data['localfield'] - plain, mask, GRID) * mask
    wrong -= wrong[mask].mean() * mask
    assert np.std((wrong + change)[mask]) < 0.4 * np.std(wrong[mask])
    row = found['table'].set_index(['region', 'hemisphere']).loc[('Half', 'L')]
    assert row['mean'] == pytest.approx(change[data['dseg'] == 1].mean(), abs=1e-6)
    assert row['change'] == pytest.approx(row['mean'], abs=1e-6)


def test_vectors_with_other_axes_are_refused_by_the_field(series):
    data = series[0]
    wrong = given(data['directions'].stored[..., [1, 0, 2]], 'sub-01_V1.nii.gz')
    with pytest.raises(
        UserError,
        match=r'V1.nii.gz, read in the frame fsl: .* their axes read as \(y, x, z\) it is',
    ):
        run(data, directions=wrong)


def test_axes_of_a_file_are_those_that_carrying_turns():
    """A vector of a sagittal, oblique file in voxel axes of maps of another order."""
    file = rigid((20, -10, 5), (1, 2, 3)) @ np.diag([-2.0, 2, 2, 1])[:, [1, 2, 0, 3]]
    moved = rigid((4, 6, -8), (3, 2, 1))
    one = replace(
        given(np.zeros((2, 2, 2, 3), np.float32), 'sub-01_V1.nii.gz'), affine=file, from_maps=[moved]
    )
    vector = np.array([0.6, 0.0, 0.8], np.float32)
    turn = axes_of_file(one, AFFINE, 'voxel')
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-5)
    in_scanner = np.linalg.inv(moved[:3, :3]) @ (file[:3, :3] / 2) @ vector
    np.testing.assert_allclose(turn @ vector, in_scanner * [-1, 1, 1], atol=1e-5)


def test_voxels_without_a_direction_have_no_angle(series):
    data = series[0]
    vectors = data['directions'].stored.copy()
    vectors[: SHAPE[0] // 2] = 0
    found = run(data, directions=given(vectors, 'sub-01_V1.nii.gz'))
    before = SHAPE[0] // 2 - 1
    assert not found['fiberangle'][:before].any()
    assert found['fiberangle'].any()
    assert found['fiberangles']['n_voxels'].sum() == (found['fiberangle'][data['fa'].stored > 0.3] > 0).sum()


def test_fibres_elsewhere_are_refused(series):
    data = series[0]
    far = np.diag([-3.0, 3, 3, 1])
    far[:3, 3] = 500
    moved = {name: replace(data[name], affine=far) for name in ('fa', 'directions')}
    with pytest.raises(UserError, match='shows no fibres within the brain'):
        run(data, **moved)


def test_fibres_that_the_field_does_not_show_are_refused(series):
    data, plain = series
    with pytest.raises(UserError, match='does not show these fibres'):
        run(data, localfield=plain)


def test_a_fitted_tensor_stands_for_maps_and_is_described(series):
    data = series[0]
    stored = np.moveaxis(fibre_tensor(data['directions'].stored, np.ones(SHAPE)), 0, -1)
    size = data['fa'].stored / np.sqrt(3 - 2 * data['fa'].stored ** 2)
    tensor = size[..., None] * stored + np.array([1, 0, 0, 1, 0, 1]) / 3
    facts = {'OrientationEncoding': {'Reference': 'bvec'}, 'FittedHere': 'fitted to 24 images'}
    pair = data['fa'], replace(given(tensor.astype(np.float32), 'sub-01_dwi.nii.gz'), sidecar=facts)
    facts = run(data, fa=None, directions=None, dwi=pair)['facts']
    values = [facts[name]['value'] for name in ('anisotropy', 'microstructure', 'offset')]
    assert values == pytest.approx(TRUE, rel=0.25)
    said = 'directions of sub-01_dwi.nii.gz, read in the frame fsl (fitted to 24 images), as the field proves'
    assert facts['fibres'] == said
    with pytest.raises(UserError, match='has no directions of fibres beside it'):
        run(data, directions=None)


def test_a_frame_that_is_none_is_refused_before_anything_runs():
    with pytest.raises(UserError, match='--fibres:frame'):
        variants({'frame': 'world'})
    with pytest.raises(UserError, match='--fibres:frame'):
        variants({'frame': 'ignore'})


@pytest.mark.parametrize('times', [(0.02,), (0.005, 0.01, 0.015, 0.02, 0.025), (0.004, 0.02, 0.044)])
def test_a_line_in_the_squared_sine_covers_hollow_cylinders(times):
    """Frequency (ppb) that is fitted over the echoes of fibres whose sheaths have 12 % of the water."""
    sine, times = np.linspace(0, 1, 21), np.array(times)
    signal = beat(np.full(21, 0.12), np.tile(times, (21, 1)), sine, 3.0) * np.exp(-22 * times)
    weight = np.abs(signal) ** 2
    shift = (weight * times * np.angle(signal)).sum(1) / (weight * times**2).sum(1)
    shift *= 1e3 * ppm_per_radian(3.0)
    line = np.polyfit(sine, shift, 1)
    assert -18 < line[0] < -13
    assert np.abs(shift - np.polyval(line, sine)).max() < 0.3


def test_classes_of_angles_hold_their_voxels():
    cosine = np.cos(np.radians(np.array([2.0, 12.0, 12.0, 89.0]))) ** 2
    table = by_angle({'chi': np.array([1.0, 2, 4, 8])}, cosine, np.ones(4, bool))
    assert table['n_voxels'].tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 1]
    assert table['chi'].tolist()[:2] == [1, 3]
    assert table['chi'].isna().sum() == 6
    drawn = plot_angles(table.assign(chi_fibercorrected=0.0, chi_fibercorrected_sd=0.1))
    assert 'angle between fibres and B0' in drawn
