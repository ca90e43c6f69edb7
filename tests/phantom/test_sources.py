"""Sources of a digital head, and fibres that they depend on."""

from dataclasses import replace

import numpy as np
import pytest

from bids_qsm.phantom.gre import Protocol
from bids_qsm.phantom.head import Lesion
from bids_qsm.phantom.sources import Relaxivity, add_sources

GRID = Protocol((3.0, 3.0, 3.0), rotation=(10, 5, 0))
BLEED = Lesion((26, -40, 24), 6.0, 0.8, kind='microbleed')
STONE = Lesion((-24, -22, 30), 6.0, -0.4, kind='calcification')


@pytest.fixture(scope='module')
def sources(head):
    kernel = Relaxivity(160.0, 120.0, turned=0.5, anisotropy=0.02, varies=0.0)
    return add_sources(head.bloodless().changed({}, (BLEED, STONE)), kernel, 3, with_fibres=True)


def test_both_sources_make_the_susceptibility_of_the_head(sources):
    place = GRID.shape, GRID.affine
    found = sources.sample(*place)
    tissue = sources.head.sample(*place, ('chi', 'brain', 'csf', 'r2star'))
    solid = (tissue['brain'] > 0.999) & (tissue['csf'] < 0.001)
    assert np.abs(found['para'] + found['dia'] - tissue['chi'])[solid].max() < 2e-3
    assert np.abs(found['r2'] + found['r2prime'] - tissue['r2star'])[solid].max() < 0.1


def test_blood_and_calcium_displace_tissue(sources):
    found = sources.sample(GRID.shape, GRID.affine)
    points = sources.head.to_template(GRID.shape, GRID.affine)
    for lesion, own, other in ((BLEED, 'para', 'dia'), (STONE, 'dia', 'para')):
        inside = lesion.signed(points) < -2.5
        assert found[own][inside].mean() == pytest.approx(lesion.chi, abs=0.01)
        assert np.abs(found[other][inside]).max() < 1e-3


def test_diffusion_shows_the_fibres_that_sources_depend_on(sources):
    fa, first, _ = sources.diffusion(GRID.shape, GRID.affine)
    found = sources.sample(GRID.shape, GRID.affine)
    np.testing.assert_allclose(np.linalg.norm(first, axis=-1), 1, atol=1e-4)
    white = fa > 0.5
    cosine = first[white][:, 2] ** 2
    across, along = cosine < 0.2, cosine > 0.8
    assert min(across.sum(), along.sum()) > 100
    dia, rate = found['dia'][white], found['r2prime'][white]
    # .02 ppm between along and across, less what crossing fibres and partial volume hide
    assert 0.004 < dia[along].mean() - dia[across].mean() < 0.02
    assert rate[across].mean() > 1.4 * rate[along].mean()
    turned = replace(sources, head=sources.head.moved((90, 0, 0), (0, 0, 0)))
    later = turned.diffusion(GRID.shape, GRID.affine)[1]
    assert np.abs(np.linalg.norm(later, axis=-1) - 1).max() < 1e-4
    with pytest.raises(ValueError, match='no fibres'):
        replace(sources, bundles=None).diffusion(GRID.shape, GRID.affine)
