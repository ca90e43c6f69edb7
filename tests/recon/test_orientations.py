import numpy as np
import pytest
from scipy import ndimage

from bids_qsm.phantom.head import rigid
from bids_qsm.recon.fourier import Box
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.orientations.conditioning import conditioning
from bids_qsm.recon.orientations.cosmos import cosmos, determined
from bids_qsm.recon.orientations.operators import Scalar, Tensor, apply_inverse, is_alike
from bids_qsm.recon.orientations.tensor import invariants, tensor, turned

FIVE = [(0, 0, 0), (25, 0, 0), (-25, 0, 0), (0, 25, 0), (0, -25, 0)]


def b0(turns):
    """B0 in the frame of a head that was turned (degrees about x, y and z)."""
    return np.array([rigid(one)[2, :3] for one in turns])


@pytest.mark.parametrize(
    ('turns', 'coverage', 'gain'),
    [
        ([(0, 0, 0), (60, 0, 0), (120, 0, 0)], 0.193, 2.18),
        ([(0, 0, 0), (25, 0, 0), (-25, 0, 0)], 0.032, 2.80),
        ([(0, 0, 0), (25, 0, 0), (0, 25, 0)], 0.116, 2.40),
        (FIVE, 0.220, 1.67),
        ([(0, 0, 0), (15, 0, 0), (0, 15, 0)], 0.075, 2.94),
    ],
)
def test_conditioning_of_known_sets(turns, coverage, gain):
    found = conditioning(b0(turns))
    assert found.coverage == pytest.approx(coverage, abs=0.002)
    assert found.noise_gain == pytest.approx(gain, abs=0.03)
    assert found.is_weak == (coverage < 0.1)


def test_one_position_is_weak_and_determines_no_tensor():
    found = conditioning([(0, 0, 1)])
    assert found.is_weak
    assert found.tensor == np.inf


@pytest.mark.parametrize(('kind', 'lead'), [(Scalar, ()), (Tensor, (6,))])
@pytest.mark.parametrize('shape', [(12, 10, 9), (9, 12, 10)])
def test_adjoint(kind, lead, shape):
    rng = np.random.default_rng(0)
    box = Box(shape, tuple(slice(0, n) for n in shape), shape)
    operator = kind.of(box, Grid(shape, (1.0, 1.5, 2.0)), b0(FIVE[:3]))
    x = rng.standard_normal((*lead, *shape), dtype=np.float32)
    y = rng.standard_normal((3, *shape), dtype=np.float32)
    there = sum(float((a * b).sum()) for a, b in zip(y, operator.forward(x), strict=True))
    assert float((operator.adjoint(y) * x).sum()) == pytest.approx(there, rel=1e-4, abs=1e-3)


def test_preconditioner_inverts_the_operator():
    """Without a mask, and but for the mean, that has no field."""
    shape = (12, 10, 9)
    box = Box(shape, tuple(slice(0, n) for n in shape), shape)
    operator = Tensor.of(box, Grid(shape, (1.0, 1.5, 2.0)), b0([*FIVE, (20, 20, 0), (-20, 20, 0)]))
    x = np.random.default_rng(0).standard_normal((6, *shape), dtype=np.float32)
    x -= x.mean((1, 2, 3), keepdims=True)
    ridge = 0.01 * np.eye(6)
    made = operator.adjoint(operator.forward(x)) + np.float32(0.01) * x
    back = apply_inverse(operator.inverse(ridge), made)
    np.testing.assert_allclose(back, x, atol=2e-3)


def test_an_isotropic_tensor_has_the_field_of_a_scalar():
    shape = (12, 10, 9)
    box = Box(shape, tuple(slice(0, n) for n in shape), shape)
    grid, h = Grid(shape), b0(FIVE[1:2])
    chi = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    components = np.zeros((6, *shape), np.float32)
    components[[0, 3, 5]] = chi
    whole = next(Tensor.of(box, grid, h).forward(components))
    np.testing.assert_allclose(whole, next(Scalar.of(box, grid, h).forward(chi)), atol=1e-5)


