import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_qsm.errors import UserError
from bids_qsm.interfaces.lesions import FindCandidates, LabelLesions, LesionTable
from bids_qsm.interfaces.xfm import save_xfm

SHAPE = (30, 28, 26)
AFFINE = np.diag([-1.0, 1.0, 1.0, 1])
AFFINE[:3, 3] = (15, -14, -13)
ANAT = np.diag([2.0, 2.0, 2.0, 1])
ANAT[:3, 3] = (-16, -20, -14)


def shift(*mm):
    matrix = np.eye(4)
    matrix[:3, 3] = mm
    return matrix


@pytest.fixture
def write(tmp_path):
    def write(name, data, affine=AFFINE):
        nib.save(nib.Nifti1Image(data, affine), tmp_path / name)
        return str(tmp_path / name)

    return write


@pytest.fixture
def files(write, tmp_path):
    x, y, z = np.indices(SHAPE)
    noise = np.random.default_rng(0).standard_normal((2, *SHAPE), np.float32)
    source = np.exp(-((x - 10) ** 2 + (y - 14) ** 2 + (z - 12) ** 2) / 4)
    dseg = np.zeros(SHAPE, np.int16)
    dseg[22:26, 10:14, 10:14] = 4
    labels = {'index': [4], 'name': ['L_Lobe'], 'hemisphere': ['L'], 'region': ['Lobe']}
    pd.DataFrame(labels).to_csv(tmp_path / 'dseg.tsv', sep='\t', index=False)
    (tmp_path / 'reference.json').write_text(json.dumps({'ReferenceRegion': 'CSF'}))
    return {
        'chi': write('chi.nii.gz', (0.01 * noise[0] + 0.5 * source).astype(np.float32)),
        'r2star': write('r2star.nii.gz', (20 + noise[1] + 60 * source).astype(np.float32)),
        'mask': write('mask.nii.gz', np.ones(SHAPE, np.uint8)),
        'dseg': write('dseg.nii.gz', dseg),
        'labels': str(tmp_path / 'dseg.tsv'),
        'reference': str(tmp_path / 'reference.json'),
        'to_template': [
            save_xfm(shift(10, 0, 0), tmp_path, 'a.txt'),
            save_xfm(shift(0, 5, 0), tmp_path, 'b.txt'),
        ],
        'invert': [True, False],
    }


def read(path):
    return pd.read_csv(path, sep='\t')


def test_lesions_of_every_space_are_tabulated(files, write, tmp_path):
    """The same voxel drawn on the GRE, on a T1w image 3 mm off and on a FLAIR 4 mm off that."""
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[9:12, 13:16, 11:14] = 1
    placed = write('placed.nii.gz', drawn)
    # world of the lesion's middle: (5, 0, -1) on the GRE
    anat = np.zeros((20, 20, 20), np.uint8)
    anat[12, 10, 8] = 6
    on_anat = write('anat.nii.gz', anat, ANAT @ shift(-0.5, 0, -0.5))
    flair = write('flair.nii.gz', anat, ANAT @ shift(-0.5, 0, 1.5))
    images = [LabelLesions(mask=m).run(cwd=str(tmp_path)).outputs.labels for m in (placed,)]
    outputs = (
        LesionTable(
            **files,
            drawn=[*images, on_anat, flair],
            placed=[placed, write('six.nii.gz', 6 * drawn), write('none.nii.gz', 0 * drawn)],
            sources=['on_gre', 'on_anat', 'on_flair'],
            drawn_on=['gre', 'anat', 'flair'],
            gre_to_anat=save_xfm(shift(-3, 0, 0), tmp_path, 'gre.txt'),
            flair_to_anat=save_xfm(shift(0, 0, 4), tmp_path, 'flair.txt'),
        )
        .run(cwd=str(tmp_path))
        .outputs
    )
    table = read(outputs.table).set_index('source')
    assert table['lesion'].tolist() == [1, 6, 6]
    assert table['volume_mm3'].tolist() == [27, 8, 8]
    places = table[['x', 'y', 'z']].to_numpy().tolist()
    assert places == [[5, 0, -1], [4, 0, 1], [4, 0, 1]]
    assert table.loc['on_gre', ['template_x', 'template_y', 'template_z']].tolist() == [-5, 5, -1]
    assert table['sign'].tolist()[:2] == ['paramagnetic', 'paramagnetic']
    assert table['reason'].isna().tolist() == [True, True, False]
    assert 'lost' in table.loc['on_flair', 'reason']
    assert set(table['reference']) == {'CSF'}
    header = Path(outputs.table).read_text().splitlines()[0].split('\t')
    assert list(json.loads(Path(outputs.dictionary).read_text())) == header


