import numpy as np
import pytest
from scipy import ndimage

from bids_qsm.biomarkers.partialvolume import recover
from bids_qsm.biomarkers.precision import Correlation
from bids_qsm.recon.grid import Grid

FINE = 5
SHAPE = (30, 26, 20)
TRUTH = {1: 0.12, 2: 0.04, 3: 0.2}
BALLS = {1: ((9.3, 9.1, 9.6), 3.2), 2: ((15.4, 9.3, 9.4), 3.0), 3: ((18.2, 18.4, 10.7), 2.2)}


def scanned(voxel, blur=0.35, outside=(-0.03, 0.0)):
    """Three balls (mm), two of which touch, blurred and sampled at ``voxel``: image and labels.

    What is around them rises by the second number of ``outside`` a millimetre along the first axis.
    """
    points = np.stack(np.meshgrid(*(np.arange(n * FINE) / FINE for n in SHAPE), indexing='ij'), -1)
    chi = outside[0] + outside[1] * points[..., 0]
    owner = np.zeros(chi.shape, np.int16)
    for label, (centre, radius) in BALLS.items():
        owner[np.linalg.norm(points - centre, axis=-1) <= radius] = label
    for label, value in TRUTH.items():
        chi[owner == label] = value
    step = np.rint(np.array(voxel) * FINE).astype(int)
    chi = ndimage.gaussian_filter(chi, blur * FINE)
    chi = ndimage.uniform_filter(chi, step)
    at = tuple(slice(int(s) // 2, None, int(s)) for s in step)
    return chi[at].astype(np.float32), owner[at]


@pytest.mark.parametrize('voxel', [(1, 1, 1), (1, 1, 2), (0.6, 0.6, 0.6)], ids=str)
def test_values_are_freed_of_neighbours_and_surroundings(voxel):
    chi, dseg = scanned(voxel)
    grid = Grid(chi.shape, tuple(map(float, voxel)))
    maps, flat = {'chi': chi}, {'chi': Correlation(1.0, 0.0)}
    found = recover(maps, dseg, [1, 2, 3], np.ones(chi.shape, bool), grid, flat, label_mm=0.35)['chi']
    plain = np.array([chi[dseg == label].mean() for label in TRUTH])
    truth = np.array(list(TRUTH.values()))
    error, before = abs(found.mean - truth), abs(plain - truth)
    assert error.max() < 0.02
    assert error.sum() < 0.5 * before.sum()


def test_surroundings_may_differ_from_side_to_side():
    chi, dseg = scanned((1, 1, 1), outside=(-0.1, 0.01))
    grid, flat = Grid(chi.shape), {'chi': Correlation(1.0, 0.0)}
    found = recover({'chi': chi}, dseg, [1, 2, 3], np.ones(chi.shape, bool), grid, flat, label_mm=0.35)
    assert abs(found['chi'].mean - list(TRUTH.values())).max() < 0.02


def test_covariance_is_that_of_repeated_draws():
    rng = np.random.default_rng(5)
    _, dseg = scanned((1, 1, 1))
    grid, mask = Grid(dseg.shape), np.ones(dseg.shape, bool)
    smooth = 0.8
    kernel = {'chi': Correlation(0.0, 2 * smooth, 2.0)}
    draws, claimed = [], []
    for _ in range(40):
        noise = ndimage.gaussian_filter(rng.standard_normal(dseg.shape), smooth)
        found = recover({'chi': noise}, dseg, [1, 2, 3], mask, grid, kernel)['chi']
        draws.append(found.mean)
        claimed.append(np.sqrt(np.diag(found.covariance)))
    assert np.median(claimed, 0) == pytest.approx(np.std(draws, 0), rel=0.35)


def test_labels_that_are_not_there_are_unknown():
    chi, dseg = scanned((1, 1, 1))
    mask = dseg != 3
    mask[ndimage.binary_dilation(~mask, iterations=4)] = False
    grid, flat = Grid(chi.shape), {'chi': Correlation(1.0, 0.0)}
    found = recover({'chi': chi}, dseg, [1, 2, 3, 7], mask, grid, flat)['chi']
    assert np.isnan(found.mean).tolist() == [False, False, True, True]
    assert all(np.isnan(value) for value in found.combined({1: 5, 7: 5}))
    assert found.combined({1: 5, 2: 0})[0] == pytest.approx(found.mean[0])
    nothing = recover({'chi': chi}, np.zeros_like(dseg), [1], mask, grid, flat)['chi']
    assert np.isnan(nothing.combined({1: 1})).all()


def test_missing_voxels_are_left_out():
    chi, dseg = scanned((1, 1, 1))
    chi[dseg == 2] = np.nan
    chi[::4] = np.nan
    grid, flat = Grid(chi.shape), {'chi': Correlation(1.0, 0.0)}
    found = recover({'chi': chi}, dseg, [1, 2, 3], np.ones(chi.shape, bool), grid, flat, label_mm=0.35)
    assert found['chi'].mean[[0, 2]] == pytest.approx([TRUTH[1], TRUTH[3]], abs=0.03)
