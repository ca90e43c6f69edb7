import numpy as np
import pytest

from bids_qsm.phantom.head import CHANNELS, Lesion
from bids_qsm.phantom.lesions import scatter

PLACE = (-24.3, -22.4, 30.2)
NUMBERS = {'rims': 2, 'lesions': 2, 'calcifications': 3, 'microbleeds': 5}


def change(head, lesions):
    """What lesions change, by channel."""
    difference = head.changed({}, lesions).tissue.data - head.tissue.data
    return dict(zip(CHANNELS, np.moveaxis(difference, -1, 0), strict=True))


@pytest.fixture(scope='module')
def scattered(head):
    return scatter(3, head, **NUMBERS)


@pytest.mark.parametrize('radius', [1.0, 3.0])
def test_a_microbleed_has_the_moment_of_its_sphere_and_decays_fast(head, radius):
    difference = change(head, [Lesion(PLACE, radius, 0.6, kind='microbleed')])
    volume = 4 / 3 * np.pi * radius**3
    assert difference['chi'].sum() * head.tissue.spacing**3 == pytest.approx(0.6 * volume, rel=1e-3)
    assert difference['r2star'].sum() * head.tissue.spacing**3 == pytest.approx(82 * volume, rel=0.01)
    assert difference['t1w'].min() < 0
    assert difference['t1w'].max() <= 0


def test_kinds_have_their_signs(head):
    kinds = {
        kind: change(head, [Lesion(PLACE, 4.0, chi, kind=kind)])
        for kind, chi in (('lesion', 0.06), ('microbleed', 0.6), ('calcification', -0.4))
    }
    assert {kind: np.sign(d['chi'].sum()) for kind, d in kinds.items()} == {
        'lesion': 1,
        'microbleed': 1,
        'calcification': -1,
    }
    assert kinds['lesion']['r2star'].sum() < 0 < kinds['calcification']['r2star'].sum()
    with pytest.raises(ValueError, match='no kind of lesion'):
        Lesion(PLACE, 4.0, kind='bleed')


def test_scattered_lesions_are_what_was_asked_for(head, scattered):
    kinds = [lesion.kind for lesion in scattered]
    assert kinds == ['lesion'] * 4 + ['calcification'] * 3 + ['microbleed'] * 5
    assert [lesion.rim > 0 for lesion in scattered] == [True] * 2 + [False] * 10
    assert scatter(3, head, **NUMBERS) == scattered
    assert scatter(4, head, **NUMBERS) != scattered


def test_scattered_lesions_keep_clear_of_each_other_nuclei_veins_and_the_surface(head, scattered):
    hurt = head.changed({}, scattered)
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = (-100, -130, -90)
    shape = (100, 125, 95)
    labels = hurt.lesion_labels(shape, affine)
    assert len(np.unique(labels)) > 9  # a bleed of 1 mm may hold the centre of no voxel
    tissue = head.sample(shape, affine, ('brain', 'blood', 'csf'))
    assert tissue['brain'][labels > 0].min() > 0.99
    assert tissue['blood'][labels > 0].mean() < 0.02
    assert tissue['csf'][labels > 0].mean() < 0.25
    assert not head.labels(shape, affine)[labels > 0].any()
    for n, one in enumerate(scattered):
        for other in scattered[:n]:
            assert np.linalg.norm(np.subtract(one.centre, other.centre)) > one.radius + other.radius + 2


def test_a_full_head_is_an_error(head):
    with pytest.raises(ValueError, match='no place is left'):
        scatter(1, head, rims=400)
