"""The mean of the frames of a run, against the truth and against a plain average."""

import numpy as np
import pytest

from bids_qsm.anatomy.frames import mean_of_frames
from bids_qsm.errors import UserError
from bids_qsm.recon.phase import wrap
from tests.bold_runs import FRAMES, ODD_SLICES, frame, head

SIEMENS = 4096 / np.pi


def read(t):
    """A frame as a scanner stores it, with NaN outside the object."""
    magnitude, phase = frame(t)
    phase = np.round(SIEMENS * phase)
    phase[0, 0, 0] = np.nan
    return [magnitude], [phase]


@pytest.fixture(scope='module')
def mean():
    magnitude, phase, findings = mean_of_frames(read, FRAMES, head().affine)
    return magnitude, phase, {one['what']: one for one in findings}


def fit(phase):
    """Root mean square difference to the true phase in the brain (rad), without the mean."""
    turn = (np.exp(1j * phase) * np.conj(head().signal))[head().brain]
    return float(np.sqrt(np.mean(wrap(np.angle(turn) - np.angle(turn.sum())) ** 2)))


def test_the_mean_is_the_truth_where_a_plain_average_is_not(mean):
    magnitude, phase, _ = mean
    signals = [np.multiply(frame(t)[0], np.exp(1j * frame(t)[1])) for t in range(FRAMES)]
    assert magnitude.shape == phase.shape == (*head().grid.shape, 1)
    assert fit(np.angle(np.mean(signals, 0))) > 0.5
    assert fit(frame(0)[1]) > 0.4
    assert fit(phase[..., 0]) < 0.15
    brain = head().brain
    assert np.corrcoef(magnitude[brain, 0], head().magnitude[brain])[0, 1] > 0.97


def test_bad_frames_are_left_out_and_said(mean):
    _, _, findings = mean
    assert findings['Frames']['found'].startswith('6 of 8 frames are alike. Farther than 2.0 mm')
    assert findings['Frames']['found'].endswith('from the reference: 1; others unlike it: 1.')
    assert 'level' not in findings['Frames']
    assert '8192' in findings['Phase scaling']['found']
    stripes = findings['Odd and even slices']['found']
    assert float(stripes.partition('echo: ')[2].partition(' ')[0]) == pytest.approx(ODD_SLICES, abs=0.1)


def test_most_frames_moved_is_a_warning():
    def shifted(t):
        return [np.roll(image, 2 * t, axis=1) for (image,) in read(0)]

    *_, findings = mean_of_frames(lambda t: tuple([image] for image in shifted(t)), 3, head().affine)
    assert findings[1]['found'].startswith('1 of 3 frames are alike. Farther')
    assert findings[1]['level'] == 'warning'


def test_a_magnitude_of_zeros_is_refused():
    with pytest.raises(UserError, match='0 everywhere'):
        mean_of_frames(lambda t: ([0 * frame(0)[0]], [frame(t)[1]]), 2, head().affine)


def test_echoes_are_averaged_each_by_itself():
    # the phase of the second echo runs the other way
    def both(t):
        (magnitude,), (phase,) = read(t)
        return [magnitude, 0.5 * magnitude], [phase, -phase]

    magnitude, phase, findings = mean_of_frames(both, 3, head().affine)
    assert phase.shape == (*head().grid.shape, 2)
    assert fit(phase[..., 0]) < 0.25
    assert fit(-phase[..., 1]) < 0.25
    assert np.median(magnitude[head().brain, 1] / magnitude[head().brain, 0]) == pytest.approx(0.5, rel=0.01)
    assert findings[2]['found'].count(' and ') == 3
