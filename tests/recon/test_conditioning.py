from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_qsm.errors import UserError
from bids_qsm.recon.conditioning import condition, find_bipolar, from_real_imaginary
from bids_qsm.recon.slices import step_cosines
from tests.recon.simulated_gre import scan

SHARED = Path(__file__).resolve().parents[2].parent / 'shared' / 'data'


def _distance(a, b, magnitude):
    """Mean distance of two phases where there is signal, modulo 2 pi and a constant an echo."""
    turn = magnitude * np.exp(1j * (a - b))
    return max(np.abs(np.angle(turn[magnitude[..., e] > 0.3][:, e])).mean() for e in range(a.shape[3]))


def _found(findings, what):
    (finding,) = (f for f in findings if f['what'] == what)
    assert all(isinstance(text, str) and text.endswith('.') for text in list(finding.values())[1:4])
    return finding


def _ramp(n, axis, slope, constant):
    line = constant + slope * (np.arange(n) - (n - 1) / 2)
    return line.reshape([-1 if a == axis else 1 for a in range(3)]).astype(np.float32)


def _with_ramp(phase, axis, slope, constant):
    sign = (-1) ** np.arange(phase.shape[3])
    return phase + sign.astype(np.float32) * _ramp(phase.shape[0], axis, slope, constant)[..., None]


def test_clean_data_stay_as_they_are():
    s = scan()
    magnitude, phase, findings = condition(s.magnitude, s.phase, s.echo_times, s.grid)
    np.testing.assert_allclose(phase, s.phase, atol=1e-5)
    np.testing.assert_array_equal(magnitude, s.magnitude)
    assert all(
        'needed' in _found(findings, w)['action'] for w in ('Slice flips', 'Bipolar readout', 'Phase sign')
    )


def test_all_at_once_is_undone():
    """GE-like: sign inverted, alternate slices negated, bipolar, gaps, 12-bit integers."""
    s = scan()
    stored = -_with_ramp(s.phase, 1, 0.02, 0.1)
    stored[:, :, 1::2] += np.pi
    stored = np.round((np.angle(np.exp(1j * stored)) / np.pi + 1) * 2047.5).astype(np.float32)
    stored[:3] = np.nan
    magnitude, phase, findings = condition(s.magnitude, stored, s.echo_times, s.grid)
    assert (magnitude[:3] == 0).all()
    assert (phase[:3] == 0).all()
    assert _distance(phase, s.phase, magnitude) < 0.01
    assert 'third axis is negated' in _found(findings, 'Slice flips')['found']
    assert 'second axis' in _found(findings, 'Bipolar readout')['found']
    assert 'falls with the field' in _found(findings, 'Phase sign')['found']
    assert 'not numbers' in _found(findings, 'Missing values')['found']
    assert '12 bits' in _found(findings, 'Phase scaling')['found']


def _negated(phase, axes):
    place = sum(np.arange(phase.shape[a]).reshape([-1 if b == a else 1 for b in range(3)]) for a in axes)
    return np.angle(np.exp(1j * (phase.T + np.pi * (place % 2).T).T)).astype(np.float32)


