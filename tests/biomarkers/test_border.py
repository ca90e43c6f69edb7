import numpy as np
import pytest
from scipy import special

from bids_qsm.biomarkers.border import PATCH_MM, border_slope
from bids_qsm.recon.grid import Grid

SIZES = [(1.0, 1.0, 1.0), (0.6, 0.6, 0.6), (1.0, 1.0, 2.0), (0.5, 0.5, 2.5)]


def ball(size, radius, *, extent=30.0):
    """Grid, whether voxels lie in a ball, distance from its surface and places (mm)."""
    grid = Grid(tuple(int(extent / v) for v in size), size)
    axes = [(np.arange(n) - (n - 1) / 2 + 0.13) * v for n, v in zip(grid.shape, size, strict=True)]
    at = np.stack(np.meshgrid(*axes, indexing='ij'))
    distance = np.sqrt((at**2).sum(0)) - radius
    return grid, distance < 0, distance, at


def everywhere(grid):
    return np.ones(grid.shape, bool)


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('radius', [2.5, 4.0, 8.0])
def test_a_ball_in_a_step_image(size, radius):
    """Half the step lies at the border: the mean changes by half the step times surface over volume."""
    grid, inside, _, _ = ball(size, radius)
    found = border_slope(0.2 * inside, [inside], everywhere(grid), grid)
    assert found.grow == pytest.approx(-0.2 * 1.5 / radius, rel=0.08)
    assert found.shift == pytest.approx(0, abs=0.01 * abs(found.grow))
    patches = max(4 * np.pi * radius**2 / PATCH_MM**2, 1)
    assert found.rough == pytest.approx(0.2 * 1.5 / radius / np.sqrt(patches), rel=0.1)


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_it_is_what_the_mean_does_when_the_ball_grows(size):
    """A soft ball in a soft image, grown and shrunk by a tenth of a millimetre."""
    grid, _, distance, _ = ball(size, 4.0)
    image = 0.1 * special.ndtr(-distance / 0.6) + 0.002 * distance
    means = []
    for moved in (-0.1, 0.0, 0.1):
        share = special.ndtr((moved - distance) / 0.6)
        means.append((image * share).sum() / share.sum())
    share = special.ndtr(-distance / 0.6)
    found = border_slope(image, [share], everywhere(grid), grid)
    # steps between slices stand for the smooth border to this precision
    assert found.grow == pytest.approx((means[2] - means[0]) / 0.2, rel=0.12)


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_a_slope_of_the_map_is_the_change_by_a_shift(size):
    grid, inside, _, at = ball(size, 4.0)
    found = border_slope(0.01 * at[0] - 0.02 * at[2] + 5, [inside], everywhere(grid), grid)
    assert found.shift == pytest.approx(np.hypot(0.01, 0.02), rel=1e-6)
    assert found.grow == pytest.approx(0, abs=1e-3)


def test_sides_are_shifted_by_themselves():
    """Slopes of opposite sign, as in a symmetric brain, do not cancel; size errs on both sides alike."""
    grid, inside, _, at = ball((1.0, 1.0, 1.0), 4.0, extent=40.0)
    left, right = np.roll(inside, -10, 0), np.roll(inside, 10, 0)
    image = 0.01 * np.abs(at[0]) + 0.1 * (left | right)
    one = border_slope(image, [left], everywhere(grid), grid)
    both = border_slope(image, [left, right], everywhere(grid), grid)
    assert both.shift == pytest.approx(one.shift / np.sqrt(2), rel=0.02)
    assert both.grow == pytest.approx(one.grow, rel=0.02)
    assert both.rough == pytest.approx(one.rough / np.sqrt(2), rel=0.02)
    assert both.error(0.3) == pytest.approx(0.3 * np.sqrt((both.grow**2 + both.shift**2 + both.rough**2) / 3))


def test_the_edge_of_the_mask_is_no_border():
    grid, inside, _, _ = ball((1.0, 1.0, 1.0), 4.0)
    image = np.where(inside, 0.1, np.nan)
    found = border_slope(image, [inside], inside, grid)
    assert (found.grow, found.shift, found.rough) == (0, 0, 0)
    nothing = border_slope(image, [inside], ~inside & everywhere(grid), grid)
    assert np.isnan(nothing.grow)


def test_a_slice_of_one_voxel_and_the_edge_of_the_array():
    grid = Grid((12, 12, 3), (1.0, 1.0, 4.0))
    region = np.zeros(grid.shape, bool)
    region[:, :, 1] = True
    found = border_slope(0.1 * region, [region], everywhere(grid), grid)
    # two faces with half the step, over a thickness of 4 mm
    assert found.grow == pytest.approx(-2 * 0.05 / 4, rel=0.01)
