import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_qsm.errors import UserError
from bids_qsm.templates import atlases
from bids_qsm.templates.atlases import BY_NAME, get_atlas, space_needed
from bids_qsm.templates.spaces import get_template
from tests.templates.images import write


def fill_pauli(home):
    """Three nuclei as nilearn's cache holds them: both sides in one map of probability each."""
    names = ('Pu', 'SNc', 'STH')
    maps = np.zeros((11, 6, 6, 3), np.float32)
    for n in range(3):
        maps[[1, 9], 2 * n, 2:4, n] = 0.9
    # a voxel that is more background than nucleus, and one that two nuclei share
    maps[3, 0, 0, 0] = 0.4
    maps[3, 5, 5, :2] = 0.3, 0.5
    folder = home / 'pauli_2017'
    affine = np.diag([2.0, 2, 2, 1])
    affine[0, 3] = -10
    write(folder / 'pauli_2017_prob.nii.gz', maps, affine)
    (folder / 'labels.txt').write_text(''.join(f'{n} {name}\n' for n, name in enumerate(names)))


def atlas_file(folder, name='tpl-MNI152NLin6Asym_res-01_atlas-My_dseg', table='index\tname\n'):
    dseg = write(folder / f'{name}.nii.gz', np.ones((3, 3, 3), np.int16))
    if table is not None:
        (folder / f'{name.replace("_res-01", "")}.tsv').write_text(table)
    return dseg


def test_cit168_whose_download_was_killed_is_downloaded_again(homes, monkeypatch):
    fill_pauli(homes / 'NILEARN_DATA')
    path = homes / 'NILEARN_DATA' / 'pauli_2017' / 'pauli_2017_prob.nii.gz'
    path.write_bytes(path.read_bytes()[:60])
    read_pauli = atlases._pauli

    def pauli(home):
        if home != homes / 'NILEARN_DATA':
            fill_pauli(Path(home))
        return read_pauli(home)

    monkeypatch.setattr(atlases, '_pauli', pauli)
    assert nib.load(get_atlas('CIT168', homes / 'cache').dseg).shape == (11, 6, 6)


def test_caches_go_to_ours_where_home_is_not_writable(homes, monkeypatch):
    monkeypatch.delenv('NILEARN_DATA')
    monkeypatch.setattr('os.access', lambda *_args: False)
    with pytest.raises(UserError, match=f'{homes}/cache/nilearn_data'):
        get_atlas('CIT168', homes / 'cache')


def test_nuclei_are_built_in_and_approximate(homes):
    found = get_atlas('nuclei', homes / 'cache')
    template = get_template('MNI152NLin2009aSym', homes / 'cache')
    assert found.space == template.name
    assert found.approximate
    dseg, labels = nib.load(found.dseg), pd.read_csv(found.labels, sep='\t')
    assert dseg.shape == nib.load(template.t1w).shape
    assert set(np.unique(np.asarray(dseg.dataobj))) - {0} == set(labels['index'])
    assert {'SNc', 'SNr', 'GPe', 'GPi', 'RN', 'STN', 'Thalamus', 'Dentate'} <= set(labels['region'])
    assert list(labels.columns) == ['index', 'name', 'hemisphere', 'region']


def test_cit168_of_a_filled_cache(homes):
    fill_pauli(homes / 'NILEARN_DATA')
    found = get_atlas('CIT168', homes / 'cache')
    assert (found.space, found.approximate) == ('MNI152NLin2009cAsym', False)
    labels = pd.read_csv(found.labels, sep='\t').set_index('index')
    assert labels['region'].tolist() == ['Putamen', 'Putamen', 'SNc', 'SNc', 'STN', 'STN']
    assert labels['hemisphere'].tolist() == ['L', 'R'] * 3
    dseg = np.asarray(nib.load(found.dseg).dataobj)
    np.testing.assert_array_equal(dseg[1, [0, 2, 4], 2], [1, 3, 5])
    np.testing.assert_array_equal(dseg[9, [0, 2, 4], 3], [2, 4, 6])
    assert dseg[3, 0, 0] == 0
    assert dseg[3, 5, 5] == 3
    assert get_atlas('CIT168', homes / 'cache') == found


