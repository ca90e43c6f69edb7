import numpy as np
import pytest

from bids_qsm.recon.fourier import convolve, dipole_kernel
from bids_qsm.recon.inversion import ndi
from bids_qsm.recon.inversion.ndi import _descend
from tests.recon.test_inversion import error

RADIANS = 2 * np.pi * 123.0 * 0.02


def test_local_field_to_susceptibility(head, measured):
    chi = ndi(measured, head.brain, head.noise, head.grid, RADIANS)
    assert chi.dtype == np.float32
    assert not chi[~head.brain].any()
    assert error(chi, head.chi, head.brain) < 0.5


def test_stops_earlier_where_noise_is_stronger(head):
    rng = np.random.default_rng(1)
    errors = []
    for level in (1, 4, 16):
        field = head.local + level * head.noise * rng.standard_normal(head.grid.shape, dtype=np.float32)
        chi = ndi(field, head.brain, level * head.noise, head.grid, RADIANS)
        errors.append(error(chi, head.chi, head.brain))
        on = ndi(field, head.brain, level * head.noise, head.grid, RADIANS, discrepancy=0, tolerance=0)
        assert errors[-1] < 1.05 * error(on, head.chi, head.brain)
    assert errors[0] < errors[1] < errors[2] < 1


def test_converges_to_the_minimum_of_the_complex_misfit():
    """Far on, the misfit of noise-free phase falls to nothing, wraps and all."""
    shape, radians = (16, 18, 14), 30.0
    dipole = dipole_kernel(shape, (1.0, 1.0, 1.5), (0.0, 0.6, 0.8))
    chi = np.zeros(shape, np.float32)
    chi[6:9, 7:10, 5:8] = 0.2
    field = convolve(chi, dipole)
    wrapped = (np.angle(np.exp(1j * radians * field)) / radians).astype(np.float32)
    weight = np.ones(shape, np.float32)
    options = {'radians': radians, 'goal': 0, 'tolerance': 0}
    few, many = (
        _descend(wrapped, weight, lambda s: convolve(s, dipole**2), max_iterations=n, **options)
        for n in (1, 40)
    )
    first, last = (np.linalg.norm(convolve(s, dipole**2) - field) for s in (few, many))
    assert last < 0.02 * np.linalg.norm(field) < first


def test_dipole_is_its_own_adjoint():
    shape = (9, 10, 11)
    dipole = dipole_kernel(shape, (1.0, 0.8, 2.0), (0.3, -0.5, 0.81))
    x, y = (np.random.default_rng(n).standard_normal(shape, dtype=np.float32) for n in (0, 1))
    for kernel in (dipole, dipole**2):
        assert np.vdot(convolve(x, kernel), y) == pytest.approx(np.vdot(x, convolve(y, kernel)), rel=1e-4)
