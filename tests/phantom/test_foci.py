import numpy as np
import pytest

from bids_qsm.phantom.foci import KINDS, PLACES, Focus, Sphere, draw_focus, label_foci, plan_foci, put_foci
from bids_qsm.phantom.gre import Protocol
from bids_qsm.recon.units import ppm_per_radian

PROTOCOL = Protocol((1.0, 1.0, 1.0), (24, 24, 24), (0.01, 0.02))
CENTRE = (0.2, -0.3, 0.1)


def signal_of(*spheres):
    signal = np.ones((24, 24, 24, 2), np.complex64)
    put_foci(signal, [Focus(CENTRE, spheres, 'microbleed')], PROTOCOL)
    return signal


def test_far_away_the_phase_is_that_of_a_dipole_and_in_the_middle_there_is_a_void():
    ball = Sphere(2.0, 1.0, 200.0, 0.8)
    signal = signal_of(ball)
    points = np.moveaxis(np.indices((24, 24, 24)), 0, -1) @ PROTOCOL.affine[:3, :3].T + PROTOCOL.affine[:3, 3]
    offset = points - CENTRE
    distance = np.linalg.norm(offset, axis=-1)
    field = ball.moment / (4 * np.pi * distance**3) * (3 * (offset[..., 2] / distance) ** 2 - 1)
    far = distance > 8
    turn = 0.02 / ppm_per_radian(3.0)
    np.testing.assert_allclose(np.angle(signal[..., 1])[far], (turn * field)[far], atol=0.01)
    size = np.abs(signal[..., 1])
    # tissue of the focus, and voxels beside it that dephase
    assert size[12, 12, 12] < 0.05
    assert size[(distance > 2.6) & (distance < 3.5)].min() < 0.8
    assert size[far] == pytest.approx(1, abs=0.01)


def test_moments_add_up():
    bleed, core = Sphere(3.0, 0.5, 50.0, 0.8), Sphere(1.5, -4.0, 0.0, 0.5)
    both = Focus(CENTRE, (bleed, core), 'mixed')
    assert both.moment == pytest.approx(bleed.moment + core.moment)
    assert both.radius == 3
    assert abs(both.moment) < 1e-9


@pytest.mark.parametrize('kind', KINDS)
def test_kinds_have_their_susceptibility(kind):
    rng = np.random.default_rng(1)
    for _ in range(10):
        spheres = draw_focus(kind, 4.0, rng)
        chi = sum(s.chi for s in spheres)
        low, high = {'microbleed': (0.3, 3), 'large': (0.3, 1)}.get(kind, (-2, -0.1))
        assert low <= chi <= high
        assert all(0 <= s.r2star <= 300 for s in spheres)
        assert np.prod([s.density for s in spheres]) > 0.1


def test_labels_hold_the_voxel_of_the_centre_at_least():
    small = Focus((5.4, 5.4, 5.4), (Sphere(0.2, 1, 0, 1),), 'microbleed')
    large = Focus((-4.0, 0.0, 0.0), (Sphere(3.0, 1, 0, 1),), 'microbleed')
    found = label_foci([small, large], PROTOCOL.shape, PROTOCOL.affine)
    assert (found == 1).sum() == 1
    assert (found == 2).sum() == pytest.approx(4 / 3 * np.pi * 27, rel=0.25)


def test_foci_are_where_the_plan_says(head):
    protocol = Protocol((2.0, 2.0, 2.0), (180, 222, 180))
    few = {'microbleeds': 3, 'calcifications': 1, 'mixed': 0, 'diameters': (1.0, 3.0)}
    foci = plan_foci(3, head, protocol.shape, protocol.affine, **few)
    assert {f.place for f in foci} == set(PLACES)
    centres = np.array([f.centre for f in foci])
    apart = np.linalg.norm(centres[:, None] - centres, axis=-1) + 99 * np.eye(len(foci))
    assert apart.min() > 8
    with pytest.raises(ValueError, match='no place is left'):
        plan_foci(3, head, protocol.shape, protocol.affine, apart=80.0)
