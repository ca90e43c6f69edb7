"""What the echoes say of one field."""

import numpy as np
import pytest

from bids_qsm.recon.field import linear
from bids_qsm.recon.misfit import DOUBTFUL, HOPELESS, find_misfit
from bids_qsm.recon.phase import wrap
from tests.recon.simulated_gre import FIELD_STRENGTH, scan

NOISE = {70: 0.02, 10: 0.15}


def _misfit(s, phase):
    fit = linear(phase.astype(np.float32), s.magnitude, s.brain, s.echo_times, FIELD_STRENGTH)
    return find_misfit(fit[2], s.magnitude, s.brain)


@pytest.mark.parametrize('snr', NOISE)
def test_noise_is_expected(snr):
    s = scan(snr=snr, with_offset=False)
    measured = s.true_phase + wrap(s.phase - s.true_phase)
    misfit = _misfit(s, measured)
    assert misfit.share < 0.01
    assert misfit.expected == pytest.approx(NOISE[snr], rel=0.4)
    assert misfit.residual == pytest.approx(misfit.expected, rel=0.4)


@pytest.mark.parametrize(
    ('wrong', 'share'),
    [
        (lambda p: p[..., [1, 0, 2, 3]], DOUBTFUL),
        (lambda p: p * np.float32([1, 1, 1, 2]), DOUBTFUL),
        (lambda p: p * np.float32([1, -1, 1, 1]), DOUBTFUL),
        (lambda p: p + np.random.default_rng(0).uniform(-3, 3, (1, 1, 48, 4)), HOPELESS),
    ],
    ids=['echoes swapped', 'one scaled', 'one inverted', 'own offsets'],
)
def test_echoes_that_contradict_each_other(wrong, share):
    s = scan(with_offset=False)
    assert _misfit(s, wrong(s.true_phase)).share > share


def test_a_single_echo_fits_always():
    s = scan()
    assert find_misfit(np.zeros(s.brain.shape, np.float32), s.magnitude[..., :1], s.brain) is None
