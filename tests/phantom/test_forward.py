import numpy as np
import pytest

from bids_qsm.phantom.forward import dipole_field, overlap
from bids_qsm.recon.grid import Grid


def sphere(shape, radius):
    axes = [np.arange(n) - (n - 1) / 2 for n in shape]
    offset = np.stack(np.meshgrid(*axes, indexing='ij'), -1)
    distance = np.linalg.norm(offset, axis=-1)
    return np.clip(0.5 + radius - distance, 0, 1).astype(np.float32), offset, distance


@pytest.mark.parametrize('b0_dir', [(0, 0, 1), (0, 0.6, 0.8), (0.48, -0.6, 0.64)])
def test_sphere_has_the_field_of_a_dipole_outside_and_none_inside(b0_dir):
    radius, shape = 8.0, (72, 72, 72)
    ball, offset, distance = sphere(shape, radius)
    field = dipole_field(ball, Grid(shape, (1, 1, 1), b0_dir), pad=1.8)
    along = (offset @ np.array(b0_dir)) / distance
    expected = (radius / distance) ** 3 / 3 * (3 * along**2 - 1)
    outside = (distance > radius + 3) & (distance < 24)
    assert np.abs(field - expected)[outside].max() < 0.02
    assert np.sqrt(np.mean((field - expected)[outside] ** 2)) < 0.001
    assert expected[outside].std() > 0.03
    assert np.abs(field[distance < radius - 3]).max() < 0.02


def test_voxel_size_does_not_change_the_field():
    ball, _, _ = sphere((48, 48, 48), 6.0)
    whole = dipole_field(ball, Grid((48, 48, 48), (1, 1, 1)))
    scaled = dipole_field(ball, Grid((48, 48, 48), (2.5, 2.5, 2.5)))
    np.testing.assert_allclose(whole, scaled, atol=1e-6)


def test_overlap_shares_add_up_to_the_length_of_the_interval():
    axis = np.arange(-20, 21, 4.0)
    assert overlap(axis, -7.5, 9.0).sum() * 4 == pytest.approx(16.5)
