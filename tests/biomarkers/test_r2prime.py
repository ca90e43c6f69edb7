"""R2 of another grid, R2' of voxels made alike, and the size of sources."""

import numpy as np
import pytest
from scipy import special

from bids_qsm.anatomy.transform import grid_points, transform_points
from bids_qsm.biomarkers.r2prime import Placed, place_field, place_rate, reversible_rate, widths
from bids_qsm.biomarkers.source_scale import source_scale
from bids_qsm.phantom.head import rigid
from bids_qsm.recon.background_gradient import spread_function
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.point_spread import WIDTH
from bids_qsm.recon.relaxation import arlo, loglinear, rate_error

SHAPE, AFFINE = (16, 16, 32), np.diag([2.0, 2.0, 1.5, 1.0])
OWN_SHAPE, OWN_AFFINE = (20, 20, 14), np.diag([1.6, 1.6, 4.0, 1.0])
OWN_AFFINE[:3, 3] = -1, 1, -2


def edge(points, voxel):
    """A rate of 10 /s, and 20 /s above a plane, seen with the point spread of a voxel."""
    sigma = WIDTH * voxel
    return 15 + 5 * special.erf((points[:, 2] - 24) / (np.sqrt(2) * sigma))


@pytest.fixture(scope='module')
def edges():
    """R2* with 5 /s of R2' on the maps, and R2 in thick slices of a head that was turned."""
    moved = rigid((4, -3, 5), (1.0, -2, 0.5))
    still = grid_points(SHAPE, AFFINE)
    r2star = 5 + edge(still, 1.5).reshape(SHAPE)
    own = transform_points(grid_points(OWN_SHAPE, OWN_AFFINE), [np.linalg.inv(moved)])
    r2 = edge(own, 4.0).reshape(OWN_SHAPE)
    return r2star.astype(np.float32), r2.astype(np.float32), moved


def test_r2prime_has_no_edges_once_voxels_are_alike(edges):
    r2star, rate, moved = edges
    known = np.ones(OWN_SHAPE, bool)
    r2 = place_rate(rate, 0.09 + 0 * rate, known, OWN_AFFINE, SHAPE, AFFINE, [moved])
    assert widths(r2.spread)[0] == pytest.approx(np.sqrt(4.0**2 - 1.5**2), abs=0.2)
    mask = np.ones(SHAPE, bool)
    ones = np.ones(SHAPE, np.float32)
    inner = r2.known.copy()
    inner[..., :5] = inner[..., -5:] = False
    assert inner.sum() > 1000
    found, sd = reversible_rate(r2star, ones, ones, mask, r2, AFFINE)
    unlike, _ = reversible_rate(
        r2star, ones, ones, mask, Placed(r2.rate, r2.variance, r2.known, 0 * r2.spread), AFFINE
    )
    error, plain = (np.abs(one - 5)[inner].max() for one in (found, unlike))
    assert plain > 1.2
    assert error < 0.4 * plain
    assert not found[~r2.known].any()
    # smoothing takes noise away: that of R2* alone is 1 /s
    assert 0.3 < np.median(sd[inner]) < 0.9


def test_a_transmit_field_reaches_beyond_what_is_known(edges):
    _, _, moved = edges
    b1 = np.full(OWN_SHAPE, 0.9)
    b1[:10] = 0
    placed = place_field(b1, OWN_AFFINE, SHAPE, AFFINE, [moved])
    assert np.allclose(placed, 0.9)


def test_the_error_of_a_rate_is_that_of_fits():
    rng = np.random.default_rng(1)
    times, rate = np.array([0.005, 0.012, 0.019, 0.026]), 30.0
    shape = (20, 20, 20)
    clean = 100 * np.exp(-rate * times)
    echoes = (clean + rng.standard_normal((*shape, 4))).astype(np.float32)
    mask = np.ones(shape, bool)
    found, _, start = loglinear(echoes, mask, list(times), np.zeros(shape, np.float32), 3.0, Grid(shape))
    said = rate_error(found, start, list(times), 1.0)
    assert np.median(said) == pytest.approx(found.std(), rel=0.05)
    assert not rate_error(found, 0 * start, list(times), 1.0).any()


