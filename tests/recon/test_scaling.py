import numpy as np
import pytest

from bids_qsm.errors import UserError
from bids_qsm.recon.scaling import phase_to_radians
from tests.recon.simulated_gre import scan


def _difference(a, b):
    return np.abs(np.angle(np.exp(1j * (a - b)))).max()


def _steps(p, size, step):
    """Phase from -size to size in steps of ``step``."""
    return np.round(p / np.pi * size / step) * step


ENCODINGS = {
    'radians': (lambda p: p, 2 * np.pi),
    'radians from 0': (lambda p: p % (2 * np.pi), 2 * np.pi),
    'degrees': (np.degrees, 360),
    'milliradians': (lambda p: np.trunc(1000 * p), 2000 * np.pi),
    '-31416 to 31416': (lambda p: np.round(10000 * p), 20000 * np.pi),
    '12 bits from 0': (lambda p: np.floor((p / np.pi + 1) * 2048).clip(0, 4095), 4096),
    '0 to 4095': (lambda p: np.round((p / np.pi + 1) / 2 * 4095), 4096),
    'even 13 bits': (lambda p: 2 * np.floor(p / np.pi * 2048).clip(-2048, 2047), 8192),
    '-4096 to 4096': (lambda p: _steps(p, 4096, 1), 8192),
    'Philips floats': (lambda p: p * 0.003674 / np.pi, 0.007348),
    '-500 to 500 by 4': (lambda p: _steps(p, 500, 4), 1000),
    '-1000 to 1000': (lambda p: _steps(p, 1000, 1), 2000),
    '-2000 to 2000': (lambda p: _steps(p, 2000, 1), 4000),
    '0 to 1000': (lambda p: 500 + _steps(p, 500, 1), 1000),
    '0 to 4000': (lambda p: 2000 + _steps(p, 2000, 1), 4000),
    '-1 to 1': (lambda p: p / np.pi, 2),
}


def _turn(note):
    """The full turn that a note names."""
    return (
        2 * np.pi if 'in radians' in note else float(note.split('a full turn is ')[1].split()[0].strip('.'))
    )


def _ramps():
    """Smooth phase of three dimensions, of several turns."""
    x, y, z = np.meshgrid(*(np.arange(n) / n for n in (24, 20, 22)), indexing='ij', sparse=True)
    return (7 * x + 5 * y**2 - 6 * z * x + 2 * np.sin(4 * y * z))[..., None]


@pytest.fixture(scope='module')
def smooth():
    """Phase that wraps, without noise: a crop of tissue."""
    return (_ramps() + np.pi) % (2 * np.pi) - np.pi


@pytest.mark.parametrize('name', ENCODINGS)
@pytest.mark.parametrize('kind', ['noise', 'masked', 'crop', 'outliers'])
def test_every_encoding_is_recognised(name, kind, smooth):
    phase = smooth if kind == 'crop' else scan().phase[..., ::3]
    encode, turn = ENCODINGS[name]
    raw, inside = encode(phase).astype(np.float32), np.ones(phase.shape, bool)
    if kind == 'masked':
        inside = np.broadcast_to(scan().brain[..., None], phase.shape)
        raw = np.where(inside, raw, 0)
    elif kind == 'outliers':
        chance = np.random.default_rng(0).random(phase.shape)
        raw[chance < 3e-4], raw[chance > 1 - 3e-4] = 32767, -20 * turn
        inside = (chance >= 3e-4) & (chance <= 1 - 3e-4)
    radians, note = phase_to_radians(raw)
    assert radians.dtype == np.float32
    assert np.abs(radians).max() <= np.pi + 1e-4
    assert note.startswith('The phase is')
    assert _turn(note) == pytest.approx(turn, rel=2e-3)
    assert _difference(radians[inside], phase[inside]) < 0.03


def test_slope_and_intercept_of_integers(smooth):
    """Integers that a header turns into other numbers are scaled like any others."""
    stored = np.floor((smooth / np.pi + 1) * 2048).clip(0, 4095)
    for slope, intercept in ((2, -4096), (0.0015340, -3.14159), (0.5, 100)):
        radians, note = phase_to_radians((stored * slope + intercept).astype(np.float32))
        assert _turn(note) == pytest.approx(4096 * slope, rel=2e-2 if slope == 0.5 else 2e-3)
        assert _difference(radians, smooth) < (0.1 if slope == 0.5 else 0.01)


def test_wraps_win_over_the_range_of_the_values(smooth):
    """An offset that is added without wrapping again moves the values, but not the height of wraps."""
    raw = smooth * 500 / np.pi + np.linspace(0, 600, smooth.shape[1])[None, :, None, None]
    radians, note = phase_to_radians(np.round(raw).astype(np.float32))
    assert 'which was taken' in note
    assert _turn(note) == pytest.approx(1000, rel=0.01)
    rest = np.angle(np.exp(1j * (radians - raw * np.pi / 500)))
    assert np.ptp(np.angle(np.exp(1j * rest) / np.exp(1j * rest).mean())) < 0.1


def test_scales_that_differ_between_echoes(smooth):
    both = np.concatenate([smooth * 1000, (smooth + np.pi) * 2048 / np.pi], axis=3).astype(np.float32)
    radians, note = phase_to_radians(both)
    assert 'Images differ in scale: volume 1' in note
    assert _difference(radians, smooth) < 0.01


def test_an_empty_image_beside_others_and_one_without_wraps(smooth):
    raw = np.concatenate([0 * smooth, smooth, _ramps() / 9], axis=3) * 2000 / np.pi
    radians, note = phase_to_radians(raw.astype(np.float32))
    assert _turn(note) == pytest.approx(4000, rel=2e-2)
    assert _difference(radians[..., 2:], _ramps() / 9) < 0.01


@pytest.mark.parametrize('size', [500, 2000, 4096, 1, 0.003674])
def test_without_wraps_the_scale_is_asked_for(size):
    with pytest.raises(UserError, match=r'no wraps of one height.*state its scaling with --phase-scaling'):
        phase_to_radians((_ramps() / 9 / np.pi * size).astype(np.float32))


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
    'uniform object': lambda s: np.where(s.brain, 1000.0, 0)[..., None] + np.round(5 * s.magnitude),
    'unwrapped phase': lambda s: s.true_phase,
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
    unwrapped = scan().true_phase
    assert _difference(phase_to_radians(unwrapped, scaling='radians')[0], unwrapped) < 1e-4
    with pytest.raises(UserError, match="give 'auto', 'radians'"):
        phase_to_radians(raw, scaling='12bit')
