import nibabel as nib
import numpy as np
import pytest

from bids_qsm.anatomy import atlas

AFFINE = nib.affines.from_matvec(np.eye(3), (-45, -80, -50))
SHAPE = (91, 121, 91)


@pytest.fixture(scope='module')
def drawn():
    return atlas.nuclei_atlas(SHAPE, AFFINE)


def test_regions_have_the_names_that_tables_and_reports_use(drawn):
    _, labels = drawn
    assert {
        'SNc', 'SNr', 'GPe', 'GPi', 'RN', 'STN', 'Putamen', 'Caudate', 'Thalamus', 'Dentate'
    } <= set(labels.region)  # fmt: skip
    assert labels['index'].is_unique
    assert labels.name.is_unique
    assert set(labels.hemisphere) == {'L', 'R'}


def test_volumes_match_the_table_where_nuclei_do_not_touch(drawn):
    dseg, labels = drawn
    assert dseg.dtype == np.int16
    volume = atlas.table().groupby('index').volume_mm3.sum()
    for region in ('RN', 'STN', 'GPi', 'Thalamus', 'Dentate', 'SNr'):
        for index in labels[labels.region == region]['index']:
            assert (dseg == index).sum() == pytest.approx(volume[index], rel=0.1), region


def test_hemispheres_lie_on_their_sides_and_mirror_each_other(drawn):
    dseg, labels = drawn
    x = nib.affines.apply_affine(AFFINE, np.argwhere(np.ones(SHAPE, bool)))[:, 0].reshape(SHAPE)
    for row in labels.itertuples():
        assert np.sign(x[dseg == row.index].mean()) == (1 if row.hemisphere == 'R' else -1), row.name


def test_any_grid_shows_the_same_nuclei():
    oblique = nib.affines.from_matvec(
        nib.eulerangles.euler2mat(0.2, -0.1, 0.3) * (2, -2, 2.5), (-60, 70, -60)
    )
    dseg, labels = atlas.nuclei_atlas((60, 70, 50), oblique)
    index = labels.query("region == 'Putamen' and hemisphere == 'R'")['index'].item()
    centre = nib.affines.apply_affine(oblique, np.argwhere(dseg == index)).mean(0)
    assert centre == pytest.approx((25.6, 2.5, 0.2), abs=1.5)


def test_overlap_goes_to_the_nearer_centre():
    nucleus = next(e for e in atlas.ellipsoids() if e.region == 'RN')
    assert atlas.classify(nucleus.centre) == nucleus.index
    assert atlas.classify([[500.0, 0, 0]]) == [0]
    assert nucleus.distance(nucleus.centre + nucleus.reach).min() > 1
