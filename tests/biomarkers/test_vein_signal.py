import numpy as np
import pandas as pd
import pytest

from bids_qsm.biomarkers.vein_signal import (
    components,
    cosines,
    drifts,
    drop,
    explained,
    gather,
    largest_correlation,
    mean_frame,
    ratio_of_snr,
    regressors,
    responses,
    temporal_snr,
)

FRAMES, TR = 120, 2.0


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_cosines_are_those_of_a_high_pass_at_128_s():
    basis = cosines(FRAMES, TR)
    assert basis.shape == (FRAMES, 3)
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(basis.sum(0), 0, atol=1e-12)


def test_components_find_the_common_signal_and_its_share(rng):
    """Signals of variance 0.6 and 0.1 in noise of 0.3: the first alone has half of all."""
    signals = np.linalg.qr(rng.standard_normal((FRAMES, 2)))[0] * np.sqrt(FRAMES)
    noise = rng.standard_normal((FRAMES, 400)) * np.sqrt(0.3)
    series = signals[:, :1] * np.sqrt(0.6) + signals[:, 1:] * np.sqrt(0.1) * rng.choice([-1, 1], 400) + noise
    found, facts = components(drop(series, np.zeros((FRAMES, 0))))
    assert found.shape == (FRAMES, 1)
    assert facts['explained'][0] == pytest.approx(0.6, abs=0.06)
    # its sign is that of most voxels
    assert np.corrcoef(found[:, 0], signals[:, 0])[0, 1] > 0.99
    found, facts = components(drop(series, np.zeros((FRAMES, 0))), share=0.99)
    assert found.shape == (FRAMES, 5)
    assert facts['cumulative'].is_monotonic_increasing


def test_the_table_has_a_row_a_frame_and_nothing_missing_but_the_first_derivative(rng):
    series = 100 + rng.standard_normal((FRAMES, 60)).astype(np.float32)
    veins, sinuses = np.arange(60) < 30, np.arange(60) < 12
    confounds = pd.DataFrame({'non_steady_state_outlier00': np.arange(FRAMES) < 1})
    basis, given = drifts(confounds, FRAMES, TR)
    assert not given
    assert (basis[0] == 0).all()
    assert basis.shape == (FRAMES, 3)
    table, about = regressors(series, veins, sinuses, basis, skip=1)
    names = [f'vein_comp_cor_{n:02d}' for n in range(5)]
    assert [*table] == ['vein_mean', 'vein_mean_derivative1', 'sinus_mean', *names]
    assert len(table) == FRAMES
    assert np.argwhere(table.isna().to_numpy()).tolist() == [[0, 1]]
    assert (table[names].iloc[0] == 0).all()
    np.testing.assert_allclose(table['vein_mean'], series[:, :30].mean(1), rtol=1e-6)
    np.testing.assert_allclose(basis.T @ table[names], 0, atol=1e-5)
    fields = {
        'Method',
        'Mask',
        'SingularValue',
        'VarianceExplained',
        'CumulativeVarianceExplained',
        'Retained',
    }
    assert all(set(about[name]) == fields for name in names)
    assert set(about) == set(table)


def test_too_few_voxels_give_no_regressors(rng):
    series = rng.standard_normal((FRAMES, 60)).astype(np.float32)
    table, about = regressors(series, np.arange(60) < 9, np.zeros(60, bool), cosines(FRAMES, TR))
    assert table.shape == (FRAMES, 0)
    assert about == {}


def test_the_cosines_of_fmriprep_are_taken_where_they_are():
    confounds = pd.DataFrame({'cosine00': np.r_[np.nan, np.ones(9)], 'csf': np.ones(10)})
    basis, given = drifts(confounds, 10, TR)
    assert given
    assert basis.shape == (10, 1)
    assert basis[0, 0] == 0


def test_regressors_of_noise_explain_nothing_and_the_signal_its_share(rng):
    basis = cosines(FRAMES, TR)
    signal = rng.standard_normal((FRAMES, 1))
    series = rng.standard_normal((FRAMES, 3000)).astype(np.float32) + 200 * basis[:, :1]
    noise = explained(series, rng.standard_normal((FRAMES, 5)), basis)
    assert noise.mean() == pytest.approx(0, abs=0.003)
    found = explained((series + signal).astype(np.float32), signal, basis)
    assert found.mean() == pytest.approx(0.5, abs=0.03)
    assert explained(np.ones((FRAMES, 1), np.float32), signal, basis).tolist() == [0]


def test_snr_is_that_without_drifts(rng):
    basis = cosines(FRAMES, TR)
    series = 100 + rng.standard_normal((FRAMES, 500)).astype(np.float32) + 300 * basis[:, :1]
    assert np.median(temporal_snr(series, basis)) == pytest.approx(100, rel=0.05)
    noisy = np.concatenate([series, 2 * series - 100], 1)
    first = np.arange(1000) < 500
    assert ratio_of_snr(noisy, first, ~first, basis) == pytest.approx(2, rel=0.03)
    assert np.isnan(ratio_of_snr(noisy, first & ~first, ~first, basis))


def test_the_response_to_a_block_peaks_after_it():
    events = pd.DataFrame({'onset': [20.0, 100.0], 'duration': 10.0, 'trial_type': ['a', 'b']})
    found = responses(events, FRAMES, TR)
    assert [*found] == ['a', 'b']
    assert found['a'].idxmax() * TR == pytest.approx(33, abs=3)
    # frames that stand for a later time see the response earlier
    assert responses(events, FRAMES, TR, start=6.0)['a'].idxmax() < found['a'].idxmax()
    assert [*responses(events.drop(columns='trial_type'), FRAMES, TR)] == ['task']


def test_an_event_without_a_duration_is_a_short_one():
    """BIDS allows n/a as a duration; a table of such events has a response all the same, also with NA."""
    found = responses(pd.DataFrame({'onset': [20.0, np.nan], 'duration': np.nan}), FRAMES, TR)
    assert found['task'].idxmax() * TR == pytest.approx(26, abs=2)
    as_text = pd.DataFrame({'onset': ['20', 'NA'], 'duration': ['NA', 'NA']})
    pd.testing.assert_frame_equal(responses(as_text, FRAMES, TR), found)
    assert responses(pd.DataFrame({'onset': [np.nan], 'duration': 1.0}), FRAMES, TR).shape == (FRAMES, 0)


def test_the_largest_correlation_is_beyond_drifts(rng):
    basis = cosines(FRAMES, TR)
    first = rng.standard_normal((FRAMES, 2))
    second = -first[:, 1:] + 0.1 * rng.standard_normal((FRAMES, 1)) + 50 * basis[:, :1]
    assert largest_correlation(first, second, basis) == pytest.approx(1, abs=0.02)
    assert largest_correlation(basis, second, basis) < 0.5
    assert np.isnan(largest_correlation(first[:, :0], second, basis))
    assert np.isnan(largest_correlation(first, np.zeros((FRAMES, 1)), basis))


def test_frames_are_read_one_by_one():
    frames = [np.full((2, 2, 1), float(n)) for n in range(4)]
    frames[3][0, 0, 0] = np.nan
    where = np.array([[[True], [False]], [[False], [True]]])
    assert gather(frames, where).tolist() == [[0, 0], [1, 1], [2, 2], [0, 3]]
    assert mean_frame(frames[:3], skip=1)[0, 0, 0] == 1.5
