import base64

import nibabel as nib
import numpy as np
import pytest

from bids_qsm.plotting.layers import ShownLabels, ShownMap, coarser, joined, pack_layers
from bids_qsm.plotting.maps import Look
from bids_qsm.plotting.volumes import NOTHING, unpacked

AFFINE = np.diag([-2.0, 2, 2.5, 1])
CHI = Look('Susceptibility', 'ppm', window=(-0.1, 0.2))
SHARE = Look('Share', '1', 'inferno', (0.0, 1.0))


@pytest.fixture(scope='module')
def head():
    """Mask, a noisy map and labels."""
    mask = np.zeros((40, 44, 32), bool)
    mask[4:-4, 4:-4, 4:-4] = True
    data = np.random.default_rng(0).normal(0.05, 0.05, mask.shape).astype(np.float32)
    labels = np.zeros(mask.shape, np.int16)
    labels[20:30, 20:30, 10:20] = 4
    return mask, data, labels


def packed(head, room, looks=(CHI, CHI), **settings):
    mask, data, labels = head
    maps = [ShownMap(f'map{i}', data, look) for i, look in enumerate(looks)]
    return pack_layers(maps, [ShownLabels('dseg', 'Regions', labels)], mask, AFFINE, room=room, **settings)


def size(pack):
    return sum(len(one['data']) for one in (*pack['maps'], *pack['labels']))


def test_maps_of_a_series_become_coarser_and_stay(head):
    whole = size(packed(head, 10**9))
    for share in (1.0, 0.4, 0.05):
        pack = packed(head, int(share * whole))
        assert size(pack) <= share * whole
        assert ([one['key'] for one in pack['maps']], pack['left_out']) == (['map0', 'map1'], [])
        assert bool(joined(pack['maps'])) == (share < 1)
    assert joined(pack['maps'])[0].startswith('(2 x 2 x 2.5 mm) were joined to ')
    assert 'in steps of 0.001 ppm' not in pack['maps'][0]['precision']


def test_maps_of_an_application_are_left_out_before_labels(head):
    looks = (CHI, SHARE, CHI)
    settings = {'looks': looks, 'may_leave_out': True}
    whole = packed(head, 10**9, **settings)
    assert [one['precision'] for one in whole['maps'][:2]] == [
        'Susceptibility in steps of 0.001 ppm', 'Share in steps of 0.002'
    ]  # fmt: skip
    some = packed(head, size(whole) // 16, **settings)
    assert size(some) <= size(whole) // 16
    assert 0 < len(some['maps']) < 3
    assert len(some['left_out']) == 3 - len(some['maps'])
    assert [one['title'] for one in some['labels']] == ['Regions']
    # voxels that were joined hold the mean, where they are
    assert len(whole['maps'][0]['affine']) == 4
    spacing = nib.affines.voxel_sizes(np.array(some['maps'][0]['affine']))
    assert spacing.max() > 2.5
    none = packed(head, 0, **settings)
    assert (none['maps'], none['labels'], len(none['left_out'])) == ([], [], 4)


def test_a_mask_bounds_what_is_shown(head):
    mask, data, labels = head
    beyond = np.where(mask, data, 9.0)
    pack = pack_layers([ShownMap('x', beyond, Look('X', 'arbitrary'))], [], mask, AFFINE, room=10**9)
    (one,) = pack['maps']
    assert one['high'] < 1
    assert (one['unit'], one['precision']) == ('', 'other images in 250 grey values')
    nothing = ShownLabels('none', 'Nothing', np.zeros_like(labels))
    assert pack_layers([], [nothing], mask, AFFINE, room=10**9)['labels'] == []


def test_packed_layers_become_coarser(head):
    pack = packed(head, 10**9)
    for one in (pack['maps'][0], pack['labels'][0]):
        half = coarser(one)
        assert len(half['data']) < 0.8 * len(one['data'])
        fine, coarse = (unpacked(base64.b64decode(x['data']), x['shape']).astype(float) for x in (one, half))
        pair = [fine.take(range(start, fine.shape[0], 2), 0) for start in (0, 1)]
        pair = [np.where(x == NOTHING, y, x) for x, y in (pair, pair[::-1])]
        expected = np.mean(pair, axis=0) if one['step'] else np.maximum(*pair)
        assert np.abs(coarse - expected).max() <= 0.5
        at = np.array(half['affine']) @ [3, 4, 5, 1]
        assert at == pytest.approx(np.array(one['affine']) @ [6.5, 4, 5, 1])
        assert np.array(half['inverse']) @ at == pytest.approx([3, 4, 5, 1])
    assert joined([half | {'symbol': 'X'}]) == ['(2 x 2 x 2.5 mm) were joined to 4 x 2 x 2.5 mm in X']


def test_labels_may_be_large_and_missing():
    mask = np.ones((6, 6, 6), bool)
    dseg = np.zeros(mask.shape)
    dseg[1, 1, 1], dseg[2, 2, 2], dseg[3, 3, 3], dseg[4, 4, 4] = np.nan, np.inf, 3_000_000_000, 7
    shown = ShownLabels('dseg', 'Regions', dseg, stem='x')
    pack = pack_layers([], [shown], mask, np.eye(4), room=10**9)
    assert pack['labels'][0]['names'] == ['7', '3000000000']
    assert pack['places']['x'] == [['7', '', '4.00 4.00 4.00'], ['3000000000', '', '3.00 3.00 3.00']]
