"""The tensor of diffusion images as a step: what is said of it, and images that cannot be used."""

import json

import nibabel as nib
import numpy as np

from bids_qsm.interfaces.anatomy import RegisterRigid
from bids_qsm.interfaces.diffusion import FitTensor
from bids_qsm.interfaces.xfm import load_xfm
from bids_qsm.phantom.diffusion import spread

SHAPE = (16, 16, 16)
BVALS = np.repeat([0, 985, 1000], [1, 1, 9])


def fit(folder, images):
    bvecs = np.concatenate([np.full((1, 3), np.nan), spread(9), np.zeros((1, 3))])
    np.savetxt(folder / 'dwi.bval', BVALS[None], '%g')
    np.savetxt(folder / 'dwi.bvec', bvecs.T, '%.5f')
    nib.save(nib.Nifti1Image(images.astype(np.float32), np.diag([2.0, 2, 2, 1])), folder / 'dwi.nii.gz')
    return FitTensor(
        images=str(folder / 'dwi.nii.gz'), bval=str(folder / 'dwi.bval'), bvec=str(folder / 'dwi.bvec')
    )


def test_a_table_with_nan_is_fitted_and_its_shell_described(tmp_path):
    ball = ((np.indices(SHAPE) - 7.5) ** 2).sum(0) < 30
    step = fit(tmp_path, (1 + 99 * ball)[..., None] * np.where(BVALS > 0, np.exp(-0.7e-3 * BVALS), 1))
    found = step.run(cwd=str(tmp_path)).outputs
    tensor = nib.load(found.tensor).get_fdata()
    np.testing.assert_allclose(tensor[8, 8, 8], 0.7e-3 * np.array([1, 0, 0, 1, 0, 1]), atol=1e-6)
    said = json.loads((tmp_path / 'facts.json').read_text())['FittedHere']
    assert 'to 9 images of b = 985 to 1000 s/mm^2 and 1 without diffusion weighting, 1 with weighting' in said


def test_images_that_cannot_be_used_stop_nothing(tmp_path):
    """Those without a brain, and a file that is cut short; nobody may have asked for them."""
    for said, is_cut in (('shows no brain', False), ('cannot be read', True)):
        step = fit(tmp_path, np.zeros((*SHAPE, 11)) + is_cut * np.random.default_rng(1).random((*SHAPE, 11)))
        if is_cut:
            whole = (tmp_path / 'dwi.nii.gz').read_bytes()
            (tmp_path / 'dwi.nii.gz').write_bytes(whole[: len(whole) // 2])
        found = step.run(cwd=str(tmp_path)).outputs
        assert said in json.loads((tmp_path / 'facts.json').read_text())['Unusable']
        assert not nib.load(found.fa).get_fdata().any()
        assert nib.load(found.tensor).shape == (*SHAPE, 6)
        align = RegisterRigid(moving=found.unweighted, fixed=found.unweighted, facts=found.facts)
        assert np.array_equal(load_xfm(align.run(cwd=str(tmp_path)).outputs.xfm)[0], np.eye(4))
