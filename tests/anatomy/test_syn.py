"""The engine of the symmetric alignment does what DIPY's does."""

import numpy as np
import pytest
from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
from scipy import ndimage

from bids_qsm.anatomy import syn
from bids_qsm.anatomy.transform import transform_points

AFFINE = np.array([[0.0, 1.5, 0, -20], [1.5, 0, 0, -25], [0, 0, -1.5, 22], [0, 0, 0, 1]])


@pytest.fixture(scope='module')
def pair():
    """A ball with structure, and the same one shifted and bent."""
    rng = np.random.default_rng(0)
    place = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (30, 34, 28)), indexing='ij'))
    texture = ndimage.gaussian_filter(rng.standard_normal(place.shape[1:]), 2.0)
    ball = ((place**2).sum(0) < 0.6) * (1 + 2 * texture)
    bent = np.indices(ball.shape) + np.array([1.2, -0.8, 0.9])[:, None, None, None]
    bent[0] += 1.5 * np.sin(2.5 * place[1])
    return ball, ndimage.map_coordinates(ball, bent, order=1)


def test_iterations_are_those_of_dipy_and_stop_with_them(pair, monkeypatch):
    energies, found = [], []
    for engine in (syn.Engine, SymmetricDiffeomorphicRegistration):

        class Told(engine):
            def _optimize(self):
                super()._optimize()
                energies.append(self.full_energy_profile)

        monkeypatch.setattr(syn, 'Engine', Told)
        found.append(syn.syn(*pair, AFFINE, iterations=(60, 4)))
    assert 12 < len(energies[0]) < 64  # the coarse level ended early
    np.testing.assert_allclose(*energies, rtol=1e-4)
    for one, other in zip(*found, strict=True):
        assert np.abs(other.field).max() > 2
        np.testing.assert_allclose(one.field, other.field, atol=1e-3)


def test_the_two_maps_are_inverses(pair):
    forward, backward = syn.syn(*pair, AFFINE, iterations=(12, 6))
    points = np.random.default_rng(1).uniform(8, 20, (200, 3)) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    there = transform_points(points, [forward])
    assert np.abs(there - points).max() > 1
    assert np.abs(transform_points(there, [backward]) - points).max() < 0.15
