"""Maps of other tools: where they hold, their noise, and images to align them by."""

import numpy as np
import pytest

from bids_qsm.recon.given import contrast, field_noise, where_given
from tests.recon.little_head import make


@pytest.fixture(scope='module')
def head():
    return make(step=3, fine=1)


def test_a_map_holds_where_it_is_not_zero(head):
    chi = np.where(head.brain, head.chi + 0.3, 0)
    middle = tuple(n // 2 for n in chi.shape)
    chi[middle] = np.nan
    found = where_given(chi, None)
    assert np.array_equal(found, head.brain)
    assert not where_given(chi, np.zeros(chi.shape, bool)).any()


@pytest.mark.parametrize('sigma', [0.005, 0.02])
def test_the_noise_of_a_field_is_found(head, sigma):
    rng = np.random.default_rng(0)
    field = head.local + sigma * rng.standard_normal(head.grid.shape).astype(np.float32)
    noise = field_noise(field, head.brain, None)
    assert noise.dtype == np.float32
    assert noise[head.brain] == pytest.approx(sigma, rel=0.25)
    magnitude = np.where(np.arange(field.shape[0])[:, None, None] % 2, 1.0, 0.5) * np.ones(field.shape)
    varying = field_noise(field, head.brain, magnitude.astype(np.float32))
    assert varying[0].mean() / varying[1].mean() == pytest.approx(2, rel=1e-3)


def test_a_smooth_field_has_some_noise(head):
    flat = np.linspace(0, 1, head.grid.shape[0], dtype=np.float32)[:, None, None] * head.brain
    assert field_noise(flat, head.brain, None).min() >= 1e-4 * flat[head.brain].std()


def test_every_map_makes_an_image_to_align(head):
    chi = contrast(head.chi, head.brain, head.grid, kind='chi')
    assert (chi[head.brain] >= 1).all()
    assert not chi[~head.brain].any()
    for kind, data in (('local_field', head.local), ('field', head.total)):
        image = contrast(data.astype(np.float32), head.brain, head.grid, kind=kind)
        inner = head.nuclei & head.brain
        assert image[inner].mean() > image[head.brain].mean() + 0.1, kind