def test_cit168_neither_cached_nor_to_be_had(homes):
    with pytest.raises(UserError, match=r'CIT168 .* NILEARN_DATA') as caught:
        get_atlas('CIT168', homes / 'cache')
    assert '\n' not in str(caught.value)


def test_the_space_that_an_atlas_asks_for_is_known_without_it(homes, tmp_path):
    """The caches are empty; what is said of an atlas is what holds once it is there."""
    cache = homes / 'cache'
    assert {name: space_needed(name, cache) for name in BY_NAME} == {
        'nuclei': '',
        'CIT168': 'MNI152NLin2009cAsym',
    }
    assert space_needed(atlas_file(tmp_path), cache) == 'MNI152NLin6Asym'
    fill_pauli(homes / 'NILEARN_DATA')
    for name in BY_NAME:
        assert get_atlas(name, cache).needed == space_needed(name, cache)


def test_atlas_by_path(tmp_path):
    table = 'index\tname\tcolor\n0\tbackground\tk\n1\tLeft-Putamen\tr\n2\tR_RN\tg\n3\tBrain-Stem\tb\n'
    dseg = atlas_file(tmp_path, table=table)
    found = get_atlas(dseg, tmp_path / 'cache')
    assert (found.name, found.space, found.dseg, found.approximate) == ('My', 'MNI152NLin6Asym', dseg, False)
    labels = pd.read_csv(found.labels, sep='\t', keep_default_na=False)
    assert labels['hemisphere'].tolist() == ['L', 'R', '']
    assert labels['region'].tolist() == ['Putamen', 'RN', 'Brain-Stem']
    date = found.labels.stat().st_mtime_ns
    assert get_atlas(str(dseg), tmp_path / 'cache').labels.stat().st_mtime_ns == date
    atlas_file(tmp_path, table='index\tname\themisphere\tregion\n1\tx\tR\tGPe\n')
    labels = pd.read_csv(get_atlas(dseg, tmp_path / 'cache').labels, sep='\t')
    assert labels.values.tolist() == [[1, 'x', 'R', 'GPe']]


def test_sides_of_an_atlas_are_known_however_written(tmp_path):
    rows = [
        f'{n}\tx\t{side}\tGPe\n' for n, side in enumerate(('Left', 'RIGHT', 'lh', 'R', 'both', ''), start=1)
    ]
    dseg = atlas_file(tmp_path, table='index\tname\themisphere\tregion\n' + ''.join(rows))
    labels = pd.read_csv(get_atlas(dseg, tmp_path / 'cache').labels, sep='\t', keep_default_na=False)
    assert labels['hemisphere'].tolist() == ['L', 'R', 'L', 'R', '', '']


def test_atlas_by_relative_path_or_link(tmp_path, monkeypatch):
    dseg = atlas_file(tmp_path, table='index\tname\n1\tx\n')
    monkeypatch.chdir(tmp_path)
    assert get_atlas(dseg.name, tmp_path / 'cache').dseg == dseg
    dseg.rename(tmp_path / 'annexed.nii.gz')
    dseg.symlink_to('annexed.nii.gz')
    assert get_atlas(dseg.name, tmp_path / 'cache').dseg == dseg


@pytest.mark.parametrize(
    ('name', 'table', 'match'),
    [
        ('atlas-My_dseg', 'index\tname\n', 'space of the atlas .* is not stated'),
        ('space-A_dseg', None, 'no label table'),
        ('space-A_dseg', 'number\tname\n1\ta\n', "no column 'index'"),
        ('space-A_dseg', 'index\tname\none\ta\n', 'not a whole number'),
    ],
)
def test_atlases_that_lack_something(tmp_path, name, table, match):
    with pytest.raises(UserError, match=match):
        get_atlas(atlas_file(tmp_path, name, table), tmp_path / 'cache')


