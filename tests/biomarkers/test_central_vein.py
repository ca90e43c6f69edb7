"""The central vein sign on drawn lesions and centrelines."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from bids_qsm.biomarkers import central_vein as cv
from bids_qsm.biomarkers.central_vein_table import share_table, wilson
from bids_qsm.phantom.central_veins import centred
from bids_qsm.recon.grid import Grid

SHAPE = (36, 30, 24)
AFFINE = centred(SHAPE)
CENTRE = np.array([17.5, 14.5, 11.5])
"""Of the lesion, in voxels; the scanner's origin."""


def ball(at=CENTRE, radius=4.0, shape=SHAPE, sides=(1, 1, 1)):
    offset = (np.indices(shape) - np.reshape(at, (3, 1, 1, 1))) * np.reshape(sides, (3, 1, 1, 1))
    return (offset**2).sum(0) <= radius**2


def line(start, stop, diameter=0.8, number=1):
    """Points of a vein between two points (mm from the middle), half a millimetre apart."""
    n = int(2 * np.linalg.norm(np.subtract(stop, start))) + 1
    points = np.linspace(start, stop, n)
    table = pd.DataFrame(points, columns=list('xyz'))
    return table.assign(segment=number, diameter_mm=diameter)


def assessed(lesion, *veins, seen=True, grid=None, mask=None):
    """The row of a lesion with some veins, which are bright in the map where they are seen."""
    empty = pd.DataFrame({name: [] for name in ('x', 'y', 'z', 'segment', 'diameter_mm')})
    table = pd.concat([empty, *veins]) if veins else empty
    lines = cv.Lines.from_table(table.astype(float), AFFINE)
    chi = np.random.default_rng(0).normal(0.03 * lesion, 0.005).astype(np.float32)
    if seen and len(lines.voxels):
        chi[tuple(np.rint(lines.voxels).astype(int).T)] += 0.1
    everywhere = np.ones(SHAPE, bool)
    mask = everywhere if mask is None else mask
    found, classes = cv.central_veins(
        chi, mask, lesion.astype(int), lines, everywhere, grid or Grid(SHAPE), places=99
    )
    row = found.iloc[0]
    assert set(np.unique(classes[lesion])) == {{'yes': 1, 'no': 2, 'excluded': 3}[row['cvs']]}
    return row


def test_a_vein_through_the_centre_is_the_sign():
    row = assessed(ball(), line((-9, -2, 1), (9, 2, -1)))
    assert (row['cvs'], row['n_planes'], row['n_veins']) == ('yes', 3, 1)
    assert row['score'] > 0.9
    assert row['off_centre_mm'] < 0.5
    assert row['vein_width_mm'] == 0.8
    # veins are rare here
    assert row['p'] < 0.1


@pytest.mark.parametrize(
    ('veins', 'reason'),
    [
        ((), cv.NONE),
        ((line((-9, 2.8, 0), (9, 2.8, 0)),), cv.ASIDE),
        ((line((-0.8, 0, 0), (9, 0, 0)),), cv.SHORT),
        ((line((-9, 0, 0), (9, 0, 0), diameter=2.4),), cv.WIDE),
    ],
)
def test_what_is_no_sign_has_its_reason(veins, reason):
    row = assessed(ball(), *veins)
    assert (row['cvs'], row['reason']) == ('no', reason)


def test_a_vein_that_is_not_seen_in_two_planes_is_no_sign():
    assert assessed(ball(), line((-9, 0, 0), (9, 0, 0)), seen=False)['reason'] == cv.FAINT


def test_lesions_that_cannot_be_judged_are_excluded():
    vein = line((-9, 0, 0), (9, 0, 0))
    pair = ball(CENTRE - (4, 0, 0), 4) | ball(CENTRE - (-4, 0, 0), 3.8)
    near = np.ones(SHAPE, bool)
    near[20:] = False
    for reason, row in {
        cv.SMALL: assessed(ball(radius=1.0), vein),
        cv.CONFLUENT: assessed(pair, vein),
        cv.SEVERAL: assessed(ball(), line((-9, 1.3, 0), (9, 1.3, 0)), line((-9, -1.3, 0), (9, -1.3, 0))),
        cv.OUTSIDE: assessed(ball(), vein, mask=near),
        cv.COARSE: assessed(ball(), vein, grid=Grid(SHAPE, (1.0, 1.0, 3.0))),
    }.items():
        assert (row['cvs'], row['reason']) == ('excluded', reason)
        assert np.isnan(row['p'])
    assert np.isnan(row['score']), 'of voxels that are too large nothing is said'


def test_an_ellipsoid_is_not_confluent():
    offset = np.indices(SHAPE) - CENTRE[:, None, None, None]
    long = (offset**2 / np.reshape((10, 4, 3), (3, 1, 1, 1)) ** 2).sum(0) <= 1
    assert assessed(long, line((0, -9, 0), (0, 9, 0)))['cvs'] == 'yes'


def test_the_place_is_likely_where_veins_are_dense():
    around = [line((-16, y, z), (16, y, z)) for y in range(-12, 13, 4) for z in range(-9, 10, 3) if y or z]
    assert assessed(ball(), line((-9, 0, 0), (9, 0, 0)), *around)['p'] > 0.3


def test_the_interval_is_that_of_statsmodels():
    for count, total in ((0, 7), (3, 10), (10, 10)):
        assert wilson(count, total) == pytest.approx(proportion_confint(count, total, method='wilson'))
    assert np.isnan(wilson(0, 0)).all()


def test_rules_of_a_person():
    rows = [('a', 'yes', None)] * 6 + [('a', 'no', cv.NONE)] * 3 + [('a', 'excluded', cv.SMALL)]
    rows += [('b', 'yes', None), ('b', 'no', cv.NONE)] + [('c', 'excluded', cv.COARSE)] * 2
    found = share_table(pd.DataFrame(rows, columns=['source', 'cvs', 'reason'])).set_index('source')
    assert found.loc['a', ['n_lesions', 'n_assessed', 'n_cvs']].tolist() == [10, 9, 6]
    assert found.loc['a', ['rule_40', 'rule_40_sure', 'select_6']].tolist() == ['yes', 'no', 'yes']
    assert found.loc['b', ['rule_40', 'select_6']].tolist() == ['yes', 'no']
    assert found.loc['c', 'remark'] == cv.COARSE
    assert found.loc['c', ['share', 'rule_40']].isna().all()
