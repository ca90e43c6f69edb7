from types import SimpleNamespace

import numpy as np
import pytest

from bids_qsm.anatomy.nuclei import REFINEMENT, _fluid, _unwarp
from bids_qsm.anatomy.nucleus_findings import distance_apart, tell
from bids_qsm.anatomy.nucleus_names import body_of
from bids_qsm.anatomy.nucleus_shapes import nuclei_of
from bids_qsm.anatomy.transform import Displacement, resample, resample_labels, transform_points
from bids_qsm.recon.registry import call
from tests.anatomy.brains import dice, pose
from tests.anatomy.nuclei import AFFINE, BOX, LABELS, SHAPE, SHIFTS, STAY, amounts, dseg, susceptibility


def found_in(
    chi,
    mask=None,
    *,
    affine=AFFINE,
    chain=(),
    method='segment',
    magnitude=None,
    r2star=None,
    given=None,
    atlas=None,
):
    """Find the nuclei in a susceptibility map that ``chain`` brings to the template."""
    data = {
        'chi': chi,
        'chi_affine': affine,
        'mask': np.ones(chi.shape, bool) if mask is None else mask,
        'chi_chain': list(chain),
        'to_template': [np.linalg.inv(matrix) for matrix in reversed(chain)],
        'dseg': dseg(STAY) if atlas is None else atlas,
        'dseg_affine': AFFINE,
        'labels': LABELS,
        'magnitude': magnitude,
        'r2star': r2star,
        'field_strength': 3.0,
        'given': given,
        'given_labels': LABELS,
    }
    return call(REFINEMENT[method], data, {'box': BOX})


def quality(found):
    return found.labels.set_index(['region', 'hemisphere'])


@pytest.fixture(scope='module')
def moved():
    """Segmentation of a person whose nuclei lie up to 3 mm from those of the atlas."""
    return found_in(susceptibility(SHIFTS, noise=0.01))


def test_labels_are_the_persons_own(moved):
    truth = dseg(SHIFTS)
    for row in LABELS.itertuples():
        assert dice(moved.dseg == row.index, truth == row.index) > 0.8, row.name


def overlaps(found, shifts):
    """Dice of the labels that the atlas has by the displacement, against those of a person."""
    labels, truth = resample_labels(dseg(STAY), AFFINE, SHAPE, AFFINE, [found.unrefine]), dseg(shifts)
    return {n: dice(labels == n, truth == n) for n in LABELS['index']}


def test_the_displacement_takes_the_atlas_to_the_person_and_back(moved):
    assert min(overlaps(moved, SHIFTS).values()) > 0.75
    points = np.array([[-20.0, 0, 0], [10, -12, -6]])
    there = transform_points(points, [moved.refine])
    np.testing.assert_allclose(transform_points(there, [moved.unrefine]), points, atol=0.2)
    assert 'GP L' in moved.findings[0]['found']
    assert moved.findings[0]['level'] == 'info'


def test_nuclei_that_are_in_place_stay():
    found = found_in(susceptibility(STAY, noise=0.015, seed=4))
    assert np.abs(found.refine.field).max() < 0.5
    assert min(overlaps(found, STAY).values()) > 0.85


def test_a_tilted_slab_moves_what_it_holds():
    tilt = pose((20, 5, -4), (2, -3, 1))
    grid = AFFINE.copy()
    grid[:3, 3] += (0, 0, 4)
    shape = (*SHAPE[:2], 26)
    inverse = np.linalg.inv(tilt)
    chi = resample(susceptibility(SHIFTS, noise=0.015), AFFINE, shape, tilt @ grid, [inverse])
    mask = resample(np.ones(SHAPE, np.float32), AFFINE, shape, tilt @ grid, [inverse]) > 0.99
    found = overlaps(found_in(chi, mask, affine=tilt @ grid, chain=[tilt]), SHIFTS)
    held = LABELS.loc[LABELS['region'].isin(['SNr', 'STN']), 'index']
    assert min(found[n] for n in held) > 0.7


