import numpy as np
import pandas as pd
import pytest

from bids_qsm.anatomy.nucleus_shifts import fit, split
from tests.anatomy.nuclei import AFFINE, LABELS, SHAPE, SHIFTS, STAY, dseg, susceptibility

HOW = {'psf': (0.0, 0.0, 0.0), 'misplaced': 1.5, 'gain_sd': 1.0, 'limit': 5.0}
ALL = np.ones(SHAPE, bool)


def template():
    return split(susceptibility(STAY), dseg(STAY), AFFINE, LABELS, SHAPE, AFFINE)


def test_parts_of_one_body_are_taken_together_and_nothing_is_lost():
    bodies, background = template()
    assert {(b.name, b.hemisphere) for b in bodies} == set(SHIFTS)
    np.testing.assert_allclose(background + sum(b.contrast for b in bodies), susceptibility(STAY), atol=1e-6)
    core = np.max([b.share for b in bodies], axis=0) == 1
    np.testing.assert_allclose(background[core], -0.02, atol=0.06)
    assert abs(np.median(background[core]) - -0.02) < 0.02


def test_a_label_without_hemisphere_is_two_bodies():
    merged = LABELS.assign(hemisphere='')
    bodies, _ = split(susceptibility(STAY), dseg(STAY), AFFINE, merged, SHAPE, AFFINE)
    assert {(b.name, b.hemisphere) for b in bodies} == set(SHIFTS)


def test_what_has_no_contrast_or_leaves_the_box_stays_background():
    labels = pd.concat(
        [LABELS, pd.DataFrame({'index': [98, 99], 'hemisphere': 'L', 'region': ['flat', 'white matter']})]
    )
    atlas = dseg(STAY)
    atlas[30:36, 40:45, 20:26] = 98
    atlas[:, :5] = 99
    bodies, _ = split(susceptibility(STAY), atlas, AFFINE, labels, SHAPE, AFFINE)
    assert {(b.name, b.hemisphere) for b in bodies} == set(SHIFTS)


@pytest.mark.parametrize(('gain', 'zero'), [(1.0, 0.0), (2.5, 0.0), (0.7, 0.1)])
def test_fit_finds_shifts_whatever_contrast_and_zero(gain, zero):
    bodies, background = template()
    chi = susceptibility(SHIFTS, gain=gain, zero=zero, noise=0.015)
    for body in fit(chi, ALL, bodies, background, **HOW):
        np.testing.assert_allclose(body.shift, SHIFTS[body.name, body.hemisphere], atol=0.4)
        assert body.error.max() < 0.4


def test_a_vessel_beside_a_nucleus_does_not_draw_it():
    bodies, background = template()
    chi = susceptibility(SHIFTS, noise=0.01)
    chi[24:26, 8:26, 8:10] = 0.4
    for body in fit(chi, ALL, bodies, background, **HOW):
        np.testing.assert_allclose(body.shift, SHIFTS[body.name, body.hemisphere], atol=0.5)


def test_a_body_out_of_sight_stays_and_says_so():
    bodies, background = template()
    seen = ALL.copy()
    seen[:, :, 15:] = False
    found = {(b.name, b.hemisphere): b for b in fit(susceptibility(SHIFTS), seen, bodies, background, **HOW)}
    pallidum = found['GP', 'L']
    assert np.linalg.norm(pallidum.shift) < 0.1
    np.testing.assert_allclose(pallidum.error, HOW['misplaced'], rtol=0.05)
    np.testing.assert_allclose(found['SN', 'L'].shift, SHIFTS['SN', 'L'], atol=0.5)
