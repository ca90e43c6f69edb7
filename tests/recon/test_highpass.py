"""High-pass filtered phase."""

import numpy as np
import pytest

from bids_qsm.errors import UserError
from bids_qsm.recon.conditioning import condition
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.highpass import find_spread
from bids_qsm.recon.units import ppm_per_radian
from tests.recon.simulated_gre import FIELD_STRENGTH, scan


def _homodyne(s, width, axes=(0, 1)):
    """Divide the images by copies that a Hann window of ``width`` (cycles/m) has filtered in two axes."""
    signal = s.magnitude * np.exp(1j * s.phase)
    spectrum = np.fft.fftn(signal, axes=axes)
    for axis in axes:
        k = np.abs(np.fft.fftfreq(signal.shape[axis], s.grid.voxel_size[axis] / 1000)) / width
        window = np.where(k < 1, 0.5 + 0.5 * np.cos(np.pi * np.minimum(k, 1)), 0)
        spectrum *= window.reshape([-1 if a == axis else 1 for a in range(4)])
    low = np.fft.ifftn(spectrum, axes=axes)
    return np.angle(signal * np.conj(low)).astype(np.float32)


@pytest.mark.parametrize('echoes', [slice(0, 4), slice(3, 4)])
@pytest.mark.parametrize(('width', 'axes'), [(100, (0, 1)), (125, (0, 1)), (125, (0, 2)), (200, (1, 2))])
def test_filtered_phase_is_refused(width, axes, echoes):
    s = scan()
    data = s.magnitude[..., echoes], _homodyne(s, width, axes)[..., echoes], s.echo_times[echoes], s.grid
    given = {'field_strength': FIELD_STRENGTH, 'scaling': 'radians', 'sign': 'positive'}
    with pytest.raises(UserError, match='high-pass filtered') as error:
        condition(*data, **given)
    assert '--filtered-phase accept' in str(error.value)
    _, _, findings = condition(*data, **given, filtered='accept')
    (finding,) = (f for f in findings if f['what'] == 'High-pass filter')
    assert finding['level'] == 'warning'


@pytest.mark.parametrize('scaled', [0.5, 1, 3])
def test_heads_that_were_not_filtered(scaled):
    """Also where all is shimmed that second order can, so that the shape of the head decides."""
    s = scan()
    phase = np.angle(np.exp(1j * scaled * s.true_phase)).astype(np.float32)
    given = {'field_strength': FIELD_STRENGTH, 'scaling': 'radians'}
    _, _, findings = condition(s.magnitude, phase, s.echo_times, s.grid, **given)
    (finding,) = (f for f in findings if f['what'] == 'High-pass filter')
    assert 'not high-pass filtered' in finding['found']


def _ball(snr, shim):
    """A water sphere in the field that a good shim leaves (ppm at the rim)."""
    n = 48
    x = np.meshgrid(*[np.linspace(-1, 1, n)] * 3, indexing='ij')
    inside = sum(c**2 for c in x) < 0.7
    field = shim * (x[0] * x[1] * x[2] * 3 + x[2] * (2 * x[2] ** 2 - 3 * x[0] ** 2 - 3 * x[1] ** 2))
    times, rng = (0.004, 0.012), np.random.default_rng(0)
    signal = np.stack([inside * np.exp(1j * field * t / ppm_per_radian(3.0)) for t in times], -1)
    signal = signal + (rng.standard_normal(signal.shape) + 1j * rng.standard_normal(signal.shape)) / snr
    return np.abs(signal), np.angle(signal), times, Grid((n,) * 3, (4.0,) * 3, (0.0, 0.0, 1.0))


@pytest.mark.parametrize('snr', [30, 200])
@pytest.mark.parametrize('shim', [0.1, 0.5])
def test_water_spheres_do_not_look_filtered(snr, shim):
    magnitude, phase, times, grid = _ball(snr, shim)
    assert not find_spread(phase, magnitude, times, grid, 3.0).is_filtered


def test_crops_are_not_judged_unless_the_sidecar_says_so():
    s = scan()
    crop = slice(16, 30), slice(16, 30), slice(16, 30)
    data = s.magnitude[crop], s.phase[crop], s.echo_times, s.grid
    given = {'field_strength': FIELD_STRENGTH, 'scaling': 'radians'}
    assert find_spread(data[1], data[0], *data[2:], FIELD_STRENGTH) is None
    *_, findings = condition(*data, **given)
    (finding,) = (f for f in findings if f['what'] == 'High-pass filter')
    assert 'could not be judged' in finding['found']
    with pytest.raises(UserError, match=r'may have been high-pass filtered.* for a filter: ImageType SWI'):
        condition(*data, **given, said='ImageType SWI')
    # a whole head decides by itself
    condition(s.magnitude, s.phase, s.echo_times, s.grid, **given, said='ImageType SWI')
