import numpy as np
import pytest
from scipy import ndimage

from bids_qsm.errors import UserError
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.masking import (
    MASK,
    bet,
    brain_mask,
    combined,
    magnitude_mask,
    merge_two_pass,
    quality_mask,
    refine,
    strict,
    two_pass,
)
from bids_qsm.recon.masking.morphology import without_specks
from bids_qsm.recon.masking.quality import _regrow
from bids_qsm.recon.masking.surface import fill_surface, neighbours, sphere


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.fixture(scope='module')
def scan(head):
    """Magnitude (one echo, with noise) and quality, with a vein inside and dead signal over the sinus."""
    rng = np.random.default_rng(0)
    tissue = head.head & (head.total > -5)
    bone_or_air = (np.abs(head.total - head.local) > 3) & ~head.brain
    signal = np.where(tissue & ~bone_or_air, 1.0, 0.0).astype(np.float32)
    quality = np.where(signal > 0, 0.85, 0.2) + 0.05 * rng.standard_normal(head.grid.shape)
    centre = [n // 2 for n in head.grid.shape]
    vein = np.zeros(head.grid.shape, bool)
    vein[centre[0], centre[1] - 5 : centre[1] + 5, centre[2]] = True
    front = np.argwhere(head.brain[centre[0], :, centre[2]]).max()
    dead = np.zeros(head.grid.shape, bool)
    dead[centre[0] - 4 : centre[0] + 5, front - 4 : front + 9, centre[2] - 4 : centre[2] + 5] = True
    dead &= head.brain
    for spot in (vein, dead):
        quality[spot] = 0.15
        signal[spot] = 0.15
    noise = 0.02 * rng.standard_normal((2, *head.grid.shape))
    magnitude = np.hypot(signal + noise[0], noise[1]).astype(np.float32)[..., None]
    return {
        'magnitude': magnitude,
        'quality': np.clip(quality, 0, 1).astype(np.float32),
        'vein': vein,
        'dead': dead,
    }


def test_combined_keeps_veins_and_drops_dead_signal(head, scan):
    mask = combined(scan['magnitude'], scan['quality'], head.brain, head.grid)
    assert mask.dtype == bool
    assert not (mask & ~head.brain).any()
    assert mask[scan['vein']].all()
    assert mask[scan['dead']].mean() < 0.3
    assert dice(mask, head.brain & ~scan['dead']) > 0.97


@pytest.fixture(scope='module')
def ball():
    """A brain of 40 mm radius; a nucleus at its centre that a vein of 4.5 mm joins with the outside; a loss.

    The loss is as wide as that above a sinus, and 18 mm deep.
    """
    grid = Grid((64, 64, 64), (1.5, 1.5, 1.5), (0, 0, 1))
    x = 1.5 * (np.indices(grid.shape) - 31.5)
    brain = np.linalg.norm(x, axis=0) < 40
    nucleus = (np.abs(x) < 7).all(0)
    vein = brain & (np.abs(x[:2]) < 2.5).all(0) & (x[2] > 0)
    loss = brain & (np.hypot(x[0], x[1]) < 8) & (x[2] < -22)
    return grid, brain, nucleus, vein, loss


def test_a_nucleus_that_veins_join_with_the_outside_stays(ball):
    grid, brain, nucleus, vein, loss = ball
    bad = nucleus | vein | loss
    mask = combined(None, np.where(bad, 0.1, 0.8).astype(np.float32), brain, grid)
    refined = refine(brain, bad.astype(np.float32), np.full(grid.shape, 1e-3, np.float32), grid)
    deep = np.linalg.norm(1.5 * (np.indices(grid.shape) - 31.5), axis=0) < 28
    for found in (mask, refined):
        assert found[nucleus | (vein & deep)].all()
        assert found[loss].mean() < 0.1
        assert found[brain & ~bad].mean() > 0.99


def test_all_good_quality_cuts_nothing(head, scan):
    rng = np.random.default_rng(1)
    quality = (0.8 + 0.04 * rng.standard_normal(head.grid.shape)).astype(np.float32)
    mask = combined(scan['magnitude'], quality, head.brain, head.grid)
    assert dice(mask, head.brain) > 0.995


def test_quality_alone_keeps_the_head(head, scan):
    mask = quality_mask(scan['magnitude'], scan['quality'], head.grid)
    assert mask[head.brain & ~scan['dead']].mean() > 0.97
    assert mask[~head.head].mean() < 0.01


@pytest.fixture(scope='module')
def whole(head):
    """Magnitude of brain, dark skull, scalp and neck, with the spinal cord between brain and neck."""
    rng = np.random.default_rng(0)
    away = ndimage.distance_transform_edt(~head.brain, sampling=head.grid.voxel_size)
    x, y, z = np.ogrid[tuple(slice(n) for n in head.grid.shape)]
    cord = (x - 29) ** 2 + (y - 33) ** 2 <= 9
    tissue = head.head & ((away > 9) | (cord & (z < 31)))
    signal = np.where(head.brain, 1.0, np.where(tissue, 0.9, 0.06))
    signal[~head.head & ~head.brain] = 0
    noise = 0.02 * rng.standard_normal((2, *head.grid.shape))
    return np.hypot(signal + noise[0], noise[1]).astype(np.float32)[..., None]


def test_without_a_brain_mask_the_surface_finds_the_brain(head, whole):
    quality = np.where(whole[..., 0] > 0.3, 0.85, 0.1).astype(np.float32)
    mask = combined(whole, quality, None, head.grid)
    assert dice(mask, head.brain) > 0.96
    assert mask[head.brain].mean() > 0.98


def test_bet_leaves_scalp_and_neck_out(head, whole):
    mask = bet(whole, head.grid, level=3)
    assert dice(mask, head.brain) > 0.94
    away = ndimage.distance_transform_edt(~head.brain, sampling=head.grid.voxel_size)
    assert mask[head.head & (away > 12)].mean() < 0.005


def test_shading_does_not_move_the_surface(head, whole):
    x, y = (np.linspace(-1, 1, n) for n in head.grid.shape[:2])
    shading = np.exp(0.5 * x[:, None] + 0.4 * y**2)[:, :, None, None].astype(np.float32)
    masks = [bet(whole * s, head.grid, level=3) for s in (1, shading)]
    assert dice(*masks) > 0.98


def test_magnitude_alone(head, scan):
    mask = magnitude_mask(scan['magnitude'], head.grid)
    assert mask[head.brain & ~scan['dead']].mean() > 0.97
    assert mask[~head.head].mean() < 0.01


def test_brain_erodes_in_mm(head):
    assert dice(brain_mask(head.brain, head.grid), head.brain) > 0.999
    layer = brain_mask(head.brain, head.grid, erosion_mm=3.0)
    assert 0.7 * head.brain.sum() < layer.sum() < head.brain.sum()
    spot = head.brain.copy()
    spot[0, 0, 0] = True
    assert not brain_mask(spot, head.grid)[0, 0, 0]


def test_errors(head, scan):
    empty = np.zeros_like(head.brain)
    with pytest.raises(UserError, match='needs a brain mask'):
        brain_mask(None, head.grid)
    with pytest.raises(UserError, match='empty'):
        combined(scan['magnitude'], scan['quality'], empty, head.grid)
    with pytest.raises(UserError, match='empty'):
        combined(scan['magnitude'], np.zeros_like(scan['quality']), head.brain, head.grid)
    with pytest.raises(UserError, match='zero almost everywhere'):
        magnitude_mask(np.zeros_like(scan['magnitude']), head.grid)


def test_every_method_is_tested():
    assert set(MASK) == {'combined', 'bet', 'hdbet', 'two_pass', 'brain', 'quality', 'magnitude'}
    assert next(iter(MASK)) == 'combined'


def test_two_passes(head, scan):
    filled = two_pass(scan['magnitude'], scan['quality'], head.brain, head.grid)
    assert filled[scan['vein']].all()
    first = strict(scan['quality'], filled)
    assert not (first & ~filled).any()
    assert not first[scan['vein'] & filled].any()
    assert first.sum() > 0.9 * filled.sum()
    merged = merge_two_pass(
        np.where(first, head.chi + 0.02, 0), np.where(filled, head.chi, 0), first, head.grid
    )
    np.testing.assert_allclose(merged[filled], head.chi[filled] + 0.02, atol=1e-5)
    assert not merged[~filled].any()


def test_refine_drops_the_bad_rim_and_keeps_spots(head):
    residual = np.full(head.grid.shape, 0.03, np.float32)
    noise = np.full(head.grid.shape, 1e-3, np.float32)
    assert refine(head.brain, residual, noise, head.grid) is head.brain
    centre = [n // 2 for n in head.grid.shape]
    front = np.argwhere(head.brain[centre[0], :, centre[2]]).max()
    rim, spot = (np.zeros(head.grid.shape, bool) for _ in range(2))
    rim[centre[0] - 3 : centre[0] + 4, front - 3 : front + 1, centre[2] - 3 : centre[2] + 4] = True
    spot[tuple(slice(c - 1, c + 2) for c in centre)] = True
    residual[rim | spot] = 0.8
    refined = refine(head.brain, residual, noise, head.grid)
    assert refined[spot].all()
    assert not refined[rim].any()
    assert refined[head.brain & ~rim].mean() > 0.995
    noise[rim] = 1.0
    np.testing.assert_array_equal(refine(head.brain, 0 * residual, noise, head.grid), refined)


def test_end_slices_that_were_badly_fitted_go_as_a_whole(head):
    residual = np.full(head.grid.shape, 0.03, np.float32)
    noise = np.full(head.grid.shape, 1e-3, np.float32)
    bottom = np.argwhere(head.brain)[:, 2].min()
    middle = head.grid.shape[2] // 2
    checker = np.indices(head.grid.shape).sum(0) % 3 > 0
    # two thirds of the voxels of the lowest three slices, and of one in the middle
    for k in (*range(bottom, bottom + 3), middle):
        noise[..., k][checker[..., k]] = 10e-3
    # a third of the next
    noise[..., bottom + 3][~checker[..., bottom + 3]] = 10e-3
    refined = refine(head.brain, residual, noise, head.grid)
    expected = head.brain.copy()
    expected[..., : bottom + 3] = False
    np.testing.assert_array_equal(refined, expected)


def test_specks_go_and_parts_of_the_brain_stay():
    grid = Grid((40, 30, 30), (3.0, 3.0, 3.0))
    mask = np.zeros(grid.shape, bool)
    mask[2:22, 2:22, 2:22] = True
    # 2.2 ml, as the tip of a lobe
    mask[24:28, 4:8, 4:9] = True
    clean = mask.copy()
    # 1 and 4 voxels of 27 mm^3
    mask[34, 4, 4] = mask[34, 10:14, 10] = True
    np.testing.assert_array_equal(without_specks(mask, grid), clean)
    assert without_specks(clean, grid) is clean
    # of a small object a small piece counts
    small = Grid(grid.shape, (0.3, 0.3, 0.3))
    assert without_specks(clean, small) is clean
    assert not without_specks(np.zeros_like(mask), grid).any()


def test_a_sphere_is_filled():
    points, triangles = sphere(4)
    assert len(neighbours(triangles, len(points))) == 2562
    grid = Grid((40, 30, 24), (1.0, 1.5, 2.0))
    inside = fill_surface(points * 12 + [19, 21, 23], triangles, grid)
    assert inside.sum() * grid.voxel_volume == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.02)
    assert inside[19, 14, 11]
    assert not inside[0].any()


def test_regrowth_reaches_as_far_along_the_axes_as_between_them():
    """The surface stops short of a bright ball; what is added must not end with the surface's box."""
    grid = Grid((64, 64, 64))
    x, y, z = np.ogrid[-32:32, -32:32, -32:32]
    radius = np.sqrt(x**2 + y**2 + z**2)
    ball = radius <= 24
    magnitude = np.where(ball, 1, 0.05)[..., None].astype(np.float32)
    quality = np.where(ball, 0.9, 0.1).astype(np.float32)
    grown = _regrow(radius <= 21, magnitude, quality, grid)
    assert (grown & ball).sum() > 0.98 * ball.sum()
