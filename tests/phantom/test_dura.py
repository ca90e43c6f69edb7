import numpy as np
import pytest

from bids_qsm.phantom import tissue as t
from bids_qsm.phantom.dura import draw_dura
from bids_qsm.phantom.sampling import Volume


@pytest.fixture(scope='module')
def drawn():
    """A brain that is all CSF, so that all of the dura shows."""
    volume = Volume(np.zeros((141, 161, 141, len(t.CHANNELS)), np.float32), np.array([-70.0, -105, -50]), 1.0)
    put = t.channels(volume.data)
    put['csf'][:], put['brain'][:], put['chi'][:] = 1, 1, t.TISSUES['csf'].chi
    draw_dura(volume)
    return volume, put


def test_falx_is_a_sheet_of_2_mm_above_the_straight_sinus(drawn):
    volume, put = drawn
    share = 1 - put['csf']
    y, z = (int(a - o) for a, o in zip((0, 60), volume.origin[1:], strict=True))
    assert share[:, y, z].sum() == pytest.approx(2.0, abs=0.01)
    assert put['chi'][70, y, z] == pytest.approx(t.TISSUES['dura'].chi)
    assert not share[:, y, int(20 - volume.origin[2])].any()


def test_tentorium_is_a_sheet_of_2_mm_with_a_gap_for_the_brainstem(drawn):
    volume, put = drawn
    share = 1 - put['csf']
    y = int(-75 - volume.origin[1])
    column = share[70 + 30, y, :]
    middle = volume.points(2) @ column / column.sum()
    assert column.sum() == pytest.approx(2.0, rel=0.35)  # along z, of a sheet that slopes
    assert column.sum() > 2.0
    assert -25 < middle < -10
    assert not share[70 + 10, int(-42 - volume.origin[1]), :45].any()


def test_tissue_has_no_dura():
    volume = Volume(np.zeros((31, 31, 31, len(t.CHANNELS)), np.float32), np.array([-15.0, -80, 30]), 1.0)
    put = t.channels(volume.data)
    put['white'][:], put['brain'][:] = 1, 1
    before = volume.data.copy()
    draw_dura(volume)
    assert np.array_equal(volume.data, before)
