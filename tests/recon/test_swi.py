import numpy as np
import pytest

from bids_qsm.errors import UserError
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.phase import wrap
from bids_qsm.recon.registry import call
from bids_qsm.recon.swi import SWI, clearswi, highpass, minip, trueswi
from bids_qsm.recon.swi.shading import COMBINATIONS, combined_magnitude, divide_by_shading

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
    chi = (0.2 * vein - 0.2 * calcium).astype(np.float32)
    omega = (802 * (field + 0.3 * chi)).astype(np.float32)
    coil = (mask * (1 + 0.5 * x)).astype(np.float32)
    noise = 0.005 * np.random.default_rng(0).standard_normal((*grid.shape, 3))
    magnitude = np.abs(coil[..., None] * np.exp(-20 * np.array(TIMES)) + noise).astype(np.float32)
    unwrapped = omega[..., None] * np.array(TIMES, np.float32)
    return {
        'grid': grid,
        'magnitude': magnitude,
        'unwrapped': unwrapped,
        'phase': wrap(unwrapped),
        'mask': mask,
        'chi': chi,
        'echo_times': TIMES,
        'vein': vein,
        'calcium': calcium,
    }


def inner(mask):
    """Where a shift by six voxels in the plane stays inside."""
    return mask & np.roll(mask, 6, 0) & np.roll(mask, -6, 0) & np.roll(mask, 6, 1) & np.roll(mask, -6, 1)


@pytest.mark.parametrize(
    ('name', 'params'),
    [
        ('clearswi', {}),
        ('clearswi', {'phase_mask': 'linear'}),
        ('clearswi', {'phase_mask': 'sigmoid'}),
        ('clearswi', {'combination': 'average'}),
        ('clearswi', {'combination': 'last'}),
        ('highpass', {'power': 8}),
        ('trueswi', {}),
    ],
)
def test_veins_are_dark_and_calcium_is_not(scan, name, params):
    image = call(SWI[name], scan, params)
    assert image.dtype == np.float32
    assert image.shape == scan['grid'].shape
    vein, calcium = scan['vein'], scan['calcium']
    tissue = image[inner(scan['mask']) & ~vein & ~calcium].mean()
    # the high-pass takes part of every rod
    assert image[vein].mean() < (0.75 if name == 'highpass' else 0.6) * tissue
    assert image[calcium].mean() > 0.9 * tissue


def test_every_method_keeps_the_magnitude_outside_the_mask(scan):
    for method in SWI.values():
        params = {} if method is highpass else {'sensitivity_mm': 0.0, 'combination': 'last'}
        image = call(method, scan, params)
        outside = ~scan['mask']
        np.testing.assert_array_equal(image[outside], scan['magnitude'][outside, -1])
        empty = {**scan, 'mask': np.zeros_like(scan['mask'])}
        np.testing.assert_array_equal(call(method, empty, params), scan['magnitude'][..., -1])


def test_sensitivity_of_the_coil_is_gone_unless_left_in(scan):
    def sides(**params):
        image = clearswi(
            scan['magnitude'], 0 * scan['unwrapped'], scan['mask'], TIMES, scan['grid'], **params
        )
        assert np.isfinite(image).all()
        return image[12:16, 18:26, 16:24].mean(), image[32:36, 18:26, 16:24].mean()

    low, high = sides(sensitivity_mm=0.0)
    assert high > 1.4 * low
    low, high = sides()
    assert low == pytest.approx(high, rel=0.08)
    assert low == pytest.approx(1, rel=0.1)


