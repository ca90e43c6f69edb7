"""The benchmark of the consensus checks spoils what each check is meant for."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bids_qsm.biomarkers.consensus import CHECKS

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


@pytest.fixture(scope='module')
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        import checks

        yield checks
    sys.modules.pop('checks', None)


@pytest.fixture
def scan(bench):
    """Noise of a few voxels, with what a compliant scan states."""
    rng = np.random.default_rng(0)
    protocol = bench.Protocol((3.0, 3.0, 3.0), phase_format='siemens')
    times, repetition, flip = bench.ECHOES[3.0]
    sidecar = {
        **bench.SIDECAR,
        'RepetitionTime': repetition,
        'FlipAngle': flip,
        'PixelBandwidth': 210,
        'SliceThickness': 1,
        'SpacingBetweenSlices': 1,
    }
    signal = rng.standard_normal((2, 16, 18, 20, len(times)))
    phase = np.angle(signal[0] + 1j * signal[1])
    of_images = (
        (1000 * np.hypot(*signal)).astype(np.float32),
        bench.store_phase(phase, 'siemens').astype(np.float32),
    )
    voxel = (1.0, 1.0, 1.0)
    return bench.Scan(*of_images, times, np.eye(4), protocol, sidecar, dict(bench.METHODS), voxel)


def test_what_is_stated_wrong_is_found(bench, scan):
    right = bench.check(scan, {})[0].set_index('check')['state']
    for fault, (meant, spoil) in bench.STATED.items():
        assert right[meant] == ('pass' if meant != 'slab' else 'fail'), meant
        table = bench.check(spoil(scan), {})[0].set_index('check')
        assert table.loc[meant, 'state'] in ('warn', 'fail'), fault


def test_every_check_of_images_has_a_fault(bench):
    meant = {check for check, _ in (*bench.STATED.values(), *bench.IMAGED.values())}
    assert meant < set(CHECKS)
    # these follow from others, or need a mask or a head
    never = {'field_strength', 'phase_sign', 'brain_coverage', 'echo_combination'}
    assert set(CHECKS) - meant == never


def test_images_are_stored_as_they_were(bench, scan):
    again = scan.with_signal(scan.signal)
    away = np.angle(np.exp(1j * (again.phase - scan.phase) * np.pi / 4096))
    assert np.abs(away).max() < 0.002
    spoilt = bench.bipolar(scan)
    turn = np.angle(np.exp(1j * (spoilt.phase - again.phase) * np.pi / 4096))
    middle = turn[:, 9:10]
    assert middle[..., 0].mean() == pytest.approx(0.3, abs=0.02)
    assert middle[..., 1].mean() == pytest.approx(-0.3, abs=0.02)


def test_the_report(bench):
    faults = pd.DataFrame({'check': ['snr', 'snr'], 'found': [True, False]})
    right = pd.DataFrame({'check': ['snr'] * 4, 'state': ['pass', 'pass', 'warn', 'unknown']})
    row = bench.report(faults, right).set_index('check').loc['snr']
    assert (row['sensitivity'], row['warned'], row['compliant']) == (0.5, 1, 3)
    assert row['specificity'] == pytest.approx(2 / 3)
