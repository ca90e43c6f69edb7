import nibabel as nib
import numpy as np
import pytest

from bids_qsm.plotting.layers import ShownLabels, ShownMap, pack_layers
from bids_qsm.plotting.maps import Look

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
    return pack_layers(maps, [ShownLabels('Regions', labels)], mask, AFFINE, room=room, **settings)


def size(pack):
    return sum(len(one['data']) for one in (*pack['maps'], *pack['labels']))


def test_maps_of_a_series_become_coarser_and_stay(head):
    whole = size(packed(head, 10**9))
    for share in (1.0, 0.4, 0.05):
        pack = packed(head, int(share * whole))
        assert size(pack) <= share * whole
        assert ([one['key'] for one in pack['maps']], pack['left_out']) == (['map0', 'map1'], [])
        assert bool(pack['joined']) == (share < 1)
    assert pack['joined'][0].startswith('(2 x 2 x 2.5 mm) were joined to ')
    assert 'in steps of 0.001 ppm' not in pack['steps'][0]


def test_maps_of_an_application_are_left_out_before_labels(head):
    looks = (CHI, SHARE, CHI)
    settings = {'looks': looks, 'may_leave_out': True}
    whole = packed(head, 10**9, **settings)
    assert whole['steps'][:2] == ['Susceptibility in steps of 0.001 ppm', 'Share in steps of 0.002']
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
    assert (one['unit'], pack['steps']) == ('', ['other images in 250 grey values'])
    nothing = ShownLabels('Nothing', np.zeros_like(labels))
    assert pack_layers([], [nothing], mask, AFFINE, room=10**9)['labels'] == []