def test_the_smooth_part_hardly_depends_on_the_voxel_size():
    found = []
    for step in (1, 3):
        grid = Grid((96 // step,) * 3, (float(step),) * 3)
        x = (np.arange(grid.shape[0]) + 0.5) * step
        image = np.broadcast_to((1 + 0.5 * np.sin(x / 15))[:, None, None], grid.shape)
        image = np.asfortranarray(image, np.float32)
        divide_by_shading(image, grid, 7.0)
        middle = slice(24 // step, 72 // step)
        found.append(image[middle, middle, middle].mean((1, 2)))
    np.testing.assert_allclose(found[0].reshape(-1, 3).mean(1), found[1], atol=0.02)


def test_combinations(scan):
    magnitude = scan['magnitude']
    snr, mean, last = (combined_magnitude(magnitude, name) for name in COMBINATIONS)
    np.testing.assert_allclose(snr, np.sqrt((magnitude**2).sum(3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mean, magnitude.mean(3), rtol=1e-5)
    np.testing.assert_array_equal(last, magnitude[..., 2])
    last[:] = 0
    assert magnitude[..., 2].any()


def test_an_unknown_shape_or_combination_is_named(scan):
    with pytest.raises(UserError, match='sigmoid'):
        call(clearswi, scan, {'phase_mask': 'square'})
    with pytest.raises(UserError, match='average'):
        call(trueswi, scan, {'combination': 'sum'})


def test_strength_and_single_echo(scan):
    last = [scan[n][..., 2:] for n in ('magnitude', 'unwrapped')]
    one, two = (clearswi(*last, scan['mask'], TIMES[2:], scan['grid'], strength=s) for s in (2, 8))
    assert two[scan['vein']].mean() < one[scan['vein']].mean() < 1


@pytest.mark.parametrize('phase_mask', ['tanh', 'linear', 'sigmoid'])
def test_contrast_does_not_depend_on_echo_time(scan, phase_mask):
    magnitude, unwrapped = (scan[n][..., :1] for n in ('magnitude', 'unwrapped'))
    one, two = (
        clearswi(magnitude, f * unwrapped, scan['mask'], TIMES[:1], scan['grid'], phase_mask=phase_mask)
        for f in (1, 3)
    )
    np.testing.assert_allclose(one, two, atol=1e-3)


def test_memory_order_changes_nothing(scan):
    turned = {n: np.asfortranarray(v) if isinstance(v, np.ndarray) else v for n, v in scan.items()}
    for method in SWI.values():
        np.testing.assert_allclose(call(method, scan, {}), call(method, turned, {}), rtol=1e-5, atol=1e-6)


def test_the_rim_of_the_mask_has_no_black_specks_and_the_end_of_a_slab_keeps_its_veins():
    """Voxels of 3 mm; at the rim, where air and bone dephase the signal, the phase is random."""
    grid = Grid((40, 40, 24), (3.0, 3.0, 3.0))
    x, y = np.meshgrid(*[np.arange(40) - 19.5] * 2, indexing='ij')
    # a cylinder that both ends of the slab cut
    radius = np.broadcast_to(np.hypot(x, y)[..., None], grid.shape)
    mask = radius < 16
    rim = mask & (radius > 14.8)
    vein = np.zeros_like(mask)
    vein[20, 12, :] = True
    phase = np.where(vein, 0.8, 0.02 * np.random.default_rng(0).standard_normal(grid.shape))
    phase[rim] = np.random.default_rng(1).uniform(-3, 3, rim.sum())
    magnitude = np.ones((*grid.shape, 1), np.float32)
    weight = clearswi(magnitude, phase[..., None].astype(np.float32), mask, [0.02], grid, sensitivity_mm=0)
    assert weight[rim].min() > 0.2
    assert (weight[rim] < 0.5).mean() < 0.2
    assert weight[vein].max() < 0.6
    np.testing.assert_allclose(weight[20, 12, 0], weight[20, 12, 12], atol=0.15)


def test_highpass_needs_no_unwrapping(scan):
    from_unwrapped = highpass(scan['magnitude'], scan['unwrapped'], scan['mask'], scan['grid'])
    from_wrapped = highpass(scan['magnitude'], scan['phase'], scan['mask'], scan['grid'])
    np.testing.assert_allclose(from_wrapped, from_unwrapped, atol=1e-3)


def test_true_swi_darkens_by_susceptibility_alone(scan):
    level = np.full_like(scan['chi'], 0.225)
    plain = trueswi(scan['magnitude'], 0 * level, scan['mask'], scan['grid'])
    dark = trueswi(scan['magnitude'], level, scan['mask'], scan['grid'])
    np.testing.assert_allclose(dark[scan['mask']], 0.25 * plain[scan['mask']], rtol=1e-4)
    black = trueswi(scan['magnitude'], 3 * level, scan['mask'], scan['grid'])
    assert not black[scan['mask']].any()


@pytest.mark.parametrize(
    ('voxel_size', 'b0_dir', 'dark'),
    [
        ((1.0, 1.0, 2.0), (0.0, 0.3, 0.95), [[3, 4, 4], [3, 4, 5], [3, 4, 6]]),
        # sagittal slices of 3 mm, then coronal ones, upside down
        ((3.0, 2.0, 1.0), (0.0, -0.9, 0.4), [[3, 3, 5], [3, 4, 5], [3, 5, 5]]),
        ((2.0, 1.0, 3.0), (-1.0, 0.0, 0.0), [[2, 4, 5], [3, 4, 5], [4, 4, 5]]),
    ],
)
def test_minip_runs_along_head_foot_however_the_volume_is_stored(voxel_size, b0_dir, dark):
    image = np.ones((8, 9, 10), np.float32)
    image[3, 4, 5] = 0.2
    along = minip(image, Grid(image.shape, voxel_size, b0_dir), thickness_mm=6)
    assert np.argwhere(along < 1).tolist() == dark


def test_a_slab_of_less_than_a_voxel_changes_nothing():
    image = np.random.default_rng(0).random((8, 9, 10), np.float32)
    np.testing.assert_array_equal(minip(image, Grid(image.shape), thickness_mm=0.5), image)
