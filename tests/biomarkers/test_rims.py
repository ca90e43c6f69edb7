import numpy as np
import pytest

from bids_qsm.biomarkers.rim_contrast import contrast_by_chance
from bids_qsm.biomarkers.rim_profiles import BINS, directions, frame_of
from bids_qsm.biomarkers.rim_response import rim_response
from bids_qsm.biomarkers.rims import HIDDEN, LOST, OUTSIDE, SMALL, Missed, measure_rims, surroundings
from bids_qsm.phantom.rim_box import make_box
from bids_qsm.phantom.rims import RimLesion
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion import INVERSION

LESIONS = (
    RimLesion((-10.2, 0.3, 0.1), 5.0, 0.01, 0.06, thickness=1.5),
    RimLesion((9.7, 0.2, -0.4), 5.5, 0.05),
    RimLesion((0.1, 14.2, 0.3), 1.2, 0.0, 0.06),
    RimLesion((0.0, -15.0, 0.3), 5.0, 0.0, 0.09, thickness=1.5, completeness=0.5, gaps=((1.0, 0, 0),)),
)
NAMES = ('rim', 'solid', 'small', 'half')


@pytest.fixture(scope='module')
def box():
    return make_box(1, shape=(48, 48, 32), lesions=LESIONS, texture=0.004, factor=2)


@pytest.fixture(scope='module')
def chi(box):
    noise = np.random.default_rng(0).standard_normal(box.chi.shape)
    return (box.chi + 0.004 * noise).astype(np.float32)


@pytest.fixture(scope='module')
def around(box, chi):
    mask = np.ones(chi.shape, bool)
    return surroundings(chi, mask, np.where(box.drawn, box.owner, 0), box.grid)


@pytest.fixture(scope='module')
def rims(box, chi, around):
    mask = np.ones(chi.shape, bool)
    return dict(zip(NAMES, measure_rims(chi, around, mask, box.grid, count=5), strict=False))


def test_a_rim_is_definite_and_a_solid_lesion_has_none(rims):
    assert rims['rim'].grade == 'definite'
    assert rims['rim'].completeness > 0.9
    assert rims['rim'].n_planes == 3
    assert rims['solid'].grade == 'no'
    assert rims['solid'].completeness < 0.1
    assert rims['solid'].edge.core == pytest.approx(0.05, abs=0.005)
    assert rims['rim'].score > 5 * rims['solid'].score


def test_half_a_rim_lies_on_its_side(rims):
    half = rims['half']
    assert half.completeness == pytest.approx(0.5, abs=0.15)
    towards = directions()[:, 0]
    assert towards[half.positive].mean() < -0.2 < 0.2 < towards[half.assessable & ~half.positive].mean()


def test_the_image_of_a_rim_lies_where_it_is(box, rims):
    there = LESIONS[0].rim_shares(box.field.shape, box.affine)[rims['rim'].box] > 0.25
    found = rims['rim'].probability > 0.5
    assert 2 * (there & found).sum() / (there.sum() + found.sum()) > 0.7


def test_what_cannot_be_assessed_says_why(box, chi, around, rims):
    assert rims['small'] == Missed(3, SMALL)
    none = np.zeros(chi.shape, bool)
    mask = none.copy()
    mask[24:] = True
    few = measure_rims(chi, around, mask, box.grid, count=5)
    assert few[0] == Missed(1, OUTSIDE)
    assert few[4] == Missed(5, LOST)
    # fluid all around
    wet = np.where(around.lesions > 0, chi, chi + 0.05 * (np.indices(chi.shape)[0] < 24)).astype(np.float32)
    hidden = surroundings(wet, ~none, around.lesions, box.grid, white=np.indices(chi.shape)[0] >= 26)
    assert measure_rims(wet, hidden, ~none, box.grid)[0] == Missed(1, HIDDEN)


def test_a_vein_at_the_edge_is_left_out(box, chi, around):
    veins = np.zeros(chi.shape, bool)
    veins[:, 29:31, 15:17] = True
    bright = np.where(veins, 0.3, chi).astype(np.float32)
    mask = np.ones(chi.shape, bool)
    seen = surroundings(bright, mask, around.lesions, box.grid, veins=veins)
    assert not seen.plain[veins].any()
    lesion = measure_rims(bright, seen, mask, box.grid)[1]
    assert lesion.veined.any()
    assert lesion.grade == 'no'
    assert lesion.contrast < 0.02


def test_a_direction_without_edge_has_no_vein():
    # a crescent is seen from outside it: some directions meet no edge
    shape = (44, 44, 44)
    x, y, z = np.indices(shape) - 21.5
    lesion = (x**2 + y**2 + z**2 < 121) & ((x + 7) ** 2 + y**2 + z**2 > 121)
    chi = (0.004 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    none, mask, grid = np.zeros(shape, bool), np.ones(shape, bool), Grid(shape)
    (rim,) = measure_rims(chi, surroundings(chi, mask, lesion.astype(int), grid, veins=none), mask, grid)
    assert (np.bincount(rim.frame.direction[np.abs(rim.frame.signed) < 2], minlength=64) == 0).any()
    assert not rim.veined.any()


def test_chance_follows_the_noise(box, chi, around, rims):
    frame = rims['rim'].frame
    more = chi + np.random.default_rng(1).normal(0, 0.02, chi.shape).astype(np.float32)
    noisy = contrast_by_chance(frame, more, around.plain, box.grid.voxel_size, places=10)
    assert noisy.spread > 2 * rims['rim'].chance.spread


def test_a_synthetic_rim_corrects_the_contrast(box, chi, around):
    inverted = INVERSION['tkd'](box.field, np.ones(chi.shape, bool), box.grid)
    mask = np.ones(chi.shape, bool)
    rim = measure_rims(inverted, around, mask, box.grid)[0]
    response = rim_response(rim.frame, rim.seen, box.grid, INVERSION['tkd'], {}, box.noise, 16.0)
    assert 0.1 < response < 0.9
    # 60 ppb over 1.5 mm, in ppm mm
    assert rim.contrast / response == pytest.approx(0.09, rel=0.4)


def test_directions_see_a_sphere_from_its_centre():
    points = np.argwhere(np.ones((25, 25, 25)))
    ball = (np.linalg.norm(points - 12, axis=1) < 6).reshape(25, 25, 25)
    frame = frame_of(ball, (1, 1, 1), (5, 0, 0))
    np.testing.assert_allclose(frame.centre, (17, 12, 12), atol=0.1)
    assert frame.depth_mm == pytest.approx(6, abs=0.7)
    away = np.linalg.norm(frame.points - frame.centre, axis=1)
    np.testing.assert_allclose(away - frame.signed, 6, atol=0.9)
    counts = np.bincount(frame.direction, minlength=64)
    assert counts.min() > 0.4 * counts.mean()
    profile = frame.profile(frame.signed)
    near = np.abs(BINS) < 3
    assert np.nanmax(np.abs(profile[:, near] - BINS[near])) < 0.6
