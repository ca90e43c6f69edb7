import numpy as np
import pytest

from bids_qsm.biomarkers.vesselness import (
    fill,
    hessian_eigenvalues,
    tube_eigenvalues,
    tubeness,
    vein_tree,
    vesselness,
)
from bids_qsm.recon.grid import Grid

SHAPE = (40, 40, 30)
GRID = Grid(SHAPE, (1.0, 1.0, 1.5))
OFFSET = [axis - np.float32(n // 2) for axis, n in zip(np.indices(SHAPE, np.float32), SHAPE, strict=True)]
X, Y, Z = (axis * v for axis, v in zip(OFFSET, GRID.voxel_size, strict=True))
MASK = np.ones(SHAPE, bool)
MIDDLE = tuple(n // 2 for n in SHAPE)


def soft(distance):
    """Tube, plate or ball of .2 ppm by the distance (mm) to its wall, and noise."""
    noise = 0.004 * np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    return (0.2 * np.clip(0.5 - distance, 0, 1)).astype(np.float32) + noise


@pytest.mark.parametrize(
    ('direction', 'radius'), [((0, 0, 1), 1.0), ((1, 0, 0), 1.5), ((1, 1, 0), 1.0), ((0.5, 0.5, 1), 1.2)]
)
def test_a_tube_looks_like_a_vein_a_ball_and_a_plate_do_not(direction, radius):
    along = np.array(direction) / np.linalg.norm(direction)
    points = np.stack([X, Y, Z], -1)
    beside = points - (points @ along)[..., None] * along
    tube = vesselness(soft(np.linalg.norm(beside, axis=-1) - radius), MASK, GRID)
    ball = vesselness(soft(np.linalg.norm(points, axis=-1) - 2), MASK, GRID)
    plate = vesselness(soft(np.abs(points @ along) - radius), MASK, GRID)
    assert tube[MIDDLE] > 0.65
    assert ball[MIDDLE] < 0.4
    assert plate[MIDDLE] < 0.3
    assert tube.max() <= 1
    assert tube.min() == 0


def test_diamagnetic_tubes_and_noise_are_no_veins():
    tube = soft(np.hypot(X, Y) - 1)
    assert vesselness(-tube, MASK, GRID)[MIDDLE] == 0
    nothing = vesselness(soft(np.full(SHAPE, 9.0)), MASK, GRID)
    assert np.percentile(nothing, 99) < 0.2


def test_the_edge_of_the_mask_is_no_structure():
    chi = 0.3 + soft(np.full(SHAPE, 9.0))
    mask = X**2 + Y**2 + Z**2 < 15**2
    found = vesselness(np.where(mask, chi, 0), mask, GRID)
    assert found.max() < 0.5
    assert not found[~mask].any()
    filled = fill(np.where(mask, chi, 0), mask, GRID)
    assert filled[MIDDLE] == chi[MIDDLE]
    shell = ~mask & (X**2 + Y**2 + Z**2 < 17**2)
    assert filled[shell] == pytest.approx(0.3, abs=0.01)


def test_an_empty_mask_has_no_veins():
    assert not vesselness(soft(np.hypot(X, Y) - 1), ~MASK, GRID).any()


def test_the_tree_holds_long_pieces_only():
    chi = soft(np.hypot(X + 10, Y) - 1) + soft(np.sqrt((X - 10) ** 2 + Y**2 + Z**2) - 2)
    tubes = vesselness(chi, MASK, GRID)
    tree = vein_tree(tubes, chi / 0.01, MASK, GRID)
    assert tree[10, 20].mean() > 0.9
    assert not tree[20:].any()
    assert tubes[20:].max() > 0.3, 'the flank of the ball looks like a tube'


def test_eigenvalues_of_a_turned_parabola():
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    wanted = np.array([0.5, -2.0, 3.0])
    points = np.stack([X, Y, Z], -1)
    data = 0.5 * np.einsum('...i,ij,...j', points, turn @ np.diag(wanted) @ turn.T, points)
    found, axis = hessian_eigenvalues(data.astype(np.float32), np.array([MIDDLE]), np.array(GRID.voxel_size))
    np.testing.assert_allclose(found[0], wanted, atol=0.02)
    assert abs(axis[0] @ turn[:, 0]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize('direction', [(0, 0, 1), (1, 0, 0), (1, 1, 0), (1, 0, 1)])
def test_a_thin_tube_is_round_in_thick_slices(direction):
    """A tube thinner than the voxel, averaged over voxels of 1 x 1 x 3 mm."""
    grid = Grid((24, 24, 16), (1.0, 1.0, 3.0))
    along = np.array(direction) / np.linalg.norm(direction)
    share = np.zeros(grid.shape, np.float32)
    parts = (np.arange(6) + 0.5) / 6 - 0.5
    for part in np.stack(np.meshgrid(parts, parts, parts), -1).reshape(-1, 3):
        points = np.stack(
            np.meshgrid(
                *(
                    (np.arange(n) - n // 2 + p) * v
                    for n, p, v in zip(grid.shape, part, grid.voxel_size, strict=True)
                ),
                indexing='ij',
            ),
            -1,
        )
        share += np.linalg.norm(points - (points @ along)[..., None] * along, axis=-1) < 0.5
    middle = np.array([[n // 2 for n in grid.shape]])
    values, axis = tube_eigenvalues(share, middle, grid, 0.7)
    assert tubeness(values)[0] > 0.65
    assert abs(axis[0] @ along) > 0.9