def test_a_map_of_noise_moves_nothing_far():
    found = found_in(np.random.default_rng(1).normal(0, 0.02, SHAPE).astype(np.float32))
    assert max(np.abs(moves.field).max() for moves in (found.refine, found.unrefine)) < 0.5
    assert found.findings[-1]['level'] == 'warning'


def test_shares_tell_how_much_of_a_voxel_is_in_each_label(moved):
    assert moved.shares.shape == (*SHAPE, len(LABELS))
    assert moved.shares.dtype == np.uint8
    share = moved.shares / 255.0
    assert share.sum(-1).max() < 1.01
    true = amounts(SHIFTS)
    column = {i: n for n, i in enumerate(LABELS['index'])}
    for name in ('GPe', 'STN'):
        for i in LABELS.loc[LABELS['region'] == name, 'index']:
            assert np.abs(share[..., column[i]] - true[i]).sum() < 0.25 * true[i].sum(), name
            assert share[..., column[i]].sum() == pytest.approx(true[i].sum(), rel=0.12), name
    most = np.array([0, *LABELS['index']])[np.concatenate([0.5 + 0 * share[..., :1], share], -1).argmax(-1)]
    assert (most == moved.dseg).mean() > 0.999


def test_the_table_tells_how_each_label_was_found(moved):
    found = quality(moved)
    assert (found['source'] == 'own').all()
    assert (found['confidence'] > 0.7).all()
    for (name, side), shift in SHIFTS.items():
        region = {'SN': 'SNc', 'GP': 'GPe'}.get(name, name)
        assert found.loc[(region, side), 'moved_mm'] == pytest.approx(np.linalg.norm(shift), abs=0.5), name
    np.testing.assert_allclose(found['volume_ratio'], in_labels(1.0), rtol=0.08)


def in_labels(larger):
    """Volume of nuclei over that of their labels, which leave out what is thinner than half a voxel."""
    share, label = amounts(STAY), dseg(STAY)
    bodies = LABELS['region'].map(body_of) + LABELS['hemisphere']
    ratio = {
        body: larger * np.minimum(sum(share[i] for i in rows), 1).sum() / np.isin(label, rows).sum()
        for body, rows in LABELS['index'].groupby(bodies)
    }
    return bodies.map(ratio)


def test_the_size_of_nuclei_is_the_persons_own():
    # the same map on voxels of 1.1 mm: a head in which all is larger
    affine = np.diag([1.1, 1.1, 1.1, 1.0]) @ AFFINE
    found = quality(found_in(susceptibility(STAY), affine=affine))
    assert (found['source'] == 'own').all()
    np.testing.assert_allclose(found['volume_ratio'], in_labels(1.1**3), rtol=0.12)


def test_a_nucleus_without_contrast_keeps_the_outline_of_the_atlas():
    chi = susceptibility(SHIFTS, noise=0.005)
    index = LABELS.loc[(LABELS['region'] == 'GPe') & (LABELS['hemisphere'] == 'L'), 'index'].item()
    share = amounts(SHIFTS)[index]
    chi = np.where(share > 0, -0.02 + 0.005 * np.random.default_rng(5).standard_normal(SHAPE), chi)
    found = found_in(chi.astype(np.float32))
    assert quality(found).loc[('GPe', 'L'), ['source', 'confidence']].tolist() == ['prior', 0.0]
    assert quality(found).drop(('GPe', 'L'))['source'].eq('own').all()
    assert (found.dseg == index).sum() == pytest.approx((dseg(STAY) == index).sum(), rel=0.1)
    assert found.findings[-1]['level'] == 'warning'
    assert 'GP L (its contrast is too low' in found.findings[-1]['found']


def test_the_zero_and_the_amount_of_iron_do_not_matter(moved):
    other = found_in(2.5 * susceptibility(SHIFTS, noise=0.01) - 0.3)
    for row in LABELS.itertuples():
        assert dice(moved.dseg == row.index, other.dseg == row.index) > 0.9, row.name


