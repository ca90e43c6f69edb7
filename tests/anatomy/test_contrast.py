import numpy as np
import pandas as pd

from bids_qsm.anatomy.atlas import nuclei_atlas
from bids_qsm.anatomy.contrast import NUCLEI, TISSUE, body_of, prior_chi, share
from tests.anatomy.brains import SHAPE, template, template_affine

LABELS = pd.DataFrame({'index': [1, 2], 'hemisphere': ['L', 'R'], 'region': ['GPi', 'nucleus of nobody']})


def test_parts_and_long_names_are_known():
    assert {body_of(name) for name in ('SNc', 'SNr', 'Substantia nigra', 'SN')} == {'SN'}
    assert body_of('Globus_Pallidus') == 'GP'
    assert body_of('nucleus of nobody') == 'nucleus of nobody'


def test_share_of_a_finer_label_image_keeps_volume():
    fine = np.zeros((20, 20, 20), np.int16)
    fine[5:12, 6:13, 4:11] = 3
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    found = share(fine, affine, [3], (10, 10, 10), np.eye(4))
    assert abs(found.sum() - (fine == 3).sum() / 8) < 0.1 * found.sum()
    assert found.max() <= 1
    assert not share(fine, affine, [9], (10, 10, 10), np.eye(4)).any()


def test_share_at_the_edge_of_the_label_image_does_not_run_on():
    dseg = np.zeros((6, 6, 6), np.int16)
    dseg[:2] = 1
    moved = np.eye(4)
    moved[0, 3] = 4
    found = share(dseg, moved, [1], (10, 6, 6), np.eye(4))
    assert not found[:3].any()
    assert (found[4:6] == 1).all()


def test_nuclei_have_their_values_and_tissue_that_of_its_brightness():
    brain, mask = template()
    dseg, labels = nuclei_atlas(SHAPE, template_affine())
    chi = prior_chi(brain, template_affine(), mask, dseg, template_affine(), labels)
    assert chi.dtype == np.float32
    assert not chi[~mask].any()
    pallidum = np.isin(dseg, labels.loc[labels['region'].isin(['GPe', 'GPi']), 'index'])
    np.testing.assert_allclose(chi[pallidum].max(), NUCLEI['GP'][0])
    elsewhere = mask & (dseg == 0)
    bright = np.quantile(brain[elsewhere], 0.9)
    np.testing.assert_allclose(np.median(chi[elsewhere & (brain > bright)]), TISSUE['white'], atol=0.002)
    dark = np.quantile(brain[elsewhere], 0.1)
    assert np.median(chi[elsewhere & (brain < dark)]) > 0.015


def test_an_unknown_region_is_tissue():
    brain = np.full((12, 12, 12), 0.9, np.float32)
    brain[:4], brain[4:7] = 0.3, 0.6
    dseg = np.zeros(brain.shape, np.int16)
    dseg[9, 2:5, 2:5], dseg[9, 7:10, 7:10] = 1, 2
    chi = prior_chi(brain, np.eye(4), np.ones(brain.shape, bool), dseg, np.eye(4), LABELS)
    assert abs(chi[9, 3, 3] - NUCLEI['GP'][0]) < 1e-6
    assert abs(chi[9, 8, 8] - TISSUE['white']) < 1e-6