def test_an_atlas_that_is_no_nifti_or_not_there(tmp_path):
    with pytest.raises(UserError, match="give 'nuclei'"):
        get_atlas('AAL', tmp_path)
    path = tmp_path / 'space-A_dseg.mgz'
    path.write_bytes(gzip.compress(b''))
    with pytest.raises(UserError, match='not a NIfTI'):
        get_atlas(path, tmp_path)


def probabilities(folder, maps, table='index\tname\n4\tLeft-RN\n7\tRight-RN\n'):
    path = write(folder / 'tpl-MNI152NLin6Asym_atlas-Mine_probseg.nii.gz', np.asarray(maps, np.float32))
    (folder / 'tpl-MNI152NLin6Asym_atlas-Mine_probseg.tsv').write_text(table)
    return path


@pytest.mark.parametrize('unit', [1, 1.01 / 0.9, 100], ids=['share', 'resampled', 'per cent'])
def test_an_atlas_of_probabilities(tmp_path, unit):
    maps = np.zeros((4, 3, 3, 2))
    maps[0, ..., 0], maps[1, ..., 1] = 0.9, 0.6
    # more of the second than of the first or of the background; then more background than either
    maps[2, ..., :], maps[3, ..., :] = (0.3, 0.4), (0.2, 0.3)
    path = probabilities(tmp_path, unit * maps)
    found = get_atlas(path, tmp_path / 'cache')
    labels = np.asarray(nib.load(found.dseg).dataobj)
    assert labels[:, 0, 0].tolist() == [4, 7, 7, 0]
    assert (found.name, found.space) == ('Mine', 'MNI152NLin6Asym')
    assert pd.read_csv(found.labels, sep='\t')['index'].tolist() == [4, 7]
    date = found.dseg.stat().st_mtime_ns
    assert get_atlas(path, tmp_path / 'cache').dseg.stat().st_mtime_ns == date
    # another image of the same name is another atlas
    probabilities(tmp_path, unit * maps[::-1])
    assert np.asarray(nib.load(get_atlas(path, tmp_path / 'cache').dseg).dataobj)[0, 0, 0] == 0


@pytest.mark.parametrize(
    ('maps', 'match'),
    [
        (np.full((2, 2, 2, 3), 0.1), 'has 3 volumes, but its table has 2 labels'),
        (np.full((2, 2, 2, 2), 400.0), 'are no probabilities'),
        (np.full((2, 2, 2, 2), -0.1), 'are no probabilities'),
        (np.full((2, 2, 2, 2), 0.1), 'no label is more likely than none'),
        (np.full((2, 2, 2, 2, 2), 0.1), 'has shape'),
    ],
)
def test_atlases_that_are_no_probabilities(tmp_path, maps, match):
    with pytest.raises(UserError, match=match):
        get_atlas(probabilities(tmp_path, maps), tmp_path / 'cache')


def test_a_volume_of_background_in_an_atlas_of_probabilities(tmp_path):
    maps = np.zeros((3, 2, 2, 3))
    maps[0, ..., 0], maps[1, ..., 1], maps[2, ..., 2] = 1, 1, 1
    maps[:, 0, 1, :] = np.nan
    table = 'index\tname\n0\tbackground\n4\tLeft-RN\n7\tRight-RN\n'
    found = get_atlas(probabilities(tmp_path, maps, table), tmp_path / 'cache')
    assert np.asarray(nib.load(found.dseg).dataobj)[:, 0, 0].tolist() == [0, 4, 7]
    assert np.asarray(nib.load(found.dseg).dataobj)[:, 0, 1].tolist() == [0, 0, 0]


def test_labels_with_a_last_axis_of_one(tmp_path):
    dseg = atlas_file(tmp_path, table='index\tname\n1\tx\n')
    write(dseg, np.ones((3, 3, 3, 1), np.int16))
    assert get_atlas(dseg, tmp_path / 'cache').dseg == dseg