def ball(turns, noise, seed=0):
    """Fields of a ball with fibres along the diagonal of x and y in half of it, in a head of noise."""
    shape = (24, 23, 22)
    grid = Grid(shape, (3.0, 3.0, 3.0))
    x, y, z = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing='ij')
    mask = x**2 + y**2 + z**2 < 10**2
    white = (x**2 + y**2 + z**2 < 8**2) & (x > 0)
    v = np.array([1, 1, 0]) / np.sqrt(2)
    one = -0.03 * np.eye(3) + 0.02 * (np.outer(v, v) - np.eye(3) / 3)
    components = np.zeros((6, *shape), np.float32)
    for n, (a, b) in enumerate(((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))):
        components[n] = white * one[a, b] + (a == b) * 0.1 * (mask & (x < -3) & (abs(y) < 3))
    h = b0(turns)
    big = Box.around(mask, grid, padding=40.0)
    padded = np.stack([big.crop(c) for c in components])
    rng = np.random.default_rng(seed)
    fields = [
        mask * (big.uncrop(f) + noise * rng.standard_normal(shape, dtype=np.float32))
        for f in Tensor.of(big, grid, h).forward(padded)
    ]
    same = [mask] * len(h), [np.full(shape, max(noise, 1e-4), np.float32)] * len(h)
    return components, mask, white, (fields, *same, h), grid


def test_cosmos_finds_isotropic_sources_and_states_its_error():
    components, mask, white, data, grid = ball(FIVE, 0.002)
    chi, _, _ = cosmos(*data, grid)
    truth = components[[0, 3, 5]].mean(0)
    plain = mask & ~white
    error = (chi - truth)[plain] - (chi - truth)[plain].mean()
    assert error.std() / truth[mask].std() < 0.2


def half_turned(turns):
    """Edges of voxels of 3 mm, of slabs that followed half of each turn, along the axes of the head."""
    pairs = [(rigid(one)[:3, :3], rigid(tuple(0.5 * np.array(one)))[:3, :3]) for one in turns]
    return [3 * whole.T @ half for whole, half in pairs]


def test_cosmos_of_filtered_fields_finds_the_sources():
    """Without noise: the model with the filter has the filtered fields, that without has not."""
    turns = [FIVE[0], FIVE[1], FIVE[3]]
    _, mask, _, (_, *others), grid = ball(turns, 0)
    inside = ndimage.binary_erosion(mask, iterations=2)
    rough = np.random.default_rng(3).standard_normal(mask.shape, dtype=np.float32) * inside
    truth = 0.1 * ndimage.gaussian_filter(rough, 0.8)
    box, slabs = Box.around(mask, grid, padding=40.0), half_turned(turns)
    fields = [
        box.uncrop(one) * mask for one in Scalar.of(box, grid, b0(turns), slabs).forward(box.crop(truth))
    ]
    errors = []
    for given in (slabs, None):
        chi, *_ = cosmos(fields, *others, grid, slabs=given, max_iterations=8)
        errors.append(np.std((chi - truth)[inside]) / truth[inside].std())
    assert errors[0] < 0.03
    assert errors[1] > 3 * errors[0]


def test_what_slabs_determine_is_of_the_filter_too():
    grid = Grid((8, 8, 8), (3.0, 3.0, 3.0))
    plain, slabs = determined(b0(FIVE), grid), half_turned(FIVE)
    assert plain.regularised == plain.alone == 0
    assert plain.noise_gain == pytest.approx(1.67, abs=0.06)
    found = determined(b0(FIVE), grid, slabs=slabs)
    assert 0.05 < found.regularised < 0.15
    assert 0.2 < found.alone < 0.3
    assert found.noise_gain > 3
    # the first position alone is drawn to zero on its cone, though nothing else is asked for
    none = determined(b0(FIVE), grid, slabs=slabs, limit=0)
    assert none.regularised == pytest.approx(found.regularised, abs=0.01)
    assert none.noise_gain < 1.1 * found.noise_gain
    assert determined(b0(FIVE[:3]), grid).regularised > 0.005
    assert determined(b0(FIVE[:3]), grid, limit=0).regularised == 0


