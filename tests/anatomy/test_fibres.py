"""Directions of fibres: frames, orders of tensors, and what transforms do to them."""

from itertools import permutations, product

import numpy as np
import pytest

from bids_qsm.anatomy.fibres import (
    FRAMES,
    ORDERS,
    SYMMETRIC,
    Fibres,
    anisotropy_of,
    carry,
    check_frame,
    fibres_in_scanner,
    fibres_of,
    size_of,
    to_scanner,
)
from bids_qsm.errors import UserError
from bids_qsm.phantom.head import rigid
from bids_qsm.recon.orientations.operators import COMPONENTS
from bids_qsm.recon.orientations.tensor import turned

SHAPE = (28, 30, 26)


def affine_of(*, left: bool):
    """Voxels of 2 mm of an oblique slab, with the first axis to the left or to the right."""
    turn = rigid((25, -10, 15))[:3, :3] * 2.0
    if left:
        turn[:, 0] *= -1
    affine = np.eye(4)
    affine[:3, :3] = turn
    affine[:3, 3] = -turn @ ((np.array(SHAPE) - 1) / 2)
    return affine


def ring(affine):
    """Tangents (axes of the scanner) and anisotropy of a ring of fibres in a tilted plane."""
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing='ij'), -1)
    points = index @ affine[:3, :3].T + affine[:3, 3]
    plane = rigid((35, 20, 0))[:3, :3]
    x, y, z = np.moveaxis(points @ plane, -1, 0)
    radius = np.hypot(x, y)
    fa = 0.8 * np.exp(-((radius - 16) ** 2 + z**2) / 50)
    tangent = np.stack([-y, x, 0 * z], -1) / np.maximum(radius, 1e-6)[..., None]
    return (tangent @ plane.T).astype(np.float32), fa.astype(np.float32)


def tensor_of(vectors):
    """v v' - I / 3 (6, ...)."""
    return np.stack([vectors[..., a] * vectors[..., b] - (a == b) / 3 for a, b in COMPONENTS])


def axes(affine, frame):
    """Stored vectors @ this = vectors of the scanner."""
    return to_scanner(np.eye(3, dtype=np.float32), affine, frame)


@pytest.mark.parametrize('left', [True, False])
def test_the_right_frame_is_told_from_wrong_ones(left):
    affine = affine_of(left=left)
    vectors, fa = ring(affine)
    for true in FRAMES:
        stored = vectors @ axes(affine, true).T
        np.testing.assert_allclose(to_scanner(stored, affine, true), vectors, atol=1e-5)
        check_frame(stored, fa, affine, true, 'V1.nii')
        for read in FRAMES:
            if not np.allclose(axes(affine, true), axes(affine, read)):
                with pytest.raises(UserError, match=f'V1.nii: read in the frame {read}.*state frame='):
                    check_frame(stored, fa, affine, read, 'V1.nii')


def test_swapped_and_reversed_axes_are_refused():
    affine = affine_of(left=True)
    vectors, fa = ring(affine)
    stored = vectors @ axes(affine, 'fsl').T
    wrong = 0
    for order in permutations(range(3)):
        for signs in product((1, -1), repeat=2):
            if (order, signs) != ((0, 1, 2), (1, 1)):
                with pytest.raises(UserError, match=r'correct the gradient table|state frame='):
                    check_frame(stored[..., order] * (1, *signs), fa, affine, 'fsl', 'V1.nii')
                wrong += 1
    assert wrong == 23


def test_what_few_or_odd_fibres_say_of_frames_is_no_proof():
    """Directions of nothing, and a crop that another reading suits a little better by chance."""
    rng = np.random.default_rng(4)
    affine = affine_of(left=False)
    vectors, fa = ring(affine)
    odd = rng.standard_normal(vectors.shape).astype(np.float32)
    odd /= np.linalg.norm(odd, axis=-1, keepdims=True)
    assert check_frame(vectors @ axes(affine, 'fsl').T, fa, affine, 'fsl', 'V1.nii')
    for frame in FRAMES:
        assert not check_frame(odd, fa, affine, frame, 'V1.nii')
    # two pieces agree, of which each could be all that is white by chance
    few = np.where(np.indices(SHAPE)[0] < 8, fa, 0)
    check_frame((vectors + 0.5 * odd) @ axes(affine, 'fsl').T, few, affine, 'fsl', 'V1.nii')


def test_directions_turn_with_the_transform():
    affine = affine_of(left=False)
    vector = np.array([0.6, 0.0, 0.8], np.float32)
    field, fa = np.broadcast_to(vector, (*SHAPE, 3)), np.full(SHAPE, 0.5, np.float32)
    turn = rigid((40, 5, -30), (1, 2, 3))
    # some scale and shear of an affine registration do not count
    for to_image in (
        [turn],
        [rigid((0, 0, -30)), np.linalg.inv(rigid((0, 0, -30))), turn @ np.diag([1.1, 1, 0.9, 1])],
    ):
        found = carry(fibres_of(-field, fa, 'V1.nii'), fa, affine, SHAPE, affine, to_image)
        inside = found.fa > 0.49
        assert inside.sum() > 1000
        expected = turn[:3, :3].T @ vector
        assert np.abs(found.principal()[inside] @ expected).min() > 0.9999
        np.testing.assert_allclose(found.squared_cosine((0, 0, 1))[inside], expected[2] ** 2, atol=1e-3)
        along = tensor_of(expected[None])[:, 0] * anisotropy_of(np.float32(0.5))
        np.testing.assert_allclose(found.tensor[:, inside].T, np.tile(along, (inside.sum(), 1)), atol=1e-3)
    assert found.squared_cosine((0, 0, 1))[~(found.fa > 0)] == pytest.approx(1 / 3)


