import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nipype.interfaces.base import isdefined

from bids_qsm.anatomy.transform import transform_points
from bids_qsm.errors import UserError
from bids_qsm.interfaces.io import save
from bids_qsm.interfaces.refinement import RefineDeepGrey
from bids_qsm.interfaces.xfm import load_xfm, save_xfm
from tests.anatomy.brains import dice
from tests.anatomy.nuclei import AFFINE, BOX, LABELS, SHAPE, SHIFTS, STAY, dseg, susceptibility

GRE_TO_ANAT = np.eye(4)
GRE_TO_ANAT[:3, 3] = (3, -2, 1)


@pytest.fixture
def files(tmp_path):
    LABELS.to_csv(tmp_path / 'labels.tsv', sep='\t', index=False)
    return {
        'chi': save(susceptibility(SHIFTS, noise=0.01), GRE_TO_ANAT @ AFFINE, tmp_path, 'chi.nii'),
        'mask': save(np.ones(SHAPE, bool), GRE_TO_ANAT @ AFFINE, tmp_path, 'mask.nii'),
        'dseg': save(dseg(STAY), AFFINE, tmp_path, 'dseg.nii'),
        'labels': str(tmp_path / 'labels.tsv'),
        'image_to_template': save_xfm(np.eye(4), tmp_path, 'anat_to_template.txt'),
        'template_to_image': save_xfm(np.eye(4), tmp_path, 'template_to_anat.txt'),
        'gre_to_anat': save_xfm(GRE_TO_ANAT, tmp_path, 'gre_to_anat.txt'),
    }


def test_transforms_and_findings_are_written(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = RefineDeepGrey(params={'box': BOX}, **files).run().outputs
    point = np.array([[-20.0, 0, 0]])
    there = transform_points(point, load_xfm(found.refine))
    np.testing.assert_allclose(there - point, [SHIFTS['GP', 'L']], atol=0.5)
    np.testing.assert_allclose(transform_points(there, load_xfm(found.unrefine)), point, atol=0.2)
    findings = json.loads(Path(found.note).read_text())['findings']
    assert set(findings[0]) == {'what', 'found', 'action', 'evidence', 'level'}


def test_a_segmentation_of_t1w_is_taken(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = RefineDeepGrey(params={'box': BOX}, **files).run().outputs
    pallidum = np.where(
        np.isin(dseg(SHIFTS), LABELS.loc[LABELS['region'] == 'GPe', 'index']), dseg(SHIFTS), 0
    )
    files['given'] = save(pallidum, GRE_TO_ANAT @ AFFINE, tmp_path, 'given.nii')
    labels = LABELS.assign(region=LABELS['region'].replace('GPe', 'Globus Pallidus'))
    labels.to_csv(tmp_path / 'given.tsv', sep='\t', index=False)
    before = load_labels_of(plain)
    told = (
        RefineDeepGrey(params={'box': BOX}, given_labels=str(tmp_path / 'given.tsv'), **files).run().outputs
    )
    assert dice(load_labels_of(told) > 0, before > 0) > 0.9


def load_labels_of(outputs):
    return np.asarray(nib.load(outputs.dseg).dataobj)


def test_there_are_no_shares_where_nothing_was_segmented(files, tmp_path, monkeypatch):
    """So that the saving step removes those of an earlier run."""
    monkeypatch.chdir(tmp_path)
    coarse = GRE_TO_ANAT @ AFFINE @ np.diag([4.0, 4, 4, 1])
    chi = susceptibility(STAY)[::4, ::4, ::4]
    files['chi'] = save(chi, coarse, tmp_path, 'coarse.nii')
    files['mask'] = save(np.ones(chi.shape, bool), coarse, tmp_path, 'coarse_mask.nii')
    found = RefineDeepGrey(params={'box': BOX}, **files).run().outputs
    assert Path(found.dseg).exists()
    assert Path(found.labels).exists()
    assert not isdefined(found.probseg)


def test_a_mask_of_another_grid_is_one_sentence(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files['mask'] = save(np.ones((4, 4, 4), bool), AFFINE, tmp_path, 'small.nii')
    with pytest.raises(UserError, match='has shape'):
        RefineDeepGrey(**files).run()
