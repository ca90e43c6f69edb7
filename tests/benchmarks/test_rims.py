"""The benchmark of rims counts right."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bids_qsm.biomarkers.rim_table import UNSEEN
from bids_qsm.phantom.rim_box import make_box
from bids_qsm.phantom.rims import RimLesion

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


@pytest.fixture
def rims(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import rims

    return rims


def test_precision_is_that_of_rare_rims(rims):
    is_rim = np.array([True, False, True, False])
    assert rims.pr_auc(is_rim, np.array([4.0, 1, 3, 2])) == pytest.approx(1)
    # of all called at once, 3 % are rims
    assert rims.pr_auc(is_rim, np.zeros(4)) == pytest.approx(0.03)
    one_false = rims.pr_auc(is_rim, np.array([4.0, 3.5, 3, 2]))
    assert 0.5 < one_false < 0.6


def test_a_summary_counts_false_ones_a_scan(rims):
    rows = pd.DataFrame(
        {
            'is_rim': [True, False, False, True],
            'reason': ['', '', '', 'too small'],
            'grade': ['definite', 'probable', 'no', None],
            'score': [2.0, 1.0, 0.0, -1.0],
            'dice': [0.7, np.nan, np.nan, np.nan],
            'ratio': [1.1, np.nan, np.nan, np.nan],
        }
    )
    found = rims.summary(rows)
    assert (found['lesions'], found['rims'], found['assessed']) == (4, 2, '0.75')
    assert (found['false'], found['found'], found['dice']) == ('14.55', '1.00', '0.70')


def test_a_lesion_in_too_much_noise_is_scored_as_not_assessed(rims):
    lesions = (RimLesion((-8.2, 0.3, 0.1), 4.5, 0.01, 0.06), RimLesion((8.7, 0.2, -0.4), 3.5, 0.05))
    box = make_box(2, shape=(36, 26, 26), lesions=lesions, factor=2)
    noise = np.random.default_rng(3).normal(0, 0.045, box.chi.shape).astype(np.float32)
    assert (rims.score(box, noise, 'tkd')['reason'] == UNSEEN).all()
