import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_qsm.errors import UserError
from bids_qsm.interfaces.regions import RegionTable

SHAPE = (16, 12, 10)
AFFINE = np.diag([-1.0, 1.5, 2.0, 1])


@pytest.fixture
def files(tmp_path):
    def write(name, data, affine=AFFINE):
        nib.save(nib.Nifti1Image(data, affine), tmp_path / name)
        return str(tmp_path / name)

    dseg = np.zeros(SHAPE, np.int16)
    dseg[2:8, 2:8, 2:8] = 1
    white = np.zeros(SHAPE, np.uint8)
    white[10:] = 1
    labels = pd.DataFrame(
        {'index': [1, 2], 'name': ['L_GPe', 'R_GPe'], 'hemisphere': ['L', 'R'], 'region': ['GPe', 'GPe']}
    )
    labels.to_csv(tmp_path / 'dseg.tsv', sep='\t', index=False)
    (tmp_path / 'reference.json').write_text(json.dumps({'ReferenceRegion': 'CSF of the ventricles'}))
    atlas = np.zeros((20, 20, 20), np.int16)
    atlas[:6, :6, :9], atlas[10:16, :6, :9] = 1, 2
    return {
        'chi': write('chi.nii.gz', np.full(SHAPE, 0.1234567, np.float32)),
        'r2star': write('r2star.nii.gz', np.full(SHAPE, 40, np.float32)),
        'dseg': write('dseg.nii.gz', dseg),
        'labels': str(tmp_path / 'dseg.tsv'),
        'atlas_dseg': write('atlas.nii.gz', atlas, np.diag([1.0, 1, 2, 1])),
        'mask': write('mask.nii.gz', np.ones(SHAPE, np.uint8)),
        'white_matter': write('white.nii.gz', white),
        'reference': str(tmp_path / 'reference.json'),
    }


def test_table_and_dictionary(files, tmp_path):
    outputs = RegionTable(**files, atlas='nuclei').run(cwd=str(tmp_path)).outputs
    text = [line.split('\t') for line in Path(outputs.table).read_text().splitlines()]
    table = pd.DataFrame(text[1:], columns=text[0])
    assert list(json.loads(Path(outputs.dictionary).read_text())) == text[0]
    found = table.set_index(['region', 'hemisphere', 'map'])
    left = found.loc[('GPe', 'L', 'chi')]
    assert (left['mean'], left['index'], left['volume_mm3']) == ('0.12346', '1', '648.0')
    assert left['reference'] == 'CSF of the ventricles'
    assert found.loc[('GPe', 'R', 'chi')]['mean'] == 'n/a'
    assert found.loc[('GPe', 'both', 'chi')][['index', 'coverage']].tolist() == ['n/a', '0.5']
    white = found.loc[('White matter', 'both', 'R2star')]
    assert white[['index', 'n_voxels', 'units', 'mean', 'mean_pv']].tolist() == [
        'n/a',
        '720',
        '1/s',
        '40.0',
        'n/a',
    ]
    assert found.loc[('CSF', 'both', 'chi')]['mean'] == 'n/a'
    assert found.loc[('GPe', 'R', 'chi')]['note'] == 'outside the field of view'


def test_susceptibility_alone(files, tmp_path):
    needed = {name: files[name] for name in ('chi', 'dseg', 'labels', 'mask')}
    table = pd.read_csv(RegionTable(**needed).run(cwd=str(tmp_path)).outputs.table, sep='\t')
    assert set(table['map']) == {'chi'}


def test_labels_of_another_grid_are_refused(files, tmp_path):
    files['dseg'] = files['atlas_dseg']
    with pytest.raises(UserError, match='resample it first'):
        RegionTable(**files).run(cwd=str(tmp_path))