def test_anisotropy_that_was_not_measured_is_none():
    """Beyond the slab, and where it is 0 or NaN; its edge is not less than the rest."""
    affine = affine_of(left=False)
    field, fa = np.broadcast_to(np.float32([1, 0, 0]), (*SHAPE, 3)), np.full(SHAPE, 0.5, np.float32)
    fa[:4], fa[4:8] = 0, np.nan
    fibres = Fibres(field, np.ones((6, *SHAPE), np.float32))
    found = carry(fibres, fa, affine, SHAPE, affine, [rigid((0, 0, 0), (0, 0, 9))])
    known = np.isfinite(found.fa)
    assert 0.3 < known.mean() < 0.75
    assert found.fa[known] == pytest.approx(0.5, abs=1e-3)
    np.testing.assert_allclose(found.tensor[:, known], 1, atol=1e-3)
    assert not found.tensor[:, ~known].any()


@pytest.fixture(scope='module')
def crossing():
    """Tensor (mm^2/s) of a ring, and of a second bundle in a third of its voxels; anisotropy as of a fit."""
    affine = affine_of(left=False)
    first, fa = ring(affine)
    share = np.where(np.indices(SHAPE)[0] % 3 == 0, 0.4, 0.0) * (fa > 0.05)
    second = np.broadcast_to(np.float32([0.6, 0, 0.8]), first.shape)
    shape = (1 - share) * tensor_of(first) + share * tensor_of(second)
    tensor = 2.1e-3 * (
        0.5 * (fa > 0.05) * shape + (np.array([a == b for a, b in COMPONENTS]) / 3)[:, None, None, None]
    )
    size = size_of(0.5 * (fa > 0.05) * shape)
    return first, second, share, tensor, (size * np.sqrt(3 / (1 + 2 * size**2))).astype(np.float32)


@pytest.mark.parametrize('software', ORDERS)
def test_the_order_of_a_tensor_is_told_and_its_bundles_add_up(software, crossing):
    first, _, share, tensor, fa = crossing
    stored = np.empty((*SHAPE, 6))
    stored[..., ORDERS[software]] = np.moveaxis(tensor, 0, -1)
    intent = SYMMETRIC if software == 'DIPY' else 0
    # in any unit, and as NIfTI has tensors
    found = fibres_of(1e3 * stored[..., None, :], fa, 'tensor.nii', intent=intent)
    expected = tensor / tensor[[0, 3, 5]].sum(0)
    expected[[0, 3, 5]] -= 1 / 3
    np.testing.assert_allclose(found.tensor, expected, atol=1e-5)
    alone = (fa > 0.3) & (share == 0)
    assert np.abs((found.vectors * first).sum(-1))[alone].min() > 0.999
    if software == 'MRtrix':
        with pytest.raises(UserError, match='the lower triangle, which its header states'):
            fibres_of(stored, fa, 'tensor.nii', intent=SYMMETRIC)
        with pytest.raises(UserError, match='differs from that of the map beside it by'):
            fibres_of(stored, np.where(fa > 0.3, 0.9, 0), 'tensor.nii')


def test_all_peaks_of_a_voxel_count(crossing):
    first, second, share, _, fa = crossing
    peaks = 0.2 * np.concatenate([(1 - share)[..., None] * first, share[..., None] * second], -1)
    peaks[share == 0, 3:] = np.nan
    found = fibres_of(peaks, fa, 'peaks.nii', amplitudes=True)
    there = fa > 0.3
    np.testing.assert_allclose(found.vectors[there], first[there], atol=1e-5)
    shape = (1 - share) * tensor_of(first) + share * tensor_of(second)
    expected = shape * anisotropy_of(fa) / np.maximum(size_of(shape), 1e-6)
    np.testing.assert_allclose(found.tensor[:, there], expected[:, there], atol=1e-5)
    assert not found.tensor[:, fa < 0.2].any()
    frame = fibres_in_scanner(found, affine_of(left=False), 'fsl')
    turn = axes(affine_of(left=False), 'fsl').T
    np.testing.assert_allclose(frame.tensor, turned(found.tensor, turn), atol=1e-6)
    np.testing.assert_allclose(frame.vectors, found.vectors @ turn.T, atol=1e-6)


def test_what_holds_no_directions_is_refused():
    vectors, fa = ring(affine_of(left=False))
    for stored, anisotropy, said in (
        (vectors[..., :2], fa, 'V1.nii is 28 x 30 x 26 x 2'),
        (vectors[1:], fa, 'on the same grid'),
        (vectors * fa[..., None], fa, 'vectors of length'),
        (vectors, 0.1 * fa, 'hardly anywhere above 0.3'),
        (
            np.concatenate([vectors, -vectors], -1),
            fa,
            'no diffusion tensor in the order of FSL, MRtrix or DIPY',
        ),
    ):
        with pytest.raises(UserError, match=said):
            fibres_of(stored, anisotropy, 'V1.nii')
