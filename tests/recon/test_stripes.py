"""Odd and even slices of interleaved acquisitions: what alternates goes, the field stays."""

import numpy as np
import pytest

from bids_qsm.recon.phase import wrap
from bids_qsm.recon.stripes import remove_stripes
from tests.bold_runs import STEP, head


def alternating(shape, constant, varying):
    """Phase (rad) of odd slices, half of it with the other sign in even ones where it varies."""
    odd = np.arange(shape[2]) % 2
    x = np.linspace(-1, 1, shape[0])[:, None, None]
    return constant * odd + varying * x * (odd - 0.5)


def off(signal):
    """Standard deviation of the difference to the true phase in the brain (rad)."""
    turn = (signal * np.conj(head().signal))[head().brain]
    return float(np.std(wrap(np.angle(turn) - np.angle(turn.sum()))))


@pytest.mark.parametrize(('constant', 'varying'), [(0.9, 0.0), (-2.5, 0.3), (np.pi, 0.0), (0.2, 0.8)])
def test_stripes_are_removed(constant, varying):
    signal = head().signal
    signal *= np.exp(1j * alternating(signal.shape, constant, varying))
    found, rest = remove_stripes(signal, (STEP,) * 3)
    assert abs(np.angle(np.exp(1j * (found - constant)))) < 0.05
    assert rest == pytest.approx(np.std(alternating(signal.shape, 0, 2 * varying)), rel=0.5, abs=0.05)
    assert off(signal) < 0.025


def test_an_image_without_stripes_stays():
    signal = head().signal
    constant, varying = remove_stripes(signal, (STEP,) * 3)
    assert abs(constant) < 0.05
    assert varying < 0.05
    assert off(signal) < 0.015
    assert np.allclose(np.abs(signal), head().magnitude, rtol=1e-4)


def test_a_few_slices_are_left_as_they_are():
    signal = head().signal[..., 20:23].copy()
    assert remove_stripes(signal, (STEP,) * 3) == (0, 0)
    assert np.array_equal(signal, head().signal[..., 20:23])
