import numpy as np
import pytest

from bids_qsm.errors import UserError
from bids_qsm.recon.scaling import phase_to_radians
from tests.recon.simulated_gre import scan


def _difference(a, b):
    return np.abs(np.angle(np.exp(1j * (a - b)))).max()


ENCODINGS = {
    'radians': (lambda p: p, 1e-4),
    'radians from 0': (lambda p: p % (2 * np.pi), 1e-4),
    'degrees': (lambda p: np.degrees(p), 1e-3),
    'milliradians': (lambda p: np.trunc(1000 * p), 2e-3),
    '12 bits from 0': (lambda p: np.floor((p / np.pi + 1) * 2048).clip(0, 4095), 2e-3),
    'even 13 bits': (lambda p: 2 * np.floor(p / np.pi * 2048).clip(-2048, 2047), 2e-3),
    'Philips floats': (lambda p: p * 0.003674 / np.pi, 1e-2),
}


@pytest.mark.parametrize('name', ENCODINGS)
def test_every_encoding_is_recognised(name):
    phase = scan().phase
    encode, tolerance = ENCODINGS[name]
    radians, note = phase_to_radians(encode(phase).astype(np.float32))
    assert radians.dtype == np.float32
    assert np.abs(radians).max() <= np.pi + 1e-4
    assert _difference(radians, phase) < tolerance
    assert note.startswith('The phase is')


@pytest.mark.parametrize('name', ['12 bits from 0', 'even 13 bits', 'Philips floats'])
def test_a_single_echo_crop_that_does_not_fill_the_range(name):
    phase = scan().phase[14:34, 14:34, 14:34, 3:]
    phase = phase[..., :][np.abs(phase) < 3.05].reshape(-1)[:7000].reshape(20, 14, 25, 1)
    encode, tolerance = ENCODINGS[name]
    radians, _ = phase_to_radians(encode(phase).astype(np.float32))
    # A range that has no name is known only from its ends, 3 % short here.
    assert _difference(radians, phase) < (0.1 if name == 'Philips floats' else tolerance)


def test_masked_background_does_not_count():
    inside = scan().brain[..., None]
    phase = scan().phase
    raw = np.where(inside, np.floor((phase / np.pi + 1) * 2048).clip(0, 4095), 0).astype(np.float32)
    radians, _ = phase_to_radians(raw)
    assert _difference(radians[scan().brain], phase[scan().brain]) < 2e-3


def test_not_a_number_becomes_zero():
    raw = np.where(scan().brain[..., None], scan().phase, np.nan)
    radians, _ = phase_to_radians(raw)
    assert np.isfinite(radians).all()
    assert _difference(radians[scan().brain], scan().phase[scan().brain]) < 1e-4


def test_radians_without_a_wrap():
    smooth = np.linspace(-1.1, 0.7, 8000, dtype=np.float32).reshape(20, 20, 20, 1)
    np.testing.assert_array_equal(phase_to_radians(smooth)[0], smooth)


NOT_PHASE = {
    'constant': lambda s: np.full_like(s.phase, 7),
    'magnitude': lambda s: np.round(s.magnitude * 3000),
    'scaled magnitude': lambda s: s.magnitude / s.magnitude.max(),
    'field map': lambda s: s.field[..., None] * 42,
    'real part': lambda s: np.round(1000 * s.magnitude * np.cos(s.phase)),
}


@pytest.mark.parametrize('name', NOT_PHASE)
def test_what_is_not_phase_is_refused(name):
    with pytest.raises(UserError, match='phase image'):
        phase_to_radians(NOT_PHASE[name](scan()))


def test_scaling_can_be_told():
    raw = np.float32([[[[0, 1024, 3072]]]])
    np.testing.assert_allclose(phase_to_radians(raw, scaling='0,4096')[0].ravel() / np.pi, [-1, -0.5, 0.5])
    np.testing.assert_allclose(phase_to_radians(raw[..., :1] + 90, scaling='degrees')[0].ravel(), np.pi / 2)
    with pytest.raises(UserError, match="give 'auto', 'radians'"):
        phase_to_radians(raw, scaling='12bit')
