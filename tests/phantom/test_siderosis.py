import numpy as np
import pytest

from bids_qsm.phantom import tissue as t
from bids_qsm.phantom.siderosis import LOWEST, add_sheets, scatter_sheets, sheet_share


@pytest.fixture(scope='module')
def sheets(head):
    return scatter_sheets(3, head, 2)


def test_sheets_are_iron_on_the_cortex_near_their_middle(head, sheets):
    before = t.channels(head.tissue.data)
    after = t.channels(add_sheets(head, sheets).tissue.data)
    added = after['chi'] - before['chi']
    assert added.min() >= 0
    places = head.tissue.origin + head.tissue.spacing * np.argwhere(added > 0)
    nearest = np.array([np.linalg.norm(places - s.centre, axis=1) - s.radius for s in sheets]).min(0)
    assert nearest.max() < 2 * head.tissue.spacing
    # decay comes with it, and tissue stays what it was
    assert ((after['r2star'] > before['r2star']) == (added > 0)).all()
    assert np.array_equal(after['csf'], before['csf'])
    # as much as a sheet of its thickness over the area of a disc, which sulci fold
    volume = added.sum() * head.tissue.spacing**3
    discs = sum(np.pi * s.radius**2 * s.thickness * s.chi for s in sheets)
    assert 0.3 * discs < volume < 6 * discs


def test_they_lie_apart_and_on_the_convexity(sheets):
    first, second = sheets
    gap = np.linalg.norm(np.subtract(first.centre, second.centre)) - first.radius - second.radius
    assert gap > 15
    assert min(s.centre[2] for s in sheets) > LOWEST


def test_their_share_has_their_number(head, sheets):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = head.to_scanner(np.array([sheets[1].centre]))[0] - 8
    share, owner = sheet_share(head, sheets, (8, 8, 8), affine)
    assert set(np.unique(owner)) == {0, 2}
    assert 0 < share.max() <= 1
    assert ((share > 0) == (owner > 0)).all()


def test_a_head_has_room_for_some(head):
    with pytest.raises(ValueError, match='no place is left'):
        scatter_sheets(3, head, 4, apart=150.0)
