import numpy as np
import pytest

from bids_qsm.recon.grid import Grid
from bids_qsm.recon.swi import minip, swi

TIMES = [0.006, 0.014, 0.022]


@pytest.fixture(scope='module')
def scan():
    """A uniform ball under a tilted coil, with a paramagnetic and a diamagnetic rod along the first axis."""
    grid = Grid((48, 44, 40), (1.0, 1.0, 1.5))
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in grid.shape), indexing='ij')
    mask = x**2 + y**2 + z**2 < 0.8
    field = 0.3 * z
    vein, calcium = np.zeros_like(mask), np.zeros_like(mask)
    vein[15:33, 14:16, 20:22] = True
    calcium[15:33, 28:30, 20:22] = True
    omega = (802 * (field + 0.06 * vein - 0.06 * calcium)).astype(np.float32)
    coil = (mask * (1 + 0.5 * x)).astype(np.float32)
    noise = 0.005 * np.random.default_rng(0).standard_normal((*grid.shape, 3))
    magnitude = np.abs(coil[..., None] * np.exp(-20 * np.array(TIMES)) + noise).astype(np.float32)
    unwrapped = omega[..., None] * np.array(TIMES, np.float32)
    return grid, magnitude, unwrapped, mask, vein, calcium


def test_veins_are_dark_and_calcium_is_not(scan):
    grid, magnitude, unwrapped, mask, vein, calcium = scan
    image = swi(magnitude, unwrapped, mask, TIMES, grid)
    assert image.dtype == np.float32
    inner = mask & (np.roll(mask, 6, 0) & np.roll(mask, -6, 0) & np.roll(mask, 6, 1) & np.roll(mask, -6, 1))
    tissue = image[inner & ~vein & ~calcium].mean()
    assert image[vein].mean() < 0.6 * tissue
    assert image[calcium].mean() > 0.95 * tissue


def test_sensitivity_of_the_coil_is_gone(scan):
    grid, magnitude, unwrapped, mask, _, _ = scan
    image = swi(magnitude, 0 * unwrapped, mask, TIMES, grid)
    low, high = image[12:16, 18:26, 16:24].mean(), image[32:36, 18:26, 16:24].mean()
    raw = magnitude[..., 0]
    assert raw[32:36, 18:26, 16:24].mean() > 1.4 * raw[12:16, 18:26, 16:24].mean()
    assert low == pytest.approx(high, rel=0.08)
    assert np.isfinite(image).all()


def test_strength_and_single_echo(scan):
    grid, magnitude, unwrapped, mask, vein, _ = scan
    one, two = (
        swi(magnitude[..., 2:], unwrapped[..., 2:], mask, TIMES[2:], grid, strength=s) for s in (2, 8)
    )
    assert two[vein].mean() < one[vein].mean() < 1


def test_contrast_does_not_depend_on_echo_time(scan):
    grid, magnitude, unwrapped, mask, _, _ = scan
    one = swi(magnitude[..., :1], unwrapped[..., :1], mask, TIMES[:1], grid)
    two = swi(magnitude[..., :1], 3 * unwrapped[..., :1], mask, TIMES[:1], grid)
    np.testing.assert_allclose(one, two, atol=1e-3)


def test_minip_runs_along_the_thick_axis():
    image = np.ones((8, 9, 10), np.float32)
    image[3, 4, 5] = 0.2
    along = minip(image, Grid(image.shape, (1.0, 1.0, 2.0)), thickness_mm=6)
    assert np.argwhere(along < 1).tolist() == [[3, 4, 4], [3, 4, 5], [3, 4, 6]]
    along = minip(image, Grid(image.shape, (2.0, 1.0, 1.0)), thickness_mm=6)
    assert np.argwhere(along < 1).tolist() == [[2, 4, 5], [3, 4, 5], [4, 4, 5]]
    np.testing.assert_array_equal(minip(image, Grid(image.shape), thickness_mm=0.5), image)
