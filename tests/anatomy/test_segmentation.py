import numpy as np
import pandas as pd
import pytest
from nilearn import datasets

from bids_qsm.anatomy import atlas
from bids_qsm.anatomy.segmentation import freesurfer, label_table, white_matter


def rows(table):
    return [tuple(row) for row in table.itertuples(index=False)]


def test_names_of_freesurfer():
    table = label_table([0, 52, 16, 1024, 9999], names='freesurfer')
    assert rows(table) == [
        (16, 'Brain-Stem', '', 'Brainstem'),
        (52, 'Right-Pallidum', 'R', 'GP'),
        (1024, 'ctx-lh-precentral', 'L', 'Cortex precentral'),
        (9999, 'label-9999', '', 'label-9999'),
    ]


def test_regions_of_freesurfer_bear_the_names_of_the_atlas():
    known = freesurfer()
    assert known['index'].is_unique
    assert known['name'].is_unique
    assert not known.duplicated(['hemisphere', 'region']).any()
    ours = set(atlas.labels()['region'])
    shared = {'Putamen', 'Caudate', 'Thalamus', 'Nucleus Accumbens'}
    assert shared <= set(known['region'])
    assert shared <= ours
    assert {'GP', 'SN'} <= set(known['region'])


def test_tissue_classes_of_bids():
    assert rows(label_table([1, 3])) == [(1, 'GM', '', 'Grey matter'), (3, 'CSF', '', 'CSF')]


def test_a_table_names_its_labels():
    table = pd.DataFrame(
        {
            'index': ['11', '10', '5', '7'],
            'name': ['Left-Caudate', 'Left-Thalamus-Proper', 'RN_R', 'ctx-rh-insula'],
        }
    )
    assert rows(label_table([5, 7, 8, 10, 11], table)) == [
        (5, 'RN_R', 'R', 'RN'),
        (7, 'ctx-rh-insula', 'R', 'Cortex insula'),
        (8, 'label-8', '', 'label-8'),
        (10, 'Left-Thalamus-Proper', 'L', 'Thalamus'),
        (11, 'Left-Caudate', 'L', 'Caudate'),
    ]


def test_columns_of_a_table_win_over_its_names():
    table = pd.DataFrame(
        {'index': [1], 'name': ['Left-Putamen'], 'hemisphere': ['rh'], 'region': ['Lentiform']}
    )
    assert rows(label_table([1], table)) == [(1, 'Left-Putamen', 'R', 'Lentiform')]


def test_unknown_names_are_an_error():
    with pytest.raises(ValueError, match='bids or freesurfer'):
        label_table([1], names='aal')


def test_white_matter_is_deep_white_matter_of_both_sides():
    t1w, mask, certain = (
        load(resolution=2)
        for load in (
            datasets.load_mni152_template,
            datasets.load_mni152_brain_mask,
            datasets.load_mni152_wm_template,
        )
    )
    found = white_matter(t1w.get_fdata(dtype=np.float32), mask.get_fdata() > 0.5, t1w.affine)
    litres = found.sum() * 8 / 1e6
    assert 0.03 < litres < 0.2
    assert np.mean(certain.get_fdata()[found] > 0.8) > 0.95
    x, y, z = (np.argwhere(found) @ t1w.affine[:3, :3].T + t1w.affine[:3, 3]).T
    assert z.min() > 0
    assert 0.7 < (x < 0).sum() / (x > 0).sum() < 1.4
    centres = np.array([e.centre for e in atlas.ellipsoids()])
    nearest = min(np.hypot(np.hypot(x - a, y - b), z - c).min() for a, b, c in centres)
    assert nearest > 10
