import numpy as np
import pytest

from bids_qsm.anatomy.align import coarsen
from bids_qsm.anatomy.no_head import why_no_head
from tests.anatomy.heads import magnitude

MM = (np.moveaxis(np.indices((56, 56, 44)), 0, -1) - (28, 28, 22)) * 4.0
AFFINE = np.diag([4.0, 4, 4, 1])


def noisy(image):
    rng = np.random.default_rng(0)
    return np.hypot(image + 0.02 * rng.standard_normal(image.shape), 0.02 * rng.standard_normal(image.shape))


def test_a_crop_is_no_head():
    image, _, truth = magnitude()
    corner = np.argwhere(truth).mean(0).astype(int)
    part = tuple(slice(c - 5, c + 6) for c in corner)
    assert 'less than a head' in why_no_head(*coarsen(image[part], np.diag([3.0, 3, 3, 1]), 4.0))


@pytest.mark.parametrize('shading', [0.0, 0.8, -1.2])
def test_a_water_phantom_is_no_head(shading):
    away = np.sqrt((MM**2).sum(-1))
    ball = (away < 80) * np.exp(shading * (away / 80) ** 2)
    assert 'water phantom' in why_no_head(noisy(ball).astype(np.float32), AFFINE)


@pytest.mark.parametrize(
    'settings',
    [{}, {'stripped': True}, {'fov': (204.0, 240.0, 42.0), 'shift': (0, 0, 5)}, {'snr': 6.0}],
    ids=['head', 'stripped', 'slab', 'noisy'],
)
def test_a_head_is_one(settings):
    image, affine, _ = magnitude(**settings)
    assert why_no_head(*coarsen(image, affine, 4.0)) is None