@pytest.mark.parametrize('changes', [{'gain': 2.5, 'noise': 0.015}, {'zero': -0.1, 'noise': 0.03}], ids=str)
def test_other_contrasts_and_noise_give_the_same_places(changes):
    assert min(overlaps(found_in(susceptibility(SHIFTS, **changes)), SHIFTS).values()) > 0.75


def test_two_runs_agree_bit_for_bit(moved):
    again = found_in(susceptibility(SHIFTS, noise=0.01))
    np.testing.assert_array_equal(again.dseg, moved.dseg)
    np.testing.assert_array_equal(again.shares, moved.shares)


@pytest.mark.parametrize('what', ['voxels', 'view'])
def test_where_nuclei_cannot_be_seen_the_atlas_stands_and_it_is_said(what):
    chi = susceptibility(STAY)
    affine, mask = AFFINE.copy(), np.ones(SHAPE, bool)
    if what == 'voxels':
        chi, mask = chi[::4, ::4, ::4], mask[::4, ::4, ::4]
        affine[:3, :3] = 4 * np.eye(3)
    else:
        mask[:, :, :] = False
        mask[:, :5] = True
    found = found_in(chi, mask, affine=affine)
    assert found.findings[0]['level'] == 'warning'
    assert {'voxels': 'too large', 'view': 'field of view'}[what] in found.findings[0]['found']
    assert found.labels['source'].eq('prior').all()
    assert not found.refine.field.any()
    assert not found.unrefine.field.any()
    assert set(np.unique(found.dseg)) <= {0, *LABELS['index']}
    if what == 'voxels':
        assert (found.dseg > 0).any()


@pytest.mark.parametrize('maps', ['r2star', 'magnitude'])
def test_fluid_of_the_same_susceptibility_is_not_taken_in(maps):
    chi = susceptibility(STAY, gain=0.25, noise=0.003)
    inside = sum(amounts(STAY).values()) > 0.5
    fluid = np.zeros(SHAPE, bool)
    # beside the left pallidum, as high and as long
    fluid[3:9, 24:36, 21:31] = True
    fluid &= ~inside
    chi = np.where(fluid, 0.03, chi).astype(np.float32)
    noise = np.random.default_rng(8).standard_normal(SHAPE)
    known = {
        'r2star': np.where(fluid, 2.0, 20.0) + 20 * inside + noise,
        'magnitude': np.where(fluid, 0.7, 1.0) - 0.08 * inside + 0.02 * noise,
    }
    found = found_in(chi, **{maps: known[maps].astype(np.float32)})
    assert quality(found)['source'].eq('own').all()
    true = dseg(STAY)
    assert not fluid[found.dseg > 0].mean() > 0.01
    assert min(dice(found.dseg == n, true == n) for n in LABELS['index']) > 0.8


def test_rims_of_iron_are_no_fluid():
    chi = susceptibility(STAY, gain=1.5)
    inside = sum(amounts(STAY).values())
    dark = {'chi': chi, 'signal': (1 - 0.45 * inside).astype(np.float32)}
    everywhere = np.ones(SHAPE, bool)
    assert not _fluid(dark, np.ones(3), everywhere).any()
    dark['signal'][40:50, 5:12, 5:30] = 0.65
    found = _fluid(dark, np.ones(3), everywhere)
    assert found[41:49, 6:11, 6:29].all()
    assert found.sum() < 1.3 * 10 * 7 * 25
    # one echo without a magnitude tells nothing
    assert not _fluid({'chi': chi}, np.ones(3), everywhere).any()