@pytest.mark.parametrize('axes', [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_negated_neighbours_are_negated_back(axes):
    s = scan()
    _, phase, findings = condition(s.magnitude, _negated(s.phase, axes), s.echo_times, s.grid)
    assert _distance(phase, s.phase, s.magnitude) < 0.01
    found = _found(findings, 'Slice flips')['found']
    assert ('checkerboard' in found) == (len(axes) > 1)
    along = found.partition('along the ')[2]
    assert [name in along for name in ('first', 'second', 'third')] == [a in axes for a in range(3)]


def test_neighbours_negated_in_one_echo():
    s = scan()
    stored = s.phase.copy()
    stored[..., 1] = _negated(s.phase[..., 1], (0, 1))
    _, phase, findings = condition(s.magnitude, stored, s.echo_times, s.grid)
    assert _distance(phase, s.phase, s.magnitude) < 0.01
    assert 'in some echoes' in _found(findings, 'Slice flips')['found']


def test_steep_phase_through_slices_is_no_flip():
    s = scan()
    phase = s.phase[..., 0] + _ramp(48, 2, 1.2, 0)
    assert min(step_cosines(phase, s.magnitude[..., 0])) > 0


@pytest.mark.parametrize(('axis', 'slope', 'constant'), [(0, 0.02, 0.2), (1, -0.01, 0), (2, 0.15, -0.5)])
def test_bipolar_ramp_is_measured(axis, slope, constant):
    s = scan()
    theta = find_bipolar(_with_ramp(s.phase, axis, slope, constant), s.magnitude, s.echo_times, s.grid)
    assert theta.significant
    assert theta.axis == axis
    assert theta.slope == pytest.approx(slope, abs=2e-4)
    assert theta.constant + theta.slope * 23.5 == pytest.approx(constant, abs=0.01)


@pytest.mark.parametrize(('snr', 'seed'), [(70, 0), (10, 1), (3, 2)])
def test_no_bipolar_ramp_is_found_where_there_is_none(snr, seed):
    s = scan(snr=snr, seed=seed)
    assert not find_bipolar(s.phase, s.magnitude, s.echo_times, s.grid).significant


def test_fat_and_flow_are_not_bipolar():
    s = scan()
    fat = s.brain & (np.arange(48)[:, None, None] > 38)
    flow = s.brain & (np.abs(np.arange(48) - 20)[None, :, None] < 2)
    phase = s.phase.copy()
    for e, time in enumerate(s.echo_times):
        # Half fat, half water: phase that is not linear in TE.
        phase[fat, e] += np.angle(1 + 0.8 * np.exp(-2j * np.pi * 430 * time))
        phase[flow, e] += np.float32(3e3 * time**2)
    assert not find_bipolar(phase, s.magnitude, s.echo_times, s.grid).significant


def test_bipolar_needs_three_even_echoes():
    s = scan()
    two = s.phase[..., :2], s.echo_times[:2], s.grid
    assert find_bipolar(two[0], s.magnitude[..., :2], *two[1:]) is None
    assert find_bipolar(s.phase[..., :3], s.magnitude[..., :3], (0.004, 0.009, 0.019), s.grid) is None
    with pytest.raises(UserError, match='three or more evenly spaced'):
        condition(s.magnitude[..., :2], *two, bipolar='yes', scaling='radians')


def test_manufacturer_decides_where_the_data_cannot():
    s = scan()
    crop = slice(16, 30), slice(16, 30), slice(16, 30)
    data = s.magnitude[crop], s.phase[crop], s.echo_times, s.grid
    _, phase, findings = condition(*data, manufacturer='GE MEDICAL SYSTEMS', scaling='radians')
    np.testing.assert_allclose(phase, -s.phase[crop], atol=1e-5)
    assert 'do not settle it' in _found(findings, 'Phase sign')['evidence']
    _, phase, _ = condition(*data, manufacturer='Siemens', scaling='radians')
    np.testing.assert_allclose(phase, s.phase[crop], atol=1e-5)


def test_choices_override_the_data():
    s = scan()
    choices = {'sign': 'negative', 'slice_flip': 'yes', 'bipolar': 'no'}
    _, phase, findings = condition(s.magnitude, s.phase, s.echo_times, s.grid, **choices)
    axis = int(np.argmin(step_cosines(s.phase[..., 0], s.magnitude[..., 0])))
    expected = s.phase.copy()
    expected[tuple(slice(1, None, 2) if a == axis else slice(None) for a in range(3))] += np.pi
    np.testing.assert_allclose(np.exp(1j * phase), np.exp(-1j * expected), atol=1e-5)
    assert 'negated (set by the user)' in _found(findings, 'Slice flips')['found']
    assert '(set by the user)' in _found(findings, 'Bipolar readout')['found']
    assert 'Set by the user' in _found(findings, 'Phase sign')['evidence']


def test_wrong_images_are_refused():
    s = scan()
    with pytest.raises(UserError, match='magnitude image'):
        condition(s.phase, s.phase, s.echo_times, s.grid)
    with pytest.raises(UserError, match='not look like phase'):
        condition(s.magnitude, s.magnitude, s.echo_times, s.grid)


def test_real_and_imaginary():
    s = scan()
    signal = s.magnitude * np.exp(1j * s.phase)
    magnitude, phase = from_real_imaginary(signal.real, signal.imag)
    np.testing.assert_allclose(magnitude, s.magnitude, rtol=1e-5)
    np.testing.assert_allclose(np.exp(1j * phase), np.exp(1j * s.phase), atol=1e-5)
    with pytest.raises(UserError, match='no negative values'):
        from_real_imaginary(signal.real + 9, signal.imag + 9)


@pytest.mark.skipif(not SHARED.is_dir(), reason='shared data are not at hand')
def test_real_images():
    def data(*parts):
        return np.asarray(nib.load(SHARED.joinpath(*parts)).dataobj, np.float32)

    magnitude, raw = data('gre_crop_3echo', 'Mag.nii'), data('gre_crop_3echo', 'Phase.nii')
    _, phase, findings = condition(magnitude, raw, (0.004, 0.008, 0.012), scan().grid)
    assert np.abs(phase).max() == pytest.approx(np.pi, abs=0.01)
    assert np.ptp(phase - raw * (np.pi / 0.003674)) < 0.01
    assert 'No' in _found(findings, 'Bipolar readout')['found']
    with pytest.raises(UserError, match='phase image'):
        condition(magnitude, magnitude, (0.004, 0.008, 0.012), scan().grid)


def test_a_few_negative_magnitudes_are_left_out():
    """Interpolation leaves some; where there are many, the image is none of a magnitude."""
    s = scan()
    magnitude = s.magnitude.copy()
    magnitude[20, 20, 20, 0] = -0.1
    found, phase, findings = condition(magnitude, s.phase, s.echo_times, s.grid)
    assert found.min() == found[20, 20, 20, 0] == phase[20, 20, 20, 0] == 0
    assert (found != s.magnitude).sum() == 1
    assert 'negative magnitudes' in _found(findings, 'Missing values')['found']
    with pytest.raises(UserError, match='negative values or only zeros'):
        condition(np.where(s.magnitude < 0.05, -0.1, s.magnitude), s.phase, s.echo_times, s.grid)
