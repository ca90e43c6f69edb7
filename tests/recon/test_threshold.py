import numpy as np
import pytest

from bids_qsm.recon.threshold import otsu


def test_otsu_of_two_gaussians():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 4000), rng.normal(8, 1, 2000)])
    assert 3 < otsu(values) < 5


def test_otsu_takes_the_middle_of_a_gap():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(1, 0.1, 500), rng.normal(5, 0.3, 300)])
    assert otsu(values) == pytest.approx((values[:500].max() + values[500:].min()) / 2, abs=0.03)


def test_otsu_of_equal_values():
    assert otsu(np.full(5, 3.0)) == 3
