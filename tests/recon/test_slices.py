"""Order of slices, and their offsets of phase."""

import numpy as np
import pytest

from bids_qsm.errors import UserError
from bids_qsm.recon.conditioning import condition
from bids_qsm.recon.phase import wrap
from bids_qsm.recon.slices import BENT, broken_axis, find_bends, find_disorder
from tests.recon.simulated_gre import scan


def _offset(phase, axis, *, each, size=np.pi):
    shape = [1, 1, 1, phase.shape[3] if each else 1]
    shape[axis] = phase.shape[axis]
    return wrap(phase + np.random.default_rng(0).uniform(-size, size, shape).astype(np.float32))


def _permuted(volume, axis):
    return np.take(volume, np.random.default_rng(0).permutation(volume.shape[axis]), axis)


def _interleaved(volume, axis):
    n = volume.shape[axis]
    return np.take(volume, [*range(0, n, 2), *range(1, n, 2)], axis)


def _rolled(volume, axis):
    return np.roll(volume, volume.shape[axis] // 3, axis)


def _finding(findings):
    return next(f for f in findings if f['what'] == 'Slices')


@pytest.mark.parametrize('snr', [70, 10])
def test_slices_in_order(snr):
    s = scan(snr=snr)
    for k in range(4 if snr > 50 else 2):
        assert max(find_bends(s.phase[..., k], s.magnitude[..., k]).bend) < BENT / 2
    assert [find_disorder(s.magnitude[..., 0], s.grid, axis) for axis in range(3)] == [0, 0, 0]
    _, _, findings = condition(s.magnitude, s.phase, s.echo_times, s.grid)
    assert 'In order' in _finding(findings)['found']


@pytest.mark.parametrize('axis', [0, 1, 2])
def test_offsets_that_all_echoes_share_are_removed(axis):
    s = scan()
    _, phase, findings = condition(s.magnitude, _offset(s.phase, axis, each=False), s.echo_times, s.grid)
    assert 'the same in all echoes' in _finding(findings)['found']
    bright = s.magnitude[..., 0] > 0.3
    for k in (1, 2, 3):  # the field is untouched
        moved = np.exp(1j * (phase[..., k] - phase[..., 0] - s.phase[..., k] + s.phase[..., 0]))
        np.testing.assert_allclose(moved[bright], 1, atol=1e-3)
    assert broken_axis(find_bends(phase[..., 0], s.magnitude[..., 0])) == (None, False)


@pytest.mark.parametrize('echoes', [1, 4])
def test_offsets_that_hide_the_field_are_refused_or_said(echoes):
    s = scan()
    data = s.magnitude[..., :echoes], s.echo_times[:echoes], s.grid
    with pytest.raises(UserError, match='second axis has an offset of phase'):
        condition(data[0], _offset(s.phase[..., :echoes], 1, each=True), *data[1:], scaling='radians')
    small = _offset(s.phase[..., :echoes], 1, each=True, size=0.6)
    _, phase, findings = condition(data[0], small, *data[1:], scaling='radians')
    assert _finding(findings)['level'] == 'warning'
    np.testing.assert_allclose(np.exp(1j * phase), np.exp(1j * small), atol=1e-5)


@pytest.mark.parametrize('disorder', [_permuted, _interleaved, _rolled])
@pytest.mark.parametrize('axis', [0, 2])
def test_slices_out_of_order_are_refused(axis, disorder):
    s = scan()
    images = disorder(s.magnitude, axis), disorder(s.phase, axis)
    with pytest.raises(UserError, match=f'{("first", "", "third")[axis]} axis are not in order'):
        condition(*images, s.echo_times, s.grid)


def test_phase_that_is_not_of_the_magnitude_is_refused():
    s = scan()
    with pytest.raises(UserError, match='third axis, unlike the magnitude'):
        condition(s.magnitude, _permuted(s.phase, 2), s.echo_times, s.grid)
    noise = np.random.default_rng(0).uniform(-np.pi, np.pi, s.phase.shape).astype(np.float32)
    with pytest.raises(UserError, match='unrelated along all axes'):
        condition(s.magnitude, noise, s.echo_times, s.grid)