def test_empty_masks_are_rows(files, write, tmp_path):
    empty = write('empty.nii.gz', np.zeros(SHAPE, np.uint8))
    del files['r2star'], files['to_template'], files['invert'], files['reference']
    numbered = LabelLesions(mask=empty).run(cwd=str(tmp_path)).outputs.labels
    table = LesionTable(**files, drawn=numbered, placed=empty, sources=['a'], drawn_on=['gre'])
    row = read(table.run(cwd=str(tmp_path)).outputs.table).iloc[0]
    assert row['reason'] == 'the mask is empty'
    assert row['volume_mm3'] == row['n_voxels'] == 0


def test_faint_probabilities_are_not_called_empty(files, write, tmp_path):
    faint = write('faint_mask.nii.gz', np.full(SHAPE, 0.4, np.float32))
    numbered = LabelLesions(mask=faint).run(cwd=str(tmp_path)).outputs
    table = LesionTable(
        **files,
        drawn=numbered.labels,
        placed=numbered.labels,
        sources=['a'],
        drawn_on=['gre'],
        empty=numbered.empty,
    )
    assert read(table.run(cwd=str(tmp_path)).outputs.table).loc[0, 'reason'] == 'nothing above one half'


def test_a_mask_is_binary_and_a_dseg_holds_labels(write, tmp_path):
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[3, 3, 3:6] = 127, 255, 64
    largest = {}
    for suffix in ('mask', 'dseg'):
        labels = LabelLesions(mask=write(f'x_{suffix}.nii.gz', drawn)).run(cwd=str(tmp_path)).outputs.labels
        largest[suffix] = np.asanyarray(nib.load(labels).dataobj).max()
    assert largest == {'mask': 1, 'dseg': 255}


def test_what_does_not_fit_is_said(files, write, tmp_path):
    small = write('small.nii.gz', np.zeros((4, 4, 4), np.uint8))
    table = LesionTable(**files, drawn=small, placed=small, sources=['a'], drawn_on=['gre'])
    with pytest.raises(UserError, match='resample it first'):
        table.run(cwd=str(tmp_path))
    table = LesionTable(**files, drawn=small, placed=files['dseg'], sources=['a', 'b'], drawn_on=['gre'])
    with pytest.raises(ValueError, match='2 sources'):
        table.run(cwd=str(tmp_path))
    files['invert'] = [True]
    with pytest.raises(ValueError, match='1 values of invert'):
        FindCandidates(**files).run(cwd=str(tmp_path))


def test_candidates(files, tmp_path):
    outputs = FindCandidates(**files).run(cwd=str(tmp_path)).outputs
    row = read(outputs.table).iloc[0]
    assert (row['kind'], row['candidate'], row['reference']) == ('microbleed', 1, 'CSF')
    np.testing.assert_allclose(row[['x', 'y', 'z']].astype(float), (5, 0, -1), atol=0.3)
    np.testing.assert_allclose(row[['template_x', 'template_y']].astype(float), (-5, 5), atol=0.3)
    image = nib.load(outputs.image)
    np.testing.assert_allclose(image.affine, AFFINE)
    assert np.asanyarray(image.dataobj)[10, 14, 12] == 1
    assert list(json.loads(Path(outputs.dictionary).read_text())) == list(read(outputs.table))