def test_what_registration_does_to_hidden_nuclei_is_undone():
    nuclei = nuclei_of(dseg(STAY), AFFINE, LABELS)
    hidden = next(n for n in nuclei if (n.name, n.hemisphere) == ('STN', 'L'))
    points = np.stack(
        np.meshgrid(*(a + np.arange(n) for a, n in zip(BOX[0], SHAPE, strict=True)), indexing='ij'), -1
    )
    away = points - hidden.centre
    # registration takes the nucleus for one that is smaller, in a head that is larger by a tenth
    near = np.exp(-0.5 * (away**2).sum(-1, keepdims=True) / 6**2)
    local = Displacement((0.4 * near * away).astype(np.float32), AFFINE)
    head = np.diag([1 / 1.1, 1 / 1.1, 1 / 1.1, 1])
    everywhere = np.ones(SHAPE, bool)
    scale = _unwarp(nuclei, everywhere, AFFINE, [np.linalg.inv(head)], [head, local])
    assert scale == pytest.approx(1.1**3, rel=0.06)
    for n in nuclei:
        if n.name == 'GP':
            np.testing.assert_array_equal(n.rest, np.eye(3))
    # after the local stretch the rest of the way is that of the whole head
    np.testing.assert_allclose(hidden.rest, np.eye(3) / 1.33, atol=0.06)


def test_a_segmentation_of_t1w_says_where_large_nuclei_lie():
    # a pallidum 7 mm from where registration puts it, and something as large and brighter in its place
    away = {**STAY, ('GP', 'L'): (-5.0, 5.0, 1.0)}
    chi = susceptibility(away, noise=0.005)
    decoy = amounts(STAY)[LABELS.set_index('name').loc['L_GPe', 'index']]
    chi += (0.18 * decoy * (1 - amounts(away)[7])).astype(np.float32)
    index = LABELS.set_index('name').loc['L_GPe', 'index']
    given = np.where(dseg(away) == index, index, 0)
    # it is a voxel off
    given = np.roll(given, 1, 2)
    alone, told = found_in(chi), found_in(chi, given=given)
    true = dseg(away) == index
    assert dice(alone.dseg == index, true) < 0.3
    assert dice(told.dseg == index, true) > 0.75
    # one of an implausible size does not count, nor do nuclei that T1w hardly shows
    small = found_in(chi, given=np.where(np.arange(SHAPE[2]) % 4 == 0, given, 0))
    np.testing.assert_array_equal(small.dseg, alone.dseg)
    hidden = np.where(np.isin(dseg(STAY), [5, 6]), dseg(STAY), 0)
    np.testing.assert_array_equal(found_in(chi, given=np.roll(hidden, 3, 1)).dseg, alone.dseg)


def test_a_bright_piece_of_the_nigra_is_not_the_subthalamic_nucleus():
    chi = susceptibility(SHIFTS, gain=0.4, noise=0.01)
    share, index = amounts(SHIFTS), LABELS.set_index('name')['index']
    # its reticular part, of the size of the other nucleus, has four times the contrast
    chi = chi + (0.15 * share[index['R_SNr']] - 0.02 * share[index['R_STN']]).astype(np.float32)
    found, true = found_in(chi.astype(np.float32)).dseg, dseg(SHIFTS)
    both = [index['R_SNc'], index['R_SNr']]
    assert dice(found == index['R_STN'], true == index['R_STN']) > 0.6
    assert dice(np.isin(found, both), np.isin(true, both)) > 0.6


def test_nuclei_of_both_sides_may_touch():
    """That of the left, found first, does not take the place of that of the right."""
    close = {**STAY, ('STN', 'L'): (5.5, 0.0, 0.0), ('STN', 'R'): (-6.5, 0.0, 0.0)}
    chi = susceptibility(close, noise=0.005)
    found, true = found_in(chi).dseg, dseg(close)
    for n in LABELS.loc[LABELS['region'] == 'STN', 'index']:
        assert dice(found == n, true == n) > 0.7


def test_a_nucleus_that_t1w_shows_falls_back_to_its_place_there():
    chi = susceptibility(STAY, noise=0.005)
    index = LABELS.set_index('name').loc['L_GPe', 'index']
    away = {**STAY, ('GP', 'L'): (-4.0, 3.0, 0.0)}
    tissue = -0.02 + 0.005 * np.random.default_rng(5).standard_normal(SHAPE)
    chi = np.where(amounts(STAY)[index] > 0, tissue, chi).astype(np.float32)
    given = np.where(dseg(away) == index, index, 0)
    found = found_in(chi, given=given)
    assert quality(found).loc[('GPe', 'L'), 'source'] == 'prior'
    assert dice(found.dseg == index, dseg(away) == index) > 0.85


