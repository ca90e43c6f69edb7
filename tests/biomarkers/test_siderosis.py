"""A sheet of iron in a sulcus is told from a vein, a ball and a sulcus of fluid."""

import numpy as np
import pandas as pd
import pytest

from bids_qsm.biomarkers.siderosis import find_sheets, pattern
from bids_qsm.recon.grid import Grid

SHAPE = (56, 56, 56)
AFFINE = np.eye(4)
AFFINE[:3, 3] = (8, -60, 40)  # the right convexity in template space
X, Y, Z = np.indices(SHAPE)


def made():
    """Susceptibility, R2* and mask: a sheet at x = 20, a vein along y, a ball, and a sulcus without iron."""
    rng = np.random.default_rng(3)
    chi = 0.01 * rng.standard_normal(SHAPE).astype(np.float32)
    r2star = (18 + 1.5 * rng.standard_normal(SHAPE)).astype(np.float32)
    mask = (np.minimum(np.minimum(X, Y), Z) > 2) & (np.maximum(np.maximum(X, Y), Z) < 53)
    sheet = (np.abs(X - 20) <= 1) & (np.abs(Y - 25) < 7) & (np.abs(Z - 28) < 6)
    vein = (X - 38) ** 2 + (Z - 20) ** 2 <= 1.5
    ball = (X - 40) ** 2 + (Y - 40) ** 2 + (Z - 42) ** 2 <= 10
    sulcus = (np.abs(X - 46) <= 1) & (Y > 10) & (Y < 45) & (Z > 10)
    for where, more, faster in ((sheet, 0.15, 15), (vein, 0.25, 20), (ball, 0.3, 40), (sulcus, 0.01, -12)):
        chi[where] += more
        r2star[where] += faster
    return chi, r2star, mask, sheet


@pytest.fixture(scope='module')
def maps():
    return made()


def find(maps, grid=None, affine=AFFINE, **more):
    chi, r2star, mask, _ = maps
    return find_sheets(chi, r2star, mask, grid or Grid.from_affine(SHAPE, affine), affine, [], **more)


def test_a_sheet_is_found_and_nothing_else(maps):
    found = find(maps)
    (row,) = found.table.to_dict('records')
    assert (row['certainty'], row['side'], row['sulcus']) == ('definite', 'R', 1)
    assert row['area_mm2'] == pytest.approx(13 * 11, rel=0.35)
    assert row['contrast_ppm'] == pytest.approx(0.15, abs=0.03)
    sheet = maps[3]
    assert (found.labels > 0)[sheet].mean() > 0.7
    assert sheet[found.labels > 0].mean() > 0.9
    assert pattern(found.table) == 'focal'


def test_iron_without_decay_is_no_sheet(maps):
    chi, r2star, mask, sheet = maps
    assert find((chi, np.where(sheet, 18, r2star), mask, sheet)).table.empty


def test_what_cannot_be_assessed_is_said(maps):
    chi, r2star, mask, sheet = maps
    assert 'no R2*' in find((chi, 0 * r2star, mask, sheet)).problem
    coarse = np.diag([1.0, 1, 3, 1])
    coarse[:3, 3] = AFFINE[:3, 3]
    assert 'voxels of 3.0 mm' in find(maps, affine=coarse).problem
    low = AFFINE.copy()
    low[2, 3] = -100
    assert 'less than 100 ml' in find(maps, affine=low).problem


def test_patterns():
    many = pd.DataFrame({'certainty': 5 * ['definite'], 'sulcus': [1, 2, 3, 4, 4]})
    assert [pattern(many.head(n)) for n in (0, 3, 5)] == ['none', 'focal', 'disseminated']