@pytest.mark.parametrize(('degrees', 'expected'), [(2.5, True), (3.5, False), (87.5, True), (45, False)])
def test_slabs_are_alike_by_their_angle_whatever_their_voxels(degrees, expected):
    for edges in ((1, 1, 1), (1, 1, 3)):
        for axis in range(3):
            first = np.diag(edges).astype(float)
            turn = rigid(tuple(degrees * np.eye(3)[axis]))[:3, :3]
            quarter = round(degrees / 90) % 2
            sizes = np.array(edges, float)
            if quarter:
                a, b = (n for n in range(3) if n != axis)
                sizes[[a, b]] = sizes[[b, a]]
            assert is_alike(first, turn * sizes) == expected


@pytest.mark.parametrize('turns', [FIVE, FIVE[:3]])
def test_cosmos_states_the_error_that_noise_makes(turns):
    _, mask, _, (fields, *others), grid = ball(turns, 0.002)
    rng = np.random.default_rng(5)
    noise = [mask * 0.002 * rng.standard_normal(mask.shape, dtype=np.float32) for _ in fields]
    chi, sd, excess = cosmos(noise, *others, grid)
    assert np.median(excess[mask]) == pytest.approx(1, abs=0.05)
    rim = mask & ~ndimage.binary_erosion(mask, iterations=2)
    for where in (rim, mask & ~rim):
        assert np.sqrt(np.mean((chi[where] / sd[where]) ** 2)) == pytest.approx(1, abs=0.1)


def test_cosmos_without_regularisation_is_no_empty_map():
    components, mask, white, data, grid = ball([*FIVE[:1], (60, 0, 0), (120, 0, 0)], 0.0005)
    truth = components[[0, 3, 5]].mean(0)
    chi, _, _ = cosmos(*data, grid, limit=0)
    assert np.corrcoef(chi[mask & ~white], truth[mask & ~white])[0, 1] > 0.95
    # the zeros of both kernels meet on the grid where the directions of B0 are perpendicular
    _, _, _, data, grid = ball([(0, 0, 0), (90, 0, 0)], 0.0005)
    for one in cosmos(*data, grid, limit=0, max_iterations=2):
        assert np.isfinite(one).all()
    with pytest.raises(ValueError, match='noise of the fields is 0'):
        cosmos(*data[:2], [0 * one for one in data[2]], data[3], grid)


def test_cosmos_says_where_positions_do_not_agree():
    *_, (fields, *others), grid = ball(FIVE, 0.002)
    fields[1] = fields[1].copy()
    fields[1][2:9] += 0.02
    _, _, excess = cosmos(fields, *others, grid)
    assert excess[5, 11, 11] > 2 > excess[20, 11, 11]


def test_tensor_of_twelve_positions_finds_the_fibres():
    turns = [
        *FIVE,
        (20, 20, 0),
        (20, -20, 0),
        (-20, 20, 0),
        (-20, -20, 0),
        (35, 0, 0),
        (0, 35, 0),
        (0, -35, 0),
    ]
    _, _, white, data, grid = ball(turns, 0.0005)
    _, anisotropy, direction = invariants(tensor(*data, white, grid, max_iterations=25))
    assert np.median(anisotropy[white]) == pytest.approx(0.02, rel=0.15)
    angle = np.degrees(np.arccos(np.clip(abs(direction[white] @ [0.5**0.5, 0.5**0.5, 0]), 0, 1)))
    assert np.median(angle) < 15


def test_turned_takes_a_tensor_to_other_axes():
    components = np.array([0.02, 0, 0, -0.01, 0, -0.01])[:, None]
    _, anisotropy, direction = invariants(turned(components, rigid((0, 0, 90))[:3, :3]))
    assert anisotropy[0] == pytest.approx(0.03)
    np.testing.assert_allclose(np.abs(direction[0]), (0, 1, 0), atol=1e-6)