def test_a_nucleus_that_the_mask_cuts_is_not_placed_by_what_is_left():
    chi, mask = susceptibility(STAY, noise=0.005), np.ones(SHAPE, bool)
    index = LABELS.set_index('name').loc['L_GPe', 'index']
    mask[:, :, : np.argwhere(dseg(STAY) == index)[:, 2].min() + 3] = False
    given = np.where((dseg(STAY) == index) & mask, index, 0)
    np.testing.assert_array_equal(found_in(chi, mask, given=given).dseg, found_in(chi, mask).dseg)


@pytest.mark.parametrize('shift', [-4, 4])
def test_an_atlas_beside_the_midline_finds_nuclei_near_it(shift):
    # as near to the midline as red nuclei are
    close = {**STAY, ('STN', 'L'): (7.0, 0.0, 0.0), ('STN', 'R'): (-7.0, 0.0, 0.0)}
    atlas = np.roll(dseg(close), shift, 0)
    found, true = found_in(susceptibility(close, noise=0.01), atlas=atlas).dseg, dseg(close)
    for row in LABELS.itertuples():
        assert dice(found == row.index, true == row.index) > 0.75, row.name


def test_a_thalamus_like_its_surroundings_is_no_reason_to_warn():
    """Unless the other side was made out by much more, or the nuclei do not lie as in the atlas."""
    low = 'its contrast is too low'

    def said(apart=1.0, placed=None, other=None, **reasons):
        known = [SimpleNamespace(name=name, hemisphere='L', placed=placed) for name in reasons]
        quality = {
            id(n): {'source': 'prior', 'reason': reason, 'contrast': 0.004}
            for n, reason in zip(known, reasons.values(), strict=True)
        }
        if other is not None:
            known.append(SimpleNamespace(name='Thalamus', hemisphere='R'))
            quality[id(known[-1])] = {'source': 'own', 'contrast': other, 'moved_mm': 1.0}
        return [one for one in tell(known, quality, apart) if 'Not made out' in one['found']]

    def levels(**more):
        return [one['level'] for one in said(**more)]

    assert levels(Thalamus=low) == ['info']
    assert levels(Thalamus=low, GP=low) == ['info', 'warning']
    assert levels(Thalamus='it would move by 11.0 mm by itself') == ['warning']
    assert levels(Thalamus=low, other=0.013) == ['info']
    (one,) = said(Thalamus=low, other=0.030)
    assert (one['level'], 'with 26 ppb more' in one['evidence']) == ('warning', True)
    (one,) = said(Thalamus=low, apart=3.3)
    assert (one['level'], 'lie 3.3 mm from where' in one['evidence']) == ('warning', True)
    assert 'Too few nuclei' in said(Thalamus=low, apart=np.inf)[0]['evidence']
    assert levels(Thalamus=low, apart=3.3, placed=np.zeros(3)) == ['info']


def test_nuclei_that_lie_as_the_atlas_has_them_are_not_apart():
    known = [SimpleNamespace(name=name) for name in 'abcd']
    covariance = 9.0 + 1.44 * np.eye(4)  # together by 3 mm, each by 1.2 mm
    quality = {id(n): {'source': 'own', 'shift': np.array([3.0, 0, 0])} for n in known}
    assert distance_apart(known, quality, covariance) < 0.25
    quality[id(known[0])]['shift'] = np.array([3.0, 4, 0])
    assert distance_apart(known, quality, covariance) == pytest.approx(2.3, abs=0.2)
    quality[id(known[0])]['source'] = 'prior'  # where it was put says nothing
    assert distance_apart(known, quality, covariance) < 0.25
    for n in known[1:3]:
        quality[id(n)]['source'] = 'prior'
    assert distance_apart(known, quality, covariance) == np.inf