def test_the_error_of_a_rate_counts_what_gradients_took():
    """Two slopes of the field: in the steeper one the last echo is lost."""
    rng, shape, times = np.random.default_rng(1), (24, 16, 16), [0.005, 0.012, 0.019, 0.026, 0.033]
    mask, grid = np.ones(shape, bool), Grid(shape)
    for slope in (0.10, 0.15):
        field = np.float32(slope) * np.indices(shape)[0].astype(np.float32)
        kept = spread_function(field, mask, grid, times, 3.0)
        clean = 100 * np.exp(-20.0 * np.array(times)) * kept
        echoes = (clean + rng.standard_normal(clean.shape)).astype(np.float32)
        for fit, off in ((loglinear, 0.06), (arlo, 0.2)):
            found, _, start = fit(echoes, mask, times, field, 3.0, grid, spread=True)
            said = rate_error(found, start, times, 1.0, kept)
            assert np.median(said) == pytest.approx(found.std(), rel=off)


def test_holes_of_r2star_are_not_known(edges):
    _, rate, moved = edges
    r2 = place_rate(rate, 0.09 + 0 * rate, rate > 0, OWN_AFFINE, SHAPE, AFFINE, [moved])
    whole, ones = np.full(SHAPE, 25, np.float32), np.ones(SHAPE, np.float32)
    holes = whole.copy()
    holes[6, 6, 8], holes[9, 9, 20] = 0, np.nan
    (found, sd), (plain, _) = (
        reversible_rate(one, ones, ones, ones > 0, r2, AFFINE) for one in (holes, whole)
    )
    there = r2.known & (holes > 0)
    assert r2.known[6, 6, 8]
    assert r2.known[9, 9, 20]
    assert not found[~there].any()
    assert not sd[~there].any()
    assert np.allclose(found[there], plain[there], atol=1e-3)
    assert (sd[there] > 0).all()


@pytest.fixture(scope='module')
def blocks():
    """Four nuclei on a line in tissue; a vein of unchanged R2, and fine iron."""
    rng = np.random.default_rng(2)
    shape = (40, 40, 24)
    dseg = np.zeros(shape, np.int32)
    chi, r2 = np.zeros(shape), np.full(shape, 12.0)
    for n, level in enumerate((0.0, 0.04, 0.08, 0.12)):
        box = np.s_[4 + 9 * n : 11 + 9 * n, 4:12, 6:18]
        dseg[box], chi[box], r2[box] = n + 1, level, 12 + 40 * level
    x, y, z = np.indices(shape)
    vein = ((x - 12) ** 2 + (z - 12) ** 2 < 5) & (y > 18)
    dust = (x - 28) ** 2 + (y - 28) ** 2 + (z - 12) ** 2 < 16
    chi += 0.3 * vein + 0.03 * dust
    r2 += 6.0 * dust
    chi += 0.004 * rng.standard_normal(shape)
    r2 += 0.4 * rng.standard_normal(shape)
    return chi.astype(np.float32), r2.astype(np.float32), dseg, vein, dust


def classes(chi, r2, dseg):
    mask, sd = np.ones(chi.shape, bool), np.full(chi.shape, 0.4, np.float32)
    return source_scale(chi, r2, sd, mask, None, dseg, Grid(chi.shape), chi_noise=0.004)


def test_veins_are_large_sources_and_dust_small_ones(blocks):
    chi, r2, dseg, vein, dust = blocks
    found = classes(chi, r2, dseg)
    assert (found.dseg[vein] == 1).mean() > 0.95
    assert (found.dseg[dust] == 2).mean() > 0.95
    assert (found.dseg[~(vein | dust)] > 0).mean() < 0.002
    assert 30 < found.line.slope < 50
    assert found.line.n == 4
    # iron on the line is neither, however much there is
    iron = vein & (np.arange(40) < 30)[:, None, None]
    on_line = r2 + 40 * 0.3 * iron
    assert (classes(chi, on_line.astype(np.float32), dseg).dseg[iron] > 0).mean() < 0.1
    # blood of a large vein has a high R2 of its own
    assert (classes(chi, r2 + np.float32(25) * iron, dseg).dseg[iron] == 3).mean() > 0.9


def test_a_line_needs_three_regions(blocks):
    chi, r2, dseg, *_ = blocks
    assert classes(chi, r2, np.where(dseg > 2, 0, dseg)) is None
