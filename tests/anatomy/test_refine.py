import numpy as np
import pytest

from bids_qsm.anatomy.refine import REFINEMENT
from bids_qsm.anatomy.transform import resample, resample_labels, transform_points
from bids_qsm.errors import UserError
from bids_qsm.recon.registry import call
from tests.anatomy.brains import dice, pose
from tests.anatomy.nuclei import AFFINE, BOX, LABELS, SHAPE, SHIFTS, STAY, dseg, susceptibility

PLAIN = np.random.default_rng(3).random(SHAPE).astype(np.float32)
"""An anatomical image that shows nothing of the nuclei."""


def refine(method, chi, mask=None, affine=AFFINE, chain=(), **params):
    """Refine the place of a susceptibility map whose anatomical image lies on the template."""
    data = {
        'chi': chi,
        'chi_affine': affine,
        'mask': np.ones(chi.shape, bool) if mask is None else mask,
        'chi_chain': list(chain),
        'to_template': [np.linalg.inv(matrix) for matrix in reversed(chain)],
        'image': PLAIN,
        'image_affine': AFFINE,
        'image_chain': [],
        'template': PLAIN,
        'template_affine': AFFINE,
        'template_chi': susceptibility(STAY),
        'template_chi_affine': AFFINE,
        'dseg': dseg(STAY),
        'dseg_affine': AFFINE,
        'labels': LABELS,
        'magnitude': None,
        'r2star': None,
        'field_strength': 3.0,
    }
    return call(REFINEMENT[method], data, {'box': BOX, **params})


def overlaps(shifts, unrefine):
    found = resample_labels(dseg(STAY), AFFINE, SHAPE, AFFINE, [unrefine])
    truth = dseg(shifts)
    return {n: dice(found == n, truth == n) for n in LABELS['index']}


@pytest.mark.parametrize('method', REFINEMENT)
@pytest.mark.parametrize('changes', [{}, {'gain': 2.5}, {'zero': -0.1, 'noise': 0.03}], ids=str)
def test_labels_fit_nuclei_that_lie_elsewhere(method, changes):
    found = refine(method, susceptibility(SHIFTS, **{'noise': 0.015} | changes))
    refined, unrefine, findings = found.refine, found.unrefine, found.findings
    assert min(overlaps(SHIFTS, unrefine).values()) > 0.75
    points = np.array([[-20.0, 0, 0], [10, -12, -6]])
    there = transform_points(points, [refined])
    np.testing.assert_allclose(transform_points(there, [unrefine]), points, atol=0.2)
    assert 'GP L' in findings[0]['found']
    assert findings[0]['level'] == 'info'


@pytest.mark.parametrize('method', REFINEMENT)
def test_nuclei_that_are_in_place_stay(method):
    found = refine(method, susceptibility(STAY, noise=0.015, seed=4))
    refined, unrefine = found.refine, found.unrefine
    assert np.abs(refined.field).max() < 0.5
    assert min(overlaps(STAY, unrefine).values()) > 0.85


@pytest.mark.parametrize('method', REFINEMENT)
def test_a_tilted_slab_moves_what_it_holds(method):
    tilt = pose((20, 5, -4), (2, -3, 1))
    grid = AFFINE.copy()
    grid[:3, 3] += (0, 0, 4)
    shape = (*SHAPE[:2], 26)
    inverse = np.linalg.inv(tilt)
    chi = resample(susceptibility(SHIFTS, noise=0.015), AFFINE, shape, tilt @ grid, [inverse])
    mask = resample(np.ones(SHAPE, np.float32), AFFINE, shape, tilt @ grid, [inverse]) > 0.99
    unrefine = refine(method, chi, mask, tilt @ grid, [tilt]).unrefine
    found = overlaps(SHIFTS, unrefine)
    held = LABELS.loc[LABELS['region'].isin(['SNr', 'STN']), 'index']
    assert min(found[n] for n in held) > 0.7


@pytest.mark.parametrize('method', REFINEMENT)
@pytest.mark.parametrize('what', ['noise', 'outside'])
def test_a_map_that_shows_nothing_moves_nothing_far(method, what):
    chi = np.random.default_rng(1).normal(0, 0.02, SHAPE).astype(np.float32)
    mask = np.full(SHAPE, what == 'noise')
    found = refine(method, chi, mask)
    refined, unrefine, findings = found.refine, found.unrefine, found.findings
    assert np.abs(refined.field).max() < 0.5
    assert np.abs(unrefine.field).max() < 0.5
    assert findings[-1]['level'] == 'warning'


@pytest.mark.parametrize('params', [{'misplaced_mm': 0}, {'gain_sd': -1.0}])
def test_spreads_must_be_above_zero(params):
    with pytest.raises(UserError, match=f'{next(iter(params))}=.*must be above 0'):
        refine('hybrid', susceptibility(STAY), **params)


@pytest.mark.parametrize('method', REFINEMENT)
def test_two_runs_agree_bit_for_bit(method):
    chi = susceptibility(SHIFTS, noise=0.02)
    first, second = (refine(method, chi).refine.field for _ in range(2))
    np.testing.assert_array_equal(first, second)
