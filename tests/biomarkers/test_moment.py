import tracemalloc

import numpy as np
import pytest

from bids_qsm.biomarkers.moment import MOST, MomentFit, darkness, point_dipole, void
from bids_qsm.recon.grid import Grid

SHAPE = (30, 30, 30)
CENTRE = np.array([14.3, 15.2, 14.6])


def sphere(radius, chi, b0_dir=(0.0, 0.0, 1.0)):
    """Field of a ball and its share of each voxel."""
    offset = np.moveaxis(np.indices(SHAPE), 0, -1) - CENTRE
    distance = np.linalg.norm(offset, axis=-1)
    moment = chi * 4 / 3 * np.pi * radius**3
    field = np.where(distance > radius, moment * point_dipole(offset, b0_dir), 0)
    return field, np.clip(radius + 0.5 - distance, 0, 1), moment


def measured(field, share, chi, seed=0, **more):
    """Fit with noise in the field, and noise alone in the void."""
    rng = np.random.default_rng(seed)
    lost = share > 0.05
    field = field + 0.003 * rng.standard_normal(SHAPE)
    field[lost] = rng.uniform(-0.3, 0.3, lost.sum())
    chi = chi + 0.01 * rng.standard_normal(SHAPE)
    everywhere = np.ones(SHAPE, bool)
    maps = (field.astype(np.float32), chi.astype(np.float32), everywhere, lost, share > 0)
    fit = MomentFit(*maps, Grid(SHAPE, b0_dir=more.pop('b0_dir', (0.0, 0.0, 1.0))))
    return fit(np.argwhere(share > 0), **more)


@pytest.mark.parametrize(
    ('radius', 'chi', 'mapped'),
    # what the map says: half of a bleed, calcium, and calcium whose peak has flipped
    [(1.0, 1.0, 0.5), (2.0, 3.0, 0.5), (2.0, -1.0, -0.8), (2.5, -2.0, 0.3)],
)
def test_the_moment_of_a_ball_is_that_of_its_field_and_not_of_the_map(radius, chi, mapped):
    b0_dir = (0.0, np.sin(0.3), np.cos(0.3))
    field, share, moment = sphere(radius, chi, b0_dir)
    found = measured(field, share, mapped * share, b0_dir=b0_dir)
    assert found.value == pytest.approx(moment, rel=0.04, abs=3 * found.se)
    assert found.sign() == np.sign(chi)
    assert abs(moment) > 10 * found.se


def test_where_nothing_is_the_sign_is_not_told():
    field, share, _ = sphere(1.5, 0.0)
    ratios = np.array([(m := measured(field, share, 0 * share, seed)).value / m.se for seed in range(6)])
    assert np.abs(ratios).max() < 3
    assert ratios.std() > 0.2


def test_a_source_beside_its_zone_is_found_by_moving_the_dipole():
    field, share, moment = sphere(1.5, 1.0)
    still, moved = (measured(field, np.roll(share, 2, 0), 0 * share, search_mm=mm) for mm in (0.0, 3.0))
    assert abs(moved.value / moment - 1) < abs(still.value / moment - 1)
    assert moved.value == pytest.approx(moment, rel=0.3)


def test_a_large_zone_takes_little_memory():
    zone = np.argwhere(np.linalg.norm(np.moveaxis(np.indices(SHAPE), 0, -1) - CENTRE, axis=-1) < 8)
    everywhere, nowhere = np.ones(SHAPE, bool), np.zeros(SHAPE, bool)
    chi = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    fit = MomentFit(None, chi, everywhere, nowhere, nowhere, Grid(SHAPE))
    tracemalloc.start()
    fit(zone)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # the kernel alone is 4 bytes a pair of voxels
    assert peak < 3 * 4 * len(zone) * MOST


def test_without_signal_around_it_a_moment_is_not_told():
    everywhere, nowhere = np.ones(SHAPE, bool), np.zeros(SHAPE, bool)
    fit = MomentFit(None, np.zeros(SHAPE, np.float32), everywhere, everywhere, nowhere, Grid(SHAPE))
    found = fit(np.array([[15, 15, 15]]))
    assert (found.sign(), found.reason) == (0, 'too few voxels with signal around it')


def test_dark_and_fast_voxels_are_void():
    mask = np.ones(SHAPE, bool)
    magnitude = np.full(SHAPE, 100, np.float32)
    magnitude[15, 15, 15] = 20
    r2star = np.full(SHAPE, 20, np.float32)
    r2star[5, 5, 5] = 150
    assert darkness(magnitude, mask, Grid(SHAPE))[15, 15, 15] == pytest.approx(0.8, abs=0.01)
    assert np.argwhere(void(magnitude, r2star, mask, Grid(SHAPE))).tolist() == [[5, 5, 5], [15, 15, 15]]
