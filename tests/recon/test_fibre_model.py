"""Fields of fibres, and how they are told from isotropic susceptibility."""

from itertools import islice

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from bids_qsm.phantom.forward import dipole_field
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.orientations.fibres import FibreModel, fibre_fields, turns
from bids_qsm.recon.orientations.operators import COMPONENTS
from bids_qsm.recon.orientations.tensor import turned

SHAPE = (26, 30, 26)
GRID = Grid(SHAPE, (3.0, 3.0, 3.0), (0.1, -0.2, float(np.sqrt(0.95))))
TRUE = np.array([0.033, -0.025, -0.012])


def smooth(rng: np.random.Generator, mm: float):
    one = gaussian_filter(rng.standard_normal(SHAPE), mm / 3)
    return (one / one.std()).astype(np.float32)


def fibre_tensor(vectors: np.ndarray, anisotropy: np.ndarray):
    """Traceless tensor (6, x, y, z) of fibres along ``vectors``."""
    parts = [vectors[..., a] * vectors[..., b] - (a == b) / np.float32(3) for a, b in COMPONENTS]
    return np.stack([(anisotropy * one).astype(np.float32) for one in parts])


@pytest.fixture(scope='module')
def head():
    """An ellipsoid with patches of white matter, whose directions vary, and its field."""
    rng = np.random.default_rng(3)
    points = (np.indices(SHAPE) - np.reshape(np.array(SHAPE) - 1, (3, 1, 1, 1)) / 2) * 3
    radius = np.sqrt(sum((p / r) ** 2 for p, r in zip(points, (33, 40, 33), strict=True)))
    mask = radius < 1
    white = mask & (smooth(rng, 8) > 0) & (radius < 0.9)
    vectors = np.stack([smooth(rng, 14) for _ in range(3)], -1)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    fractions = np.where(white, 0.6 + 0.1 * smooth(rng, 10), 0).astype(np.float32)
    chi = mask * (0.02 * smooth(rng, 5) - 0.03 * white)
    isotropic = dipole_field(chi.astype(np.float32), GRID)
    noise = np.full(SHAPE, 0.002, np.float32)
    return mask, vectors, fractions, isotropic + noise * rng.standard_normal(SHAPE).astype(np.float32), noise


@pytest.fixture(scope='module')
def tensor(head):
    return fibre_tensor(head[1], head[2])


@pytest.fixture(scope='module')
def model(head, tensor):
    mask, _, fractions, field, noise = head
    seen = field + np.tensordot(TRUE.astype(np.float32), fibre_fields(tensor, head[2], GRID), 1)
    return FibreModel(seen * mask, noise, mask, fractions, GRID)


def test_the_field_along_fibres_is_that_of_a_cylinder():
    """A long cylinder along B0 shifts itself by 1/3 of what is along it: 2/9 a of the traceless tensor."""
    x, y, _ = np.indices((32, 32, 32)) - 15.5
    inside = (np.hypot(x, y) < 5).astype(np.float32)
    along = np.broadcast_to(np.float32([0, 0, 1]), (32, 32, 32, 3))
    bulk, shift, offset = fibre_fields(fibre_tensor(along, inside), inside, Grid((32, 32, 32)))
    # zz = 2/3: f = h'Xh / 3 - (k.h)(k'Xh)/k^2, and k.h is 0 but at the ends
    assert bulk[15, 15, 15] == pytest.approx(2 / 9, abs=0.05)
    assert shift[15, 15, 15] == pytest.approx(-2 / 3, abs=1e-5)
    np.testing.assert_array_equal(offset, inside)


def test_a_tensor_has_no_trace_and_turns_with_its_vectors(tensor, head):
    matrix = np.array([[0, 1, 0], [0, 0, -1], [1, 0, 0]], np.float32)
    np.testing.assert_allclose(tensor[[0, 3, 5]].sum(0), 0, atol=1e-6)
    again = fibre_tensor(head[1] @ matrix.T, head[2])
    np.testing.assert_allclose(turned(tensor, matrix), again, atol=1e-6)


def test_all_terms_are_found_with_their_errors(model, tensor):
    found = model.fit(tensor)
    assert found.values == pytest.approx(TRUE, rel=0.25)
    assert (np.abs(found.values - TRUE) < 3 * found.sd).all()
    assert (found.sd < 0.008).all()
    assert found.evidence > 100


def test_a_head_without_anisotropy_has_none(head, tensor):
    mask, _, fractions, field, noise = head
    found = FibreModel(field * mask, noise, mask, fractions, GRID).fit(tensor)
    assert (np.abs(found.values) < 3 * found.sd + 0.002).all()
    assert found.evidence < 20


def test_the_field_knows_swapped_and_reversed_axes(model, tensor):
    right = model.fit(tensor)
    for matrix in (np.diag([1, 1, -1]), np.eye(3)[[1, 0, 2]], np.eye(3)[[2, 1, 0]]):
        wrong = model.fit(turned(tensor, matrix.astype(np.float32)))
        assert wrong.evidence < 0.9 * right.evidence


def test_no_other_frame_is_better(model, tensor):
    right = model.fit(tensor)
    ways = list(turns())
    assert all(np.allclose(one @ one.T, np.eye(3), atol=1e-6) for one in ways)
    found = list(islice(model.frames(tensor, np.eye(3)), 3))
    np.testing.assert_array_equal(found[0][0], ways[0])
    assert right.evidence > max(fit.evidence for _, fit in found)


def test_blocks_of_voxels_have_the_noise_of_their_mean():
    """Residuals of noise alone are those that were expected, whatever the number of voxels a block."""
    rng = np.random.default_rng(5)
    shape = (36, 36, 32)
    mask = sum((p - n / 2) ** 2 for p, n in zip(np.indices(shape), shape, strict=True)) < 15**2
    noise = np.full(shape, 0.02, np.float32)
    field = (noise * rng.standard_normal(shape) * mask).astype(np.float32)
    model = FibreModel(field, noise, mask, mask * np.float32(0.5), Grid(shape, (2.0, 2.0, 2.0)))
    assert model.grid.voxel_size == (4.0, 4.0, 4.0)
    assert model.scale == pytest.approx(0.85, abs=0.2)
