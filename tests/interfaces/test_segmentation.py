import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_qsm.errors import UserError
from bids_qsm.interfaces.segmentation import ReadSegmentation

AFFINE = np.array([[-1.0, 0, 0, 5], [0, 0, 1, -3], [0, -1, 0, 2], [0, 0, 0, 1]])


@pytest.fixture
def aseg(tmp_path):
    data = np.zeros((5, 6, 7), np.int32)
    data[1], data[2], data[3] = 12, 51, 999
    nib.save(nib.MGHImage(data, AFFINE), tmp_path / 'aseg.mgz')
    return tmp_path / 'aseg.mgz', data


def read(tmp_path, **inputs):
    return ReadSegmentation(**{k: str(v) for k, v in inputs.items()}).run(cwd=str(tmp_path)).outputs


def test_freesurfer(aseg, tmp_path):
    path, data = aseg
    outputs = read(tmp_path, dseg=path, names='freesurfer')
    image = nib.load(outputs.dseg)
    assert np.array_equal(np.asanyarray(image.dataobj), data)
    assert np.allclose(image.affine, AFFINE)
    labels = pd.read_csv(outputs.labels, sep='\t', keep_default_na=False)
    assert labels.values.tolist() == [
        [12, 'Left-Putamen', 'L', 'Putamen'],
        [51, 'Right-Putamen', 'R', 'Putamen'],
        [999, 'label-999', '', 'label-999'],
    ]


def test_bids_table(aseg, tmp_path):
    path, _ = aseg
    table = tmp_path / 'dseg.tsv'
    table.write_text('index\tname\tcolor\n12\tleft RN\t#ffffff\n51\tNA\t#000000\n')
    labels = pd.read_csv(read(tmp_path, dseg=path, table=table).labels, sep='\t', keep_default_na=False)
    assert labels['region'].tolist() == ['RN', 'NA', 'label-999']


@pytest.mark.parametrize(
    ('value', 'says'), [(0.4, 'are no labels'), (-2, 'are no labels'), (0, 'holds no label')]
)
def test_images_that_are_no_segmentation(tmp_path, value, says):
    path = tmp_path / 'dseg.nii.gz'
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), value, np.float32), np.eye(4)), path)
    with pytest.raises(UserError, match=says):
        read(tmp_path, dseg=path)
