from itertools import permutations

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial import KDTree

from bids_qsm.biomarkers.veins import find_veins
from bids_qsm.recon.grid import Grid
from tests.biomarkers.vein_maps import BLOOD, TREE, make_maps

MAPS = ('chi', 'swi', 'r2star')


def find(head, **changed):
    """Veins of a head."""
    given = {**head, **changed}
    images = (given[name] for name in (*MAPS, 'mask', 'dseg'))
    return find_veins(*images, given['affine'], given['grid'], given.get('to_template', ()))


@pytest.fixture(scope='module')
def head():
    return make_maps()


@pytest.fixture(scope='module')
def veins(head):
    return find(head)


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def test_veins_are_found_and_nothing_else(head, veins):
    truth = head['share']
    assert dice(veins.mask, truth >= 0.5) > 0.8
    centre = np.concatenate([s.points for s in TREE])
    at = nib.affines.apply_affine(np.linalg.inv(head['affine']), centre).round().astype(int)
    centre = centre[head['mask'][tuple(at.T)]]
    found = np.concatenate([s.points for s in veins.segments])
    assert (KDTree(found).query(centre)[0] < 1.0).mean() > 0.85
    assert (KDTree(centre).query(found)[0] < 0.6).mean() > 0.95
    nucleus = head['dseg'] > 0
    assert not (veins.mask & nucleus & (truth < 0.1)).any()
    assert veins.share[veins.mask].mean() == pytest.approx(truth[veins.mask].mean(), abs=0.12)


def test_each_segment_has_its_size_and_direction(head, veins):
    assert [one.number for one in veins.segments] == list(range(1, len(veins.segments) + 1))
    matched = []
    for vein in TREE:
        middle = vein.points[10 if vein.diameter > 2 else 28]
        one = min(veins.segments, key=lambda s: np.linalg.norm(s.points - middle, axis=1).min())
        at = np.argmin(np.linalg.norm(one.points - middle, axis=1))
        along = vein.points[-1] - vein.points[0]
        along /= np.linalg.norm(along)
        assert abs(one.direction[at] @ along) > 0.95
        assert one.tilt_deg[at] == pytest.approx(vein.tilt, abs=8)
        assert one.diameter_mm[at] == pytest.approx(vein.diameter, abs=0.35)
        inverse = np.linalg.inv(head['affine'])
        np.testing.assert_allclose(one.points @ inverse[:3, :3].T + inverse[:3, 3], one.voxels, atol=1e-6)
        matched.append(one.number)
        assert one.tortuosity < 1.1
    assert veins.blood_from in ('measured', 'assumed')
    assert veins.blood_chi == pytest.approx(BLOOD, rel=0.2)
    # the branch meets the trunk
    assert any(min(one.ends) > 0 or max(one.ends) > 0 for one in veins.segments)
    assert set(np.unique(veins.skeleton)) == {0, *range(1, len(veins.segments) + 1)}


def stored(data, axes, flips):
    """The same volume with its axes in another order and direction."""
    data = np.transpose(data, axes)
    for axis, flip in enumerate(flips):
        data = np.flip(data, axis) if flip else data
    return np.ascontiguousarray(data)


@pytest.mark.parametrize(
    ('axes', 'flips'), list(zip(permutations(range(3)), np.ndindex(2, 2, 2), strict=False))
)
def test_the_result_does_not_depend_on_how_the_file_is_stored(head, veins, axes, flips):
    shape = head['mask'].shape
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for new, old in enumerate(axes):
        turn[old, new] = -1 if flips[new] else 1
        turn[old, 3] = shape[old] - 1 if flips[new] else 0
    affine = head['affine'] @ turn
    given = {name: stored(head[name], axes, flips) for name in (*MAPS, 'mask', 'dseg')}
    again = find(given, affine=affine, grid=Grid.from_affine(given['mask'].shape, affine))
    assert np.array_equal(again.mask, stored(veins.mask, axes, flips))
    assert np.array_equal(again.numbers, stored(veins.numbers, axes, flips))
    np.testing.assert_allclose(again.share, stored(veins.share, axes, flips), atol=1e-5)
    for one, other in zip(again.segments, veins.segments, strict=True):
        np.testing.assert_allclose(one.points, other.points, atol=1e-4)
        np.testing.assert_allclose(one.tilt_deg, other.tilt_deg, atol=1e-3)


def test_an_oblique_slab_has_the_same_veins(head, veins):
    """The same volume elsewhere and turned: only coordinates and angles to B0 differ."""
    turned = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2, 0.1, -0.15), (5, -3, 8)) @ head['affine']
    again = find(head, affine=turned, grid=Grid.from_affine(head['mask'].shape, turned))
    assert np.array_equal(again.mask, veins.mask)
    move = turned @ np.linalg.inv(head['affine'])
    for one, other in zip(again.segments, veins.segments, strict=True):
        np.testing.assert_allclose(one.points, nib.affines.apply_affine(move, other.points), atol=1e-4)
        assert one.diameter_mm == pytest.approx(other.diameter_mm, abs=1e-3)


@pytest.mark.parametrize('lost', [('r2star',), ('r2star', 'swi'), ('chi', 'r2star')])
def test_maps_may_be_missing(head, lost):
    veins = find(head, **dict.fromkeys(lost))
    truth = head['share'] >= 0.5
    assert (veins.mask & truth).sum() > (0.7 if 'chi' not in lost else 0.5) * truth.sum()
    assert np.isnan(veins.blood_chi) == ('chi' in lost)


def test_nothing_is_found_in_noise_or_an_empty_mask():
    head = make_maps(tree=(), seed=3)
    assert find(head).mask.sum() <= 10
    assert not find(head, mask=np.zeros_like(head['mask'])).segments
    # tubes of the opposite sign are no veins
    head = make_maps()
    opposite = {'chi': -head['chi'], 'r2star': None, 'swi': None}
    assert find(head, **opposite).mask.sum() <= 0.02 * (head['share'] > 0.5).sum()
