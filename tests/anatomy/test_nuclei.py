import numpy as np
import pytest

from bids_qsm.anatomy.contrast import body_of
from bids_qsm.anatomy.nuclei import segment
from tests.anatomy.brains import dice
from tests.anatomy.nuclei import AFFINE, BOX, LABELS, SHAPE, SHIFTS, STAY, amounts, dseg, susceptibility


def found_in(chi, mask=None, labels=LABELS, **more):
    mask = np.ones(chi.shape, bool) if mask is None else mask
    place = {'chi_chain': [], 'to_template': [], 'dseg': dseg(STAY), 'dseg_affine': AFFINE, 'box': BOX}
    return segment(chi, more.pop('affine', AFFINE), mask, labels=labels, **{**place, **more})


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
    assert np.abs(found.refine.field).max() == 0
    assert set(np.unique(found.dseg)) <= {0, *LABELS['index']}
    if what == 'voxels':
        assert (found.dseg > 0).any()
